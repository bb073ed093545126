//! Finishes leases, and makes sure of it.
//!
//! An ack is a plain message and can vanish without an error: the connection breaks, or the consumer's leader
//! changes. So every ack stays in a ring until a request on the same consumer was answered after it, and a while
//! longer, since the news of a new leader may come after its first answer. A reconnect, a `LEADER_ELECTED` advisory
//! or a request nobody answers sends the whole ring again; acking twice is harmless.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use async_nats::{Client, Subscriber};
use bytes::Bytes;
use futures_util::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use schemas::lease::Lease;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::link::Link;

const ACK: Bytes = Bytes::from_static(b"+ACK");

/// How often the newest ack of a consumer is confirmed.
const CONFIRM_EVERY: Duration = Duration::from_millis(100);
/// How long a confirmed ack is kept, for a leader change that we hear of late: a server without CPU has been seen to
/// tell of it more than two seconds after its first answer. At 30,000 jobs a second that is 150,000 entries.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two sendings of a ring whose consumer has no leader.
const SEND_AGAIN: Duration = Duration::from_millis(250);
/// Leases waiting to be acked; beyond it the caller waits. One batch of a busy worker is some hundreds.
const INBOX: usize = 8_192;
/// Acks waiting per consumer while it has no leader; 100 bytes each. Beyond it the oldest is dropped: its job is
/// delivered again, found to have a result, and acked then.
const RING_MAX: usize = 200_000;

/// A handle to finish leases with; cheap to clone.
#[derive(Clone, Debug)]
pub struct Acks {
    inbox: mpsc::Sender<Lease>,
}

impl Acks {
    /// Finishes a lease. The caller has stored the result before; the ack itself is ours from here on.
    pub async fn ack(&self, lease: Lease) {
        if self.inbox.send(lease).await.is_err() {
            // Only after shutdown: the job comes back, its result is found, and it is acked then.
            debug!("ack after shutdown");
        }
    }
}

/// The task behind [`Acks`].
pub struct AckTask {
    client: Client,
    reconnects: watch::Receiver<u64>,
    inbox: mpsc::Receiver<Lease>,
    elections: Subscriber,
    rings: HashMap<(String, String), Ring>,
    confirms: FuturesUnordered<BoxFuture<'static, Confirm>>,
}

struct Ring {
    entries: VecDeque<Entry>,
    /// How many were ever dropped from the front: entry `i` has number `base + i`.
    base: u64,
    /// Everything below this number was confirmed, at the time that stands in the entry.
    confirmed: u64,
    /// Rises whenever what was sent before may be lost.
    epoch: u64,
    confirming: bool,
    send_again: Option<Instant>,
}

struct Entry {
    subject: String,
    confirmed_at: Option<Instant>,
}

struct Confirm {
    key: (String, String),
    epoch: u64,
    /// All entries below this number had been sent when we asked.
    below: u64,
    answered: bool,
}

/// Makes the ack task for the leases of `streams`.
pub async fn acks(link: &Link) -> Result<(Acks, AckTask), async_nats::SubscribeError> {
    // All streams: a pool may hold leases of any region.
    let elections = link.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED.*.*").await?;
    let (tell, inbox) = mpsc::channel(INBOX);
    let task = AckTask {
        client: link.client.clone(),
        reconnects: link.reconnects.clone(),
        inbox,
        elections,
        rings: HashMap::new(),
        confirms: FuturesUnordered::new(),
    };
    Ok((Acks { inbox: tell }, task))
}

