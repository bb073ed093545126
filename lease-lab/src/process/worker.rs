//! A worker: its attempts and its books as they are, and a driver that carries their effects as the real pool does.

mod attempt;
mod call;
mod questions;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemas::{
    Micros, PoolId, WorkerId,
    handover::{Acceptances, Handover, OfferKey, Return},
    headers,
    reply::JobResult,
    subjects,
    topology::REPLIES,
};
use transport::stored;
use workers::{
    attempt::course::{Effect, Event, News, Refusal, Report, ResultName, Site, Terms},
    clock::Now,
    config::PoolModel,
    shift::{Decision, Meaning, Message as Due, Post, Shift},
};

use self::attempt::Attempt;
use super::{Process, producer::MAILBOX};
use crate::{
    client::{Client, FIRST_FREE},
    desk::Desk,
    history::MANY,
    mutation::Mutation,
    net::{Line, Subscription},
    plan::BEGIN,
    setup,
    wire::{self, Ack, Ask, Body, MAX_PAYLOAD, Message},
    world::CallNews,
};

/// What the steady clock shows when a world begins: more than any lease lasts.
const ORIGIN: Duration = Duration::from_secs(86_400);
/// What remains after the grace period for attempts to hear of its end.
const LAST_WORDS: Duration = Duration::from_secs(3);
/// How long one request to extend a lease may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// Clocks differ: scans begin a little earlier.
const MARGIN: Duration = Duration::from_secs(5);

/// How long acceptances are collected where that bug is put back.
const COLLECTS: Duration = Duration::from_millis(20);
/// Clearly past the time at which an offer lapses, as at the real pool.
const PAST: Duration = Duration::from_millis(5);

const OFFERS: u32 = FIRST_FREE;
const ORDERS: u32 = FIRST_FREE + 1;

/// A worker.
pub(super) struct Worker {
    /// Its pool, by its place in the plan.
    pool: usize,
    id: PoolId,
    site: Arc<Site>,
    ack_wait: Duration,
    shift: Shift,
    attempts: BTreeMap<u64, Attempt>,
    client: Client<Token>,
    next_call: u64,
    keep_at: Micros,
    /// When it took an offer last.
    accepted_at: Micros,
    /// How long it collects what it has to tell after that: only where that bug is put back.
    collects: Duration,
    /// Since it was asked to end: when the grace period is over.
    grace_until: Option<Micros>,
    told_to_stop: bool,
    ended: bool,
}

/// What was asked of the server, for which attempt.
#[derive(Debug)]
struct Token {
    attempt: u64,
    what: What,
}

#[derive(Debug)]
enum What {
    Job,
    Cost,
    Result,
    Results,
    Costs(Vec<JobResult>),
    Stored,
    ReadJournal,
    WriteJournal,
    Extend(Duration),
}

impl Worker {
    pub(super) fn start(pool: usize, desk: &mut Desk<'_>) -> Self {
        let plan = desk.plan();
        let (id, name) = (setup::pool(pool), desk.name().to_owned());
        let worker: WorkerId = name.parse().expect("a name that is a token");
        let client = Client::start(&desk.life_name(), desk);
        let group = Some(subjects::work_group(&id).into());
        desk.subscribe(
            Line::Bulk,
            Subscription { number: OFFERS, filter: subjects::work(&id).into(), group },
        );
        let filter = subjects::orders(&id, &worker).into();
        desk.subscribe(Line::Control, Subscription { number: ORDERS, filter, group: None });
        let post = Post {
            pool: id.clone(),
            worker,
            started: desk.wall(),
            slots: plan.slots,
            models: vec![PoolModel {
                model: setup::model(),
                served_as: "phi".into(),
                sku: setup::SKU.into(),
                size: setup::SIZE,
                expected: setup::EXPECTED,
            }],
            prices: Arc::new(setup::prices()),
            price_name: id.provider.clone(),
            idle: Duration::ZERO,
            rented: false,
            detached: desk.provider(pool).config.detached,
        };
        let site = Site { pool: id.clone(), journal: plan.journal, price_book: "sim".into() };
        Self {
            pool,
            shift: Shift::new(post, Self::now(desk)),
            id,
            site: Arc::new(site),
            ack_wait: plan.ack_wait,
            attempts: BTreeMap::new(),
            client,
            next_call: 0,
            keep_at: desk.now(),
            accepted_at: Micros::default(),
            collects: if desk.has(Mutation::CallsUnannounced) { COLLECTS } else { Duration::ZERO },
            grace_until: None,
            told_to_stop: false,
            ended: false,
        }
    }

    fn now(desk: &Desk<'_>) -> Now {
        Now { wall: desk.wall(), steady: steady(desk.now()) }
    }

