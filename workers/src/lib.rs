//! Worker pools: they take offers, call providers, keep leases alive, and publish what came of it.
//!
//! Pure: [`booking`] (what was used → money), [`stats`]. [`provider`] is the seam that each file under [`adapters`]
//! implements. [`pool`] owns a worker's state in one task, [`attempt`] is the life of one job,
//! `notebook` what is written down meanwhile, [`keeper`] holds its lease, [`nats`] knows the messages.

pub mod adapters;
pub mod attempt;
pub mod booking;
pub mod config;
pub mod keeper;
pub mod metrics;
pub mod nats;
mod notebook;
pub mod pool;
pub mod provider;
pub mod shift;
pub mod stats;
pub mod webhooks;

pub use config::{JournalMode, PoolConfig, PoolModel};
pub use pool::{Pool, RunError, StartError};
