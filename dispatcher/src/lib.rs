//! The dispatcher: takes jobs from JOBS, has a pool picked for each, hands over job and lease. It moves messages; what it decides
//! about pools, money and turns is in the crate `routing`.
//!
//! Reading order. What it is told: [`config`]. What it knows and decides, without a message: [`jobs`], which owns every job,
//! [`feed`], which counts pulls, [`why`], which explains a wait, [`demand`], which tells what waits. What it says: [`nats`], [`insist`], [`ending`], [`look_up`], [`lost`], [`untried`],
//! [`banker`], [`tenants`]. What runs beside: [`trim`], [`recurring`]. And [`dispatch`], which joins them all.

pub mod config;
pub mod jobs;

pub mod demand;
pub mod feed;
pub mod why;

pub mod banker;
pub mod ending;
pub mod insist;
pub mod look_up;
pub mod lost;
pub mod metrics;
pub mod nats;
pub mod tenants;
pub mod untried;

pub mod recurring;
pub mod trim;

pub mod dispatch;

pub use config::DispatcherConfig;
pub use dispatch::{Dispatcher, RunError, StartError};
