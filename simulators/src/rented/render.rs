//! Render's REST API.
//!
//! Faults are set by these names: `list`, `get`, `create`, `delete`, `suspend`, `resume`, `deploys`, `deploy`, `instances`,
//! `owner`. A machine of the account is a service. It is billed by the second while it exists and is not suspended.
//!
//! Every answer tells the limit of its route, what is left of it and the seconds until it begins anew.

mod budgets;
mod calls;
mod deploys;
mod guard;
mod shop;

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{Method, Uri},
    middleware,
    routing::{get, post},
};
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    door,
    meter::{BilledFrom, BilledUntil, Tariff},
};
pub use shop::RenderConfig;

use shop::Shop;

/// A simulated workspace at Render.
#[derive(Clone, Debug)]
pub struct Render {
    shop: Arc<Shop>,
}

impl Render {
    /// Starts the control API; it answers when this returns.
    pub async fn start(config: RenderConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let tariff =
            Tariff { unit: Duration::from_secs(1), from: BilledFrom::Order, until: BilledUntil::Asked };
        let (account, listener) = door::open(tariff, shutdown).await?;
        let shop = Shop::new(Arc::clone(&account), config);
        door::serve(&account, listener, routes(&shop), name_of);
        Ok(Self { shop })
    }

    /// What all rented accounts have: machines, faults, invoice, log.
    pub fn account(&self) -> &Arc<Account> {
        &self.shop.account
    }

    /// The base URL of the API.
    pub fn url(&self) -> String {
        format!("{}/v1", self.shop.account.url())
    }

    /// Our services that are not deleted: id and name.
    pub fn services(&self) -> Vec<(String, String)> {
        let state = self.shop.state();
        let ours = state.services.iter().filter(|service| !service.foreign && !service.deleted);
        ours.map(|service| (service.id.clone(), service.name.clone())).collect()
    }

    /// The body that a service was made with.
    pub fn made_with(&self, id: &str) -> Option<serde_json::Value> {
        self.shop.account.machine(id).map(|seen| seen.papers)
    }

    /// The deploys of a service, the oldest first: id and status.
    pub fn deploys(&self, id: &str) -> Vec<(String, String)> {
        let service = self.shop.service(id);
        let deploys = service.map(|service| self.shop.statuses(&service)).unwrap_or_default();
        deploys.into_iter().map(|(deploy, status)| (deploy.id, status)).collect()
    }

    /// Somebody else suspends a service: `billing`, `admin`, `stuck_crashlooping`, `user`.
    pub fn suspend_by(&self, id: &str, suspender: &str) {
        self.shop.account.park(id, "suspend");
        self.shop.change(id, |service| service.suspenders = vec![suspender.to_owned()]);
    }

    /// Somebody deploys a service once more; it takes this long.
    pub fn redeploy(&self, id: &str, takes: Duration) {
        self.shop.add_deploy(id, "manual", takes);
    }

    /// The newest deploy ends so: `update_failed`, `canceled`.
    pub fn fail_deploy(&self, id: &str, status: &str) {
        self.shop.change(id, |service| {
            if let Some(newest) = service.deploys.last_mut() {
                newest.forced = Some(status.to_owned());
            }
        });
    }

    /// From now on no instance of a service is listed; its server goes on.
    pub fn stop_instances(&self, id: &str) {
        self.shop.change(id, |service| service.has_no_instance = true);
    }

    /// Puts a service of somebody else into the workspace.
    pub fn add_foreign(&self, name: &str) {
        let id = self.shop.next_id("srv");
        self.shop.account.add_foreign(&id, "standard", "oregon", serde_json::json!({ "name": name }));
        self.shop.add_service(&id, name, true);
    }
}

fn routes(shop: &Arc<Shop>) -> Router {
    Router::new()
        .route("/v1/owners/{id}", get(calls::owner))
        .route("/v1/services", get(calls::list).post(calls::create))
        .route("/v1/services/{id}", get(calls::get).delete(calls::delete))
        .route("/v1/services/{id}/suspend", post(calls::suspend))
        .route("/v1/services/{id}/resume", post(calls::resume))
        .route("/v1/services/{id}/deploys", get(calls::deploys).post(calls::deploy))
        .route("/v1/services/{id}/instances", get(calls::instances))
        .layer(middleware::from_fn_with_state(Arc::clone(shop), guard::guard))
        .with_state(Arc::clone(shop))
}

/// The name of a call, by which faults are set.
fn name_of(method: &Method, uri: &Uri, _: &[u8]) -> String {
    let parts: Vec<&str> = uri.path().trim_start_matches("/v1/").split('/').collect();
    let is_read = method == Method::GET;
    let name = match (parts.as_slice(), is_read) {
        (["owners", ..], _) => "owner",
        (["services"], true) => "list",
        (["services"], false) => "create",
        (["services", _], true) => "get",
        (["services", _], false) => "delete",
        (["services", _, "deploys"], true) => "deploys",
        (["services", _, "deploys"], false) => "deploy",
        (["services", _, last], _) => last,
        _ => "",
    };
    name.to_owned()
}
