//! `beacon.toml`: what an operator may say, and what we make of it. Read once, before anything connects or starts.
//!
//! [`raw`] says what the file says and lives for one call; [`Config`] is always usable. A refusal names the file,
//! the key, the value and the rule, on one line. Secrets are named here (a variable or a file) and read only by
//! the process that needs them, when it builds a pool ([`pools`]).

mod call;
pub(crate) mod pools;
mod raw;
pub(crate) mod span;
mod spending;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dispatcher::config::{OfferConfig, TrimConfig};
use routing::{
    budget::Rules,
    config::{BreakerConfig, PolicyConfig},
    retry_budget::RetryConfig,
};
use schemas::{PoolId, Tenant, catalog::Catalog, prices::PriceBook, topology::Settings};
use simulators::SimulatorConfig;
use transport::LinkConfig;
use workers::config::JournalMode;

pub(crate) use self::raw::is_address;
use self::{pools::Pool, raw::RawConfig, span::Span};

/// What `beacon` uses when there is no file, and what the demo runs on.
pub(crate) const BUILT_IN: &str = include_str!("config/built_in.toml");
/// The prices when no file is named: the report's.
const BUILT_IN_PRICES: &str = include_str!("../../prices.toml");
/// Where a file is looked for when none is named.
const HERE: &str = "beacon.toml";

/// A lease shorter than this would be lost to an ordinary pause of a process or a network.
const ACK_WAIT_MIN: Span = Span::secs(1);
/// What NATS takes for a duplicate window at least.
const WINDOW_MIN: Span = Span::millis(100);
/// Offers younger than this would be refused for the network's delay alone.
const ACCEPT_WITHIN_MIN: Span = Span::millis(10);

/// A checked configuration.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// Where it was read, for messages.
    file: String,
    /// Where NATS is, or how to start our own.
    pub(crate) nats: Nats,
    /// The map of streams.
    pub(crate) topology: Settings,
    /// How a pool is chosen.
    pub(crate) policy: PolicyConfig,
    /// When a pool is left alone.
    pub(crate) breaker: BreakerConfig,
    /// How long offers may take.
    pub(crate) offers: OfferConfig,
    /// When the log is trimmed.
    pub(crate) trim: TrimConfig,
    /// How much may be tried again.
    pub(crate) retries: RetryConfig,
    /// Who may spend how much.
    pub(crate) budgets: Rules,
    /// The shares of tenants that have another than 1.
    pub(crate) weights: HashMap<Tenant, u32>,
    /// How long a dispatcher waits for open offers at its end.
    pub(crate) dispatcher_grace: Duration,
    /// What all pools have in common.
    pub(crate) workers: Workers,
    /// What everything costs.
    pub(crate) prices: Arc<PriceBook>,
    /// The pools.
    pub(crate) pools: Vec<Pool>,
    /// Providers to simulate.
    pub(crate) simulators: Vec<SimulatorConfig>,
    /// Where metrics are served, if anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Which log lines are told; the command's default when missing.
    pub(crate) log_filter: Option<String>,
    /// Whether log lines are JSON.
    pub(crate) log_json: bool,
}

/// Where NATS is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Nats {
    /// Somebody else runs it.
    Remote(LinkConfig),
    /// We start our own.
    Embedded(Embedded),
}

/// How our own nats-server is started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// The program; searched when missing.
    pub(crate) server: Option<PathBuf>,
    /// Its data folder; the command's default when missing.
    pub(crate) data: Option<PathBuf>,
    /// Its port on loopback; a free one when missing.
    pub(crate) port: Option<u16>,
}

/// What all pools have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workers {
    pub(crate) journal: JournalMode,
    pub(crate) standing_every: Duration,
    pub(crate) grace: Duration,
    pub(crate) webhooks: Option<ReceiveWebhooks>,
}

/// `[workers.webhooks]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceiveWebhooks {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// How providers reach that.
    pub(crate) public_url: String,
}

/// Why a configuration is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file cannot be read.
    #[error("{file}: cannot be read")]
    Read {
        file: String,
        #[source]
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{file}: {what}")]
    Syntax { file: String, what: String },
    /// A key breaks its rule.
    #[error("{file}: {rule}")]
    Rule { file: String, rule: Rule },
}

/// A key, and the rule that its value breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}")]
pub(crate) struct Rule {
    pub(crate) key: String,
    pub(crate) text: String,
}

impl Rule {
    pub(crate) fn new(key: impl Into<String>, text: impl Into<String>) -> Self {
        Self { key: key.into(), text: text.into() }
    }
}

