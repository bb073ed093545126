//! What a dispatcher does in several steps beside its machine, each step a question to the server: looking jobs up, ending jobs,
//! booking attempts whose workers vanished. Mirrors `look_up`, `ending` and `lost` of the real dispatcher, which are async.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    rc::Rc,
    time::Duration,
};

use dispatcher::{
    ending::Ending,
    jobs::{Event, Fate, Finding, JobKey, Lost, Suspect},
    look_up::id_taken,
    nats,
};
use schemas::{
    JobId, Micros, UsdNanos,
    cost::{Bill, CostEvent, CostLine, Purpose},
    dead::Obituary,
    failure::{Failure, FailureClass},
    handover::Return,
    job::{Head, Salvage},
    journal::Journal,
    lease::Lease,
    prices::Unit,
    reply::{JobResult, LogPlace, Status, Timings},
    subjects::{self, JobSubject},
    topology::{JOURNAL_BUCKET, LEDGER, REPLIES, bucket_stream},
};
use transport::stored;

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
/// Clocks differ: scans begin a little earlier.
const MARGIN: Duration = Duration::from_secs(5);

/// Steps that follow each other.
#[derive(Debug)]
pub(super) enum Chain {
    /// Jobs of one mailbox are looked up.
    LookUp(Box<LookUp>),
    /// A job is ended: its messages are stored, then its lease is finished.
    End(Lease, Option<JobKey>, VecDeque<Message>),
    /// An attempt of a vanished worker is booked.
    Lost(Box<BookLost>),
    /// A returned job is read from the log.
    Read(Box<Return>),
}

/// Jobs of one mailbox, looked up one after the other.
#[derive(Debug)]
pub(super) struct LookUp {
    suspects: VecDeque<Suspect>,
    findings: Vec<Finding>,
    results: Vec<(JobId, u64)>,
    costs: Option<BTreeSet<Rc<str>>>,
    step: Step,
    /// Of the first suspect: its results that are still to be read, another job's result, when its lease was extended.
    seqs: VecDeque<u64>,
    other: Option<Rc<JobResult>>,
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

/// An attempt of a vanished worker.
#[derive(Debug)]
pub(super) struct BookLost {
    lost: Lost,
    /// Results with the job's id that are still to be read.
    seqs: VecDeque<u64>,
    any: bool,
    step: LostStep,
}

#[derive(Debug, PartialEq, Eq)]
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
            costs: None,
            step: Step::Results,
            seqs: VecDeque::new(),
            other: None,
            leased: None,
        }))
    }

    /// Ends a job.
    pub(super) fn end(ending: &Ending, now: Micros) -> Self {
        Self::End(ending.lease().clone(), ending.key(), end_messages(ending, now))
    }

    /// Ends what is no job.
    pub(super) fn broken(
        left: Salvage,
        subject: Option<JobSubject>,
        lease: Lease,
        error: &str,
        now: Micros,
    ) -> Self {
        let failure = Failure::new(FailureClass::Undecodable, error);
        let mut messages = VecDeque::new();
        if let (Some(id), Some(subject), Some(mailbox)) = (left.id, subject, left.mailbox) {
            let result = result(id, Status::Failed, failure, 0, &lease, now);
            let message =
                Message::new(subjects::result(&subject.tenant, &mailbox), Body::Result(result.into()));
            messages.push_back(message.with_id(id.result_message(&subject.tenant)));
        }
        Self::End(lease, None, messages)
    }

    /// Books an attempt.
    pub(super) fn lost(lost: Box<Lost>) -> Self {
        Self::Lost(Box::new(BookLost {
            lost: *lost,
            seqs: VecDeque::new(),
            any: false,
            step: LostStep::Results,
        }))
    }

    /// Reads a returned job.
    pub(super) fn read(back: Return) -> Self {
        Self::Read(Box::new(back))
    }
}

