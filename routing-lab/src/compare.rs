//! Compares a play with the targets of its scenario, and with what another policy made of the same world.

use schemas::UsdNanos;
use serde::Serialize;

use crate::{
    outcome::{Group, Outcome},
    policy::Policy,
    scenario::Scenario,
};

/// A cost that is at most one hundredth higher counts as equally cheap.
const AS_CHEAP_PPM: u128 = 10_000;

/// Which targets were met.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct TargetsMet {
    /// 95 of 100 jobs were fast enough.
    pub p95: bool,
    /// Enough jobs succeeded in time.
    pub availability: bool,
    /// The mean cost of a job was low enough.
    pub cost: bool,
    /// The baseline had its share in steady minutes; missing if there was no such minute.
    pub share: Option<bool>,
}

impl TargetsMet {
    /// Whether all targets were met.
    pub fn all(&self) -> bool {
        self.missed().is_empty() && self.share != Some(false)
    }

    /// The targets that were missed, without the share: other policies do not aim at it.
    pub fn missed(&self) -> Vec<&'static str> {
        let all = [("p95", self.p95), ("availability", self.availability), ("cost", self.cost)];
        all.into_iter().filter(|(_, met)| !met).map(|(name, _)| name).collect()
    }
}

/// Compares a play with the targets. Only tenants that keep to their share count.
pub fn targets_met(scenario: &Scenario, outcome: &Outcome) -> TargetsMet {
    let targets = &scenario.targets;
    let share = |ppm: u64| (ppm as f64 / 1e6 - scenario.baseline_share).abs() <= targets.share_within + 1e-9;
    TargetsMet {
        p95: outcome.keeping.succeeded > 0 && outcome.keeping.p95() < targets.p95,
        availability: outcome.keeping.in_time_ppm as f64 / 1e6 > targets.availability,
        cost: outcome.blended_usd < targets.cost,
        share: outcome.share_ppm.map(share),
    }
}

/// How our policy compares with another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Against {
    /// The other policy.
    pub policy: Policy,
    /// Which of them is better.
    pub standing: Standing,
    /// Targets that the other missed, without the share.
    pub misses: Vec<&'static str>,
    /// Figures in which the other is better, even if it missed a target: its figure, and ours.
    pub beaten_in: Vec<String>,
}

/// Which of two policies is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Ours is: cheaper, or equally cheap and as fast, and no less available.
    Better,
    /// The other is.
    Beaten,
    /// The other missed a target, so it could not be used here, whatever it saves.
    Unfit,
}

/// Compares `ours` with `other`.
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
    let misses = targets_met(scenario, other).missed();
    let standing = match () {
        () if !misses.is_empty() => Standing::Unfit,
        () if better => Standing::Better,
        () => Standing::Beaten,
    };
    Against { policy: other.policy, standing, misses, beaten_in }
}

fn dollars(usd: UsdNanos) -> String {
    // To tenths of a millionth of a dollar.
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

    fn outcome(policy: Policy, usd: u64, p95_ms: u64) -> Outcome {
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
    fn a_policy_that_misses_a_target_beats_no_other_and_what_it_saves_is_told() {
        let scenario = Scenario::parse(r#"name = "x""#).unwrap();
        let check = |usd, p95_ms, standing, misses: &[&str], told: &str| {
            let against = versus(
                &scenario,
                &outcome(Policy::Beacon, 200_000, 1_500),
                &outcome(Policy::Static, usd, p95_ms),
            );
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