impl Config {
    /// Reads the named file, or `./beacon.toml` if there is one, or what is built in.
    pub(crate) fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let here = Path::new(HERE);
        match named.or_else(|| here.exists().then_some(here)) {
            Some(path) => {
                let text = read(path)?;
                Self::parse(&text, &path.display().to_string(), path.parent().unwrap_or(Path::new("")))
            }
            None => Self::built_in(),
        }
    }

    /// What is built in.
    pub(crate) fn built_in() -> Result<Self, ConfigError> {
        Self::parse(BUILT_IN, "the built-in configuration", Path::new(""))
    }

    /// Reads and checks a text. Relative paths in it start at `folder`.
    pub(crate) fn parse(text: &str, file: &str, folder: &Path) -> Result<Self, ConfigError> {
        let raw = read_toml(text, file)?;
        let prices = match &raw.beacon.prices {
            None => parse_prices(BUILT_IN_PRICES, "the built-in prices")?,
            Some(path) => {
                let path = folder.join(path);
                parse_prices(&read(&path)?, &path.display().to_string())?
            }
        };
        check(raw, prices, file, folder).map_err(|rule| ConfigError::Rule { file: file.to_owned(), rule })
    }

    /// A key of this configuration breaks a rule that could not be checked before.
    fn refuse(&self, rule: Rule) -> ConfigError {
        ConfigError::Rule { file: self.file.clone(), rule }
    }

    /// Adds a model and pools that serve it, written as in the file and checked by the same rules.
    pub(crate) fn add(&mut self, model: &str, pools: &str) -> Result<(), ConfigError> {
        const FILE: &str = "the demo's own pools";
        let refuse = |rule| ConfigError::Rule { file: FILE.to_owned(), rule };
        let names = self.topology.catalog.names().chain([model]).map(str::to_owned).collect();
        self.topology.catalog =
            Catalog::new(names).map_err(|error| refuse(Rule::new("beacon.models", error.to_string())))?;
        let raw = read_toml(pools, FILE)?;
        let added = pools::check(
            raw.pools,
            &self.topology,
            &self.prices,
            &self.simulators,
            Path::new(""),
            self.workers.webhooks.is_some(),
        )
        .map_err(refuse)?;
        self.pools.extend(added);
        Ok(())
    }

    /// The pool of that name.
    pub(crate) fn pool(&self, id: &PoolId) -> Option<&Pool> {
        self.pools.iter().find(|pool| pool.id == *id)
    }
}

fn read(path: &Path) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Read { file: path.display().to_string(), source })
}

fn parse_prices(text: &str, file: &str) -> Result<PriceBook, ConfigError> {
    PriceBook::from_toml(text)
        .map_err(|error| ConfigError::Syntax { file: file.to_owned(), what: error.to_string() })
}

fn read_toml(text: &str, file: &str) -> Result<RawConfig, ConfigError> {
    let refuse = |key: &str, error: &toml::de::Error| {
        let line = error.span().map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let message = error.message().split_whitespace().collect::<Vec<_>>().join(" ");
        let place = line.map_or_else(String::new, |line| format!("line {line}: "));
        let key = if key.is_empty() || key == "." { String::new() } else { format!("{key}: ") };
        ConfigError::Syntax { file: file.to_owned(), what: format!("{place}{key}{message}") }
    };
    let deserializer = toml::Deserializer::parse(text).map_err(|e| refuse("", &e))?;
    serde_path_to_error::deserialize(deserializer).map_err(|e| refuse(&e.path().to_string(), e.inner()))
}

fn check(raw: RawConfig, prices: PriceBook, file: &str, folder: &Path) -> Result<Config, Rule> {
    // Every section by name, so that a new one cannot be overlooked.
    let RawConfig {
        nats,
        beacon,
        lease,
        routing,
        breaker,
        offers,
        trim,
        dispatcher,
        workers,
        metrics,
        log,
        retries,
        budgets,
        tenants,
        pools,
        simulators,
    } = raw;
    let nats = nats.check(folder)?;
    let topology = settings(beacon, &lease)?;
    let offers = offers.check(topology.ack_wait)?;
    let trim = trim.check(topology.jobs_window)?;
    let workers = workers.check()?;
    check_simulators(&simulators)?;
    let pools = pools::check(pools, &topology, &prices, &simulators, folder, workers.webhooks.is_some())?;
    enough_pending(&topology, &pools)?;
    let policy = routing.check(&pools)?;
    let budgets = spending::budgets(budgets, &pools)?;
    Ok(Config {
        file: file.to_owned(),
        nats,
        topology,
        policy,
        breaker: breaker.check()?,
        offers,
        trim,
        retries: retries.check()?,
        budgets,
        weights: spending::weights(tenants)?,
        dispatcher_grace: dispatcher.grace.get(),
        workers,
        prices: Arc::new(prices),
        pools,
        simulators,
        metrics: metrics.listen,
        log_filter: log.filter,
        log_json: log.json,
    })
}

