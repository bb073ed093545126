//! Containers of one model at one serverless pool: started for jobs or by order, stopped when they were idle for long.
//!
//! The one used last is used first, as providers do, so that the others may stop. What stops is found when somebody looks:
//! no event is needed for it. Invariant: a span of idleness is billed once, when it ends.

use std::{collections::VecDeque, time::Duration};

use schemas::Micros;

use super::scenario::Serverless;

/// The containers.
#[derive(Clone, Debug, Default)]
pub(super) struct Containers {
    /// Since when, longest first.
    idle: VecDeque<Micros>,
    /// By order: from when, and until when they start, soonest first.
    starting: VecDeque<(Micros, Micros)>,
    busy: u32,
    /// Kept warm, running ones included.
    wanted: u32,
    swept: Micros,
}

/// What a job finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// One that is ready.
    Warm,
    /// One that is ready after this, billed to the job from now on.
    Starting(Duration),
    /// None: one has to start.
    None,
}

impl Containers {
    /// A job takes a container. Gives what idleness that ended is billed.
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

    /// A job leaves its container, which stays unless it broke.
    pub(super) fn leave(&mut self, broke: bool, now: Micros) {
        self.busy = self.busy.saturating_sub(1);
        if !broke {
            self.idle.push_back(now);
        }
    }

    /// Has so many warm from now on; those that are missing start, each for `start`.
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

    /// All that do not run a job are gone.
    pub(super) fn vanish(&mut self, spec: &Serverless, now: Micros) -> Duration {
        let mut billed = self.sweep(spec, now);
        billed += self.idle.drain(..).map(|since| idle_billed(spec, since, now)).sum::<Duration>();
        billed + self.starting.drain(..).map(|(from, _)| now.since(from)).sum::<Duration>()
    }

    /// Those that started become idle, those that were idle for long stop.
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
            // One that was kept past its time stops when nobody wants it any more.
            billed += idle_billed(spec, since, if stops > self.swept { stops } else { now });
        }
        self.swept = now;
        billed
    }

    /// All there are.
    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.idle.len() + self.starting.len()).unwrap_or(u32::MAX) + self.busy
    }
}

/// What a span of idleness is billed; past the time-out somebody ordered it, and that is always billed.
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
        // One second of a start, and nothing yet of the idleness that goes on.
        assert_eq!(containers.sweep(&SPEC, at(100)), Duration::from_secs(1));
        assert_eq!(containers.count(), 2);
        let end = containers.order(&SPEC, 0, start, at(101));
        let rest = containers.sweep(&SPEC, at(101));
        assert_eq!(end + rest, Duration::from_secs(100 + 99));
        assert_eq!(containers.count(), 0);
    }
}
