//! How a worker starts.

use std::{sync::Arc, time::Duration};

use rustc_hash::FxHashMap;
use schemas::{
    machine::pool_prefix,
    subjects,
    topology::{FLOORS_BUCKET, JOURNAL_BUCKET, MACHINES_BUCKET},
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use transport::{
    LinkError,
    bucket::Bucket,
    follow::Follower,
    publisher::Patience,
    role::{Links, Publishes, RoleError},
};

use super::Pool;
use crate::{
    attempt::course::Site,
    clock::Clock,
    complaints::Complaints,
    config::PoolConfig,
    health,
    kit::Kit,
    lookup::Lookup,
    metrics::PoolMetrics,
    provider::Sight,
    rented::Desk,
    shift::{Post, Shift},
    standing::Ledger,
};

/// How long "no stream takes it" may be a leader election, before an attempt says that what it paid for cannot be stored. It
/// goes on trying.
const NO_STREAM: Duration = Duration::from_secs(5);

/// Why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No subscription.
    #[error("cannot subscribe")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// What every role needs did not start.
    #[error(transparent)]
    Role(#[from] RoleError),
}

impl Pool {
    /// Connects and begins to listen for offers; takes none before [`Pool::run`].
    pub async fn connect(config: PoolConfig) -> Result<Self, StartError> {
        let name = format!("worker-{}-{}", config.pool, config.worker);
        let links = Links::connect(&config.link, &name).await?;
        let mut role = links.start(Publishes::OnBulk).await?;
        let (client, control) = (role.bulk.client.clone(), role.control.client.clone());
        let offers =
            client.queue_subscribe(subjects::work(&config.pool), subjects::work_group(&config.pool)).await?;
        let orders = control.subscribe(subjects::orders(&config.pool, &config.worker)).await?;
        let (tell, sight) = watch::channel(Sight::default());
        if let Some(every) = config.health_every {
            let (pool, provider) = (config.pool.clone(), config.provider.clone());
            let models = config.models.iter().map(|model| model.served_as.clone()).collect();
            role.spawn(|stop| health::watch(pool, provider, models, every, tell, stop));
        }
        let publisher = role.publisher.with_patience(Patience { no_stream: NO_STREAM, ..Patience::FOREVER });
        let bucket = |name| Bucket::new(control.clone(), publisher.clone(), name);
        let (journals, accounts) = (bucket(JOURNAL_BUCKET), bucket(FLOORS_BUCKET));
        let clock = Clock::start();
        let capacity = config.machines.as_ref().map(|machines| {
            let desk = Desk {
                rows: Follower::below(control.clone(), MACHINES_BUCKET, &pool_prefix(&config.pool)),
                shares: bucket(MACHINES_BUCKET),
                pool: config.pool.clone(),
                worker: config.worker.clone(),
                started: clock.now().wall,
            };
            let machines = machines.clone();
            role.spawn(|stop| machines.clone().attend(desk, stop));
            machines.capacity()
        });
        let site = Site {
            pool: config.pool.clone(),
            journal: config.journal,
            price_book: config.prices.version.clone(),
        };
        let shift = Shift::new(post(&config, clock), clock.now());
        let kit = Arc::new(Kit {
            site: Arc::new(site),
            clock,
            client,
            lookup: Lookup::new(control.clone()),
            control,
            publisher,
            acks: role.acks.clone(),
            journals,
            cancels: role.cancels.clone(),
            complaints: Complaints::default(),
            metrics: PoolMetrics::new(&config.pool),
            stop: CancellationToken::new(),
            config,
        });
        Ok(Self {
            ledger: Ledger { kit: kit.clone(), accounts },
            kit,
            role,
            shift,
            offers,
            orders,
            sight,
            checks: None,
            capacity,
            running: JoinSet::new(),
            held: FxHashMap::default(),
            untold: Vec::new(),
            errands: JoinSet::new(),
            booking: JoinSet::new(),
        })
    }
}

fn post(config: &PoolConfig, clock: Clock) -> Post {
    Post {
        pool: config.pool.clone(),
        worker: config.worker.clone(),
        started: clock.now().wall,
        // Where machines are rented, none is known yet.
        slots: if config.machines.is_some() { 0 } else { config.slots },
        models: config.models.clone(),
        prices: config.prices.clone(),
        price_name: config.price_name.clone(),
        idle: config.idle,
        rented: config.rented,
        detached: config.provider.detached(),
    }
}
