//! Reading a mailbox: live from core NATS, and from the streams for what came while nobody listened: results from
//! `REPLIES`, costs from `LEDGER`.

use std::{
    collections::{HashMap, HashSet},
    error::Error as _,
    time::Duration,
};

use async_nats::{
    Client, HeaderValue, Message,
    jetstream::{
        self,
        consumer::{DeliverPolicy, pull},
    },
};
use futures_util::StreamExt;
use schemas::{
    Codec, JobId, Mailbox, Micros, Region, Tenant, UsdNanos,
    codec::CodecError,
    cost::CostEvent,
    headers,
    heartbeat::Heartbeat,
    reply::JobResult,
    subjects::{self, JobSubject},
    topology,
};
use serde_json::Value;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};
use tracing::warn;
use transport::{
    api,
    payloads::{self, PayloadError},
};

use crate::waiters::StoredAs;

/// One message of a mailbox.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// How a job ended.
    Result(Box<JobResult>),
    /// What an attempt cost.
    Cost(Box<CostEvent>),
}

/// Why a mailbox could not be read.
#[derive(Debug, thiserror::Error)]
pub enum MailboxError {
    /// The stream did not answer.
    #[error("cannot read the mailbox's stored replies")]
    Stream(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("reading the mailbox's stored replies takes too long")]
    Slow,
    /// The replica that answered has not stored a result yet that another has.
    #[error("the result at {seq} of stream REPLIES is not there yet, or not any more")]
    Behind {
        /// The result's sequence.
        seq: u64,
    },
    /// A message of the mailbox does not read.
    #[error("a reply on `{subject}` does not read")]
    Reply {
        /// Where it stood.
        subject: String,
        /// Why.
        #[source]
        source: CodecError,
    },
}

pub(crate) fn stream_error(error: impl std::error::Error + Send + Sync + 'static) -> MailboxError {
    MailboxError::Stream(Box::new(error))
}

/// The job a reply's message id names, without reading the body: it stands before the first colon.
pub(crate) fn job_of(message: &Message) -> Option<JobId> {
    let id = message.headers.as_ref()?.get(headers::MESSAGE_ID)?;
    id.as_str().split(':').next()?.parse().ok()
}

/// Whose result a message is and how it is stored, without reading the body; `None` for any other message.
pub(crate) fn result_of(message: &Message) -> Option<(JobId, StoredAs)> {
    let id = message.headers.as_ref()?.get(headers::MESSAGE_ID)?.as_str();
    let job = JobId::from_result_message(id)?;
    Some((job, JobId::taken_seq(id).map_or(StoredAs::First, StoredAs::Taken)))
}

/// Reads a result, wherever the message came from.
pub(crate) fn read_result(message: &Message) -> Result<JobResult, CodecError> {
    let header = message.headers.as_ref().and_then(|h| h.get(headers::CONTENT_TYPE));
    Codec::from_content_type(header.map(HeaderValue::as_str))?.decode(&message.payload)
}

/// Reads a message of a reply subject.
pub fn read_reply(message: &Message) -> Result<Reply, MailboxError> {
    let subject = message.subject.as_str();
    let reply = if subject.ends_with(".result") {
        read_result(message).map(|result| Reply::Result(Box::new(result)))
    } else {
        let header = message.headers.as_ref().and_then(|h| h.get(headers::CONTENT_TYPE));
        Codec::from_content_type(header.map(HeaderValue::as_str))
            .and_then(|codec| codec.decode(&message.payload))
            .map(|cost| Reply::Cost(Box::new(cost)))
    };
    reply.map_err(|source| MailboxError::Reply { subject: subject.to_owned(), source })
}

/// What a stream holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Extent {
    /// When the stream was made: a stream of the same name that was made at another time is another one.
    pub created: Micros,
    /// The first sequence that it still holds, or the next when it holds none.
    pub first_seq: u64,
    /// The last sequence that it gave.
    pub last_seq: u64,
}

impl Extent {
    /// Whether this is a later look at the same stream.
    pub fn goes_on(&self, earlier: &Self) -> bool {
        self.created == earlier.created && self.last_seq >= earlier.last_seq
    }
}

