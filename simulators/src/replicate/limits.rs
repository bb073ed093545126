//! How many requests an account may send in a minute. Nothing here awaits.
//!
//! Replicate allows short bursts above its limits without saying how long: here a tenth of the limit, within a window
//! of a minute that begins with its first request.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::replicate::ReplicateSettings;

/// Both limits of one account.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Creating predictions.
    pub(crate) create: Limit,
    /// Everything else.
    pub(crate) other: Limit,
}

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

impl Limits {
    /// `None` when the settings lift the limits.
    pub(crate) fn new(settings: &ReplicateSettings) -> Option<Self> {
        let window = settings.scaled(Duration::from_secs(60));
        let limit =
            |most: u32| Limit { most: most.saturating_add(most / 10), window, count: Mutex::default() };
        settings
            .limits
            .then(|| Self { create: limit(settings.create_limit), other: limit(settings.other_limit) })
    }
}

impl Limit {
    /// So many requests in a window that begins with the first of them.
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

#[cfg(test)]
mod tests {
    use tokio::time;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_minute_has_its_limit_and_a_short_burst_above_it() {
        let limits = Limits::new(&ReplicateSettings::default()).unwrap();
        let taken = (0..1_000).filter(|_| limits.create.take(Instant::now()).is_ok()).count();
        assert_eq!(taken, 660);
        time::advance(Duration::from_millis(30_500)).await;
        assert_eq!(limits.create.take(Instant::now()), Err(30));
        assert_eq!(limits.other.take(Instant::now()), Ok(()), "the other limit is its own");
        time::advance(Duration::from_millis(29_500)).await;
        assert_eq!(limits.create.take(Instant::now()), Ok(()));
    }

    #[test]
    fn limits_can_be_lifted() {
        assert!(Limits::new(&ReplicateSettings { limits: false, ..ReplicateSettings::default() }).is_none());
    }
}
