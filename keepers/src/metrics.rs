//! Every number this crate reports. Each has the label `pool`.

use std::{collections::BTreeMap, time::Duration};

use metrics::{counter, gauge, histogram};
use schemas::{Micros, PoolId, UsdNanos, machine::MachineState};

use crate::landlord::CallError;

/// All states, so that one that no machine is in any more says zero.
const STATES: [MachineState; 10] = [
    MachineState::Wanted,
    MachineState::Ordered,
    MachineState::Starting,
    MachineState::Probing,
    MachineState::Ready,
    MachineState::Draining,
    MachineState::Stopping,
    MachineState::Parked,
    MachineState::Lost,
    MachineState::Gone,
];

/// Whether this keeper acts for the pool (1) or stands by (0).
pub(crate) fn acts(pool: &PoolId, acts: bool) {
    gauge!("keeper_acts", "pool" => pool.to_string()).set(if acts { 1.0 } else { 0.0 });
}

/// A pass over the pool has ended: machines by state, dollars an hour of all that was ordered and is not gone, and when it was.
pub(crate) fn passed(pool: &PoolId, states: impl Iterator<Item = MachineState>, usd: UsdNanos, now: Micros) {
    let mut counts: BTreeMap<MachineState, u32> = BTreeMap::new();
    for state in states {
        *counts.entry(state).or_default() += 1;
    }
    for state in STATES {
        let count = counts.get(&state).copied().unwrap_or(0);
        gauge!("keeper_machines", "pool" => pool.to_string(), "state" => state.name()).set(f64::from(count));
    }
    // A gauge is a float; what is booked is not read from it.
    gauge!("keeper_usd_per_hour", "pool" => pool.to_string()).set(usd.get() as f64 / 1e9);
    gauge!("keeper_last_pass_timestamp_seconds", "pool" => pool.to_string()).set(now.get() as f64 / 1e6);
}

/// The pool is not kept by this keeper any more: what its machines are is another's to say.
pub(crate) fn left(pool: &PoolId) {
    acts(pool, false);
    for state in STATES {
        gauge!("keeper_machines", "pool" => pool.to_string(), "state" => state.name()).set(0.0);
    }
    gauge!("keeper_usd_per_hour", "pool" => pool.to_string()).set(0.0);
}

/// A control call was sent: `order`, `end`, `park` or `wake`.
pub(crate) fn called(pool: &PoolId, call: &'static str) {
    counter!("keeper_calls_total", "pool" => pool.to_string(), "call" => call).increment(1);
}

/// A control call did not do what was asked.
pub(crate) fn failed(pool: &PoolId, call: &'static str, error: &CallError) {
    let why = match error {
        CallError::RateLimited(..) => "rate_limited",
        CallError::Capacity(_) => "capacity",
        CallError::Price { .. } => "price",
        CallError::Authentication(_) => "authentication",
        CallError::Misconfigured(_) => "misconfigured",
        CallError::Unreachable(_) => "unreachable",
        CallError::Unclear(_) => "unclear",
    };
    counter!("keeper_call_failures_total", "pool" => pool.to_string(), "call" => call, "why" => why)
        .increment(1);
}

/// From when something waited where nothing did, until the first order that followed was sent.
pub(crate) fn pressed(pool: &PoolId, span: Duration) {
    histogram!("keeper_pressure_to_order_seconds", "pool" => pool.to_string()).record(span.as_secs_f64());
}
