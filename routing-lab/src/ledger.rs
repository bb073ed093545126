//! What a run came to: who was served how fast and at what cost, minute by minute.

use std::{collections::BTreeMap, time::Duration};

use schemas::{Micros, UsdNanos, time::micros};
use serde::Serialize;

use super::scenario::Scenario;
use routing::budget::{Held, Wait};

/// Points of a plot.
const STEPS: u64 = 150;
const MINUTE_US: u64 = 60_000_000;

/// What jobs together came to.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Group {
    /// Accepted.
    pub jobs: u64,
    /// Ended well, late or not.
    pub succeeded: u64,
    /// Of those, after their deadline.
    pub late: u64,
    /// Failed for good.
    pub failed: u64,
    /// Not begun by their deadline.
    pub expired: u64,
    /// From arrival to end, of those that succeeded, microseconds.
    pub p50_us: u64,
    /// As above.
    pub p95_us: u64,
    /// As above.
    pub p99_us: u64,
    /// Succeeded in time, of a million accepted.
    pub in_time_ppm: u64,
}

/// One span of a run, for plots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Step {
    /// From the start, seconds.
    pub at_s: u64,
    /// Jobs that succeeded.
    pub succeeded: u64,
    /// Of those, at the baseline.
    pub baseline: u64,
    /// Their 95th percentile, microseconds.
    pub p95_us: u64,
    /// What attempts that ended cost, nano-dollars.
    pub cost: u64,
    /// Jobs that wait for a pool.
    pub waiting: u64,
}

/// What a run came to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Outcome {
    /// Which.
    pub policy: super::Policy,
    /// Those that keep to their share: everybody where nobody is told apart.
    pub keeping: Group,
    /// Those that send more than their share for a while, or have a budget of their own.
    pub apart: Group,
    /// Attempts that were begun, second ones included.
    pub attempts: u64,
    /// Second attempts beside a first.
    pub hedges: u64,
    /// Offers that workers had no slot for.
    pub refused: u64,
    /// Useful attempts, dollars.
    pub useful_usd: UsdNanos,
    /// Attempts that failed.
    pub failed_usd: UsdNanos,
    /// Attempts that came second, or were stopped.
    pub hedge_usd: UsdNanos,
    /// Containers that ran no job.
    pub standing_usd: UsdNanos,
    /// All of it.
    pub total_usd: UsdNanos,
    /// All of it over jobs that succeeded.
    pub blended_usd: UsdNanos,
    /// The baseline's share of successes in steady minutes, in parts of a million; missing where there was no such minute.
    pub share_ppm: Option<u64>,
    /// Jain's index over tenants in minutes in which not all could be served, in parts of a million.
    pub jain_ppm: u64,
    /// How each budget was kept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub budgets: Vec<Spending>,
    /// For plots.
    pub steps: Vec<Step>,
}

/// What was spent of a budget.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Spending {
    /// The budget, in words.
    pub rule: String,
    /// In each period.
    pub limit_usd: UsdNanos,
    /// In the period in which it was most, by what attempts really cost that were begun in it.
    pub most_usd: UsdNanos,
    /// When jobs first waited for the next period, seconds from the start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_from_s: Option<u64>,
    /// Why they waited, as the last of them was told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub says: Option<String>,
}

/// Who pays for an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payer {
    pub(super) tenant: usize,
    pub(super) pool: usize,
    /// When the attempt was begun: the period that it belongs to.
    pub(super) sent: Micros,
}

/// How a job ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Succeeded { baseline: bool },
    Failed,
    Expired,
}

/// What a cost was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum For {
    Useful,
    Failure,
    Hedge,
}

#[derive(Clone, Copy, Default)]
struct Minute {
    succeeded: u64,
    baseline: u64,
    unsteady: bool,
}

pub(super) struct Ledger<'a> {
    scenario: &'a Scenario,
    start: Micros,
    step_us: u64,
    keeping: Group,
    apart: Group,
    latencies: Vec<u32>,
    apart_latencies: Vec<u32>,
    steps: Vec<Step>,
    /// Where each step's latencies begin.
    step_from: Vec<usize>,
    /// By region.
    minutes: Vec<Vec<Minute>>,
    /// By minute of arrival and tenant: asked for, and served in time.
    cohorts: Vec<Vec<(u64, u64)>>,
    apart_of: Vec<bool>,
    pub(super) attempts: u64,
    pub(super) hedges: u64,
    pub(super) refused: u64,
    useful: u64,
    failure: u64,
    hedge: u64,
    /// By budget and the start of its period.
    spent: BTreeMap<(usize, Micros), u64>,
    /// By budget: since when, and the last one's reason.
    held: BTreeMap<usize, (Micros, Held)>,
}

