//! The simulated nats-server: core messages, streams, consumers, direct reads. It behaves as the real one does where the lease
//! protocol relies on it, or suffers from it.
//!
//! ```text
//!  publish ─┬─ subscribers, one of each queue group       at once
//!           ├─ a stream that takes the subject ─▶ PubAck   a moment later, in order by stream
//!           ├─ a lease's subject ─▶ consumer               a moment later, in order by consumer
//!           └─ a request ─▶ answer                         a moment later
//! ```
//!
//! The server does nothing by itself: what it wants done later is in [`Server::take_out`], and the world carries it there.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use schemas::{Micros, lease::Lease};

use crate::{
    chance::Chance,
    consumer::{Consumer, Pull, Sent},
    stream::Stream,
    wire::{API, Ack, Ask, Body, Message, PullEnd, Refusal, Stored, Told, matches},
};

/// A connection as the server sees it. A client that connects again has another.
pub(crate) type Session = u32;

/// The server.
#[derive(Debug)]
pub(crate) struct Server {
    /// Three servers that agree, or one that may forget.
    cluster: bool,
    /// Counts restarts: what was to be done before one is not done after it.
    life: u32,
    up: bool,
    subs: Vec<Sub>,
    streams: Vec<Led<Stream>>,
    consumers: Vec<Led<Consumer>>,
    /// When the last thing of a queue will be done, so that the next is not done before.
    busy: BTreeMap<Queue, Micros>,
    chance: Chance,
    out: Vec<Out>,
    seen: Vec<Seen>,
}

#[derive(Debug)]
struct Sub {
    session: Session,
    number: u32,
    filter: Rc<str>,
    group: Option<Rc<str>>,
}

/// What has a leader, or for a moment none.
#[derive(Debug)]
struct Led<T> {
    it: T,
    leader: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Queue {
    Stores(usize),
    Reads(usize),
    Acks(usize),
    Pulls(usize),
}

/// What the server wants done.
#[derive(Clone, Debug)]
pub(crate) enum Out {
    /// Send a message to a subscription of a session.
    Send(Session, u32, Message),
    /// Come back with this at a time.
    Later(Micros, Task),
}

/// What the server does a moment later. A restart in between makes it void.
#[derive(Clone, Debug)]
pub(crate) struct Task {
    life: u32,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Store(usize, Message),
    Ack(usize, Box<Lease>, Ack, Option<Rc<str>>),
    Ask(usize, Ask, Rc<str>),
    Serve(usize),
    Lead(Leader, bool),
}

/// Who loses its leader.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Leader {
    /// A stream, by index.
    OfStream(usize),
    /// A consumer, by index.
    OfConsumer(usize),
}

/// What the auditor of the world wants to know.
#[derive(Clone, Debug)]
pub(crate) enum Seen {
    /// A message was stored, or was there.
    Stored {
        /// In which stream.
        stream: Rc<str>,
        /// Where.
        seq: u64,
        /// Whether it was there before.
        duplicate: bool,
        /// What.
        message: Message,
    },
    /// A message was delivered.
    Delivered {
        /// Its lease.
        lease: Rc<str>,
    },
    /// A word on a lease was taken in.
    Acked {
        /// The lease.
        lease: Box<Lease>,
        /// The word.
        ack: Ack,
        /// The number of the newest delivery, if the message was out.
        newest: Option<u64>,
    },
}

impl Server {
    /// A server with these streams and consumers; each consumer's stream is among them.
    pub(crate) fn new(cluster: bool, streams: Vec<Stream>, consumers: Vec<Consumer>, chance: Chance) -> Self {
        fn led<T>(list: Vec<T>) -> Vec<Led<T>> {
            list.into_iter().map(|it| Led { it, leader: true }).collect()
        }
        Self {
            cluster,
            life: 0,
            up: true,
            subs: Vec::new(),
            streams: led(streams),
            consumers: led(consumers),
            busy: BTreeMap::new(),
            chance,
            out: Vec::new(),
            seen: Vec::new(),
        }
    }

    /// Whether it runs.
    pub(crate) fn is_up(&self) -> bool {
        self.up
    }

