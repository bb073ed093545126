//! A dispatcher: [`Jobs`] as it is, and a driver that carries its effects as the task of the real dispatcher does.

mod chain;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use dispatcher::{
    DispatcherConfig,
    ending::Ending,
    feed::{Feed, PULL_EXPIRES},
    jobs::{Delivered, Effect, Event, JobKey, Jobs, PullEnd, Suspect},
    nats::{self, Parcel},
};
use rand::{SeedableRng, rngs::StdRng};
use schemas::{
    AttemptKey, Lane, Micros,
    failure::{Failure, FailureClass},
    handover::Handover,
    headers,
    job::Head,
    lease::Lease,
    subjects::{self, JobSubject},
};

use self::chain::{Chain, ChainId};
use super::Process;
use crate::{
    client::{Client, FIRST_FREE, Said},
    desk::Desk,
    mutation::Mutation,
    net::{Line, Subscription},
    setup,
    wire::{self, API, Ack, Ask, Body, MAX_PAYLOAD, Message, Told},
    world::CallNews,
};

/// How often time is told to a dispatcher that holds jobs, and to one that does not. The real one does it more often.
const TICK: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(250));
/// Look-ups at once.
const LOOK_UPS_MAX: usize = 8;
/// What a message has besides headers and body.
const FRAME: usize = 512;
/// How long an extension may take.
const EXTEND_WITHIN: Duration = Duration::from_secs(2);

/// How long messages that were sent before a subscription ended may take to come.
const DRAINS: Duration = Duration::from_millis(500);

const DELIVERIES: u32 = FIRST_FREE;
const ANSWERS: u32 = FIRST_FREE + 1;
const BEATS: u32 = FIRST_FREE + 2;
const RETURNS: u32 = FIRST_FREE + 3;

/// A dispatcher.
pub(super) struct Dispatcher {
    jobs: Jobs,
    client: Client<Token>,
    accept: String,
    inbox: String,
    effects: Vec<Effect>,
    chains: BTreeMap<ChainId, Chain>,
    next_chain: ChainId,
    /// Chains that wait before they try again.
    paused: Vec<(Micros, ChainId)>,
    look_ups: VecDeque<Vec<Suspect>>,
    looking_up: usize,
    tick_at: Micros,
    /// Since it was asked to end: until when it may go on.
    ends_by: Option<Micros>,
    ended: bool,
}

/// What was asked of the server.
#[derive(Debug)]
enum Token {
    /// A lease to be extended, and when, by the wall clock.
    Extend(JobKey, u64, Micros),
    /// The next step of a chain.
    Chain(ChainId),
}

impl Dispatcher {
    pub(super) fn start(desk: &mut Desk<'_>) -> Self {
        let (name, plan) = (desk.life_name(), desk.plan());
        let config: Arc<DispatcherConfig> = Arc::new(setup::dispatcher(&plan, desk.name()));
        let client = Client::start(&name, desk);
        let (inbox, accept) = (format!("_INBOX.{name}.jobs"), format!("_INBOX.{name}.answers"));
        let region = setup::region();
        for (number, filter, group) in [
            (DELIVERIES, format!("{inbox}.*.*"), None),
            (ANSWERS, accept.clone(), None),
            (BEATS, subjects::HEARTBEATS.to_owned(), None),
            (RETURNS, subjects::returns(&region), Some(subjects::dispatch_group(&region).into())),
        ] {
            desk.subscribe(Line::Bulk, Subscription { number, filter: filter.into(), group });
        }
        let feeds = Lane::ALL.map(|lane| Feed::new(region.clone(), setup::model(), lane)).into();
        let rng = StdRng::seed_from_u64(plan.seed ^ desk.now().get());
        let jobs = Jobs::new(config, accept.clone(), feeds, Box::new(|_, _| None), rng);
        Self {
            jobs,
            client,
            accept,
            inbox,
            effects: Vec::new(),
            chains: BTreeMap::new(),
            next_chain: 0,
            paused: Vec::new(),
            look_ups: VecDeque::new(),
            looking_up: 0,
            tick_at: desk.now(),
            ends_by: None,
            ended: false,
        }
    }

