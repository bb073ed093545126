//! What every process has beside its machine: a publisher that insists, requests that are given up, and acks that stay in a ring
//! until they are surely heard. Mirrors the async code of `transport`, with the same times.

use std::{
    collections::{BTreeMap, VecDeque},
    rc::Rc,
    time::Duration,
};

use schemas::{Micros, lease::Lease};

use crate::{
    desk::Desk,
    net::{LINES, Line, Subscription},
    server::ELECTED,
    wire::{Ack, Body, Message, Refusal, Told},
};

/// A message that was not acknowledged for so long is sent again.
const RESEND_AFTER: Duration = Duration::from_secs(2);
/// After "the same id is being stored", and while no stream takes the subject.
const RESEND_SOON: Duration = Duration::from_millis(20);
/// How often the newest ack of a consumer is confirmed.
const CONFIRM_EVERY: Duration = Duration::from_millis(100);
/// How long a confirmation may take.
const CONFIRM_WITHIN: Duration = Duration::from_secs(5);
/// How long a confirmed ack is kept, for an election that is told late.
const SETTLE: Duration = Duration::from_secs(5);
/// Between two sendings of a ring whose consumer has no leader.
const SEND_AGAIN: Duration = Duration::from_millis(250);

/// Subscriptions below this number are the client's own.
pub(crate) const FIRST_FREE: u32 = 10;
const REPLIES: u32 = 0;
const ELECTIONS: u32 = 1;

/// The plumbing of one process. `T` names what was asked for.
#[derive(Debug)]
pub(crate) struct Client<T> {
    inbox: String,
    next: u64,
    open: BTreeMap<u64, Open<T>>,
    rings: BTreeMap<(Rc<str>, Rc<str>), Ring>,
    confirm_at: Micros,
}

#[derive(Debug)]
enum Open<T> {
    Publish { token: T, line: Line, message: Message, again: Micros },
    Request { token: T, until: Micros },
    Confirm { of: (Rc<str>, Rc<str>), epoch: u64, below: u64, until: Micros },
}

/// What the client has to say to its process.
#[derive(Debug)]
pub(crate) enum Said<T> {
    /// A message is stored.
    Stored(T, u64, bool),
    /// A message is not stored, and sending it again would not help now.
    Refused(T, Refusal),
    /// The answer to a request.
    Answered(T, Told),
    /// A request was not answered in time, or nobody was there to answer.
    Silent(T),
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// Entries that were ever dropped from the front.
    base: u64,
    /// Rises whenever what was sent before may be lost.
    epoch: u64,
    confirming: bool,
    again: Option<Micros>,
}

#[derive(Debug)]
struct Entry {
    subject: Rc<str>,
    confirmed: Option<Micros>,
}

impl<T> Client<T> {
    /// Subscribes to its own inbox and to elections. `name` is of this process and of no other that ever was.
    pub(crate) fn start(name: &str, desk: &mut Desk<'_>) -> Self {
        let inbox = format!("_INBOX.{name}");
        for line in LINES {
            let filter = format!("{inbox}.{}.*", line as u8).into();
            desk.subscribe(line, Subscription { number: REPLIES, filter, group: None });
        }
        let filter = format!("{ELECTED}.*.*").into();
        desk.subscribe(Line::Control, Subscription { number: ELECTIONS, filter, group: None });
        Self { inbox, next: 0, open: BTreeMap::new(), rings: BTreeMap::new(), confirm_at: desk.now() }
    }

    /// Stores a message, however long it takes.
    pub(crate) fn publish(&mut self, token: T, line: Line, message: Message, desk: &mut Desk<'_>) {
        let number = self.number();
        let message = message.with_reply(self.reply(line, number));
        desk.send(line, message.clone());
        let again = desk.now() + RESEND_AFTER;
        self.open.insert(number, Open::Publish { token, line, message, again });
    }

    /// Asks for something, and gives up after `patience`.
    pub(crate) fn request(
        &mut self,
        token: T,
        line: Line,
        message: Message,
        patience: Duration,
        desk: &mut Desk<'_>,
    ) {
        let number = self.number();
        desk.send(line, message.with_reply(self.reply(line, number)));
        self.open.insert(number, Open::Request { token, until: desk.now() + patience });
    }

