//! What every attempt of a worker uses.

use std::sync::Arc;

use async_nats::Client;
use tokio_util::sync::CancellationToken;
use transport::{Publisher, acks::Acks, bucket::Bucket, cancels::CancelWatch};

use crate::{
    attempt::course::Site, clock::Clock, complaints::Complaints, config::PoolConfig, lookup::Lookup,
    metrics::PoolMetrics,
};

/// What every attempt of a worker uses.
pub struct Kit {
    /// The pool's settings.
    pub config: PoolConfig,
    /// What all attempts of the worker have in common.
    pub site: Arc<Site>,
    /// The worker's clocks.
    pub clock: Clock,
    /// For jobs and what is as large as they are.
    pub client: Client,
    /// For leases; not behind bulk input.
    pub control: Client,
    /// For results, costs, journals.
    pub publisher: Publisher,
    /// For finishing leases.
    pub acks: Acks,
    /// What earlier attempts left behind.
    pub journals: Bucket,
    /// What was taken back.
    pub cancels: CancelWatch,
    /// For attempts whose lease is not sure any more.
    pub lookup: Lookup,
    /// For what cannot be stored now.
    pub complaints: Complaints,
    /// The pool's own numbers.
    pub metrics: PoolMetrics,
    /// Cancelled when the grace period is over: running calls are dropped and their jobs given back.
    pub stop: CancellationToken,
}
