//! Asking dispatchers why a job waits, or where it is. Core request, one answer from each dispatcher of the region.

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Micros, PoolId, UsdNanos, WorkerId, decision::Refusal, job::Routing, subjects::JobSubject,
};

/// The question. What it says of the job is what its message in the log says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyAsk {
    /// Which job.
    pub job: JobId,
    /// Region, model, lane and tenant.
    pub subject: JobSubject,
    /// Where it may run.
    #[serde(default)]
    pub routing: Routing,
    /// When it must have started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline_us: Option<Micros>,
    /// The most it may cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_cost_usd: Option<UsdNanos>,
}

/// What one dispatcher knows.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhyAnswer {
    /// Who answers.
    pub dispatcher: WorkerId,
    /// Where the job is, as far as this dispatcher knows.
    pub place: Place,
    /// What keeps it from each pool that serves its model, were it looked at now.
    pub gates: Vec<Gate>,
}

/// Where a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Not with this dispatcher.
    Elsewhere {
        /// Jobs of its model and region that this dispatcher holds in their line.
        waiting: u32,
        /// How long a job at the end of the line waits for a slot, microseconds; missing while no pool is open.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_us: Option<u64>,
    },
    /// In its line.
    Waiting {
        /// Since when this dispatcher holds it.
        since_us: Micros,
        /// Jobs in the same line, itself left out.
        others: u32,
        /// Jobs of its own tenant in it, itself left out.
        own: u32,
        /// How long the line takes to be served, microseconds; missing while no pool is open.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wait_us: Option<u64>,
        /// It failed where only it may run, and rests for so long, microseconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rests_us: Option<u64>,
        /// Whether it waits because too many attempts of the region were repeats lately.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        retry_budget: bool,
        /// Attempts it has had.
        attempts: u16,
    },
    /// Offered to a pool, and not answered yet.
    Offered {
        /// Where.
        pool: PoolId,
    },
    /// It runs.
    Running {
        /// Where.
        pool: PoolId,
        /// At which worker.
        worker: WorkerId,
        /// Since when.
        since_us: Micros,
        /// What 95 of 100 take there, microseconds.
        usual_us: u64,
        /// Whether a second attempt runs beside it.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        hedged: bool,
    },
    /// Delivered again; its results and its journal are being looked for.
    LookedUp,
}

/// What keeps a job from one pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Which pool.
    pub pool: PoolId,
    /// Why not; missing when it could take the job now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<Refusal>,
    /// How it stands now, for people: `40 running`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// What it is held against: `40 slots`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub limit: String,
    /// When it opens, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_us: Option<Micros>,
}
