//! What a dispatcher does in several steps beside its machine, each step a question to the server: looking jobs up, ending jobs,
//! booking attempts whose workers vanished. The decisions are those of `look_up`, `ending` and `lost`; the order of questions mirrors
//! the async code there.

use std::{
    collections::{HashSet, VecDeque},
    time::Duration,
};

use dispatcher::{
    ending::Ending,
    jobs::{Event, Fate, Finding, Lost, Suspect},
    look_up, nats,
};
use schemas::{
    JobId, Micros,
    cost::CostEvent,
    failure::FailureClass,
    handover::Return,
    job::Head,
    journal::Journal,
    reply::{JobResult, Status},
    subjects,
    topology::{JOURNAL_BUCKET, LEDGER, REPLIES, bucket_stream},
};

use super::{Dispatcher, Token};
use crate::{
    desk::Desk,
    net::Line,
    wire::{API, Ack, Ask, Body, Message, Stored, Told},
};

/// Names a chain.
pub(super) type ChainId = u64;

/// How long a scan may take.
const SCAN_WITHIN: Duration = Duration::from_secs(30);
/// How long one message may take to be read.
const GET_WITHIN: Duration = Duration::from_secs(5);
/// How long an extension may take.
const EXTEND_WITHIN: Duration = Duration::from_secs(2);
/// Before what was refused, or not answered, is tried again.
const PAUSE: Duration = Duration::from_secs(1);
/// Clocks differ: scans begin a little earlier.
const MARGIN: Duration = Duration::from_secs(5);

/// Steps that follow each other.
#[derive(Debug)]
pub(super) enum Chain {
    /// Jobs of one mailbox are looked up, one after the other.
    LookUp(Box<LookUp>),
    /// A job is ended.
    End(Box<End>),
    /// An attempt of a vanished worker is booked.
    Lost(Box<BookLost>),
    /// A returned job is read from the log.
    Read(Box<Return>),
}

#[derive(Debug)]
pub(super) struct LookUp {
    suspects: VecDeque<Suspect>,
    findings: Vec<Finding>,
    results: Vec<(JobId, u64)>,
    costs: HashSet<String>,
    step: Step,
    /// Of the first suspect: results to be read, results read, costs to be stored, when its lease was extended.
    seqs: VecDeque<u64>,
    read: Vec<JobResult>,
    missing: Vec<CostEvent>,
    leased: Option<Micros>,
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Results,
    Costs,
    Extend(Micros),
    Result,
    Repair,
    Journal,
}

#[derive(Debug)]
pub(super) struct End {
    ending: Box<Ending>,
    step: EndStep,
    costs: Vec<CostEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum EndStep {
    Begin,
    Letter,
    Cost,
    Result,
    First,
    Taken,
}

#[derive(Debug)]
pub(super) struct BookLost {
    lost: Lost,
    step: LostStep,
    seqs: VecDeque<u64>,
    read: Vec<JobResult>,
    event: Option<CostEvent>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LostStep {
    Results,
    Result,
    Journal,
    Book,
}

impl Chain {
    /// Looks jobs up.
    pub(super) fn look_up(suspects: Vec<Suspect>) -> Self {
        Self::LookUp(Box::new(LookUp {
            suspects: suspects.into(),
            findings: Vec::new(),
            results: Vec::new(),
            costs: HashSet::new(),
            step: Step::Results,
            seqs: VecDeque::new(),
            read: Vec::new(),
            missing: Vec::new(),
            leased: None,
        }))
    }

    /// Ends a job.
    pub(super) fn end(ending: Box<Ending>, now: Micros) -> Self {
        let costs = ending.unfinished(now);
        Self::End(Box::new(End { ending, step: EndStep::Begin, costs }))
    }

    /// Books an attempt.
    pub(super) fn lost(lost: Lost) -> Self {
        let (step, seqs, read) = (LostStep::Results, VecDeque::new(), Vec::new());
        Self::Lost(Box::new(BookLost { lost, step, seqs, read, event: None }))
    }

    /// Reads a returned job.
    pub(super) fn read(back: Return) -> Self {
        Self::Read(Box::new(back))
    }
}

impl Dispatcher {
    /// Begins a chain.
    pub(super) fn begin(&mut self, chain: Chain, desk: &mut Desk<'_>) {
        self.next_chain += 1;
        self.first(self.next_chain, chain, desk);
    }

