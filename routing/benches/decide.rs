//! How long a routing decision takes, by the number of pools, and whether it allocates.
//!
//! `cargo bench -p routing` prints nanoseconds per decision. The one ratio to compare runs by is the time of 50 pools over
//! that of 10: it stays below 5 while a decision is linear in the pools. What is asserted is that nothing is allocated.

use std::{hint::black_box, time::Duration, time::Instant};

use rand::{SeedableRng, rngs::StdRng};
use routing::{
    config::{BreakerConfig, PolicyConfig},
    pick::{Ask, Picker},
    pool::Pools,
    track::Outcome,
};
use schemas::{
    Micros, ModelToken, PoolId, UsdNanos,
    heartbeat::{Heartbeat, ServedModel},
    job::{Job, JobHeaders},
    journal::Journal,
};

const NOW: Micros = Micros::new(1_795_000_000_000_000);
const ROUNDS: u32 = 200_000;
const REGIONS: [&str; 3] = ["us-east", "eu-west", "asia-pacific"];
const MODELS: [&str; 3] = ["llama-3-2-1b", "qwen-2-5-1-5b", "mistral-7b"];

fn beat(pool: &PoolId, cost: u64) -> Heartbeat {
    let served = |model: &str| ServedModel {
        model: model.parse().expect("a literal that is a token"),
        sku: "T4".into(),
        size: 1,
        expected_cost_usd: UsdNanos::new(cost),
        p50_us: 500_000,
        p95_us: 900_000,
        running: 3,
        overdue: 0,
        second_usd: UsdNanos::new(164_000),
        idle_us: 10_000_000,
        rented: false,
        detached: false,
        warmable: true,
    };
    Heartbeat {
        pool: pool.clone(),
        worker: "w1".parse().expect("a literal that is a token"),
        started_us: NOW,
        at_us: NOW,
        slots: 40,
        running: 9,
        draining: false,
        healthy: Some(true),
        round_trip_us: None,
        succeeded: 0,
        failed: 0,
        models: MODELS.map(served).to_vec(),
        machines: None,
    }
}

/// Pools that have a past, some of it bad, so that nothing is decided by a short cut.
fn pools(count: usize) -> Pools {
    let (mut pools, config, mut rng) = (Pools::default(), BreakerConfig::default(), StdRng::seed_from_u64(1));
    let model: ModelToken = MODELS[0].parse().expect("a literal that is a token");
    for i in 0..count {
        let name = if i < REGIONS.len() { "golem".to_owned() } else { format!("provider-{i}") };
        let id: PoolId = format!("{name}@{}", REGIONS[i % 3]).parse().expect("made of tokens");
        pools.heartbeat(beat(&id, 100_000 + (i as u64 % 7) * 20_000), NOW);
        for n in 0..60u64 {
            let bin = pools.sent(i, &model, &config, NOW);
            pools.answered(&id, &model, true);
            let outcome = Outcome {
                failed: (i % 5 == 4 && n % 9 == 0).then_some(schemas::failure::FailureClass::ProviderDown),
                service: Duration::from_millis(400 + n * 7),
                cold: if n % 11 == 0 { Duration::from_millis(800) } else { Duration::ZERO },
                retry_after: None,
            };
            pools.ended(&id, &model, &outcome, bin, &config, NOW, &mut rng);
        }
    }
    pools
}

fn main() {
    let body = r#"{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x","max_cost_usd":"0.01"}"#;
    let subject =
        "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().expect("a literal that is a subject");
    let job =
        Job::read(subject, JobHeaders::default(), body.as_bytes(), NOW).expect("a literal that is a job");
    let journal = Journal::default();
    let mut times = Vec::new();
    for count in [10, 50, 200] {
        let pools = pools(count);
        let mut picker = Picker::new(PolicyConfig::default(), BreakerConfig::default());
        let mut rng = StdRng::seed_from_u64(2);
        let mut decide = || {
            let choice = picker.pick(pools.as_slice(), Ask::of(&job, &journal), NOW, &mut rng);
            if let Some(choice) = black_box(choice) {
                picker.placed(&job.subject.region, &choice);
            }
        };
        // The first calls make the scratch.
        (0..1_000).for_each(|_| decide());
        let allocated = allocation_counter::measure(|| (0..1_000).for_each(|_| decide()));
        assert_eq!(allocated.count_total, 0, "a decision over {count} pools allocates");
        let mut rounds: Vec<f64> = (0..5)
            .map(|_| {
                let began = Instant::now();
                (0..ROUNDS / 10).for_each(|_| decide());
                began.elapsed().as_secs_f64() / f64::from(ROUNDS / 10)
            })
            .collect();
        rounds.sort_by(f64::total_cmp);
        println!("{count:>4} pools {:>8.0} ns a decision, 0 allocations", rounds[2] * 1e9);
        times.push(rounds[2]);
    }
    println!("50 pools over 10: {:.2}", times[1] / times[0]);
}