/// What `REPLIES` holds now; `None` when there is no such stream.
pub async fn extent(client: &Client) -> Result<Option<Extent>, MailboxError> {
    let info = match api::ask(client, &format!("STREAM.INFO.{}", topology::REPLIES), &Value::Null).await {
        Ok(info) => info,
        Err(error) if error.code() == Some(api::STREAM_NOT_FOUND) => return Ok(None),
        Err(error) => return Err(stream_error(error)),
    };
    let created = info.get("created").and_then(Value::as_str);
    let created = created.and_then(|text| chrono::DateTime::parse_from_rfc3339(text).ok());
    let number = |path| api::number(&info, path).unwrap_or(0);
    Ok(Some(Extent {
        created: created.map_or(Micros::default(), |at| at.to_utc().into()),
        first_seq: number("state/first_seq"),
        last_seq: number("state/last_seq"),
    }))
}

/// The same result with its output in it, wherever that lies.
pub async fn with_output(client: &Client, mut result: JobResult) -> Result<JobResult, Box<OutputError>> {
    if let (None, Some(stored)) = (&result.output, &result.output_ref) {
        match payloads::get_output(client, stored).await {
            Ok(output) => result.output = Some(output),
            Err(source) => return Err(Box::new(OutputError { result, source })),
        }
    }
    Ok(result)
}

/// A job succeeded, and its output cannot be fetched.
#[derive(Debug, thiserror::Error)]
#[error("job {} succeeded, but its output cannot be fetched", result.job)]
pub struct OutputError {
    /// The result, without its output.
    pub result: JobResult,
    /// Why.
    #[source]
    pub source: PayloadError,
}

/// The two kinds of replies, which lie in two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Terminal results.
    Results,
    /// Cost events.
    Costs,
}

impl Kind {
    /// The stream and the subject of a mailbox's replies of this kind.
    fn place(self, tenant: &Tenant, mailbox: &Mailbox) -> (&'static str, String) {
        match self {
            Self::Results => (topology::REPLIES, subjects::result(tenant, mailbox)),
            Self::Costs => (topology::LEDGER, subjects::cost(tenant, mailbox)),
        }
    }
}

/// Sends every stored reply of a kind since `since` into `out`, oldest first; with `follow`, goes on with new ones until the
/// receiver is dropped. Survives reconnects and server restarts without gaps or repeats.
pub async fn stored_replies(
    client: &Client,
    tenant: &Tenant,
    mailbox: &Mailbox,
    kind: Kind,
    since: Option<Micros>,
    follow: bool,
    out: mpsc::Sender<Message>,
) -> Result<(), MailboxError> {
    let (stream, filter_subject) = kind.place(tenant, mailbox);
    let stream = open(client, stream).await?;
    let deliver_policy = start(since)?;
    let config = pull::OrderedConfig { filter_subject, deliver_policy, ..pull::OrderedConfig::default() };
    let mut consumer = stream.create_consumer(config).await.map_err(stream_error)?;
    if !follow && consumer.info().await.map_err(stream_error)?.num_pending == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(stream_error)?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(stream_error)?;
        let pending = message.info().map_or(0, |info| info.pending);
        if out.send(message.message).await.is_err() || (!follow && pending == 0) {
            break;
        }
    }
    Ok(())
}

/// Something stored, or the news that all that was stored before the reading began has come.
#[derive(Debug)]
pub enum Arrived {
    /// A result with its place in the stream, its output fetched where that is still there.
    Result {
        /// Its sequence.
        seq: u64,
        /// Itself.
        result: Box<JobResult>,
    },
    /// A result that does not read.
    Unread(Unread),
    /// A cost event.
    Cost(Box<CostEvent>),
    /// Everything stored before has come.
    CaughtUp,
}

/// A stored result that this version cannot read.
#[derive(Debug)]
pub struct Unread {
    /// Its sequence.
    pub seq: u64,
    /// Whose it is, where its message id says so.
    pub job: Option<JobId>,
    /// Why it does not read.
    pub why: String,
}

/// How often an output is fetched that the object store does not give at once, a second apart.
const OUTPUT_TRIES: u32 = 5;

