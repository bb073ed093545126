//! Shortens the log: what every consumer has finished and nobody needs for a replay any more.
//!
//! `purge_below` decides, purely. The order of reading matters: the stream's last sequence *first*, then every
//! consumer, since an idle consumer (nothing pending, nothing out) counts as having finished all that was there
//! *before* it was asked. The floors are written down before anything is purged.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, Request};
use schemas::{
    Micros, Region,
    time::Clock as _,
    topology::{ConsumerSpec, FLOORS_BUCKET, Topology, jobs_stream},
};
use serde_json::{Value, json};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use transport::{
    Headers, PublishError, Publisher, SystemClock,
    api::{self, ApiError},
    topology::floor_key,
};

use crate::{config::DispatcherConfig, metrics};

/// Finished jobs younger than this stay even when the stream is nearly full: the server's memory of message ids is
/// rebuilt from stored messages after a restart, and a redelivery must find its job.
pub const HORIZON_MIN: Duration = Duration::from_secs(600);

/// The part of `max_bytes` beyond which the horizon shrinks to [`HORIZON_MIN`].
const NEARLY_FULL: f64 = 0.8;

/// A consumer, as far as trimming goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reader {
    /// Everything up to here is acked.
    pub ack_floor: u64,
    /// Jobs it has not delivered yet.
    pub pending: u64,
    /// Jobs delivered and not acked.
    pub out: u64,
}

impl Reader {
    /// Everything up to here is finished, given what the stream's last sequence was before this was read.
    pub fn finished(self, last_before: u64) -> u64 {
        if self.pending == 0 && self.out == 0 { last_before.max(self.ack_floor) } else { self.ack_floor }
    }
}

/// The first sequence to keep, or none if nothing may go. `horizon` is the first sequence young enough to stay.
pub fn purge_below(last_before: u64, readers: &[Reader], horizon: u64) -> Option<u64> {
    // A stream that nobody reads is not a stream that everybody has read.
    let finished = readers.iter().map(|r| r.finished(last_before)).min()?;
    Some((finished + 1).min(horizon))
}

/// The trimming task of one dispatcher.
pub struct Trimmer {
    config: Arc<DispatcherConfig>,
    topology: Topology,
    client: Client,
    publisher: Publisher,
}

#[derive(Debug, thiserror::Error)]
enum TrimError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("floor not written")]
    Floor(#[from] PublishError),
    #[error("consumers do not read exactly the stream's subjects: {0}")]
    Coverage(String),
    #[error("replica {0} of {1} is offline or behind")]
    Replica(String, String),
}

impl Trimmer {
    /// A trimmer for the dispatcher's own regions.
    pub fn new(config: Arc<DispatcherConfig>, client: Client, publisher: Publisher) -> Self {
        Self { topology: Topology::new(&config.topology), config, client, publisher }
    }

    /// Runs until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let mut tick = interval(self.config.trim.every);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                _ = tick.tick() => {}
            }
            for region in &self.config.regions {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    trimmed = self.trim(region) => if let Err(error) = trimmed {
                        // Never urgent: the next round tries again, and a full stream refuses publishers.
                        warn!(%region, %error, "not trimmed");
                    }
                }
            }
        }
    }

    async fn trim(&self, region: &Region) -> Result<(), TrimError> {
        let stream = jobs_stream(region);
        let info = api::ask(&self.client, &format!("STREAM.INFO.{stream}"), &Value::Null).await?;
        let last = api::number(&info, "state/last_seq").unwrap_or(0);
        let first = api::number(&info, "state/first_seq").unwrap_or(0);
        let specs: Vec<&ConsumerSpec> =
            self.topology.consumers.iter().filter(|(s, _)| *s == stream).map(|(_, c)| c).collect();
        check_coverage(&info, &specs)?;
        check_replicas(&info, &stream)?;
        let mut readers = Vec::with_capacity(specs.len());
        for spec in specs {
            let info = api::ask(
                &self.client,
                &format!("CONSUMER.INFO.{stream}.{}", spec.durable_name),
                &Value::Null,
            )
            .await?;
            check_replicas(&info, &spec.durable_name)?;
            let reader = Reader {
                ack_floor: api::number(&info, "ack_floor/stream_seq").unwrap_or(0),
                pending: api::number(&info, "num_pending").unwrap_or(u64::MAX),
                out: api::number(&info, "num_ack_pending").unwrap_or(u64::MAX),
            };
            self.write_floor(&floor_key(&stream, &spec.durable_name), reader.finished(last)).await?;
            readers.push(reader);
        }
        let bytes = api::number(&info, "state/bytes").unwrap_or(0) as f64;
        let full = bytes > NEARLY_FULL * self.config.topology.jobs_max_bytes as f64;
        let horizon = if full { self.config.trim.horizon.min(HORIZON_MIN) } else { self.config.trim.horizon };
        let young = self.first_since(&stream, SystemClock.now() - horizon, last).await?;
        match purge_below(last, &readers, young) {
            Some(keep) if keep > first => {
                let purged =
                    api::ask(&self.client, &format!("STREAM.PURGE.{stream}"), &json!({ "seq": keep }))
                        .await?;
                let count = api::number(&purged, "purged").unwrap_or(0);
                metrics::trimmed(count);
                if count > 0 {
                    info!(stream, keep, count, "log trimmed");
                }
            }
            _ => debug!(stream, last, young, "nothing to trim"),
        }
        Ok(())
    }

    async fn write_floor(&self, key: &str, floor: u64) -> Result<(), PublishError> {
        let subject = format!("$KV.{FLOORS_BUCKET}.{key}");
        self.publisher.publish(subject, Headers::new(), floor.to_string().into()).await.map(drop)
    }

    /// The first sequence stored at or after `since`; past the end when everything is older.
    async fn first_since(&self, stream: &str, since: Micros, last: u64) -> Result<u64, ApiError> {
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        let body = json!({ "batch": 1, "start_time": since.to_datetime().to_rfc3339(), "next_by_subj": ">" });
        let request = Request::new().payload(body.to_string().into());
        let answer = self
            .client
            .send_request(subject.clone(), request)
            .await
            .map_err(|source| ApiError::Silent { subject, source })?;
        let seq = answer
            .headers
            .as_ref()
            .and_then(|h| h.get("Nats-Sequence"))
            .and_then(|v| v.as_str().parse().ok());
        Ok(seq.unwrap_or(last + 1))
    }
}

