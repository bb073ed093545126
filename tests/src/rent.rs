//! Keepers of rented machines in this process, quick, and killed at a chosen step.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::Client;
use futures_util::future::BoxFuture;
use keepers::{
    account::Account,
    config::{KeeperConfig, PoolSettings},
    keeper::{Keeper, KeeperError},
    landlord::Landlord,
    landlords::quick::Quick,
    operator::Operator,
    policy::{Bounds, Policy},
    probe::HttpProber,
    row::Row,
    secret::Secret,
    tap::{Open, Step, Tap},
    wish::{Status, Wish},
};
use schemas::{MachineId, PoolId, UsdNanos, cost::CostEvent, machine::MachineState, topology::Topology};
use tokio::{sync::Notify, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use transport::LinkConfig;

use crate::{roles, wait};

/// Lists each few milliseconds, and looks that span no minute.
pub fn hasty(landlord: Arc<dyn Landlord>) -> Arc<Quick> {
    Arc::new(Quick::new(landlord, Duration::from_millis(40)))
}

/// Counts the steps of a keeper, and stops it for ever at one of them.
#[derive(Debug, Default)]
pub struct KillAt {
    passed: Mutex<Vec<Step>>,
    count: AtomicUsize,
    at: Option<usize>,
    reached: Notify,
}

impl KillAt {
    /// Stops at the step with this number, from 0; `None` only counts.
    pub fn step(at: Option<usize>) -> Arc<Self> {
        Arc::new(Self { at, ..Self::default() })
    }

    /// The steps so far.
    pub fn passed(&self) -> Vec<Step> {
        self.passed.lock().unwrap().clone()
    }

    /// Returns when the step is reached.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }
}

impl Tap for KillAt {
    fn pass(&self, step: Step) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            self.passed.lock().unwrap().push(step);
            if Some(self.count.fetch_add(1, Ordering::SeqCst)) == self.at {
                self.reached.notify_one();
                std::future::pending::<()>().await;
            }
        })
    }
}

/// A pool that wants `least` machines at `places`.
pub fn pool(pool: &str, account: &str, sku: &str, places: &[&str], least: u32) -> PoolSettings {
    PoolSettings {
        pool: pool.parse().unwrap(),
        account: account.to_owned(),
        sku: sku.to_owned(),
        places: places.iter().map(|place| (*place).to_owned()).collect(),
        slots: 2,
        usd_per_hour_max: "10".parse().unwrap(),
        job_usd_per_hour: None,
        models: vec![schemas::catalog::token_of(roles::MODEL).unwrap()],
        model: "m".into(),
        health_path: "/health".into(),
        secret: Some(Secret::new("pool-secret")),
        policy: Policy {
            bounds: Bounds::keep(least),
            machines_max: least.max(1),
            usd_per_hour_max: "100".parse().unwrap(),
            drain_limit: Duration::from_secs(5),
            ..Policy::default()
        },
    }
}

/// A keeper's settings.
pub fn config(url: &str, keeper: &str, account: Arc<Account>, pools: Vec<PoolSettings>) -> KeeperConfig {
    KeeperConfig {
        link: LinkConfig::to(url),
        keeper: keeper.to_owned(),
        accounts: vec![account],
        pools,
        prober: Arc::new(HttpProber::new().unwrap()),
        price_book: "test.1".into(),
        standing_every: Duration::from_millis(500),
        forsaken_after: Duration::from_secs(60),
        grace: Duration::from_secs(2),
        tap: Arc::new(Open),
    }
}

/// A keeper that runs in this process until it is stopped.
pub struct Running {
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), KeeperError>>,
}

impl Running {
    /// Starts a keeper; panics when it cannot start.
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle is kept and awaited by `stop`, aborted by `kill`"
    )]
    pub async fn start(config: KeeperConfig) -> Self {
        let keeper = Keeper::connect(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(keeper.run(shutdown.clone()));
        Self { shutdown, task }
    }

    /// Stops it and waits.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Drops it where it stands, as a crash would.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A connection, and the bucket as a keeper sees it.
pub struct Office {
    /// The connection.
    pub client: Client,
    operator: Operator,
}

impl Office {
    /// Makes the streams and opens the bucket.
    pub async fn open(url: &str) -> Self {
        let client = async_nats::connect(url).await.unwrap();
        let settings = roles::settings(Duration::from_secs(4));
        transport::topology::ensure(&client, &Topology::new(&settings)).await.unwrap();
        Self { client, operator: Operator::connect(&LinkConfig::to(url)).await.unwrap() }
    }

    /// The rows of a pool's machines.
    pub async fn rows(&self, pool: &PoolId) -> BTreeMap<MachineId, Row> {
        let rows = self.operator.store().rows(pool).await.unwrap();
        rows.into_iter().map(|(machine, (row, _))| (machine, row)).collect()
    }

    /// The machines of a pool and where they stand.
    pub async fn machines(&self, pool: &PoolId) -> BTreeMap<MachineId, MachineState> {
        self.rows(pool).await.into_iter().map(|(machine, row)| (machine, row.life.state())).collect()
    }

    /// Waits until a pool has `count` machines in a state.
    pub async fn until(&self, pool: &PoolId, state: MachineState, count: usize) {
        wait::until(&format!("{count} machines of {pool} to be {}", state.name()), || async {
            let machines = self.machines(pool).await;
            (machines.values().filter(|found| **found == state).count() == count).then_some(())
        })
        .await;
    }

    /// Waits until a pool has no machine any more.
    pub async fn until_empty(&self, pool: &PoolId) {
        wait::until(&format!("{pool} to have no machine"), || async {
            self.machines(pool).await.is_empty().then_some(())
        })
        .await;
    }

    /// What a pool's keeper said last.
    pub async fn status(&self, pool: &PoolId) -> Option<Status> {
        self.operator.status(pool).await.unwrap()
    }

    /// What an operator asks of a pool.
    pub async fn wish(&self, pool: &PoolId, wish: &Wish) {
        self.operator.store().put(&Wish::key(pool), wish).await;
    }

    /// What the ledger says that a pool cost, all events together.
    pub async fn ledger(&self, pool: &PoolId) -> UsdNanos {
        let mut sum = UsdNanos::ZERO;
        for event in self.costs().await {
            if event.provider == pool.provider && event.region == pool.region {
                sum = sum.checked_add(event.amount_usd).unwrap();
            }
        }
        sum
    }

    /// All cost events.
    pub async fn costs(&self) -> Vec<CostEvent> {
        use async_nats::jetstream;
        use futures_util::StreamExt as _;
        let stream = jetstream::new(self.client.clone()).get_stream("LEDGER").await.unwrap();
        let mut consumer =
            stream.create_consumer(jetstream::consumer::pull::OrderedConfig::default()).await.unwrap();
        let mut left = consumer.info().await.unwrap().num_pending;
        let mut events = Vec::new();
        let name = consumer.cached_info().name.clone();
        if left == 0 {
            stream.delete_consumer(&name).await.unwrap();
            return events;
        }
        let mut messages = consumer.messages().await.unwrap();
        while left > 0 {
            let message = messages.next().await.unwrap().unwrap();
            let kind = message.headers.as_ref().and_then(|map| map.get("Content-Type"));
            let codec = schemas::Codec::from_content_type(kind.map(async_nats::HeaderValue::as_str)).unwrap();
            events.push(codec.decode(&message.payload).unwrap());
            left -= 1;
        }
        drop(messages);
        // Who polls must not leave a reader behind each time.
        stream.delete_consumer(&name).await.unwrap();
        events
    }

    /// Ends its connection.
    pub async fn close(self) {
        self.operator.close().await;
    }
}
