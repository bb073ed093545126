//! The producer: sends jobs with many on the way, and hands each result to all who wait for it.
//!
//! ```text
//!  submit ──▶ Publisher ──▶ JOBS_<region>
//!  wait   ◀── waiters ◀─┬─ router   ◀── core subscription on the mailbox                         (fast)
//!                       └─ follower ◀── REPLIES, after a reconnect, after a while, when asked    (sure)
//! ```

use std::time::Duration;

use async_nats::Client;
use schemas::{
    JobId, Mailbox, Micros, Tenant, headers,
    job::{Input, Job, JobBody, JobHeaders},
    subjects::{self, JobSubject},
    time::Clock,
    token::TokenError,
    topology::{delayed_stream, jobs_stream},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use transport::{
    Headers, Link, LinkConfig, LinkError, PublishError, Publisher, SystemClock, delayed,
    payloads::{self, PayloadError},
    publisher::{Patience, publisher},
};

use crate::{
    follower::{Asked, Follower},
    moved,
    nats::{self, Kind, MailboxError, Reply},
    request::{JobRequest, new_job_id},
    router::Router,
    waiters::Waiters,
};

/// Replies that a mailbox reader may be behind; beyond it the subscription waits, and then the server drops.
const REPLIES_AHEAD: usize = 4_096;

/// Room that the server's limit leaves for a job's own headers, and for those that dispatchers and workers add.
const HEADERS_MAX: usize = 16 * 1024;

/// Where a producer connects and who it is.
#[derive(Clone, Debug)]
pub struct ProducerConfig {
    /// The connection.
    pub link: LinkConfig,
    /// Who pays.
    pub tenant: Tenant,
    /// Where its replies go.
    pub mailbox: Mailbox,
    /// How long a submit may go without an acknowledgement.
    pub patience: Duration,
}

impl ProducerConfig {
    /// One server without authentication.
    pub fn new(url: &str, tenant: &str, mailbox: &str) -> Result<Self, TokenError> {
        Ok(Self {
            link: LinkConfig::to(url),
            tenant: tenant.parse()?,
            mailbox: mailbox.parse()?,
            patience: Duration::from_secs(30),
        })
    }
}

/// An accepted job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// Who it is.
    pub job: JobId,
    /// Where it lies in its stream.
    pub seq: u64,
    /// True when this id had been accepted before.
    pub duplicate: bool,
    /// When it is published to its dispatchers, if that is later; until then it lies in `DELAYED_<region>`.
    pub due: Option<Micros>,
}

