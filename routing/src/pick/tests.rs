use std::time::Duration;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use schemas::{
    Lane, ModelToken,
    failure::{Failure, FailureClass},
    job::{Job, JobHeaders},
    journal::{Entry, Trace},
};

use super::*;
use crate::{
    never::{DEAR_FOR, KnownPool, hopeless},
    pool::{Pools, tests::beat},
    track::{Ours, Outcome},
};

const NOW: Micros = Micros::new(1_795_000_000_000_000);
const NONE: &Journal = &Journal {
    entries: Vec::new(),
    dropped: schemas::journal::Dropped { counted: 0, uncounted: 0, cost_usd: UsdNanos::ZERO },
};

fn job(extra: &str) -> Job {
    let body = format!(r#"{{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x"{extra}}}"#);
    let subject = "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap();
    Job::read(subject, JobHeaders::default(), body.as_bytes(), NOW).unwrap()
}

fn picker() -> Picker {
    Picker::new(PolicyConfig::default(), BreakerConfig::default())
}

fn pools(beats: &[(&str, u32, u32, u64)]) -> Pools {
    let mut pools = Pools::default();
    for (id, slots, running, cost) in beats {
        pools.heartbeat(beat(id, *slots, *running, *cost), NOW);
    }
    pools
}

fn pick(picker: &mut Picker, pools: &Pools, job: &Job, journal: &Journal) -> Option<(String, Reason)> {
    let mut rng = StdRng::seed_from_u64(7);
    let choice = picker.pick(pools.as_slice(), Ask::of(job, journal), NOW, &mut rng)?;
    picker.placed(&job.subject.region, &choice);
    Some((pools.as_slice()[choice.index].id.to_string(), choice.reason))
}

fn failed_at(pool: &str) -> Journal {
    let failure = Failure::new(FailureClass::ProviderDown, "x");
    let trace = Trace::Failed { failure, cost_usd: UsdNanos::new(600_000) };
    Journal {
        entries: vec![Entry { attempt: 1, key: None, pool: pool.parse().unwrap(), started_us: NOW, trace }],
        ..Journal::default()
    }
}

const THREE: [(&str, u32, u32, u64); 3] =
    [("golem@us-east", 10, 0, 100_000), ("modal@us-east", 10, 0, 300_000), ("fly@us-east", 10, 0, 200_000)];

#[test]
fn the_baseline_gets_its_share_and_the_better_others_most_of_the_rest() {
    let (pools, mut picker, job, mut rng) = (pools(&THREE), picker(), job(""), StdRng::seed_from_u64(7));
    let mut count = HashMap::<String, u32>::new();
    for _ in 0..1_000 {
        let ask = Ask::of(&job, NONE);
        let choice = picker.pick(pools.as_slice(), ask, NOW, &mut rng).unwrap();
        picker.placed(&job.subject.region, &choice);
        *count.entry(pools.as_slice()[choice.index].id.to_string()).or_default() += 1;
    }
    let (golem, fly) = (count["golem@us-east"], count["fly@us-east"]);
    assert!((680..=720).contains(&golem), "{count:?}");
    assert!(fly > 3 * (1_000 - golem - fly), "{count:?}");
}

#[test]
fn the_share_is_filled_by_the_jobs_that_gain_most() {
    // A small model costs the same everywhere, a large one three times as much elsewhere.
    let mut pools = pools(&[("golem@us-east", 100, 0, 100_000), ("modal@us-east", 100, 0, 100_000)]);
    let mut modal = beat("modal@us-east", 100, 0, 100_000);
    modal.models[1].expected_cost_usd = UsdNanos::new(300_000);
    pools.heartbeat(modal, NOW);
    let small = job("");
    let mut large = small.clone();
    large.head.subject.model = "mistral-7b".parse().unwrap();
    let (mut picker, mut rng, mut golem, mut dear) = (picker(), StdRng::seed_from_u64(7), 0, 0);
    for i in 0..2_000 {
        let job = if i % 2 == 0 { &small } else { &large };
        let choice = picker.pick(pools.as_slice(), Ask::of(job, NONE), NOW, &mut rng).unwrap();
        picker.placed(&job.subject.region, &choice);
        golem += u32::from(choice.index == 0);
        dear += u32::from(choice.index == 1 && i % 2 == 1);
    }
    assert!((1_360..=1_440).contains(&golem), "{golem}");
    assert!(dear < 20, "{dear} large jobs went where they cost three times as much");
}

#[test]
fn a_full_baseline_bursts_and_an_outage_is_not_made_good_by_a_stampede() {
    let full = pools(&[("golem@us-east", 10, 10, 1), ("modal@us-east", 10, 0, 3)]);
    let (mut picker, job) = (picker(), job(""));
    for _ in 0..1_000 {
        let (pool, reason) = pick(&mut picker, &full, &job, NONE).unwrap();
        assert_eq!((pool.as_str(), reason), ("modal@us-east", Reason::Burst));
    }
    let back = pools(&[("golem@us-east", 10, 0, 1), ("modal@us-east", 10, 0, 3)]);
    let run = (0..200).filter(|_| pick(&mut picker, &back, &job, NONE).unwrap().0 == "golem@us-east").count();
    assert!(run <= 140 + 20 + 20 + 1, "{run}");
}

#[test]
fn a_retry_goes_elsewhere_and_back_only_when_nobody_else_is_left() {
    let (mut picker, job, mut rng) = (picker(), job(""), StdRng::seed_from_u64(7));
    let journal = failed_at("golem@us-east");
    for _ in 0..50 {
        assert_ne!(pick(&mut picker, &pools(&THREE), &job, &journal).unwrap().0, "golem@us-east");
    }
    let (alone, ask) = (pools(&THREE[..1]), Ask::of(&job, &journal));
    assert!(picker.pick(alone.as_slice(), ask, NOW, &mut rng).unwrap().again);
    let resting = Ask { rests: true, ..ask };
    assert_eq!(picker.pick(alone.as_slice(), resting, NOW, &mut rng), None, "it goes back after a pause");
    assert!(picker.pick(pools(&THREE).as_slice(), resting, NOW, &mut rng).is_some(), "others need no pause");
    let waiting = pools(&[THREE[0], ("modal@us-east", 10, 10, 1)]);
    let picked = picker.pick(waiting.as_slice(), ask, NOW, &mut rng);
    assert_eq!(picked, None, "a full pool that is new is waited for");
}

/// A job that failed at Golem and has waited for `held_for`: whether it goes back there while Modal is as `others` makes it.
fn goes_back(held_for: Duration, others: impl Fn(&mut Pools)) -> bool {
    let (mut picker, job, mut rng) = (picker(), job(""), StdRng::seed_from_u64(7));
    let mut pools = pools(&THREE[..2]);
    others(&mut pools);
    let journal = failed_at("golem@us-east");
    let ask = Ask { held_for, ..Ask::of(&job, &journal) };
    let choice = picker.pick(pools.as_slice(), ask, NOW, &mut rng);
    if let Some(choice) = choice {
        assert!(choice.index == 0 && choice.again, "{choice:?}");
    }
    choice.is_some()
}

#[test]
fn a_job_waits_ten_seconds_for_a_pool_that_is_new_to_it_and_then_goes_back() {
    let full = |pools: &mut Pools| assert!(!pools.heartbeat(beat("modal@us-east", 10, 10, 1), NOW));
    let at_its_limit = |pools: &mut Pools| {
        let (model, config) = ("llama-3-2-1b".parse().unwrap(), BreakerConfig::default());
        for _ in 0..10 {
            pools.sent(1, &model, &config, NOW);
            pools.answered(&"modal@us-east".parse().unwrap(), &model, true);
        }
    };
    // Suspect, and not opened as a slow pool: a slot of a third pool is expected within a second.
    let slow = |pools: &mut Pools| {
        pools.at(1).track_mut(&"llama-3-2-1b".parse().unwrap()).unwrap().suspect(NOW);
        pools.heartbeat(beat("fly@us-east", 10, 10, 1), NOW);
    };
    for held in [Duration::from_millis(9_999), HOPE_FOR] {
        let back = held >= HOPE_FOR;
        assert_eq!([goes_back(held, full), goes_back(held, at_its_limit), goes_back(held, slow)], [back; 3]);
    }
}

#[test]
fn another_region_takes_it_only_when_that_is_sooner() {
    let (mut picker, job, mut rng) = (picker(), job(""), StdRng::seed_from_u64(7));
    let mut far = beat("golem@eu-west", 10, 0, 1);
    far.at_us = NOW - Duration::from_millis(90);
    let mut both = pools(&[("golem@us-east", 10, 10, 1)]);
    both.heartbeat(far.clone(), NOW);
    // Ten slots of 400 ms: one becomes free each 40 ms.
    let ask = Ask::of(&job, NONE);
    assert_eq!(picker.pick(both.as_slice(), ask, NOW, &mut rng), None);
    assert_eq!(picker.seen()[1].refused, Some(Refusal::Region));
    let behind = Ask { ahead: 9, ..ask };
    let picked = picker.pick(both.as_slice(), behind, NOW, &mut rng).unwrap();
    assert_eq!((picked.index, picked.reason), (1, Reason::OtherRegion));
    let mut only_far = Pools::default();
    only_far.heartbeat(far, NOW);
    let picked = picker.pick(only_far.as_slice(), ask, NOW, &mut rng).unwrap();
    assert_eq!(picked.reason, Reason::OtherRegion);
    let bound = self::job(r#","routing":{"allow_regions":["us-east"]}"#);
    assert_eq!(pick(&mut picker, &only_far, &bound, NONE), None);
}

fn check_refused(extra: &str, journal: &Journal, refusal: Refusal) {
    let (pools, mut picker, job) = (pools(&THREE[..1]), picker(), job(extra));
    assert_eq!(pick(&mut picker, &pools, &job, journal), None);
    assert_eq!(picker.seen()[0].refused, Some(refusal));
}

#[test]
fn a_refusal_has_a_reason() {
    check_refused(r#","routing":{"deny_providers":["golem"]}"#, NONE, Refusal::Provider);
    check_refused(r#","routing":{"allow_providers":["modal"]}"#, NONE, Refusal::Provider);
    check_refused(r#","max_cost_usd":"0.00009""#, NONE, Refusal::MaxCost);
    check_refused(r#","max_cost_usd":"0.0006""#, &failed_at("fly@us-east"), Refusal::MaxCost);
    check_refused(r#","deadline":"2020-01-01T00:00:00Z""#, NONE, Refusal::Deadline);
}

#[test]
fn a_deadline_rules_out_who_would_be_late_unless_all_would_be() {
    let mut pools = pools(&THREE[..2]);
    let mut slow = beat("golem@us-east", 10, 0, 100_000);
    slow.models[0].p95_us = 5_000_000;
    pools.heartbeat(slow, NOW);
    let mut job = job("");
    job.head.deadline = Some(NOW + Duration::from_secs(2));
    let (mut picker, mut rng) = (picker(), StdRng::seed_from_u64(7));
    for _ in 0..50 {
        assert_eq!(pick(&mut picker, &pools, &job, NONE).unwrap().0, "modal@us-east");
    }
    job.head.deadline = Some(NOW + Duration::from_millis(10));
    assert!(picker.pick(pools.as_slice(), Ask::of(&job, NONE), NOW, &mut rng).is_some());
}

#[test]
fn a_budget_keeps_a_job_from_dear_pools_only() {
    let (pools, mut picker, job, mut rng) = (pools(&THREE), picker(), job(""), StdRng::seed_from_u64(7));
    let poor = |_: &ProviderId, amount: UsdNanos| amount <= UsdNanos::new(200_000);
    let ask = Ask { affordable: &poor, ..Ask::of(&job, NONE) };
    for _ in 0..200 {
        let choice = picker.pick(pools.as_slice(), ask, NOW, &mut rng).unwrap();
        assert_ne!(pools.as_slice()[choice.index].id.to_string(), "modal@us-east");
    }
    assert_eq!(picker.seen()[1].refused, Some(Refusal::Budget));
}

#[test]
fn a_provider_that_failed_is_tried_again_by_one_job_and_then_by_two() {
    let (mut pools, mut picker) = (pools(&THREE[..2]), picker());
    let (config, mut rng) = (BreakerConfig::default(), StdRng::seed_from_u64(7));
    let (golem, model): (PoolId, ModelToken) =
        ("golem@us-east".parse().unwrap(), "llama-3-2-1b".parse().unwrap());
    for _ in 0..5 {
        let bin = pools.sent(0, &model, &config, NOW);
        pools.answered(&golem, &model, true);
        let down = Outcome { failed: Some(FailureClass::ProviderDown), ..Outcome::default() };
        pools.ended(&golem, &model, &down, bin, &config, NOW, &mut rng);
    }
    let job = job("");
    assert_eq!(pick(&mut picker, &pools, &job, NONE).unwrap().0, "modal@us-east");
    let later = NOW + Duration::from_secs(60);
    for id in ["golem@us-east", "modal@us-east"] {
        pools.heartbeat(beat(id, 10, 0, 1), later);
    }
    let mut probes = 0;
    for _ in 0..10 {
        let choice = picker.pick(pools.as_slice(), Ask::of(&job, NONE), later, &mut rng).unwrap();
        if choice.index == 0 {
            assert_eq!(choice.reason, Reason::Probe);
            pools.sent(0, &model, &config, later);
            probes += 1;
        }
    }
    assert_eq!(probes, 1);
}

/// Pools in two regions, each with its slots, load, cost, open offers and news.
fn any_pools() -> impl Strategy<Value = Vec<(u32, u32, u64, u32, u8)>> {
    proptest::collection::vec((0..4u32, 0..4u32, 1..9u64, 0..3u32, 0..6u8), 1..12)
}

proptest! {
    #[test]
    fn no_decision_for_a_pool_that_may_not_take_it(
        states in any_pools(), deny in 0..12usize, seed: u64, lane in 0..3usize, rich in 0..9u64,
        max in 1..9u64,
    ) {
        let names: Vec<String> =
            (0..states.len()).map(|i| format!("p{i}@{}", ["us-east", "eu-west"][i % 2])).collect();
        let (config, mut rng) = (BreakerConfig::default(), StdRng::seed_from_u64(seed));
        let mut pools = Pools::default();
        let model: ModelToken = "llama-3-2-1b".parse().unwrap();
        for (i, (slots, running, cost, _, news)) in states.iter().enumerate() {
            pools.heartbeat(beat(&names[i], *slots, *running, *cost), NOW);
            let classes =
                [None, Some(FailureClass::ProviderDown), Some(FailureClass::RateLimited), Some(FailureClass::Authentication)];
            if let Some(class) = classes.get(usize::from(*news)).copied().flatten() {
                for _ in 0..6 {
                    let bin = pools.sent(i, &model, &config, NOW);
                    pools.answered(&names[i].parse().unwrap(), &model, true);
                    let outcome = Outcome { failed: Some(class), ..Outcome::default() };
                    pools.ended(&names[i].parse().unwrap(), &model, &outcome, bin, &config, NOW, &mut rng);
                }
            }
        }
        let ids: Vec<PoolId> = names.iter().map(|name| name.parse().unwrap()).collect();
        let offers = ids.iter().zip(&states);
        pools.set_ours(offers.map(|(id, state)| (id, &model, Ours { offered: state.3, running: 0 })));
        let mut job = job(&format!(r#","max_cost_usd":"0.00000000{max}","routing":{{"deny_providers":["p{deny}"]}}"#));
        job.head.subject.lane = Lane::ALL[lane];
        let affordable = |_: &ProviderId, amount: UsdNanos| amount <= UsdNanos::new(rich);
        let ask = Ask { affordable: &affordable, ..Ask::of(&job, NONE) };
        let known = [KnownPool { id: "p0@mars".parse().unwrap(), models: Vec::new() }];
        for held_for in [Duration::ZERO, DEAR_FOR] {
            let ask = Ask { held_for, ..ask };
            let picked = picker().pick(pools.as_slice(), ask, NOW, &mut rng);
            prop_assert!(picked.is_none() || hopeless(&known, pools.as_slice(), ask, NOW).is_none());
        }
        if let Some(choice) = picker().pick(pools.as_slice(), ask, NOW, &mut rng) {
            let (pool, i) = (&pools.as_slice()[choice.index], choice.index);
            let track = pool.track(&model).unwrap();
            prop_assert!(i != deny);
            prop_assert!(pool.free(Duration::from_secs(4), NOW).0 > 0);
            prop_assert!(track.running() < track.limit());
            prop_assert!(track.breaker.admits(&config, job.subject.lane, NOW));
            prop_assert!(pool.closed(Duration::from_secs(4), NOW).is_none());
            prop_assert!(choice.expected.reserve <= UsdNanos::new(rich));
        }
    }

    #[test]
    fn the_share_is_held_whatever_prices_and_times_are(
        prices in proptest::collection::vec((50_000..400_000u64, 100_000..2_000_000u64), 3), seed: u64, share in 0..=10u8,
    ) {
        let mut pools = Pools::default();
        for (name, (cost, p95)) in ["golem@us-east", "modal@us-east", "runpod@us-east"].iter().zip(prices) {
            let mut beat = beat(name, 100, 0, cost);
            beat.models[0].p95_us = p95;
            pools.heartbeat(beat, NOW);
        }
        let policy = PolicyConfig { baseline_share: f64::from(share) / 10.0, ..PolicyConfig::default() };
        let mut picker = Picker::new(policy, BreakerConfig::default());
        let (job, mut rng, mut golem) = (job(""), StdRng::seed_from_u64(seed), 0.0);
        for _ in 0..5_000 {
            let choice = picker.pick(pools.as_slice(), Ask::of(&job, NONE), NOW, &mut rng).unwrap();
            picker.placed(&job.subject.region, &choice);
            golem += f64::from(u8::from(choice.index == 0));
            prop_assert!(picker.deficit(&"us-east".parse().unwrap()).abs() <= DEFICIT_MAX);
        }
        // The deficit is all that is missing, so it bounds the error.
        prop_assert!((golem - f64::from(share) * 500.0).abs() <= DEFICIT_MAX + 1.0, "{golem}");
    }
}