    fn offered(&mut self, handover: &Handover, parcel: Option<wire::Job>, accept: &str, desk: &mut Desk<'_>) {
        let decision = self.shift.offer(handover, accept, Self::now(desk));
        desk.note(Some(handover.lease.stream_seq), || {
            format!("hears offer {}: {decision:?}", handover.offer)
        });
        if let Decision::Accept(number) = decision {
            let offer = OfferKey { accept: accept.to_owned(), offer: handover.offer };
            let now = desk.now();
            self.accepted_at = now;
            desk.audit().takes(offer.attempt(), handover.lease.stream_seq, now);
            let expected = attempt::bill(desk.provider(self.pool), setup::EXPECTED, true).lines;
            let terms = Terms {
                site: self.site.clone(),
                offer,
                handover: handover.clone(),
                received: desk.wall(),
                expected,
            };
            let attempt = Attempt::new(terms, parcel, self.ack_wait, desk);
            self.attempts.insert(number, attempt);
            self.apply(number, Event::Accepted, desk);
        }
    }

    /// Gives an attempt an event and does what it wants done.
    fn apply(&mut self, number: u64, event: Event, desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let moment = attempt.moment(desk);
        for effect in attempt.course.apply(moment, event) {
            self.carry_out(number, effect, desk);
        }
        if let Some(settled) = self.attempts.get(&number).and_then(|attempt| attempt.settled) {
            self.attempts.remove(&number);
            self.shift.ended(number, Some(settled), Self::now(desk));
        }
    }

    fn carry_out(&mut self, number: u64, effect: Effect, desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let seq = attempt.lease().stream_seq;
        match effect {
            Effect::ReadJob => {
                if let Some(parcel) = attempt.parcel.clone() {
                    let event = attempt.read(&parcel, desk.wall());
                    self.apply(number, event, desk);
                } else {
                    let stream = attempt.lease().stream().into();
                    self.ask(number, What::Job, Ask::At { stream, seq }, desk);
                }
            }
            Effect::StoreCost(event) => {
                let tenant = event.tenant.clone();
                let subject = subjects::cost(&tenant, &MAILBOX.parse().expect("a mailbox"));
                let id = event.message_id().unwrap_or_default();
                let message = Message::new(subject, Body::Cost(event.into())).with_id(id);
                self.store(number, What::Cost, message, desk);
            }
            Effect::StoreResult(name, result) => self.store_result(number, name, &result, desk),
            Effect::WriteJournal(journal) => {
                attempt.writing = Some(journal);
                // Where nobody is known to have written anything, the first write needs no read.
                if std::mem::take(&mut attempt.fresh) {
                    self.merge_journal(number, None, desk);
                } else {
                    self.read_journal(number, desk);
                }
            }
            Effect::Announce if desk.has(Mutation::CallsUnannounced) => {
                self.apply(number, Event::Announced, desk);
            }
            Effect::Announce => {
                let accept_by = attempt.course.terms().handover.accept_by_us;
                attempt.announces = Some(desk.now() + accept_by.since(desk.wall()) + PAST);
                self.announce(desk);
            }
            Effect::Check => self.apply(number, Event::Checked(None), desk),
            Effect::FetchInput => self.apply(number, Event::InputFetched, desk),
            Effect::Call(entry) => self.begin_call(number, entry.as_deref(), desk),
            Effect::DropCall => self.drop_call(number, desk),
            Effect::StopRun(why) => self.stop_run(number, why, desk),
            Effect::LookForResult => {
                let Some(job) = &attempt.job else { return };
                let subject = subjects::result(&job.subject.tenant, &job.mailbox).into();
                let since = attempt.lease().stored_at - MARGIN;
                let ask = Ask::Since { stream: REPLIES.into(), subject, since };
                self.ask(number, What::Results, ask, desk);
            }
            Effect::ReadStored(seq) => {
                self.ask(number, What::Stored, Ask::At { stream: REPLIES.into(), seq }, desk);
            }
            Effect::StoreOutput(_) => {
                let none = Refusal::Unavailable("no object store here".into());
                self.apply(number, Event::OutputRefused(none), desk);
            }
            Effect::RemoveOutput(_) | Effect::RemoveInput => {}
            Effect::Wait(pause) => attempt.waits = Some(desk.now() + pause),
            Effect::Ack => {
                let lease = attempt.lease().clone();
                desk.note(Some(seq), || format!("acks delivery {}", lease.delivered));
                self.client.ack(&lease, desk);
            }
            Effect::GiveBack(back) => {
                let parcel = attempt.parcel.clone();
                desk.note(Some(seq), || format!("gives it back: {}", back.failure.class));
                desk.send(Line::Bulk, give_back(*back, parcel));
            }
            Effect::Report(report) => {
                if report == Report::Abandoning("cost") {
                    let key = attempt.course.key();
                    desk.audit().withholds(key);
                }
                desk.note(Some(seq), || format!("{report:?}"));
            }
            Effect::Settle(settled) => {
                desk.note(Some(seq), || format!("attempt {} has ended: {settled:?}", attempt.course.key()));
                attempt.settled = Some(settled);
            }
        }
    }

