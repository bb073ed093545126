//! The outcome of a demo beside the targets of the discovery report. Pure.

use std::{collections::BTreeMap, time::Duration};

use schemas::{
    Micros, ProviderId, Region, UsdNanos,
    cost::{CostEvent, Purpose},
    money,
    reply::{JobResult, Status},
};
use serde::Serialize;

use crate::ledger::Ledger;

/// The report's targets.
pub(crate) mod target {
    use std::time::Duration;

    use schemas::UsdNanos;

    /// 95 of 100 inferences are faster than this.
    pub(crate) const P95: Duration = Duration::from_secs(2);
    /// The least share of ended jobs that succeed.
    pub(crate) const AVAILABILITY: f64 = 0.995;
    /// Blended cost per inference, less than.
    pub(crate) const COST: UsdNanos = UsdNanos::new(500_000);
    /// The baseline's share of steady traffic, about.
    pub(crate) const SHARE: f64 = 0.7;
}

/// How one job went, as its producer saw it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Its result.
    pub(crate) result: JobResult,
    /// From submitting to having the result.
    pub(crate) latency: Duration,
}

/// The time in which a region's baseline was out, until it is trusted again. Jobs that ran there then are no steady traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outage {
    pub(crate) region: Region,
    pub(crate) from: Micros,
    pub(crate) until: Micros,
}

impl Outage {
    fn covers(&self, result: &JobResult) -> bool {
        result.region.as_ref() == Some(&self.region) && (self.from..=self.until).contains(&result.finished_us)
    }
}

/// A simulated provider's bill in one region, and the ledger's amount for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Audit {
    pub(crate) provider: ProviderId,
    pub(crate) region: Region,
    pub(crate) ledger_usd: UsdNanos,
    pub(crate) billed_usd: UsdNanos,
    /// By how much they may differ.
    pub(crate) judged_usd: UsdNanos,
}

impl Audit {
    pub(crate) fn agrees(&self) -> bool {
        self.ledger_usd.get().abs_diff(self.billed_usd.get()) <= self.judged_usd.get()
    }
}

/// A simulated provider's bill in one region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Billed {
    pub(crate) provider: ProviderId,
    pub(crate) region: Region,
    pub(crate) usd: UsdNanos,
    /// By how much the ledger may differ: units whose beginning or end the provider does not tell.
    pub(crate) judged: UsdNanos,
    /// Machines that were started there; `None` where none are rented.
    pub(crate) machines: Option<usize>,
}

/// What one provider did, in all regions.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Done {
    /// Jobs that succeeded there.
    pub(crate) jobs: usize,
    /// Their share of all that succeeded.
    pub(crate) share: f64,
    /// Machines that were rented; `None` at providers that rent none.
    pub(crate) machines_started: Option<usize>,
    /// What its attempts cost, wasted ones included.
    pub(crate) jobs_usd: UsdNanos,
    /// What stood and no job used.
    pub(crate) standing_usd: UsdNanos,
    /// Both, for a job that succeeded; `None` if none did.
    pub(crate) usd_per_job: Option<UsdNanos>,
    /// True if the ledger equals the bill in all its regions; `None` where nobody bills.
    pub(crate) bill_agrees: Option<bool>,
}

/// The outcome of a demo, as `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) jobs: usize,
    pub(crate) succeeded: usize,
    /// Ended otherwise.
    pub(crate) failed: usize,
    /// Accepted, and no result came.
    pub(crate) lost: usize,
    /// Had more than one stored result.
    pub(crate) doubled: usize,
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) blended_cost_usd: UsdNanos,
    pub(crate) total_cost_usd: UsdNanos,
    pub(crate) wasted_cost_usd: UsdNanos,
    pub(crate) standing_cost_usd: UsdNanos,
    pub(crate) availability: f64,
    /// Attempts beyond each job's first.
    pub(crate) retries: u64,
    /// Of the jobs that succeeded, by provider.
    pub(crate) share: BTreeMap<ProviderId, f64>,
    /// What each provider did.
    pub(crate) providers: BTreeMap<ProviderId, Done>,
    /// The baseline's share of them, without those that ran where and while it was out.
    pub(crate) steady_baseline_share: f64,
    pub(crate) ledger_matches_bill: bool,
    pub(crate) bills: Vec<Audit>,
    /// Cost events with an estimated amount.
    pub(crate) estimated_costs: usize,
    pub(crate) nats_server: String,
    pub(crate) elapsed_s: f64,
}