    /// A stream by name.
    #[cfg(test)]
    pub(crate) fn stream(&self, name: &str) -> Option<&Stream> {
        self.streams.iter().map(|led| &led.it).find(|stream| &**stream.name() == name)
    }

    /// All consumers.
    pub(crate) fn consumers(&self) -> impl Iterator<Item = &Consumer> {
        self.consumers.iter().map(|led| &led.it)
    }

    /// How many streams and consumers there are.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.streams.len(), self.consumers.len())
    }

    /// What it wants done since it was last asked.
    pub(crate) fn take_out(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// What happened since it was last asked.
    pub(crate) fn take_seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }

    /// A client subscribes; `group` shares what comes among its members.
    pub(crate) fn subscribe(
        &mut self,
        session: Session,
        number: u32,
        filter: Rc<str>,
        group: Option<Rc<str>>,
    ) {
        self.subs.push(Sub { session, number, filter, group });
    }

    /// A client does not want to hear of a subject any more; what is on its way to it still comes.
    pub(crate) fn unsubscribe(&mut self, session: Session, number: u32) {
        self.subs.retain(|sub| sub.session != session || sub.number != number);
    }

    /// The server notices that a connection is gone.
    pub(crate) fn close(&mut self, session: Session) {
        self.subs.retain(|sub| sub.session != session);
    }

    /// A client publishes.
    pub(crate) fn publish(&mut self, message: Message, now: Micros) {
        if let (API, Body::Ask(ask), Some(reply)) = (&*message.subject, &message.body, &message.reply) {
            self.asked(ask, reply, now);
            return;
        }
        if let Body::Ack(ack) = message.body {
            self.acked(ack, &message, now);
            return;
        }
        let heard = self.route(&message);
        let taker = self.streams.iter().position(|led| led.it.takes(&message.subject));
        if let Some(index) = taker {
            let at = self.when(Queue::Stores(index), now);
            self.later(at, What::Store(index, message));
        } else if !heard && let Some(reply) = message.reply {
            self.answer(&reply, Told::NoResponders);
        }
    }

    fn asked(&mut self, ask: &Ask, reply: &Rc<str>, now: Micros) {
        let found = match ask {
            Ask::Pull { stream, consumer, .. } => self.consumer_index(stream, consumer),
            Ask::At { stream, .. } | Ask::Last { stream, .. } | Ask::Since { stream, .. } => {
                self.streams.iter().position(|led| *led.it.name() == *stream)
            }
        };
        let Some(index) = found else {
            self.answer(reply, Told::NoResponders);
            return;
        };
        let queue = if matches!(ask, Ask::Pull { .. }) { Queue::Pulls(index) } else { Queue::Reads(index) };
        let at = self.when(queue, now);
        self.later(at, What::Ask(index, ask.clone(), reply.clone()));
    }

    fn acked(&mut self, ack: Ack, message: &Message, now: Micros) {
        let Ok(lease) = message.subject.parse::<Lease>() else { return };
        let Some(index) = self.consumer_index(lease.stream(), lease.consumer()) else { return };
        if !self.consumers[index].leader {
            // A plain ack vanishes; a request hears that nobody is there.
            if let Some(reply) = &message.reply {
                self.answer(reply, Told::NoResponders);
            }
            return;
        }
        let at = self.when(Queue::Acks(index), now);
        self.later(at, What::Ack(index, Box::new(lease), ack, message.reply.clone()));
    }

    fn consumer_index(&self, stream: &str, name: &str) -> Option<usize> {
        self.consumers().position(|consumer| &**consumer.name() == name && &**consumer.stream() == stream)
    }

    /// Does something that was put off.
    pub(crate) fn run(&mut self, task: Task, now: Micros) {
        if task.life != self.life || !self.up {
            return;
        }
        match task.what {
            What::Store(index, message) => self.store(index, message, now),
            What::Ack(index, lease, ack, reply) => {
                if !self.consumers[index].leader {
                    return;
                }
                let consumer = &mut self.consumers[index].it;
                let newest = consumer.newest_delivery(lease.stream_seq);
                consumer.ack(lease.stream_seq, ack, now);
                self.seen.push(Seen::Acked { lease, ack, newest });
                if let Some(reply) = reply {
                    self.answer(&reply, Told::Heard);
                }
                self.serve(index, now);
            }
            What::Ask(index, ask, reply) => self.tell(index, ask, reply, now),
            What::Serve(index) => self.serve(index, now),
            What::Lead(leader, led) => self.lead(leader, led, now),
        }
    }

    fn store(&mut self, index: usize, message: Message, now: Micros) {
        let led = &mut self.streams[index];
        // Without a leader the message is lost, or stored by one who cannot say so any more.
        let lost = !led.leader;
        if lost && self.chance.one_in(1, 2) {
            return;
        }
        let (reply, name) = (message.reply.clone(), led.it.name().clone());
        let told = match led.it.store(message.clone(), self.cluster, now) {
            // Three servers that still agree on the first message of this id.
            Ok((_, true)) if self.cluster && self.chance.one_in(1, 20) => Told::Refused(Refusal::InProcess),
            Ok((seq, duplicate)) => {
                self.seen.push(Seen::Stored { stream: name.clone(), seq, duplicate, message });
                Told::Stored { seq, duplicate }
            }
            Err(refusal) => Told::Refused(refusal),
        };
        if let Some(reply) = reply.filter(|_| !lost) {
            self.answer(&reply, told);
        }
        for index in 0..self.consumers.len() {
            if *self.consumers[index].it.stream() == name {
                self.serve(index, now);
            }
        }
    }

    fn tell(&mut self, index: usize, ask: Ask, reply: Rc<str>, now: Micros) {
        if let Ask::Pull { batch, expires, .. } = ask {
            if self.consumers[index].leader {
                self.consumers[index].it.pull(Pull { reply, left: batch, until: now + expires });
                self.serve(index, now);
            }
            return;
        }
        // Reads are answered by any of the three servers, and one of them may be a little behind.
        let lags = self.cluster && self.chance.one_in(1, 20);
        let lag =
            if lags { self.chance.span(Duration::ZERO, Duration::from_millis(100)) } else { Duration::ZERO };
        let view = now - lag;
        let messages = self.streams[index].it.messages();
        let known = &messages[..messages.partition_point(|stored| stored.at <= view)];
        let told = match ask {
            Ask::Pull { .. } => return,
            Ask::At { seq, .. } => {
                let found = usize::try_from(seq).ok().and_then(|seq| known.get(seq.checked_sub(1)?));
                Told::Got(found.cloned().map(Box::new))
            }
            Ask::Last { subject, .. } => {
                let found = known.iter().rev().find(|stored| stored.message.subject == subject);
                Told::Got(found.cloned().map(Box::new))
            }
            Ask::Since { subject, since, .. } => {
                let meant =
                    |stored: &&Stored| stored.at >= since && matches(&subject, &stored.message.subject);
                Told::Found(known.iter().filter(meant).cloned().collect())
            }
        };
        self.answer(&reply, told);
    }

    /// Serves a consumer's pulls, and comes back when there may be more to do.
    fn serve(&mut self, index: usize, now: Micros) {
        let Led { it: consumer, leader: true } = &mut self.consumers[index] else { return };
        let found = self.streams.iter().find(|led| led.it.name() == consumer.stream());
        let Some(Led { it: stream, .. }) = found else { return };
        let subs = &self.subs;
        let heard = |subject: &str| subs.iter().any(|sub| matches(&sub.filter, subject));
        let sent = consumer.serve(stream, heard, now);
        let wake = consumer.wake_at();
        let mut messages = Vec::with_capacity(sent.len());
        for sent in sent {
            messages.push(match sent {
                Sent::End { reply, why } => (reply, Message::new("", Body::Told(Told::PullEnd(why)))),
                Sent::Delivery { reply, seq, lease } => {
                    let stored = stream.at(seq).expect("a consumer delivers what is stored");
                    self.seen.push(Seen::Delivered { lease: lease.clone() });
                    (reply, stored.message.clone().with_reply(lease))
                }
            });
        }
        for (reply, message) in messages {
            self.send(&reply, &message);
        }
        if let Some(at) = wake {
            self.later(at.max(now + Duration::from_micros(1)), What::Serve(index));
        }
    }

    /// Sends a message to those who listen on its subject. Says whether anybody does.
    fn route(&mut self, message: &Message) -> bool {
        let subject = message.subject.clone();
        self.send(&subject, message)
    }

    /// Sends a message to those who listen on `to`, which for a delivery is not its subject.
    fn send(&mut self, to: &str, message: &Message) -> bool {
        let mut groups: BTreeMap<Rc<str>, Vec<(Session, u32)>> = BTreeMap::new();
        let before = self.out.len();
        for sub in self.subs.iter().filter(|sub| matches(&sub.filter, to)) {
            match &sub.group {
                None => self.out.push(Out::Send(sub.session, sub.number, message.clone())),
                Some(group) => groups.entry(group.clone()).or_default().push((sub.session, sub.number)),
            }
        }
        for members in groups.into_values() {
            let (session, number) = members[self.chance.index(members.len())];
            self.out.push(Out::Send(session, number, message.clone()));
        }
        self.out.len() > before
    }

    fn answer(&mut self, reply: &Rc<str>, told: Told) {
        self.route(&Message::new(reply.clone(), Body::Told(told)));
    }

    /// When the next thing of a queue is done: after a moment, and not before the one before it.
    fn when(&mut self, queue: Queue, now: Micros) -> Micros {
        let usual = (Duration::from_micros(30), Duration::from_micros(400));
        let slow = (Duration::from_millis(2), Duration::from_millis(60));
        let (from, to) = if self.chance.one_in(1, 60) { slow } else { usual };
        let at = (now + self.chance.span(from, to)).max(self.busy.get(&queue).copied().unwrap_or_default());
        self.busy.insert(queue, at);
        at
    }

    fn later(&mut self, at: Micros, what: What) {
        self.out.push(Out::Later(at, Task { life: self.life, what }));
    }

    /// The server stops. One of its own that is killed forgets its last deliveries and acks, and all that was stored after
    /// `power_lost`, where the whole host went down.
    pub(crate) fn stop(&mut self, power_lost: Option<Micros>, now: Micros) {
        self.life += 1;
        self.up = false;
        self.subs.clear();
        self.busy.clear();
        for led in &mut self.streams {
            led.leader = true;
            if let Some(since) = power_lost {
                led.it.roll_back(since);
            }
        }
        for led in &mut self.consumers {
            led.leader = true;
            led.it.forget(now);
            if power_lost.is_some() {
                let stream = self.streams.iter().find(|stream| stream.it.name() == led.it.stream());
                led.it.roll_back(stream.map_or(0, |stream| stream.it.last()));
            }
        }
    }

    /// The server starts.
    pub(crate) fn start(&mut self) {
        self.up = true;
    }

    /// A stream or consumer loses its leader and has a new one at `until`.
    pub(crate) fn elect(&mut self, leader: Leader, until: Micros, now: Micros) {
        if self.up {
            self.lead(leader, false, now);
            self.later(until, What::Lead(leader, true));
        }
    }

    fn lead(&mut self, leader: Leader, led: bool, now: Micros) {
        match leader {
            Leader::OfStream(index) => self.streams[index].leader = led,
            Leader::OfConsumer(index) => {
                self.consumers[index].leader = led;
                let consumer = &mut self.consumers[index].it;
                if !led {
                    let tell = self.chance.one_in(1, 2);
                    for sent in consumer.drop_pulls(tell) {
                        if let Sent::End { reply, .. } = sent {
                            self.answer(&reply, Told::PullEnd(PullEnd::Refused));
                        }
                    }
                    return;
                }
                let subject = format!("{ELECTED}.{}.{}", consumer.stream(), consumer.name());
                self.route(&Message::new(subject, Body::Plain));
                self.serve(index, now);
            }
        }
    }

    /// Sets how many bytes a stream holds before it refuses more; `None` leaves no space at all.
    pub(crate) fn limit(&mut self, name: &str, max_bytes: Option<usize>) {
        if let Some(led) = self.streams.iter_mut().find(|led| &**led.it.name() == name) {
            led.it.limit(max_bytes.unwrap_or(0));
        }
    }
}

/// Advisories of new leaders of consumers, followed by stream and consumer.
pub(crate) const ELECTED: &str = "$JS.EVENT.ADVISORY.CONSUMER.LEADER_ELECTED";

#[cfg(test)]
mod tests;
