//! The two clocks of a worker. The one place in this crate that reads them for the machines.

use std::time::Duration;

use schemas::{Micros, time::Clock as _};
use tokio::time::Instant;
use transport::SystemClock;

/// What the steady clock shows at the start: more than any lease lasts, so that a lease extended before the start has a moment
/// too.
const ORIGIN: Duration = Duration::from_secs(7 * 86_400);

/// A moment at a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// By the wall clock, which may jump: what messages say.
    pub wall: Micros,
    /// By a clock that never jumps, since any fixed moment: what spans are measured by.
    pub steady: Duration,
}

impl Now {
    /// What the steady clock showed when the wall clock showed `wall`; never later than now.
    pub fn steady_at(self, wall: Micros) -> Duration {
        self.steady.saturating_sub(self.wall.since(wall))
    }

    /// What the wall clock showed, by its hand of now, when the steady clock showed `steady`.
    pub fn wall_at(self, steady: Duration) -> Micros {
        self.wall - self.steady.saturating_sub(steady)
    }
}

/// Reads both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    started: Instant,
}

impl Clock {
    /// Starts the steady clock.
    pub fn start() -> Self {
        Self { started: Instant::now() }
    }

    /// Now, by both.
    pub fn now(self) -> Now {
        Now { wall: SystemClock.now(), steady: self.steady() }
    }

    /// Now, by the steady clock alone.
    pub fn steady(self) -> Duration {
        ORIGIN + self.started.elapsed()
    }

    /// The moment at which the steady clock shows `steady`, for timers.
    pub fn instant(self, steady: Duration) -> Instant {
        self.started + steady.saturating_sub(ORIGIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_before_the_start_has_its_place_on_the_steady_clock() {
        let (now, before) = (Micros::new(60_000_000), Micros::new(50_000_000));
        let started = Now { wall: now, steady: ORIGIN };
        assert_eq!(started.steady_at(before) + Duration::from_secs(10), ORIGIN);
        assert_eq!(started.steady_at(Micros::new(70_000_000)), ORIGIN, "a clock ahead of ours");
        assert_eq!(started.wall_at(started.steady_at(before)), before);
    }
}
