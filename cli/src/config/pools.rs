//! `[[pools]]`, checked: which provider a worker calls, for which models and with how many slots.

use std::{sync::Arc, time::Duration};

use routing::never::{KnownModel, KnownPool};
use schemas::{
    Micros, PoolId, ProviderId, UsdNanos, prices::PriceBook, time::Clock as _, topology::Settings,
};
use transport::SystemClock;
use workers::{
    PoolConfig, PoolModel, booking,
    check::{Asked, AskedModel},
    provider::Provider,
};

use super::{
    call::{Call, Called, World},
    process::{Place, Shared},
    raw_pool::{Kind, RawModel, RawPool},
    rent::Rent,
    rule::{Rule, at_least, positive},
    span::Span,
    worker::Workers,
};

/// Asking a provider for its health more often than this would be a load of its own.
const HEALTH_EVERY_MIN: Span = Span::millis(100);
/// A call shorter than this is no inference.
const TIMEOUT_MIN: Span = Span::millis(100);

/// A checked pool; its secrets are not read yet.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    /// Its name.
    pub(crate) id: PoolId,
    /// Jobs a worker of it runs at a time.
    pub(crate) slots: u32,
    /// True if the pool is paid for while it stands.
    rented: bool,
    /// How long a container is billed after its last job.
    idle: Duration,
    /// Its place in the file, for messages: `pools[3]`.
    key: String,
    models: Vec<PoolModel>,
    call: Call,
    call_timeout: Duration,
    price_name: ProviderId,
    health_every: Option<Duration>,
    /// How its machines are rented, where a keeper of ours rents them.
    rent: Option<Rent>,
}

impl Pool {
    /// Whether its machines are rented by a keeper.
    pub(crate) fn rent(&self) -> Option<&Rent> {
        self.rent.as_ref()
    }

    pub(super) fn models(&self) -> &[PoolModel] {
        &self.models
    }

    /// A dispatcher's knowledge of the pool before the first heartbeat: its models, and the cost of an attempt there that is
    /// expected by the prices in force at `at`.
    pub(crate) fn known(&self, prices: &PriceBook, at: Micros) -> KnownPool {
        let known = |model: &PoolModel| KnownModel {
            model: model.model.clone(),
            size: model.size,
            // What a rented machine costs is known when it is ordered.
            least_cost: if self.call.is_rented() {
                UsdNanos::ZERO
            } else {
                booking::expected_cost(prices, &self.price_name, &model.sku, model.expected, at)
            },
        };
        KnownPool { id: self.id.clone(), models: self.models.iter().map(known).collect() }
    }

    /// Reads the secrets and gives a worker's configuration.
    pub(super) fn build(
        &self,
        place: &Place<'_>,
        workers: &Workers,
        topology: &Settings,
        prices: &Arc<PriceBook>,
    ) -> Result<PoolConfig, Rule> {
        let Called { provider, machines } = self.call.provider(&self.key, place.simulated, place.shared)?;
        Ok(PoolConfig {
            link: place.link.clone(),
            pool: self.id.clone(),
            worker: place.worker.clone(),
            slots: self.slots,
            rented: self.rented,
            idle: self.idle,
            models: self.models.clone(),
            provider,
            machines,
            price_name: self.price_name.clone(),
            prices: Arc::clone(prices),
            call_timeout: self.call_timeout,
            ack_wait: topology.ack_wait,
            journal: workers.journal,
            health_every: self.health_every,
            standing_every: workers.standing_every,
            grace: workers.grace,
        })
    }

    /// Whom the pool calls, with its secrets read.
    pub(super) fn provider(
        &self,
        simulated: &dyn Fn(&str) -> Option<String>,
        shared: &Shared,
    ) -> Result<Arc<dyn Provider>, Rule> {
        Ok(self.call.provider(&self.key, simulated, shared)?.provider)
    }

    /// What a check asks of the provider; `ours` names what belongs to any pool.
    pub(crate) fn asked(&self, ours: Vec<String>) -> Asked {
        let asked =
            |model: &PoolModel| AskedModel { served_as: model.served_as.clone(), sku: model.sku.clone() };
        Asked {
            region: self.id.region.clone(),
            slots: self.slots,
            models: self.models.iter().map(asked).collect(),
            ours,
        }
    }

    /// The names at the provider of what its jobs go to.
    pub(crate) fn handles(&self) -> Vec<String> {
        self.call.handles(self.models.iter().map(|model| model.served_as.clone()))
    }

    /// Under which name the price book knows the provider.
    pub(crate) fn price_name(&self) -> &ProviderId {
        &self.price_name
    }

    /// What its jobs run on, each once: by the price book's names, or a rented machine's type.
    pub(crate) fn skus(&self) -> Vec<String> {
        let mut skus: Vec<String> = match &self.rent {
            Some(rent) => vec![rent.sku.clone()],
            None => self.models.iter().map(|model| model.sku.clone()).collect(),
        };
        skus.sort_unstable();
        skus.dedup();
        skus
    }