/// The records of a demo.
#[derive(Debug)]
pub(crate) struct Run<'a> {
    /// Jobs accepted.
    pub(crate) accepted: usize,
    /// Jobs that ended.
    pub(crate) seen: &'a [Seen],
    /// The stored results and costs.
    pub(crate) ledger: &'a Ledger,
    /// The bill of each simulated provider by region.
    pub(crate) bills: &'a [Billed],
    pub(crate) nats_server: &'a str,
    pub(crate) elapsed: Duration,
    /// The providers that carry the steady load.
    pub(crate) baseline: &'a [ProviderId],
    pub(crate) outage: Option<&'a Outage>,
}

impl Report {
    /// `None` when an amount is out of range.
    pub(crate) fn new(run: &Run<'_>) -> Option<Self> {
        let Run { accepted, seen, ledger, bills, nats_server, elapsed, baseline, outage } = run;
        let good: Vec<&Seen> = seen.iter().filter(|s| s.result.status == Status::Succeeded).collect();
        let mut latencies: Vec<Duration> = good.iter().map(|s| s.latency).collect();
        latencies.sort_unstable();
        let spent = |wanted: &[Purpose]| {
            money::total(ledger.costs.iter().filter(|c| wanted.contains(&c.purpose)).map(|c| c.amount_usd))
        };
        let total = money::total(ledger.costs.iter().map(|c| c.amount_usd))?;
        let audits = audit(&ledger.costs, bills)?;
        let share = share(&good);
        Some(Self {
            jobs: *accepted,
            succeeded: good.len(),
            failed: seen.len() - good.len(),
            lost: accepted.saturating_sub(seen.len()),
            doubled: ledger.results.values().filter(|count| **count > 1).count(),
            p50_ms: millis(percentile(&latencies, 50)),
            p95_ms: millis(percentile(&latencies, 95)),
            p99_ms: millis(percentile(&latencies, 99)),
            blended_cost_usd: total.per(good.len() as u64).unwrap_or(total),
            total_cost_usd: total,
            wasted_cost_usd: spent(&[Purpose::WastedFailure, Purpose::WastedRace, Purpose::Cancelled])?,
            standing_cost_usd: spent(&[Purpose::Standing])?,
            availability: ratio(good.len(), *accepted),
            retries: seen.iter().map(|s| u64::from(s.result.attempts.saturating_sub(1))).sum(),
            providers: providers(&good, &ledger.costs, bills, &audits)?,
            share,
            steady_baseline_share: steady_share(&good, baseline, *outage),
            ledger_matches_bill: audits.iter().all(Audit::agrees),
            bills: audits,
            estimated_costs: ledger.costs.iter().filter(|c| c.estimated).count(),
            nats_server: (*nats_server).to_owned(),
            elapsed_s: round(elapsed.as_secs_f64(), 1),
        })
    }

    /// Whether every job ended well, once, and every bill is booked to the nano-dollar.
    pub(crate) fn is_good(&self) -> bool {
        self.lost == 0 && self.failed == 0 && self.doubled == 0 && self.ledger_matches_bill
    }

    /// The lines of the table: what, measured, target, and whether it is met.
    pub(crate) fn rows(&self) -> Vec<[String; 4]> {
        let met = |good: bool| if good { "met" } else { "MISSED" }.to_owned();
        let plain = |what: &str, measured: String| [what.to_owned(), measured, String::new(), String::new()];
        let mut rows = vec![
            plain("jobs", self.jobs.to_string()),
            [
                "succeeded".into(),
                self.succeeded.to_string(),
                "all".into(),
                met(self.succeeded == self.jobs && self.doubled == 0),
            ],
            plain("p50", format!("{:.0} ms", self.p50_ms)),
            [
                "p95".into(),
                format!("{:.0} ms", self.p95_ms),
                format!("< {:.0} ms", millis(target::P95)),
                met(self.p95_ms < millis(target::P95)),
            ],
            plain("p99", format!("{:.0} ms", self.p99_ms)),
        ];
        rows.extend([
            [
                "baseline, steady traffic".into(),
                percent(self.steady_baseline_share, 1),
                percent(target::SHARE, 0),
                // It can only come close: jobs are whole, and few of them make a coarse share.
                met((self.steady_baseline_share - target::SHARE).abs() < 0.05),
            ],
            [
                "cost per inference".into(),
                format!("${}", self.blended_cost_usd),
                format!("< ${}", target::COST),
                met(self.blended_cost_usd < target::COST),
            ],
            [
                "availability".into(),
                percent(self.availability, 2),
                format!("> {}", percent(target::AVAILABILITY, 1)),
                met(self.availability > target::AVAILABILITY),
            ],
            plain("retries", self.retries.to_string()),
            plain("wasted cost", format!("${}", self.wasted_cost_usd)),
            plain("standing cost", format!("${}", self.standing_cost_usd)),
            [
                "ledger against bills".into(),
                if self.ledger_matches_bill { "equal" } else { "DIFFERENT" }.into(),
                "equal".into(),
                met(self.ledger_matches_bill),
            ],
        ]);
        rows
    }
}

