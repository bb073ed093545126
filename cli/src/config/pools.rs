//! `[[pools]]`: whom a worker calls, for which models, with how many slots, and where its secrets are.

use std::{
    collections::HashMap,
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use routing::never::{KnownModel, KnownPool};
use schemas::{
    Micros, PoolId, ProviderId, Region, WorkerId, prices::PriceBook, time::Clock as _, topology::Settings,
};
use serde::Deserialize;
use simulators::SimulatorConfig;
use transport::{LinkConfig, SystemClock};
use workers::{
    PoolConfig, PoolModel,
    adapters::{
        Billing, Dialect,
        replicate::{AccountLimits, InputKeys, Target},
    },
    booking,
    webhooks::Webhooks,
};

use super::{
    Config, ConfigError, Rule, at_least,
    call::{Call, Kind, Mode, RawCall},
    positive,
    span::Span,
};

/// Asking a provider for its health more often than this would be a load of its own.
const HEALTH_EVERY_MIN: Span = Span::millis(100);
/// A call shorter than this is no inference.
const TIMEOUT_MIN: Span = Span::millis(100);

/// `[[pools]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPool {
    provider: ProviderId,
    region: Region,
    slots: u32,
    rented: Option<bool>,
    idle: Option<Span>,
    models: Vec<RawModel>,
    timeout: Option<Span>,
    health_every: Option<Span>,
    price_name: Option<ProviderId>,
    kind: Kind,
    base_url: Option<String>,
    simulator: Option<String>,
    dialect: Option<Dialect>,
    billing: Option<Billing>,
    stream: Option<bool>,
    health_path: Option<String>,
    connect_timeout: Option<Span>,
    first_byte_timeout: Option<Span>,
    idle_timeout: Option<Span>,
    mode: Option<Mode>,
    wait: Option<Span>,
    queue_timeout: Option<Span>,
    trust_requests: Option<bool>,
    target: Option<Target>,
    input: Option<InputKeys>,
    poll_min: Option<Span>,
    poll_max: Option<Span>,
    webhook: Option<bool>,
    webhook_secret_env: Option<String>,
    webhook_secret_file: Option<PathBuf>,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    modal_key_env: Option<String>,
    modal_key_file: Option<PathBuf>,
    modal_secret_env: Option<String>,
    modal_secret_file: Option<PathBuf>,
    delay: Option<Span>,
}

/// `[[pools.models]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    model: String,
    served_as: Option<String>,
    sku: String,
    #[serde(default)]
    size: u16,
    expected: Option<Span>,
}

/// A checked pool; its secrets are not read yet.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) id: PoolId,
    /// Jobs a worker of it runs at a time.
    pub(crate) slots: u32,
    /// Whether it is paid for while it stands.
    rented: bool,
    /// How long a container is billed after its last job.
    idle: Duration,
    /// Where it stands in the file, for messages: `pools[3]`.
    key: String,
    models: Vec<PoolModel>,
    call: Call,
    call_timeout: Duration,
    price_name: ProviderId,
    health_every: Option<Duration>,
}

impl Pool {
    /// What a dispatcher knows of it before anything was heard of it: its models, and what an attempt there is expected to cost by
    /// the prices in force at `at`.
    pub(crate) fn known(&self, prices: &PriceBook, at: Micros) -> KnownPool {
        let known = |model: &PoolModel| KnownModel {
            model: model.model.clone(),
            size: model.size,
            least_cost: booking::expected_cost(prices, &self.price_name, &model.sku, model.expected, at),
        };
        KnownPool { id: self.id.clone(), models: self.models.iter().map(known).collect() }
    }
}

/// What a pool needs to know of the process it runs in.
pub(crate) struct Place<'a> {
    /// The connection.
    pub(crate) link: LinkConfig,
    /// The worker's name.
    pub(crate) worker: WorkerId,
    /// The address of a simulator that runs in this process, by its name.
    pub(crate) simulated: &'a dyn Fn(&str) -> Option<String>,
    /// What the pools of the process share.
    pub(crate) shared: &'a Shared,
}

/// What pools of one process have in common.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Where providers may send hints.
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    /// The limits of each Replicate account, by its key.
    accounts: Mutex<HashMap<String, Arc<AccountLimits>>>,
}

