//! Landlords against simulated accounts that speak each provider's own control API, over loopback.
//!
//! A simulator keeps its own invoice, tells what touched machines of somebody else, and writes down what was said, which is
//! held against the provider's published description. The descriptions are read from the folder in
//! `BEACON_API_DESCRIPTIONS`, or from `../shared/providers/openapi` beside the project; without either the tests that need
//! them say that they were skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

mod bed;
mod described;
#[path = "../../../workers/tests/described/description.rs"]
mod description;

mod contract_fly;
mod contract_lambda;
