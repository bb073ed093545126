//! `[pools.rent]`: how many machines a pool rents, where, and what they may cost.

use keepers::{
    config::PoolSettings,
    policy::{Bounds, Policy, Window},
    price::{self, BookPrice},
    secret::Secret as Hidden,
};
use schemas::{PoolId, ProviderId, UsdNanos, prices::PriceBook};
use serde::Deserialize;
use workers::PoolModel;

use super::{
    landlords::{LandlordConfig, Machine},
    rule::{Rule, at_least, positive},
    secret::Secret,
    span::Span,
};
use crate::environment;

/// `[pools.rent]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRent {
    landlord: String,
    sku: String,
    places: Vec<String>,
    slots: u32,
    usd_per_hour_max: UsdNanos,
    pool_usd_per_hour_max: UsdNanos,
    job_usd_per_hour: Option<UsdNanos>,
    least: Option<u32>,
    most: u32,
    #[serde(default)]
    windows: Vec<RawWindow>,
    boot: Option<Span>,
    down_after: Option<Span>,
    drain: Option<Span>,
    patience: Option<Span>,
    price_tolerance: Option<f64>,
    theta: Option<f64>,
    #[serde(default)]
    park: bool,
    health_path: Option<String>,
    machine: toml::Table,
}

/// `[[pools.rent.windows]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWindow {
    days: Option<String>,
    from: String,
    to: String,
    zone: Option<String>,
    least: u32,
    most: Option<u32>,
}

/// A checked `[pools.rent]`.
#[derive(Clone, Debug)]
pub(crate) struct Rent {
    /// The account.
    pub(super) landlord: String,
    pub(super) sku: String,
    pub(super) places: Vec<String>,
    pub(super) health_path: String,
    pub(super) machine: Machine,
    slots: u32,
    usd_per_hour_max: UsdNanos,
    job_usd_per_hour: Option<UsdNanos>,
    policy: Policy,
    tolerance: u32,
    secret: Option<Secret>,
}

/// A start, until enough were seen: what the pages call usual for one GPU and its model.
const BOOT: Span = Span::secs(300);

impl RawRent {
    pub(super) fn check(
        self,
        key: &str,
        landlords: &[LandlordConfig],
        (prices, price_name): (&PriceBook, &ProviderId),
        secret: Option<Secret>,
    ) -> Result<Rent, Rule> {
        let key = |field: &str| format!("{key}.rent.{field}");
        let Some(landlord) = landlords.iter().find(|landlord| landlord.name == self.landlord) else {
            let known: Vec<&str> = landlords.iter().map(|landlord| landlord.name.as_str()).collect();
            let known = if known.is_empty() { "there are none".to_owned() } else { known.join(", ") };
            return Err(Rule::new(
                key("landlord"),
                format!("`{}` has no [[landlords]] entry ({known})", self.landlord),
            ));
        };
        if self.places.is_empty() {
            return Err(Rule::new(key("places"), "must name at least one place"));
        }
        positive(&key("slots"), self.slots)?;
        positive(&key("most"), self.most)?;
        if self.usd_per_hour_max == UsdNanos::ZERO {
            return Err(Rule::new(
                key("usd_per_hour_max"),
                "must be above 0: the most that one machine may cost an hour",
            ));
        }
        if self.job_usd_per_hour.is_some_and(|price| price > self.usd_per_hour_max) {
            return Err(Rule::new(key("job_usd_per_hour"), "must not be above usd_per_hour_max"));
        }
        let plan = Policy::default();
        let boot = at_least(&key("boot"), self.boot.unwrap_or(BOOT), Span::secs(1), "")?;
        let theta = self.theta.unwrap_or(1.0);
        let theta = thousandths(&key("theta"), theta)?;
        let tolerance = match self.price_tolerance {
            Some(share) => thousandths(&key("price_tolerance"), share)?,
            None => price::TOLERANCE,
        };
        let windows = self.windows.into_iter().enumerate().map(|(index, window)| {
            let bounds = Bounds::between(window.least, window.most.unwrap_or(self.most));
            let (days, zone) = (window.days.unwrap_or("daily".into()), window.zone.unwrap_or("UTC".into()));
            Window::new(&days, &window.from, &window.to, &zone, bounds)
                .map_err(|error| Rule::new(key(&format!("windows[{index}]")), error.to_string()))
        });
        let policy = Policy {
            bounds: Bounds::between(self.least.unwrap_or(0), self.most),
            windows: windows.collect::<Result<_, _>>()?,
            machines_max: self.most,
            usd_per_hour_max: self.pool_usd_per_hour_max,
            book_price: BookPrice::of(prices, price_name, &self.sku, tolerance),
            theta,
            down_after: self.down_after.map_or(plan.down_after, Span::get),
            drain_limit: self.drain.map_or(plan.drain_limit, Span::get),
            patience: self.patience.map_or(plan.patience, Span::get),
            boot: (boot, boot.saturating_mul(2)),
            park: self.park,
            ..plan
        };
        policy.check().map_err(|error| Rule::new(key("most"), error.to_string()))?;
        let machine = landlord.machine(&key("machine"), self.machine)?;
        // A machine of another type than the pool rents would be replaced for ever.
        if let Some(made) = machine.sku().filter(|made| *made != self.sku) {
            return Err(Rule::new(
                key("sku"),
                format!(
                    "`{}` must be `{made}`, which is what machine.cpu_kind and machine.cpus make",
                    self.sku
                ),
            ));
        }
        // What Railway bills is measured: the price of a machine is what it would cost with all its limits allow.
        let measured = match machine {
            Machine::Railway(_) => Some(UsdNanos::ZERO),
            Machine::Fly(_) | Machine::Golem(_) | Machine::Lambda(_) | Machine::Render(_) => None,
        };
        Ok(Rent {
            landlord: self.landlord,
            sku: self.sku,
            places: self.places,
            health_path: self.health_path.unwrap_or_else(|| "/health".to_owned()),
            machine,
            slots: self.slots,
            usd_per_hour_max: self.usd_per_hour_max,
            job_usd_per_hour: self.job_usd_per_hour.or(measured),
            policy,
            tolerance,
            secret,
        })
    }
}

