//! The clock of one host: wrong by a little, and it may jump. Its monotonic clock counts on, whatever the wall clock does.

use std::time::Duration;

use schemas::{Micros, time::micros};

/// A host's clock.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// How far it is ahead of true time, microseconds.
    ahead: i64,
}

impl Clock {
    /// A clock that is `ahead` microseconds ahead of true time, or behind it.
    pub(crate) fn ahead_by(ahead: i64) -> Self {
        Self { ahead }
    }

    /// What it shows at true time `now`.
    pub(crate) fn wall(self, now: Micros) -> Micros {
        Micros::new(now.get().saturating_add_signed(self.ahead))
    }

    /// Sets it forward, or back.
    pub(crate) fn jump(&mut self, by: Duration, back: bool) {
        let by = i64::try_from(micros(by)).unwrap_or(i64::MAX);
        self.ahead = if back { self.ahead.saturating_sub(by) } else { self.ahead.saturating_add(by) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_jumped_shows_another_time() {
        let mut clock = Clock::ahead_by(-2);
        let now = Micros::new(100);
        assert_eq!(clock.wall(now), Micros::new(98));
        clock.jump(Duration::from_micros(10), false);
        assert_eq!(clock.wall(now), Micros::new(108));
        clock.jump(Duration::from_micros(200), true);
        assert_eq!(clock.wall(now), Micros::default(), "there is no time before the epoch");
    }
}