impl Shared {
    /// What a configuration needs.
    pub(crate) fn new(config: &Config) -> Self {
        let webhooks = config.workers.webhooks.as_ref();
        Self {
            webhooks: webhooks.map(|hooks| Arc::new(Webhooks::new(&hooks.public_url))),
            accounts: Mutex::default(),
        }
    }

    /// The limits that all pools with this key share.
    pub(super) fn account(&self, key: &str) -> Arc<AccountLimits> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(accounts.entry(key.to_owned()).or_default())
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("worker", &self.worker).finish_non_exhaustive()
    }
}

impl Pool {
    /// Reads the secrets and gives what a worker needs.
    pub(crate) fn build(&self, config: &Config, place: &Place<'_>) -> Result<PoolConfig, ConfigError> {
        let provider = self.call.provider(&self.key, place).map_err(|rule| config.refuse(rule))?;
        Ok(PoolConfig {
            link: place.link.clone(),
            pool: self.id.clone(),
            worker: place.worker.clone(),
            slots: self.slots,
            rented: self.rented,
            idle: self.idle,
            models: self.models.clone(),
            provider,
            price_name: self.price_name.clone(),
            prices: Arc::clone(&config.prices),
            call_timeout: self.call_timeout,
            ack_wait: config.topology.ack_wait,
            journal: config.workers.journal,
            health_every: self.health_every,
            standing_every: config.workers.standing_every,
            grace: config.workers.grace,
        })
    }

    /// The simulator it calls, where it calls one of this process.
    pub(crate) fn simulator(&self) -> Option<&str> {
        self.call.simulator()
    }

    /// Finds out whether every secret is there, before anything is started.
    pub(crate) fn check_secrets(&self, config: &Config) -> Result<(), ConfigError> {
        self.call.check_secrets().map_err(|rule| config.refuse(rule))
    }
}

/// Checks all pools, each and together.
pub(super) fn check(
    raw: Vec<RawPool>,
    topology: &Settings,
    prices: &PriceBook,
    simulators: &[SimulatorConfig],
    folder: &Path,
    receives: bool,
) -> Result<Vec<Pool>, Rule> {
    let mut pools: Vec<Pool> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("pools[{index}]");
        let pool = check_one(raw, key, topology, prices, simulators, folder, receives)?;
        if let Some(other) = pools.iter().find(|other| other.id == pool.id) {
            return Err(Rule::new(
                format!("{}.provider", pool.key),
                format!(
                    "`{}` is configured already in {}; give the second another provider name and a price_name",
                    pool.id, other.key
                ),
            ));
        }
        pools.push(pool);
    }
    Ok(pools)
}

fn check_one(
    raw: RawPool,
    key: String,
    topology: &Settings,
    prices: &PriceBook,
    simulators: &[SimulatorConfig],
    folder: &Path,
    receives: bool,
) -> Result<Pool, Rule> {
    // Every field by name, so that a new one cannot be overlooked.
    let RawPool {
        provider,
        region,
        slots,
        rented,
        idle,
        models,
        timeout,
        health_every,
        price_name,
        kind,
        base_url,
        simulator,
        dialect,
        billing,
        stream,
        health_path,
        connect_timeout,
        first_byte_timeout,
        idle_timeout,
        mode,
        wait,
        queue_timeout,
        trust_requests,
        target,
        input,
        poll_min,
        poll_max,
        webhook,
        webhook_secret_env,
        webhook_secret_file,
        api_key_env,
        api_key_file,
        modal_key_env,
        modal_key_file,
        modal_secret_env,
        modal_secret_file,
        delay,
    } = raw;
    if !topology.regions.contains(&region) {
        let known = topology.regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(Rule::new(
            format!("{key}.region"),
            format!("`{region}` is not in beacon.regions ({known})"),
        ));
    }
    positive(&format!("{key}.slots"), slots)?;
    let price_name = price_name.unwrap_or_else(|| provider.clone());
    let models = check_models(models, &key, topology, prices, &price_name)?;
    let call_timeout =
        at_least(&format!("{key}.timeout"), timeout.unwrap_or(Span::secs(120)), TIMEOUT_MIN, "")?;
    let health_every = match health_every.unwrap_or(Span::secs(5)) {
        never if never.get().is_zero() => None,
        span => Some(at_least(&format!("{key}.health_every"), span, HEALTH_EVERY_MIN, ", or 0s for never")?),
    };
    let call = RawCall {
        kind,
        base_url,
        simulator,
        dialect,
        billing,
        stream,
        health_path,
        connect_timeout,
        first_byte_timeout,
        idle_timeout,
        mode,
        wait,
        queue_timeout,
        trust_requests,
        target,
        input,
        poll_min,
        poll_max,
        webhook,
        webhook_secret_env,
        webhook_secret_file,
        api_key_env,
        api_key_file,
        modal_key_env,
        modal_key_file,
        modal_secret_env,
        modal_secret_file,
        delay,
    };
    let call = call.check(&key, simulators, folder, receives)?;
    let id = PoolId { region, provider };
    Ok(Pool {
        id,
        slots,
        rented: rented.unwrap_or(false),
        idle: idle.map_or(Duration::ZERO, Span::get),
        key,
        models,
        call,
        call_timeout,
        price_name,
        health_every,
    })
}

