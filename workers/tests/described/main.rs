//! Every request and answer that adapter and simulator exchange is held against the provider's own published API
//! description, so that neither drifts from the provider while agreeing with the other.
//!
//! The descriptions are not ours to keep here. They are read from the folder in `BEACON_API_DESCRIPTIONS`, or from
//! `../shared/providers/openapi` beside the project; without either the tests say that they were skipped.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

mod checks;
mod description;
mod exchanges;
mod kits;
