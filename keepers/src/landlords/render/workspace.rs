//! One workspace: its settings, and what is asked about it from more than one place.

use schemas::{PoolId, UsdNanos};
use serde_json::Value;

use crate::{
    landlord::{CallError, Known},
    landlords::{
        mark::Marks,
        render::{
            config::{REGIONS, RenderConfig, RenderPool},
            rest::Rest,
            wire::{Deploy, DeployItem, Service, ServiceItem, note, noted},
        },
    },
};

/// The most that a page holds.
const PAGE: usize = 100;

/// Pages that are read at most.
const PAGES_MAX: usize = 100;

/// One workspace.
#[derive(Debug)]
pub(crate) struct Workspace {
    pub(crate) config: RenderConfig,
    pub(crate) marks: Marks,
    pub(crate) rest: Rest,
}

impl Workspace {
    /// Checks the settings; asks nobody.
    pub(crate) fn new(config: RenderConfig) -> Result<Self, CallError> {
        let marks = Marks::new(config.pools.keys())?;
        let rest = Rest::new(&config.api, config.key.clone())?;
        let workspace = Self { config, marks, rest };
        for (id, pool) in &workspace.config.pools {
            workspace.usd_per_hour(&pool.sku)?;
            let unknown = pool.places.iter().find(|place| !REGIONS.contains(&place.as_str()));
            if pool.places.is_empty() || unknown.is_some() {
                let place = unknown.map_or("", String::as_str);
                let text = format!("pool {id}: no region `{place}`; there are {}", REGIONS.join(", "));
                return Err(CallError::Misconfigured(text));
            }
        }
        Ok(workspace)
    }

    pub(crate) fn pool(&self, id: &PoolId) -> Result<&RenderPool, CallError> {
        let pool = self.config.pools.get(id);
        pool.ok_or_else(|| CallError::Misconfigured(format!("pool {id} does not rent at this account")))
    }

    pub(crate) fn usd_per_hour(&self, plan: &str) -> Result<UsdNanos, CallError> {
        let price = self.config.usd_per_hour.get(plan).copied();
        price.ok_or_else(|| {
            CallError::Misconfigured(format!("no price for the plan `{plan}`: Render tells none"))
        })
    }

    /// The services of the workspace that have this name, or all. `path` is a query that ends with the page's size.
    pub(crate) async fn services(&self, filter: &str) -> Result<Vec<Service>, CallError> {
        let owner = &self.config.owner;
        let first =
            format!("/services?ownerId={owner}&type=web_service&includePreviews=true{filter}&limit={PAGE}");
        let (mut services, mut path) = (Vec::new(), first.clone());
        for _ in 0..PAGES_MAX {
            let page: Vec<ServiceItem> = self.rest.get(&path).await?.json()?;
            let last = page.last().map(|item| item.cursor.clone()).filter(|_| page.len() == PAGE);
            services.extend(page.into_iter().map(|item| item.service));
            let Some(cursor) = last else { return Ok(services) };
            path = format!("{first}&cursor={cursor}");
        }
        Err(CallError::Unclear(format!("the list of services has more than {PAGES_MAX} pages")))
    }

    /// The service of exactly this name. The filter may mean something looser.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Service>, CallError> {
        let services = self.services(&format!("&name={name}")).await?;
        Ok(services.into_iter().find(|service| service.name == name))
    }

    pub(crate) async fn service(&self, id: &str) -> Result<Service, CallError> {
        self.rest.get(&format!("/services/{id}")).await?.json()
    }

    /// The newest deploys, the newest first.
    pub(crate) async fn deploys(&self, service: &str) -> Result<Vec<Deploy>, CallError> {
        let items: Vec<DeployItem> =
            self.rest.get(&format!("/services/{service}/deploys?limit=20")).await?.json()?;
        Ok(items.into_iter().map(|item| item.deploy).collect())
    }

    pub(crate) async fn id_of(&self, machine: &Known) -> Result<String, CallError> {
        if let Some(id) = machine.id.as_deref().or_else(|| noted(&machine.notes, note::SERVICE)) {
            return Ok(id.to_owned());
        }
        let name = self.marks.name(&machine.pool, &machine.machine)?;
        let found = self.find(&name).await?;
        found
            .map(|service| service.id)
            .ok_or_else(|| CallError::Unclear(format!("no service `{name}` is listed")))
    }

    pub(crate) async fn instances(&self, service: &str) -> Result<usize, CallError> {
        let instances: Vec<Value> = self.rest.get(&format!("/services/{service}/instances")).await?.json()?;
        Ok(instances.len())
    }
}