    fn apply(&mut self, event: Event, desk: &Desk<'_>) {
        self.jobs.apply(event, desk.wall(), &mut self.effects);
    }

    /// Does what the machine wants done, after each event.
    fn carry_out(&mut self, desk: &mut Desk<'_>) {
        self.jobs.settle(desk.wall(), &mut self.effects);
        while !self.effects.is_empty() {
            for effect in std::mem::take(&mut self.effects) {
                self.carry_out_one(effect, desk);
            }
            while self.looking_up < LOOK_UPS_MAX
                && let Some(suspects) = self.look_ups.pop_front()
            {
                self.looking_up += 1;
                self.begin(Chain::look_up(suspects), desk);
            }
        }
        if let Some(by) = self.ends_by {
            let settled = self.jobs.is_settled() && self.chains.is_empty() && self.client.is_settled();
            // What was on its way when it stopped listening comes first.
            let quiet = desk.now() + setup::GRACE >= by + DRAINS;
            self.ended = (settled && quiet) || desk.now() >= by;
        }
    }

    fn carry_out_one(&mut self, effect: Effect, desk: &mut Desk<'_>) {
        match effect {
            Effect::Pull { feed, number, batch } => {
                let of = &self.jobs.feeds()[feed];
                let (stream, consumer) = (of.stream.as_str().into(), of.consumer.as_str().into());
                let ask = Ask::Pull { stream, consumer, batch, expires: PULL_EXPIRES };
                let reply = format!("{}.{feed}.{number}", self.inbox);
                desk.send(Line::Bulk, Message::new(API, Body::Ask(ask)).with_reply(reply));
            }
            Effect::Repair => {}
            Effect::Offer { pool, handover, parcel } => {
                let job = handover.lease.stream_seq;
                let (by, now) = (desk.process(), desk.now());
                desk.audit().offers(by, AttemptKey::of(&self.accept, handover.offer), now);
                desk.note(Some(job), || {
                    let Handover { offer, attempt, hedge, lease, .. } = &*handover;
                    let hedge = if *hedge { ", a second one" } else { "" };
                    format!(
                        "offers {offer} to {pool}: attempt {attempt}{hedge}, delivery {}",
                        lease.delivered
                    )
                });
                let most = if desk.has(Mutation::OffersTooMuch) { usize::MAX } else { MAX_PAYLOAD };
                desk.send(Line::Bulk, offer(subjects::work(&pool), &self.accept, *handover, parcel, most));
            }
            Effect::Order { pool, worker, order } => {
                desk.note(None, || format!("orders {worker}: {order:?}"));
                let subject = subjects::orders(&pool, &worker);
                desk.send(Line::Control, Message::new(subject, Body::Order(order.into())));
            }
            Effect::Ack(lease) => {
                desk.note(Some(lease.stream_seq), || "acks".to_owned());
                self.client.ack(&lease, desk);
            }
            Effect::GiveBack { lease, untried: _ } => {
                desk.note(Some(lease.stream_seq), || format!("naks delivery {}", lease.delivered));
                let nak = Body::Ack(Ack::Nak(Duration::ZERO));
                desk.send(Line::Control, Message::new(lease.subject(), nak));
            }
            Effect::Extend { job, lease } => {
                let token = Token::Extend(job, lease.consumer_seq, desk.wall());
                let message = Message::new(lease.subject(), Body::Ack(Ack::Progress));
                self.client.request(token, Line::Control, message, EXTEND_WITHIN, desk);
            }
            Effect::LookUp(suspects) => self.look_ups.push_back(suspects),
            Effect::End(ending) => {
                desk.note(Some(ending.lease().stream_seq), || {
                    format!("ends it {}: {}", ending.status().as_str(), ending.failure().class)
                });
                self.begin(Chain::end(ending, desk.wall()), desk);
            }
            Effect::BookLost(lost) => {
                desk.note(Some(lost.lease.stream_seq), || format!("books attempt {} as lost", lost.key));
                self.begin(Chain::lost(*lost), desk);
            }
            Effect::Tell { pool, change, class, .. } => {
                desk.note(None, || format!("{pool}: {change:?} {class:?}"));
            }
        }
    }

