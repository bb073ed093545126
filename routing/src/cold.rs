//! How likely a job meets a cold start at a pool, and how long the cold start takes. Pure.
//!
//! Two things make a start cold: nothing has run for a while, or more jobs run at once than did lately, so that a new container is
//! needed. The likelihood is learnt in bins by both, each a moving average over its jobs.

use std::time::Duration;

use schemas::Micros;

use crate::quantiles::Quantiles;

/// Upper ends of the bins by how long the model was idle there.
const IDLE: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(30), Duration::from_secs(120), Duration::from_secs(600)];
/// How much the newest job of a bin counts.
const NEWS: f64 = 0.1;
/// How much the newest job counts for the part of all jobs that met a cold start.
const FRACTION_NEWS: f64 = 0.02;
/// The likelihood in a bin before its first job, once a cold start was seen at all: low below the peak, high above it.
const PRIOR: [f64; 2] = [0.05, 0.8];
/// A peak is remembered for one to two times this: about as long as providers keep an idle container.
const PEAK_KEPT: Duration = Duration::from_secs(30);

/// What is known of cold starts of one model at one pool.
#[derive(Clone, Debug, Default)]
pub struct Cold {
    /// The likelihoods below the peak and above it, by bin; `None` until a job fell into the bin.
    seen: [[Option<f64>; IDLE.len() + 1]; 2],
    spans: Quantiles,
    ever: bool,
    peak: [u32; 2],
    peak_turned: Micros,
    last_used: Micros,
    last_known: Duration,
    fraction: f64,
}

/// The bin that a job falls into when it starts. Keep it until the job ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bin {
    above: bool,
    idle: u8,
}

impl Cold {
    /// The bin of a job that would be the `running`th to run now.
    pub fn bin(&self, running: u32, now: Micros) -> Bin {
        let idle = if running > 1 { Duration::ZERO } else { now.since(self.last_used) };
        let index = IDLE.iter().position(|end| idle <= *end).unwrap_or(IDLE.len());
        Bin { above: running > self.peak(), idle: u8::try_from(index).unwrap_or(0) }
    }

    /// A job started, the `running`th now.
    pub fn started(&mut self, running: u32, now: Micros) {
        if now.since(self.peak_turned) > PEAK_KEPT {
            self.peak = [0, if now.since(self.peak_turned) > PEAK_KEPT * 2 { 0 } else { self.peak[0] }];
            self.peak_turned = now;
        }
        self.peak[0] = self.peak[0].max(running);
        self.last_used = now;
    }

    /// A job of that bin ended after a cold start of `cold`; zero if there was none.
    pub fn ended(&mut self, bin: Bin, cold: Duration, now: Micros) {
        self.last_used = self.last_used.max(now);
        let was = if cold.is_zero() { 0.0 } else { 1.0 };
        self.fraction += (was - self.fraction) * FRACTION_NEWS;
        if !cold.is_zero() {
            self.ever = true;
            self.spans.record(cold, now);
            self.last_known = self.spans.p95();
        }
        let prior = PRIOR[usize::from(bin.above)];
        let known = self.seen[usize::from(bin.above)][usize::from(bin.idle)].get_or_insert(prior);
        *known += (was - *known) * NEWS;
    }

    /// Containers that are probably warm: as many as ran lately.
    pub fn peak(&self) -> u32 {
        self.peak[0].max(self.peak[1])
    }

    /// How likely a job of that bin meets a cold start, 0 to 1; 0 if none was ever seen.
    pub fn likely(&self, bin: Bin) -> f64 {
        if !self.ever {
            return 0.0;
        }
        self.seen[usize::from(bin.above)][usize::from(bin.idle)].unwrap_or(PRIOR[usize::from(bin.above)])
    }

    /// The part of the last few dozen jobs that met a cold start.
    pub const fn fraction(&self) -> f64 {
        self.fraction
    }

    /// How long a cold start takes, 95th percentile; zero if none was ever seen.
    pub const fn p95(&self) -> Duration {
        self.last_known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    #[test]
    fn it_learns_that_idle_containers_are_gone_and_busy_ones_are_warm() {
        let mut cold = Cold::default();
        let mut now = NOW;
        for _ in 0..60 {
            now = now + Duration::from_secs(200);
            let bin = cold.bin(1, now);
            cold.started(1, now);
            cold.ended(bin, Duration::from_millis(800), now);
            now = now + Duration::from_secs(1);
            let bin = cold.bin(1, now);
            cold.started(1, now);
            cold.ended(bin, Duration::ZERO, now);
        }
        let after = |idle| cold.likely(cold.bin(1, now + Duration::from_secs(idle)));
        assert!(after(200) > 0.9 && after(1) < 0.1, "{} {}", after(200), after(1));
        assert!(cold.p95() >= Duration::from_millis(790));
    }

    #[test]
    fn more_at_once_than_lately_is_likely_cold() {
        let mut cold = Cold::default();
        for running in 1..=5 {
            let bin = cold.bin(running, NOW);
            cold.started(running, NOW);
            cold.ended(bin, Duration::from_millis(800), NOW);
        }
        assert_eq!(cold.peak(), 5);
        assert!(cold.likely(cold.bin(6, NOW)) > 0.7);
        assert!(cold.likely(cold.bin(4, NOW)) < 0.1);
    }

    #[test]
    fn without_a_cold_start_none_is_expected() {
        let cold = Cold::default();
        assert!(cold.likely(cold.bin(100, NOW)) < f64::EPSILON);
    }
}