impl AckTask {
    /// Runs until `shutdown`, then until every ack is confirmed, at most `grace`.
    pub async fn run(mut self, shutdown: CancellationToken, grace: Duration) {
        let mut tick = interval(CONFIRM_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.reconnects.mark_unchanged();
        let mut batch = Vec::with_capacity(512);
        let mut give_up: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled(), if give_up.is_none() => {
                    self.inbox.close();
                    give_up = Some(Instant::now() + grace);
                }
                Some(confirm) = self.confirms.next() => self.confirmed(&confirm),
                Some(advisory) = self.elections.next() => self.elected(advisory.subject.as_str()).await,
                Ok(()) = self.reconnects.changed() => self.all_again().await,
                count = self.inbox.recv_many(&mut batch, 512), if !self.inbox.is_closed() || !self.inbox.is_empty() => {
                    if count == 0 && give_up.is_none() {
                        // Every handle is gone: the same as a shutdown.
                        give_up = Some(Instant::now() + grace);
                    }
                    for lease in batch.drain(..) {
                        self.send(&lease).await;
                    }
                }
                _ = tick.tick() => {
                    self.tick().await;
                    let done = self.inbox.is_empty() && self.rings.values().all(Ring::all_confirmed);
                    if give_up.is_some_and(|at| done || Instant::now() >= at) {
                        break;
                    }
                }
            }
        }
        let left: usize = self.rings.values().map(Ring::unconfirmed).sum();
        if left > 0 {
            warn!(
                left,
                "stopped with unconfirmed acks; those jobs may be delivered once more and are then found done"
            );
        }
    }

    async fn send(&mut self, lease: &Lease) {
        let key = (lease.stream().to_owned(), lease.consumer().to_owned());
        let ring = self.rings.entry(key).or_insert_with(Ring::new);
        if ring.entries.len() >= RING_MAX {
            warn!(consumer = lease.consumer(), "ack ring is full, dropping the oldest");
            ring.drop_front(1);
        }
        ring.entries.push_back(Entry { subject: lease.subject().to_owned(), confirmed_at: None });
        publish(&self.client, lease.subject()).await;
    }

    /// Something may have been lost on this consumer: send all of its ring again.
    async fn elected(&mut self, subject: &str) {
        let mut parts = subject.rsplit('.');
        let (Some(consumer), Some(stream)) = (parts.next(), parts.next()) else {
            return;
        };
        if let Some(ring) = self.rings.get_mut(&(stream.to_owned(), consumer.to_owned())) {
            warn!(
                stream,
                consumer,
                acks = ring.entries.len(),
                "consumer has a new leader, sending acks again"
            );
            ring.again(&self.client).await;
        }
    }

    async fn all_again(&mut self) {
        for ring in self.rings.values_mut() {
            ring.again(&self.client).await;
        }
    }

    fn confirmed(&mut self, confirm: &Confirm) {
        let Some(ring) = self.rings.get_mut(&confirm.key) else {
            return;
        };
        ring.confirming = false;
        if confirm.epoch != ring.epoch {
            return;
        }
        if confirm.answered {
            ring.confirm(confirm.below);
        } else {
            // No leader, no consumer, or no connection: what we sent is lost.
            ring.send_again = Some(Instant::now() + SEND_AGAIN);
        }
    }

    async fn tick(&mut self) {
        let now = Instant::now();
        for (key, ring) in &mut self.rings {
            if ring.send_again.is_some_and(|at| at <= now) {
                ring.again(&self.client).await;
            }
            ring.forget(now);
            if ring.confirming || ring.all_confirmed() || ring.send_again.is_some() {
                continue;
            }
            let Some(newest) = ring.entries.back() else {
                continue;
            };
            ring.confirming = true;
            let (client, subject) = (self.client.clone(), newest.subject.clone());
            let (key, epoch, below) = (key.clone(), ring.epoch, ring.base + ring.entries.len() as u64);
            self.confirms.push(Box::pin(async move {
                let request = async_nats::Request::new().payload(ACK).timeout(Some(Duration::from_secs(5)));
                let answered = client.send_request(subject, request).await.is_ok();
                Confirm { key, epoch, below, answered }
            }));
        }
        let unconfirmed: usize = self.rings.values().map(Ring::unconfirmed).sum();
        metrics::gauge!("transport_acks_unconfirmed").set(unconfirmed as f64);
    }
}

async fn publish(client: &Client, subject: &str) {
    if let Err(error) = client.publish(subject.to_owned(), ACK).await {
        // It stays in the ring; the confirm fails too and sends it again.
        debug!(%error, "ack not sent");
    }
}

impl Ring {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            base: 0,
            confirmed: 0,
            epoch: 0,
            confirming: false,
            send_again: None,
        }
    }

    fn all_confirmed(&self) -> bool {
        self.confirmed >= self.base + self.entries.len() as u64
    }

    fn unconfirmed(&self) -> usize {
        let end = self.base + self.entries.len() as u64;
        usize::try_from(end - self.confirmed.max(self.base)).unwrap_or(usize::MAX)
    }

    fn confirm(&mut self, below: u64) {
        let from = usize::try_from(self.confirmed.saturating_sub(self.base)).unwrap_or(0);
        let to = usize::try_from(below.saturating_sub(self.base)).unwrap_or(0).min(self.entries.len());
        for entry in self.entries.range_mut(from.min(to)..to) {
            entry.confirmed_at = Some(Instant::now());
        }
        self.confirmed = self.confirmed.max(below);
    }

    /// Drops what was confirmed long enough ago.
    fn forget(&mut self, now: Instant) {
        let old = |e: &Entry| e.confirmed_at.is_some_and(|at| now.duration_since(at) >= SETTLE);
        let count = self.entries.iter().take_while(|e| old(e)).count();
        self.drop_front(count);
    }

    fn drop_front(&mut self, count: usize) {
        self.entries.drain(..count);
        self.base += count as u64;
        self.confirmed = self.confirmed.max(self.base);
    }

    /// Begins a new epoch and sends everything again.
    async fn again(&mut self, client: &Client) {
        self.epoch += 1;
        self.confirming = false;
        self.send_again = None;
        self.confirmed = self.base;
        for entry in &mut self.entries {
            entry.confirmed_at = None;
            publish(client, &entry.subject).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ring(count: usize) -> Ring {
        let mut ring = Ring::new();
        ring.entries = (0..count).map(|i| Entry { subject: i.to_string(), confirmed_at: None }).collect();
        ring
    }

    #[test]
    fn a_confirmation_covers_only_what_was_sent_before_it() {
        let mut ring = ring(3);
        ring.confirm(2);
        assert_eq!((ring.unconfirmed(), ring.all_confirmed()), (1, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_confirmed_ack_is_kept_for_a_late_election_and_then_forgotten() {
        let mut ring = ring(2);
        ring.confirm(2);
        ring.forget(Instant::now());
        assert_eq!(ring.entries.len(), 2);
        tokio::time::advance(SETTLE).await;
        ring.forget(Instant::now());
        assert_eq!((ring.entries.len(), ring.base, ring.all_confirmed()), (0, 2, true));
    }
}