    fn delivered(&mut self, message: &Message, desk: &mut Desk<'_>) {
        if let Body::Told(told) = &message.body {
            let mut parts = message.subject.rsplit('.');
            let (Some(number), Some(feed)) = (parts.next(), parts.next()) else { return };
            let (Ok(number), Ok(feed)) = (number.parse(), feed.parse()) else { return };
            let end = match told {
                Told::PullEnd(wire::PullEnd::Expired) => PullEnd::Empty,
                Told::PullEnd(wire::PullEnd::Refused) => PullEnd::Unserved,
                Told::NoResponders => PullEnd::Gone,
                Told::Stored { .. } | Told::Refused(_) | Told::Heard | Told::Got(_) | Told::Found(_) => {
                    return;
                }
            };
            self.apply(Event::PullEnded { feed, number, end }, desk);
            return;
        }
        let (Body::Job(parcel), Some(reply)) = (&message.body, &message.reply) else { return };
        let Ok(lease) = reply.parse::<Lease>() else { return };
        desk.note(Some(lease.stream_seq), || format!("gets delivery {}", lease.delivered));
        let Ok(subject) = message.subject.parse::<JobSubject>() else { return };
        match Head::read(subject, nats::job_headers(Some(&parcel.headers)), &parcel.body, desk.wall()) {
            Ok(head) => {
                let parcel = parcel.as_ref().clone();
                self.apply(Event::Delivered(Box::new(Delivered { head, parcel, lease })), desk);
            }
            Err(_) if desk.has(Mutation::DropsBroken) => self.client.ack(&lease, desk),
            Err(error) => self.broken(message, parcel, lease, &error.to_string()),
        }
    }

    /// A delivery is no job: it ends, and whoever sent it is told if id and mailbox can be found.
    fn broken(&mut self, message: &Message, parcel: &Parcel, lease: Lease, error: &str) {
        let Some(feed) = self.jobs.counted(&lease) else { return };
        let (region, model) = (feed.region.clone(), feed.model.clone());
        let failure = Failure::new(FailureClass::Undecodable, error);
        let message = async_nats::Message {
            subject: message.subject.to_string().into(),
            reply: None,
            payload: parcel.body.clone(),
            headers: Some(parcel.headers.clone()),
            status: None,
            description: None,
            length: parcel.bytes(),
        };
        let ending = Ending::broken(&message, lease, failure, region, model);
        self.effects.push(Effect::End(Box::new(ending)));
    }

    fn said(&mut self, said: Said<Token>, desk: &mut Desk<'_>) {
        let (token, told) = match said {
            Said::Stored(token, seq, duplicate) => (token, Some(Told::Stored { seq, duplicate })),
            Said::Refused(token, why) => (token, Some(Told::Refused(why))),
            Said::Answered(token, told) => (token, Some(told)),
            Said::Silent(token) => (token, None),
        };
        match token {
            Token::Extend(job, delivery, asked) => {
                if told.is_some() {
                    self.apply(Event::Extended { job, delivery, asked }, desk);
                }
            }
            Token::Chain(id) => self.advance(id, told, desk),
        }
    }
}