/// Every stream subject must be read by exactly one consumer; what nobody reads would be trimmed unread.
fn check_coverage(info: &Value, specs: &[&ConsumerSpec]) -> Result<(), TrimError> {
    let subjects: Vec<&str> = info
        .pointer("/config/subjects")
        .and_then(Value::as_array)
        .map(|s| s.iter().filter_map(Value::as_str).collect())
        .unwrap_or_default();
    let unread = subjects.iter().find(|s| specs.iter().filter(|c| c.filter_subject == **s).count() != 1);
    unread.map_or(Ok(()), |s| Err(TrimError::Coverage((*s).to_owned())))
}

fn check_replicas(info: &Value, of: &str) -> Result<(), TrimError> {
    let replicas = info.pointer("/cluster/replicas").and_then(Value::as_array);
    for replica in replicas.into_iter().flatten() {
        let is = |field: &str| replica.get(field).and_then(Value::as_bool).unwrap_or(false);
        if is("offline") {
            let name = replica.get("name").and_then(Value::as_str).unwrap_or("?");
            return Err(TrimError::Replica(name.to_owned(), of.to_owned()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_idle_consumer_has_finished_what_was_there_before_it_was_asked() {
        let idle = Reader { ack_floor: 3, pending: 0, out: 0 };
        assert_eq!(purge_below(10, &[idle], u64::MAX), Some(11));
        let busy = Reader { ack_floor: 7, pending: 1, out: 0 };
        assert_eq!(purge_below(10, &[idle, busy], u64::MAX), Some(8));
    }

    #[test]
    fn a_stream_without_consumers_is_never_trimmed() {
        assert_eq!(purge_below(10, &[], u64::MAX), None);
    }

    proptest! {
        /// Jobs 1..=n belong to consumers round robin; some are unfinished. None of those may go.
        #[test]
        fn an_unfinished_job_never_goes(unfinished in proptest::collection::btree_set(1..60u64, 0..20), n in 60..80u64, consumers in 1..5u64, horizon in 1..90u64) {
            let readers: Vec<Reader> = (0..consumers).map(|c| {
                let mine: Vec<u64> = (1..=n).filter(|s| s % consumers == c).collect();
                let first_open = mine.iter().find(|s| unfinished.contains(s));
                // The server's floor: the sequence before the first unfinished job of this consumer.
                let ack_floor = first_open.map_or(mine.last().copied().unwrap_or(0), |s| s - 1);
                let open = mine.iter().filter(|s| unfinished.contains(s)).count() as u64;
                Reader { ack_floor, pending: open / 2, out: open - open / 2 }
            }).collect();
            if let Some(keep) = purge_below(n, &readers, horizon) {
                prop_assert!(unfinished.iter().all(|s| *s >= keep));
                prop_assert!(keep <= horizon.max(1));
            }
        }
    }
}
