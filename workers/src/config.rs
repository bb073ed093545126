//! What an operator may say about a pool, checked once.

use std::{sync::Arc, time::Duration};

use schemas::{Micros, ModelToken, PoolId, ProviderId, WorkerId, prices::PriceBook};
use transport::LinkConfig;

use crate::{
    booking,
    provider::{Provider, UsedItem},
    rented::Rented,
};

/// Everything one worker of a pool needs. Made by the command line from a checked file; always usable.
#[derive(Clone)]
pub struct PoolConfig {
    /// The connection.
    pub link: LinkConfig,
    /// The pool.
    pub pool: PoolId,
    /// This worker; unique among the pool's workers.
    pub worker: WorkerId,
    /// Jobs it runs at a time; in a pool that rents machines the most of them.
    pub slots: u32,
    /// Whether it is paid for while it stands, so that one job more costs nothing more.
    pub rented: bool,
    /// How long the provider keeps and bills a container after its last job; zero where that is not billed.
    pub idle: Duration,
    /// What it serves; at least one.
    pub models: Vec<PoolModel>,
    /// Whom it calls.
    pub provider: Arc<dyn Provider>,
    /// The same, where the pool rents machines, which come and go while the worker lives.
    pub machines: Option<Arc<Rented>>,
    /// Under which name the price book knows the provider; usually the pool's own.
    pub price_name: ProviderId,
    /// What everything costs.
    pub prices: Arc<PriceBook>,
    /// How long a call may take, cold start included.
    pub call_timeout: Duration,
    /// How long a lease lasts; the consumer's `ack_wait`.
    pub ack_wait: Duration,
    /// When the journal is written.
    pub journal: JournalMode,
    /// How often the provider's health is asked for; `None` never asks.
    pub health_every: Option<Duration>,
    /// How often standing cost is booked.
    pub standing_every: Duration,
    /// How long running jobs may go on after a shutdown; the rest is delivered again.
    pub grace: Duration,
}

impl PoolConfig {
    /// What an attempt is expected to use that takes as long as usual.
    pub fn expect(&self, model: &PoolModel, at: Micros) -> Vec<UsedItem> {
        match &self.machines {
            Some(machines) => vec![machines.usual(&model.sku, model.expected)],
            None => booking::expect(&self.prices, &self.price_name, &model.sku, model.expected, at),
        }
    }
}

/// A model as a pool serves it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolModel {
    /// Its token in subjects.
    pub model: ModelToken,
    /// Its name at the provider.
    pub served_as: String,
    /// What it runs on; has a price.
    pub sku: String,
    /// A rank of accelerator memory.
    pub size: u16,
    /// How long a job is expected to take, until enough have run.
    pub expected: Duration,
}

/// When the journal is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum JournalMode {
    /// When something went wrong, and when a provider gives a run id.
    #[default]
    Unhappy,
    /// Also before each provider call: one more stored message per job, and a lost worker's attempt is known.
    Always,
}
