//! The settings of the simulated RunPod platform.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    RunPodAccount,
    rules::{Broken, first_broken},
};

/// How the simulated RunPod platform behaves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "each is a switch of its own in the file")]
pub struct RunPodSettings {
    /// The endpoint's id in its URLs; another one is unknown.
    pub endpoint_id: String,
    /// Multiplies the platform's own long times, so that a test need not wait: the limits of `policy`, retention, the
    /// wait of `runsync`, the windows of the rate limits, the pauses between webhooks.
    pub time_scale: f64,
    /// How long an idle worker stays, and is billed.
    pub idle_timeout_ms: u64,
    /// How long the result of `run` is kept, before scaling. RunPod: 30 minutes.
    pub result_ttl_ms: u64,
    /// How long the result of `runsync` is kept, before scaling. RunPod: a minute.
    pub sync_result_ttl_ms: u64,
    /// How long a job may run if its policy does not say, before scaling.
    pub execution_timeout_ms: u64,
    /// The generation of worker-vllm, which decides the shape of its output.
    pub output: WorkerAge,
    /// Whether `/requests` answers. RunPod does not promise that it does.
    pub list_requests: bool,
    /// Whether all hosts are full: no worker ever starts.
    pub throttled: bool,
    /// Whether every worker crashes at its start.
    pub unhealthy: bool,
    /// Whether `/health` shows only the two documented keys.
    pub short_health: bool,
    /// Whether a running job says `RUNNING`, which is documented, instead of `IN_PROGRESS`, which is seen.
    pub running_alias: bool,
    /// Whether a running job has an `output`, as a progress update.
    pub progress_output: bool,
    /// Whether finished jobs lose their output.
    pub lose_output: bool,
    /// Whether finished jobs have an error object for an output.
    pub inner_error: bool,
    /// Whether the rate limits hold.
    pub limits: bool,
    /// `run` and `runsync` in 10 s.
    pub run_limit: u32,
    /// `status` in 10 s.
    pub status_limit: u32,
    /// `cancel` in 10 s.
    pub cancel_limit: u32,
    /// Whether a throttled answer has a `Retry-After` header.
    pub retry_after: bool,
    /// What REST v2 tells of the endpoint and the account.
    pub account: RunPodAccount,
}

/// Which generation of worker-vllm runs, for the shape of its output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkerAge {
    /// A list of one OpenAI answer.
    Openai,
    /// A list of choices of tokens.
    Old,
    /// One object with texts.
    Oldest,
}

impl RunPodSettings {
    /// A time of the platform, as long as it takes here.
    pub(crate) fn scaled(&self, millis: u64) -> Duration {
        Duration::from_millis(millis).mul_f64(self.time_scale)
    }

    /// How long an idle worker stays.
    pub(crate) fn idle_timeout(&self) -> Duration {
        Duration::from_millis(self.idle_timeout_ms)
    }

    /// The first value that cannot work.
    pub(super) fn out_of_range(&self) -> Option<Broken> {
        let limits = [self.run_limit, self.status_limit, self.cancel_limit];
        first_broken([
            (!self.endpoint_id.is_empty(), "endpoint_id", "given"),
            (self.time_scale > 0.0 && self.time_scale <= 10.0, "time_scale", "above 0 and at most 10"),
            (limits.iter().all(|&limit| limit > 0), "run_limit, status_limit or cancel_limit", "at least 1"),
        ])
    }
}

impl Default for RunPodSettings {
    fn default() -> Self {
        Self {
            endpoint_id: "ep-sim".to_owned(),
            time_scale: 1.0,
            idle_timeout_ms: 5_000,
            result_ttl_ms: 1_800_000,
            sync_result_ttl_ms: 60_000,
            execution_timeout_ms: 600_000,
            output: WorkerAge::Openai,
            list_requests: true,
            throttled: false,
            unhealthy: false,
            short_health: false,
            running_alias: false,
            progress_output: false,
            lose_output: false,
            inner_error: false,
            limits: true,
            run_limit: 1_000,
            status_limit: 2_000,
            cancel_limit: 100,
            retry_after: false,
            account: RunPodAccount::default(),
        }
    }
}
