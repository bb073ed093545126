//! Stores messages in streams with many on the way at once.
//!
//! One subscription receives every PubAck; a message that is not acknowledged in time is sent again with the same
//! id, and all of them after a reconnect, so that the caller hears "stored" or a reason, and never "perhaps" unless
//! it set a limit. Messages without a `Nats-Msg-Id` may be stored twice that way; only idempotent values do without.

mod answer;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, HeaderName, Message, Subject, Subscriber};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt};
use tokio::{
    sync::{Semaphore, broadcast, oneshot, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, warn};

use self::answer::Answer;
pub use self::answer::{HEADERS_MAX, PublishError, Stored};
use crate::{denied::Denied, link::Link};

/// Messages on the way. A larger window starves consumers on the same server: 25,000 outstanding left a consumer
/// at a twentieth of its rate; about a thousand is enough to keep the server busy. Beyond it a caller waits.
pub const WINDOW: usize = 1_024;

/// A message not acknowledged for so long is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// After "the same id is in process" or "too many requests".
const RETRY_SOON: Duration = Duration::from_millis(20);
const TICK: Duration = Duration::from_millis(20);

/// Headers as they are kept for sending again: a handful of pairs is cheaper to copy than a map.
#[derive(Clone, Debug, Default)]
pub struct Headers(Vec<(&'static str, String)>);

impl Headers {
    /// None.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one; a second of the same name replaces the first when it is sent.
    #[must_use]
    pub fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.0.push((name, value.into()));
        self
    }

    /// The same, if there is a value.
    #[must_use]
    pub fn with_some(self, name: &'static str, value: Option<impl Into<String>>) -> Self {
        match value {
            Some(value) => self.with(name, value),
            None => self,
        }
    }

    /// How many bytes they take on the wire; the server counts them like the body.
    pub fn wire_len(&self) -> usize {
        match self.0.as_slice() {
            [] => 0,
            pairs => {
                let pair = |(name, value): &(&str, String)| name.len() + value.len() + ": \r\n".len();
                "NATS/1.0\r\n\r\n".len() + pairs.iter().map(pair).sum::<usize>()
            }
        }
    }

    fn map(&self) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in &self.0 {
            map.insert(HeaderName::from_static(name), value.as_str());
        }
        map
    }
}

/// How long to insist.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// How long "no stream takes it" may be a leader election. After that it is an unknown subject.
    pub no_stream: Duration,
    /// How long to go without an acknowledgement; `None` insists for ever, also where the server permits no publish: an operator
    /// may put that right.
    pub total: Option<Duration>,
}

impl Patience {
    /// For those who must store it: results, costs, journals.
    pub const FOREVER: Self = Self { no_stream: Duration::MAX, total: None };
}

struct Pending {
    subject: Subject,
    headers: Headers,
    payload: Bytes,
    patience: Patience,
    first: Instant,
    send_again: Instant,
    done: oneshot::Sender<Result<Stored, PublishError>>,
}

struct Shared {
    client: Client,
    inbox: String,
    next: AtomicU64,
    window: Semaphore,
    pending: Mutex<HashMap<u64, Pending, rustc_hash::FxBuildHasher>>,
    /// Why no acknowledgement can be heard on this connection.
    deaf: Mutex<Option<Denied>>,
}

/// A handle to publish with; cheap to clone.
#[derive(Clone)]
pub struct Publisher {
    shared: Arc<Shared>,
    patience: Patience,
}

impl std::fmt::Debug for Publisher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Publisher").field("inbox", &self.shared.inbox).finish_non_exhaustive()
    }
}

/// The task behind a [`Publisher`]: reads acknowledgements, sends again. Spawn [`PublisherTask::run`].
pub struct PublisherTask {
    shared: Arc<Shared>,
    acks: Subscriber,
    reconnects: watch::Receiver<u64>,
    denials: broadcast::Receiver<Denied>,
}

