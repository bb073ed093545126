//! How fast jobs arrive: a gamma posterior of the rate that forgets, once quickly and once slowly.
//!
//! With `n` jobs in `dt` seconds, `a <- a·2^(-dt/h) + n` and `b <- b·2^(-dt/h) + dt`; the rate is gamma distributed with shape `a`
//! and rate `b`. Its quantile is Wilson and Hilferty's: `(a/b)·(1 - 1/(9a) + z/(3·sqrt a))^3`.

use std::time::Duration;

use schemas::Micros;
use serde::{Deserialize, Serialize};

use crate::demand::Load;

const FAST: Duration = Duration::from_secs(60);
const SLOW: Duration = Duration::from_secs(900);
/// Standard deviations above the mean that are provided for: nine of ten times that is enough.
const Z: f64 = 1.3;
/// Whoever looks away for longer than this learns nothing about the time in between.
const BLIND: Duration = Duration::from_secs(60);
/// From this part of urgent jobs on, chance is covered by two standard deviations and not by one.
const URGENT: f64 = 0.25;

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
struct Gamma {
    a: f64,
    b: f64,
}

impl Gamma {
    /// As after a long silence: the first job is no flood.
    fn quiet(half: Duration) -> Self {
        Self { a: 0.0, b: half.as_secs_f64() / std::f64::consts::LN_2 }
    }

    fn pass(&mut self, jobs: u64, dt: Duration, half: Duration) {
        let kept = (-dt.as_secs_f64() / half.as_secs_f64()).exp2();
        self.a = self.a * kept + jobs as f64;
        // Unseen time makes us less sure and changes no rate.
        self.b *= kept;
        if dt <= BLIND {
            self.b += dt.as_secs_f64();
        }
        // After days unseen.
        if self.b < 1.0 {
            *self = Self { a: jobs as f64, ..Self::quiet(half) };
        }
    }

    /// Jobs a second, `z` standard deviations above what is likely.
    fn quantile(self, z: f64) -> f64 {
        if self.a < 1e-3 {
            return 0.0;
        }
        let cube = 1.0 - 1.0 / (9.0 * self.a) + z / (3.0 * self.a.sqrt());
        self.a / self.b * cube.max(0.0).powi(3)
    }
}

/// How fast jobs of lanes `high` and `normal` arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rates {
    fast: Gamma,
    slow: Gamma,
    urgent: Gamma,
    at: Micros,
    /// Which book the counters are of, and how far they were.
    book: Micros,
    seen: (u64, u64),
}

impl Default for Rates {
    fn default() -> Self {
        Self {
            fast: Gamma::quiet(FAST),
            slow: Gamma::quiet(SLOW),
            urgent: Gamma::quiet(SLOW),
            at: Micros::default(),
            book: Micros::default(),
            seen: (0, 0),
        }
    }
}

impl Rates {
    /// Time has passed, and jobs may have arrived.
    pub(super) fn hear(&mut self, load: &Load, now: Micros) {
        let before = if load.since == self.book { self.seen } else { (0, 0) };
        let (urgent, normal) = (load.urgent.saturating_sub(before.0), load.normal.saturating_sub(before.1));
        (self.book, self.seen) = (load.since, (load.urgent, load.normal));
        // The first look says nothing about the time before it.
        let dt = if self.at == Micros::default() { Duration::ZERO } else { now.since(self.at) };
        self.at = now;
        self.fast.pass(urgent + normal, dt, FAST);
        self.slow.pass(urgent + normal, dt, SLOW);
        self.urgent.pass(urgent, dt, SLOW);
    }

    /// Jobs a second to order machines for.
    pub(super) fn up(&self) -> f64 {
        self.fast.quantile(Z).max(self.slow.quantile(Z))
    }

    /// Jobs a second to keep machines for.
    pub(super) fn down(&self) -> f64 {
        self.slow.quantile(Z)
    }

    /// How many standard deviations of chance to cover.
    pub(super) fn risk(&self) -> f64 {
        if self.urgent.a > 0.0 && self.urgent.a >= URGENT * self.slow.a { 2.0 } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn load(jobs: u64) -> Load {
        Load { normal: jobs, ..Load::default() }
    }

    /// The rates after `seconds` at `per_second`, a look each second.
    fn after(rates: &mut Rates, from: u64, seconds: u64, per_second: u64) {
        for second in from..from + seconds {
            let jobs = rates.seen.1 + per_second;
            rates.hear(&load(jobs), NOW + Duration::from_secs(second));
        }
    }

    #[test]
    fn a_steady_rate_is_found_and_its_end_is_believed_slowly() {
        let mut rates = Rates::default();
        after(&mut rates, 0, 3_600, 5);
        assert!((5.0..5.6).contains(&rates.up()) && (4.6..5.2).contains(&rates.down()), "{rates:?}");
        after(&mut rates, 3_600, 300, 0);
        assert!(rates.down() > 3.5, "five minutes are no end: {}", rates.down());
        after(&mut rates, 3_900, 7_200, 0);
        assert!(rates.down() < 0.05, "{}", rates.down());
    }

    #[test]
    fn one_job_after_a_silence_is_no_flood() {
        let mut rates = Rates::default();
        rates.hear(&load(0), NOW);
        rates.hear(&load(1), NOW + Duration::from_secs(1));
        assert!(rates.up() < 0.05, "{}", rates.up());
    }

    #[test]
    fn a_successor_with_a_new_book_goes_on_where_it_was() {
        let mut rates = Rates::default();
        after(&mut rates, 0, 3_600, 5);
        let text = serde_json::to_string(&rates).unwrap();
        let mut rates: Rates = serde_json::from_str(&text).unwrap();
        let later = NOW + Duration::from_secs(3_800);
        rates.hear(&Load { since: later, normal: 0, ..Load::default() }, later);
        assert!((4.8..6.5).contains(&rates.up()), "{}", rates.up());
        let next = later + Duration::from_secs(1);
        rates.hear(&Load { since: later, normal: 5, ..Load::default() }, next);
        assert!((4.8..6.5).contains(&rates.up()), "{}", rates.up());
    }

    proptest! {
        #[test]
        fn more_jobs_are_never_a_lower_rate(a in 0.0..10_000.0f64, more in 0.0..100.0f64, b in 1.0..2_000.0f64) {
            let (less, more) = (Gamma { a, b }, Gamma { a: a + more, b });
            prop_assert!(less.quantile(Z) <= more.quantile(Z) + 1e-12);
            prop_assert!(less.quantile(Z).is_finite());
        }
    }
}
