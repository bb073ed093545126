//! The figures that `beacon bench` tells.

use serde::Serialize;

use super::logs::Logs;

/// All figures of one call.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Raw JetStream publishes with message ids, per second.
    pub(crate) raw_publish_per_s: f64,
    /// Jobs through the whole pipeline, result and cost stored and delivered, per second.
    pub(crate) pipeline_jobs_per_s: f64,
    /// The ratio of the two.
    pub(crate) pipeline_per_raw: f64,
    /// One publish at a time, median, microseconds.
    pub(crate) raw_publish_sync_us: f64,
    /// Submit to result on an idle system, median, microseconds.
    pub(crate) idle_p50_us: f64,
    /// The same, 99th percentile.
    pub(crate) idle_p99_us: f64,
    /// With `--backlog`: the memory of a dispatcher process before and while so many jobs waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) backlog: Option<Backlog>,
    /// With `--lines`: a backfill, and choosing from the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) logs: Option<Logs>,
}

/// A dispatcher's memory beside a backlog.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Backlog {
    /// Jobs that waited.
    pub(crate) jobs: u64,
    /// Resident memory of an idle dispatcher, MiB.
    pub(crate) rss_before_mib: f64,
    /// The same with all jobs waiting.
    pub(crate) rss_after_mib: f64,
}