impl<'a> Ledger<'a> {
    pub(super) fn new(scenario: &'a Scenario, start: Micros) -> Self {
        let duration = micros(scenario.duration);
        let minutes = usize::try_from(duration / MINUTE_US + 1).unwrap_or(usize::MAX);
        let mut ledger = Self {
            scenario,
            start,
            step_us: (duration / STEPS).max(1_000_000),
            keeping: Group::default(),
            apart: Group::default(),
            latencies: Vec::new(),
            apart_latencies: Vec::new(),
            steps: Vec::new(),
            step_from: Vec::new(),
            minutes: vec![vec![Minute::default(); minutes]; scenario.regions.len()],
            cohorts: vec![vec![(0, 0); scenario.tenants.len()]; minutes],
            apart_of: (0..scenario.tenants.len()).map(|tenant| scenario.apart(tenant)).collect(),
            attempts: 0,
            hedges: 0,
            refused: 0,
            useful: 0,
            failure: 0,
            hedge: 0,
            spent: BTreeMap::new(),
            held: BTreeMap::new(),
        };
        ledger.mark_faults();
        ledger
    }

    /// Minutes with a fault or a burst are not steady, anywhere.
    fn mark_faults(&mut self) {
        let faults = self.scenario.faults.iter().map(|fault| (fault.from, fault.until));
        let bursts = self.scenario.bursts.iter().map(|burst| (burst.from, burst.until));
        for (from, until) in faults.chain(bursts) {
            let (first, last) = (micros(from) / MINUTE_US, (micros(until) - 1) / MINUTE_US);
            for minutes in &mut self.minutes {
                for minute in first..=last {
                    if let Some(minute) = usize::try_from(minute).ok().and_then(|m| minutes.get_mut(m)) {
                        minute.unsteady = true;
                    }
                }
            }
        }
    }

    fn minute(&self, at: Micros) -> usize {
        let minute = micros(at.since(self.start)) / MINUTE_US;
        usize::try_from(minute).unwrap_or(usize::MAX)
    }

    pub(super) fn accepted(&mut self, tenant: usize, now: Micros) {
        let minute = self.minute(now);
        if let Some(cohort) = self.cohorts.get_mut(minute) {
            cohort[tenant].0 += 1;
        }
        let group = if self.apart_of[tenant] { &mut self.apart } else { &mut self.keeping };
        group.jobs += 1;
    }

    /// The baseline of a region had no slot left.
    pub(super) fn saturated(&mut self, region: usize, now: Micros) {
        let minute = self.minute(now);
        if let Some(minute) = self.minutes[region].get_mut(minute) {
            minute.unsteady = true;
        }
    }

    pub(super) fn ended(
        &mut self,
        (region, tenant): (usize, usize),
        arrived: Micros,
        deadline: Micros,
        end: End,
        waiting: usize,
        now: Micros,
    ) {
        let apart = self.apart_of[tenant];
        let group = if apart { &mut self.apart } else { &mut self.keeping };
        let End::Succeeded { baseline } = end else {
            *(if end == End::Failed { &mut group.failed } else { &mut group.expired }) += 1;
            return;
        };
        group.succeeded += 1;
        if now > deadline {
            group.late += 1;
        } else {
            let minute = self.minute(arrived);
            if let Some(cohort) = self.cohorts.get_mut(minute) {
                cohort[tenant].1 += 1;
            }
        }
        let latency = u32::try_from(micros(now.since(arrived))).unwrap_or(u32::MAX);
        let count = u64::from(baseline);
        let minute = self.minute(now);
        if let Some(minute) = self.minutes[region].get_mut(minute) {
            minute.succeeded += 1;
            minute.baseline += count;
        }
        let step = self.step(now);
        (step.succeeded, step.baseline) = (step.succeeded + 1, step.baseline + count);
        step.waiting = step.waiting.max(waiting as u64);
        if apart {
            self.apart_latencies.push(latency);
        } else {
            self.latencies.push(latency);
        }
    }

