//! What a project at Railway tells without being changed: its environment, the regions, deployments. No price and no quota is told.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    check::{Aspect, Finding, image},
    quoted::Quoted,
};
use serde_json::{Value, json};

use super::{
    config::{RailwayPool, Size},
    documents,
    project::Project,
    wire::{self, Deployment, DeploymentsInput, phase},
};
use crate::{
    landlord::CallError,
    survey::{OfPool, Standing, Survey, within},
};

/// Railway publishes its prices here, and has no API for them.
const PRICES: &str = "https://railway.com/pricing";

impl Project {
    pub(super) async fn look_over(&self) -> Survey {
        let control = self.config.api.clone();
        let places = match within(self.regions()).await {
            Ok(places) => places,
            Err(error) => return Survey::failed(error, control),
        };
        let standing = within(async {
            let deployments = self.deployments(&DeploymentsInput::standing(&self.config)).await?;
            Ok(self.standing(&deployments))
        });
        let standing = standing.await;
        let pools = self.config.pools.iter();
        Survey {
            key: Ok("the project's environment is told".into()),
            places: Ok::<_, CallError>(places).into(),
            prices: Quoted::Untold { page: PRICES },
            standing: standing.into(),
            pools: pools.map(|(id, pool)| (id.clone(), self.of(pool))).collect::<BTreeMap<_, _>>(),
            control,
        }
    }

    async fn regions(&self) -> Result<Vec<String>, CallError> {
        let place = json!({ "project": self.config.project, "environment": self.config.environment });
        let mut reply = self.graph.ask(&documents::CHECK, place).await?;
        reply.take::<Value>("environment")?;
        let regions: Vec<wire::Region> = reply.take("regions")?;
        Ok(regions.into_iter().map(|region| region.name).collect())
    }

    fn of(&self, pool: &RailwayPool) -> OfPool {
        let quota = "the API does not tell the plan's limits";
        let usd = Size::parse(&pool.sku).and_then(|size| self.usd_per_hour(size)).ok();
        let price = usd.map(|usd| {
            let found = format!(
                "{}: ${usd} an hour by the prices in [[landlords]] if it uses all of it, and there is no price API",
                pool.sku
            );
            Finding::unknown(Aspect::Price, found, format!("check by hand at {PRICES}"))
        });
        OfPool {
            app: image(&pool.image),
            places: pool.places.clone(),
            quota: Finding::unknown(Aspect::Quota, quota, "see the workspace's plan in Railway's dashboard"),
            price,
        }
    }

    /// A service each, by its newest deployment.
    fn standing(&self, deployments: &[Deployment]) -> Vec<Standing> {
        let mut newest: Vec<&Deployment> = deployments.iter().filter(|one| one.status != "REMOVED").collect();
        newest.sort_by_key(|one| std::cmp::Reverse(one.created_at));
        let (mut seen, mut standing) = (BTreeSet::new(), Vec::new());
        for deployment in newest {
            let Some(service) = deployment.service.as_ref().filter(|service| service.deleted_at.is_none())
            else {
                continue;
            };
            if !seen.insert(service.id.as_str()) {
                continue;
            }
            let whose = self.marks.read(&service.name);
            let url =
                deployment.static_url.as_ref().map(|host| format!("{}://{host}", self.config.edge_scheme));
            standing.push(Standing {
                id: service.id.clone(),
                what: format!("service {}, {}", service.name, deployment.status.to_lowercase()),
                usd_per_hour: None,
                marked: whose.is_some() || self.marks.is_stray(&service.name),
                pool: whose.map(|(pool, _)| pool),
                url: phase(deployment, url).url(),
            });
        }
        standing
    }
}
