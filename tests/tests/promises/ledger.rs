//! Promise: the ledger equals what the providers bill, to the nano-dollar, through failures and idle capacity.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemas::{UsdNanos, cost::Purpose, prices::PriceBook, reply::Status};
use simulators::{Fault, FaultKind, Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process::root,
    roles::{self, Role},
    wait,
};
use tokio_util::sync::CancellationToken;
use workers::{
    PoolConfig,
    adapters::{Billing, Modal, ModalConfig, ModalMode, OpenAi, OpenAiConfig},
    provider::Provider,
};

const ACK_WAIT: Duration = Duration::from_secs(10);

async fn golem(shutdown: &CancellationToken) -> Simulator {
    let mut model = SimulatedModel::new(roles::MODEL);
    model.slots = 16;
    model.service_ms_p50 = 20;
    model.price_per_inference_nanos = 100_000;
    simulators::start(SimulatorConfig::new("golem", Kind::Golem, vec![model]), shutdown.clone())
        .await
        .unwrap()
}

async fn modal(shutdown: &CancellationToken) -> Simulator {
    let mut model = SimulatedModel::new(roles::MODEL);
    model.slots = 8;
    model.service_ms_p50 = 30;
    model.cold_start_ms = 40;
    model.sku = "T4".into();
    model.price_per_second_nanos = 164_000;
    let mut config = SimulatorConfig::new("modal", Kind::Modal, vec![model]);
    config.modal.scaledown_window_ms = 200;
    simulators::start(config, shutdown.clone()).await.unwrap()
}

fn pool(urls: &[String], name: &str, slots: u32, sku: &str, provider: Arc<dyn Provider>) -> PoolConfig {
    let mut pool = roles::pool_config(urls, &format!("{name}@us-east"), "w1", slots, ACK_WAIT, provider);
    let text = std::fs::read_to_string(root().join("prices.toml")).unwrap();
    pool.prices = Arc::new(PriceBook::from_toml(&text).unwrap());
    pool.models[0].sku = sku.into();
    pool
}

/// What the standing mailbox holds: cost of capacity that no job used.
async fn standing(url: &str) -> BTreeMap<String, UsdNanos> {
    let config = producer::ProducerConfig::new(url, "default", "standing").unwrap();
    let mut reader = producer::Producer::connect(config).await.unwrap();
    let audit = Audit::read(&mut reader).await;
    assert!(audit.costs.iter().all(|c| c.purpose == Purpose::Standing));
    reader.close().await;
    audit.paid()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_equals_the_simulators_own_bill() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let shutdown = CancellationToken::new();
    let (golem, modal) = (golem(&shutdown).await, modal(&shutdown).await);
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let rented = OpenAiConfig { billing: Billing::PerInference, ..OpenAiConfig::new(golem.url()) };
    let rented = Arc::new(OpenAi::new(rented).unwrap());
    let serverless = Arc::new(Modal::new(ModalConfig::new(modal.url(), ModalMode::Spawn)).unwrap());
    let one = Role::worker(pool(&urls, "golem", 16, "standard", rented)).await;
    let two = Role::worker(pool(&urls, "modal", 8, "T4", serverless)).await;
    let mut producer = roles::producer(&urls).await;
    // Some answers break in the middle: billed, wasted, and repeated elsewhere.
    golem.set_fault(Some(Fault::share(FaultKind::ResetMidStream { after_tokens: 2 }, 0.1)));
    let mut jobs = roles::submit_many(&producer, 150).await;
    Audit::all_ended(&mut producer, &jobs).await;
    // Some are refused before anything runs: not billed.
    golem
        .set_fault(Some(Fault::share(FaultKind::Status { code: 503, body: None, retry_after_s: None }, 0.3)));
    jobs.extend(roles::submit_many(&producer, 150).await);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 300);
    // Idle containers go away, and what they cost is known and booked when the pool stops.
    wait::until("modal to scale down", || async {
        let before = modal.bill().total_nanos;
        tokio::time::sleep(Duration::from_millis(400)).await;
        (modal.stats().running == 0 && modal.bill().total_nanos == before).then_some(())
    })
    .await;
    one.stop().await;
    two.stop().await;
    dispatcher.stop().await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    let (paid, idle) = (audit.paid(), standing(&urls[0]).await);
    let booked =
        |pool: &str| paid[pool].checked_add(idle.get(pool).copied().unwrap_or_default()).unwrap().get();
    assert_eq!(booked("golem@us-east"), golem.bill().total_nanos);
    assert_eq!(booked("modal@us-east"), modal.bill().total_nanos);
    assert!(idle["modal@us-east"] > UsdNanos::ZERO, "idle capacity costs something");
    let wasted = audit.costs.iter().filter(|c| c.purpose == Purpose::WastedFailure).count();
    assert!(wasted > 0, "broken answers were billed and are booked as wasted");
    assert!(audit.costs.iter().all(|c| !c.estimated), "nothing here had to be estimated");
    // Run by run: the provider's request id is `<job>-<attempt>-<key>`.
    let runs = |bill: simulators::Bill| {
        bill.lines.into_iter().filter_map(|l| l.run).collect::<std::collections::BTreeSet<_>>()
    };
    let billed: std::collections::BTreeSet<String> =
        runs(golem.bill()).union(&runs(modal.bill())).cloned().collect();
    let booked = audit.costs.iter().map(tests::audit::run_of).collect();
    assert_eq!(billed, booked);
    producer.close().await;
    shutdown.cancel();
    golem.stopped().await;
    modal.stopped().await;
}