    /// A job waits for money.
    pub(super) fn held(&mut self, held: Held, now: Micros) {
        if let Wait::Period(_) = held.wait {
            self.held.entry(held.rule).or_insert((now, held)).1 = held;
        }
    }

    fn spend(&mut self, payer: Payer, cost: UsdNanos) {
        let tenant = &self.scenario.tenants[payer.tenant].name;
        let provider = &self.scenario.pools[payer.pool].id.provider;
        for (index, rule) in self.scenario.budgets.as_slice().iter().enumerate() {
            let its = rule.tenant.as_ref().is_none_or(|name| name == tenant)
                && rule.provider.as_ref().is_none_or(|name| name == provider);
            if its {
                *self.spent.entry((index, rule.period.start(payer.sent))).or_default() += cost.get();
            }
        }
    }

    fn budgets(&self) -> Vec<Spending> {
        let rules = self.scenario.budgets.as_slice().iter().enumerate();
        rules
            .map(|(index, rule)| {
                let periods = self.spent.iter().filter(|((of, _), _)| *of == index);
                let held = self.held.get(&index);
                Spending {
                    rule: rule.to_string(),
                    limit_usd: rule.limit,
                    most_usd: UsdNanos::new(periods.map(|(_, spent)| *spent).max().unwrap_or(0)),
                    held_from_s: held.map(|(from, _)| from.since(self.start).as_secs()),
                    says: held.map(|(_, held)| held.to_string()),
                }
            })
            .collect()
    }

    pub(super) fn paid(&mut self, cost: UsdNanos, what: For, payer: Payer, now: Micros) {
        self.spend(payer, cost);
        let sum = match what {
            For::Useful => &mut self.useful,
            For::Failure => &mut self.failure,
            For::Hedge => &mut self.hedge,
        };
        *sum += cost.get();
        self.step(now).cost += cost.get();
    }

    /// The step of a time; times come in order.
    fn step(&mut self, now: Micros) -> &mut Step {
        let index = micros(now.since(self.start)) / self.step_us;
        while self.steps.len() as u64 <= index {
            let at_s = self.steps.len() as u64 * self.step_us / 1_000_000;
            self.steps.push(Step { at_s, ..Step::default() });
            self.step_from.push(self.latencies.len());
        }
        self.steps.last_mut().expect("one was pushed")
    }

    /// Adds up. `standing` is what containers cost that ran no job.
    pub(super) fn close(mut self, policy: super::Policy, standing: u64) -> Outcome {
        let ends = self.step_from.iter().skip(1).copied().chain([self.latencies.len()]).collect::<Vec<_>>();
        for ((step, from), to) in self.steps.iter_mut().zip(&self.step_from).zip(ends) {
            step.p95_us = percentile(&mut self.latencies[*from..to], 95);
        }
        finish(&mut self.keeping, &mut self.latencies);
        finish(&mut self.apart, &mut self.apart_latencies);
        let steady = self.minutes.iter().flatten().filter(|minute| !minute.unsteady);
        let (all, base) = steady.fold((0, 0), |(all, base), m| (all + m.succeeded, base + m.baseline));
        let total = self.useful + self.failure + self.hedge + standing;
        let succeeded = self.keeping.succeeded + self.apart.succeeded;
        Outcome {
            policy,
            jain_ppm: self.fairness(),
            budgets: self.budgets(),
            keeping: self.keeping,
            apart: self.apart,
            attempts: self.attempts,
            hedges: self.hedges,
            refused: self.refused,
            useful_usd: UsdNanos::new(self.useful),
            failed_usd: UsdNanos::new(self.failure),
            hedge_usd: UsdNanos::new(self.hedge),
            standing_usd: UsdNanos::new(standing),
            total_usd: UsdNanos::new(total),
            blended_usd: UsdNanos::new(total).per(succeeded).unwrap_or_default(),
            share_ppm: (all > 0).then(|| base * 1_000_000 / all),
            steps: self.steps,
        }
    }

