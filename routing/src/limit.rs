//! How many jobs a provider takes at once before it slows down: a gradient limiter (Netflix concurrency-limits, Gradient2;
//! in the spirit of TCP Vegas). Pure.
//!
//! A long average of service times is what is usual, a short one is now; when now is surely more than twice what is usual, the
//! limit shrinks by that ratio, else it grows by the square root of itself. The averages are of logarithms, since prompts
//! differ by a hundred times in length: a single long one moves an arithmetic mean of sixteen further than a failing
//! provider does, and against the shortest time ever seen every provider looks slow.

use std::time::Duration;

/// How much slower than usual is tolerated.
const TOLERANCE: f64 = 2.0;
/// How far one step goes towards its goal, and how far while the limit is not felt.
const SMOOTHING: f64 = 0.2;
const UNFELT: f64 = 0.02;
/// Jobs that the short average is about.
const SHORT: f64 = 16.0;
/// Jobs that the long average is about.
const LONG: f64 = 600.0;
/// What a refusal for want of room leaves of the limit.
const CUT: f64 = 0.7;
/// Never less: something must be let through to see that it is better.
const LEAST: f64 = 1.0;
/// Seconds that a busy host or network adds by itself.
const NOISE: f64 = 0.1;
/// Beyond this, slower than usual may be the load that we ourselves are.
const RISEN: f64 = 1.3;
/// A difference is believed at so many standard errors of the short average.
const SURE: f64 = 4.0;
/// Variance of the logarithms before anything is known: a factor of two either way.
const VARIANCE: f64 = 0.5;

/// The limit of one model at one pool.
#[derive(Clone, Debug)]
pub struct Limit {
    jobs: f64,
    /// Averages of the logarithm of seconds, and the variance about the long one.
    short: f64,
    long: f64,
    variance: f64,
    known: bool,
}

impl Limit {
    /// Starts at all slots: most providers know what they can do.
    pub fn new(slots: u32) -> Self {
        let jobs = f64::from(slots.max(1));
        Self { jobs, short: 0.0, long: 0.0, variance: VARIANCE, known: false }
    }

    /// Jobs that may run at once.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at least one, at most the slots"
    )]
    pub fn get(&self) -> u32 {
        self.jobs as u32
    }

    /// How many times slower it is now than usual; 1 when as usual, or when that may be chance.
    pub fn slowness(&self) -> f64 {
        // The variance of an exponential average over N is that of one in 2N - 1.
        let error = (self.variance / (2.0 * SHORT - 1.0)).sqrt();
        let seconds = self.short.exp() - self.long.exp();
        if self.known && seconds > NOISE && self.short - self.long > SURE * error {
            (self.short - self.long).exp()
        } else {
            1.0
        }
    }

    /// What is usual, and what is now: geometric means.
    pub fn averages(&self) -> (Duration, Duration) {
        let span = |log: f64| if self.known { Duration::from_secs_f64(log.exp()) } else { Duration::ZERO };
        (span(self.long), span(self.short))
    }

    /// A job ended well after `service`, while `running` ran; `usual` is false when what is usual must not be learnt from it.
    pub fn ended(&mut self, service: Duration, running: u32, slots: u32, usual: bool) {
        let log = service.as_secs_f64().max(1e-4).ln();
        if !self.known {
            (self.short, self.long, self.known) = (log, log, true);
        }
        self.short += (log - self.short) / SHORT;
        let slowness = self.slowness();
        if usual {
            // What is usual is believed to have risen only slowly, or a provider that is overloaded for long is never spared.
            let weight = if slowness > RISEN { LONG * 10.0 } else { LONG };
            self.variance += ((log - self.long).powi(2) - self.variance) / weight;
            self.long += (log - self.long) / weight;
        }
        let gradient = (TOLERANCE / slowness).clamp(0.5, 1.0);
        // A limit that is not felt says little about more.
        let felt = gradient < 1.0 || f64::from(running) * 2.0 >= self.jobs;
        let goal = self.jobs * gradient + self.jobs.sqrt();
        self.set(self.jobs + (goal - self.jobs) * if felt { SMOOTHING } else { UNFELT }, slots);
    }

    /// The provider had no room for a job.
    pub fn refused(&mut self, slots: u32) {
        self.set(self.jobs * CUT, slots);
    }

    /// Begins small again, after the provider was left alone.
    pub fn restart(&mut self, at: u32, slots: u32) {
        self.short = self.long;
        self.set(f64::from(at), slots);
    }

    /// The pool has other slots than before: a limit that was not felt follows.
    pub fn resize(&mut self, before: u32, slots: u32) {
        let all = self.get() >= before.max(1);
        self.set(if all { f64::from(slots) } else { self.jobs }, slots);
    }

    fn set(&mut self, limit: f64, slots: u32) {
        self.jobs = limit.clamp(LEAST, f64::from(slots.max(1)));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn prompts_of_all_lengths_do_not_shrink_it() {
        let (mut limit, mut rng) = (Limit::new(40), StdRng::seed_from_u64(1));
        for _ in 0..20_000 {
            // A hundredfold between the shortest and the longest.
            let service = Duration::from_secs_f64(0.05 * 100f64.powf(rng.random::<f64>()));
            limit.ended(service, 40, 40, true);
        }
        assert!(limit.get() >= 30, "{}", limit.get());
    }

    #[test]
    fn a_provider_that_slows_down_with_load_finds_its_level() {
        // Ten at once are served in 0.5 s, more share what there is.
        let mut limit = Limit::new(100);
        for _ in 0..50 {
            limit.ended(Duration::from_millis(500), 5, 100, true);
        }
        for _ in 0..2_000 {
            let running = limit.get();
            limit.ended(Duration::from_secs_f64(0.05 * f64::from(running.max(10))), running, 100, true);
        }
        assert!((10..=60).contains(&limit.get()), "{}", limit.get());
    }

    proptest! {
        #[test]
        fn it_stays_between_one_and_the_slots(news in proptest::collection::vec((0..4u8, 1..60_000u64, 0..200u32, 1..200u32), 0..300)) {
            let (mut limit, mut before) = (Limit::new(7), 7);
            for (what, ms, running, slots) in news {
                match what {
                    0 => limit.refused(slots),
                    1 => limit.restart(running, slots),
                    2 => limit.resize(before, slots),
                    _ => limit.ended(Duration::from_millis(ms), running, slots, running % 2 == 0),
                }
                before = slots;
                prop_assert!(limit.get() >= 1 && limit.get() <= slots);
            }
        }
    }
}