impl Report {
    /// The lines of the table of providers.
    pub(crate) fn provider_rows(&self) -> Vec<[String; 8]> {
        let dash = || "-".to_owned();
        let row = |(provider, done): (&ProviderId, &Done)| {
            let bill = done.bill_agrees.map(|agrees| if agrees { "equal" } else { "DIFFERENT" }.to_owned());
            [
                provider.to_string(),
                done.jobs.to_string(),
                percent(done.share, 1),
                done.machines_started.map_or_else(dash, |count| count.to_string()),
                done.jobs_usd.to_string(),
                done.standing_usd.to_string(),
                done.usd_per_job.map_or_else(dash, |usd| usd.to_string()),
                bill.unwrap_or_else(dash),
            ]
        };
        self.providers.iter().map(row).collect()
    }
}

/// Each bill beside the ledger's amount for that provider and region.
pub(crate) fn audit(costs: &[CostEvent], bills: &[Billed]) -> Option<Vec<Audit>> {
    let mut audits = Vec::with_capacity(bills.len());
    for Billed { provider, region, usd, judged, machines: _ } in bills {
        let of_pool = costs.iter().filter(|c| c.provider == *provider && c.region == *region);
        audits.push(Audit {
            provider: provider.clone(),
            region: region.clone(),
            ledger_usd: money::total(of_pool.map(|c| c.amount_usd))?,
            billed_usd: *usd,
            judged_usd: *judged,
        });
    }
    Some(audits)
}

/// What each provider did. `None` when an amount is out of range.
fn providers(
    good: &[&Seen],
    costs: &[CostEvent],
    bills: &[Billed],
    audits: &[Audit],
) -> Option<BTreeMap<ProviderId, Done>> {
    let mut all: BTreeMap<ProviderId, Done> = BTreeMap::new();
    for provider in good.iter().filter_map(|seen| seen.result.provider.clone()) {
        all.entry(provider).or_default().jobs += 1;
    }
    for cost in costs {
        let done = all.entry(cost.provider.clone()).or_default();
        let sum = if cost.purpose == Purpose::Standing { &mut done.standing_usd } else { &mut done.jobs_usd };
        *sum = sum.checked_add(cost.amount_usd)?;
    }
    for (billed, audit) in bills.iter().zip(audits) {
        let done = all.entry(billed.provider.clone()).or_default();
        done.bill_agrees = Some(done.bill_agrees.unwrap_or(true) && audit.agrees());
        if let Some(machines) = billed.machines {
            *done.machines_started.get_or_insert(0) += machines;
        }
    }
    for done in all.values_mut() {
        done.share = ratio(done.jobs, good.len());
        done.usd_per_job = done.jobs_usd.checked_add(done.standing_usd)?.per(done.jobs as u64);
    }
    Some(all)
}

fn share(good: &[&Seen]) -> BTreeMap<ProviderId, f64> {
    let mut counts: BTreeMap<ProviderId, usize> = BTreeMap::new();
    for provider in good.iter().filter_map(|s| s.result.provider.clone()) {
        *counts.entry(provider).or_default() += 1;
    }
    counts.into_iter().map(|(provider, count)| (provider, ratio(count, good.len()))).collect()
}

/// The baseline's share of what did not run where and while it was out.
fn steady_share(good: &[&Seen], baseline: &[ProviderId], outage: Option<&Outage>) -> f64 {
    let steady = || good.iter().filter(|s| !outage.is_some_and(|outage| outage.covers(&s.result)));
    let carried = steady().filter(|s| s.result.provider.as_ref().is_some_and(|p| baseline.contains(p)));
    ratio(carried.count(), steady().count())
}

fn percent(share: f64, digits: usize) -> String {
    format!("{:.digits$} %", share * 100.0)
}

/// The smallest value that at least `percent` of 100 values do not exceed (nearest rank); zero of nothing.
pub(crate) fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn millis(span: Duration) -> f64 {
    round(span.as_secs_f64() * 1_000.0, 1)
}

fn ratio(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { round(part as f64 / whole as f64, 4) }
}

