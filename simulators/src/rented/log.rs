//! What was done in an account, for tests that ask whether it should have been.

use std::sync::{Mutex, PoisonError};

/// Something that a control call did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// When, in microseconds since the Unix epoch.
    pub at_us: u64,
    /// The machine's id.
    pub id: String,
    /// The order's name that the machine bears, if it bears one.
    pub mark: Option<String>,
    /// What was done.
    pub act: Act,
}

/// What was done with a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// It was ordered.
    Ordered,
    /// Its end was accepted. Repeated calls are entered again.
    Ended,
    /// Its parking was accepted.
    Parked,
    /// It was woken.
    Woken,
    /// A call changed a machine of somebody else. The text names the call.
    Touched(String),
}

/// All actions, in order.
#[derive(Debug, Default)]
pub(super) struct Log(Mutex<Vec<Action>>);

impl Log {
    pub(super) fn enter(&self, action: Action) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(action);
    }

    pub(super) fn all(&self) -> Vec<Action> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
