//! A durable pull consumer with explicit acks: what is delivered, to which pull, and when it comes again.
//!
//! Acks name a message and not a delivery, so they are not fenced: an ack of an old delivery finishes the job of whoever holds
//! the newest. The state is written to disk at most ten times a second; a single server that is killed forgets what came after.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use schemas::Micros;

use crate::{
    stream::Stream,
    wire::{Ack, PullEnd, matches},
};

/// How often the state is written, at most.
pub(crate) const FLUSH_EVERY: Duration = Duration::from_millis(100);

/// How a consumer is set.
#[derive(Clone, Debug)]
pub(crate) struct ConsumerConfig {
    /// Its stream.
    pub(crate) stream: Rc<str>,
    /// Its name.
    pub(crate) name: Rc<str>,
    /// What it reads.
    pub(crate) filter: Rc<str>,
    /// How long a delivery lasts without a word.
    pub(crate) ack_wait: Duration,
    /// Messages that may be out at a time.
    pub(crate) max_ack_pending: usize,
}

/// A consumer.
#[derive(Debug)]
pub(crate) struct Consumer {
    config: ConsumerConfig,
    state: State,
    written: State,
    written_at: Micros,
    changed: bool,
    pulls: VecDeque<Pull>,
}

#[derive(Clone, Debug, Default)]
struct State {
    /// The highest sequence that was looked at.
    seen: u64,
    /// Deliveries so far.
    deliveries: u64,
    /// Delivered and not acked.
    out: BTreeMap<u64, Out>,
}

#[derive(Clone, Copy, Debug)]
struct Out {
    /// How often it was delivered.
    count: u64,
    /// The number of its newest delivery.
    delivery: u64,
    /// When it comes again.
    due: Micros,
}

/// A request for messages.
#[derive(Clone, Debug)]
pub(crate) struct Pull {
    /// Where they go.
    pub(crate) reply: Rc<str>,
    /// How many more.
    pub(crate) left: u32,
    /// Until when.
    pub(crate) until: Micros,
}

/// What a consumer sends.
#[derive(Clone, Debug)]
pub(crate) enum Sent {
    /// A message and its lease.
    Delivery {
        /// Where to.
        reply: Rc<str>,
        /// Which message.
        seq: u64,
        /// The ack subject.
        lease: Rc<str>,
    },
    /// The end of a pull.
    End {
        /// Where to.
        reply: Rc<str>,
        /// Why.
        why: PullEnd,
    },
}

impl Consumer {
    /// A consumer that has delivered nothing.
    pub(crate) fn new(config: ConsumerConfig) -> Self {
        let (state, written) = (State::default(), State::default());
        Self { config, state, written, written_at: Micros::default(), changed: false, pulls: VecDeque::new() }
    }

    /// Its stream.
    pub(crate) fn stream(&self) -> &Rc<str> {
        &self.config.stream
    }

    /// Its name.
    pub(crate) fn name(&self) -> &Rc<str> {
        &self.config.name
    }

    /// Messages that are delivered and not acked.
    pub(crate) fn out(&self) -> impl Iterator<Item = u64> {
        self.state.out.keys().copied()
    }

    /// The number of the newest delivery of a message that is not acked.
    pub(crate) fn newest_delivery(&self, seq: u64) -> Option<u64> {
        self.state.out.get(&seq).map(|out| out.delivery)
    }

    /// Whether a message was delivered and acked.
    #[cfg(test)]
    pub(crate) fn is_done(&self, seq: u64) -> bool {
        seq <= self.state.seen && !self.state.out.contains_key(&seq)
    }

    /// A pull begins.
    pub(crate) fn pull(&mut self, pull: Pull) {
        self.pulls.push_back(pull);
    }

    /// A word on a delivery.
    pub(crate) fn ack(&mut self, seq: u64, ack: Ack, now: Micros) {
        self.write(now);
        let Some(out) = self.state.out.get_mut(&seq) else { return };
        match ack {
            Ack::Done => drop(self.state.out.remove(&seq)),
            Ack::Nak(after) => out.due = now + after,
            Ack::Progress => out.due = now + self.config.ack_wait,
        }
        self.changed = true;
    }

    /// Serves the pulls that wait. `heard` says whether anybody listens on a subject; a pull of somebody who left is dropped.
    pub(crate) fn serve(&mut self, stream: &Stream, heard: impl Fn(&str) -> bool, now: Micros) -> Vec<Sent> {
        self.write(now);
        let mut sent = Vec::new();
        self.pulls.retain(|pull| {
            let over = pull.until <= now;
            if over {
                sent.push(Sent::End { reply: pull.reply.clone(), why: PullEnd::Expired });
            }
            !over
        });
        while let Some(mut pull) = self.pulls.pop_front() {
            if !heard(&pull.reply) {
                continue;
            }
            let Some(seq) = self.next(stream, now) else {
                self.pulls.push_front(pull);
                break;
            };
            sent.push(self.deliver(seq, stream, &pull.reply, now));
            pull.left -= 1;
            if pull.left > 0 {
                self.pulls.push_back(pull);
            }
        }
        sent
    }

