//! Lambda's On-Demand Cloud: whole virtual machines by the minute.
//!
//! An order is one launch. Everything by which it is found again travels in its tags: pool, order, time and price. There is
//! no filter by tag and no creation time, so one list of all instances is the only look. `active` says nothing about GPU or
//! model; that is for the probe. An instance cannot be parked, and nothing but `terminate` ends its billing.
//!
//! The server behind an address is reached without TLS: prompts can be read on the way unless the network is private.

mod boot;
mod config;
mod keys;
mod line;
mod ssh;
mod survey;
mod wire;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use reqwest::{Method, StatusCode};
use schemas::{MachineId, Micros, PoolId, UsdNanos};
use serde_json::{Value, json};
use tokio::sync::OnceCell;

pub use self::config::{LambdaConfig, LambdaPlace, LambdaPool};
use self::{
    line::Line,
    wire::{Failure, Instance},
};
use crate::landlord::{
    Billed, CallError, Census, Ending, Known, Landlord, Notes, Order, Ordered, Parking, Phase, Quote, Rules,
    Sighting, Steps, Stray,
};
use crate::survey::Survey;

/// The tags of an instance.
const POOL: &str = "beacon-pool";
const ORDER: &str = "beacon-order";
const ORDERED_AT: &str = "beacon-ordered-at";
const USD_PER_HOUR: &str = "beacon-usd-per-hour";

/// One account at Lambda.
#[derive(Debug)]
pub struct Lambda {
    line: Line,
    /// The name of our ssh key, made sure of once. Replaced when there is a reason to look again.
    key: Mutex<Arc<OnceCell<String>>>,
}

impl Lambda {
    /// Refuses a configuration that cannot work.
    pub fn new(config: LambdaConfig) -> Result<Self, CallError> {
        Ok(Self { line: Line::new(config)?, key: Mutex::default() })
    }

    fn pool(&self, pool: &PoolId) -> Result<&LambdaPool, CallError> {
        let unknown = || CallError::Misconfigured(format!("lambda: no pool {pool} is configured here"));
        self.line.config.pools.get(pool).ok_or_else(unknown)
    }

    async fn key_name(&self) -> Result<String, CallError> {
        let cell = Arc::clone(&lock(&self.key));
        cell.get_or_try_init(|| keys::ensure(&self.line)).await.cloned()
    }

    async fn quote(&self, pool: &PoolId) -> Result<Vec<Quote>, CallError> {
        let pool = self.pool(pool)?;
        // Always the live service, whatever an order looked at before.
        let types = self.line.types_now().await?;
        let usd_per_hour = types.price(&pool.sku)?;
        let answer = self.line.ask(Method::GET, "/regions", None).await?;
        if answer.status != StatusCode::OK {
            return Err(self.line.failed("regions", &answer));
        }
        let regions = wire::regions(&answer)?;
        // So that the first order need not wait for it. What is wrong with it is told by the order.
        let _ = self.key_name().await;
        let quote = |place: &LambdaPlace| {
            if !regions.contains(&place.region) {
                let text = format!(
                    "lambda: region {} does not exist; there are {}",
                    place.region,
                    regions.join(", ")
                );
                return Err(CallError::Misconfigured(text));
            }
            Ok(Quote {
                place: place.region.clone(),
                sku: pool.sku.clone(),
                usd_per_hour,
                parked_usd_per_hour: UsdNanos::ZERO,
                available: Some(types.has_capacity(&pool.sku, &place.region)),
            })
        };
        pool.places.iter().map(quote).collect()
    }

