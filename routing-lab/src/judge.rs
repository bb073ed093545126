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
        self.missed().is_empty() && self.share != Some(false)
    }

    /// What is missed of what anybody's jobs need; the share is a wish of ours.
    pub fn missed(&self) -> Vec<&'static str> {
        let all = [("p95", self.p95), ("availability", self.availability), ("cost", self.cost)];
        all.into_iter().filter(|(_, met)| !met).map(|(name, _)| name).collect()
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
    /// Who is better.
    pub standing: Standing,
    /// Targets that the other misses. Its share is its own affair.
    pub misses: Vec<&'static str>,
    /// What the other is better in, even one that misses a target: its figure, and ours.
    pub beaten_in: Vec<String>,
}

/// Who is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Ours: cheaper, or as cheap within a hundredth and as fast, and no less available.
    Better,
    /// The other.
    Beaten,
    /// The other misses a target: nobody could use it here, so whatever it saves it beats nobody.
    Unfit,
}

/// Holds `ours` against `other`.
pub fn versus(scenario: &Scenario, ours: &Outcome, other: &Outcome) -> Against {
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
    // An availability a hundredth of a percent lower is the same.
    let better = served + 100 >= other_served && (cheaper || (as_cheap && fast <= other_fast));
    let misses = judge(scenario, other).missed();
    let standing = match () {
        () if !misses.is_empty() => Standing::Unfit,
        () if better => Standing::Better,
        () => Standing::Beaten,
    };
    Against { policy: other.policy, standing, misses, beaten_in }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(policy: Policy, usd: u64, p95_ms: u64) -> Outcome {
        let group = Group {
            jobs: 100,
            succeeded: 100,
            p95_us: p95_ms * 1_000,
            in_time_ppm: 1_000_000,
            ..Group::default()
        };
        let none = UsdNanos::ZERO;
        Outcome {
            policy,
            keeping: group,
            apart: Group::default(),
            attempts: 100,
            hedges: 0,
            refused: 0,
            useful_usd: none,
            failed_usd: none,
            hedge_usd: none,
            standing_usd: none,
            total_usd: none,
            blended_usd: UsdNanos::new(usd),
            share_ppm: None,
            jain_ppm: 1_000_000,
            budgets: Vec::new(),
            steps: Vec::new(),
        }
    }

    #[test]
    fn who_misses_a_target_beats_nobody_and_what_it_saves_is_told() {
        let scenario = Scenario::parse(r#"name = "x""#).unwrap();
        let check = |usd, p95_ms, standing, misses: &[&str], told: &str| {
            let against =
                versus(&scenario, &run(Policy::Beacon, 200_000, 1_500), &run(Policy::Static, usd, p95_ms));
            assert_eq!((against.standing, &*against.misses), (standing, misses));
            assert_eq!(against.beaten_in.concat(), told);
        };
        check(300_000, 1_500, Standing::Better, &[], "");
        check(100_000, 1_600, Standing::Beaten, &[], "cost $0.0001 to $0.0002");
        check(200_000, 1_400, Standing::Beaten, &[], "p95 1.400 s to 1.500 s");
        check(100_000, 2_100, Standing::Unfit, &["p95"], "cost $0.0001 to $0.0002");
        check(600_000, 2_100, Standing::Unfit, &["p95", "cost"], "");
    }
}
