//! Promise: where a serverless provider tells its bill and not what starts and idle time cost, the ledger equals the bill all the same:
//! jobs book their runs, and the rest is standing cost, booked once by whichever worker of the pool.

use std::{sync::Arc, time::Duration};

use schemas::{UsdNanos, cost::Purpose, prices::PriceBook, reply::Status};
use simulators::{Kind, SimulatedModel, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    rent::Office,
    roles::{self, Role},
    wait,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use workers::{
    PoolConfig,
    adapters::{RunPod, RunPodConfig},
};

const ACK_WAIT: Duration = Duration::from_secs(6);
const JOBS: usize = 12;
/// How long a worker of the endpoint stays without a job.
const IDLE: Duration = Duration::from_millis(300);

fn prices() -> Arc<PriceBook> {
    let text = r#"
        version = "test.1"
        as_of = "2025-09-05"
        source = "tests"
        [[price]]
        provider = "runpod"
        sku = "standard"
        unit = "second"
        usd = "0.0002"
    "#;
    Arc::new(PriceBook::from_toml(text).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn starts_and_idle_time_at_runpod_are_booked_from_its_bill_by_two_workers_and_after_a_crash() {
    let nats = NatsServer::start().await;
    let urls = [nats.url()];
    let office = Office::open(&urls[0]).await;
    let shutdown = CancellationToken::new();
    let model = SimulatedModel {
        slots: 4,
        service_ms_p50: 30,
        cold_start_ms: 20,
        price_per_second_nanos: 200_000,
        ..SimulatedModel::new(roles::MODEL)
    };
    let mut endpoint = SimulatorConfig::new("endpoint", Kind::RunPod, vec![model]);
    endpoint.runpod.idle_timeout_ms = IDLE.as_millis().try_into().unwrap();
    let endpoint = simulators::start(endpoint, shutdown.clone()).await.unwrap();
    let adapter = RunPodConfig {
        billing_url: Some(endpoint.url()),
        billing_settles: Duration::ZERO,
        poll_min: Duration::from_millis(10),
        poll_max: Duration::from_millis(50),
        ..RunPodConfig::new(format!("{}/v2/ep-sim", endpoint.url()))
    };
    // Only the first and the last booking of a worker.
    let worker = |name: &str| PoolConfig {
        standing_every: Duration::from_secs(3_600),
        prices: prices(),
        ..roles::pool_config(
            &urls,
            "runpod@us-east",
            name,
            4,
            ACK_WAIT,
            Arc::new(RunPod::new(adapter.clone()).unwrap()),
        )
    };
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let (first, second) = (Role::worker(worker("w1")).await, Role::worker(worker("w2")).await);
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, JOBS).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), JOBS);

    // All containers are gone, so the bill stands: nothing was added for twice as long as one may be idle.
    let last = std::sync::Mutex::new((endpoint.bill(), Instant::now()));
    let bill = wait::until("a bill that stands", || async {
        let (mut last, bill) = (last.lock().unwrap(), endpoint.bill());
        if bill != last.0 {
            *last = (bill, Instant::now());
        }
        (last.1.elapsed() > IDLE * 2).then(|| UsdNanos::new(last.0.total_nanos))
    })
    .await;
    let pool = "runpod@us-east".parse().unwrap();
    wait::until("every job's cost", || async {
        let costs = office.costs().await;
        (costs.iter().filter(|cost| cost.purpose == Purpose::Useful).count() == JOBS).then_some(())
    })
    .await;
    let booked = office.ledger(&pool).await;
    assert!(booked < bill, "jobs book less than the bill: {booked} of {bill}");
    first.stop().await;
    assert_eq!(office.ledger(&pool).await, bill, "the first worker booked the rest");

    // Another one dies without its last booking, and the next one finds nothing left to book.
    second.kill().await;
    let third = Role::worker(worker("w3")).await;
    third.stop().await;
    assert_eq!(office.ledger(&pool).await, bill, "nothing is booked twice");
    dispatcher.stop().await;
    producer.close().await;
    shutdown.cancel();
    office.close().await;
}