/// For reading: enough digits and no more.
fn round(value: f64, digits: i32) -> f64 {
    let factor = 10f64.powi(digits);
    (value * factor).round() / factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::{Tenant, reply::Timings};

    fn seen(status: Status, provider: &str, ms: u64, attempts: u16) -> Seen {
        let result = JobResult {
            job: schemas::JobId::new(uuid::Uuid::now_v7()),
            status,
            output: None,
            output_ref: None,
            usage: None,
            error: None,
            model: None,
            lane: None,
            provider: provider.parse().ok(),
            region: None,
            attempts,
            attempt_key: None,
            bill: None,
            log: None,
            timings: Timings::default(),
            cost_usd: UsdNanos::ZERO,
            labels: BTreeMap::new(),
            replay_of: None,
            decision: None,
            finished_us: Micros::new(0),
        };
        Seen { result, latency: Duration::from_millis(ms) }
    }

    fn cost(provider: &str, purpose: Purpose, nanos: u64) -> CostEvent {
        CostEvent {
            job: None,
            replay_of: None,
            attempt: 1,
            attempt_key: None,
            tenant: Tenant::default(),
            model: None,
            provider: provider.parse().unwrap(),
            region: "us-east".parse().unwrap(),
            purpose,
            lines: Vec::new(),
            amount_usd: UsdNanos::new(nanos),
            estimated: false,
            price_book: String::new(),
            at_us: Micros::new(0),
        }
    }

    fn report(accepted: usize, seen: &[Seen], costs: Vec<CostEvent>, billed: u64) -> Report {
        let ledger = Ledger { results: seen.iter().map(|s| (s.result.job, 1)).collect(), costs };
        let bills = [Billed {
            provider: "golem".parse().unwrap(),
            region: "us-east".parse().unwrap(),
            usd: UsdNanos::new(billed),
            judged: UsdNanos::ZERO,
            machines: Some(2),
        }];
        let run = Run {
            accepted,
            seen,
            ledger: &ledger,
            bills: &bills,
            nats_server: "2.15.1",
            elapsed: Duration::ZERO,
            baseline: &["golem".parse().unwrap()],
            outage: None,
        };
        Report::new(&run).unwrap()
    }

    #[test]
    fn a_percentile_is_the_nearest_rank() {
        let values: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(percentile(&values, 50), Duration::from_millis(50));
        assert_eq!(percentile(&values, 99), Duration::from_millis(99));
        assert_eq!(percentile(&values[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn all_cost_counts_and_only_good_jobs_share_it() {
        let seen = [
            seen(Status::Succeeded, "golem", 500, 1),
            seen(Status::Succeeded, "golem", 700, 3),
            seen(Status::Failed, "golem", 90_000, 4),
        ];
        let costs = vec![
            cost("golem", Purpose::Useful, 100),
            cost("golem", Purpose::WastedFailure, 30),
            cost("golem", Purpose::Standing, 71),
        ];
        let report = report(4, &seen, costs, 201);
        assert_eq!((report.succeeded, report.failed, report.lost, report.retries), (2, 1, 1, 5));
        assert_eq!(report.blended_cost_usd, UsdNanos::new(101));
        assert_eq!(
            (report.wasted_cost_usd, report.standing_cost_usd),
            (UsdNanos::new(30), UsdNanos::new(71))
        );
        assert!(report.ledger_matches_bill && !report.is_good());
        assert!((report.p99_ms - 700.0).abs() < f64::EPSILON);
        assert!((report.availability - 0.5).abs() < f64::EPSILON);
    }

    #[test]
    fn what_ran_during_an_outage_is_no_steady_traffic() {
        let at = |provider: &str, region: &str, us: u64| {
            let mut seen = seen(Status::Succeeded, provider, 1, 1);
            seen.result.region = region.parse().ok();
            seen.result.finished_us = Micros::new(us);
            seen
        };
        let all = [
            at("golem", "us-east", 5),
            at("modal", "us-east", 15),
            at("modal", "us-east", 20),
            at("golem", "eu-west", 15),
            at("modal", "eu-west", 16),
        ];
        let good: Vec<&Seen> = all.iter().collect();
        let outage =
            Outage { region: "us-east".parse().unwrap(), from: Micros::new(10), until: Micros::new(20) };
        let baseline = ["golem".parse().unwrap()];
        assert_eq!(steady_share(&good, &baseline, Some(&outage)).to_string(), "0.6667");
        assert_eq!(steady_share(&good, &baseline, None).to_string(), "0.4");
    }

    #[test]
    fn one_nano_dollar_is_a_difference() {
        let seen = [seen(Status::Succeeded, "golem", 1, 1)];
        let costs = || vec![cost("golem", Purpose::Useful, 100), cost("modal", Purpose::Useful, 7)];
        assert!(report(1, &seen, costs(), 100).is_good());
        assert!(!report(1, &seen, costs(), 101).is_good());
    }

    #[test]
    fn the_json_has_the_keys_that_were_promised() {
        let json = serde_json::to_value(report(1, &[], Vec::new(), 0)).unwrap();
        for key in [
            "jobs",
            "succeeded",
            "failed",
            "lost",
            "p50_ms",
            "p95_ms",
            "p99_ms",
            "blended_cost_usd",
            "availability",
            "share",
            "ledger_matches_bill",
            "nats_server",
        ] {
            assert!(json.get(key).is_some(), "{key}");
        }
    }
}
