use rand::{SeedableRng, rngs::StdRng};
use schemas::{ModelToken, UsdNanos, heartbeat::ServedModel};

use super::*;
use crate::{
    config::BreakerConfig,
    track::{Ours, Outcome},
};

pub(crate) fn beat(pool: &str, slots: u32, running: u32, cost: u64) -> Heartbeat {
    let served = |model: &str| ServedModel {
        model: model.parse().unwrap(),
        sku: "x".into(),
        size: 1,
        expected_cost_usd: UsdNanos::new(cost),
        p50_us: 400_000,
        p95_us: 900_000,
        running: 0,
        overdue: 0,
        second_usd: UsdNanos::ZERO,
        idle_us: 0,
        rented: false,
        detached: false,
        warmable: false,
    };
    let mut models = vec![served("llama-3-2-1b"), served("mistral-7b")];
    models[0].running = running;
    Heartbeat {
        pool: pool.parse().unwrap(),
        worker: "w1".parse().unwrap(),
        started_us: Micros::new(1),
        // A clock that is ahead tells nothing about the delay.
        at_us: Micros::new(u64::MAX),
        slots,
        running,
        draining: false,
        healthy: None,
        round_trip_us: None,
        succeeded: 0,
        failed: 0,
        models,
        machines: None,
    }
}

const SILENT: Duration = Duration::from_secs(4);

