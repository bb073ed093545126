//! How many requests an account may send in a minute. Nothing here awaits.
//!
//! Replicate allows short bursts above its limits and does not say how long. Here a burst is a tenth of the limit, within
//! a window of a minute that begins with its first request.

use std::time::Duration;

use crate::{config::ReplicateSettings, limit::Limit};

/// Both limits of one account.
#[derive(Debug)]
pub(crate) struct Limits {
    /// Creating predictions.
    pub(crate) create: Limit,
    /// Everything else.
    pub(crate) other: Limit,
}

impl Limits {
    /// `None` when the settings lift the limits.
    pub(crate) fn new(settings: &ReplicateSettings) -> Option<Self> {
        let window = settings.scaled(Duration::from_secs(60));
        let limit = |most: u32| Limit::new(most.saturating_add(most / 10), window);
        settings
            .limits
            .then(|| Self { create: limit(settings.create_limit), other: limit(settings.other_limit) })
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::{self, Instant};

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
