//! Promise: where jobs arrive steadily, containers are up before the jobs that need them, for no longer than a dispatcher asks
//! for them; and what they cost while they wait is in the ledger, to the nano-dollar.

use std::{sync::Arc, time::Duration};

use producer::{Producer, ProducerConfig};
use schemas::{JobId, Lane, cost::Purpose, prices::PriceBook, reply::Status};
use simulators::{BillKind, Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process::root,
    roles::{self, Role},
    wait,
};
use tokio::time;
use tokio_util::sync::CancellationToken;
use workers::{
    PoolConfig,
    adapters::{Modal, ModalConfig, ModalMode},
};

const ACK_WAIT: Duration = Duration::from_secs(10);
const SERVICE_MS: u64 = 120;
const COLD_START_MS: u64 = 60;
/// Longer than a job takes with its cold start, so that one container is enough for all of them: a second is up only if it was
/// started ahead.
const APART: Duration = Duration::from_millis(200);
/// Shorter than that one has nothing to do: left to itself, a container is gone when the next job comes, so every job would
/// meet a cold start.
const WINDOW_MS: u64 = 30;
/// Longer than the dispatcher's sweep, which repeats the orders each second, on a machine that is busy.
const LEASE_MS: u64 = 4_000;

async fn modal(shutdown: &CancellationToken) -> Simulator {
    let mut model = SimulatedModel::new(roles::MODEL);
    (model.slots, model.service_ms_p50, model.cold_start_ms) = (8, SERVICE_MS, COLD_START_MS);
    (model.sku, model.price_per_second_nanos) = ("T4".into(), 164_000);
    let mut config = SimulatorConfig::new("modal", Kind::Modal, vec![model]);
    (config.modal.scaledown_window_ms, config.modal.warm_lease_ms) = (WINDOW_MS, LEASE_MS);
    simulators::start(config, shutdown.clone()).await.unwrap()
}

fn pool(urls: &[String], modal: &Simulator) -> PoolConfig {
    let provider = Modal::new(ModalConfig::new(modal.url(), ModalMode::Spawn)).unwrap();
    let mut pool = roles::pool_config(urls, "modal@us-east", "w1", 8, ACK_WAIT, Arc::new(provider));
    let text = std::fs::read_to_string(root().join("prices.toml")).unwrap();
    pool.prices = Arc::new(PriceBook::from_toml(&text).unwrap());
    (pool.models[0].sku, pool.models[0].expected) = ("T4".into(), Duration::from_millis(SERVICE_MS));
    // Often, so that what is kept warm for long is booked in parts.
    pool.standing_every = Duration::from_millis(300);
    pool
}

async fn submit(producer: &Producer) -> JobId {
    let mut job = roles::job("one of many");
    job.lane = Lane::High;
    producer.submit(&job).await.unwrap().job
}

/// Jobs come, one after the other, until containers were started ahead of them and a little longer.
async fn arrivals(producer: &Producer, modal: &Simulator) -> Vec<JobId> {
    let (mut jobs, mut ahead) = (Vec::new(), None);
    let end = time::Instant::now() + wait::DEADLINE;
    let mut tick = time::interval(APART);
    while ahead.is_none_or(|count| jobs.len() < count + 10) {
        tick.tick().await;
        jobs.push(submit(producer).await);
        if ahead.is_none() && modal.bill().lines.iter().any(|line| line.kind == BillKind::WarmStart) {
            ahead = Some(jobs.len());
        }
        assert!(time::Instant::now() < end, "nothing was started ahead of {} jobs", jobs.len());
    }
    jobs
}

/// Waits until nothing is billed any more.
async fn quiet(modal: &Simulator) {
    wait::until("the containers to go", || async {
        let before = modal.bill().total_nanos;
        time::sleep(Duration::from_millis(500)).await;
        (modal.stats().running == 0 && modal.bill().total_nanos == before).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_arrive_steadily_find_containers_that_are_up_and_the_ledger_knows_what_that_costs() {
    let (server, shutdown) = (NatsServer::start().await, CancellationToken::new());
    let (urls, modal) = ([server.url()], modal(&shutdown).await);
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    // Half a dozen T4 that stand idle.
    config.policy.warm.most_usd_per_hour = "4".parse().unwrap();
    // So short a cold start saves little machine time; the wait is what counts.
    config.policy.warm.second_worth = "0.01".parse().unwrap();
    let dispatcher = Role::dispatcher(config).await;
    let worker = Role::worker(pool(&urls, &modal)).await;
    let mut producer = roles::producer(&urls).await;

    let mut jobs = arrivals(&producer, &modal).await;
    Audit::all_ended(&mut producer, &jobs).await;
    // Ten times as long as an idle container stays by itself: what is up now is what the dispatcher keeps up.
    time::sleep(Duration::from_millis(WINDOW_MS * 10)).await;
    let later = [submit(&producer).await, submit(&producer).await];
    jobs.extend(later);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), jobs.len());
    let cold = |job: &JobId| audit.results[job][0].timings.cold_start_us;
    assert!(cold(&jobs[0]) > 0, "nothing was up for the first");
    assert_eq!(later.map(|job| cold(&job)), [0, 0], "both found a container");

    // A dispatcher that is lost keeps nothing warm for ever.
    dispatcher.kill().await;
    quiet(&modal).await;
    worker.stop().await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert!(audit.costs.iter().all(|cost| cost.purpose == Purpose::Useful && !cost.estimated));
    let mailbox = ProducerConfig::new(&urls[0], "default", "standing").unwrap();
    let mut reader = Producer::connect(mailbox).await.unwrap();
    let standing = Audit::read(&mut reader).await;
    let booked = [&audit, &standing].map(|part| part.paid()["modal@us-east"]);
    assert_eq!(schemas::money::total(booked).unwrap().get(), modal.bill().total_nanos);
    assert!(standing.costs.len() > 1, "it was booked in parts");
    for item in ["idle", "warm_start"] {
        let mut lines = standing.costs.iter().flat_map(|cost| &cost.lines);
        assert!(lines.any(|line| line.item == item), "{item} is shown by itself");
    }

    reader.close().await;
    producer.close().await;
    shutdown.cancel();
    modal.stopped().await;
}
