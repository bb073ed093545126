//! Quantiles of durations, in a fixed amount of memory: DDSketch (Masson, Rim and Lee, VLDB 2019). Pure.
//!
//! Each bucket spans 2 %, so an answer is at most 1 % off. An answer covers the last one to two minutes: two windows of one minute
//! take turns.

use std::time::Duration;

use schemas::{Micros, time::micros};

/// Relative error of an answer.
const ERROR: f64 = 0.01;
/// Ratio of two neighbouring buckets: (1 + error) / (1 - error).
const GAMMA: f64 = (1.0 + ERROR) / (1.0 - ERROR);
/// Shorter durations count as this many microseconds.
const LOWEST: f64 = 1_000.0;
/// From one millisecond to 17 minutes; longer durations count as that.
const BUCKETS: usize = 700;
/// The length of a window.
const WINDOW: Duration = Duration::from_secs(60);
/// Answers are computed again after this many records: a walk over all buckets costs as much as several decisions.
const REFRESH_EVERY: u32 = 8;

/// Durations of the last one to two minutes.
#[derive(Clone, Debug)]
pub struct Quantiles {
    now: Window,
    before: Window,
    turned: Micros,
    stale: u32,
    p50: Duration,
    p90: Duration,
    p95: Duration,
}

#[derive(Clone, Debug)]
struct Window {
    counts: Box<[u32; BUCKETS]>,
    count: u64,
    sum_us: u64,
}

impl Default for Window {
    fn default() -> Self {
        Self { counts: Box::new([0; BUCKETS]), count: 0, sum_us: 0 }
    }
}

impl Window {
    fn clear(&mut self) {
        self.counts.fill(0);
        (self.count, self.sum_us) = (0, 0);
    }
}

impl Default for Quantiles {
    fn default() -> Self {
        Self {
            now: Window::default(),
            before: Window::default(),
            turned: Micros::default(),
            stale: 0,
            p50: Duration::ZERO,
            p90: Duration::ZERO,
            p95: Duration::ZERO,
        }
    }
}

impl Quantiles {
    /// Takes in a duration that ended at `now`.
    pub fn record(&mut self, span: Duration, now: Micros) {
        self.turn(now);
        let us = micros(span);
        self.now.counts[bucket(us)] += 1;
        self.now.count += 1;
        self.now.sum_us = self.now.sum_us.saturating_add(us);
        self.stale += 1;
        // The first few change the answer most.
        if self.stale >= REFRESH_EVERY || self.count() <= u64::from(REFRESH_EVERY) {
            self.refresh();
        }
    }

    /// Starts a new window if the current one is a minute old.
    pub fn turn(&mut self, now: Micros) {
        let age = now.since(self.turned);
        if age < WINDOW {
            return;
        }
        std::mem::swap(&mut self.now, &mut self.before);
        self.now.clear();
        if age >= WINDOW * 2 {
            self.before.clear();
        }
        self.turned = now;
        self.refresh();
    }

    /// How many durations the answers cover.
    pub const fn count(&self) -> u64 {
        self.now.count + self.before.count
    }

    /// The mean; zero without any duration.
    pub fn mean(&self) -> Duration {
        let sum = self.now.sum_us.saturating_add(self.before.sum_us);
        Duration::from_micros(sum.checked_div(self.count()).unwrap_or(0))
    }

    /// The median; zero without any duration.
    pub const fn p50(&self) -> Duration {
        self.p50
    }

    /// The 90th percentile; zero without any duration.
    pub const fn p90(&self) -> Duration {
        self.p90
    }

    /// The 95th percentile; zero without any duration.
    pub const fn p95(&self) -> Duration {
        self.p95
    }

    fn refresh(&mut self) {
        self.stale = 0;
        let count = self.count();
        let part = |percent: u64| (count * percent).div_ceil(100).max(1);
        let (half, many, most) = (part(50), part(90), part(95));
        (self.p50, self.p90, self.p95) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut below = 0;
        for index in 0..BUCKETS {
            let here = u64::from(self.now.counts[index]) + u64::from(self.before.counts[index]);
            if below < half && below + here >= half {
                self.p50 = value(index);
            }
            if below < many && below + here >= many {
                self.p90 = value(index);
            }
            below += here;
            if below >= most {
                self.p95 = value(index);
                return;
            }
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "not negative, and bounded below"
)]
fn bucket(us: u64) -> usize {
    let steps = ((us as f64) / LOWEST).max(1.0).ln() / GAMMA.ln();
    (steps.ceil() as usize).min(BUCKETS - 1)
}

/// The middle of a bucket, in the sense of relative error.
fn value(index: usize) -> Duration {
    let steps = i32::try_from(index).unwrap_or(i32::MAX);
    Duration::from_secs_f64(LOWEST * GAMMA.powi(steps) * 2.0 / (GAMMA + 1.0) / 1e6)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    proptest! {
        #[test]
        fn an_answer_is_at_most_one_percent_off(mut spans in proptest::collection::vec(1_000..600_000_000u64, 1..300)) {
            let mut quantiles = Quantiles::default();
            for us in &spans {
                quantiles.record(Duration::from_micros(*us), NOW);
            }
            quantiles.refresh();
            spans.sort_unstable();
            for (percent, answer) in [(50, quantiles.p50()), (90, quantiles.p90()), (95, quantiles.p95())] {
                let exact = spans[(spans.len() * percent).div_ceil(100).max(1) - 1] as f64;
                let answer = micros(answer) as f64;
                prop_assert!((answer - exact).abs() <= exact * ERROR * 1.01 + 1.0, "{percent}: {answer} for {exact}");
            }
            let mean = spans.iter().sum::<u64>() / spans.len() as u64;
            prop_assert_eq!(micros(quantiles.mean()), mean);
        }
    }

    #[test]
    fn what_is_two_minutes_old_is_forgotten() {
        let mut quantiles = Quantiles::default();
        quantiles.record(Duration::from_secs(9), NOW);
        quantiles.record(Duration::from_secs(1), NOW + Duration::from_secs(61));
        assert_eq!(quantiles.count(), 2);
        quantiles.turn(NOW + Duration::from_secs(122));
        assert_eq!(quantiles.count(), 1);
        assert!(quantiles.p95() < Duration::from_secs(2));
        quantiles.turn(NOW + Duration::from_secs(600));
        assert_eq!((quantiles.count(), quantiles.p95()), (0, Duration::ZERO));
    }
}