#[test]
fn our_own_offers_count_as_taken() {
    let (mut pools, now) = (Pools::default(), Micros::new(1_000_000));
    pools.heartbeat(beat("golem@us-east", 10, 4, 1), now);
    let (pool, model) = ("golem@us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
    pools.set_ours([(&pool, &model, Ours { offered: 5, running: 1 })]);
    assert_eq!(pools.at(0).free(SILENT, now), (1, 10));
}

#[test]
fn attempts_whose_end_was_never_heard_do_not_fill_a_pool() {
    let (mut pools, config, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
    let (pool, model): (PoolId, ModelToken) =
        ("golem@us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
    pools.heartbeat(beat("golem@us-east", 10, 0, 1), now);
    for taken in [true, false, true] {
        pools.sent(0, &model, &config, now);
        if taken {
            pools.answered(&pool, &model, true);
        }
    }
    let ours = |pools: &mut Pools| pools.at(0).track(&model).unwrap().ours();
    assert_eq!(ours(&mut pools), Ours { offered: 1, running: 2 });
    // The owner of the jobs knows of one that runs; the ends of the others were never heard.
    let unknown = "modal@us-east".parse().unwrap();
    pools.set_ours([(&pool, &model, Ours::RUNNING), (&unknown, &model, Ours::OFFERED)]);
    assert_eq!(ours(&mut pools), Ours::RUNNING);
    assert_eq!(pools.at(0).free(SILENT, now), (10, 10));
    // Late news of attempts that are no longer counted takes nothing from the one that is.
    pools.set_ours([(&pool, &model, Ours::RUNNING), (&pool, &model, Ours::OFFERED)]);
    pools.answered(&pool, &model, false);
    pools.answered(&pool, &model, false);
    assert_eq!(ours(&mut pools), Ours::RUNNING);
    pools.set_ours([]);
    assert_eq!(pools.at(0).track(&model).unwrap().running(), 0);
}

#[test]
fn a_silent_pool_is_closed_and_has_no_free_slot() {
    let (mut pools, now) = (Pools::default(), Micros::new(1_000_000));
    pools.heartbeat(beat("golem@us-east", 10, 4, 1), now);
    let later = now + Duration::from_secs(5);
    assert_eq!(pools.at(0).closed(SILENT, later), Some(Closed::Silent));
    assert_eq!(pools.at(0).free(SILENT, later), (0, 0));
}

#[test]
fn slots_of_other_regions_count_only_if_none_here_is_free_and_not_those_they_keep() {
    let (mut pools, breaker, now) = (Pools::default(), BreakerConfig::default(), Micros::new(1_000_000));
    let (here, model) = ("us-east".parse().unwrap(), "mistral-7b".parse().unwrap());
    pools.heartbeat(beat("golem@eu-west", 10, 0, 1), now);
    assert_eq!(pools.free_slots(&here, &model, SILENT, &breaker, now), 8);
    pools.heartbeat(beat("golem@us-east", 3, 2, 1), now);
    assert_eq!(pools.free_slots(&here, &model, SILENT, &breaker, now), 1);
    pools.heartbeat(beat("golem@us-east", 3, 3, 1), now);
    assert_eq!(pools.free_slots(&here, &model, SILENT, &breaker, now), 8);
}

/// Golem serves `count` jobs that take `first` each, Modal as many that take `second`. Gives the first change.
fn served(pools: &mut Pools, count: u32, first: Duration, second: Duration, now: Micros) -> Change {
    let (config, mut rng) = (BreakerConfig::default(), StdRng::seed_from_u64(1));
    let model: ModelToken = "mistral-7b".parse().unwrap();
    let mut change = Change::None;
    for i in 0..count {
        for (name, service) in [("golem@us-east", first), ("modal@us-east", second)] {
            let index = usize::from(name == "modal@us-east");
            let bin = pools.sent(index, &model, &config, now);
            pools.answered(&name.parse().unwrap(), &model, true);
            let outcome = Outcome { failed: None, service, cold: Duration::ZERO, retry_after: None };
            let at = now + Duration::from_millis(u64::from(i) * 10);
            let new = pools.ended(&name.parse().unwrap(), &model, &outcome, bin, &config, at, &mut rng);
            change = if new == Change::None { change } else { new };
        }
    }
    change
}

#[test]
fn a_pool_that_turns_slow_is_suspected_within_two_dozen_jobs_and_taken_back_after_good_probes() {
    let (mut pools, now) = (Pools::default(), Micros::new(1_000_000_000_000));
    pools.heartbeat(beat("golem@us-east", 40, 0, 1), now);
    pools.heartbeat(beat("modal@us-east", 40, 0, 1), now);
    let (fast, slow) = (Duration::from_millis(500), Duration::from_millis(2_500));
    assert_eq!(served(&mut pools, 100, fast, fast, now), Change::None);
    assert_eq!(served(&mut pools, 22, slow, fast, now), Change::Suspect);
    let model = "mistral-7b".parse().unwrap();
    assert!(pools.at(0).track(&model).unwrap().is_suspect());
    served(&mut pools, 6, fast, fast, now);
    assert!(pools.at(0).track(&model).unwrap().is_suspect(), "one, two and four probes are wanted");
    served(&mut pools, 1, fast, fast, now);
    assert!(!pools.at(0).track(&model).unwrap().is_suspect());
    assert!(pools.at(0).track(&model).unwrap().limit() < 20, "it begins small");
}

#[test]
fn longer_prompts_make_all_pools_slow_and_none_suspect() {
    let (mut pools, now) = (Pools::default(), Micros::new(1_000_000_000_000));
    pools.heartbeat(beat("golem@us-east", 40, 0, 1), now);
    pools.heartbeat(beat("modal@us-east", 40, 0, 1), now);
    let (fast, slow) = (Duration::from_millis(500), Duration::from_millis(2_500));
    served(&mut pools, 100, fast, fast, now);
    assert_eq!(served(&mut pools, 40, slow, slow, now), Change::None);
}

/// A heartbeat of one of several workers.
fn of(worker: &str, running: u32) -> Heartbeat {
    let mut beat = beat("golem@us-east", 10, running, 1);
    beat.worker = worker.parse().unwrap();
    beat
}

#[test]
fn what_a_pool_runs_is_the_sum_of_its_workers_whoever_spoke_last() {
    let (mut pools, now, model) = (Pools::default(), Micros::new(1_000_000), "llama-3-2-1b".parse().unwrap());
    pools.heartbeat(of("w1", 10), now);
    pools.heartbeat(of("w2", 2), now);
    assert_eq!(pools.at(0).track(&model).unwrap().running(), 12);
    pools.heartbeat(of("w1", 9), now);
    assert_eq!(pools.at(0).track(&model).unwrap().running(), 11);
    let later = now + Duration::from_secs(59);
    pools.heartbeat(of("w2", 2), later);
    pools.forget_silent(later + Duration::from_secs(1));
    assert_eq!(pools.at(0).track(&model).unwrap().running(), 2);
    pools.forget_silent(later + Duration::from_secs(60));
    assert_eq!(pools.at(0).track(&model).unwrap().running(), 0);
}

#[test]
fn one_hung_worker_of_many_does_not_make_the_pool_hang() {
    let (mut pools, now) = (Pools::default(), Micros::new(1_000_000));
    let worker = |n: usize, overdue: u32| {
        let mut beat = of(&format!("w{n}"), 8);
        beat.models[0].overdue = overdue;
        beat
    };
    for n in 0..9 {
        assert!(!pools.heartbeat(worker(n, 0), now));
    }
    assert!(!pools.heartbeat(worker(9, 8), now), "8 of 80");
    assert!(!pools.heartbeat(worker(8, 8), now), "16 of 80");
    assert!(pools.heartbeat(worker(7, 8), now), "24 of 80");
}

#[test]
fn a_model_that_no_worker_lists_any_more_is_not_served() {
    let (mut pools, now, model) = (Pools::default(), Micros::new(1_000_000), "mistral-7b".parse().unwrap());
    pools.heartbeat(of("w1", 0), now);
    pools.heartbeat(of("w2", 0), now);
    for (worker, served) in [("w1", true), ("w2", false)] {
        let mut beat = of(worker, 0);
        beat.models.pop();
        pools.heartbeat(beat, now);
        assert_eq!(pools.at(0).track(&model).is_some(), served);
    }
}

#[test]
fn a_provider_that_hangs_is_suspected_without_a_single_outcome() {
    let (mut pools, now) = (Pools::default(), Micros::new(1_000_000_000_000));
    pools.heartbeat(beat("golem@us-east", 40, 8, 1), now);
    let mut hung = beat("golem@us-east", 40, 8, 1);
    (hung.models[1].running, hung.models[1].overdue) = (8, 5);
    assert!(pools.heartbeat(hung, now));
    assert!(pools.at(0).track(&"mistral-7b".parse().unwrap()).unwrap().is_suspect());
}
