//! What all attempts of a worker complain of alike is said now and then, not by each of them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// One line of the log in so long says that nothing can be stored, however many attempts wait; a metric counts them.
const COMPLAIN_EVERY: Duration = Duration::from_secs(30);

/// Lets a complaint of all attempts of a worker through now and then.
#[derive(Debug, Default)]
pub struct Complaints(Mutex<Option<Instant>>);

impl Complaints {
    /// Whether it is time for one.
    pub fn may(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|at| at.elapsed() >= COMPLAIN_EVERY);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}
