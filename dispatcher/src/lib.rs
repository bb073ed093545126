//! The dispatcher: takes jobs from JOBS, picks a pool for each, hands over job and lease.

pub mod config;
