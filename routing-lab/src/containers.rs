//! Containers of one model at one serverless pool. They start for jobs or by order, and stop after they were idle for long.
//!
//! The container that was used last is used next, as providers do, so that the others may stop. Stopping needs no event: each call
//! first sweeps what has stopped since the last. Invariant: an idle time is billed once, when it ends.

use std::{collections::VecDeque, time::Duration};

use schemas::Micros;

use super::scenario::Serverless;

/// The containers.
#[derive(Clone, Debug, Default)]
pub(super) struct Containers {
    /// Since when each idle container is idle, longest first.
    idle: VecDeque<Micros>,
    /// When each ordered container began to start and will be ready, soonest first.
    starting: VecDeque<(Micros, Micros)>,
    busy: u32,
    /// How many are kept warm, busy ones included.
    wanted: u32,
    swept: Micros,
}

/// The container that a job gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A container is ready.
    Warm,
    /// A container is ready after this time, and billed to the job from now on.
    Starting(Duration),
    /// There is none: a container has to start.
    None,
}

impl Containers {
    /// A job takes a container. Also returns the idle time to bill.
    pub(super) fn take(&mut self, spec: &Serverless, now: Micros) -> (Found, Duration) {
        let mut billed = self.sweep(spec, now);
        self.busy += 1;
        if let Some(since) = self.idle.pop_back() {
            billed += idle_billed(spec, since, now);
            return (Found::Warm, billed);
        }
        match self.starting.pop_front() {
            Some((from, until)) => (Found::Starting(until.since(now)), billed + now.since(from)),
            None => (Found::None, billed),
        }
    }

    /// A job leaves its container, which becomes idle unless it broke.
    pub(super) fn leave(&mut self, broke: bool, now: Micros) {
        self.busy = self.busy.saturating_sub(1);
        if !broke {
            self.idle.push_back(now);
        }
    }

    /// Keeps `wanted` containers warm from now on. Those that are missing start; `start` draws how long each takes. Returns the
    /// idle time to bill.
    pub(super) fn order(
        &mut self,
        spec: &Serverless,
        wanted: u32,
        mut start: impl FnMut() -> Duration,
        now: Micros,
    ) -> Duration {
        let billed = self.sweep(spec, now);
        self.wanted = wanted;
        while self.count() < wanted {
            self.starting.push_back((now, now + start()));
        }
        self.starting.make_contiguous().sort_unstable_by_key(|(_, until)| *until);
        billed
    }

    /// Removes all containers that run no job. Returns the idle time to bill.
    pub(super) fn vanish(&mut self, spec: &Serverless, now: Micros) -> Duration {
        let mut billed = self.sweep(spec, now);
        billed += self.idle.drain(..).map(|since| idle_billed(spec, since, now)).sum::<Duration>();
        billed + self.starting.drain(..).map(|(from, _)| now.since(from)).sum::<Duration>()
    }

    /// Containers that have started become idle, and containers that were idle for long stop. Returns the idle time to bill.
    pub(super) fn sweep(&mut self, spec: &Serverless, now: Micros) -> Duration {
        let mut billed = Duration::ZERO;
        while let Some((from, until)) = self.starting.front().copied().filter(|(_, until)| *until <= now) {
            self.starting.pop_front();
            billed += until.since(from);
            let place = self.idle.partition_point(|since| *since <= until);
            self.idle.insert(place, until);
        }
        while let Some(since) = self.idle.front().copied() {
            let stops = since + spec.idle_timeout;
            if stops > now || self.count() <= self.wanted {
                break;
            }
            self.idle.pop_front();
            // A container that was kept past its timeout stops when it is no longer wanted.
            billed += idle_billed(spec, since, if stops > self.swept { stops } else { now });
        }
        self.swept = now;
        billed
    }

    /// How many there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.idle.len() + self.starting.len()).unwrap_or(u32::MAX) + self.busy
    }
}

/// How much of an idle time is billed. Idle time past the timeout was ordered, and is always billed.
fn idle_billed(spec: &Serverless, since: Micros, until: Micros) -> Duration {
    let span = until.since(since);
    if spec.bills_idle { span } else { span.saturating_sub(spec.idle_timeout) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: Serverless = Serverless {
        cold_start: (Duration::from_millis(800), Duration::from_millis(1_200)),
        idle_timeout: Duration::from_secs(10),
        bills_idle: true,
        warmable: true,
    };

    fn at(seconds: u64) -> Micros {
        Micros::new(1_000_000 * (1_000 + seconds))
    }

    #[test]
    fn one_that_was_idle_for_long_is_gone_and_billed_until_it_stopped() {
        let mut containers = Containers::default();
        assert_eq!(containers.take(&SPEC, at(0)), (Found::None, Duration::ZERO));
        containers.leave(false, at(1));
        assert_eq!(containers.take(&SPEC, at(5)), (Found::Warm, Duration::from_secs(4)));
        containers.leave(false, at(6));
        assert_eq!(containers.take(&SPEC, at(60)), (Found::None, Duration::from_secs(10)));
    }

    #[test]
    fn what_is_ordered_starts_stays_and_is_billed_for_all_of_it() {
        let mut containers = Containers::default();
        let start = || Duration::from_secs(1);
        assert_eq!(containers.order(&SPEC, 2, start, at(0)), Duration::ZERO);
        assert_eq!(containers.take(&SPEC, at(0)).0, Found::Starting(Duration::from_secs(1)));
        containers.leave(false, at(2));
        // One second of a start; the idle time is not over yet.
        assert_eq!(containers.sweep(&SPEC, at(100)), Duration::from_secs(1));
        assert_eq!(containers.count(), 2);
        let end = containers.order(&SPEC, 0, start, at(101));
        let rest = containers.sweep(&SPEC, at(101));
        assert_eq!(end + rest, Duration::from_secs(100 + 99));
        assert_eq!(containers.count(), 0);
    }
}
