//! Routing in virtual time: the code of the `routing` crate against what others do, on one world with one seed. Pure: no I/O,
//! no clock.
//!
//! [`Scenario`] says who sends what, what the world is like and what goes wrong. [`run`] plays it under a [`Policy`] and gives
//! an [`Outcome`]; the same scenario, policy and seed give the same outcome, to the last digit.
//!
//! In reading order:
//!
//! - `scenario` is what is played; `raw` reads it from TOML, laid over `assumed.toml`; `trace` reads recorded arrivals.
//! - `chance` makes every draw a function of the seed and of what it is for; `arrivals` draws jobs.
//! - `world` is the providers and their faults; `containers` are those of one serverless pool.
//! - `router` is the seam between engine and policies; `policy` names them, `beacon` is ours, `baselines` are the others, `queue`
//!   is where their jobs wait.
//! - `engine` is the loop over events, `slab` keeps its jobs and attempts, `play` is one run of it.
//! - `ledger` adds up what a run came to; `judge` compares it with targets and with other policies.

mod arrivals;
mod baselines;
mod beacon;
mod chance;
mod containers;
mod engine;
mod judge;
mod ledger;
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
    judge::{Against, Judgement, Standing, judge, versus},
    ledger::{Group, Outcome, Spending, Step},
    play::run,
    policy::{Policy, PolicyError},
    raw::ScenarioError,
    scenario::{Arrivals, Fault, FaultKind, Scenario, Targets},
    trace::{Trace, TraceError},
};
