//! The map of streams, consumers and buckets, as data. `transport::topology` makes the server agree with it.
//!
//! Every struct serialises to the very JSON of the JetStream API, spans in nanoseconds.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Lane, ModelToken, Region, catalog::Catalog, subjects};

/// Results.
pub const REPLIES: &str = "REPLIES";
/// Cost events, stored here and nowhere else: copying them out of REPLIES cost the server a seventh of its work.
pub const LEDGER: &str = "LEDGER";
/// Jobs that will not be tried again.
pub const DEAD: &str = "DEAD";
/// What each consumer had acked at the last trim.
pub const FLOORS_BUCKET: &str = "beacon-floors";
/// What earlier attempts left behind.
pub const JOURNAL_BUCKET: &str = "beacon-journal";
/// Orders that take jobs back.
pub const CANCEL_BUCKET: &str = "beacon-cancel";
/// How long such an order holds: it must outlast the jobs it means, which wait as long as they must.
pub const CANCEL_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// Recurring jobs, and how far their runs are stored.
pub const RECURRING_BUCKET: &str = "beacon-recurring";

/// Which job a unique key stands for.
pub const UNIQUE_BUCKET: &str = "beacon-unique";

/// Inputs that are too large for a message; a NATS object store.
pub const PAYLOADS_BUCKET: &str = "beacon-payloads";

/// Rented machines, the leases of their keepers, and what operators asked of them.
pub const MACHINES_BUCKET: &str = "beacon-machines";

/// Counters of what budgets have given out.
pub const BUDGETS: &str = "BUDGETS";
/// How long the server remembers the ids of draws; longer than a dispatcher asks the same draw again.
pub const BUDGETS_WINDOW: Duration = Duration::from_secs(120);

const DAY: Duration = Duration::from_secs(86_400);

/// What an operator may turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Regions served, one JOBS stream each.
    pub regions: Vec<Region>,
    /// Models served, one consumer per lane each.
    pub catalog: Catalog,
    /// Copies of every stream: 1 or 3.
    pub replicas: u8,
    /// How long a lease lasts without being extended.
    pub ack_wait: Duration,
    /// Jobs one consumer may have out; at least twice all slots of a region, and it bounds redelivery storms.
    pub max_ack_pending: u32,
    /// Bytes one JOBS stream may hold; publishers are refused beyond it.
    pub jobs_max_bytes: u64,
    /// How long the server remembers message ids of jobs; longer than `ack_wait`.
    pub jobs_window: Duration,
    /// The same for replies: it must outlast a redelivery and the longest outage planned for.
    pub replies_window: Duration,
}

/// A stream, as the JetStream API writes it.
#[expect(clippy::struct_excessive_bools, reason = "the server's own shape")]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamSpec {
    /// Its name.
    pub name: String,
    /// What it stores.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subjects: Vec<String>,
    /// `limits` throughout.
    pub retention: String,
    /// `new` refuses when full, `old` forgets.
    pub discard: String,
    /// `file`.
    pub storage: String,
    /// Copies.
    pub num_replicas: u8,
    /// Nanoseconds; 0 for ever.
    pub max_age: u64,
    /// Bytes; -1 without limit.
    pub max_bytes: i64,
    /// Messages per subject; -1 without limit.
    pub max_msgs_per_subject: i64,
    /// Nanoseconds.
    pub duplicate_window: u64,
    /// Reads from any replica.
    pub allow_direct: bool,
    /// Whether publishers may commit batches.
    pub allow_atomic: bool,
    /// Rollup headers, which KV clients use.
    pub allow_rollup_hdrs: bool,
    /// No single message may be deleted.
    pub deny_delete: bool,
    /// Messages may be stored that the server publishes later.
    pub allow_msg_schedules: bool,
    /// Messages may have a life of their own (`Nats-TTL`).
    pub allow_msg_ttl: bool,
    /// Every message adds to a number (`Nats-Incr`); only limits retention, no `discard: new`, no life of their own.
    pub allow_msg_counter: bool,
    /// Streams whose messages are copied here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<SourceSpec>,
}

/// A stream that another copies from, and what its subjects become.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceSpec {
    /// The stream.
    pub name: String,
    /// Which subjects, and what they become.
    pub subject_transforms: Vec<TransformSpec>,
}