    /// Jain's index (Jain, Chiu and Hawe, 1984) of what tenants got over what was fair, over minutes of arrival in which not
    /// all were served in time, each as heavy as its jobs. Fair is the weighted max-min share of all that was served.
    fn fairness(&self) -> u64 {
        let weights: Vec<f64> = self.scenario.tenants.iter().map(|tenant| f64::from(tenant.weight)).collect();
        let (mut sum, mut heavy) = (0.0, 0.0);
        // Who has no money left is not served for another reason than want of slots.
        let broke: Vec<bool> = (0..weights.len()).map(|tenant| self.scenario.may_run_out(tenant)).collect();
        for cohort in &self.cohorts {
            let cohort: Vec<(u64, u64)> =
                cohort.iter().zip(&broke).map(|(all, broke)| if *broke { (0, 0) } else { *all }).collect();
            let (asked, served) =
                cohort.iter().fold((0, 0), |(a, s), (asked, served)| (a + asked, s + served));
            // A few that failed for other reasons make no minute of want.
            if asked == 0 || served * 50 >= asked * 49 {
                continue;
            }
            let fair = max_min(served as f64, cohort.iter().map(|(asked, _)| *asked as f64), &weights);
            let parts = cohort.iter().zip(&fair).filter(|(_, fair)| **fair > 0.0);
            let (mut count, mut first, mut second) = (0.0, 0.0, 0.0);
            for ((_, served), fair) in parts {
                let x = *served as f64 / fair;
                (count, first, second) = (count + 1.0, first + x, second + x * x);
            }
            if second > 0.0 {
                sum += asked as f64 * first * first / (count * second);
                heavy += asked as f64;
            }
        }
        if heavy > 0.0 { ppm(sum / heavy) } else { 1_000_000 }
    }
}

/// Shares out `all` by weight, to nobody more than it asked for.
fn max_min(all: f64, asked: impl Iterator<Item = f64>, weights: &[f64]) -> Vec<f64> {
    let asked: Vec<f64> = asked.collect();
    let mut fair = vec![0.0; asked.len()];
    let mut open: Vec<usize> = (0..asked.len()).collect();
    let mut left = all;
    while !open.is_empty() && left > 1e-9 {
        let weight: f64 = open.iter().map(|i| weights[*i]).sum();
        let level = left / weight;
        let (full, rest): (Vec<usize>, Vec<usize>) =
            open.iter().partition(|i| asked[**i] <= level * weights[**i]);
        for &i in if full.is_empty() { &rest } else { &full } {
            fair[i] = if full.is_empty() { level * weights[i] } else { asked[i] };
        }
        if full.is_empty() {
            break;
        }
        left -= full.iter().map(|i| asked[*i]).sum::<f64>();
        open = rest;
    }
    fair
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a whole")]
fn ppm(part: f64) -> u64 {
    (part * 1e6).round() as u64
}

fn finish(group: &mut Group, latencies: &mut [u32]) {
    group.p50_us = percentile(latencies, 50);
    group.p95_us = percentile(latencies, 95);
    group.p99_us = percentile(latencies, 99);
    let in_time = group.succeeded - group.late;
    group.in_time_ppm = (in_time * 1_000_000).checked_div(group.jobs).unwrap_or(1_000_000);
}

/// The smallest that `percent` of a hundred do not exceed; reorders.
fn percentile(all: &mut [u32], percent: usize) -> u64 {
    if all.is_empty() {
        return 0;
    }
    let at = (all.len() * percent).div_ceil(100).max(1) - 1;
    u64::from(*all.select_nth_unstable(at).1)
}

impl Group {
    /// The 95th percentile as a span.
    pub const fn p95(&self) -> Duration {
        Duration::from_micros(self.p95_us)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_more_than_it_asked_for_and_the_rest_is_shared_by_weight() {
        let fair = max_min(100.0, [10.0, 500.0, 500.0].into_iter(), &[1.0, 1.0, 2.0]);
        assert_eq!(fair, vec![10.0, 30.0, 60.0]);
        assert_eq!(max_min(100.0, [10.0, 20.0].into_iter(), &[1.0, 1.0]), vec![10.0, 20.0]);
    }

    #[test]
    fn percentiles_are_by_rank() {
        let mut all: Vec<u32> = (1..=200).rev().collect();
        assert_eq!(
            (percentile(&mut all, 95), percentile(&mut all, 50), percentile(&mut [], 50)),
            (190, 100, 0)
        );
    }
}
