//! One environment of one project: its settings, and what is asked about it from more than one place.

use std::collections::BTreeMap;

use schemas::{PoolId, UsdNanos};
use serde_json::json;

use crate::{
    landlord::CallError,
    landlords::{
        mark::Marks,
        railway::{
            config::{RailwayConfig, RailwayPool, Size},
            documents,
            graph::Graph,
            wire::{self, Deployment, Deployments, DeploymentsInput},
        },
    },
};

/// Deployments on a page.
pub(crate) const PAGE: u32 = 100;

/// Pages that are read at most; more deployments than this are not a list of ours.
const PAGES_MAX: usize = 50;

/// Services whose names are asked for in one call.
const NAMES: usize = 25;

/// One environment of one project.
#[derive(Debug)]
pub(crate) struct Project {
    pub(crate) config: RailwayConfig,
    pub(crate) marks: Marks,
    pub(crate) graph: Graph,
}

impl Project {
    /// Checks the settings; asks nobody.
    pub(crate) fn new(config: RailwayConfig) -> Result<Self, CallError> {
        let marks = Marks::new(config.pools.keys())?;
        for (id, pool) in &config.pools {
            Size::parse(&pool.sku)?;
            if pool.places.is_empty() {
                return Err(CallError::Misconfigured(format!("pool {id} names no place")));
            }
        }
        let graph = Graph::new(config.api.clone(), config.token.clone())?;
        Ok(Self { config, marks, graph })
    }

    pub(crate) fn pool(&self, id: &PoolId) -> Result<&RailwayPool, CallError> {
        let pool = self.config.pools.get(id);
        pool.ok_or_else(|| CallError::Misconfigured(format!("pool {id} does not rent at this account")))
    }

    pub(crate) fn usd_per_hour(&self, size: Size) -> Result<UsdNanos, CallError> {
        let price = size.usd_per_hour(&self.config.prices);
        price.ok_or_else(|| CallError::Misconfigured("the price list is out of range".to_owned()))
    }

    /// The service of this name. Asked before a retry: a retry that does not look leaves orphans.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<String>, CallError> {
        let deployments = self.deployments(&DeploymentsInput::standing(&self.config)).await?;
        let services = deployments.into_iter().filter_map(|deployment| deployment.service);
        if let Some(service) = services.into_iter().find(|service| service.name == name) {
            return Ok(Some(service.id));
        }
        let place = json!({ "project": self.config.project, "environment": self.config.environment });
        let mut reply = self.graph.ask(&documents::SERVICES, place).await?;
        let environment: wire::Environment = reply.take("environment")?;
        let ids: Vec<String> = environment.config.services.into_keys().collect();
        for ids in ids.chunks(NAMES) {
            let fields = (0..ids.len()).map(|place| format!("s{place}"));
            let variables: BTreeMap<String, &String> = fields.clone().zip(ids).collect();
            let mut reply = self.graph.ask(&documents::names(ids.len()), variables).await?;
            // A service that went meanwhile is an error beside the others.
            let services = fields.filter_map(|field| reply.take::<wire::Service>(&field).ok());
            let alive = services.filter(|service| service.deleted_at.is_none());
            if let Some(service) = alive.into_iter().find(|service| service.name == name) {
                return Ok(Some(service.id));
            }
        }
        Ok(None)
    }

    pub(crate) async fn deployments(&self, input: &DeploymentsInput) -> Result<Vec<Deployment>, CallError> {
        let mut reply =
            self.graph.ask(&documents::MACHINES, json!({ "input": input, "first": PAGE })).await?;
        let page = reply.take("deployments")?;
        self.pages(input, page).await
    }

    /// The deployments of this page and of all that follow it.
    pub(crate) async fn pages(
        &self,
        input: &DeploymentsInput,
        mut page: Deployments,
    ) -> Result<Vec<Deployment>, CallError> {
        let mut deployments = Vec::new();
        for _ in 0..PAGES_MAX {
            deployments.extend(page.edges.into_iter().map(|edge| edge.node));
            let Some(after) = page.page_info.end_cursor.filter(|_| page.page_info.has_next_page) else {
                return Ok(deployments);
            };
            let variables = json!({ "input": input, "first": PAGE, "after": after });
            page = self.graph.ask(&documents::MACHINES, variables).await?.take("deployments")?;
        }
        Err(CallError::Unclear(format!("the list of deployments has more than {PAGES_MAX} pages")))
    }
}
