//! What a workspace at Render tells without being changed: its owner and its web services. No price and no quota is told.

use std::collections::BTreeMap;

use schemas::{
    check::{Aspect, Finding, image},
    quoted::Quoted,
};

use super::{
    config::{REGIONS, RenderPool},
    wire::Service,
    workspace::Workspace,
};
use crate::{
    landlord::CallError,
    survey::{OfPool, Standing, Survey, within},
};

/// Render publishes its prices here, and has no API for them.
const PRICES: &str = "https://render.com/pricing";

impl Workspace {
    pub(super) async fn look_over(&self) -> Survey {
        let control = self.config.api.clone();
        let owner = async {
            self.rest.get(&format!("/owners/{}", self.config.owner)).await?;
            Ok::<_, CallError>(())
        };
        if let Err(error) = within(owner).await {
            return Survey::failed(error, control);
        }
        let standing = within(self.services("")).await;
        let standing = standing.map(|all| {
            let running = all.iter().filter(|service| !service.is_suspended());
            running.map(|service| self.standing(service)).collect::<Vec<_>>()
        });
        let pools = self.config.pools.iter();
        Survey {
            key: Ok("the workspace is told".into()),
            // By Render's documentation: no call lists them.
            places: Ok::<_, CallError>(REGIONS.map(str::to_owned).to_vec()).into(),
            prices: Quoted::Untold { page: PRICES },
            standing: standing.into(),
            pools: pools.map(|(id, pool)| (id.clone(), self.of(pool))).collect::<BTreeMap<_, _>>(),
            control,
        }
    }

    fn of(&self, pool: &RenderPool) -> OfPool {
        let price = self.config.usd_per_hour.get(&pool.sku).map(|usd| {
            let found =
                format!("{}: the configuration says ${usd} an hour, and there is no price API", pool.sku);
            Finding::unknown(Aspect::Price, found, format!("check by hand at {PRICES}"))
        });
        OfPool {
            app: image(&pool.image),
            places: pool.places.clone(),
            quota: Finding::unknown(
                Aspect::Quota,
                "the API does not tell how many services the workspace may have",
                "see the workspace's plan in Render's dashboard",
            ),
            price,
        }
    }

    fn standing(&self, service: &Service) -> Standing {
        let whose = self.marks.read(&service.name);
        let (plan, region) = (service.details.plan.as_deref(), service.details.region.as_deref());
        Standing {
            id: service.id.clone(),
            what: format!(
                "service {}, {} in {}",
                service.name,
                plan.unwrap_or("unknown plan"),
                region.unwrap_or("an unknown region")
            ),
            usd_per_hour: plan.and_then(|plan| self.config.usd_per_hour.get(plan).copied()),
            marked: whose.is_some() || self.marks.is_stray(&service.name),
            pool: whose.map(|(pool, _)| pool),
            url: service.details.url.clone(),
        }
    }
}
