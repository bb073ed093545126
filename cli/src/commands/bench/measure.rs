//! The measurements behind `beacon bench`, against one server, in one run.
//!
//! Absolute figures of a shared machine mean little; the ratio of the pipeline to raw publishing on the same server
//! in the same minute means something.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use producer::{JobRequest, Producer};
use schemas::headers;
use serde_json::json;
use tokio::sync::Semaphore;
use transport::api;

/// Messages on the way, in the raw measurement and in the pipeline's.
const OUTSTANDING: usize = 1_024;
/// A usual job: a short chat. The raw messages are as large.
pub(crate) const PROMPT: &str = "Summarise the following in one sentence for a busy reader: the harbour was rebuilt twice, \
                      first after the storm of 1911 and then when the railway came, and each time the town argued \
                      for ten years about who should pay.";

/// Raw publishes into a stream of their own: rate with many outstanding, and the median of one at a time.
pub(crate) async fn raw(client: &Client, count: usize, body: Bytes) -> anyhow::Result<(f64, f64)> {
    let spec = json!({
        "name": "BENCH_RAW", "subjects": ["bench.raw"], "storage": "file", "num_replicas": 1,
        "duplicate_window": 120_000_000_000u64,
    });
    api::ask(client, "STREAM.CREATE.BENCH_RAW", &spec).await?;
    let inbox = client.new_inbox();
    let mut acks = client.subscribe(format!("{inbox}.*")).await?;
    let window = Arc::new(Semaphore::new(OUTSTANDING));
    let begin = Instant::now();
    let counting = async {
        for _ in 0..count {
            anyhow::ensure!(acks.next().await.is_some(), "the connection closed");
            window.add_permits(1);
        }
        Ok(())
    };
    let sending = async {
        for n in 0..count {
            window.acquire().await?.forget();
            let mut map = HeaderMap::new();
            map.insert(headers::MESSAGE_ID, producer::request::new_job_id().to_string());
            client
                .publish_with_reply_and_headers("bench.raw", format!("{inbox}.{n}"), map, body.clone())
                .await?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(counting, sending)?;
    let rate = count as f64 / begin.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for _ in 0..count.min(1_000) {
        let begin = Instant::now();
        let mut map = HeaderMap::new();
        map.insert(headers::MESSAGE_ID, producer::request::new_job_id().to_string());
        client.request_with_headers("bench.raw", map, body.clone()).await?;
        times.push(begin.elapsed());
    }
    api::ask(client, "STREAM.DELETE.BENCH_RAW", &json!(null)).await?;
    Ok((rate, quantile(&mut times, 50)))
}

/// A job like any other, whose replies go to `mailbox`.
pub(crate) fn request(region: &str, model: &str, mailbox: Option<&str>) -> anyhow::Result<JobRequest> {
    let mut request = JobRequest::prompt(region, model, PROMPT)?;
    request.body.mailbox = mailbox.map(str::to_owned);
    Ok(request)
}

/// Where the pipeline's replies go: not to the producer's own mailbox, or every one would be delivered twice.
pub(crate) const MAILBOX: &str = "bench";

/// Jobs per second from the first submit until every result and cost is delivered; `request` goes to [`MAILBOX`].
pub(crate) async fn pipeline(producer: &Producer, request: &JobRequest, count: usize) -> anyhow::Result<f64> {
    // Delivery counts, and not just storage.
    let mut replies = producer.client().subscribe(format!("beacon.reply.*.{MAILBOX}.*")).await?;
    let begin = Instant::now();
    let submitting = submit(producer, request, count as u64);
    let receiving = async {
        for n in 0..count * 2 {
            let next = tokio::time::timeout(Duration::from_secs(60), replies.next()).await;
            anyhow::ensure!(matches!(next, Ok(Some(_))), "only {n} of {} results and costs came", count * 2);
        }
        anyhow::Ok(())
    };
    tokio::try_join!(submitting, receiving)?;
    Ok(count as f64 / begin.elapsed().as_secs_f64())
}

/// Submit to result, one at a time: median and 99th percentile, microseconds.
pub(crate) async fn idle(
    producer: &Producer,
    request: &JobRequest,
    count: usize,
) -> anyhow::Result<(f64, f64)> {
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let begin = Instant::now();
        producer.submit_and_wait(request, Duration::from_secs(30)).await?;
        times.push(begin.elapsed());
    }
    Ok((quantile(&mut times, 50), quantile(&mut times, 99)))
}

/// Nearest rank, microseconds.
fn quantile(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    let rank = (times.len() * percent).div_ceil(100).max(1) - 1;
    times.get(rank).map_or(0.0, |t| t.as_secs_f64() * 1e6)
}

/// Resident memory of a process in MiB, from `/proc`.
pub(crate) fn resident_mib(process: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let kib = status
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:")?.trim().strip_suffix("kB")?.trim().parse::<f64>().ok());
    Ok(kib.context("no VmRSS in /proc")? / 1024.0)
}

/// Processor time of a process so far, its kernel time included.
pub(crate) fn processor_time(process: u32) -> anyhow::Result<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The second field is the program's name in brackets, which may hold anything.
    let rest = text.rsplit_once(')').context("no name in /proc")?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).context("no times in /proc");
    // Linux counts in hundredths of a second for user space, whatever the kernel ticks in.
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// Submits `count` jobs, [`OUTSTANDING`] at a time.
pub(crate) async fn submit(producer: &Producer, request: &JobRequest, count: u64) -> anyhow::Result<()> {
    let mut sent = stream::iter(0..count).map(|_| producer.submit(request)).buffer_unordered(OUTSTANDING);
    while let Some(ticket) = sent.next().await {
        ticket?;
    }
    Ok(())
}
