//! What a play promises in any world.

mod scenarios;

use proptest::prelude::*;

use super::*;

/// Plays a scenario under a policy and checks what must always hold.
fn check(scenario: &Scenario, policy: Policy, seed: u64) -> Outcome {
    let outcome = play(scenario, None, policy, seed);
    let mut jobs = 0;
    for group in [&outcome.keeping, &outcome.apart] {
        assert_eq!(group.succeeded + group.failed + group.expired, group.jobs, "each job ends once");
        jobs += group.jobs;
    }
    assert_eq!(
        jobs,
        arrivals::Arrivals::new(scenario, None, seed).count() as u64,
        "what arrived was accepted"
    );
    outcome
}

const KINDS: [&str; 9] = [
    "kind = \"down\"",
    "kind = \"slow\"\nfactor = 5.0",
    "kind = \"hang\"",
    "kind = \"rate_limit\"\npart = 0.2\nretry_after = \"2s\"",
    "kind = \"cut_off\"",
    "kind = \"price\"\nfactor = 1.4",
    "kind = \"cold_starts\"\nfactor = 3.0",
    "kind = \"garbage\"\npart = 0.3",
    "kind = \"capacity\"\npart = 0.1",
];

fn world(rate: f64, kind: usize, whom: &str, slots: u32, burst: f64) -> Scenario {
    let text = format!(
        "name = \"x\"\nduration = \"60s\"\n[arrivals]\nrate = {rate:?}\n[calls]\ntimeout = \"8s\"\n\
         [providers.golem.slots]\nus-east = {slots}\neu-west = 1\n[providers.modal.slots]\nus-east = {slots}\n\
         [[budgets]]\ntenant = \"globex\"\nperiod = \"hour\"\nlimit = \"0.02\"\n\
         [[bursts]]\ntenant = \"acme\"\nfrom = \"30s\"\nfor = \"10s\"\nfactor = {burst:?}\n\
         [[faults]]\n{}\n{whom}\nfrom = \"10s\"\nfor = \"25s\"\n",
        KINDS[kind]
    );
    Scenario::parse(&text).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn whatever_the_world_each_job_ends_once_and_every_cost_is_somebodys(
        rate in 1.0..60.0f64,
        kind in 0..KINDS.len(),
        whom in 0..3usize,
        slots in 1..40u32,
        burst in 0.0..20.0f64,
        policy in 0..Policy::ALL.len(),
        seed in 0..1_000u64,
    ) {
        let whom = ["", "provider = \"golem\"", "region = \"us-east\""][whom];
        let ours = check(&world(rate, kind, whom, slots, burst), Policy::Beacon, seed);
        let other = check(&world(rate, kind, whom, slots, burst), Policy::ALL[policy], seed);
        prop_assert_eq!(ours.keeping.jobs, other.keeping.jobs);
    }
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_seed_another() {
    let scenario = world(40.0, 1, "provider = \"golem\"", 20, 5.0);
    for policy in Policy::ALL {
        let told = |seed| serde_json::to_string(&check(&scenario, policy, seed)).unwrap();
        assert_eq!(told(7), told(7));
        assert_ne!(told(7), told(8));
    }
}
