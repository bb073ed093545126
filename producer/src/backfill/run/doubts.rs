//! When lost results are looked for. A look reads the whole job log of the tenant, so each has a reason, and pauses between looks
//! grow. Pure.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::nats::Extent;

/// The pause after the first look, and after each that found lost results.
const PAUSE_MIN: Duration = Duration::from_secs(30);
/// Each look that found none doubles the pause up to this.
const PAUSE_MAX: Duration = Duration::from_secs(600);

/// The reasons to look, and when the last look was.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// An earlier run left lines that wait, and no look was made since: nobody knows what became of their results meanwhile.
    leftovers: bool,
    /// Lines that waited at the last look for jobs that had not ended, and lines of an earlier run that were read since.
    waiting: BTreeSet<u64>,
    /// The first sequence that `REPLIES` held at the last look.
    first_seq: Option<u64>,
    /// No look is made before, and the pause that ends then.
    next: Option<(Instant, Duration)>,
}

impl Doubts {
    /// Those of a run that begins.
    pub(super) fn of_run(leftovers: bool) -> Self {
        Self { leftovers, ..Self::default() }
    }

    /// An earlier run may have submitted jobs that no checkpoint counts.
    pub(super) fn add_leftovers(&mut self) {
        self.leftovers = true;
    }

    /// A line that was read was submitted by an earlier run.
    pub(super) fn add(&mut self, line: u64) {
        self.waiting.insert(line);
    }

    /// Forgets lines that are in the output.
    pub(super) fn forget(&mut self, is_done: impl Fn(u64) -> bool) {
        self.waiting.retain(|line| !is_done(*line));
    }

    /// Whether to look now, when everything up to sequence `taken` of `replies` is in the output.
    pub(super) fn call_for_look(&self, replies: &Extent, taken: u64, now: Instant) -> bool {
        // It dropped something behind what was taken in, and more than at the last look.
        let dropped =
            replies.first_seq > taken + 1 && self.first_seq.is_none_or(|then| replies.first_seq > then);
        let reason = self.leftovers || dropped || !self.waiting.is_empty();
        reason && self.next.is_none_or(|(at, _)| at <= now)
    }

    /// A look was made: these lines still wait, and results were lost or not.
    pub(super) fn looked(&mut self, replies: &Extent, waiting: BTreeSet<u64>, lost: bool, now: Instant) {
        let pause = match self.next {
            Some((_, pause)) if !lost => (pause * 2).min(PAUSE_MAX),
            Some(_) | None => PAUSE_MIN,
        };
        *self = Self {
            leftovers: false,
            waiting,
            first_seq: Some(replies.first_seq),
            next: Some((now + pause, pause)),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replies(first_seq: u64) -> Extent {
        Extent { first_seq, last_seq: 1_000_000, ..Extent::default() }
    }

    /// How many looks are made within `span` when each second is asked, each finds `waiting`, and `first_seq` gives what the
    /// stream holds by then.
    fn looks(doubts: &mut Doubts, span: u64, waiting: &[u64], first_seq: impl Fn(u64) -> u64) -> usize {
        let begun = Instant::now();
        let look = |second: &u64| {
            let (now, replies) = (begun + Duration::from_secs(*second), replies(first_seq(*second)));
            let call = doubts.call_for_look(&replies, 0, now);
            if call {
                doubts.looked(&replies, waiting.iter().copied().collect(), false, now);
            }
            call
        };
        (0..span).filter(look).count()
    }

    #[test]
    fn nothing_is_looked_for_without_a_reason() {
        let mut doubts = Doubts::of_run(false);
        assert_eq!(looks(&mut doubts, 86_400, &[], |_| 1), 0);
    }

    #[test]
    fn leftovers_of_an_earlier_run_are_looked_for_once() {
        let mut doubts = Doubts::of_run(true);
        assert_eq!(looks(&mut doubts, 86_400, &[], |_| 1), 1);
        // Also those that show only when the line is read.
        doubts.add(7);
        assert_eq!(looks(&mut doubts, 86_400, &[], |_| 1), 1);
    }

    #[test]
    fn lines_that_wait_for_long_are_looked_for_less_and_less_often() {
        let mut doubts = Doubts::of_run(true);
        // After 0, 30, 90, 210, 450 and 930 s, then each 600 s.
        assert_eq!(looks(&mut doubts, 931, &[7], |_| 1), 6);
        assert_eq!(looks(&mut doubts, 6_000, &[7], |_| 1), 8);
        doubts.forget(|line| line == 7);
        assert_eq!(looks(&mut doubts, 86_400, &[], |_| 1), 0);
    }

    #[test]
    fn a_stream_that_drops_results_all_the_time_is_no_reason_to_look_all_the_time() {
        let mut doubts = Doubts::of_run(false);
        assert_eq!(looks(&mut doubts, 931, &[], |second| 2 + second), 6);
    }

    #[test]
    fn a_look_that_finds_lost_results_is_followed_by_another_soon() {
        let mut doubts = Doubts::of_run(true);
        let now = Instant::now();
        for _ in 0..5 {
            doubts.looked(&replies(9), BTreeSet::from([7]), false, now);
        }
        doubts.looked(&replies(9), BTreeSet::from([7]), true, now);
        assert!(!doubts.call_for_look(&replies(9), 0, now));
        assert!(doubts.call_for_look(&replies(9), 0, now + PAUSE_MIN));
    }
}