    /// Takes the first step of a chain, again perhaps.
    fn first(&mut self, id: ChainId, chain: Chain, desk: &mut Desk<'_>) {
        match &chain {
            Chain::LookUp(look_up) => {
                let Some(first) = look_up.suspects.front() else { return };
                let subject = subjects::result(&first.head.subject.tenant, &first.head.mailbox);
                self.ask(id, scan(REPLIES, subject, look_up.since()), SCAN_WITHIN, desk);
            }
            Chain::End(_) => {
                self.chains.insert(id, chain);
                self.advance(id, None, desk);
                return;
            }
            Chain::Lost(book) => {
                let head = &book.lost.head;
                let subject = subjects::result(&head.subject.tenant, &head.mailbox);
                self.ask(id, scan(REPLIES, subject, book.lost.lease.stored_at), SCAN_WITHIN, desk);
            }
            Chain::Read(back) => {
                let ask = Ask::At { stream: back.lease.stream().into(), seq: back.lease.stream_seq };
                self.ask(id, ask, GET_WITHIN, desk);
            }
        }
        self.chains.insert(id, chain);
    }

    fn ask(&mut self, id: ChainId, ask: Ask, patience: Duration, desk: &mut Desk<'_>) {
        let message = Message::new(API, Body::Ask(ask));
        self.client.request(Token::Chain(id), Line::Control, message, patience, desk);
    }

    fn store(&mut self, id: ChainId, message: Message, desk: &mut Desk<'_>) {
        self.client.publish(Token::Chain(id), Line::Control, message, desk);
    }

    /// What was put off is due.
    pub(super) fn resume(&mut self, desk: &mut Desk<'_>) {
        let now = desk.now();
        let (due, later) = std::mem::take(&mut self.paused).into_iter().partition(|(at, _)| *at <= now);
        self.paused = later;
        let due: Vec<(Micros, ChainId)> = due;
        for (_, id) in due {
            match self.chains.remove(&id) {
                Some(Chain::Lost(book)) if book.event.is_none() => {
                    let again = Chain::lost(book.lost);
                    self.first(id, again, desk);
                }
                Some(Chain::Lost(book)) => {
                    if let Some(event) = book.event.clone() {
                        self.store(id, cost(&book.lost.head, event), desk);
                    }
                    self.chains.insert(id, Chain::Lost(book));
                }
                Some(Chain::End(end)) => {
                    if let (Some(event), Some(head)) = (end.costs.first().cloned(), end.ending.head()) {
                        self.store(id, cost(head, event), desk);
                    }
                    self.chains.insert(id, Chain::End(end));
                }
                Some(chain @ (Chain::LookUp(_) | Chain::Read(_))) => drop(self.chains.insert(id, chain)),
                None => {}
            }
        }
    }

    /// The server has answered a step, or not.
    pub(super) fn advance(&mut self, id: ChainId, told: Option<Told>, desk: &mut Desk<'_>) {
        match self.chains.remove(&id) {
            Some(Chain::LookUp(look_up)) => self.look_on(id, look_up, told, desk),
            Some(Chain::End(end)) => self.end_on(id, end, told.as_ref(), desk),
            Some(Chain::Lost(book)) => self.book_on(id, book, told, desk),
            Some(Chain::Read(back)) => {
                if let Some(Told::Got(Some(stored))) = told
                    && let Body::Job(parcel) = &stored.message.body
                {
                    self.joined(*back, parcel.as_ref().clone(), desk);
                }
            }
            None => {}
        }
    }

    /// A returned job, with its text.
    pub(super) fn joined(&mut self, back: Return, parcel: nats::Parcel, desk: &Desk<'_>) {
        if let Ok(returned) = nats::join_return(back, parcel, desk.wall()) {
            self.apply(Event::Returned(Box::new(returned)), desk);
        }
    }