/// The map of streams.
fn settings(beacon: raw::RawBeacon, lease: &raw::RawLease) -> Result<Settings, Rule> {
    let raw::RawBeacon { regions, models, replicas, jobs_max_bytes, prices: _ } = beacon;
    if regions.is_empty() {
        return Err(Rule::new("beacon.regions", "must name at least one region"));
    }
    if let Some(twice) = (1..regions.len()).find(|&i| regions[..i].contains(&regions[i])) {
        return Err(Rule::new(
            format!("beacon.regions[{twice}]"),
            format!("`{}` is named twice", regions[twice]),
        ));
    }
    if ![1, 3].contains(&replicas) {
        return Err(Rule::new(
            "beacon.replicas",
            format!("`{replicas}` must be 1 (one server) or 3 (a cluster)"),
        ));
    }
    if jobs_max_bytes < raw::JOBS_BYTES_MIN {
        return Err(Rule::new(
            "beacon.jobs_max_bytes",
            format!("`{jobs_max_bytes}` must be at least {} (1 MiB)", raw::JOBS_BYTES_MIN),
        ));
    }
    at_least(
        "lease.ack_wait",
        lease.ack_wait,
        ACK_WAIT_MIN,
        ": it is extended each third of it, and two lost extensions must not cost a lease",
    )?;
    at_least("lease.jobs_window", lease.jobs_window, WINDOW_MIN, "")?;
    longer(("lease.jobs_window", lease.jobs_window), ("lease.ack_wait", lease.ack_wait))?;
    longer(("lease.replies_window", lease.replies_window), ("lease.ack_wait", lease.ack_wait))?;
    positive("lease.max_ack_pending", lease.max_ack_pending)?;
    Ok(Settings {
        regions,
        catalog: models,
        replicas,
        ack_wait: lease.ack_wait.get(),
        max_ack_pending: lease.max_ack_pending,
        jobs_max_bytes,
        jobs_window: lease.jobs_window.get(),
        replies_window: lease.replies_window.get(),
    })
}

/// A consumer must be able to fill all slots of its region twice: running jobs and those on their way.
fn enough_pending(topology: &Settings, pools: &[Pool]) -> Result<(), Rule> {
    for region in &topology.regions {
        let slots: u64 =
            pools.iter().filter(|pool| pool.id.region == *region).map(|pool| u64::from(pool.slots)).sum();
        if u64::from(topology.max_ack_pending) < 2 * slots {
            return Err(Rule::new(
                "lease.max_ack_pending",
                format!(
                    "`{}` must be at least twice the {slots} slots of region {region}",
                    topology.max_ack_pending
                ),
            ));
        }
    }
    Ok(())
}

/// Each by its own rules, and names and fixed addresses without repeats.
fn check_simulators(simulators: &[SimulatorConfig]) -> Result<(), Rule> {
    for (index, simulator) in simulators.iter().enumerate() {
        let earlier = &simulators[..index];
        let key = |field: &str| format!("simulators[{index}]{field}");
        simulator.check().map_err(|error| Rule::new(key(""), error.to_string()))?;
        if earlier.iter().any(|other| other.name == simulator.name) {
            return Err(Rule::new(key(".name"), format!("`{}` is named twice", simulator.name)));
        }
        if simulator.listen.port() != 0 && earlier.iter().any(|other| other.listen == simulator.listen) {
            return Err(Rule::new(
                key(".listen"),
                format!("`{}` is taken by another simulator", simulator.listen),
            ));
        }
    }
    Ok(())
}

/// At least `min`; `why` goes on from there.
fn at_least(key: &str, value: Span, min: Span, why: &str) -> Result<Duration, Rule> {
    if value < min {
        return Err(Rule::new(key, format!("`{value}` must be at least {min}{why}")));
    }
    Ok(value.get())
}

/// `long` must be longer than `short`; both with their keys.
fn longer(long: (&str, Span), short: (&str, Span)) -> Result<Duration, Rule> {
    if long.1 <= short.1 {
        return Err(Rule::new(
            long.0,
            format!("`{}` must be longer than {} (`{}`)", long.1, short.0, short.1),
        ));
    }
    Ok(long.1.get())
}

fn positive<T: PartialEq + From<u8>>(key: &str, value: T) -> Result<T, Rule> {
    if value == T::from(0) {
        return Err(Rule::new(key, "`0` must be at least 1"));
    }
    Ok(value)
}

#[cfg(test)]
mod tests;