    fn store_result(&mut self, number: u64, name: ResultName, result: &JobResult, desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let Some(job) = &attempt.job else { return };
        let tenant = &job.subject.tenant;
        let id = match name {
            ResultName::OfJob => result.job.result_message(tenant),
            ResultName::IdTaken(seq) => result.job.taken_message(tenant, seq),
        };
        let subject = subjects::result(tenant, &job.mailbox);
        if desk.has(Mutation::UsefulTooSoon)
            && let Some(event) = stored::useful_event(result, tenant)
        {
            let subject = subjects::cost(tenant, &job.mailbox);
            let id = event.message_id().unwrap_or_default();
            let message = Message::new(subject, Body::Cost(event.into())).with_id(id);
            self.client.publish(Token { attempt: 0, what: What::Cost }, Line::Bulk, message, desk);
        }
        let message = Message::new(subject, Body::Result(result.clone().into())).with_id(id);
        if desk.has(Mutation::AcksTooSoon) {
            self.client.ack(attempt.lease(), desk);
        }
        self.store(number, What::Result, message, desk);
    }

    /// Extends leases that are due and tells attempts whose leases may be lost.
    fn keep_leases(&mut self, desk: &mut Desk<'_>) {
        let now = steady(desk.now());
        self.keep_at =
            desk.now() + (self.ack_wait / 12).clamp(Duration::from_millis(50), Duration::from_secs(1));
        let numbers: Vec<u64> = self.attempts.keys().copied().collect();
        for number in numbers {
            let Some(attempt) = self.attempts.get_mut(&number) else { continue };
            if !attempt.lost && !attempt.hold.is_sure(now) {
                attempt.lost = true;
                if desk.has(Mutation::NaksLostLease) {
                    let nak = Body::Ack(Ack::Nak(Duration::ZERO));
                    desk.send(Line::Control, Message::new(attempt.lease().subject(), nak));
                }
                self.apply(number, Event::News(News::LeaseLost), desk);
                continue;
            }
            if attempt.hold.due(now) {
                let patience = attempt.hold.lost_at().saturating_sub(now).min(PATIENCE);
                let message = Message::new(attempt.lease().subject(), Body::Ack(Ack::Progress));
                let token = Token { attempt: number, what: What::Extend(now) };
                self.client.request(token, Line::Control, message, patience, desk);
            }
        }
    }

    fn speak(&mut self, due: Vec<Due>, desk: &mut Desk<'_>) {
        for due in due {
            let message = match due {
                Due::Acceptances(accept, news) => {
                    desk.note(Some(MANY), || told(&accept, &news));
                    Message::new(accept, Body::Answers((*news).into()))
                }
                Due::Heartbeat(beat) => {
                    Message::new(subjects::heartbeat(&self.id, &beat.worker), Body::Beat((*beat).into()))
                }
            };
            desk.send(Line::Bulk, message);
        }
    }

    /// Attempts whose acceptances are on their way, or whose offers have lapsed, hear so.
    fn announce(&mut self, desk: &mut Desk<'_>) {
        if self.attempts.values().all(|attempt| attempt.announces.is_none()) {
            return;
        }
        let (now, told) = (desk.now(), self.shift.all_told() && desk.flush(Line::Bulk));
        let heard = |attempt: &Attempt| attempt.announces.is_some_and(|until| told || until <= now);
        let numbers: Vec<u64> = self.attempts.iter().filter(|(_, a)| heard(a)).map(|(n, _)| *n).collect();
        for number in numbers {
            if let Some(attempt) = self.attempts.get_mut(&number) {
                attempt.announces = None;
                self.apply(number, if told { Event::Announced } else { Event::Lapsed }, desk);
            }
        }
    }

    /// When something is to be told.
    fn speaks_at(&self) -> Micros {
        let due = BEGIN + self.shift.wake_at().saturating_sub(ORIGIN);
        due.max(self.accepted_at + self.collects)
    }

