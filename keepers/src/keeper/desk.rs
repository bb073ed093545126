//! What keeping one pool needs, whoever holds its lease.

use std::{sync::Arc, time::Duration};

use schemas::{Micros, UsdNanos, time::Clock as _};
use transport::{Publisher, SystemClock};

use crate::{
    account::Account,
    config::{KeeperConfig, PoolSettings},
    connection::Connection,
    fleet::Usual,
    nats::Client,
    policy::Policy,
    probe::Prober,
    row::Row,
    store::Store,
    tap::Tap,
};

/// One pool's desk.
#[derive(Clone)]
pub(super) struct Desk {
    pub(super) settings: PoolSettings,
    pub(super) account: Arc<Account>,
    pub(super) store: Store,
    pub(super) client: Client,
    pub(super) publisher: Publisher,
    pub(super) prober: Arc<dyn Prober>,
    pub(super) tap: Arc<dyn Tap>,
    pub(super) keeper: String,
    pub(super) price_book: String,
    pub(super) standing_every: Duration,
    pub(super) grace: Duration,
    /// How long nobody must have kept a pool before it is nobody's.
    pub(super) forsaken_after: Duration,
    /// Whether the pool is in our configuration no more: if no other keeper keeps it for a while, its machines are ended.
    pub(super) orphaned: bool,
    /// When this desk was opened.
    pub(super) since: Micros,
}

impl Desk {
    pub(super) fn new(
        config: &KeeperConfig,
        settings: &PoolSettings,
        account: Arc<Account>,
        connection: &Connection,
    ) -> Self {
        Self {
            settings: settings.clone(),
            account,
            store: connection.store.clone(),
            client: connection.link.client.clone(),
            publisher: connection.publisher.clone(),
            prober: Arc::clone(&config.prober),
            tap: Arc::clone(&config.tap),
            keeper: config.keeper.clone(),
            price_book: config.price_book.clone(),
            standing_every: config.standing_every,
            grace: config.grace,
            forsaken_after: config.forsaken_after,
            orphaned: false,
            since: SystemClock.now(),
        }
    }

    /// The desk of a pool that the configuration does not have any more.
    pub(super) fn of_orphans(
        config: &KeeperConfig,
        row: &Row,
        account: Arc<Account>,
        connection: &Connection,
    ) -> Self {
        let settings = PoolSettings {
            pool: row.specs.pool.clone(),
            account: row.specs.landlord.clone(),
            sku: row.specs.sku.clone(),
            places: Vec::new(),
            slots: row.specs.slots,
            usd_per_hour_max: UsdNanos::ZERO,
            job_usd_per_hour: None,
            models: Vec::new(),
            model: String::new(),
            health_path: "/health".into(),
            secret: None,
            policy: Policy::default(),
        };
        Self { orphaned: true, ..Self::new(config, &settings, account, connection) }
    }

    /// What machines of the pool are like, for those that only a list knows.
    pub(super) fn usual(&self) -> Usual {
        let settings = &self.settings;
        Usual {
            landlord: settings.account.clone(),
            sku: settings.sku.clone(),
            place: settings.places.first().cloned().unwrap_or_default(),
            slots: settings.slots,
            usd_per_hour: settings.usd_per_hour_max,
            parked_usd_per_hour: UsdNanos::ZERO,
            job_usd_per_hour: settings.job_usd_per_hour,
            unit: self.account.rules().unit,
        }
    }
}