    fn look_on(&mut self, id: ChainId, mut look_up: Box<LookUp>, told: Option<Told>, desk: &mut Desk<'_>) {
        let step = std::mem::replace(&mut look_up.step, Step::Results);
        match (step, told) {
            (Step::Results, Some(Told::Found(found))) => {
                look_up.results = results(&found);
                let known = |s: &Suspect| look_up.results.iter().any(|(job, _)| *job == s.head.id);
                if let Some(first) = look_up.suspects.front().filter(|_| look_up.suspects.iter().any(known)) {
                    let subject = subjects::cost(&first.head.subject.tenant, &first.head.mailbox);
                    self.ask(id, scan(LEDGER, subject, look_up.since()), SCAN_WITHIN, desk);
                    look_up.step = Step::Costs;
                    self.chains.insert(id, Chain::LookUp(look_up));
                    return;
                }
                self.look_at_first(id, look_up, desk);
            }
            (Step::Costs, Some(Told::Found(found))) => {
                let ids = found.into_iter().filter_map(|stored| stored.message.id);
                look_up.costs = ids.map(|id| id.to_string()).collect();
                self.look_at_first(id, look_up, desk);
            }
            (Step::Results | Step::Costs, _) => {
                let unknown = look_up.suspects.drain(..).map(|s| finding(&s, Fate::Unknown, None));
                look_up.findings.extend(unknown);
                self.found(look_up.findings, desk);
            }
            (Step::Extend(asked), Some(_)) => {
                look_up.leased = Some(asked);
                self.look_for_result(id, look_up, desk);
            }
            (Step::Result, Some(Told::Got(Some(found)))) => {
                look_up.read.extend(result_in(Some(found.message)));
                self.look_for_result(id, look_up, desk);
            }
            (Step::Repair, Some(Told::Stored { .. })) => self.repair(id, look_up, desk),
            (Step::Journal, Some(Told::Got(found))) => {
                self.fate(id, look_up, Fate::Again(journal_in(found)), desk);
            }
            (Step::Extend(_) | Step::Repair | Step::Result | Step::Journal, _) => {
                self.fate(id, look_up, Fate::Unknown, desk);
            }
        }
    }

    fn look_at_first(&mut self, id: ChainId, mut look_up: Box<LookUp>, desk: &mut Desk<'_>) {
        let Some(first) = look_up.suspects.front() else {
            self.found(look_up.findings, desk);
            return;
        };
        let job = first.head.id;
        look_up.seqs = look_up.results.iter().filter(|(of, _)| *of == job).map(|(_, seq)| *seq).collect();
        (look_up.read, look_up.missing, look_up.leased) = Default::default();
        if first.confirm {
            let message = Message::new(first.lease.subject(), Body::Ack(Ack::Progress));
            self.client.request(Token::Chain(id), Line::Control, message, EXTEND_WITHIN, desk);
            look_up.step = Step::Extend(desk.wall());
            self.chains.insert(id, Chain::LookUp(look_up));
            return;
        }
        self.look_for_result(id, look_up, desk);
    }

    fn look_for_result(&mut self, id: ChainId, mut look_up: Box<LookUp>, desk: &mut Desk<'_>) {
        let Some(first) = look_up.suspects.front() else { return };
        let known = look_up.results.iter().any(|(of, _)| *of == first.head.id);
        let ask = match look_up.seqs.pop_front() {
            Some(seq) => {
                look_up.step = Step::Result;
                Ask::At { stream: REPLIES.into(), seq }
            }
            None if known => {
                let missing = |result| look_up::missing_event(first, result, &look_up.costs);
                look_up.missing = look_up.read.iter().filter_map(missing).collect();
                self.repair(id, look_up, desk);
                return;
            }
            None => {
                look_up.step = Step::Journal;
                journal(&first.head)
            }
        };
        self.ask(id, ask, GET_WITHIN, desk);
        self.chains.insert(id, Chain::LookUp(look_up));
    }

    /// Stores the next cost that follows from a result and is missing.
    fn repair(&mut self, id: ChainId, mut look_up: Box<LookUp>, desk: &mut Desk<'_>) {
        let Some(first) = look_up.suspects.front() else { return };
        if let Some(event) = look_up.missing.pop() {
            let message = cost(&first.head, event);
            self.store(id, message, desk);
            look_up.step = Step::Repair;
            self.chains.insert(id, Chain::LookUp(look_up));
            return;
        }
        let fate = look_up::fate(first, &look_up.read);
        self.fate(id, look_up, fate, desk);
    }