/// Why a job was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SubmitError {
    /// The request is no job; nothing was sent.
    #[error("not a job: {0}")]
    Job(#[from] schemas::job::JobError),
    /// The body does not encode.
    #[error(transparent)]
    Codec(#[from] schemas::codec::CodecError),
    /// Its input is too large for a message and was not stored.
    #[error(transparent)]
    Payload(#[from] PayloadError),
    /// The server did not take it.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A connected producer.
pub struct Producer {
    client: Client,
    publisher: Publisher,
    tenant: Tenant,
    patience: Duration,
    mailbox: Mailbox,
    waiters: Waiters,
    asked: Asked,
    tasks: JoinSet<()>,
    shutdown: CancellationToken,
    server_version: String,
}

/// Why a producer could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// No subscription.
    #[error("cannot subscribe: {0}")]
    Subscribe(String),
}

impl Producer {
    /// Connects and begins to listen on the mailbox.
    pub async fn connect(config: ProducerConfig) -> Result<Self, StartError> {
        let link = Link::connect(&config.link, &format!("producer-{}", config.tenant)).await?;
        Self::on(link, config).await
    }

    /// The same on a connection that exists.
    pub async fn on(link: Link, config: ProducerConfig) -> Result<Self, StartError> {
        let patience = Patience { no_stream: Duration::from_secs(2), total: Some(config.patience) };
        let refuse = |e: &dyn std::error::Error| StartError::Subscribe(e.to_string());
        let (publisher, task) = publisher(&link, patience).await.map_err(|e| refuse(&e))?;
        let subject = subjects::result(&config.tenant, &config.mailbox);
        // Before the subscription: it may be denied at once.
        let denials = link.denials();
        let live = link.client.subscribe(subject.clone()).await.map_err(|e| refuse(&e))?;
        let server_version = link.server_version();
        let (shutdown, waiters, asked) = (CancellationToken::new(), Waiters::default(), Asked::default());
        let mut tasks = JoinSet::new();
        tasks.spawn(task.run(shutdown.clone()));
        let reconnects = link.reconnects.clone();
        let router = Router { live, subject, reconnects, denials, waiters: waiters.clone() };
        tasks.spawn(router.run(shutdown.clone()));
        let follower = Follower::new(
            link.client.clone(),
            (&config.tenant, &config.mailbox),
            link.reconnects.clone(),
            waiters.clone(),
            asked.clone(),
        );
        tasks.spawn(follower.run(shutdown.clone()));
        Ok(Self {
            client: link.client,
            publisher,
            tenant: config.tenant,
            patience: config.patience,
            mailbox: config.mailbox,
            waiters,
            asked,
            tasks,
            shutdown,
            server_version,
        })
    }

    /// The server's version.
    pub fn server_version(&self) -> &str {
        &self.server_version
    }

    /// The connection, for what this library does not offer.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Submits a job. When it returns, the job is accepted and will end in exactly one result. A job with a `run_at` in the
    /// future waits in the server until then, whoever restarts meanwhile.
    ///
    /// The body is checked here first, so that a mistake is an error and not a dead letter.
    pub async fn submit(&self, request: &JobRequest) -> Result<Ticket, SubmitError> {
        self.submit_for(&self.tenant, id_of(request)?, request).await
    }

    pub(crate) fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    pub(crate) fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    pub(crate) fn mailbox(&self) -> &Mailbox {
        &self.mailbox
    }

    pub(crate) fn waiters(&self) -> &Waiters {
        &self.waiters
    }

    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// How long a submit may go without an acknowledgement.
    pub(crate) fn patience(&self) -> Duration {
        self.patience
    }

    /// The same under another tenant's name, with an id that was made before.
    pub(crate) async fn submit_for(
        &self,
        tenant: &Tenant,
        id: JobId,
        request: &JobRequest,
    ) -> Result<Ticket, SubmitError> {
        let subject = JobSubject {
            region: request.region.clone(),
            model: request.model.clone(),
            lane: request.lane,
            tenant: tenant.clone(),
        };
        let mut body = request.body.clone();
        body.id = Some(id.to_string());
        body.mailbox.get_or_insert_with(|| self.mailbox.to_string());
        let mut bytes = request.codec.encode(&body)?;
        let name = subject.to_string();
        let seen = JobHeaders { traceparent: request.traceparent.as_deref(), ..JobHeaders::default() };
        let now = SystemClock.now();
        let due = body.run_at.map(Micros::from).filter(|at| *at > now);
        let check = |body| Job::check(subject.clone(), request.codec, seen, body, due.unwrap_or(now));
        let (large, mut apart) = (bytes.len() + HEADERS_MAX > self.client.max_payload(), None);
        if large {
            // What is no job leaves nothing behind.
            check(body.clone())?;
        }
        if large && let Some(input) = take_input(&mut body) {
            let input = payloads::put(&self.client, tenant, id, &input).await?;
            body.input_ref = Some(input.clone());
            bytes = request.codec.encode(&body)?;
            apart = Some(input);
        }
        // Only a trace context that is one by its shape goes out.
        let traceparent = check(body)?.head.traceparent;
        let headers = Headers::new()
            .with(headers::CONTENT_TYPE, request.codec.content_type())
            .with(headers::SCHEMA, headers::JOB_V1)
            .with_some(headers::TRACEPARENT, traceparent);
        let message_id = id.job_message(tenant);
        let (stream, published) = match due {
            None => {
                let headers = headers.with(headers::MESSAGE_ID, message_id);
                (jobs_stream(&subject.region), self.publisher.publish(name, headers, bytes.into()).await)
            }
            Some(at) => {
                let (publisher, target) = (&self.publisher, (id, &subject));
                let delayed = delayed::delay(publisher, target, at, message_id, headers, bytes.into());
                (delayed_stream(&subject.region), delayed.await)
            }
        };
        if let Some(input) = apart {
            moved::settle(&self.client, &stream, &input, &published).await;
        }
        let stored = published?;
        Ok(Ticket { job: id, seq: stored.seq, duplicate: stored.duplicate, due })
    }

    /// Every stored reply of the mailbox since `since`, then new ones as they come when `follow`. Bounded: a slow
    /// reader slows the reading and loses nothing.
    pub fn replies(
        &mut self,
        since: Option<Micros>,
        follow: bool,
    ) -> mpsc::Receiver<Result<Reply, MailboxError>> {
        let (raw, mut messages) = mpsc::channel(REPLIES_AHEAD);
        let (out, replies) = mpsc::channel(REPLIES_AHEAD);
        let (client, tenant, mailbox) = (self.client.clone(), self.tenant.clone(), self.mailbox.clone());
        let failed = out.clone();
        let reading = async move {
            let read =
                |kind| nats::stored_replies(&client, &tenant, &mailbox, kind, since, follow, raw.clone());
            let outcome = tokio::try_join!(read(Kind::Results), read(Kind::Costs));
            drop(raw);
            if let Err(error) = outcome {
                let _ = failed.send(Err(error)).await;
            }
        };
        let decoding = async move {
            while let Some(message) = messages.recv().await {
                if out.send(nats::read_reply(&message)).await.is_err() {
                    break;
                }
            }
        };
        let shutdown = self.shutdown.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                ((), ()) = async { tokio::join!(reading, decoding) } => {}
            }
        });
        replies
    }

    /// Ends the background tasks and the connection.
    pub async fn close(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
        if let Err(error) = self.client.flush().await {
            warn!(%error, "cannot flush the connection");
        }
    }
}

/// The id a request carries, or a new one.
pub(crate) fn id_of(request: &JobRequest) -> Result<JobId, SubmitError> {
    let Some(text) = &request.body.id else { return Ok(new_job_id()) };
    let id = text.parse().map_err(|e: schemas::ids::JobIdError| schemas::job::JobError::Field {
        field: "id",
        rule: e.to_string(),
    })?;
    Ok(id)
}

/// Takes the input out of a body.
fn take_input(body: &mut JobBody) -> Option<Input> {
    body.messages.take().map(Input::Messages).or_else(|| body.prompt.take().map(Input::Prompt))
}
