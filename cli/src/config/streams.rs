//! `[beacon]` and `[lease]`: the regions, the models, and the settings of the streams behind them.

use std::path::PathBuf;

use schemas::{Region, catalog::Catalog, topology::Settings};
use serde::Deserialize;

use super::{
    rule::{Rule, at_least, longer, positive},
    span::Span,
};

/// A lease shorter than this would be lost to an ordinary pause of a process or a network.
const ACK_WAIT_MIN: Span = Span::secs(1);
/// The shortest duplicate window that NATS takes.
const WINDOW_MIN: Span = Span::millis(100);
/// A smaller stream would be full after a handful of large jobs.
const JOBS_BYTES_MIN: u64 = 1 << 20;

/// `[beacon]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBeacon {
    pub(super) regions: Vec<Region>,
    pub(super) models: Catalog,
    pub(super) replicas: u8,
    pub(super) jobs_max_bytes: u64,
    pub(super) prices: Option<PathBuf>,
}

impl Default for RawBeacon {
    /// The report's regions and models.
    fn default() -> Self {
        let region = |name: &str| name.parse().expect("a region of the report is a token");
        let models = ["llama-3.2-1b", "mistral-7b", "qwen-2.5-1.5b"].map(str::to_owned).to_vec();
        Self {
            regions: ["us-east", "eu-west", "asia-pacific"].map(region).to_vec(),
            models: Catalog::new(models).expect("the report's models have a token each"),
            replicas: 1,
            // Reserved on the disk for each region when the stream is made; about a million ordinary jobs.
            jobs_max_bytes: 1 << 30,
            prices: None,
        }
    }
}

/// `[lease]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLease {
    ack_wait: Span,
    jobs_window: Span,
    replies_window: Span,
    max_ack_pending: u32,
}

impl Default for RawLease {
    fn default() -> Self {
        Self {
            ack_wait: Span::secs(60),
            jobs_window: Span::secs(120),
            replies_window: Span::secs(600),
            max_ack_pending: 20_000,
        }
    }
}

/// The map of streams.
pub(super) fn settings(beacon: RawBeacon, lease: &RawLease) -> Result<Settings, Rule> {
    let RawBeacon { regions, models, replicas, jobs_max_bytes, prices: _ } = beacon;
    if regions.is_empty() {
        return Err(Rule::new("beacon.regions", "must name at least one region"));
    }
    if let Some(twice) = (1..regions.len()).find(|&i| regions[..i].contains(&regions[i])) {
        return Err(Rule::new(
            format!("beacon.regions[{twice}]"),
            format!("`{}` is named twice", regions[twice]),
        ));
    }
    if ![1, 3].contains(&replicas) {
        return Err(Rule::new(
            "beacon.replicas",
            format!("`{replicas}` must be 1 (one server) or 3 (a cluster)"),
        ));
    }
    if jobs_max_bytes < JOBS_BYTES_MIN {
        return Err(Rule::new(
            "beacon.jobs_max_bytes",
            format!("`{jobs_max_bytes}` must be at least {JOBS_BYTES_MIN} (1 MiB)"),
        ));
    }
    at_least(
        "lease.ack_wait",
        lease.ack_wait,
        ACK_WAIT_MIN,
        ": it is extended each third of it, and two lost extensions must not cost a lease",
    )?;
    at_least("lease.jobs_window", lease.jobs_window, WINDOW_MIN, "")?;
    longer(("lease.jobs_window", lease.jobs_window), ("lease.ack_wait", lease.ack_wait))?;
    longer(("lease.replies_window", lease.replies_window), ("lease.ack_wait", lease.ack_wait))?;
    positive("lease.max_ack_pending", lease.max_ack_pending)?;
    Ok(Settings {
        regions,
        catalog: models,
        replicas,
        ack_wait: lease.ack_wait.get(),
        max_ack_pending: lease.max_ack_pending,
        jobs_max_bytes,
        jobs_window: lease.jobs_window.get(),
        replies_window: lease.replies_window.get(),
    })
}
