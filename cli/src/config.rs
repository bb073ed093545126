//! `beacon.toml`: read and checked once, before anything connects or starts.
//!
//! [`raw`] holds the file and lives for one call; [`Config`] is always usable. A refusal names the file, the key, the
//! value and the rule, on one line. The file names secrets (a variable or a file); only the process that needs a secret
//! reads it, when it builds a pool ([`pools`]).
//!
//! Reading order: [`span`] and [`rule`], then one module per section ([`nats`], [`streams`], [`worker`], [`raw_pool`],
//! [`secret`], [`landlords`], [`rent`], [`renting`], [`keeping`], [`process`], [`call`], [`pools`], [`policy`], [`dispatching`], [`spending`]), then [`raw`].

mod call;
mod dispatching;
mod keeping;
pub(crate) mod landlords;
mod nats;
mod policy;
pub(crate) mod pools;
pub(crate) mod process;
mod raw;
mod raw_pool;
pub(crate) mod rent;
mod renting;
mod rule;
mod secret;
pub(crate) mod span;
mod spending;
mod streams;
mod worker;

use std::{
    collections::HashMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use dispatcher::config::{OfferConfig, TrimConfig};
use keepers::{account::Account, config::PoolSettings};
use routing::{
    budget::Rules,
    config::{BreakerConfig, PolicyConfig},
    retry_budget::RetryConfig,
};
use schemas::{PoolId, Tenant, catalog::Catalog, prices::PriceBook, topology::Settings};
use simulators::{SimulatorConfig, rented::AccountConfig};
use workers::{PoolConfig, provider::Provider};

pub(crate) use self::nats::{Embedded, Nats, is_address};
use self::{
    call::World,
    keeping::Keeping,
    landlords::LandlordConfig,
    pools::Pool,
    process::{Place, Shared, SimulatedAccount},
    raw::RawConfig,
    rule::Rule,
    worker::Workers,
};

/// The configuration without a file, and of the demo.
pub(crate) const BUILT_IN: &str = include_str!("config/built_in.toml");
/// The prices when no file is named: the report's.
const BUILT_IN_PRICES: &str = include_str!("../../prices.toml");
/// Jobs of one model that dispatchers hold while no slot is free, where a pool rents: enough to see the deadlines of the next
/// minutes, at some kilobytes each.
const LOOK_AHEAD_OF_RENTS: u32 = 500;
/// The file that is read when none is named and it exists.
const HERE: &str = "beacon.toml";

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
    /// The budgets in dollars.
    pub(crate) budgets: Rules,
    /// The shares of tenants that have another than 1.
    pub(crate) weights: HashMap<Tenant, u32>,
    /// How long a dispatcher waits for open offers at its end.
    pub(crate) dispatcher_grace: Duration,
    /// The settings that all pools share.
    pub(crate) workers: Workers,
    /// How keepers work.
    pub(crate) keeping: Keeping,
    /// The accounts in which machines may be rented.
    pub(crate) landlords: Vec<LandlordConfig>,
    /// The price book.
    pub(crate) prices: Arc<PriceBook>,
    /// Where it was read; `None` for the built-in one.
    pub(crate) prices_file: Option<PathBuf>,
    /// As it was written.
    pub(crate) prices_text: String,
    /// The pools.
    pub(crate) pools: Vec<Pool>,
    /// Providers to simulate.
    pub(crate) simulators: Vec<SimulatorConfig>,
    /// Accounts at providers of machines to simulate.
    pub(crate) accounts: Vec<AccountConfig>,
    /// Where metrics are served, if anywhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Which log lines are told; the command's default when missing.
    pub(crate) log_filter: Option<String>,
    /// Whether log lines are JSON.
    pub(crate) log_json: bool,
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

impl Config {
    /// Reads the named file, or `./beacon.toml` if there is one, or the built-in configuration.
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

    /// The built-in configuration.
    pub(crate) fn built_in() -> Result<Self, ConfigError> {
        Self::parse(BUILT_IN, "the built-in configuration", Path::new(""))
    }

    /// Reads and checks a text. Relative paths in it start at `folder`.
    pub(crate) fn parse(text: &str, file: &str, folder: &Path) -> Result<Self, ConfigError> {
        let raw = read_toml(text, file)?;
        let (prices_file, prices_text) = match &raw.beacon.prices {
            None => (None, BUILT_IN_PRICES.to_owned()),
            Some(path) => {
                let path = folder.join(path);
                let text = read(&path)?;
                (Some(path), text)
            }
        };
        let named = prices_file.as_ref().map(|path| path.display().to_string());
        let prices = parse_prices(&prices_text, named.as_deref().unwrap_or("the built-in prices"))?;
        let config = check(raw, prices, file, folder);
        let config = config.map_err(|rule| ConfigError::Rule { file: file.to_owned(), rule })?;
        Ok(Self { prices_file, prices_text, ..config })
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
        let world = World {
            topology: &self.topology,
            prices: &self.prices,
            simulators: &self.simulators,
            folder: Path::new(""),
            receives: self.workers.webhooks.is_some(),
            landlords: &self.landlords,
        };
        let added = pools::check(raw.pools, &world).map_err(refuse)?;
        self.pools.extend(added);
        Ok(())
    }

    /// Reads the secrets of a pool and gives its worker's configuration.
    pub(crate) fn build(&self, pool: &Pool, place: &Place<'_>) -> Result<PoolConfig, ConfigError> {
        let built = pool.build(place, &self.workers, &self.topology, &self.prices);
        built.map_err(|rule| self.refuse(rule))
    }

    /// The accounts in which pools of `pools` rent, and how these are kept. Reads their keys; connects to nothing. `simulated` are
    /// the accounts that are simulated in this process.
    pub(crate) fn rents(
        &self,
        pools: &[&Pool],
        simulated: &dyn Fn(&str) -> Option<SimulatedAccount>,
    ) -> Result<(Vec<Arc<Account>>, Vec<PoolSettings>), ConfigError> {
        let rented = pools.iter().filter_map(|pool| Some((*pool, pool.rent()?)));
        let settings = rented
            .clone()
            .map(|(pool, rent)| rent.settings(&pool.id, pool.models()))
            .collect::<Result<_, _>>();
        let rents: Vec<_> = rented.map(|(pool, rent)| (&pool.id, rent)).collect();
        let accounts = self
            .landlords
            .iter()
            .map(|landlord| renting::open(landlord, &rents, simulated))
            .collect::<Result<_, _>>();
        Ok((accounts.map_err(|rule| self.refuse(rule))?, settings.map_err(|rule| self.refuse(rule))?))
    }

    /// Whom a pool calls, with its secrets read; connects to nothing.
    pub(crate) fn provider(
        &self,
        pool: &Pool,
        simulated: &dyn Fn(&str) -> Option<String>,
        shared: &Shared,
    ) -> Result<Arc<dyn Provider>, ConfigError> {
        pool.provider(simulated, shared).map_err(|rule| self.refuse(rule))
    }

    /// An account of `[[landlords]]` with all pools that rent there. Reads its key; connects to nothing. `simulated` as in
    /// [`Config::rents`].
    pub(crate) fn account(
        &self,
        name: &str,
        simulated: &dyn Fn(&str) -> Option<SimulatedAccount>,
    ) -> Result<Arc<Account>, ConfigError> {
        let missing = || Rule::new("landlords", format!("there is no `{name}`"));
        let landlord = self.landlords.iter().find(|landlord| landlord.name == name);
        let rents: Vec<_> = self.pools.iter().filter_map(|pool| Some((&pool.id, pool.rent()?))).collect();
        let opened =
            landlord.ok_or_else(missing).and_then(|landlord| renting::open(landlord, &rents, simulated));
        opened.map_err(|rule| self.refuse(rule))
    }

    /// Checks that every secret of one pool is there.
    pub(crate) fn check_pool_secrets(&self, pool: &Pool) -> Result<(), ConfigError> {
        pool.check_secrets().map_err(|rule| self.refuse(rule))
    }

    /// Checks that every secret of all pools is there, before anything is started.
    pub(crate) fn check_secrets(&self) -> Result<(), ConfigError> {
        let of_pools = self.pools.iter().try_for_each(Pool::check_secrets);
        let rents = self.pools.iter().any(|pool| pool.rent().is_some());
        let of_accounts =
            || self.landlords.iter().filter(|_| rents).try_for_each(LandlordConfig::check_secrets);
        of_pools.and_then(|()| of_accounts()).map_err(|rule| self.refuse(rule))
    }

    /// The name of the simulated account in which a pool rents, if its account is simulated.
    pub(crate) fn simulated_account(&self, rent: &rent::Rent) -> Option<&str> {
        self.landlords.iter().find(|landlord| landlord.name == rent.landlord())?.simulator()
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
        landlords,
        keeper,
        pools,
        simulators,
        simulated_accounts,
    } = raw;
    let nats = nats.check(folder)?;
    let topology = streams::settings(beacon, &lease)?;
    let sees_ahead = offers.look_ahead.is_some();
    let mut offers = offers.check(topology.ack_wait)?;
    let trim = trim.check(topology.jobs_window)?;
    let workers = workers.check()?;
    check_simulators(&simulators)?;
    check_accounts(&simulated_accounts)?;
    let accounts = &simulated_accounts;
    let landlords = landlords.into_iter().enumerate().map(|(index, raw)| raw.check(index, folder, accounts));
    let landlords: Vec<LandlordConfig> = landlords.collect::<Result<_, _>>()?;
    if let Some(twice) =
        landlords.iter().enumerate().find(|(i, l)| landlords[..*i].iter().any(|o| o.name == l.name))
    {
        let (index, twice) = (twice.0, &twice.1.name);
        return Err(Rule::new(format!("landlords[{index}].name"), format!("`{twice}` is named twice")));
    }
    let world = World {
        topology: &topology,
        prices: &prices,
        simulators: &simulators,
        folder,
        receives: workers.webhooks.is_some(),
        landlords: &landlords,
    };
    let pools = pools::check(pools, &world)?;
    pools::enough_pending(&topology, &pools)?;
    // A keeper of rented machines is to hear by when jobs must have started.
    if !sees_ahead && pools.iter().any(|pool| pool.rent().is_some()) {
        offers.look_ahead = LOOK_AHEAD_OF_RENTS;
    }
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
        keeping: keeper.check()?,
        landlords,
        prices: Arc::new(prices),
        prices_file: None,
        prices_text: String::new(),
        pools,
        simulators,
        accounts: simulated_accounts,
        metrics: metrics.listen,
        log_filter: log.filter,
        log_json: log.json,
    })
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

/// Each by its own rules, and names without repeats.
fn check_accounts(accounts: &[AccountConfig]) -> Result<(), Rule> {
    for (index, account) in accounts.iter().enumerate() {
        let key = |field: &str| format!("simulated_accounts[{index}]{field}");
        account.check().map_err(|error| Rule::new(key(""), error.to_string()))?;
        if accounts[..index].iter().any(|other| other.name == account.name) {
            return Err(Rule::new(key(".name"), format!("`{}` is named twice", account.name)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
