//! Whether a model at a pool is in good standing, or much slower than it should be and only tried. Pure: time comes in.
//!
//! A slow pool answers, so no breaker opens (Huang et al., "Gray Failure", HotOS 2017). While it is suspected, jobs go there as
//! probes only: one, then two, then four at once. A round of probes whose service times are about the usual ones leads to the next
//! round, the last one back to good standing. A slow round begins again with one probe after a rest.

use std::time::Duration;

use schemas::{Lane, Micros};

use crate::breaker::patience;

/// A pool that is so many times slower than it was, and than the others, is suspected.
pub const SLOW: f64 = 3.0;
/// The size of the last round of probes; rounds double from one.
const PROBES_MAX: u32 = 4;
/// A round of probes is good if they take less than so many times the usual time, in the geometric mean.
const WELL: f64 = 2.0;
/// How long a suspected pool rests after a slow round.
const REST: Duration = Duration::from_secs(2);

/// The standing of one model at one pool.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Standing {
    /// Jobs go there.
    #[default]
    Good,
    /// Only probes go there.
    Suspect(Round),
}

/// A round of probes. One slow job proves nothing, since prompts differ: a round counts as a whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Round {
    probes: u32,
    ended: u32,
    /// The sum of the logarithms of how many times the usual time each probe took.
    slower: f64,
    not_before: Micros,
}

impl Round {
    /// One probe, after a rest.
    fn first(now: Micros) -> Self {
        Self { probes: 1, ended: 0, slower: 0.0, not_before: now + REST }
    }
}

impl Standing {
    /// Whether only probes go there.
    pub const fn is_suspect(&self) -> bool {
        matches!(self, Self::Suspect(_))
    }

    /// Suspects it. True if it was in good standing before.
    pub fn suspect(&mut self, now: Micros) -> bool {
        if self.is_suspect() {
            return false;
        }
        *self = Self::Suspect(Round::first(now));
        true
    }

    /// Whether a job of that lane may go there as a probe while `open` attempts of ours are there.
    pub fn wants_probe(&self, open: u32, lane: Lane, now: Micros) -> bool {
        match self {
            Self::Good => false,
            Self::Suspect(round) => open < round.probes && now >= round.not_before + patience(lane),
        }
    }

    /// A job succeeded after `service`, where `usual` is usual. True if the standing is good again by that.
    pub fn succeeded(&mut self, service: Duration, usual: Duration, now: Micros) -> bool {
        let Self::Suspect(round) = self else { return false };
        let usual = usual.max(Duration::from_millis(1));
        round.slower += (service.as_secs_f64().max(1e-4) / usual.as_secs_f64()).ln();
        round.ended += 1;
        if round.ended < round.probes {
            return false;
        }
        if round.slower > f64::from(round.ended) * WELL.ln() {
            *round = Round::first(now);
            return false;
        }
        (round.probes, round.ended, round.slower) = (round.probes * 2, 0, 0.0);
        if round.probes <= PROBES_MAX {
            return false;
        }
        *self = Self::Good;
        true
    }

    /// A job ran into its timeout: a suspected pool begins again with one probe.
    pub fn timed_out(&mut self, now: Micros) {
        if let Self::Suspect(round) = self {
            *round = Round::first(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);
    const USUAL: Duration = Duration::from_millis(500);

    #[test]
    fn rounds_of_one_two_and_four_good_probes_restore_it() {
        let mut standing = Standing::default();
        assert!(standing.suspect(NOW) && !standing.suspect(NOW));
        for n in 1..=7 {
            assert!(standing.is_suspect());
            assert_eq!(standing.succeeded(USUAL, USUAL, NOW), n == 7);
        }
        assert!(!standing.is_suspect() && !standing.succeeded(USUAL, USUAL, NOW));
    }

    #[test]
    fn a_slow_round_or_a_timeout_begins_again_with_one_probe_after_a_rest() {
        let later = NOW + Duration::from_secs(60);
        let after = |news: &dyn Fn(&mut Standing)| {
            let mut standing = Standing::Good;
            standing.suspect(NOW);
            standing.succeeded(USUAL, USUAL, NOW);
            assert!(standing.wants_probe(1, Lane::Low, later), "two at once");
            news(&mut standing);
            assert!(!standing.wants_probe(0, Lane::Low, later));
            assert!(standing.wants_probe(0, Lane::Low, later + REST));
            assert!(!standing.wants_probe(1, Lane::Low, later + REST));
        };
        after(&|standing| standing.timed_out(later));
        after(&|standing| {
            assert!(!standing.succeeded(USUAL, USUAL, later));
            standing.succeeded(USUAL * 6, USUAL, later);
        });
    }

    #[test]
    fn urgent_jobs_leave_the_first_probe_to_others() {
        let mut standing = Standing::Good;
        standing.suspect(NOW);
        let rested = NOW + REST;
        assert!(standing.wants_probe(0, Lane::Low, rested) && !standing.wants_probe(0, Lane::High, rested));
        assert!(standing.wants_probe(0, Lane::High, rested + patience(Lane::High)));
    }
}
