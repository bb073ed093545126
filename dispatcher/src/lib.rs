//! The dispatcher: takes jobs from JOBS, picks a pool for each, hands over job and lease.
//!
//! Pure rooms decide. [`pick`] chooses a pool by what [`pool`] and [`track`] know, which [`quantiles`], [`cold`], [`rate`],
//! [`limit`] and [`breaker`] keep; [`fair`] says who is next, [`budget`] what may be spent, [`retry`] and [`retry_budget`] what
//! follows a failure, [`hedge`] when a second attempt is worth it, [`warm`] what to have ready, [`credit`] how much to pull,
//! [`why`] tells it all to people.
//! Async rooms carry: [`dispatch`] owns all state in one task, [`redelivery`] finds out what became of a job that came twice,
//! [`ending`] publishes terminal results, [`tenants`] sees whose jobs are coming, [`banker`] asks the counters of budgets, [`trim`] shortens the log, [`recurring`]
//! stores the runs of recurring jobs, [`nats`] knows the messages.

pub mod banker;
pub mod breaker;
pub mod budget;
pub mod cold;
pub mod config;
pub mod credit;
pub mod dispatch;
pub mod ending;
pub mod fair;
pub mod flight;
pub mod hedge;
pub mod held;
pub mod limit;
pub mod metrics;
pub mod nats;
pub mod pick;
pub mod pool;
pub mod quantiles;
pub mod rate;
pub mod recurring;
pub mod redelivery;
pub mod retry;
pub mod retry_budget;
pub mod runs;
pub mod simulate;
pub mod tenants;
pub mod track;
pub mod trim;
pub mod waiting;
pub mod warm;
pub mod why;

pub use config::DispatcherConfig;
pub use dispatch::{Dispatcher, RunError, StartError};