    /// What became of the first suspect; the next one follows.
    fn fate(&mut self, id: ChainId, mut look_up: Box<LookUp>, fate: Fate, desk: &mut Desk<'_>) {
        if let Some(first) = look_up.suspects.pop_front() {
            desk.note(Some(first.job.seq), || {
                let what = match &fate {
                    Fate::Again(journal) => {
                        format!("goes on, {} attempts in the journal", journal.entries.len())
                    }
                    fate => format!("{fate:?}"),
                };
                format!("looked up: {what}")
            });
            let leased = look_up.leased.filter(|_| !matches!(fate, Fate::Unknown));
            look_up.findings.push(finding(&first, fate, leased));
        }
        self.look_at_first(id, look_up, desk);
    }

    fn found(&mut self, findings: Vec<Finding>, desk: &Desk<'_>) {
        self.looking_up -= 1;
        self.apply(Event::Found(findings), desk);
    }

    /// Ends a job: the dead letter, the costs that nobody else books, the result, the lease.
    fn end_on(&mut self, id: ChainId, mut end: Box<End>, told: Option<&Told>, desk: &mut Desk<'_>) {
        let refused = matches!(told, Some(Told::Refused(_)) | None);
        let now = desk.wall();
        match end.step {
            EndStep::Begin => {
                end.step = EndStep::Letter;
                if let Some((message, letter)) = end.letter(now) {
                    let message =
                        Message::new(message, Body::Dead(letter.into())).with_id(end.ending.letter_id());
                    self.store(id, message, desk);
                } else {
                    self.end_on(id, end, Some(&Told::Heard), desk);
                    return;
                }
            }
            EndStep::Cost if refused => self.paused.push((desk.now() + PAUSE, id)),
            EndStep::Letter | EndStep::Cost => {
                if end.step == EndStep::Cost {
                    end.costs.remove(0);
                }
                let next = end.costs.first().cloned().zip(end.ending.head());
                if let Some(message) = next.map(|(event, head)| cost(head, event)) {
                    end.step = EndStep::Cost;
                    self.store(id, message, desk);
                } else if let Some(message) = end.result(now, None) {
                    let taken = end.ending.failure().class == FailureClass::IdTaken;
                    end.step = if taken { EndStep::Taken } else { EndStep::Result };
                    self.store(id, message, desk);
                } else {
                    self.conclude(&end, true, desk);
                    return;
                }
            }
            EndStep::Result | EndStep::Taken if refused => {
                self.conclude(&end, false, desk);
                return;
            }
            EndStep::Result => {
                let Some(Told::Stored { seq, duplicate: true }) = told else {
                    self.conclude(&end, true, desk);
                    return;
                };
                end.step = EndStep::First;
                self.ask(id, Ask::At { stream: REPLIES.into(), seq: *seq }, GET_WITHIN, desk);
            }
            EndStep::First => {
                let found = if let Some(Told::Got(found)) = told { found.clone() } else { None };
                let first = result_in(found.map(|found| found.message));
                let place = end.ending.result(now).and_then(|(result, ..)| result.log);
                let other = first.filter(|first| first.log.is_some() && first.log != place);
                let Some(message) = other.and_then(|first| end.result(now, Some(&first))) else {
                    self.conclude(&end, true, desk);
                    return;
                };
                end.step = EndStep::Taken;
                self.store(id, message, desk);
            }
            EndStep::Taken => {
                self.conclude(&end, true, desk);
                return;
            }
        }
        self.chains.insert(id, Chain::End(end));
    }

    /// A job's result is stored and its lease finished; or it was given up, and comes again.
    fn conclude(&mut self, end: &End, stored: bool, desk: &mut Desk<'_>) {
        let lease = end.ending.lease();
        if stored {
            desk.note(Some(lease.stream_seq), || "acks what it has ended".to_owned());
            self.client.ack(lease, desk);
        }
        if let Some(key) = end.ending.key() {
            self.apply(Event::Concluded(key), desk);
        }
    }

