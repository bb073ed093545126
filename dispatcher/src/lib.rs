//! The dispatcher: takes jobs from JOBS, picks a pool for each, hands over job and lease.
//!
//! Pure rooms decide: [`breaker`], [`budget`], [`pool`], [`pick`], [`retry`], [`retry_budget`], [`credit`], [`fair`]. Async
//! rooms carry: [`dispatch`] owns all state in one task, [`redelivery`] finds out what became of a job that came twice,
//! [`ending`] publishes terminal results, [`banker`] asks the counters of budgets, [`trim`] shortens the log, [`recurring`]
//! stores the runs of recurring jobs, [`nats`] knows the messages.

pub mod banker;
pub mod breaker;
pub mod budget;
pub mod config;
pub mod credit;
pub mod dispatch;
pub mod ending;
pub mod fair;
pub mod flight;
pub mod held;
pub mod metrics;
pub mod nats;
pub mod pick;
pub mod pool;
pub mod recurring;
pub mod redelivery;
pub mod retry;
pub mod retry_budget;
pub mod trim;

pub use config::DispatcherConfig;
pub use dispatch::{Dispatcher, RunError, StartError};
