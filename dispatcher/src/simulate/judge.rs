//! Whether a run is good: against the targets, and against what others made of the same world.

use schemas::UsdNanos;
use serde::Serialize;

use super::{Outcome, Policy, Scenario, ledger::Group};

/// A part in a hundred is as cheap.
const AS_CHEAP_PPM: u128 = 10_000;

/// Targets against what was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// 95 of 100 jobs were fast enough.
    pub p95: bool,
    /// Enough succeeded in time.
    pub availability: bool,
    /// They cost little enough.
    pub cost: bool,
    /// The baseline had its share of steady minutes; missing where there was no such minute.
    pub share: Option<bool>,
}

impl Judgement {
    /// Whether all of it holds.
    pub fn all(&self) -> bool {
        self.p95 && self.availability && self.cost && self.share != Some(false)
    }
}

/// Holds a run against the scenario's targets; of tenants that keep to their share.
pub fn judge(scenario: &Scenario, outcome: &Outcome) -> Judgement {
    let targets = &scenario.targets;
    let share = |ppm: u64| (ppm as f64 / 1e6 - scenario.baseline_share).abs() <= targets.share_within + 1e-9;
    Judgement {
        p95: outcome.keeping.succeeded > 0 && outcome.keeping.p95() < targets.p95,
        availability: outcome.keeping.in_time_ppm as f64 / 1e6 > targets.availability,
        cost: outcome.blended_usd < targets.cost,
        share: outcome.share_ppm.map(share),
    }
}

/// How ours stands against another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Against {
    /// The other.
    pub policy: Policy,
    /// Cheaper, or as cheap within a hundredth and faster, and no less available.
    pub better: bool,
    /// What the other is better in: its figure, and ours.
    pub beaten_in: Vec<String>,
}

/// Holds `ours` against `other`. One that does not serve its jobs is not cheaper, whatever it saves.
pub fn versus(ours: &Outcome, other: &Outcome) -> Against {
    let (cost, others) = (ours.blended_usd.get(), other.blended_usd.get());
    let scaled = |usd: u64, ppm: u128| u128::from(usd) * ppm;
    let as_cheap = scaled(cost, 1_000_000) <= scaled(others, 1_000_000 + AS_CHEAP_PPM);
    let (fast, other_fast) = (ours.keeping.p95_us, other.keeping.p95_us);
    let (served, other_served) = (ours.keeping.in_time_ppm, other.keeping.in_time_ppm);
    let mut beaten_in = Vec::new();
    if !as_cheap {
        beaten_in.push(format!("cost ${} to ${}", dollars(other.blended_usd), dollars(ours.blended_usd)));
    }
    if other_fast < fast {
        beaten_in.push(format!("p95 {} to {}", seconds(&other.keeping), seconds(&ours.keeping)));
    }
    if other_served > served {
        beaten_in.push(format!("availability {} to {}", percent(other_served), percent(served)));
    }
    let cheaper = scaled(cost, 1_000_000 + AS_CHEAP_PPM) < scaled(others, 1_000_000);
    Against {
        policy: other.policy,
        // An availability a hundredth of a percent lower is the same.
        better: served + 100 >= other_served && (cheaper || (as_cheap && fast <= other_fast)),
        beaten_in,
    }
}

fn dollars(usd: UsdNanos) -> String {
    // To tenths of a millionth.
    UsdNanos::new(usd.get() / 100 * 100).to_string()
}

fn seconds(group: &Group) -> String {
    format!("{}.{:03} s", group.p95_us / 1_000_000, group.p95_us / 1_000 % 1_000)
}

fn percent(ppm: u64) -> String {
    format!("{}.{:03} %", ppm / 10_000, ppm / 10 % 1_000)
}