/// Sends everything stored of a mailbox behind sequence `after`, oldest first, then what comes, until the receiver is dropped.
pub async fn stored_after(
    client: &Client,
    (kind, tenant, mailbox): (Kind, &Tenant, &Mailbox),
    after: u64,
    out: mpsc::Sender<Arrived>,
) -> Result<(), MailboxError> {
    let (stream, filter_subject) = kind.place(tenant, mailbox);
    let stream = open(client, stream).await?;
    let config = pull::OrderedConfig {
        filter_subject,
        deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: after + 1 },
        ..pull::OrderedConfig::default()
    };
    let mut consumer = stream.create_consumer(config).await.map_err(stream_error)?;
    let mut caught_up = consumer.info().await.map_err(stream_error)?.num_pending == 0;
    if caught_up && out.send(Arrived::CaughtUp).await.is_err() {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(stream_error)?;
    while let Some(message) = messages.next().await {
        let message = message.map_err(stream_error)?;
        let (seq, pending) = message.info().map_or((0, 0), |info| (info.stream_sequence, info.pending));
        let arrived = match read_reply(&message) {
            Ok(Reply::Result(result)) => {
                Some(Arrived::Result { seq, result: Box::new(fetched(client, *result).await) })
            }
            Ok(Reply::Cost(cost)) => Some(Arrived::Cost(cost)),
            Err(error) => {
                warn!(seq, %error, "does not read");
                let job = result_of(&message).map(|(job, _)| job);
                let why = error.source().map_or_else(|| error.to_string(), ToString::to_string);
                (kind == Kind::Results).then_some(Arrived::Unread(Unread { seq, job, why }))
            }
        };
        if let Some(arrived) = arrived
            && out.send(arrived).await.is_err()
        {
            break;
        }
        if !caught_up && pending == 0 {
            caught_up = true;
            if out.send(Arrived::CaughtUp).await.is_err() {
                break;
            }
        }
    }
    Ok(())
}