    /// Finishes a lease, and makes sure of it.
    pub(crate) fn ack(&mut self, lease: &Lease, desk: &mut Desk<'_>) {
        let ring = self.rings.entry((lease.stream().into(), lease.consumer().into())).or_default();
        let subject: Rc<str> = lease.subject().into();
        ring.entries.push_back(Entry { subject: subject.clone(), confirmed: None });
        desk.send(Line::Control, Message::new(subject, Body::Ack(Ack::Done)));
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn reply(&self, line: Line, number: u64) -> String {
        format!("{}.{}.{number}", self.inbox, line as u8)
    }

    /// Takes in a message that came on one of the client's own subscriptions.
    pub(crate) fn heard(&mut self, message: &Message, desk: &mut Desk<'_>) -> Option<Said<T>> {
        if message.subject.starts_with(ELECTED) {
            let mut parts = message.subject.rsplit('.');
            let (consumer, stream) = (parts.next()?, parts.next()?);
            if let Some(ring) = self.rings.get_mut(&(stream.into(), consumer.into())) {
                ring.send_again(desk);
            }
            return None;
        }
        let Body::Told(told) = &message.body else { return None };
        let number: u64 = message.subject.rsplit('.').next()?.parse().ok()?;
        match self.open.remove(&number)? {
            Open::Publish { token, line, message, again } => match told {
                Told::Stored { seq, duplicate } => Some(Said::Stored(token, *seq, *duplicate)),
                Told::Refused(refusal @ (Refusal::Full | Refusal::WrongSequence)) => {
                    Some(Said::Refused(token, *refusal))
                }
                Told::Refused(Refusal::InProcess) | Told::NoResponders => {
                    let again = again.min(desk.now() + RESEND_SOON);
                    self.open.insert(number, Open::Publish { token, line, message, again });
                    None
                }
                Told::Heard | Told::PullEnd(_) | Told::Got(_) | Told::Found(_) => None,
            },
            Open::Request { token, .. } => Some(match told {
                Told::NoResponders => Said::Silent(token),
                told => Said::Answered(token, told.clone()),
            }),
            Open::Confirm { of, epoch, below, .. } => {
                self.confirmed(&of, epoch, below, matches!(told, Told::Heard), desk.now());
                None
            }
        }
    }

    fn confirmed(&mut self, of: &(Rc<str>, Rc<str>), epoch: u64, below: u64, heard: bool, now: Micros) {
        let Some(ring) = self.rings.get_mut(of).filter(|ring| ring.epoch == epoch) else { return };
        ring.confirming = false;
        if !heard {
            ring.again = Some(now + SEND_AGAIN);
            return;
        }
        let count = usize::try_from(below.saturating_sub(ring.base)).unwrap_or(usize::MAX);
        for entry in ring.entries.iter_mut().take(count) {
            entry.confirmed.get_or_insert(now);
        }
    }

    /// A connection is a new one: what was sent before may be lost.
    pub(crate) fn connected(&mut self, on: Line, desk: &mut Desk<'_>) {
        let again = desk.now() + RESEND_AFTER;
        for open in self.open.values_mut() {
            if let Open::Publish { line, message, again: at, .. } = open
                && *line == on
            {
                *at = again;
                desk.send(on, message.clone());
            }
        }
        if on == Line::Control {
            self.rings.values_mut().for_each(|ring| ring.send_again(desk));
        }
    }

    /// Does what is due by now.
    pub(crate) fn woken(&mut self, desk: &mut Desk<'_>) -> Vec<Said<T>> {
        let now = desk.now();
        let mut late = Vec::new();
        for (number, open) in &mut self.open {
            match open {
                Open::Publish { line, message, again, .. } if *again <= now => {
                    *again = now + RESEND_AFTER;
                    desk.send(*line, message.clone());
                }
                Open::Request { until, .. } | Open::Confirm { until, .. } if *until <= now => {
                    late.push(*number);
                }
                Open::Publish { .. } | Open::Request { .. } | Open::Confirm { .. } => {}
            }
        }
        let mut said = Vec::new();
        for number in late {
            match self.open.remove(&number) {
                Some(Open::Request { token, .. }) => said.push(Said::Silent(token)),
                Some(Open::Confirm { of, epoch, below, .. }) => self.confirmed(&of, epoch, below, false, now),
                Some(Open::Publish { .. }) | None => {}
            }
        }
        if self.confirm_at <= now {
            self.confirm_at = now + CONFIRM_EVERY;
            self.confirm(desk);
        }
        said
    }

    /// Confirms the newest ack of each consumer, and drops those that were confirmed long ago.
    fn confirm(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now();
        let mut asks = Vec::new();
        for (of, ring) in &mut self.rings {
            if ring.again.is_some_and(|at| at <= now) {
                ring.send_again(desk);
            }
            while ring.entries.front().is_some_and(|e| e.confirmed.is_some_and(|at| now.since(at) >= SETTLE))
            {
                ring.entries.pop_front();
                ring.base += 1;
            }
            let unsure = ring.entries.back().filter(|entry| entry.confirmed.is_none());
            if let Some(newest) = unsure.filter(|_| !ring.confirming && ring.again.is_none()) {
                let below = ring.base + ring.entries.len() as u64;
                asks.push((of.clone(), ring.epoch, below, newest.subject.clone()));
                ring.confirming = true;
            }
        }
        for (of, epoch, below, subject) in asks {
            let number = self.number();
            let message =
                Message::new(subject, Body::Ack(Ack::Done)).with_reply(self.reply(Line::Control, number));
            desk.send(Line::Control, message);
            self.open.insert(number, Open::Confirm { of, epoch, below, until: now + CONFIRM_WITHIN });
        }
    }

    /// When something is due next.
    pub(crate) fn wake_at(&self) -> Option<Micros> {
        let open = self.open.values().map(|open| match open {
            Open::Publish { again: at, .. }
            | Open::Request { until: at, .. }
            | Open::Confirm { until: at, .. } => *at,
        });
        let ringing = self.rings.values().any(|ring| !ring.entries.is_empty());
        open.chain(ringing.then_some(self.confirm_at)).min()
    }

    /// Whether every message is stored and every ack was heard.
    pub(crate) fn is_settled(&self) -> bool {
        let heard = |ring: &Ring| ring.entries.iter().all(|entry| entry.confirmed.is_some());
        let stored = |open: &Open<T>| !matches!(open, Open::Publish { .. });
        self.open.values().all(stored) && self.rings.values().all(heard)
    }
}

impl Ring {
    /// Begins a new epoch and sends everything again.
    fn send_again(&mut self, desk: &mut Desk<'_>) {
        self.epoch += 1;
        self.confirming = false;
        self.again = None;
        for entry in &mut self.entries {
            entry.confirmed = None;
            desk.send(Line::Control, Message::new(entry.subject.clone(), Body::Ack(Ack::Done)));
        }
    }
}
