//! How many jobs a provider takes at once before it slows down: a gradient limiter (Netflix concurrency-limits, Gradient2;
//! in the spirit of TCP Vegas). Pure.
//!
//! A long average of service times is what is usual, a short one is now; when now is more than twice what is usual, the limit
//! shrinks by that ratio, else it grows by the square root of itself. The long average and not the shortest time ever seen is
//! the measure: prompts differ by more than ten times in length, and against the shortest of them every provider looks slow.

use std::time::Duration;

/// How much slower than usual is still taken for chance.
const TOLERANCE: f64 = 2.0;
/// How far one step goes towards its goal.
const SMOOTHING: f64 = 0.2;
/// Jobs that the short average is about.
const SHORT: f64 = 16.0;
/// Jobs that the long average is about.
const LONG: f64 = 600.0;
/// Seconds that a busy host or network adds by itself.
const NOISE: f64 = 0.1;
/// Beyond this, slower than usual may be the load that we ourselves are.
const RISEN: f64 = 1.3;
/// What a refusal for want of room leaves of the limit.
const CUT: f64 = 0.7;
/// Never less: something must be let through to see that it is better.
const LEAST: f64 = 1.0;

/// The limit of one model at one pool.
#[derive(Clone, Debug)]
pub struct Limit {
    jobs: f64,
    short: f64,
    long: f64,
}

impl Limit {
    /// Starts at all slots: most providers know what they can do.
    pub fn new(slots: u32) -> Self {
        Self { jobs: f64::from(slots.max(1)), short: 0.0, long: 0.0 }
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

    /// How many times slower it is now than usual; 1 when as usual, or when the difference is too small to be the provider's.
    pub fn slowness(&self) -> f64 {
        if self.long > 0.0 && self.short - self.long > NOISE { self.short / self.long } else { 1.0 }
    }

    /// What is usual, and what is now.
    pub fn averages(&self) -> (Duration, Duration) {
        (Duration::from_secs_f64(self.long), Duration::from_secs_f64(self.short))
    }

    /// A job ended well after `service`, while `running` ran; `usual` is false when what is usual must not be learnt from it.
    pub fn ended(&mut self, service: Duration, running: u32, slots: u32, usual: bool) {
        let seconds = service.as_secs_f64();
        if self.long == 0.0 {
            (self.short, self.long) = (seconds, seconds);
        }
        self.short += (seconds - self.short) / SHORT;
        if usual {
            // What is usual is believed to have risen only slowly, or a provider that is overloaded for long is never spared.
            let weight = if self.slowness() > RISEN { LONG * 10.0 } else { LONG };
            self.long += (seconds - self.long) / weight;
            // After a slow hour the long average would take another to come down.
            if self.long > self.short * 2.0 {
                self.long *= 0.95;
            }
        }
        let gradient = (TOLERANCE / self.slowness()).clamp(0.5, 1.0);
        // A limit that is not felt says nothing about more.
        if gradient >= 1.0 && f64::from(running) * 2.0 < self.jobs {
            self.set(self.jobs, slots);
            return;
        }
        let goal = self.jobs * gradient + self.jobs.sqrt();
        self.set(self.jobs + (goal - self.jobs) * SMOOTHING, slots);
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