/// A result with its output; without it when that is gone, or cannot be had.
async fn fetched(client: &Client, mut result: JobResult) -> JobResult {
    for attempt in 1.. {
        match with_output(client, result).await {
            Ok(whole) => return whole,
            Err(lost) if attempt == OUTPUT_TRIES || matches!(lost.source, PayloadError::Gone(_)) => {
                warn!(job = %lost.result.job, error = %lost.source, "the output cannot be fetched");
                return lost.result;
            }
            Err(lost) => result = lost.result,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    unreachable!("the last try returns")
}

/// The ids of jobs, one tenant's or all, that lie in a region's stream since `since`: headers only, at the rate the server
/// can deliver.
pub async fn jobs_since(
    client: &Client,
    region: &Region,
    tenant: Option<&Tenant>,
    since: Option<Micros>,
) -> Result<HashSet<JobId>, MailboxError> {
    let config = pull::OrderedConfig {
        filter_subject: format!("beacon.jobs.{region}.*.*.{}", tenant.map_or("*", Tenant::as_str)),
        deliver_policy: start(since)?,
        headers_only: true,
        ..pull::OrderedConfig::default()
    };
    let mut found = HashSet::new();
    read_stored(client, &topology::jobs_stream(region), config, |message| {
        found.extend(job_of(message));
        true
    })
    .await?;
    Ok(found)
}

/// Hands `each` the job, subject and sequence of every job of a tenant that lies in a region's stream: headers only.
pub(crate) async fn each_job(
    client: &Client,
    region: &Region,
    tenant: &Tenant,
    mut each: impl FnMut(JobId, &JobSubject, u64),
) -> Result<(), MailboxError> {
    let config = pull::OrderedConfig {
        filter_subject: format!("beacon.jobs.{region}.*.*.{tenant}"),
        headers_only: true,
        ..pull::OrderedConfig::default()
    };
    read_stored(client, &topology::jobs_stream(region), config, |message| {
        let seq = message.info().map_or(0, |info| info.stream_sequence);
        if let (Some(job), Ok(subject)) = (job_of(message), message.subject.as_str().parse()) {
            each(job, &subject, seq);
        }
        true
    })
    .await
}

/// The jobs that have a stored result in a mailbox: headers only.
pub(crate) async fn results_in(
    client: &Client,
    tenant: &Tenant,
    mailbox: &Mailbox,
) -> Result<HashSet<JobId>, MailboxError> {
    let config = pull::OrderedConfig {
        filter_subject: subjects::result(tenant, mailbox),
        headers_only: true,
        ..pull::OrderedConfig::default()
    };
    let mut found = HashSet::new();
    read_stored(client, topology::REPLIES, config, |message| {
        found.extend(result_of(message).map(|(job, _)| job));
        true
    })
    .await?;
    Ok(found)
}

/// What the attempts of some jobs of a mailbox cost together, as `LEDGER` says.
pub(crate) async fn costs_of(
    client: &Client,
    tenant: &Tenant,
    mailbox: &Mailbox,
    jobs: &HashSet<JobId>,
) -> Result<HashMap<JobId, UsdNanos>, MailboxError> {
    let mut sums: HashMap<JobId, UsdNanos> = HashMap::new();
    if jobs.is_empty() {
        return Ok(sums);
    }
    let config = pull::OrderedConfig {
        filter_subject: subjects::cost(tenant, mailbox),
        ..pull::OrderedConfig::default()
    };
    read_stored(client, topology::LEDGER, config, |message| {
        if let Ok(Reply::Cost(cost)) = read_reply(message)
            && let Some(job) = cost.job.filter(|job| jobs.contains(job))
        {
            let sum = sums.entry(job).or_default();
            *sum = sum.checked_add(cost.amount_usd).unwrap_or(UsdNanos::new(u64::MAX));
        }
        true
    })
    .await?;
    Ok(sums)
}

/// Hands `each` what a stream holds now of what `config` asks for, until that says no. What comes meanwhile is not read.
pub async fn read_stored(
    client: &Client,
    stream: &str,
    config: pull::OrderedConfig,
    mut each: impl FnMut(&jetstream::Message) -> bool,
) -> Result<(), MailboxError> {
    let stream = open(client, stream).await?;
    let mut consumer = stream.create_consumer(config).await.map_err(stream_error)?;
    let mut left = consumer.info().await.map_err(stream_error)?.num_pending;
    if left == 0 {
        return Ok(());
    }
    let mut messages = consumer.messages().await.map_err(stream_error)?;
    while left > 0 {
        let ended = || stream_error(std::io::Error::other("the consumer ended early"));
        let message = messages.next().await.ok_or_else(ended)?;
        left -= 1;
        if !each(&message.map_err(stream_error)?) {
            break;
        }
    }
    Ok(())
}

/// A stream to read from. It is asked for by `api`, which says at once what is not permitted.
async fn open(client: &Client, stream: &str) -> Result<jetstream::stream::Stream<()>, MailboxError> {
    api::ask(client, &format!("STREAM.INFO.{stream}"), &Value::Null).await.map_err(stream_error)?;
    jetstream::new(client.clone()).get_stream_no_info(stream).await.map_err(stream_error)
}

/// What workers say about themselves within `span`.
pub async fn heartbeats(client: &Client, span: Duration) -> Result<Vec<Heartbeat>, MailboxError> {
    let mut beats = client.subscribe(subjects::HEARTBEATS).await.map_err(stream_error)?;
    let mut found = Vec::new();
    let end = Instant::now() + span;
    while let Ok(Some(message)) = timeout_at(end, beats.next()).await {
        // One that does not read is of another version; it says nothing to us.
        found.extend(serde_json::from_slice::<Heartbeat>(&message.payload).ok());
    }
    Ok(found)
}

pub(crate) fn start(since: Option<Micros>) -> Result<DeliverPolicy, MailboxError> {
    Ok(match since {
        None => DeliverPolicy::All,
        Some(at) => DeliverPolicy::ByStartTime {
            start_time: jetstream_time(at)
                .ok_or_else(|| stream_error(std::io::Error::other("time out of range")))?,
        },
    })
}

/// The client library's own time type, through nanoseconds since the epoch.
fn jetstream_time(at: Micros) -> Option<time::OffsetDateTime> {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(at.get()) * 1_000).ok()
}