    /// Whether its jobs are booked by the price book. What a rented machine costs is known when it is ordered.
    pub(crate) fn is_booked(&self) -> bool {
        !self.call.is_rented()
    }

    /// How far a provider's price may be from the book's, thousandths.
    pub(crate) fn tolerance(&self) -> u32 {
        self.rent.as_ref().map_or(keepers::price::TOLERANCE, Rent::tolerance)
    }

    /// The simulator of this process that the pool calls, if it calls one.
    pub(crate) fn simulator(&self) -> Option<&str> {
        self.call.simulator()
    }

    /// Checks that every secret is there, before anything is started.
    pub(super) fn check_secrets(&self) -> Result<(), Rule> {
        self.call.check_secrets()
    }
}

/// Checks all pools, each and together.
pub(super) fn check(raw: Vec<RawPool>, world: &World<'_>) -> Result<Vec<Pool>, Rule> {
    let mut pools: Vec<Pool> = Vec::with_capacity(raw.len());
    for (index, raw) in raw.into_iter().enumerate() {
        let key = format!("pools[{index}]");
        let pool = check_one(raw, key, world)?;
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

fn check_one(mut raw: RawPool, key: String, world: &World<'_>) -> Result<Pool, Rule> {
    let rent = raw.rent.take();
    let topology = world.topology;
    if !topology.regions.contains(&raw.region) {
        let known = topology.regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        return Err(Rule::new(
            format!("{key}.region"),
            format!("`{}` is not in beacon.regions ({known})", raw.region),
        ));
    }
    positive(&format!("{key}.slots"), raw.slots)?;
    let price_name = raw.price_name.clone().unwrap_or_else(|| raw.provider.clone());
    // The prices of rented machines come from their keeper.
    let priced = (raw.kind != Kind::Rented).then_some(&price_name);
    let models = check_models(&raw.models, &key, world, priced)?;
    let call = Call::check(&raw, &key, world)?;
    let call_timeout =
        at_least(&format!("{key}.timeout"), raw.timeout.unwrap_or(Span::secs(120)), TIMEOUT_MIN, "")?;
    let health_every = match raw.health_every.unwrap_or(Span::secs(5)) {
        never if never.get().is_zero() => None,
        span => Some(at_least(&format!("{key}.health_every"), span, HEALTH_EVERY_MIN, ", or 0s for never")?),
    };
    let rent = match rent {
        Some(_) if !call.is_rented() => {
            return Err(Rule::new(format!("{key}.rent"), "is for kind `rented`"));
        }
        Some(rent) => {
            Some(rent.check(&key, world.landlords, (world.prices, &price_name), call.machine_secret())?)
        }
        None => None,
    };
    Ok(Pool {
        id: PoolId { region: raw.region, provider: raw.provider },
        slots: raw.slots,
        rented: raw.rented.unwrap_or(call.is_rented()),
        idle: raw.idle.map_or(Duration::ZERO, Span::get),
        key,
        models,
        call,
        call_timeout,
        price_name,
        health_every,
        rent,
    })
}

fn check_models(
    raw: &[RawModel],
    pool: &str,
    world: &World<'_>,
    price_name: Option<&ProviderId>,
) -> Result<Vec<PoolModel>, Rule> {
    let catalog = &world.topology.catalog;
    if raw.is_empty() {
        return Err(Rule::new(format!("{pool}.models"), "must name at least one model"));
    }
    let mut models: Vec<PoolModel> = Vec::with_capacity(raw.len());
    for (index, RawModel { model: name, served_as, sku, size, expected }) in raw.iter().enumerate() {
        let key = |field: &str| format!("{pool}.models[{index}].{field}");
        let Some(model) = catalog.find(name) else {
            let known = catalog.names().collect::<Vec<_>>().join(", ");
            return Err(Rule::new(key("model"), format!("`{name}` is not in beacon.models ({known})")));
        };
        if models.iter().any(|other| other.model == *model) {
            return Err(Rule::new(key("model"), format!("`{name}` is named twice")));
        }
        // A price that has ended or not begun is refused here, and not at the first bill.
        if let Some(price_name) = price_name {
            world
                .prices
                .require(price_name, sku, SystemClock.now())
                .map_err(|error| Rule::new(key("sku"), error.to_string()))?;
        }
        let expected = expected.unwrap_or(Span::secs(1));
        models.push(PoolModel {
            model: model.clone(),
            served_as: served_as.clone().unwrap_or_else(|| name.clone()),
            sku: sku.clone(),
            size: *size,
            expected: at_least(&key("expected"), expected, Span::millis(1), "")?,
        });
    }
    Ok(models)
}

/// A consumer must be able to fill all slots of its region twice: with running jobs, and with jobs on their way.
pub(super) fn enough_pending(topology: &Settings, pools: &[Pool]) -> Result<(), Rule> {
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
