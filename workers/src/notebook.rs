//! What is written down while a provider works: the trail in the journal, and live output for whoever watches.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_nats::Client;
use futures_util::{FutureExt as _, future::BoxFuture};
use schemas::{failure::Failure, job::Job, live::LivePiece, prices::Used, subjects};
use tokio::{sync::SetOnce, time::Instant};

use crate::{
    attempt::{Attempt, course::Event},
    nats,
    provider::{Progress, UsedItem},
};

/// Pieces come no faster than this; what comes sooner travels with the next.
const PIECE_EVERY: Duration = Duration::from_millis(20);

/// A piece is sent once it is this long, however soon: far below any server's limit on a message.
const PIECE_MAX: usize = 16 * 1024;

/// Takes down what an attempt's provider reports.
pub(crate) struct Notebook<'a> {
    attempt: &'a Attempt,
    /// Why the run is to be stopped, once it is.
    stop: SetOnce<Failure>,
    live: Option<Live<'a>>,
    /// The slots of rented machines that the call took, one after the other, and when. Empty elsewhere.
    slots: Mutex<Vec<(UsedItem, Instant)>>,
}

impl<'a> Notebook<'a> {
    pub(crate) fn new(attempt: &'a Attempt, job: &'a Job) -> Self {
        let live = job.live.then(|| Live::new(&attempt.kit().client, attempt.number(), job));
        Self { attempt, stop: SetOnce::new(), live, slots: Mutex::default() }
    }

    /// Has the provider stop its run.
    pub(crate) fn stop_run(&self, why: Failure) {
        // The first reason stands.
        let _ = self.stop.set(why);
    }

    /// The time on the slots that the call took; the last is used until now.
    pub(crate) fn slots(&self) -> Vec<UsedItem> {
        let slots = self.slots.lock().unwrap_or_else(PoisonError::into_inner);
        let ends = slots.iter().skip(1).map(|(_, began)| *began).chain([Instant::now()]);
        let used = |((slot, began), end): (&(UsedItem, Instant), Instant)| UsedItem {
            used: Used::Time(end.saturating_duration_since(*began)),
            ..slot.clone()
        };
        slots.iter().zip(ends).map(used).collect()
    }

    /// Sends what is left of the live output.
    pub(crate) fn close(&self) {
        if let Some(live) = &self.live {
            live.flush();
        }
    }
}

impl Progress for Notebook<'_> {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.attempt.note(Event::Submitting))
    }

    fn started<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(self.attempt.note(Event::RunStarted(run.to_owned())))
    }

    fn placed(&self, slot: &UsedItem) {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner).push((slot.clone(), Instant::now()));
    }

    fn taken_back(&self) -> BoxFuture<'_, Failure> {
        Box::pin(async { self.stop.wait().await.clone() })
    }

    fn token(&self, text: &str) {
        if let Some(live) = &self.live {
            live.add(text);
        }
    }
}

/// Publishes output piece by piece. Never waits: what the connection does not take at once goes with the next piece.
struct Live<'a> {
    client: &'a Client,
    job: &'a Job,
    attempt: u16,
    subject: String,
    unsent: Mutex<Unsent>,
}

struct Unsent {
    at: u64,
    text: String,
    sent: Option<Instant>,
}

impl<'a> Live<'a> {
    fn new(client: &'a Client, attempt: u16, job: &'a Job) -> Self {
        let subject = subjects::live(&job.subject.tenant, &job.mailbox, job.id);
        let unsent = Mutex::new(Unsent { at: 0, text: String::new(), sent: None });
        Self { client, job, attempt, subject, unsent }
    }

    fn add(&self, text: &str) {
        let mut unsent = self.unsent.lock().unwrap_or_else(PoisonError::into_inner);
        unsent.text.push_str(text);
        let due = unsent.sent.is_none_or(|at| at.elapsed() >= PIECE_EVERY);
        if due || unsent.text.len() >= PIECE_MAX {
            self.send(&mut unsent);
        }
    }

    fn flush(&self) {
        self.send(&mut self.unsent.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn send(&self, unsent: &mut Unsent) {
        if unsent.text.is_empty() {
            return;
        }
        // An answer that came in one piece may be longer than a message; its end is in the result.
        let mut end = unsent.text.len().min(PIECE_MAX);
        while !unsent.text.is_char_boundary(end) {
            end -= 1;
        }
        let rest = unsent.text.split_off(end);
        let piece =
            LivePiece { attempt: self.attempt, at: unsent.at, text: std::mem::take(&mut unsent.text) };
        let (headers, body) = nats::live(self.job, &piece);
        let sent = self.client.publish_with_headers(self.subject.clone(), headers, body).now_or_never();
        if matches!(sent, Some(Ok(()))) {
            unsent.at += piece.text.len() as u64;
            unsent.sent = Some(Instant::now());
            unsent.text = rest;
        } else {
            unsent.text = piece.text + &rest;
        }
    }
}
