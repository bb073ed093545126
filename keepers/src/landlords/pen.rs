//! Notes of an order: what an earlier call wrote, and what this one writes before it goes on.

use crate::landlord::{CallError, Notes, Steps};

/// The notes of one order.
pub(crate) struct Pen<'a> {
    steps: &'a dyn Steps,
    notes: Notes,
}

impl<'a> Pen<'a> {
    /// Goes on from what an earlier call wrote.
    pub(crate) fn new(steps: &'a dyn Steps, notes: &Notes) -> Self {
        Self { steps, notes: notes.clone() }
    }

    /// A note that is not empty.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.notes.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Stores a note, unless it says so already.
    pub(crate) async fn write_new(&mut self, name: &str, value: &str) -> Result<(), CallError> {
        if self.notes.get(name).is_some_and(|known| known == value) {
            return Ok(());
        }
        self.write(name, value).await
    }

    /// Stores a note; when this returns, it is stored, and the row was still ours.
    pub(crate) async fn write(&mut self, name: &str, value: &str) -> Result<(), CallError> {
        if !self.steps.note(name, value).await {
            return Err(lost());
        }
        self.notes.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Stores the machine's id.
    pub(crate) async fn id(&self, id: &str) -> Result<(), CallError> {
        if self.steps.id(id).await { Ok(()) } else { Err(lost()) }
    }

    /// What is written down by now.
    pub(crate) fn notes(&self) -> &Notes {
        &self.notes
    }

    /// The same, once nothing more is written.
    pub(crate) fn into_notes(self) -> Notes {
        self.notes
    }
}

fn lost() -> CallError {
    CallError::Unclear("the machine's row belongs to another keeper now".to_owned())
}
