//! Routing: which pool gets a job, when, and at what price. Pure: no I/O, no clock, no async; time and chance come in.
//!
//! [`config`] holds the settings. The rest is three groups, in reading order.
//!
//! **What is known about pools**
//!
//! - [`quantiles`] keeps the median, the 90th and the 95th percentile of durations, forgetting old ones.
//! - [`cold`] estimates how likely and how long a cold start is, by how long a pool was idle.
//! - [`rate`] is the part of its jobs that a provider does well.
//! - [`limit`] finds how many jobs a provider runs at once before it slows down.
//! - [`breaker`] keeps jobs away from a pool that fails, and takes it back by probes.
//! - [`suspicion`] lets a pool that is much slower than it was be tried only.
//! - [`reports`] puts together what the workers of a pool say about a model.
//! - [`track`] is all of this for one model at one pool, with our own open attempts there.
//! - [`pool`] is every pool that was heard of; it takes in heartbeats, acceptances and outcomes.
//!
//! **One job**
//!
//! - [`pick`] chooses a pool for a job, or says which gate keeps it from each pool.
//! - [`mod@never`] says when no pool could ever take a job, and which gate keeps it from all of them.
//! - [`retry`] says what follows a failed attempt: another attempt after a pause, or the end of the job.
//! - [`hedge`] says when a second attempt beside a slow one is worth its price.
//!
//! **Many jobs**
//!
//! - [`credit`] says how many jobs to pull.
//! - [`fair`] says which waiting job is next.
//! - [`budget`] says what tenants and providers may still spend.
//! - [`retry_budget`] bounds the share of attempts that are repeats.
//! - [`warm`] says how many containers to keep ready.

pub mod config;

// What is known about pools.
pub mod breaker;
pub mod cold;
pub mod limit;
pub mod pool;
pub mod quantiles;
pub mod rate;
pub mod reports;
pub mod suspicion;
pub mod track;

// One job.
pub mod hedge;
pub mod never;
pub mod pick;
pub mod retry;

// Many jobs.
pub mod budget;
pub mod credit;
pub mod fair;
pub mod retry_budget;
pub mod warm;
