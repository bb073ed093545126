//! How everything in a world is set: the server's streams and consumers as the real topology draws them, the providers, and the
//! settings of dispatchers and workers.

use std::{collections::HashMap, time::Duration};

use dispatcher::{
    DispatcherConfig,
    config::{OfferConfig, TrimConfig},
};
use routing::{
    budget::Rules,
    config::{BreakerConfig, HedgeConfig, PolicyConfig},
    never::{KnownModel, KnownPool},
    retry_budget::RetryConfig,
};
use schemas::{
    ModelToken, PoolId, Region, UsdNanos,
    catalog::Catalog,
    prices::PriceBook,
    topology::{Settings, Topology},
};
use transport::LinkConfig;

use crate::{
    chance::Chance,
    consumer::{Consumer, ConsumerConfig},
    plan::{POOLS, Plan},
    provider::{Provider, ProviderConfig},
    server::Server,
    stream::{Stream, StreamConfig},
};

/// The longest that a call may take.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(20);
/// How long a job is expected to take, until enough have run.
pub(crate) const EXPECTED: Duration = Duration::from_secs(2);
/// What every pool runs on.
pub(crate) const SKU: &str = "T4";
/// What a second of it costs, in nano-dollars, by the place of the pool in [`POOLS`].
const SECOND: [u64; 2] = [40_000, 160_000];
/// The rank of what every pool runs on.
pub(crate) const SIZE: u16 = 16;
/// How long a process that was asked to end may go on.
pub(crate) const GRACE: Duration = Duration::from_secs(8);

/// The only region.
pub(crate) fn region() -> Region {
    "us-east".parse().expect("a region")
}

/// The only model.
pub(crate) fn model() -> ModelToken {
    "phi".parse().expect("a model")
}

/// A pool by its place in [`POOLS`].
pub(crate) fn pool(index: usize) -> PoolId {
    POOLS[index].0.parse().expect("a pool")
}

/// The map of streams.
pub(crate) fn settings(plan: &Plan) -> Settings {
    Settings {
        regions: vec![region()],
        catalog: Catalog::new(vec!["phi".to_owned()]).expect("one model"),
        replicas: if plan.cluster { 3 } else { 1 },
        ack_wait: plan.ack_wait,
        max_ack_pending: 1_000,
        jobs_max_bytes: 1 << 30,
        jobs_window: Duration::from_secs(120),
        replies_window: Duration::from_secs(600),
    }
}

/// The server.
pub(crate) fn server(plan: &Plan, chance: Chance) -> Server {
    let topology = Topology::new(&settings(plan));
    let stream = |spec: &schemas::topology::StreamSpec| {
        Stream::new(StreamConfig {
            name: spec.name.as_str().into(),
            subjects: spec.subjects.iter().map(|subject| subject.as_str().into()).collect(),
            window: Duration::from_nanos(spec.duplicate_window),
            max_bytes: usize::MAX,
        })
    };
    let consumer = |(stream, spec): &(String, schemas::topology::ConsumerSpec)| {
        Consumer::new(ConsumerConfig {
            stream: stream.as_str().into(),
            name: spec.durable_name.as_str().into(),
            filter: spec.filter_subject.as_str().into(),
            ack_wait: Duration::from_nanos(spec.ack_wait),
            max_ack_pending: usize::try_from(spec.max_ack_pending).unwrap_or(usize::MAX),
        })
    };
    let streams = topology.streams.iter().map(stream).collect();
    let consumers = topology.consumers.iter().map(consumer).collect();
    Server::new(plan.cluster, streams, consumers, chance)
}

/// The providers, in the order of [`POOLS`].
pub(crate) fn providers(plan: &Plan, mut chance: Chance) -> Vec<Provider> {
    let provider = |(index, (_, detached)): (usize, &(&str, bool))| {
        let config = ProviderConfig {
            detached: *detached,
            finds: *detached && plan.finds,
            takes: (Duration::from_millis(300), Duration::from_secs(4)),
            timeout: CALL_TIMEOUT,
            second: UsdNanos::new(SECOND[index]),
        };
        let own = chance.fork();
        Provider::new(config, own)
    };
    POOLS.iter().enumerate().map(provider).collect()
}

/// What everything costs.
pub(crate) fn prices() -> PriceBook {
    let price = |(pool, nanos): (&(&str, bool), u64)| {
        let (provider, usd) = (pool.0.split('@').next().unwrap_or_default(), UsdNanos::new(nanos));
        format!("[[price]]\nprovider = \"{provider}\"\nsku = \"{SKU}\"\nunit = \"second\"\nusd = \"{usd}\"\n")
    };
    let prices: String = POOLS.iter().zip(SECOND).map(price).collect();
    let text = format!("version = \"sim\"\nas_of = \"2027-01-01\"\nsource = \"made up\"\n{prices}");
    PriceBook::from_toml(&text).expect("a price book")
}

/// The settings of the dispatcher called `name`.
pub(crate) fn dispatcher(plan: &Plan, name: &str) -> DispatcherConfig {
    let hedge = HedgeConfig {
        share: f64::from(plan.hedges) / 100.0,
        budget_per_hour: UsdNanos::new(1_000_000_000_000),
        after: 1.2,
        least: Duration::from_millis(500),
    };
    let known = (0..POOLS.len()).map(|index| KnownPool {
        id: pool(index),
        models: vec![KnownModel { model: model(), size: SIZE, least_cost: UsdNanos::new(1) }],
    });
    let known = known.collect();
    DispatcherConfig {
        link: LinkConfig::to("nats://simulated"),
        id: name.parse().expect("a name that is a token"),
        topology: settings(plan),
        regions: vec![region()],
        pools: known,
        policy: PolicyConfig { hedge, ..PolicyConfig::default() },
        breaker: BreakerConfig { open_max: Duration::from_secs(20), ..BreakerConfig::default() },
        offers: OfferConfig { pull_batch: 20, ..OfferConfig::default() },
        trim: TrimConfig::default(),
        retries: RetryConfig::default(),
        budgets: Rules::default(),
        weights: HashMap::new(),
        grace: GRACE,
    }
}