    /// What follows from being asked to end.
    fn wind_down(&mut self, desk: &mut Desk<'_>) {
        let Some(until) = self.grace_until else { return };
        let now = desk.now();
        if now >= until && !self.told_to_stop {
            self.told_to_stop = true;
            let numbers: Vec<u64> = self.attempts.keys().copied().collect();
            for number in numbers {
                self.apply(number, Event::News(News::WorkerStops), desk);
            }
        }
        let idle = self.attempts.is_empty() && self.client.is_settled();
        if !self.ended && (idle || now >= until + LAST_WORDS) {
            let words = self.shift.close(Self::now(desk));
            self.speak(words, desk);
            self.ended = true;
        }
    }
}

impl Process for Worker {
    fn heard(&mut self, _line: Line, number: u32, message: &Message, desk: &mut Desk<'_>) {
        match (number, &message.body, &message.reply) {
            (OFFERS, Body::Offer(handover, parcel), Some(accept)) => {
                self.offered(handover, parcel.clone(), accept, desk);
            }
            (ORDERS, Body::Order(order), _) => {
                let meaning = self.shift.order(order.as_ref().clone(), Self::now(desk));
                if let Meaning::Attempt(number, news) = meaning {
                    self.apply(number, Event::News(news), desk);
                }
            }
            (0..FIRST_FREE, _, _) => {
                if let Some(said) = self.client.heard(message, desk) {
                    self.said(said, desk);
                }
            }
            _ => {}
        }
    }

    fn connected(&mut self, line: Line, desk: &mut Desk<'_>) {
        self.client.connected(line, desk);
        self.announce(desk);
    }

    fn answered(&mut self, news: &CallNews, desk: &mut Desk<'_>) {
        self.call_answered(news, desk);
    }

    fn woken(&mut self, desk: &mut Desk<'_>) {
        for said in self.client.woken(desk) {
            self.said(said, desk);
        }
        let now = desk.now();
        if self.keep_at <= now {
            self.keep_leases(desk);
        }
        let waited = |attempt: &Attempt| attempt.waits.is_some_and(|at| at <= now);
        let numbers: Vec<u64> = self.attempts.iter().filter(|(_, a)| waited(a)).map(|(n, _)| *n).collect();
        for number in numbers {
            if let Some(attempt) = self.attempts.get_mut(&number) {
                attempt.waits = None;
                self.apply(number, Event::Waited, desk);
            }
        }
        if self.speaks_at() <= now {
            let due = self.shift.tick(Self::now(desk));
            self.speak(due, desk);
        }
        self.announce(desk);
        self.wind_down(desk);
    }

    fn end(&mut self, desk: &mut Desk<'_>) {
        if self.grace_until.is_none() {
            self.shift.drain(Self::now(desk));
            self.grace_until = Some(desk.now() + setup::GRACE);
        }
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn wake_at(&self) -> Option<Micros> {
        let waits = self.attempts.values().flat_map(|attempt| [attempt.waits, attempt.announces]).flatten();
        let keeps = (!self.attempts.is_empty()).then_some(self.keep_at);
        let last = self.grace_until.map(|until| until + LAST_WORDS);
        let first = self.grace_until.filter(|_| !self.told_to_stop);
        let due = [self.speaks_at()].into_iter();
        due.chain(self.client.wake_at()).chain(waits).chain(keeps).chain(first).chain(last).min()
    }

    fn busy(&self) -> Option<String> {
        let running =
            self.attempts.values().next().map(|attempt| format!("an attempt: {:?}", attempt.course));
        running.or_else(|| (!self.client.is_settled()).then(|| "messages on their way".to_owned()))
    }
}

/// The steady clock at true time `now`.
fn steady(now: Micros) -> Duration {
    ORIGIN + now.since(BEGIN)
}

/// What a worker tells a dispatcher, in a few words.
fn told(accept: &str, news: &Acceptances) -> String {
    let Acceptances { open, accepted, refused, ended, .. } = news;
    let ended: Vec<_> = ended.iter().map(|e| (e.offer, e.failed, e.kept)).collect();
    format!("tells {accept}: accepted {accepted:?}, refused {refused:?}, ended {ended:?}, open {open:?}")
}

/// A job given back, as it is sent: one whose text does not fit beside what is said of it goes by its place in the log.
fn give_back(mut back: Return, parcel: Option<wire::Job>) -> Message {
    let size = headers::json(&back).len() + 512;
    let parcel = parcel.filter(|parcel| parcel.bytes() + size <= MAX_PAYLOAD);
    back.in_log = parcel.is_none();
    let bytes = size + parcel.as_ref().map_or(0, |parcel| parcel.bytes());
    let subject = subjects::returns(&back.subject.region);
    Message { bytes, ..Message::new(subject, Body::Return(back.into(), parcel)) }
}
