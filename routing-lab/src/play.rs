//! One play: a scenario under one policy with one seed, from its first arrival to its last bill.

use crate::{
    baselines::{Kind, Plainly},
    beacon::Beacon,
    engine::{Ended, Engine},
    outcome::Outcome,
    policy::Policy,
    scenario::Scenario,
    trace::Trace,
};

/// Plays a scenario. `trace` is what the file holds that the scenario names, if it names one.
pub fn play(scenario: &Scenario, trace: Option<&Trace>, policy: Policy, seed: u64) -> Outcome {
    let Ended { ledger, bill, standing } = to_the_end(scenario, trace, policy, seed);
    let outcome = ledger.close(policy, standing);
    // Counted apart: what providers charged, and the sum of what jobs and idle containers cost.
    assert_eq!(outcome.total_usd.get(), bill, "every cost is somebody's");
    outcome
}

fn to_the_end<'a>(scenario: &'a Scenario, trace: Option<&Trace>, policy: Policy, seed: u64) -> Ended<'a> {
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
