//! What each worker of a pool last said about one model, and what that makes for the pool as a whole. Pure.
//!
//! A job that is offered to a pool runs at any of its workers, so a decision looks at the pool: counts are sums, figures are means
//! weighted by slots, and where workers differ in kind the careful one of the two answers is taken.

use std::time::Duration;

use schemas::{UsdNanos, WorkerId, heartbeat::ServedModel};

/// What one worker says about one model.
#[derive(Clone, Debug)]
pub struct Report {
    /// Who says so.
    pub worker: WorkerId,
    /// How much its figures count: its slots while it takes jobs, else nothing.
    pub weight: u32,
    /// What it says.
    pub served: ServedModel,
}

/// The newest report of each worker of a pool, about one model.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    reports: Vec<Report>,
}

impl Reports {
    /// Takes in a report, in place of the last one of the same worker.
    pub fn hear(&mut self, report: Report) {
        match self.reports.binary_search_by(|known| known.worker.cmp(&report.worker)) {
            Ok(index) => self.reports[index] = report,
            Err(index) => self.reports.insert(index, report),
        }
    }

    /// Drops what a worker said. True if it had said something.
    pub fn forget(&mut self, worker: &WorkerId) -> bool {
        let before = self.reports.len();
        self.reports.retain(|report| report.worker != *worker);
        self.reports.len() < before
    }

    /// Whether no worker serves the model.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// What the reports make for the pool, and the part of the expected cost that is not billed by time. `None` without a report.
    ///
    /// - `running` and `overdue` are sums.
    /// - `p50_us`, `p95_us`, costs and prices are means weighted by slots, rounded up: what a job meets on average. The tail of two
    ///   unlike workers is longer than the mean of their tails; our own figures take over after a few jobs.
    /// - `size` is the smallest, with its `sku`: no more is promised to a job that ran out of memory.
    /// - `idle_us` is the longest. `rented`, `detached` and `warmable` hold only if all workers say so.
    pub fn combined(&self) -> Option<(ServedModel, UsdNanos)> {
        let smallest = self.reports.iter().min_by_key(|report| report.served.size)?;
        let all = |test: fn(&ServedModel) -> bool| self.each().all(test);
        let count = |of: fn(&ServedModel) -> u32| self.each().map(of).fold(0, u32::saturating_add);
        let served = ServedModel {
            model: smallest.served.model.clone(),
            sku: smallest.served.sku.clone(),
            size: smallest.served.size,
            expected_cost_usd: UsdNanos::new(self.mean(|served| served.expected_cost_usd.get())),
            p50_us: self.mean(|served| served.p50_us),
            p95_us: self.mean(|served| served.p95_us),
            running: count(|served| served.running),
            overdue: count(|served| served.overdue),
            second_usd: UsdNanos::new(self.mean(|served| served.second_usd.get())),
            idle_us: self.each().map(|served| served.idle_us).max().unwrap_or(0),
            rented: all(|served| served.rented),
            detached: all(|served| served.detached),
            warmable: all(|served| served.warmable),
        };
        // By worker, and then the mean: prices and medians may differ between workers.
        Some((served, UsdNanos::new(self.mean(|served| fixed(served).get()))))
    }

    fn each(&self) -> impl Iterator<Item = &ServedModel> {
        self.reports.iter().map(|report| &report.served)
    }

    /// The mean of a figure, weighted by slots and rounded up. While no worker takes jobs, all count alike.
    fn mean(&self, of: impl Fn(&ServedModel) -> u64) -> u64 {
        let open = self.reports.iter().any(|report| report.weight > 0);
        let (mut sum, mut weights) = (0u128, 0u128);
        for report in &self.reports {
            let weight = if open { u128::from(report.weight) } else { 1 };
            sum += weight * u128::from(of(&report.served));
            weights += weight;
        }
        u64::try_from(sum.div_ceil(weights.max(1))).unwrap_or(u64::MAX)
    }
}

/// What a job costs besides its time: a worker's expected cost is that of a job that takes its median time.
fn fixed(served: &ServedModel) -> UsdNanos {
    let timed = served.second_usd.for_seconds(Duration::from_micros(served.p50_us));
    timed.and_then(|timed| served.expected_cost_usd.checked_sub(timed)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(worker: &str, weight: u32, p50_us: u64, running: u32) -> Report {
        let served = ServedModel {
            model: "mistral-7b".parse().unwrap(),
            sku: worker.to_owned(),
            size: u16::try_from(p50_us / 1_000).unwrap(),
            expected_cost_usd: UsdNanos::new(p50_us * 10),
            p50_us,
            p95_us: p50_us * 2,
            running,
            overdue: running / 2,
            second_usd: UsdNanos::ZERO,
            idle_us: p50_us,
            rented: weight > 10,
            detached: true,
            warmable: true,
        };
        Report { worker: worker.parse().unwrap(), weight, served }
    }

    fn of(reports: &[Report]) -> (ServedModel, UsdNanos) {
        let mut all = Reports::default();
        for report in reports {
            all.hear(report.clone());
        }
        all.combined().unwrap()
    }

    #[test]
    fn counts_are_sums_and_figures_are_means_by_slots() {
        let (served, fixed) = of(&[report("big", 30, 1_000, 20), report("small", 10, 5_000, 7)]);
        assert_eq!((served.running, served.overdue), (27, 13));
        assert_eq!((served.p50_us, served.p95_us), (2_000, 4_000));
        assert_eq!((served.expected_cost_usd, fixed), (UsdNanos::new(20_000), UsdNanos::new(20_000)));
    }

    #[test]
    fn what_only_one_worker_can_do_is_not_promised() {
        let (served, _) = of(&[report("big", 30, 1_000, 20), report("small", 10, 5_000, 7)]);
        assert_eq!((served.size, served.sku.as_str(), served.idle_us), (1, "big", 5_000));
        assert!(served.detached && served.warmable && !served.rented);
    }

    #[test]
    fn a_worker_that_leaves_counts_what_it_runs_and_not_what_it_is_like() {
        let (served, _) = of(&[report("leaving", 0, 9_000, 8), report("new", 10, 1_000, 1)]);
        assert_eq!((served.running, served.p50_us), (9, 1_000));
        let (served, _) = of(&[report("a", 0, 9_000, 8), report("b", 0, 1_000, 1)]);
        assert_eq!(served.p50_us, 5_000, "all are leaving");
    }

    #[test]
    fn what_a_worker_said_goes_with_it() {
        let mut all = Reports::default();
        all.hear(report("a", 10, 1_000, 8));
        all.hear(report("b", 10, 3_000, 4));
        all.hear(report("b", 10, 3_000, 5));
        assert_eq!(all.combined().unwrap().0.running, 13);
        assert!(all.forget(&"a".parse().unwrap()) && !all.forget(&"a".parse().unwrap()));
        assert_eq!((all.combined().unwrap().0.running, all.combined().unwrap().0.p50_us), (5, 3_000));
        assert!(all.forget(&"b".parse().unwrap()) && all.is_empty() && all.combined().is_none());
    }
}
