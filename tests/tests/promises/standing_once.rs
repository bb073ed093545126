//! Promise: capacity that no job used is booked once, by any number of workers of a pool, and by the next worker where one died
//! while it booked.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use schemas::{
    UsdNanos,
    cost::{Bill, CostEvent},
    prices::{PriceBook, Used},
    time::Clock as _,
    topology::FLOORS_BUCKET,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process::root,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::SystemClock;
use workers::{
    PoolConfig,
    provider::{Call, Ended, Health, Progress, Provider, UsedItem},
    standing::{Account, Pending, Totals},
};

const ACK_WAIT: Duration = Duration::from_secs(6);
/// A second of a T4 at Modal, in nano-dollars.
const SECOND: u64 = 164_000;

/// A provider that counts idle time, as one account of several workers does.
struct Idle {
    inner: Arc<Scripted>,
    millis: Arc<AtomicU64>,
}

impl Provider for Idle {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        self.inner.run(call, progress)
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        self.inner.health()
    }

    fn standing(&self) -> BoxFuture<'_, Option<Vec<UsedItem>>> {
        // Every answer says more than the one before.
        let millis = self.millis.fetch_add(1, Ordering::SeqCst) + 1;
        let used = Used::Time(Duration::from_millis(millis));
        Box::pin(async move { Some(vec![UsedItem { sku: "T4".into(), item: "idle", used, rate: None }]) })
    }
}

fn pool(urls: &[String], worker: &str, millis: &Arc<AtomicU64>) -> PoolConfig {
    let provider = Idle { inner: Scripted::new(Script::Succeed), millis: millis.clone() };
    let mut pool = roles::pool_config(urls, "modal@us-east", worker, 1, ACK_WAIT, Arc::new(provider));
    let text = std::fs::read_to_string(root().join("prices.toml")).unwrap();
    pool.prices = Arc::new(PriceBook::from_toml(&text).unwrap());
    pool.models[0].sku = "T4".into();
    pool.standing_every = Duration::from_millis(1);
    pool
}

/// What was booked as standing.
async fn booked(url: &str) -> Vec<CostEvent> {
    let config = producer::ProducerConfig::new(url, "default", "standing").unwrap();
    let mut reader = producer::Producer::connect(config).await.unwrap();
    let audit = Audit::read(&mut reader).await;
    reader.close().await;
    audit.costs
}

fn sum(costs: &[CostEvent]) -> u64 {
    costs.iter().map(|cost| cost.amount_usd.get()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_of_a_pool_book_every_moment_once() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let millis = Arc::new(AtomicU64::new(0));
    let one = Role::worker(pool(&urls, "w1", &millis)).await;
    let two = Role::worker(pool(&urls, "w2", &millis)).await;
    wait::until("many bookings", || async { (millis.load(Ordering::SeqCst) > 400).then_some(()) }).await;
    tokio::join!(one.stop(), two.stop());
    let costs = booked(&urls[0]).await;
    // The last total that was booked is one that was told, and all before it add up to it.
    let quantity: u64 = costs.iter().flat_map(|cost| &cost.lines).map(|line| line.quantity).sum();
    assert!(costs.len() > 10 && quantity <= millis.load(Ordering::SeqCst) * 1_000, "{quantity} us booked");
    assert_eq!(sum(&costs), quantity.div_ceil(1_000) * SECOND / 1_000);
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_worker_was_about_to_book_when_it_died_is_booked_once_by_the_next() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let producer = roles::producer(&urls).await;
    let bill = Bill {
        lines: Vec::new(),
        amount_usd: UsdNanos::new(SECOND),
        estimated: false,
        price_book: "t".into(),
    };
    let to = Totals([("T4".to_owned(), 1_000_000)].into());
    let pending = Some(Pending { to, bill, at_us: SystemClock.now() });
    let left = serde_json::to_vec(&Account { booked: Totals::default(), pending }).unwrap();
    let key = format!("$KV.{FLOORS_BUCKET}.standing.us-east.modal");
    let stored = producer.client().request(key, left.into()).await.unwrap();
    assert!(String::from_utf8_lossy(&stored.payload).contains("seq"));
    let millis = Arc::new(AtomicU64::new(1_999));
    let mut config = pool(&urls, "w1", &millis);
    config.standing_every = Duration::from_secs(3_600);
    let worker = Role::worker(config).await;
    let costs = wait::until("both spans", || async {
        let costs = booked(&urls[0]).await;
        (costs.len() == 2).then_some(costs)
    })
    .await;
    assert_eq!(sum(&costs), 2 * SECOND, "{costs:?}");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