/// Makes a publisher on `link` and the task that must run for it.
pub async fn publisher(link: &Link, patience: Patience) -> Result<(Publisher, PublisherTask), PublishError> {
    // Before the subscription: it may be denied at once.
    let denials = link.denials();
    let inbox = link.client.new_inbox();
    let acks = link
        .client
        .subscribe(format!("{inbox}.*"))
        .await
        .map_err(|e| PublishError::Client { subject: inbox.clone(), reason: e.to_string() })?;
    let shared = Arc::new(Shared {
        client: link.client.clone(),
        inbox,
        next: AtomicU64::new(0),
        window: Semaphore::new(WINDOW),
        pending: Mutex::default(),
        deaf: Mutex::default(),
    });
    let task = PublisherTask { shared: shared.clone(), acks, reconnects: link.reconnects.clone(), denials };
    Ok((Publisher { shared, patience }, task))
}

impl Publisher {
    /// The same publisher for a caller that insists less, or more.
    #[must_use]
    pub fn with_patience(&self, patience: Patience) -> Self {
        Self { shared: self.shared.clone(), patience }
    }

    /// Stores one message. Waits while [`WINDOW`] others are on the way.
    ///
    /// Cancel-safe in the sense that a dropped call may or may not have stored its message.
    pub async fn publish(
        &self,
        subject: String,
        headers: Headers,
        payload: Bytes,
    ) -> Result<Stored, PublishError> {
        let shared = &*self.shared;
        let head = headers.wire_len();
        let bytes = head + payload.len();
        if bytes > shared.client.max_payload() || head > HEADERS_MAX {
            return Err(PublishError::TooLarge { subject, bytes, headers: head });
        }
        // A caller with a limit would rather know than wait.
        if let Some(denied) = self.patience.total.and_then(|_| shared.deaf()) {
            return Err(PublishError::NotPermitted(denied));
        }
        let subject = Subject::from(subject);
        let _permit = shared.window.acquire().await.map_err(|_| closed(&subject))?;
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let map = headers.map();
        let answer = shared.expect(number, subject.clone(), headers, payload.clone(), self.patience);
        if let Err(error) = shared.send(number, subject.clone(), map, payload).await {
            shared.lock().remove(&number);
            return Err(error);
        }
        answer.await.unwrap_or_else(|_| Err(closed(&subject)))
    }
}

