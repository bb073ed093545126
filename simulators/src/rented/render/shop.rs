//! A workspace: how it behaves, and its services.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::budgets::Budgets;
use crate::rented::account::Account;

/// How a simulated Render behaves.
#[derive(Clone, Debug)]
pub struct RenderConfig {
    /// The API key.
    pub key: String,
    /// The workspace's id.
    pub owner: String,
    /// Nano-dollars an hour, by plan.
    pub plans: BTreeMap<String, u64>,
    /// Calls and their window: reads, writes, deploys, creations.
    pub budgets: [(u32, Duration); 4],
    /// How long a deploy of a service that runs already takes.
    pub deploy_takes: Duration,
    /// Whether the request for a deploy is answered with 202 and no body.
    pub deploys_without_id: bool,
    /// Whether resuming makes a deploy.
    pub resume_deploys: bool,
}

impl Default for RenderConfig {
    /// The limits that were recorded; the plans `standard` and `pro_plus`.
    fn default() -> Self {
        let minute = Duration::from_secs(60);
        let plans = [("standard", 34_722_223), ("pro_plus", 243_055_556)];
        Self {
            key: "rnd_key".to_owned(),
            owner: "tea-1".to_owned(),
            plans: plans.map(|(plan, price)| (plan.to_owned(), price)).into(),
            budgets: [(400, minute), (100, minute), (10, minute), (20, minute * 60)],
            deploy_takes: Duration::from_millis(20),
            deploys_without_id: false,
            resume_deploys: true,
        }
    }
}

#[derive(Debug)]
pub(super) struct Shop {
    pub(super) account: Arc<Account>,
    pub(super) config: RenderConfig,
    pub(super) budgets: Budgets,
    pub(super) state: Mutex<Shelf>,
}

#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) services: Vec<Service>,
    /// Raised for each id.
    pub(super) ids: u64,
}

/// A service, beside the machine of the account that bears its id.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) foreign: bool,
    pub(super) deleted: bool,
    /// Who suspended it; empty while nobody did.
    pub(super) suspenders: Vec<String>,
    /// Whether no instance is listed, by a test's word.
    pub(super) has_no_instance: bool,
    /// The oldest first.
    pub(super) deploys: Vec<Deploy>,
}

#[derive(Clone, Debug)]
pub(super) struct Deploy {
    pub(super) id: String,
    pub(super) trigger: &'static str,
    pub(super) created_us: u64,
    pub(super) done_at: Instant,
    /// A status that it has by a test's word.
    pub(super) forced: Option<String>,
}

impl Shop {
    pub(super) fn new(account: Arc<Account>, config: RenderConfig) -> Arc<Self> {
        let budgets = Budgets::new(config.budgets);
        Arc::new(Self { account, budgets, config, state: Mutex::default() })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Shelf> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn next_id(&self, kind: &str) -> String {
        let mut state = self.state();
        state.ids += 1;
        format!("{kind}-{:020}", state.ids)
    }

    /// A service that is not deleted.
    pub(super) fn service(&self, id: &str) -> Option<Service> {
        self.state().services.iter().find(|service| service.id == id && !service.deleted).cloned()
    }

    pub(super) fn change(&self, id: &str, change: impl FnOnce(&mut Service)) {
        if let Some(service) = self.state().services.iter_mut().find(|service| service.id == id) {
            change(service);
        }
    }
}
