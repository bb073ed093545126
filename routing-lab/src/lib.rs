//! Routing in virtual time: the `routing` crate against other policies, in the same world with the same seed. Pure: no I/O, no
//! clock.
//!
//! A [`Scenario`] says which jobs arrive, what the world is like and what goes wrong. [`play`] plays it under a [`Policy`] and
//! returns an [`Outcome`]. The same scenario, policy and seed give the same outcome, to the last digit.
//!
//! In reading order:
//!
//! **What is played.** `scenario` is a checked scenario; `raw` reads it from TOML, laid over `assumed.toml`. `chance` makes each
//! draw a function of the seed and of what it is for. `arrivals` draws jobs, or takes them from a `trace`.
//!
//! **The world.** `world` is workers, providers, faults and the bill; `containers` are those of one serverless pool.
//!
//! **Who routes.** `router` is the seam between engine and policies, `policy` names the policies. `beacon` is ours, `baselines`
//! are the others, `queue` has the lines in which their jobs wait.
//!
//! **The play.** `engine` is the loop over events, `slab` holds its jobs and attempts, `ledger` adds up what happens, with
//! `fairness` between tenants. `play` is one play from beginning to end, `outcome` its figures, and `compare` compares those with
//! targets and with another policy's.

mod arrivals;
mod baselines;
mod beacon;
mod chance;
mod compare;
mod containers;
mod engine;
mod fairness;
mod ledger;
mod outcome;
mod play;
mod policy;
mod queue;
mod raw;
mod router;
mod scenario;
mod slab;
#[cfg(test)]
mod tests;
mod trace;
mod world;

pub use crate::{
    compare::{Against, Standing, TargetsMet, targets_met, versus},
    outcome::{Group, Outcome, Spending, Step},
    play::play,
    policy::{Policy, PolicyError},
    raw::ScenarioError,
    scenario::{Arrivals, Fault, FaultKind, Scenario, Targets},
    trace::{Trace, TraceError},
};
