//! Routing in virtual time: the real code against what others do, on one world with one seed. Pure: no I/O, no clock.
//!
//! [`Scenario`] says who sends what, what the world is like and what goes wrong. [`run`] plays it under a [`Policy`] and gives
//! an [`Outcome`]; the same scenario, policy and seed give the same outcome, to the last digit.
//!
//! Reading order: `scenario` and `raw` (what is played), `arrivals` and `trace` (jobs), `world` and `containers` (what is
//! outside), `router` (the seam), `beacon` and `baselines` (policies), `engine` (the loop), `ledger` (what it came to),
//! `judge` (targets).

mod arrivals;
mod baselines;
mod beacon;
mod chance;
mod containers;
mod engine;
mod judge;
mod ledger;
mod queue;
mod raw;
mod router;
mod scenario;
mod slab;
#[cfg(test)]
mod tests;
mod trace;
mod world;

use serde::Serialize;

use self::{
    baselines::{Kind, Plainly},
    beacon::Beacon,
    engine::{Ended, Engine},
};
pub use self::{
    judge::{Against, Judgement, Standing, judge, versus},
    ledger::{Group, Outcome, Spending, Step},
    raw::ScenarioError,
    scenario::{Arrivals, Fault, FaultKind, Scenario, Targets},
    trace::{Trace, TraceError},
};

/// Who routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// This crate.
    Beacon,
    /// The baseline by its share, else the cheapest other, by a coin.
    Static,
    /// One after the other.
    RoundRobin,
    /// The cheapest that has room.
    Cheapest,
    /// The fastest of late.
    LeastLatency,
    /// The emptier of two drawn at random.
    PowerOfTwo,
    /// As common gateways do: the emptiest, without those that failed three times in a minute.
    Gateway,
}

impl Policy {
    /// All, ours first.
    pub const ALL: [Self; 7] = [
        Self::Beacon,
        Self::Static,
        Self::RoundRobin,
        Self::Cheapest,
        Self::LeastLatency,
        Self::PowerOfTwo,
        Self::Gateway,
    ];

    /// Its name in arguments and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Beacon => "beacon",
            Self::Static => "static",
            Self::RoundRobin => "round_robin",
            Self::Cheapest => "cheapest",
            Self::LeastLatency => "least_latency",
            Self::PowerOfTwo => "power_of_two",
            Self::Gateway => "gateway",
        }
    }
}

impl std::fmt::Display for Policy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A name that no policy has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("policy `{0}` must be one of {list}", list = Policy::ALL.map(Policy::as_str).join(", "))]
pub struct PolicyError(String);

impl std::str::FromStr for Policy {
    type Err = PolicyError;
    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| PolicyError(text.chars().take(40).collect()))
    }
}

/// Plays a scenario. `trace` is what the file holds that the scenario names, if it names one.
pub fn run(scenario: &Scenario, trace: Option<&Trace>, policy: Policy, seed: u64) -> Outcome {
    let Ended { ledger, bill, standing } = play(scenario, trace, policy, seed);
    let outcome = ledger.close(policy, standing);
    // Counted apart: what providers charged, and what jobs and idle containers come to.
    assert_eq!(outcome.total_usd.get(), bill, "every cost is somebody's");
    outcome
}

fn play<'a>(scenario: &'a Scenario, trace: Option<&Trace>, policy: Policy, seed: u64) -> Ended<'a> {
    let plainly =
        |kind| Engine::new(scenario, trace, seed, |region| Plainly::new(kind, scenario, seed, region)).run();
    match policy {
        Policy::Beacon => {
            Engine::new(scenario, trace, seed, |region| Beacon::new(scenario, seed, region)).run()
        }
        Policy::Static => plainly(Kind::Static),
        Policy::RoundRobin => plainly(Kind::RoundRobin),
        Policy::Cheapest => plainly(Kind::Cheapest),
        Policy::LeastLatency => plainly(Kind::LeastLatency),
        Policy::PowerOfTwo => plainly(Kind::PowerOfTwo),
        Policy::Gateway => plainly(Kind::Gateway),
    }
}