    /// The next message to deliver: one that comes again, before one that is new.
    fn next(&mut self, stream: &Stream, now: Micros) -> Option<u64> {
        let due = self.state.out.iter().filter(|(_, out)| out.due <= now);
        if let Some((seq, _)) = due.min_by_key(|(seq, out)| (out.due, **seq)) {
            return Some(*seq);
        }
        if self.state.out.len() >= self.config.max_ack_pending {
            return None;
        }
        loop {
            let stored = stream.at(self.state.seen + 1)?;
            self.state.seen += 1;
            self.changed = true;
            if matches(&self.config.filter, &stored.message.subject) {
                return Some(stored.seq);
            }
        }
    }

    fn deliver(&mut self, seq: u64, stream: &Stream, reply: &Rc<str>, now: Micros) -> Sent {
        self.changed = true;
        self.state.deliveries += 1;
        let (delivery, due) = (self.state.deliveries, now + self.config.ack_wait);
        let out = self.state.out.entry(seq).or_insert(Out { count: 0, delivery, due });
        *out = Out { count: out.count + 1, delivery, due };
        let count = out.count;
        let (name, consumer) = (&self.config.stream, &self.config.name);
        let stored = stream.at(seq).map_or(0, |stored| stored.at.get());
        let waiting = self.waiting(stream);
        let lease = format!("$JS.ACK.{name}.{consumer}.{count}.{seq}.{delivery}.{stored}000.{waiting}");
        Sent::Delivery { reply: reply.clone(), seq, lease: lease.into() }
    }

    /// Messages that were never delivered.
    fn waiting(&self, stream: &Stream) -> usize {
        let from = usize::try_from(self.state.seen).unwrap_or(usize::MAX).min(stream.messages().len());
        let ours = |subject: &str| matches(&self.config.filter, subject);
        stream.messages()[from..].iter().filter(|stored| ours(&stored.message.subject)).count()
    }

    /// When it has something to do by itself.
    pub(crate) fn wake_at(&self) -> Option<Micros> {
        if self.pulls.is_empty() {
            return None;
        }
        let due = self.state.out.values().map(|out| out.due);
        due.chain(self.pulls.iter().map(|pull| pull.until)).min()
    }

    /// Drops the pulls that wait, as a new leader does. `tell` says whether those who wait hear of it.
    pub(crate) fn drop_pulls(&mut self, tell: bool) -> Vec<Sent> {
        let pulls = std::mem::take(&mut self.pulls);
        let end = |pull: Pull| Sent::End { reply: pull.reply, why: PullEnd::Refused };
        if tell { pulls.into_iter().map(end).collect() } else { Vec::new() }
    }

    /// The server is killed and forgets what it did not write.
    pub(crate) fn forget(&mut self, now: Micros) {
        self.write(now);
        self.state = self.written.clone();
        self.changed = false;
        self.pulls.clear();
    }

    /// The stream was rolled back: the consumer cannot have seen more than it holds.
    pub(crate) fn roll_back(&mut self, last: u64) {
        for state in [&mut self.state, &mut self.written] {
            state.seen = state.seen.min(last);
            state.out.retain(|seq, _| *seq <= last);
        }
    }

