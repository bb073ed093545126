//! A project: how it behaves, its services, its limits.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::http::HeaderMap;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{limit::Limit, rented::account::Account};

/// How a simulated Railway behaves.
#[derive(Clone, Debug)]
pub struct RailwayConfig {
    /// The token of the account.
    pub account_token: String,
    /// The token of the project.
    pub project_token: String,
    /// The project's id.
    pub project: String,
    /// The environment's id.
    pub environment: String,
    /// The regions: name, and the one that took its place.
    pub regions: Vec<(String, Option<String>)>,
    /// Calls an hour and a second.
    pub limits: (u32, u32),
    /// After how long without traffic a deployment falls asleep whose settings say so.
    pub sleeps_after: Duration,
    /// Seconds in the unit in which CPU and memory are measured.
    pub usage_unit_s: u64,
    /// Thousandths of a vCPU that a running machine uses.
    pub milli_vcpus_used: u64,
    /// Thousandths of a GB that a running machine uses.
    pub milli_gb_used: u64,
    /// Nano-dollars for a vCPU and a GB of memory for 30 days, and a GB sent.
    pub prices_nanos: [u64; 3],
    /// Whether the query of use answers at all.
    pub tells_usage: bool,
}

impl Default for RailwayConfig {
    /// The Hobby plan, minutes as units, 10 minutes until sleep.
    fn default() -> Self {
        let region = |name: &str| (name.to_owned(), None);
        Self {
            account_token: "account-token".to_owned(),
            project_token: "project-token".to_owned(),
            project: "project-1".to_owned(),
            environment: "environment-1".to_owned(),
            regions: ["us-east4-eqdc4a", "europe-west4-drams3a", "us-west2"].map(region).to_vec(),
            limits: (1_000, 1_000),
            sleeps_after: Duration::from_secs(600),
            usage_unit_s: 60,
            milli_vcpus_used: 500,
            milli_gb_used: 3_000,
            prices_nanos: [20_000_000_000, 10_000_000_000, 50_000_000],
            tells_usage: true,
        }
    }
}

#[derive(Debug)]
pub(super) struct Shop {
    pub(super) account: Arc<Account>,
    pub(super) config: RailwayConfig,
    pub(super) hourly: Limit,
    pub(super) secondly: Limit,
    pub(super) state: Mutex<Shelf>,
}

#[derive(Debug, Default)]
pub(super) struct Shelf {
    pub(super) services: Vec<Service>,
    /// Answered calls, for the headers.
    pub(super) calls: u32,
    /// Raised for each id.
    pub(super) ids: u64,
}

/// A service. Its deployments are machines of the account.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created_us: u64,
    pub(super) deleted_us: Option<u64>,
    pub(super) foreign: bool,
    pub(super) variables: BTreeMap<String, String>,
    /// What was written; the next deployment takes it.
    pub(super) settings: Value,
    pub(super) limits: Value,
    pub(super) domain: Option<SocketAddr>,
    /// The oldest first, by the ids of the account's machines.
    pub(super) deployments: Vec<String>,
    pub(super) last_traffic: Instant,
    pub(super) sleeps: bool,
    pub(super) sent_gb_billionths: u64,
}

impl Shop {
    pub(super) fn new(account: Arc<Account>, config: RailwayConfig) -> Arc<Self> {
        Arc::new(Self {
            account,
            hourly: Limit::new(config.limits.0, Duration::from_secs(3_600)),
            secondly: Limit::new(config.limits.1, Duration::from_secs(1)),
            config,
            state: Mutex::default(),
        })
    }

    pub(super) fn state(&self) -> MutexGuard<'_, Shelf> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn services(&self) -> Vec<Service> {
        self.state().services.clone()
    }

    pub(super) fn new_service(&self, name: &str) -> Service {
        Service {
            id: self.next_id(1),
            name: name.to_owned(),
            created_us: self.account.now_us(),
            deleted_us: None,
            foreign: false,
            variables: BTreeMap::new(),
            settings: json!({}),
            limits: Value::Null,
            domain: None,
            deployments: Vec::new(),
            last_traffic: Instant::now(),
            sleeps: false,
            sent_gb_billionths: 0,
        }
    }

    /// An id that looks like those of Railway.
    pub(super) fn next_id(&self, kind: u8) -> String {
        let number = {
            let mut state = self.state();
            state.ids += 1;
            state.ids
        };
        format!("{kind:08x}-0000-4000-8000-{number:012x}")
    }

    pub(super) fn traffic(&self, place: usize) {
        if let Some(service) = self.state().services.get_mut(place) {
            service.last_traffic = Instant::now();
            // A kilobyte, whatever it was.
            service.sent_gb_billionths += 1_000;
        }
    }

    pub(super) async fn put_to_sleep(&self) {
        let pause = (self.config.sleeps_after / 4).max(Duration::from_millis(1));
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.account.shutdown.cancelled() => return,
            }
            for service in self.services().iter().filter(|service| service.sleeps) {
                let idle = service.last_traffic.elapsed() >= self.config.sleeps_after;
                let running = service.deployments.iter().filter(|id| self.account.server(id).is_some());
                for id in running.filter(|_| idle) {
                    self.account.park(id, "sleep");
                }
            }
        }
    }

    /// Whether the key opens the project.
    pub(super) fn knows(&self, headers: &HeaderMap) -> bool {
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match (header("authorization"), header("project-access-token")) {
            (Some(bearer), None) => bearer.strip_prefix("Bearer ") == Some(&self.config.account_token),
            (None, Some(token)) => token == self.config.project_token,
            (None, None) | (Some(_), Some(_)) => false,
        }
    }

    pub(super) fn limited(&self) -> Result<(), u64> {
        let now = Instant::now();
        self.hourly.take(now).and_then(|()| self.secondly.take(now))
    }
}