    fn book_on(&mut self, id: ChainId, mut book: Box<BookLost>, told: Option<Told>, desk: &mut Desk<'_>) {
        let head = book.lost.head.clone();
        match (book.step, told) {
            (LostStep::Results, Some(Told::Found(found))) => {
                let of = |(job, seq): (JobId, u64)| (job == head.id).then_some(seq);
                book.seqs = results(&found).into_iter().filter_map(of).collect();
            }
            (LostStep::Result, Some(Told::Got(Some(found)))) => {
                book.read.extend(result_in(Some(found.message)));
            }
            (LostStep::Journal, Some(Told::Got(found))) => {
                book.event = book.lost.event(&book.read, &journal_in(found), desk.wall());
                let Some(event) = book.event.clone() else { return };
                book.step = LostStep::Book;
                self.store(id, cost(&head, event), desk);
                self.chains.insert(id, Chain::Lost(book));
                return;
            }
            (LostStep::Book, Some(Told::Stored { .. })) => return,
            // The server does not say, or refuses: again after a pause.
            (LostStep::Results | LostStep::Result | LostStep::Journal | LostStep::Book, _) => {
                self.paused.push((desk.now() + PAUSE, id));
                self.chains.insert(id, Chain::Lost(book));
                return;
            }
        }
        let next = book.seqs.pop_front();
        book.step = if next.is_some() { LostStep::Result } else { LostStep::Journal };
        let ask = next.map_or_else(|| journal(&head), |seq| Ask::At { stream: REPLIES.into(), seq });
        self.ask(id, ask, GET_WITHIN, desk);
        self.chains.insert(id, Chain::Lost(book));
    }
}

impl LookUp {
    fn since(&self) -> Micros {
        self.suspects.iter().map(|suspect| suspect.lease.stored_at).min().unwrap_or_default()
    }
}

impl End {
    fn letter(&self, now: Micros) -> Option<(String, schemas::dead::Obituary)> {
        let letter = self.ending.letter(now)?;
        let (region, model) = (crate::setup::region(), crate::setup::model());
        Some((subjects::dead(&region, &model, self.ending.failure().class), letter))
    }

    /// The terminal result; with `first`, the one that tells that the id belongs to another job.
    fn result(&self, now: Micros, first: Option<&JobResult>) -> Option<Message> {
        let (mut result, tenant, mailbox, _) = self.ending.result(now)?;
        let taken = first.is_some() || self.ending.failure().class == FailureClass::IdTaken;
        if let Some(first) = first {
            (result.status, result.error) = (Status::Failed, Some(look_up::id_taken(first)));
        }
        let id = if taken {
            result.job.taken_message(tenant, self.ending.lease().stream_seq)
        } else {
            result.job.result_message(tenant)
        };
        Some(Message::new(subjects::result(tenant, mailbox), Body::Result(result.into())).with_id(id))
    }
}

fn scan(stream: &str, subject: String, since: Micros) -> Ask {
    Ask::Since { stream: stream.into(), subject: subject.into(), since: since - MARGIN }
}

fn journal(head: &Head) -> Ask {
    let subject = format!("$KV.{JOURNAL_BUCKET}.{}", head.id.journal_key(&head.subject.tenant));
    Ask::Last { stream: bucket_stream(JOURNAL_BUCKET).into(), subject: subject.into() }
}

fn journal_in(found: Option<Box<Stored>>) -> Journal {
    match found.map(|found| found.message.body) {
        Some(Body::Journal(journal)) => journal.as_ref().clone(),
        Some(_) | None => Journal::default(),
    }
}

fn result_in(message: Option<Message>) -> Option<JobResult> {
    match message?.body {
        Body::Result(result) => Some(result.as_ref().clone()),
        _ => None,
    }
}

/// The jobs that stored results are of, and where they lie.
fn results(found: &[Stored]) -> Vec<(JobId, u64)> {
    let read = |stored: &Stored| Some((JobId::from_result_message(stored.message.id.as_ref()?)?, stored.seq));
    found.iter().filter_map(read).collect()
}

fn finding(suspect: &Suspect, fate: Fate, leased: Option<Micros>) -> Finding {
    // Nothing is noted here of jobs that were given back untried: their deliveries count.
    Finding { job: suspect.job, delivery: suspect.lease.consumer_seq, fate, leased, untried: 0 }
}

fn cost(head: &Head, event: CostEvent) -> Message {
    let id = event.message_id().unwrap_or_default();
    let subject = subjects::cost(&head.subject.tenant, &head.mailbox);
    Message::new(subject, Body::Cost(event.into())).with_id(id)
}