fn closed(subject: &str) -> PublishError {
    PublishError::Client { subject: subject.to_owned(), reason: "the publisher has stopped".into() }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Pending, rustc_hash::FxBuildHasher>> {
        // A panic while holding it leaves the map whole: every change is one call.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why nobody would hear an acknowledgement.
    fn deaf(&self) -> Option<Denied> {
        self.deaf.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_deaf(&self, why: Option<Denied>) {
        *self.deaf.lock().unwrap_or_else(PoisonError::into_inner) = why;
    }

    /// Keeps a message until it is acknowledged.
    fn expect(
        &self,
        number: u64,
        subject: Subject,
        headers: Headers,
        payload: Bytes,
        patience: Patience,
    ) -> oneshot::Receiver<Result<Stored, PublishError>> {
        let (done, answer) = oneshot::channel();
        let first = Instant::now();
        let send_again = first + RESEND_AFTER;
        let pending = Pending { subject, headers, payload, patience, first, send_again, done };
        self.lock().insert(number, pending);
        answer
    }

    async fn send(
        &self,
        number: u64,
        subject: Subject,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let reply = format!("{}.{number}", self.inbox);
        let sent = if headers.is_empty() {
            self.client.publish_with_reply(subject.clone(), reply, payload).await
        } else {
            self.client.publish_with_reply_and_headers(subject.clone(), reply, headers, payload).await
        };
        sent.map_err(|e| PublishError::Client { subject: subject.to_string(), reason: e.to_string() })
    }
}

impl PublisherTask {
    /// Runs until `shutdown`, which must come after everything that publishes has ended.
    pub async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.reconnects.mark_unchanged();
        loop {
            tokio::select! {
                biased;
                ack = self.acks.next() => match ack {
                    Some(ack) => self.settle_ready(&ack),
                    None => break,
                },
                Ok(denied) = self.denials.recv() => self.deny(&denied),
                Ok(()) = self.reconnects.changed() => {
                    // The server looks at every subscription anew.
                    self.shared.set_deaf(None);
                    // What was written just before the break is lost without a word.
                    self.send_due(Instant::now() + RESEND_AFTER).await;
                }
                _ = tick.tick() => self.send_due(Instant::now()).await,
                () = shutdown.cancelled() => break,
            }
        }
        self.shared.window.close();
        // Dropping the senders tells every caller that nobody will answer.
        self.shared.lock().clear();
    }

    /// Settles `first` and every acknowledgement that is already there.
    fn settle_ready(&mut self, first: &Message) {
        self.settle(first);
        while let Some(Some(ack)) = self.acks.next().now_or_never() {
            self.settle(&ack);
        }
    }

    fn settle(&self, ack: &Message) {
        let number = ack.subject.as_str().rsplit('.').next().and_then(|n| n.parse::<u64>().ok());
        let Some(number) = number else { return };
        let mut pending = self.shared.lock();
        let Some(entry) = pending.get_mut(&number) else {
            return;
        };
        let outcome = match answer::read(&entry.subject, ack) {
            Answer::Settled(outcome) => outcome,
            Answer::Busy => {
                entry.send_again = Instant::now() + RETRY_SOON;
                return;
            }
            Answer::NoStream if entry.first.elapsed() < entry.patience.no_stream => {
                entry.send_again = Instant::now() + RETRY_SOON * 5;
                return;
            }
            Answer::TooLarge => Err(PublishError::TooLarge {
                subject: entry.subject.to_string(),
                bytes: entry.headers.wire_len() + entry.payload.len(),
                headers: entry.headers.wire_len(),
            }),
            Answer::NoStream => Err(PublishError::NoStream(entry.subject.to_string())),
        };
        if let Some(entry) = pending.remove(&number) {
            drop(pending);
            // The caller may have given up; the message is settled all the same.
            let _ = entry.done.send(outcome);
        }
    }

    /// Tells every caller whose message the server does not permit, or whose acknowledgement.
    fn deny(&self, denied: &Denied) {
        let meant = |pending: &Pending| match denied {
            Denied::Publish { subject } => pending.subject.as_str() == subject,
            Denied::Subscribe { .. } => true,
        };
        if let Denied::Subscribe { subject } = denied {
            if subject.strip_suffix(".*") != Some(&self.shared.inbox) {
                // Of a subscription of others the link says so.
                return;
            }
            self.shared.set_deaf(Some(denied.clone()));
        }
        let mut pending = self.shared.lock();
        let meant: Vec<(u64, bool)> =
            pending.iter().filter(|(_, p)| meant(p)).map(|(n, p)| (*n, p.patience.total.is_some())).collect();
        // Whoever insists for ever goes on, since an operator may put it right; and somebody else may have asked.
        if !meant.iter().any(|(_, limited)| *limited) {
            error!(waiting = meant.len(), "NATS does not permit this user to {denied}");
        }
        for (number, _) in meant.into_iter().filter(|(_, limited)| *limited) {
            if let Some(entry) = pending.remove(&number) {
                let _ = entry.done.send(Err(PublishError::NotPermitted(denied.clone())));
            }
        }
    }

    /// Sends again what is due at `at`, and gives up on what is past the caller's patience.
    async fn send_due(&self, at: Instant) {
        let mut again = Vec::new();
        {
            let mut pending = self.shared.lock();
            // A caller that went away wants nothing to be insisted on.
            pending.retain(|_, p| !p.done.is_closed());
            let lost: Vec<u64> = pending
                .iter()
                .filter(|(_, p)| p.patience.total.is_some_and(|total| p.first.elapsed() >= total))
                .map(|(n, _)| *n)
                .collect();
            for number in lost {
                if let Some(entry) = pending.remove(&number) {
                    let _ = entry.done.send(Err(PublishError::Unknown(entry.subject.to_string())));
                }
            }
            for (number, entry) in pending.iter_mut().filter(|(_, p)| p.send_again <= at) {
                entry.send_again = Instant::now() + RESEND_AFTER;
                again.push((*number, entry.subject.clone(), entry.headers.clone(), entry.payload.clone()));
            }
        }
        if again.is_empty() {
            return;
        }
        debug!(count = again.len(), "sending unacknowledged messages again");
        for (number, subject, headers, payload) in again {
            if let Err(error) = self.shared.send(number, subject, headers.map(), payload).await {
                warn!(%error, "cannot send again");
            }
        }
    }
}
