//! Dispatchers, workers and producers in this process, small and quick.

use std::{collections::HashMap, sync::Arc, time::Duration};

use dispatcher::{
    Dispatcher, DispatcherConfig,
    config::{OfferConfig, TrimConfig},
};
use producer::{JobRequest, Producer, ProducerConfig};
use routing::{
    budget::Rules,
    config::{BreakerConfig, PolicyConfig},
    retry_budget::RetryConfig,
};
use schemas::{catalog::Catalog, prices::PriceBook, topology::Settings};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use transport::LinkConfig;
use workers::{
    JournalMode, Pool, PoolConfig, PoolModel,
    adapters::{OpenAiConfig, Secret},
    provider::Provider,
    rented::{Isolation, Rented, RentedConfig},
};

/// The one model of most tests.
pub const MODEL: &str = "llama-3.2-1b";
/// The one region of most tests.
pub const REGION: &str = "us-east";

/// A price book in which everything the tests use costs something.
pub fn prices() -> Arc<PriceBook> {
    let text = r#"
        version = "test.1"
        as_of = "2025-09-05"
        source = "tests"
        [[price]]
        provider = "golem"
        sku = "standard"
        unit = "inference"
        usd = "0.0001"
        [[price]]
        provider = "modal"
        sku = "standard"
        unit = "inference"
        usd = "0.0003"
    "#;
    Arc::new(PriceBook::from_toml(text).unwrap())
}

/// A map of one region and one model, with short leases.
pub fn settings(ack_wait: Duration) -> Settings {
    Settings {
        regions: vec![REGION.parse().unwrap()],
        catalog: Catalog::new(vec![MODEL.into()]).unwrap(),
        replicas: 1,
        ack_wait,
        max_ack_pending: 20_000,
        jobs_max_bytes: 1 << 30,
        jobs_window: Duration::from_secs(120),
        replies_window: Duration::from_secs(600),
    }
}

/// A connection to `urls`.
fn link(urls: &[String]) -> LinkConfig {
    LinkConfig { urls: urls.iter().map(Into::into).collect(), credentials: None, root_certificates: None }
}

/// A dispatcher's settings against `urls`.
pub fn dispatcher_config(urls: &[String], id: &str, topology: Settings) -> DispatcherConfig {
    DispatcherConfig {
        link: link(urls),
        id: id.parse().unwrap(),
        regions: topology.regions.clone(),
        topology,
        pools: Vec::new(),
        policy: PolicyConfig::default(),
        breaker: BreakerConfig { open_for: Duration::from_millis(300), ..BreakerConfig::default() },
        offers: OfferConfig::default(),
        trim: TrimConfig::default(),
        retries: RetryConfig::default(),
        budgets: Rules::default(),
        weights: HashMap::new(),
        grace: Duration::from_secs(5),
    }
}

/// A worker's settings for `pool` (`provider@region`) against `urls`.
pub fn pool_config(
    urls: &[String],
    pool: &str,
    worker: &str,
    slots: u32,
    ack_wait: Duration,
    provider: Arc<dyn Provider>,
) -> PoolConfig {
    let pool: schemas::PoolId = pool.parse().unwrap();
    PoolConfig {
        link: link(urls),
        price_name: pool.provider.clone(),
        pool,
        worker: worker.parse().unwrap(),
        slots,
        rented: false,
        idle: Duration::ZERO,
        models: vec![PoolModel {
            model: schemas::catalog::token_of(MODEL).unwrap(),
            served_as: MODEL.into(),
            sku: "standard".into(),
            size: 1,
            expected: Duration::from_millis(100),
        }],
        provider,
        machines: None,
        prices: prices(),
        call_timeout: Duration::from_secs(30),
        ack_wait,
        journal: JournalMode::Unhappy,
        health_every: None,
        standing_every: Duration::from_secs(3600),
        grace: Duration::from_secs(5),
    }
}

/// A worker's settings for `pool`, whose machines are rented and ask for keys that are made of `secret`.
pub fn rented_pool_config(
    urls: &[String],
    pool: &str,
    worker: &str,
    slots: u32,
    ack_wait: Duration,
    secret: &str,
) -> PoolConfig {
    let server = OpenAiConfig { idle_timeout: Duration::from_secs(5), ..OpenAiConfig::new("") };
    let secret = Some(Secret::new(secret));
    let machines = RentedConfig { server, secret, slots, affinity: true, isolation: Isolation::Tenant };
    let machines = Arc::new(Rented::new(machines));
    let config = pool_config(urls, pool, worker, slots, ack_wait, machines.clone());
    PoolConfig { machines: Some(machines), rented: true, ..config }
}

/// A role that runs in this process until it is stopped.
pub struct Role {
    shutdown: CancellationToken,
    task: JoinHandle<()>,
}

impl Role {
    /// Starts a dispatcher; panics when it cannot start.
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle is kept and awaited by `stop`, aborted by `kill`"
    )]
    pub async fn dispatcher(config: DispatcherConfig) -> Self {
        let dispatcher = Dispatcher::connect(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { dispatcher.run(shutdown).await.unwrap() }
        });
        Self { shutdown, task }
    }

    /// Starts a dispatcher with usual settings on one server.
    pub async fn usual_dispatcher(url: &str, id: &str, ack_wait: Duration) -> Self {
        Self::dispatcher(dispatcher_config(&[url.to_owned()], id, settings(ack_wait))).await
    }

    /// Starts a worker; panics when it cannot start.
    #[expect(
        clippy::disallowed_methods,
        reason = "the handle is kept and awaited by `stop`, aborted by `kill`"
    )]
    pub async fn worker(config: PoolConfig) -> Self {
        let pool = Pool::connect(config).await.unwrap();
        let shutdown = CancellationToken::new();
        let task = tokio::spawn({
            let shutdown = shutdown.clone();
            async move { pool.run(shutdown).await.unwrap() }
        });
        Self { shutdown, task }
    }

    /// Stops it in two stages and waits.
    pub async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }

    /// Drops it where it stands, as a crash would; what it holds is not given back.
    pub async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }
}

/// A producer for tenant `acme`, mailbox `inbox`.
pub async fn producer(urls: &[String]) -> Producer {
    let mut config = ProducerConfig::new(&urls[0], "acme", "inbox").unwrap();
    config.link = link(urls);
    Producer::connect(config).await.unwrap()
}

/// A small job.
pub fn job(text: &str) -> JobRequest {
    JobRequest::prompt(REGION, MODEL, text).unwrap()
}

/// Submits `count` jobs at once and gives their ids; every one was accepted.
pub async fn submit_many(producer: &Producer, count: usize) -> Vec<schemas::JobId> {
    let requests: Vec<JobRequest> = (0..count).map(|i| job(&format!("prompt {i}"))).collect();
    let sent = futures_util::future::join_all(requests.iter().map(|r| producer.submit(r))).await;
    sent.into_iter().map(|ticket| ticket.unwrap().job).collect()
}
