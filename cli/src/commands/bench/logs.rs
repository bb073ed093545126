//! `beacon bench --lines`: a backfill as a process of its own against the pipeline's own rate, and choosing one job in a
//! hundred from the log it leaves against a consumer that does nothing but read it.

use std::{
    io::{BufWriter, Write as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::jetstream::{self, consumer::pull};
use futures_util::StreamExt as _;
use producer::{
    Producer,
    backfill::Options,
    replay::{self, Destination, Replay, Selection, Source},
};
use schemas::{Lane, Region, Tenant, topology::jobs_stream};
use serde::Serialize;
use tokio::process::Command;
use transport::LinkConfig;

use super::measure;
/// Jobs out at a time: the pipeline's own measurement has as many messages on the way.
const OUTSTANDING: &str = "2048";
/// One job in so many is chosen.
const ONE_IN: u64 = 100;
/// Between two looks at the process.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// The rates of a backfill and of a replay.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Logs {
    /// Lines of the file.
    pub(crate) lines: u64,
    /// Lines per second, reading the file beforehand included.
    pub(crate) backfill_per_s: f64,
    /// The most memory its process had.
    pub(crate) rss_max_mib: f64,
    /// Entries per second that a consumer gets that does nothing with them.
    pub(crate) log_read_per_s: f64,
    /// Entries per second that choosing looks at.
    pub(crate) replay_select_per_s: f64,
    /// How many were chosen.
    pub(crate) chosen: u64,
}

/// Runs `lines` lines through a `beacon backfill run`, then chooses from the log.
pub(crate) async fn measure(
    lines: u64,
    link: &LinkConfig,
    region: &Region,
    model: &str,
    producer: &Producer,
) -> anyhow::Result<Logs> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("lines.jsonl");
    let mut out = BufWriter::new(std::fs::File::create(&file)?);
    for n in 1..=lines {
        let prompt = measure::PROMPT;
        writeln!(out, r#"{{"custom_id":"c{n}","model":"{model}","prompt":"{prompt}"}}"#)?;
    }
    out.flush()?;
    let url = link.urls.first().context("no NATS address")?;
    let begin = Instant::now();
    let mut child = Command::new(std::env::current_exe()?)
        .args(["backfill", "run", "--outstanding", OUTSTANDING, "--json"])
        .env("BEACON_NATS_URL", url.exposed())
        .arg(&file)
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    let process = child.id().context("the backfill ended at once")?;
    let mut rss_max_mib = 0.0f64;
    let status = loop {
        if let Ok(status) = tokio::time::timeout(LOOK_EVERY, child.wait()).await {
            break status?;
        }
        // It may have ended just now.
        rss_max_mib = rss_max_mib.max(measure::resident_mib(process).unwrap_or_default());
    };
    anyhow::ensure!(status.success(), "the backfill failed");
    let backfill_per_s = lines as f64 / begin.elapsed().as_secs_f64();
    let (log_read_per_s, read) = read_all(producer, region).await?;
    let options = |custom_id: &str| Options::job_id(&Tenant::default(), "lines.jsonl", custom_id);
    let jobs = (1..=lines / ONE_IN).map(|n| options(&format!("c{}", n * ONE_IN))).collect();
    let replay = Replay {
        source: Source::Jobs,
        selection: Selection { jobs, lane: Some(Lane::Low), ..Selection::default() },
        to: Destination::default(),
        unfinished: true,
        again: 0,
    };
    let begin = Instant::now();
    let plan = replay::plan(producer, &replay, std::slice::from_ref(region)).await?;
    let replay_select_per_s = read as f64 / begin.elapsed().as_secs_f64();
    Ok(Logs {
        lines,
        backfill_per_s,
        rss_max_mib,
        log_read_per_s,
        replay_select_per_s,
        chosen: plan.len() as u64,
    })
}

/// Entries per second of the low lane, and how many there are.
async fn read_all(producer: &Producer, region: &Region) -> anyhow::Result<(f64, u64)> {
    let begin = Instant::now();
    let stream = jetstream::new(producer.client().clone()).get_stream(jobs_stream(region)).await?;
    let filter_subject = format!("beacon.jobs.{region}.*.low.*");
    let config = pull::OrderedConfig { filter_subject, ..pull::OrderedConfig::default() };
    let mut consumer = stream.create_consumer(config).await?;
    let count = consumer.info().await?.num_pending;
    let mut messages = consumer.messages().await?;
    for _ in 0..count {
        messages.next().await.context("it ended early")??;
    }
    Ok((count as f64 / begin.elapsed().as_secs_f64(), count))
}