impl Dispatcher {
    /// Begins a chain.
    pub(super) fn begin(&mut self, mut chain: Chain, desk: &mut Desk<'_>) {
        self.next_chain += 1;
        let id = self.next_chain;
        match &mut chain {
            Chain::LookUp(look_up) => {
                let Some(first) = look_up.suspects.front() else { return };
                let since = look_up.suspects.iter().map(|s| s.lease.stored_at).min().unwrap_or_default();
                let subject = subjects::result(&first.head.subject.tenant, &first.head.mailbox);
                self.ask(id, scan(REPLIES, subject, since), SCAN_WITHIN, desk);
            }
            Chain::End(..) => {
                self.chains.insert(id, chain);
                self.go_on_ending(id, desk);
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

    /// The server has answered a step, or not.
    pub(super) fn advance(&mut self, id: ChainId, told: Option<Told>, desk: &mut Desk<'_>) {
        match self.chains.remove(&id) {
            Some(Chain::LookUp(look_up)) => self.look_on(id, look_up, told, desk),
            // Without its result the job is not finished: its lease runs out and it comes again.
            Some(Chain::End(_, key, messages))
                if messages.is_empty() && matches!(told, Some(Told::Refused(_))) =>
            {
                if let Some(key) = key {
                    self.apply(Event::Concluded(key), desk);
                }
            }
            Some(chain @ Chain::End(..)) => {
                self.chains.insert(id, chain);
                self.go_on_ending(id, desk);
            }
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
                let first = look_up.suspects.front().filter(|_| look_up.suspects.iter().any(known));
                if let Some(first) = first {
                    let since = look_up.suspects.iter().map(|s| s.lease.stored_at).min().unwrap_or_default();
                    let subject = subjects::cost(&first.head.subject.tenant, &first.head.mailbox);
                    look_up.step = Step::Costs;
                    self.ask(id, scan(LEDGER, subject, since), SCAN_WITHIN, desk);
                    self.chains.insert(id, Chain::LookUp(look_up));
                    return;
                }
                self.look_at_first(id, look_up, desk);
            }
            (Step::Costs, Some(Told::Found(found))) => {
                look_up.costs = Some(found.into_iter().filter_map(|stored| stored.message.id).collect());
                self.look_at_first(id, look_up, desk);
            }
            (Step::Results | Step::Costs, _) => {
                let unknown = look_up.suspects.drain(..).map(|s| finding(&s, Fate::Unknown, None));
                look_up.findings.extend(unknown);
                self.found(look_up.findings, desk);
            }
            (Step::Extend(asked), told) => {
                if told.is_none() {
                    self.fate(id, look_up, Fate::Unknown, desk);
                    return;
                }
                look_up.leased = Some(asked);
                self.look_for_result(id, look_up, desk);
            }
            (Step::Result, Some(Told::Got(found))) => self.read(id, look_up, found.map(|s| s.message), desk),
            (Step::Repair, _) => self.fate(id, look_up, Fate::Done, desk),
            (Step::Journal, Some(Told::Got(found))) => {
                let journal = found.map(|stored| stored.message.body);
                let journal =
                    if let Some(Body::Journal(journal)) = journal { journal } else { Rc::default() };
                self.fate(id, look_up, Fate::Again(journal.as_ref().clone()), desk);
            }
            (Step::Result | Step::Journal, _) => self.fate(id, look_up, Fate::Unknown, desk),
        }
    }

    fn look_at_first(&mut self, id: ChainId, mut look_up: Box<LookUp>, desk: &mut Desk<'_>) {
        let Some(first) = look_up.suspects.front() else {
            self.found(look_up.findings, desk);
            return;
        };
        let job = first.head.id;
        (look_up.other, look_up.leased) = (None, None);
        look_up.seqs = look_up.results.iter().filter(|(of, _)| *of == job).map(|(_, seq)| *seq).collect();
        if first.confirm {
            look_up.step = Step::Extend(desk.wall());
            let message = Message::new(first.lease.subject(), Body::Ack(Ack::Progress));
            self.client.request(Token::Chain(id), Line::Control, message, EXTEND_WITHIN, desk);
            self.chains.insert(id, Chain::LookUp(look_up));
            return;
        }
        self.look_for_result(id, look_up, desk);
    }

    fn look_for_result(&mut self, id: ChainId, mut look_up: Box<LookUp>, desk: &mut Desk<'_>) {
        let Some(first) = look_up.suspects.front() else { return };
        let (head, known) = (first.head.clone(), look_up.results.iter().any(|(of, _)| *of == first.head.id));
        let ask = match look_up.seqs.pop_front() {
            Some(seq) => {
                look_up.step = Step::Result;
                Ask::At { stream: REPLIES.into(), seq }
            }
            None if known => {
                let taken = look_up.other.take();
                let fate = taken.map_or(Fate::Done, |result| Fate::IdTaken(id_taken(&result)));
                self.fate(id, look_up, fate, desk);
                return;
            }
            None => {
                look_up.step = Step::Journal;
                journal(&head)
            }
        };
        self.ask(id, ask, GET_WITHIN, desk);
        self.chains.insert(id, Chain::LookUp(look_up));
    }

    /// A result with the first suspect's id was read.
    fn read(&mut self, id: ChainId, mut look_up: Box<LookUp>, message: Option<Message>, desk: &mut Desk<'_>) {
        let Some(first) = look_up.suspects.front() else { return };
        let Some(Body::Result(result)) = message.map(|message| message.body) else {
            self.look_for_result(id, look_up, desk);
            return;
        };
        let own = result.log.as_ref().is_none_or(|LogPlace { stream, seq }| {
            stream == first.lease.stream() && *seq == first.lease.stream_seq
        });
        if !own {
            look_up.other = Some(result);
            self.look_for_result(id, look_up, desk);
            return;
        }
        let event = stored::useful_event(&result, &first.head.subject.tenant);
        let missing = event.filter(|event| {
            let known = |id: String| look_up.costs.as_ref().is_some_and(|costs| costs.contains(id.as_str()));
            !event.message_id().is_some_and(known)
        });
        match missing {
            Some(event) => {
                look_up.step = Step::Repair;
                let message = cost(&first.head, event);
                self.store(id, message, desk);
                self.chains.insert(id, Chain::LookUp(look_up));
            }
            None => self.fate(id, look_up, Fate::Done, desk),
        }
    }

    /// What became of the first suspect; the next one follows.
    fn fate(&mut self, id: ChainId, mut look_up: Box<LookUp>, fate: Fate, desk: &mut Desk<'_>) {
        if let Some(first) = look_up.suspects.pop_front() {
            desk.note(Some(first.job.seq), || format!("looked up: {fate:?}"));
            let leased = look_up.leased.filter(|_| !matches!(fate, Fate::Unknown));
            look_up.findings.push(finding(&first, fate, leased));
        }
        self.look_at_first(id, look_up, desk);
    }

    fn found(&mut self, findings: Vec<Finding>, desk: &Desk<'_>) {
        self.looking_up -= 1;
        self.apply(Event::Found(findings), desk);
    }

    /// Stores the next message of an ending, then finishes the lease.
    fn go_on_ending(&mut self, id: ChainId, desk: &mut Desk<'_>) {
        let Some(Chain::End(_, _, messages)) = self.chains.get_mut(&id) else { return };
        if let Some(message) = messages.pop_front() {
            self.store(id, message, desk);
            return;
        }
        let Some(Chain::End(lease, key, _)) = self.chains.remove(&id) else { return };
        desk.note(Some(lease.stream_seq), || "acks what it has ended".to_owned());
        self.client.ack(&lease, desk);
        if let Some(key) = key {
            self.apply(Event::Concluded(key), desk);
        }
    }

    fn book_on(&mut self, id: ChainId, mut book: Box<BookLost>, told: Option<Told>, desk: &mut Desk<'_>) {
        let head = book.lost.head.clone();
        match (&book.step, told) {
            (LostStep::Results, told) => {
                let found = if let Some(Told::Found(found)) = told { found } else { Vec::new() };
                book.seqs = results(&found)
                    .into_iter()
                    .filter(|(job, _)| *job == head.id)
                    .map(|(_, seq)| seq)
                    .collect();
                book.any = !book.seqs.is_empty();
            }
            (LostStep::Result, Some(Told::Got(Some(stored)))) => {
                if let Body::Result(result) = &stored.message.body
                    && result.attempt_key == Some(book.lost.key)
                {
                    if let Some(event) = stored::useful_event(result, &head.subject.tenant) {
                        self.book(id, book, event, desk);
                    }
                    return;
                }
            }
            (LostStep::Result, _) => {}
            (LostStep::Journal, told) => {
                let found = if let Some(Told::Got(found)) = told { found } else { None };
                let journal = found.map(|stored| stored.message.body);
                let journal =
                    if let Some(Body::Journal(journal)) = journal { journal } else { Rc::default() };
                self.book_unless_named(id, book, &journal, desk);
                return;
            }
            (LostStep::Book, _) => return,
        }
        match book.seqs.pop_front() {
            Some(seq) => {
                book.step = LostStep::Result;
                self.ask(id, Ask::At { stream: REPLIES.into(), seq }, GET_WITHIN, desk);
            }
            // The job is over, so no holder will look into its journal.
            None if book.any => {
                self.book_unless_named(id, book, &Journal::default(), desk);
                return;
            }
            None => {
                book.step = LostStep::Journal;
                self.ask(id, journal(&head), GET_WITHIN, desk);
            }
        }
        self.chains.insert(id, Chain::Lost(book));
    }

    fn book_unless_named(
        &mut self,
        id: ChainId,
        book: Box<BookLost>,
        journal: &Journal,
        desk: &mut Desk<'_>,
    ) {
        let lost = &book.lost;
        let named = journal.entries.iter().any(|entry| entry.key == Some(lost.key));
        if named || lost.expected == UsdNanos::ZERO {
            return;
        }
        let line = CostLine {
            sku: lost.sku.clone(),
            unit: Unit::Inference,
            quantity: 1,
            item: "expected".into(),
            unit_price_usd: lost.expected,
            amount_usd: lost.expected,
        };
        let price_book = "expected".to_owned();
        let bill = Bill { lines: vec![line], amount_usd: lost.expected, estimated: true, price_book };
        let attempt = (lost.attempt, Some(lost.key));
        let purpose = Purpose::WastedFailure;
        let event = CostEvent::of_attempt(&lost.head, attempt, &lost.pool, purpose, bill, desk.wall());
        self.book(id, book, event, desk);
    }

    fn book(&mut self, id: ChainId, mut book: Box<BookLost>, event: CostEvent, desk: &mut Desk<'_>) {
        book.step = LostStep::Book;
        let message = cost(&book.lost.head, event);
        self.store(id, message, desk);
        self.chains.insert(id, Chain::Lost(book));
    }
}

fn scan(stream: &str, subject: String, since: Micros) -> Ask {
    Ask::Since { stream: stream.into(), subject: subject.into(), since: since - MARGIN }
}

fn journal(head: &Head) -> Ask {
    let subject = format!("$KV.{JOURNAL_BUCKET}.{}", head.id.journal_key(&head.subject.tenant));
    Ask::Last { stream: bucket_stream(JOURNAL_BUCKET).into(), subject: subject.into() }
}

/// The jobs that stored results are of, and where they lie.
fn results(found: &[Stored]) -> Vec<(JobId, u64)> {
    let read = |stored: &Stored| Some((JobId::from_result_message(stored.message.id.as_ref()?)?, stored.seq));
    found.iter().filter_map(read).collect()
}

fn finding(suspect: &Suspect, fate: Fate, leased: Option<Micros>) -> Finding {
    Finding { job: suspect.job, delivery: suspect.lease.consumer_seq, fate, leased }
}

fn cost(head: &Head, event: CostEvent) -> Message {
    let id = event.message_id().unwrap_or_default();
    let subject = subjects::cost(&head.subject.tenant, &head.mailbox);
    Message::new(subject, Body::Cost(event.into())).with_id(id)
}

/// What is stored when a dispatcher ends a job: the dead letter, the costs of attempts that nobody will hear of, the result.
fn end_messages(ending: &Ending, now: Micros) -> VecDeque<Message> {
    let mut messages = VecDeque::new();
    let lease = ending.lease();
    let Some(head) = ending.head() else { return messages };
    let tenant = &head.subject.tenant;
    if ending.status() == Status::Failed {
        let obituary = Obituary {
            job: Some(head.id),
            subject: head.subject.to_string(),
            stream: lease.stream().to_owned(),
            stream_seq: lease.stream_seq,
            delivered: lease.delivered,
            failure: ending.failure().clone(),
            journal: ending.journal().clone(),
            body_ref: None,
            at_us: now,
        };
        let subject = subjects::dead(&head.subject.region, &head.subject.model, ending.failure().class);
        let letter = Message::new(subject, Body::Dead(obituary.into()));
        messages.push_back(letter.with_id(head.id.dead_message(tenant)));
    }
    let open = |entry: &&schemas::journal::Entry| entry.expected().is_some_and(|lines| !lines.is_empty());
    for entry in ending.journal().entries.iter().filter(open) {
        let event = CostEvent::abandoned(head, entry, "journal".to_owned(), now);
        messages.push_back(cost(head, event));
    }
    let (failure, attempts) = (ending.failure().clone(), ending.journal().last_attempt());
    let result = result(head.id, ending.status(), failure, attempts, lease, now);
    let id = if ending.failure().class == FailureClass::IdTaken {
        head.id.taken_message(tenant, lease.stream_seq)
    } else {
        head.id.result_message(tenant)
    };
    let message = Message::new(subjects::result(tenant, &head.mailbox), Body::Result(result.into()));
    messages.push_back(message.with_id(id));
    messages
}

/// A result that no attempt gave.
fn result(
    job: JobId,
    status: Status,
    failure: Failure,
    attempts: u16,
    lease: &Lease,
    now: Micros,
) -> JobResult {
    JobResult {
        job,
        status,
        output: None,
        output_ref: None,
        usage: None,
        error: Some(failure),
        model: None,
        lane: None,
        provider: None,
        region: None,
        attempts,
        attempt_key: None,
        bill: None,
        log: Some(LogPlace { stream: lease.stream().to_owned(), seq: lease.stream_seq }),
        timings: Timings::default(),
        cost_usd: UsdNanos::ZERO,
        labels: BTreeMap::new(),
        replay_of: None,
        decision: None,
        finished_us: now,
    }
}