    async fn launch(&self, order: &Order, steps: &dyn Steps) -> Result<Ordered, CallError> {
        let pool = self.pool(&order.pool)?;
        let place = pool.places.iter().find(|place| place.region == order.place);
        let place = place.ok_or_else(|| {
            CallError::Misconfigured(format!("lambda: {} is no place of pool {}", order.place, order.pool))
        })?;
        let now = self.line.types().await.map_err(wire::before_the_order)?.price(&order.sku)?;
        if now > order.usd_per_hour_max {
            return Err(CallError::Price { now, max: order.usd_per_hour_max });
        }
        let body = launch_body(&self.key_name().await?, pool, place, order, now);
        let answer = self.line.launch(&body).await?;
        if answer.status != StatusCode::OK {
            let failure = Failure::read(&answer);
            if failure.is_unknown() || failure.is_missing() {
                // The name of our key may be gone, or exist twice after a race of keepers.
                *lock(&self.key) = Arc::default();
            }
            return Err(self.line.failed("launch", &answer));
        }
        let ids = wire::launched(&answer)?;
        let [id] = ids.as_slice() else {
            return Err(CallError::Unclear(format!("lambda launch named {} instances", ids.len())));
        };
        if !steps.id(id).await {
            return Err(CallError::Unclear(format!(
                "lambda instance {id} was launched, and its id not stored"
            )));
        }
        Ok(Ordered { id: id.clone(), notes: Notes::new() })
    }

    async fn census(&self, known: &[Known]) -> Result<Census, CallError> {
        let answer = self.line.ask(Method::GET, "/instances", None).await?;
        if answer.status != StatusCode::OK {
            return Err(self.line.failed("list", &answer));
        }
        let list = wire::instances(&answer)?;
        let mut census = Census { whole: list.whole, ..Census::default() };
        for instance in &list.instances {
            match self.sighting(instance, known) {
                Some(sighting) => census.sightings.push(sighting),
                None => census.strays.extend(stray(instance)),
            }
        }
        Ok(census)
    }

    /// What an instance is to us; `None` for one without our mark.
    fn sighting(&self, instance: &Instance, known: &[Known]) -> Option<Sighting> {
        let marked = || {
            let machine: MachineId = instance.tag(ORDER)?.parse().ok()?;
            Some((machine, instance.tag(POOL)?.parse::<PoolId>().ok()?))
        };
        // An instance whose tags do not come back is still known by the id that its launch told.
        let by_id = || known.iter().find(|known| known.id.as_deref() == Some(&instance.id));
        let (machine, pool) =
            marked().or_else(|| by_id().map(|known| (known.machine.clone(), known.pool.clone())))?;
        let phase = match self.line.config.pools.get(&pool) {
            Some(settings) => instance.phase(settings.port),
            // A row's machine whose pool left the configuration: it is drained and ended, which needs no address.
            None if known.iter().any(|known| known.machine == machine) => match instance.phase(0) {
                Phase::Up(_) => Phase::Starting,
                phase => phase,
            },
            None => return None,
        };
        Some(Sighting {
            machine,
            pool,
            id: instance.id.clone(),
            phase,
            sku: instance.sku(),
            place: instance.place(),
            usd_per_hour: instance.tag(USD_PER_HOUR).and_then(|text| text.parse().ok()),
            ordered_at: instance.tag(ORDERED_AT).and_then(|text| text.parse().ok()).map(Micros::new),
            told: None,
            expires_at: None,
            notes: Notes::new(),
        })
    }

    async fn terminate(&self, machine: &Known, steps: &dyn Steps) -> Result<Ending, CallError> {
        let id = match &machine.id {
            Some(id) => id.clone(),
            None => match self.find(machine).await? {
                Some(id) if steps.id(&id).await => id,
                Some(id) => {
                    return Err(CallError::Unclear(format!("lambda instance {id}: its id was not stored")));
                }
                // Lists lag: an order without an id may show yet.
                None => return Ok(Ending::NotNow),
            },
        };
        let body = json!({ "instance_ids": [id] });
        let answer = self.line.ask(Method::POST, "/instance-operations/terminate", Some(&body)).await?;
        if answer.status == StatusCode::OK {
            // An empty answer is no success.
            let ended = wire::terminated(&answer)?;
            return if ended.contains(&id) {
                Ok(Ending::Accepted)
            } else {
                Err(CallError::Unclear(format!("lambda terminate does not name {id}")))
            };
        }
        let failure = Failure::read(&answer);
        if failure.is_missing() {
            return Ok(Ending::Gone);
        }
        if failure.is_conflict() {
            return Ok(Ending::NotNow);
        }
        if failure.is_unknown() {
            return self.ended_before(&id).await;
        }
        Err(self.line.failed("terminate", &answer))
    }