    /// Does the writing that was due before `now`: at once where nothing was written for a while, else after a pause.
    fn write(&mut self, now: Micros) {
        if self.changed && now.since(self.written_at) >= FLUSH_EVERY {
            self.written = self.state.clone();
            self.written_at = now;
            self.changed = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        stream::StreamConfig,
        wire::{Body, Message},
    };
    use schemas::lease::Lease;

    const WAIT: Duration = Duration::from_secs(10);

    fn world(jobs: u64, most: usize) -> (Stream, Consumer) {
        let window = Duration::from_secs(120);
        let config =
            StreamConfig { name: "S".into(), subjects: vec!["a.>".into()], window, max_bytes: 1 << 20 };
        let mut stream = Stream::new(config);
        for _ in 0..jobs {
            stream.store(Message::new("a.x", Body::Plain), false, at(0)).expect("it fits");
        }
        let config = ConsumerConfig {
            stream: "S".into(),
            name: "c".into(),
            filter: "a.x".into(),
            ack_wait: WAIT,
            max_ack_pending: most,
        };
        (stream, Consumer::new(config))
    }

    fn at(millis: u64) -> Micros {
        Micros::new(1_000_000_000 + millis * 1_000)
    }

    fn pull(consumer: &mut Consumer, left: u32) {
        consumer.pull(Pull { reply: "in".into(), left, until: at(1_000_000) });
    }

    fn leases(sent: &[Sent]) -> Vec<(u64, u64)> {
        let read = |sent: &Sent| match sent {
            Sent::Delivery { lease, .. } => {
                let lease: Lease = lease.parse().expect("a lease");
                Some((lease.stream_seq, lease.delivered))
            }
            Sent::End { .. } => None,
        };
        sent.iter().filter_map(read).collect()
    }

    fn serve(consumer: &mut Consumer, stream: &Stream, millis: u64) -> Vec<(u64, u64)> {
        leases(&consumer.serve(stream, |_| true, at(millis)))
    }

    #[test]
    fn what_was_not_acked_comes_again_before_what_is_new() {
        let (stream, mut consumer) = world(3, 10);
        pull(&mut consumer, 2);
        assert_eq!(serve(&mut consumer, &stream, 0), [(1, 1), (2, 1)]);
        consumer.ack(2, Ack::Done, at(1));
        pull(&mut consumer, 5);
        assert_eq!(serve(&mut consumer, &stream, 10_000), [(1, 2), (3, 1)]);
        assert!(consumer.is_done(2) && !consumer.is_done(1));
    }

    #[test]
    fn progress_restarts_the_wait_and_a_nak_ends_it() {
        let (stream, mut consumer) = world(1, 10);
        pull(&mut consumer, 9);
        assert_eq!(serve(&mut consumer, &stream, 0), [(1, 1)]);
        consumer.ack(1, Ack::Progress, at(9_000));
        assert_eq!(serve(&mut consumer, &stream, 18_999), []);
        assert_eq!(consumer.wake_at(), Some(at(19_000)));
        consumer.ack(1, Ack::Nak(Duration::ZERO), at(18_999));
        assert_eq!(serve(&mut consumer, &stream, 18_999), [(1, 2)]);
    }

    #[test]
    fn acks_are_not_fenced() {
        let (stream, mut consumer) = world(1, 10);
        pull(&mut consumer, 9);
        serve(&mut consumer, &stream, 0);
        assert_eq!(serve(&mut consumer, &stream, 10_000), [(1, 2)]);
        // The first holder naks: a third delivery, though the second holder works on it.
        consumer.ack(1, Ack::Nak(Duration::ZERO), at(10_001));
        assert_eq!(serve(&mut consumer, &stream, 10_001), [(1, 3)]);
        // The first holder acks: the job of the newest is over.
        consumer.ack(1, Ack::Done, at(10_002));
        assert_eq!(serve(&mut consumer, &stream, 30_000), []);
        assert!(consumer.is_done(1));
    }

    #[test]
    fn no_more_are_out_than_may_be() {
        let (stream, mut consumer) = world(3, 2);
        pull(&mut consumer, 9);
        assert_eq!(serve(&mut consumer, &stream, 0).len(), 2);
        consumer.ack(1, Ack::Done, at(1));
        assert_eq!(serve(&mut consumer, &stream, 1), [(3, 1)]);
    }

    #[test]
    fn a_pull_of_somebody_who_left_burns_nothing_and_an_old_pull_ends() {
        let (stream, mut consumer) = world(1, 2);
        pull(&mut consumer, 9);
        assert!(consumer.serve(&stream, |_| false, at(0)).is_empty());
        pull(&mut consumer, 9);
        let sent = consumer.serve(&stream, |_| true, at(1_000_000));
        assert!(matches!(sent[..], [Sent::End { why: PullEnd::Expired, .. }]), "{sent:?}");
    }

    #[test]
    fn a_killed_server_forgets_the_last_deliveries_and_acks() {
        let (stream, mut consumer) = world(3, 10);
        pull(&mut consumer, 1);
        serve(&mut consumer, &stream, 0);
        // Written by the next change after 100 ms; what follows within the next 100 ms is not.
        pull(&mut consumer, 1);
        assert_eq!(serve(&mut consumer, &stream, 150), [(2, 1)]);
        consumer.ack(1, Ack::Done, at(160));
        consumer.forget(at(200));
        pull(&mut consumer, 9);
        assert_eq!(serve(&mut consumer, &stream, 300), [(2, 1), (3, 1)], "delivered again as if new");
        assert!(!consumer.is_done(1), "the ack of 1 is forgotten");
        assert_eq!(serve(&mut consumer, &stream, 10_000), [(1, 2)]);
    }
}
