//! Notes of an order: what an earlier call wrote, and what this one writes before it goes on.

use crate::landlord::{CallError, Notes, Steps};

/// The notes of one order.
pub(super) struct Pen<'a> {
    steps: &'a dyn Steps,
    notes: Notes,
}

impl<'a> Pen<'a> {
    pub(super) fn new(steps: &'a dyn Steps, notes: &Notes) -> Self {
        Self { steps, notes: notes.clone() }
    }

    /// A note that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Stores a note; when this returns, it is stored.
    pub(super) async fn write(&mut self, name: &str, value: &str) -> Result<(), CallError> {
        if self.notes.get(name).is_some_and(|known| known == value) {
            return Ok(());
        }
        if !self.steps.note(name, value).await {
            return Err(lost());
        }
        self.notes.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Stores the machine's id.
    pub(super) async fn id(&self, id: &str) -> Result<(), CallError> {
        if self.steps.id(id).await { Ok(()) } else { Err(lost()) }
    }

    pub(super) fn notes(&self) -> &Notes {
        &self.notes
    }
}

fn lost() -> CallError {
    CallError::Unclear("the row belongs to another keeper now".into())
}
