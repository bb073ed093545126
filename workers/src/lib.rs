//! Worker pools: they take offers, call providers, keep leases alive, and publish what came of it.
//!
//! Pure, and driven by a simulation too: [`shift`] (a worker's slots, answers and heartbeats), [`attempt::course`] (the life of
//! one attempt), [`keeper::Hold`] (how long a lease is sure), [`booking`] (what was used → money), [`standing`], [`stats`], [`check`] (what a check asks).
//! What carries them: [`pool`] is a worker's one loop, [`attempt`] carries out what a course decides, `notebook` takes down what
//! a provider reports, [`keeper`] holds a lease, `lookup` finds what is stored of a job, [`nats`] knows the messages.
//! [`provider`] is the seam that each file under [`adapters`] implements, and [`rented`], which spreads a pool's jobs over rented
//! machines.

pub mod adapters;
pub mod attempt;
pub mod booking;
pub mod check;
pub mod clock;
mod complaints;
pub mod config;
mod health;
pub mod keeper;
mod kit;
mod lookup;
pub mod metrics;
pub mod nats;
mod notebook;
pub mod pool;
pub mod provider;
pub mod rented;
pub mod shift;
pub mod standing;
pub mod stats;
pub mod webhooks;

pub use config::{JournalMode, PoolConfig, PoolModel};
pub use pool::{Pool, RunError, StartError};
