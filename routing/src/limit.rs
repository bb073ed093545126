//! How many jobs a provider runs at once before it slows down: a gradient limiter (Netflix concurrency-limits, Gradient2; in the
//! spirit of TCP Vegas). Pure.
//!
//! A long average of service times says what is usual, a short one says what is true now. If the short one is more than twice the
//! long one, beyond doubt, the limit shrinks by that ratio; otherwise it grows by its square root. The averages are of logarithms,
//! because the lengths of prompts differ by a factor of a hundred: one long prompt moves an arithmetic mean of sixteen jobs further
//! than a failing provider does, and compared with the shortest time ever seen every provider looks slow.

use std::time::Duration;

/// How much slower than usual is tolerated.
const TOLERANCE: f64 = 2.0;
/// How far one step goes towards its goal, and how far it goes while the limit is not reached.
const SMOOTHING: f64 = 0.2;
const UNFELT: f64 = 0.02;
/// The number of jobs in the short average.
const SHORT: f64 = 16.0;
/// The number of jobs in the long average.
const LONG: f64 = 600.0;
/// The factor by which a refusal for lack of capacity cuts the limit.
const CUT: f64 = 0.7;
/// The smallest limit: one job must get through to show that the provider is well again.
const LEAST: f64 = 1.0;
/// Seconds that a busy host or network adds without any fault of the provider.
const NOISE: f64 = 0.1;
/// Above this slowness, our own load may be the cause.
const RISEN: f64 = 1.3;
/// A difference is believed from this many standard errors of the short average on.
const SURE: f64 = 4.0;
/// The variance of the logarithms before anything is known: about a factor of two either way.
const VARIANCE: f64 = 0.5;

/// The limit of one model at one pool.
#[derive(Clone, Debug)]
pub struct Limit {
    jobs: f64,
    /// The averages of the logarithm of seconds, and the variance around the long one.
    short: f64,
    long: f64,
    variance: f64,
    known: bool,
}

impl Limit {
    /// Starts at the number of slots: most providers know what they can do.
    pub fn new(slots: u32) -> Self {
        let jobs = f64::from(slots.max(1));
        Self { jobs, short: 0.0, long: 0.0, variance: VARIANCE, known: false }
    }

    /// How many jobs may run at once.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "at least one, at most the slots"
    )]
    pub fn get(&self) -> u32 {
        self.jobs as u32
    }

    /// How many times slower the provider is now than usual; 1 if it is as usual, or if the difference may be chance.
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

    /// The usual and the present service time: geometric means.
    pub fn averages(&self) -> (Duration, Duration) {
        let span = |log: f64| if self.known { Duration::from_secs_f64(log.exp()) } else { Duration::ZERO };
        (span(self.long), span(self.short))
    }

    /// A job succeeded after `service`, while `running` jobs ran. `usual` is false if the long average must not learn from it.
    pub fn ended(&mut self, service: Duration, running: u32, slots: u32, usual: bool) {
        let log = service.as_secs_f64().max(1e-4).ln();
        if !self.known {
            (self.short, self.long, self.known) = (log, log, true);
        }
        self.short += (log - self.short) / SHORT;
        let slowness = self.slowness();
        if usual {
            // The long average rises slowly, or a provider that is overloaded for long would never be spared.
            let weight = if slowness > RISEN { LONG * 10.0 } else { LONG };
            self.variance += ((log - self.long).powi(2) - self.variance) / weight;
            self.long += (log - self.long) / weight;
        }
        let gradient = (TOLERANCE / slowness).clamp(0.5, 1.0);
        // While the limit is not reached, a success says little about a higher one.
        let felt = gradient < 1.0 || f64::from(running) * 2.0 >= self.jobs;
        let goal = self.jobs * gradient + self.jobs.sqrt();
        self.set(self.jobs + (goal - self.jobs) * if felt { SMOOTHING } else { UNFELT }, slots);
    }

    /// The provider had no capacity for a job.
    pub fn refused(&mut self, slots: u32) {
        self.set(self.jobs * CUT, slots);
    }

    /// Begins at `at` again, after the provider was left alone.
    pub fn restart(&mut self, at: u32, slots: u32) {
        self.short = self.long;
        self.set(f64::from(at), slots);
    }

    /// The pool has another number of slots than before. A limit that was at all slots follows.
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