/// A change of subjects.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformSpec {
    /// What is matched.
    pub src: String,
    /// What it becomes.
    pub dest: String,
}

/// A durable pull consumer, as the JetStream API writes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsumerSpec {
    /// Its name.
    pub durable_name: String,
    /// What it reads.
    pub filter_subject: String,
    /// `explicit`.
    pub ack_policy: String,
    /// Nanoseconds.
    pub ack_wait: u64,
    /// -1: the dispatcher decides when a job is poison.
    pub max_deliver: i64,
    /// Jobs that may be out at a time.
    pub max_ack_pending: u32,
    /// Pull requests that may wait.
    pub max_waiting: u32,
}

/// All streams and consumers of an installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// Buckets first: the others' floors are kept there.
    pub streams: Vec<StreamSpec>,
    /// Consumers with the stream each belongs to.
    pub consumers: Vec<(String, ConsumerSpec)>,
}

/// The stream of a region's jobs.
pub fn jobs_stream(region: &Region) -> String {
    format!("JOBS_{region}")
}

/// The stream of a region's jobs that are to run later.
pub fn delayed_stream(region: &Region) -> String {
    format!("DELAYED_{region}")
}

/// The consumer of one model and lane.
pub fn consumer_name(model: &ModelToken, lane: Lane) -> String {
    format!("d-{model}-{lane}")
}

/// The stream behind a bucket.
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// The stream behind an object store.
pub fn object_stream(bucket: &str) -> String {
    format!("OBJ_{bucket}")
}

/// A span as the JetStream API writes it; saturates at 584 years.
pub fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Topology {
    /// Draws the map for `settings`.
    pub fn new(settings: &Settings) -> Self {
        let mut streams = vec![
            bucket(FLOORS_BUCKET, Duration::ZERO, settings.replicas),
            bucket(JOURNAL_BUCKET, 2 * DAY, settings.replicas),
            bucket(CANCEL_BUCKET, CANCEL_KEPT, settings.replicas),
            bucket(RECURRING_BUCKET, Duration::ZERO, settings.replicas),
            StreamSpec { allow_msg_ttl: true, ..bucket(MACHINES_BUCKET, Duration::ZERO, settings.replicas) },
            StreamSpec { allow_msg_ttl: true, ..bucket(UNIQUE_BUCKET, Duration::ZERO, settings.replicas) },
            objects(PAYLOADS_BUCKET, 7 * DAY, settings.replicas),
            StreamSpec {
                max_age: nanos(3 * DAY),
                duplicate_window: nanos(settings.replies_window),
                ..plain(REPLIES, vec!["beacon.reply.*.*.result".into()], settings.replicas)
            },
            StreamSpec {
                max_age: nanos(400 * DAY),
                duplicate_window: nanos(settings.replies_window),
                deny_delete: true,
                ..plain(LEDGER, vec!["beacon.reply.*.*.cost".into()], settings.replicas)
            },
            StreamSpec {
                max_age: nanos(90 * DAY),
                ..plain(DEAD, vec!["beacon.dead.*.*.*".into()], settings.replicas)
            },
            StreamSpec {
                max_age: nanos(400 * DAY),
                // A counter's newest message holds its total.
                max_msgs_per_subject: 1,
                duplicate_window: nanos(BUDGETS_WINDOW),
                allow_msg_counter: true,
                ..plain(BUDGETS, vec![subjects::BUDGETS.into()], settings.replicas)
            },
        ];
        let mut consumers = Vec::new();
        for region in &settings.regions {
            let pairs = || settings.catalog.tokens().flat_map(|m| Lane::ALL.map(|lane| (m, lane)));
            // Model by lane is spelled out: a publish to an unknown one fails at the publisher.
            let filters = pairs().map(|(model, lane)| subjects::job_filter(region, model, lane)).collect();
            // A schedule's target must lie in its own stream, so the due jobs do, and JOBS copies them from there. They wait
            // there while JOBS is full; the server removes one only when it was copied.
            let due = pairs().map(|(model, lane)| subjects::due_filter(region, model, lane));
            streams.push(StreamSpec {
                retention: "workqueue".into(),
                allow_msg_schedules: true,
                // The server turns it on with schedules: a schedule replaces the one on its subject.
                allow_rollup_hdrs: true,
                duplicate_window: nanos(settings.jobs_window),
                ..plain(
                    &delayed_stream(region),
                    // The old place is taken too, so that nothing is lost while an installation is upgraded.
                    [subjects::delayed_filter(region), subjects::delayed_old_filter(region)]
                        .into_iter()
                        .chain(due)
                        .collect(),
                    settings.replicas,
                )
            });
            streams.push(StreamSpec {
                discard: "new".into(),
                max_bytes: i64::try_from(settings.jobs_max_bytes).unwrap_or(i64::MAX),
                duplicate_window: nanos(settings.jobs_window),
                allow_atomic: true,
                sources: vec![SourceSpec {
                    name: delayed_stream(region),
                    subject_transforms: vec![TransformSpec {
                        src: format!("beacon.due.{region}.*.*.*"),
                        dest: format!(
                            "beacon.jobs.{region}.{{{{wildcard(1)}}}}.{{{{wildcard(2)}}}}.{{{{wildcard(3)}}}}"
                        ),
                    }],
                }],
                ..plain(&jobs_stream(region), filters, settings.replicas)
            });
            consumers.extend(pairs().map(|(model, lane)| {
                let spec = ConsumerSpec {
                    durable_name: consumer_name(model, lane),
                    filter_subject: subjects::job_filter(region, model, lane),
                    ack_policy: "explicit".into(),
                    ack_wait: nanos(settings.ack_wait),
                    max_deliver: -1,
                    max_ack_pending: settings.max_ack_pending,
                    max_waiting: 512,
                };
                (jobs_stream(region), spec)
            }));
        }
        Self { streams, consumers }
    }
}