    /// `terminate` answers `global/unknown` for an instance that is terminating already.
    async fn ended_before(&self, id: &str) -> Result<Ending, CallError> {
        let answer = self.line.ask(Method::GET, &format!("/instances/{id}"), None).await?;
        if Failure::read(&answer).is_missing() {
            return Ok(Ending::Gone);
        }
        if answer.status != StatusCode::OK {
            return Err(self.line.failed("get", &answer));
        }
        match wire::instance(&answer)?.phase(0) {
            Phase::Ending => Ok(Ending::Accepted),
            Phase::Gone => Ok(Ending::Gone),
            Phase::Starting | Phase::Up(_) | Phase::Parked | Phase::Broken(_) | Phase::Unknown(_) => Err(
                CallError::Unclear(format!("lambda terminate of {id}: global/unknown, and it is not ending")),
            ),
        }
    }

    /// The id of a machine whose launch did not tell it.
    async fn find(&self, machine: &Known) -> Result<Option<String>, CallError> {
        let census = self.census(&[]).await?;
        let of_order =
            |sighting: &Sighting| sighting.machine == machine.machine && sighting.phase != Phase::Gone;
        Ok(census.sightings.into_iter().find(of_order).map(|sighting| sighting.id))
    }
}

/// An instance with our mark, for a pool that rents elsewhere. Nothing is left to tell of one that is over.
fn stray(instance: &Instance) -> Option<Stray> {
    let over = matches!(instance.phase(0), Phase::Gone | Phase::Ending);
    let pool = instance.tag(POOL)?.parse().ok();
    (!over && instance.tag(ORDER).is_some()).then(|| Stray { id: instance.id.clone(), pool })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn launch_body(key: &str, pool: &LambdaPool, place: &LambdaPlace, order: &Order, price: UsdNanos) -> Value {
    let tag = |key: &str, value: String| json!({ "key": key, "value": value });
    // Names are not unique and for people only; a long order id is cut.
    let name: String = format!("beacon-{}", order.machine).chars().take(64).collect();
    let hostname: String = name.replace('_', "-").chars().take(63).collect();
    let mut body = json!({
        "region_name": place.region,
        "instance_type_name": order.sku,
        "ssh_key_names": [key],
        "name": name,
        "hostname": hostname,
        "user_data": boot::user_data(pool, order),
        "tags": [
            tag(POOL, order.pool.to_string()),
            tag(ORDER, order.machine.to_string()),
            tag(ORDERED_AT, order.ordered_at.get().to_string()),
            tag(USD_PER_HOUR, price.to_string()),
        ],
    });
    if let Some(family) = &pool.image_family {
        body["image"] = json!({ "family": family });
    }
    if let Some(ruleset) = &place.firewall_ruleset {
        body["firewall_rulesets"] = json!([{ "id": ruleset }]);
    }
    body
}

impl Landlord for Lambda {
    fn rules(&self) -> Rules {
        Rules {
            provider: "lambda",
            list_every: Duration::from_secs(10),
            looks: 3,
            looks_span: Duration::from_secs(60),
            start_within: self.line.config.start_within(),
            broken_for: Duration::from_secs(120),
            billed: Billed::FromUp,
            unit: Duration::from_secs(60),
            parking: Parking::NotOffered,
        }
    }

    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>> {
        Box::pin(self.quote(pool))
    }

    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(self.look_over())
    }

    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>> {
        Box::pin(self.launch(order, steps))
    }

    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>> {
        Box::pin(self.census(known))
    }

    fn end<'a>(
        &'a self,
        machine: &'a Known,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ending, CallError>> {
        Box::pin(self.terminate(machine, steps))
    }
}
