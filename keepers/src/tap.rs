//! A seam at every step of a keeper, so that a test can stop it there. Production passes through.

use std::fmt;

use futures_util::future::BoxFuture;
use schemas::MachineId;

/// A step of a keeper: before and after every write and every control call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// What is done: `row`, `delete`, `books`, `event`, `order`, `end`, `park`, `wake`, `note`.
    pub what: &'static str,
    /// Whether it is done already.
    pub done: bool,
    /// The machine, where one is meant.
    pub machine: Option<MachineId>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let when = if self.done { "after" } else { "before" };
        write!(f, "{when} {}", self.what)
    }
}

/// Sees every step. A test's tap may never return, and end the keeper meanwhile.
pub trait Tap: Send + Sync + 'static {
    /// A step is about to be done, or is done.
    fn pass(&self, step: Step) -> BoxFuture<'_, ()>;
}

/// Lets everything pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Open;

impl Tap for Open {
    fn pass(&self, _: Step) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(()))
    }
}