/// A share between 0 and 10.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0 to 10")]
fn thousandths(key: &str, share: f64) -> Result<u32, Rule> {
    if !(0.0..=10.0).contains(&share) {
        return Err(Rule::new(key, format!("`{share}` must be 0 to 10")));
    }
    Ok((share * 1_000.0).round() as u32)
}

impl Rent {
    /// The account, by its name in `[[landlords]]`.
    pub(crate) fn landlord(&self) -> &str {
        &self.landlord
    }

    /// The machines that the pool keeps in any case.
    pub(crate) fn least(&self) -> u32 {
        self.policy.bounds.floor
    }

    /// How far the provider's price may be from the book's, thousandths.
    pub(super) fn tolerance(&self) -> u32 {
        self.tolerance
    }

    /// The most machines that the pool may have.
    pub(crate) fn most(&self) -> u32 {
        self.policy.machines_max
    }

    /// The most that all its machines may cost an hour, dollars.
    pub(crate) fn usd_per_hour_max(&self) -> UsdNanos {
        self.policy.usd_per_hour_max
    }

    /// The pool's secret, read.
    pub(super) fn secret(&self) -> Result<Option<Hidden>, Rule> {
        let read = |secret: &Secret| secret.read(environment::variable).map(Hidden::new);
        self.secret.as_ref().map(read).transpose()
    }

    /// A keeper's settings.
    pub(super) fn settings(&self, pool: &PoolId, models: &[PoolModel]) -> Result<PoolSettings, Rule> {
        let first = models.first();
        Ok(PoolSettings {
            pool: pool.clone(),
            account: self.landlord.clone(),
            sku: self.sku.clone(),
            places: self.places.clone(),
            slots: self.slots,
            usd_per_hour_max: self.usd_per_hour_max,
            job_usd_per_hour: self.job_usd_per_hour,
            models: models.iter().map(|model| model.model.clone()).collect(),
            model: first.map_or_else(String::new, |model| model.served_as.clone()),
            health_path: self.health_path.clone(),
            secret: self.secret()?,
            policy: self.policy.clone(),
        })
    }
}
