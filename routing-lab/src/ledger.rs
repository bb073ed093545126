//! Adds up what happens during a play: which jobs were served how fast and at what cost, minute by minute.

use std::collections::BTreeMap;

use routing::budget::{Held, Wait};
use schemas::{Micros, UsdNanos, time::micros};

use crate::{
    fairness::fairness,
    outcome::{Group, Outcome, Spending, Step},
    policy::Policy,
    scenario::Scenario,
};

/// How many steps a plot has.
const STEPS: u64 = 150;
const MINUTE_US: u64 = 60_000_000;

/// Who pays for an attempt.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payer {
    pub(super) tenant: usize,
    pub(super) pool: usize,
    /// When the attempt began: says which period of a budget it belongs to.
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
    /// The index in `latencies` at which each step begins.
    step_from: Vec<usize>,
    /// By region.
    minutes: Vec<Vec<Minute>>,
    /// By minute of arrival and tenant: jobs that arrived, and those served in time.
    cohorts: Vec<Vec<(u64, u64)>>,
    apart_of: Vec<bool>,
    pub(super) attempts: u64,
    pub(super) hedges: u64,
    pub(super) refused: u64,
    useful: u64,
    failure: u64,
    hedge: u64,
    /// By budget and start of the period: what was spent.
    spent: BTreeMap<(usize, Micros), u64>,
    /// By budget: since when jobs waited, and the reason of the last.
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

    /// The baseline of a region had no free slot: the minute is not steady.
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

    /// A job waits for the next period of a budget.
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

    /// The step of a time. Times come in order.
    fn step(&mut self, now: Micros) -> &mut Step {
        let index = micros(now.since(self.start)) / self.step_us;
        while self.steps.len() as u64 <= index {
            let at_s = self.steps.len() as u64 * self.step_us / 1_000_000;
            self.steps.push(Step { at_s, ..Step::default() });
            self.step_from.push(self.latencies.len());
        }
        self.steps.last_mut().expect("one was pushed")
    }

    /// Adds up. `standing` is what containers cost while they ran no job.
    pub(super) fn close(mut self, policy: Policy, standing: u64) -> Outcome {
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
            jain_ppm: fairness(self.scenario, &self.cohorts),
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
}

fn finish(group: &mut Group, latencies: &mut [u32]) {
    group.p50_us = percentile(latencies, 50);
    group.p95_us = percentile(latencies, 95);
    group.p99_us = percentile(latencies, 99);
    let in_time = group.succeeded - group.late;
    group.in_time_ppm = (in_time * 1_000_000).checked_div(group.jobs).unwrap_or(1_000_000);
}

/// The smallest value that `percent` of a hundred values do not exceed. Reorders `all`.
fn percentile(all: &mut [u32], percent: usize) -> u64 {
    if all.is_empty() {
        return 0;
    }
    let at = (all.len() * percent).div_ceil(100).max(1) - 1;
    u64::from(*all.select_nth_unstable(at).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_by_rank() {
        let mut all: Vec<u32> = (1..=200).rev().collect();
        assert_eq!(
            (percentile(&mut all, 95), percentile(&mut all, 50), percentile(&mut [], 50)),
            (190, 100, 0)
        );
    }
}
