//! What a worker says about itself, each second and on change.

use serde::{Deserialize, Serialize};

use crate::{MachineId, Micros, ModelToken, PoolId, UsdNanos, WorkerId, failure::FailureClass};

/// A model a pool serves, and what it costs there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServedModel {
    /// Which model.
    pub model: ModelToken,
    /// On what.
    pub sku: String,
    /// A rank of accelerator memory: a job that ran out of memory goes only to a higher one.
    pub size: u16,
    /// What one job is expected to cost, from the price book and recent service times.
    pub expected_cost_usd: UsdNanos,
    /// Median service time, cold starts excluded; the configured estimate until enough jobs ran.
    pub p50_us: u64,
    /// 95th percentile of the same.
    pub p95_us: u64,
    /// Jobs of this model that run now.
    #[serde(default)]
    pub running: u32,
    /// Of those, how many run longer than three times `p95_us`: a provider that hangs ends nothing that could be counted.
    #[serde(default)]
    pub overdue: u32,
    /// What a second of the machine costs, dollars; zero where time is not what is billed.
    #[serde(default)]
    pub second_usd: UsdNanos,
    /// How long a container is kept, and billed, after its last job, microseconds; zero where that is not billed.
    #[serde(default, skip_serializing_if = "crate::time::is_zero")]
    pub idle_us: u64,
    /// Whether it is paid for while it stands, used or not: one job more costs nothing more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rented: bool,
    /// Whether a run there goes on without its worker, and is found again by the journal.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub detached: bool,
    /// Whether the worker can have containers started ahead of their jobs.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub warmable: bool,
}

/// What a worker has to say about one rented machine of its pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineLoad {
    /// The machine.
    pub machine: MachineId,
    /// How many of its slots are this worker's to fill.
    pub slots: u32,
    /// Jobs of this worker that it runs now.
    pub running: u32,
    /// When it last gave this worker a piece of output; `None` if it never did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_token_us: Option<Micros>,
    /// Jobs of this worker that failed there in a row, by faults of the machine: no connection, our key refused, a server
    /// error, silence.
    #[serde(default)]
    pub failures: u32,
    /// The class of the last of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailureClass>,
    /// Slot-time that this worker's jobs used there since the worker started, microseconds; running jobs included.
    #[serde(default)]
    pub busy_us: u64,
}

/// One worker's state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The pool.
    pub pool: PoolId,
    /// The worker.
    pub worker: WorkerId,
    /// Changes when the process is another one.
    pub started_us: Micros,
    /// When this was said, by the worker's clock.
    pub at_us: Micros,
    /// Room for jobs.
    pub slots: u32,
    /// Jobs it runs now.
    pub running: u32,
    /// True while it finishes what it has and takes no more.
    pub draining: bool,
    /// Whether its provider answered the last health check; `None` where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthy: Option<bool>,
    /// How long one small request takes from the worker to its provider and back, on an open connection, microseconds; measured each
    /// minute. `None` where that was not measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round_trip_us: Option<u64>,
    /// Jobs that succeeded since it started.
    pub succeeded: u64,
    /// Attempts that failed since it started.
    pub failed: u64,
    /// What it serves.
    pub models: Vec<ServedModel>,
    /// The rented machines of its pool that it may fill or still uses. Told once a second: `None` in the heartbeats between, and
    /// in a pool that rents no machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machines: Option<Vec<MachineLoad>>,
}