fn plain(name: &str, subjects: Vec<String>, replicas: u8) -> StreamSpec {
    StreamSpec {
        name: name.into(),
        subjects,
        retention: "limits".into(),
        discard: "old".into(),
        storage: "file".into(),
        num_replicas: replicas,
        max_age: 0,
        max_bytes: -1,
        max_msgs_per_subject: -1,
        duplicate_window: nanos(Duration::from_secs(120)),
        allow_direct: true,
        allow_atomic: false,
        allow_rollup_hdrs: false,
        deny_delete: false,
        allow_msg_schedules: false,
        allow_msg_ttl: false,
        allow_msg_counter: false,
        sources: Vec::new(),
    }
}

/// An object store, in the shape its clients expect.
fn objects(name: &str, ttl: Duration, replicas: u8) -> StreamSpec {
    StreamSpec {
        discard: "new".into(),
        max_age: nanos(ttl),
        allow_rollup_hdrs: true,
        ..plain(&object_stream(name), vec![format!("$O.{name}.C.>"), format!("$O.{name}.M.>")], replicas)
    }
}

/// A key-value bucket, in the shape its clients expect.
fn bucket(name: &str, ttl: Duration, replicas: u8) -> StreamSpec {
    StreamSpec {
        discard: "new".into(),
        max_age: nanos(ttl),
        max_msgs_per_subject: 1,
        allow_rollup_hdrs: true,
        deny_delete: true,
        ..plain(&bucket_stream(name), vec![format!("$KV.{name}.>")], replicas)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            regions: vec!["us-east".parse().unwrap(), "eu-west".parse().unwrap()],
            catalog: Catalog::new(vec!["llama-3.2-1b".into(), "mistral-7b".into()]).unwrap(),
            replicas: 1,
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 20_000,
            jobs_max_bytes: 1 << 30,
            jobs_window: Duration::from_secs(120),
            replies_window: Duration::from_secs(600),
        }
    }

    #[test]
    fn every_job_subject_has_exactly_one_consumer() {
        let topology = Topology::new(&settings());
        for stream in topology.streams.iter().filter(|s| s.name.starts_with("JOBS_")) {
            for subject in &stream.subjects {
                let readers = topology
                    .consumers
                    .iter()
                    .filter(|(s, c)| *s == stream.name && c.filter_subject == *subject);
                assert_eq!(readers.count(), 1, "{subject}");
            }
        }
        assert_eq!(topology.consumers.len(), 2 * 2 * 3);
    }

    #[test]
    fn jobs_are_refused_rather_than_forgotten() {
        for stream in Topology::new(&settings()).streams.iter().filter(|s| s.name.starts_with("JOBS_")) {
            assert_eq!(
                (stream.discard.as_str(), stream.max_age, stream.retention.as_str()),
                ("new", 0, "limits")
            );
        }
    }
}
