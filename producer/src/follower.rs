//! Hands stored results to those who wait for them: the sure way beside the live one, for what was published while nobody heard.
//!
//! ```text
//!  REPLIES, one mailbox:  ──── looked back at, when asked ────▶ position ──── followed ────▶ end
//! ```
//!
//! There is one position. What lies behind it was looked at and is not looked at again: each pass goes on from there, after a
//! reconnect and while somebody has waited for long. Only who asks about the past (a job that was submitted before) makes a pass over
//! what lies before it; all who ask meanwhile share one. A pass reads headers, and fetches only results that somebody waits for.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::{
    Client,
    jetstream::consumer::{DeliverPolicy, pull},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use schemas::{Mailbox, Micros, Tenant, subjects, topology::REPLIES};
use tokio::{
    sync::{Notify, watch},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use transport::api;

use crate::{
    nats::{self, Extent, MailboxError},
    router::route,
    waiters::Waiters,
};

/// Who waits for so long may have missed the live message.
const LOOK_AFTER: Duration = Duration::from_secs(5);
/// Clocks differ: how much further back than asked for is looked.
const MARGIN: Duration = Duration::from_secs(5);
/// Results fetched before the next headers are read: what a pass holds in memory at most.
const PAGE: usize = 1_000;
/// Headers read before the position moves on, some seconds' worth: a pass that is broken off there is not begun anew.
const PAGE_HEADERS: usize = 200_000;
/// Results fetched at a time.
const FETCHING: usize = 64;
/// A pass over millions of headers takes some seconds; one that takes longer hangs, and is begun again.
const PASS_MAX: Duration = Duration::from_secs(120);

/// A request to look at the past.
#[derive(Clone, Default)]
pub(crate) struct Asked {
    since: Arc<Mutex<Option<Micros>>>,
    bell: Arc<Notify>,
}

impl Asked {
    /// Asks for what was stored since then. Whoever asks must wait already.
    pub(crate) fn since(&self, at: Micros) {
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        *since = Some(since.map_or(at, |earlier| earlier.min(at)));
        drop(since);
        self.bell.notify_one();
    }

    fn take(&self) -> Option<Micros> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The task that follows the stored results.
pub(crate) struct Follower {
    client: Client,
    subject: String,
    reconnects: watch::Receiver<u64>,
    waiters: Waiters,
    asked: Asked,
    /// Which stream the position is of, and its last sequence that was looked at; nothing before the first look.
    position: Option<(Extent, u64)>,
}

impl Follower {
    pub(crate) fn new(
        client: Client,
        (tenant, mailbox): (&Tenant, &Mailbox),
        reconnects: watch::Receiver<u64>,
        waiters: Waiters,
        asked: Asked,
    ) -> Self {
        let subject = subjects::result(tenant, mailbox);
        Self { client, subject, reconnects, waiters, asked, position: None }
    }

    /// Runs until `shutdown`.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = interval(LOOK_AFTER);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.reconnects.mark_unchanged();
        // The first pass finds out where to go on from.
        let (mut due, mut back, mut well) = (true, None::<Micros>, true);
        loop {
            if due {
                let pass = timeout(PASS_MAX, self.pass(back));
                let outcome = tokio::select! {
                    () = shutdown.cancelled() => return,
                    outcome = pass => outcome,
                };
                let outcome = outcome.unwrap_or(Err(MailboxError::Slow));
                match &outcome {
                    Ok(()) => back = None,
                    // A user without the permission would hear of it every few seconds.
                    Err(error) if well => warn!(%error, "cannot look up stored results, trying again"),
                    Err(error) => debug!(%error, "cannot look up stored results, trying again"),
                }
                well = outcome.is_ok();
            }
            due = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Ok(()) = self.reconnects.changed() => !self.waiters.is_empty(),
                () = self.asked.bell.notified() => true,
                _ = tick.tick() => back.is_some() || self.waiters.any_older_than(LOOK_AFTER),
            };
            if let Some(since) = self.asked.take() {
                back = Some(back.map_or(since, |earlier| earlier.min(since)));
            }
        }
    }

    /// Goes on from the position to the end, and looks back as far as is asked.
    async fn pass(&mut self, back: Option<Micros>) -> Result<(), MailboxError> {
        let Some(now) = nats::extent(&self.client).await? else {
            // There is no stream yet, and so nothing in it.
            self.position = Some((Extent::default(), 0));
            return Ok(());
        };
        let end = match &self.position {
            // The first look: whoever waits hears what comes from now on.
            None => now.last_seq,
            Some((then, seq)) => self.follow(now, if now.goes_on(then) { *seq } else { 0 }).await?,
        };
        self.position = Some((now, end));
        match back {
            Some(since) => self.look_back(since, end).await,
            None => Ok(()),
        }
    }

    /// Goes on behind sequence `after`, to the end; gives that.
    async fn follow(&mut self, now: Extent, mut after: u64) -> Result<u64, MailboxError> {
        loop {
            self.position = Some((now, after));
            if self.waiters.is_empty() {
                // Whoever comes later waits for what is stored later.
                return Ok(after.max(now.last_seq));
            }
            let from = DeliverPolicy::ByStartSequence { start_sequence: after + 1 };
            match self.page(from, u64::MAX).await? {
                Some(next) => after = next,
                None => return Ok(after),
            }
        }
    }

    /// Looks at what was stored since then, up to sequence `end`.
    async fn look_back(&self, since: Micros, end: u64) -> Result<(), MailboxError> {
        let mut from = nats::start(Some(since - MARGIN))?;
        while let Some(next) = self.page(from, end).await?.filter(|next| *next < end) {
            from = DeliverPolicy::ByStartSequence { start_sequence: next + 1 };
        }
        Ok(())
    }

    /// Looks at stored results from a start on, up to sequence `end`, and serves those who wait. Gives the last sequence looked at;
    /// nothing when there is none. An error leaves some results unserved: the same page must be looked at again.
    async fn page(&self, deliver_policy: DeliverPolicy, end: u64) -> Result<Option<u64>, MailboxError> {
        let config = pull::OrderedConfig {
            filter_subject: self.subject.clone(),
            deliver_policy,
            headers_only: true,
            ..pull::OrderedConfig::default()
        };
        let (mut wanted, mut last, mut looked_at) = (Vec::new(), None, 0);
        nats::read_stored(&self.client, REPLIES, config, |message| {
            let seq = message.info().map_or(0, |info| info.stream_sequence);
            (last, looked_at) = (Some(seq), looked_at + 1);
            if nats::result_of(message).is_some_and(|(job, _)| self.waiters.want(job)) {
                wanted.push(seq);
            }
            wanted.len() < PAGE && looked_at < PAGE_HEADERS && seq < end
        })
        .await?;
        let fetched = stream::iter(wanted).map(|seq| self.serve(seq)).buffer_unordered(FETCHING);
        fetched.try_collect::<()>().await?;
        Ok(last)
    }

    async fn serve(&self, seq: u64) -> Result<(), MailboxError> {
        let message = api::at(&self.client, REPLIES, seq).await.map_err(nats::stream_error)?;
        // A replica may be behind; the next pass asks again.
        let message = message.ok_or_else(|| MailboxError::Behind { seq })?;
        route(&self.waiters, &message);
        Ok(())
    }
}
