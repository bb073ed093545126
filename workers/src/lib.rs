//! Worker pools: they take offers, call providers, keep leases alive, and publish what came of it.

pub mod adapters;
pub mod config;
pub mod provider;
