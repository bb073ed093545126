//! The process in which a pool runs: its connection, its name, and what its pools share.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use schemas::WorkerId;
use transport::LinkConfig;
use workers::{adapters::replicate::AccountLimits, webhooks::Webhooks};

use super::worker::Workers;

/// The place of a pool in its process.
pub(crate) struct Place<'a> {
    /// The connection.
    pub(crate) link: LinkConfig,
    /// The worker's name.
    pub(crate) worker: WorkerId,
    /// The address of a simulator that runs in this process, by its name.
    pub(crate) simulated: &'a dyn Fn(&str) -> Option<String>,
    /// Shared by the pools of the process.
    pub(crate) shared: &'a Shared,
}

/// Where an account is that is simulated in this process.
#[derive(Clone, Debug)]
pub(crate) struct SimulatedAccount {
    /// The URL of its control API.
    pub(crate) url: String,
    /// The key that it asks for.
    pub(crate) key: String,
    /// The port at which its machines listen.
    pub(crate) port: u16,
}

/// Shared by the pools of one process.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Where providers may send hints.
    pub(crate) webhooks: Option<Arc<Webhooks>>,
    /// The limits of each Replicate account, by its key.
    accounts: Mutex<HashMap<String, Arc<AccountLimits>>>,
}

impl Shared {
    /// Nothing yet, but the receiver of webhooks where one is configured.
    pub(crate) fn new(workers: &Workers) -> Self {
        Self {
            webhooks: workers.webhooks.as_ref().map(|hooks| Arc::new(Webhooks::new(&hooks.public_url))),
            accounts: Mutex::default(),
        }
    }

    /// The limits that all pools with this key share.
    pub(super) fn account(&self, key: &str) -> Arc<AccountLimits> {
        let mut accounts = self.accounts.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(accounts.entry(key.to_owned()).or_default())
    }
}

impl fmt::Debug for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("worker", &self.worker).finish_non_exhaustive()
    }
}