impl Process for Dispatcher {
    fn heard(&mut self, _line: Line, number: u32, message: &Message, desk: &mut Desk<'_>) {
        match (number, &message.body) {
            (DELIVERIES, _) => self.delivered(message, desk),
            (ANSWERS, Body::Answers(news)) => {
                for offer in news.accepted.iter().copied().chain(news.ended.iter().map(|ended| ended.offer)) {
                    // Of an offer that lapsed before, it knows nothing any more.
                    if self.jobs.records().any(|(_, record)| record.open.iter().any(|a| a.offer == offer)) {
                        desk.audit().hears_of(AttemptKey::of(&self.accept, offer));
                    }
                }
                let mut news = news.as_ref().clone();
                news.open = news.open.filter(|_| !desk.has(Mutation::DeafToRollCalls));
                self.apply(Event::Answered(news), desk);
            }
            (BEATS, Body::Beat(beat)) => self.apply(Event::Heard(beat.as_ref().clone()), desk),
            (RETURNS, Body::Return(back, parcel)) => {
                desk.note(Some(back.lease.stream_seq), || {
                    format!("hears that attempt {} failed: {}", back.attempt, back.failure.class)
                });
                match parcel {
                    Some(parcel) => self.joined(back.as_ref().clone(), parcel.as_ref().clone(), desk),
                    None => self.begin(Chain::read(back.as_ref().clone()), desk),
                }
            }
            (0..FIRST_FREE, _) => {
                if let Some(said) = self.client.heard(message, desk) {
                    self.said(said, desk);
                }
            }
            _ => {}
        }
        self.carry_out(desk);
    }

    fn connected(&mut self, line: Line, desk: &mut Desk<'_>) {
        self.client.connected(line, desk);
        if line == Line::Bulk {
            self.apply(Event::Reconnected, desk);
        }
        self.carry_out(desk);
    }

    fn answered(&mut self, _news: &CallNews, _desk: &mut Desk<'_>) {}

    fn woken(&mut self, desk: &mut Desk<'_>) {
        for said in self.client.woken(desk) {
            self.said(said, desk);
        }
        self.resume(desk);
        if self.tick_at <= desk.now() {
            self.apply(Event::Tick, desk);
            let holds = self.jobs.records().next().is_some();
            self.tick_at = desk.now() + if holds { TICK.0 } else { TICK.1 };
            desk.audit().holds(&self.jobs.count());
        }
        self.carry_out(desk);
    }

    fn end(&mut self, desk: &mut Desk<'_>) {
        if self.ends_by.is_none() {
            self.ends_by = Some(desk.now() + setup::GRACE);
            desk.unsubscribe(Line::Bulk, RETURNS);
            desk.unsubscribe(Line::Bulk, DELIVERIES);
            self.apply(Event::Stop, desk);
            self.carry_out(desk);
        }
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn wake_at(&self) -> Option<Micros> {
        let paused = self.paused.iter().map(|(at, _)| *at);
        self.client.wake_at().into_iter().chain([self.tick_at]).chain(paused).min()
    }

    fn busy(&self) -> Option<String> {
        let count = self.jobs.count();
        let still = self
            .jobs
            .records()
            .next()
            .map(|(key, record)| format!("{key:?} is {:?}, {count:?}", record.stage));
        let chain = self.chains.values().next().map(|chain| format!("{chain:?}"));
        still.or(chain).or_else(|| (!self.client.is_settled()).then(|| "messages on their way".to_owned()))
    }
}

/// An offer as it is sent: a job whose text does not fit beside the handover goes by its place in the log.
fn offer(
    subject: String,
    accept: &str,
    mut handover: Handover,
    parcel: Option<Parcel>,
    most: usize,
) -> Message {
    let size = headers::json(&handover).len() + FRAME;
    let parcel = parcel.filter(|parcel| parcel.bytes() + size <= most);
    handover.in_log = parcel.is_none();
    let bytes = size + parcel.as_ref().map_or(0, Parcel::bytes);
    let body = Body::Offer(handover.into(), parcel.map(Into::into));
    Message { bytes, ..Message::new(subject, body) }.with_reply(accept)
}