fn check_models(
    raw: Vec<RawModel>,
    pool: &str,
    topology: &Settings,
    prices: &PriceBook,
    price_name: &ProviderId,
) -> Result<Vec<PoolModel>, Rule> {
    if raw.is_empty() {
        return Err(Rule::new(format!("{pool}.models"), "must name at least one model"));
    }
    let mut models: Vec<PoolModel> = Vec::with_capacity(raw.len());
    for (index, RawModel { model: name, served_as, sku, size, expected }) in raw.into_iter().enumerate() {
        let key = |field: &str| format!("{pool}.models[{index}].{field}");
        let Some(model) = topology.catalog.find(&name) else {
            let known = topology.catalog.names().collect::<Vec<_>>().join(", ");
            return Err(Rule::new(key("model"), format!("`{name}` is not in beacon.models ({known})")));
        };
        if models.iter().any(|other| other.model == *model) {
            return Err(Rule::new(key("model"), format!("`{name}` is named twice")));
        }
        // A price that is over or has yet to come is told here, too, and not at the first bill.
        prices
            .require(price_name, &sku, SystemClock.now())
            .map_err(|error| Rule::new(key("sku"), error.to_string()))?;
        let expected = expected.unwrap_or(Span::secs(1));
        models.push(PoolModel {
            model: model.clone(),
            served_as: served_as.unwrap_or(name),
            sku,
            size,
            expected: at_least(&key("expected"), expected, Span::millis(1), "")?,
        });
    }
    Ok(models)
}

/// A secret, by the name of a variable or a file. Never written in the configuration itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Secret {
    /// The key that names it, for messages: `api_key_env`.
    key: String,
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Source {
    Variable(String),
    File(PathBuf),
}

impl Secret {
    /// At most one of the two; `name` is the part of the keys before `_env` and `_file`.
    pub(super) fn named(
        pool: &str,
        name: &str,
        variable: Option<String>,
        file: Option<PathBuf>,
        folder: &Path,
    ) -> Result<Option<Self>, Rule> {
        let key = |suffix: &str| format!("{pool}.{name}_{suffix}");
        match (variable, file) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => {
                Err(Rule::new(key("file"), format!("only one of {name}_env and {name}_file may be given")))
            }
            (Some(variable), None) => Ok(Some(Self { key: key("env"), source: Source::Variable(variable) })),
            (None, Some(file)) => {
                Ok(Some(Self { key: key("file"), source: Source::File(folder.join(file)) }))
            }
        }
    }

    /// Reads it.
    pub(super) fn read(&self, variable: impl Fn(&str) -> Option<String>) -> Result<String, Rule> {
        let refuse = |what: String| Rule::new(self.key.clone(), what);
        let text = match &self.source {
            Source::Variable(name) => variable(name)
                .ok_or_else(|| refuse(format!("the environment variable `{name}` is not set or empty")))?,
            Source::File(path) => fs::read_to_string(path)
                .map_err(|error| refuse(format!("`{}` cannot be read: {error}", path.display())))?,
        };
        let text = text.trim();
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(refuse("the secret must be one line of text".into()));
        }
        Ok(text.to_owned())
    }
}
