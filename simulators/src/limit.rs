//! How many requests a caller may send in a window of time. Nothing here awaits.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// One limit and its current window.
#[derive(Debug)]
pub(crate) struct Limit {
    most: u32,
    window: Duration,
    count: Mutex<Option<Count>>,
}

#[derive(Debug)]
struct Count {
    ends: Instant,
    taken: u32,
}

impl Limit {
    /// At most `most` requests in a window that begins with the first of them.
    pub(crate) fn new(most: u32, window: Duration) -> Self {
        Self { most, window, count: Mutex::default() }
    }

    /// Counts a request; refuses it with the seconds until the limit resets, rounded up.
    pub(crate) fn take(&self, now: Instant) -> Result<(), u64> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match &mut *count {
            Some(count) if now < count.ends => count,
            over => over.insert(Count { ends: now + self.window, taken: 0 }),
        };
        if count.taken < self.most {
            count.taken += 1;
            return Ok(());
        }
        let left = count.ends.duration_since(now);
        Err(left.as_secs() + u64::from(left.subsec_nanos() > 0))
    }
}
