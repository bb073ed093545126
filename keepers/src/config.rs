//! What a keeper is told, checked once by the command line; always usable.

use std::{sync::Arc, time::Duration};

use schemas::{ModelToken, PoolId, UsdNanos};
use transport::LinkConfig;

use crate::{account::Account, probe::Prober, secret::Secret, tap::Tap};

/// One keeper process.
#[derive(Clone)]
pub struct KeeperConfig {
    /// The connection.
    pub link: LinkConfig,
    /// This keeper's name. A keeper that starts again under its name takes its pools at once.
    pub keeper: String,
    /// The accounts it may use.
    pub accounts: Vec<Arc<Account>>,
    /// The pools it keeps.
    pub pools: Vec<PoolSettings>,
    /// Who probes machines.
    pub prober: Arc<dyn Prober>,
    /// Version of the price book, for cost events.
    pub price_book: String,
    /// How often what no job used is booked.
    pub standing_every: Duration,
    /// The machines of a pool that is in no configuration here are ended when nobody has kept it for so long: it may be another
    /// keeper's, which is being restarted.
    pub forsaken_after: Duration,
    /// How long a keeper that stops waits for calls under way.
    pub grace: Duration,
    /// Watches every step; for tests that kill the keeper there.
    pub tap: Arc<dyn Tap>,
}

/// A pool of rented machines.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolSettings {
    /// The pool.
    pub pool: PoolId,
    /// Its account, by the name of the provider.
    pub account: String,
    /// The type of its machines.
    pub sku: String,
    /// Where they may stand, best first.
    pub places: Vec<String>,
    /// Jobs a machine runs at a time.
    pub slots: u32,
    /// The most that one machine may cost an hour, dollars.
    pub usd_per_hour_max: UsdNanos,
    /// What jobs are charged for an hour of a whole machine, dollars; `None` for what it costs. Where a provider bills measured use,
    /// a machine's price is only the most that it can cost, and jobs must not be charged more than it does.
    pub job_usd_per_hour: Option<UsdNanos>,
    /// The models that the machines serve.
    pub models: Vec<ModelToken>,
    /// The model that a probe asks for, by its name at the machine's server.
    pub model: String,
    /// The route of the server's health check.
    pub health_path: String,
    /// From which the machines' keys are derived; `None` for servers without one.
    pub secret: Option<Secret>,
    /// How many, and when.
    pub policy: crate::policy::Policy,
}
