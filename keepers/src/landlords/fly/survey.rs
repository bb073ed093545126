//! What an account at Fly.io tells without being changed: its apps, regions, Machines, and a simulated placement. No price is told.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::StatusCode;
use schemas::{
    PoolId,
    check::{Aspect, Finding, image},
    quoted::Quoted,
};

use super::{
    Fly, ORDER, POOL,
    config::FlyPool,
    wire::{self, Machine},
};
use crate::{
    landlord::{CallError, Phase},
    landlords::http,
    survey::{OfPool, Standing, Survey, within},
};

/// Fly.io publishes its prices here, and has no API for them.
const PRICES: &str = "https://fly.io/docs/about/pricing/";

impl Fly {
    pub(super) async fn look_over(&self) -> Survey {
        let control = self.config.base_url.clone();
        let regions =
            within(async { wire::regions(&self.read("/platform/regions", "regions").await?) }).await;
        if let Err(error @ (CallError::Authentication(_) | CallError::Unreachable(_))) = regions {
            return Survey::failed(error, control);
        }
        let silent = regions.as_ref().err().cloned();
        let names: BTreeSet<&str> = self.config.pools.values().map(|pool| pool.app.as_str()).collect();
        let (mut apps, mut standing) = (BTreeMap::new(), Ok(Vec::new()));
        for name in names {
            let app = within(self.read(&format!("/apps/{name}"), &format!("app {name}"))).await;
            // Every app is asked for with the key; where it is refused at all of them, it is the key.
            if app.is_ok()
                && let Ok(all) = &mut standing
            {
                match within(self.standing(name)).await {
                    Ok(mut of_app) => all.append(&mut of_app),
                    Err(error) => standing = Err(error),
                }
            }
            apps.insert(name, app.map(drop));
        }
        let refused = apps.values().find_map(|app| match app {
            Err(error @ CallError::Authentication(_)) => Some(error.clone()),
            Ok(()) | Err(_) => None,
        });
        // A key is good where a call with it was understood: an app that is not there is an answer, too.
        let understood =
            |app: &Result<(), CallError>| matches!(app, Ok(()) | Err(CallError::Misconfigured(_)));
        let nobody = silent.filter(|_| !apps.values().any(understood));
        if let Some(error) = refused.or(nobody) {
            return Survey::failed(error, control);
        }
        let mut pools = BTreeMap::new();
        for (id, pool) in &self.config.pools {
            pools.insert(id.clone(), self.of(pool, apps.get(pool.app.as_str())).await);
        }
        Survey {
            key: Ok("the organisation's apps are told".into()),
            places: regions.into(),
            prices: Quoted::Untold { page: PRICES },
            standing: standing.into(),
            pools,
            control: format!("{control}/platform/regions"),
        }
    }

    async fn of(&self, pool: &FlyPool, app: Option<&Result<(), CallError>>) -> OfPool {
        let app = match app {
            Some(Err(error @ CallError::Misconfigured(_))) => {
                let todo = format!("make the app: fly apps create {}", pool.app);
                Finding::wrong(Aspect::App, error.to_string(), todo)
            }
            Some(Err(error)) => {
                let found = format!("whether app {} is there is not told: {error}", pool.app);
                Finding::unknown(Aspect::App, found, "check again")
            }
            Some(Ok(())) | None => image(&pool.image),
        };
        let quota = match within(self.free(pool)).await {
            Ok(None) => {
                let found = "without the organisation's name nobody can be asked for room";
                Finding::unknown(Aspect::Quota, found, "name it with org in [[landlords]]")
            }
            Ok(Some(free)) if free.is_empty() => {
                let found = format!("there is no room for a {} in any of its regions now", pool.guest.sku());
                Finding::warning(
                    Aspect::Quota,
                    found,
                    "name more places: the keeper orders where there is room",
                )
            }
            Ok(Some(free)) => Finding::ok(
                Aspect::Quota,
                format!("there is room for a {} in {}", pool.guest.sku(), free.join(", ")),
            ),
            Err(error) => Finding::unknown(
                Aspect::Quota,
                format!("whether there is room is not told: {error}"),
                "check again",
            ),
        };
        let price = pool.places.first().map(|place| {
            let found = format!(
                "{}: the configuration says ${} an hour as of {}, and there is no price API",
                pool.guest.sku(),
                place.usd_per_hour,
                place.priced_on
            );
            Finding::unknown(Aspect::Price, found, format!("check by hand at {PRICES}"))
        });
        OfPool { app, places: pool.places.iter().map(|place| place.region.clone()).collect(), quota, price }
    }

    async fn standing(&self, app: &str) -> Result<Vec<Standing>, CallError> {
        let path = format!("/apps/{app}/machines");
        let answer = self.send(reqwest::Method::GET, &path, None, http::CALL_WITHIN).await?;
        if answer.status != StatusCode::OK {
            return Err(self.failed("list", &answer));
        }
        let list = wire::machines(&answer)?;
        let stands = |machine: &&Machine| !matches!(machine.phase(|_, _| None), Phase::Gone);
        Ok(list.machines.iter().filter(stands).map(|machine| self.standing_of(app, machine)).collect())
    }

    fn standing_of(&self, app: &str, machine: &Machine) -> Standing {
        let named: Option<PoolId> = machine.metadata(POOL).and_then(|pool| pool.parse().ok());
        let settings = named.as_ref().and_then(|pool| self.config.pools.get(pool));
        let marked = machine.metadata(ORDER).is_some();
        let url = machine.phase(|id, ip| settings.and_then(|settings| settings.address_of(id, ip))).url();
        let place = machine.region.as_deref().unwrap_or("an unknown region");
        Standing {
            id: machine.id.clone(),
            what: format!("Machine of app {app} in {place}"),
            usd_per_hour: None,
            marked,
            pool: named.filter(|_| marked && settings.is_some()),
            url,
        }
    }
}
