//! What an account at Lambda tells without being changed: types with prices and capacity, regions, instances.

use std::collections::BTreeMap;

use reqwest::{Method, StatusCode};
use schemas::{
    PoolId,
    check::{Aspect, Finding, image},
    prices::Unit,
    quoted::{PriceNow, Quoted},
};

use super::{
    Lambda, ORDER, POOL,
    config::LambdaPool,
    line::Line,
    wire::{self, Instance, Types},
};
use crate::{
    landlord::{CallError, Phase},
    survey::{OfPool, Standing, Survey, within},
};

impl Lambda {
    pub(super) async fn look_over(&self) -> Survey {
        let line = &self.line;
        let control = line.config.base_url.clone();
        // Authenticated, and it has the prices.
        let types = match within(line.types_now()).await {
            Ok(types) => types,
            Err(error) => return Survey::failed(error, control),
        };
        let pools = line.config.pools.iter();
        Survey {
            key: Ok("the account tells its instance types".into()),
            places: within(regions(line)).await.into(),
            prices: prices(&types),
            standing: within(self.standing()).await.into(),
            pools: pools.map(|(id, pool)| (id.clone(), of(pool, &types))).collect::<BTreeMap<_, _>>(),
            control,
        }
    }

    async fn standing(&self) -> Result<Vec<Standing>, CallError> {
        let answer = self.line.ask(Method::GET, "/instances", None).await?;
        if answer.status != StatusCode::OK {
            return Err(self.line.failed("list", &answer));
        }
        let list = wire::instances(&answer)?;
        let over = |instance: &Instance| matches!(instance.phase(0), Phase::Gone);
        Ok(list
            .instances
            .iter()
            .filter(|instance| !over(instance))
            .map(|one| self.standing_of(one))
            .collect())
    }

    fn standing_of(&self, instance: &Instance) -> Standing {
        let named: Option<PoolId> = instance.tag(POOL).and_then(|pool| pool.parse().ok());
        let settings = named.as_ref().and_then(|pool| self.line.config.pools.get(pool));
        let url = match instance.phase(settings.map_or(0, |settings| settings.port)) {
            Phase::Up(url) => settings.map(|_| url),
            Phase::Starting
            | Phase::Parked
            | Phase::Ending
            | Phase::Gone
            | Phase::Broken(_)
            | Phase::Unknown(_) => None,
        };
        let (sku, place) = (instance.sku(), instance.place());
        Standing {
            id: instance.id.clone(),
            what: format!(
                "instance {} in {}",
                sku.as_deref().unwrap_or("of unknown type"),
                place.as_deref().unwrap_or("an unknown region")
            ),
            usd_per_hour: instance.usd_per_hour(),
            marked: instance.tag(ORDER).is_some(),
            pool: named.filter(|_| settings.is_some() && instance.tag(ORDER).is_some()),
            url,
        }
    }
}

async fn regions(line: &Line) -> Result<Vec<String>, CallError> {
    let answer = line.ask(Method::GET, "/regions", None).await?;
    if answer.status == StatusCode::OK {
        wire::regions(&answer)
    } else {
        Err(line.failed("regions", &answer))
    }
}

fn prices(types: &Types) -> Quoted {
    let price =
        |sku: &str| Some(PriceNow { sku: sku.to_owned(), unit: Unit::Hour, usd: types.price(sku).ok()? });
    Quoted::Told(types.names().filter_map(price).collect())
}

fn of(pool: &LambdaPool, types: &Types) -> OfPool {
    let places: Vec<String> = pool.places.iter().map(|place| place.region.clone()).collect();
    OfPool { app: image(&pool.image), quota: room(pool, types, &places), places, price: None }
}

/// Capacity is listed; the account's own quota is told by a refused launch only.
fn room(pool: &LambdaPool, types: &Types, places: &[String]) -> Finding {
    if let Err(error) = types.price(&pool.sku) {
        return Finding::wrong(Aspect::Quota, error.to_string(), "correct sku in [pools.rent]");
    }
    let free: Vec<&str> =
        places.iter().filter(|place| types.has_capacity(&pool.sku, place)).map(String::as_str).collect();
    if free.is_empty() {
        let found = format!("no capacity for {} is listed in {} now", pool.sku, places.join(", "));
        return Finding::warning(
            Aspect::Quota,
            found,
            "name more places, or wait: the keeper orders when there is some",
        );
    }
    let found = format!(
        "{} is listed with capacity in {}; the API does not tell the account's quota",
        pool.sku,
        free.join(", ")
    );
    Finding::ok(Aspect::Quota, found)
}
