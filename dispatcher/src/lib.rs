//! The dispatcher: takes jobs from JOBS, picks a pool for each, hands over job and lease.
//!
//! The `routing` crate decides; the modules here carry. [`dispatch`] owns all state in one task, [`redelivery`] finds out what became
//! of a job that came twice, [`ending`] publishes terminal results, [`tenants`] sees whose jobs are coming, [`banker`] asks the counters
//! of budgets, [`trim`] shortens the log, [`recurring`] stores the runs of recurring jobs, [`why`] tells people why a job waits, [`nats`]
//! knows the messages.

pub mod banker;
pub mod config;
pub mod dispatch;
pub mod ending;
pub mod flight;
pub mod held;
pub mod metrics;
pub mod nats;
pub mod recurring;
pub mod redelivery;
pub mod runs;
pub mod tenants;
pub mod trim;
pub mod waiting;
pub mod why;

pub use config::DispatcherConfig;
pub use dispatch::{Dispatcher, RunError, StartError};
