//! The course of one attempt, from an accepted offer to its last effect. Pure: no clock, no I/O, nothing async.
//!
//! ```text
//!  accepted ─▶ read ─▶ book the abandoned ─▶ journal? ─▶ check once more ─▶ fetch input? ─▶ call the provider
//!                                                                                           │
//!   output ─▶ (lease unsure: look for a result) ─▶ result ─▶ whose is stored? ─▶ cost ─▶ ack ◀──┤
//!   taken back ─▶ cost ─▶ result "cancelled" ─▶ ack ◀────────────────────────────────────────┤
//!   failure ─▶ cost ─▶ journal ─▶ give back, or keep while another attempt runs ◀────────────┘
//! ```
//!
//! [`Course::apply`] takes one [`Event`] and returns the [`Effect`]s to carry out, in order. An effect that is a question
//! names the event that answers it. At most one question is open at a time, except that a running call may also report
//! [`Event::Submitting`] and [`Event::RunStarted`], each answered before the call goes on. Orders, [`Event::LeaseLost`] and
//! [`Event::WorkerStops`] may come at any moment. After [`Effect::Settle`] the course is over and no event has an effect.
//!
//! Invariants, which the tests check in every state:
//! - the provider is called at most once;
//! - the cost of the attempt is stored at most once, under one purpose;
//! - once the lease is not surely its own, the attempt stores its own cost, and a result whose absence was looked up, and
//!   touches nothing else.

use std::{sync::Arc, time::Duration};

use schemas::{
    Micros, PoolId,
    cost::{Bill, CostEvent, CostLine},
    failure::Failure,
    handover::{Handover, OfferKey, Return},
    job::Job,
    journal::{Entry, Journal},
    reply::{JobResult, OutputRef},
};
use transport::Stored;

use super::settled::Settled;
use crate::{config::JournalMode, provider::Success};

/// What all attempts of a worker have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The worker's pool.
    pub pool: PoolId,
    /// When the journal is written.
    pub journal: JournalMode,
    /// The version of the price book.
    pub price_book: String,
}

/// What an attempt knows from the start: the accepted offer.
#[derive(Clone, Debug, PartialEq)]
pub struct Terms {
    /// Where it runs.
    pub site: Arc<Site>,
    /// Which offer was accepted.
    pub offer: OfferKey,
    /// What the dispatcher sent with the job.
    pub handover: Handover,
    /// When the offer was accepted.
    pub received: Micros,
    /// What the attempt is expected to cost, for its journal entry. May be empty where no entry is written before the call.
    pub expected: Vec<CostLine>,
}

/// The circumstances of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// When it happens, by the worker's wall clock.
    pub at: Micros,
    /// Whether the lease is surely this attempt's own now. Once it is not, the course never believes it again.
    pub sure: bool,
}

/// How a call to the provider ended, with its bill.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The output, or what went wrong.
    pub outcome: Result<Success, Failure>,
    /// What the call costs; no lines when nothing is billed.
    pub bill: Bill,
    /// How long the call took.
    pub took: Duration,
    /// The part of it that was a cold start.
    pub cold_start: Duration,
    /// From the request to the first token; zero where the provider does not stream.
    pub first_token: Duration,
}

/// Why something could not be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It is too large for a message.
    TooLarge,
    /// The stream is full, missing, or refuses for another reason that says nothing about the message. It may pass.
    Unavailable(String),
}

/// What a look for earlier outcomes of the job found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// The sequence in `REPLIES` of the job's stored result.
    pub result: Option<u64>,
    /// Whether this attempt's cost was already booked by somebody who gave the attempt up for lost.
    pub booked: bool,
}

/// What happens to an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event: the offer was accepted.
    Accepted,
    /// Answers [`Effect::ReadJob`]: the job.
    JobRead(Arc<Job>),
    /// Answers [`Effect::ReadJob`]: the body is not a job that this worker can read.
    JobUnreadable(String),
    /// Answers [`Effect::ReadJob`]: the log does not have the job any more, so somebody has finished it.
    JobGone,
    /// Answers [`Effect::StoreCost`].
    CostStored,
    /// Answers [`Effect::StoreCost`].
    CostRefused(Refusal),
    /// Answers [`Effect::WriteJournal`]: the journal as it is stored now, or as it should be where the write failed.
    JournalWritten(Box<Journal>),
    /// Answers [`Effect::Check`]: whether somebody took the job back.
    Checked(Option<Failure>),
    /// Answers [`Effect::FetchInput`]: the input is at hand.
    InputFetched,
    /// Answers [`Effect::FetchInput`]: the stored input cannot be read.
    InputMissing(Failure),
    /// The provider is about to be asked for a run that goes on without us.
    Submitting,
    /// The provider gave the run an id by which it can be found again.
    RunStarted(String),
    /// Answers [`Effect::Call`]. A call that ended before [`Effect::DropCall`] was carried out is answered by this too.
    Ended(Box<Answer>),
    /// Answers [`Effect::DropCall`]: what the dropped call costs by our own reckoning, and how long it took.
    Dropped {
        /// The reckoning.
        bill: Bill,
        /// How long the call took until it was dropped.
        took: Duration,
    },
    /// Answers [`Effect::LookForResult`].
    Looked(Found),
    /// Answers [`Effect::StoreResult`].
    ResultStored(Stored),
    /// Answers [`Effect::StoreResult`].
    ResultRefused(Refusal),
    /// Answers [`Effect::ReadStored`]; `None` when the stream does not have it any more.
    StoredRead(Option<Box<JobResult>>),
    /// Answers [`Effect::StoreOutput`].
    OutputStored(OutputRef),
    /// Answers [`Effect::StoreOutput`].
    OutputRefused(Refusal),
    /// Answers [`Effect::Wait`].
    Waited,
    /// The lease may be somebody else's now.
    LeaseLost,
    /// The worker's grace period is over.
    WorkerStops,
    /// Somebody took the job back.
    TakenBack(Failure),
    /// Order: another attempt of the job begins elsewhere.
    Hedged,
    /// Order: no other attempt runs any more; what a failed one left.
    Alone(Option<Box<Entry>>),
    /// Order: another attempt was first.
    Stop,
}

/// Which of a job's result messages is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResultName {
    /// The one result of a job: `<job>:<tenant>:result`.
    OfJob,
    /// The result that tells a second job with the same id, stored at this sequence of its stream, that the id was taken.
    IdTaken(u64),
}

/// What is to be done for an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Read the job from the offer, or from the log when the offer says `in_log`. Answered by [`Event::JobRead`],
    /// [`Event::JobUnreadable`] or [`Event::JobGone`].
    ReadJob,
    /// Store a cost event under [`CostEvent::message_id`]. Answered by [`Event::CostStored`] or [`Event::CostRefused`].
    StoreCost(Box<CostEvent>),
    /// Merge this journal into the stored one, by compare-and-set. Answered by [`Event::JournalWritten`].
    WriteJournal(Box<Journal>),
    /// Look whether the job was taken back. Answered by [`Event::Checked`].
    Check,
    /// Fetch the stored input of the job. Answered by [`Event::InputFetched`] or [`Event::InputMissing`].
    FetchInput,
    /// Call the provider, or go on with the run that this entry leads to. Answered by [`Event::Ended`].
    Call(Option<Box<Entry>>),
    /// Drop the call. Answered by [`Event::Dropped`].
    DropCall,
    /// Look for a stored result of the job, and for a cost event under this attempt's own id. Answered by [`Event::Looked`].
    LookForResult,
    /// Store a result. Answered by [`Event::ResultStored`] or [`Event::ResultRefused`].
    StoreResult(ResultName, Arc<JobResult>),
    /// Read the result that is stored at this sequence of `REPLIES`. Answered by [`Event::StoredRead`].
    ReadStored(u64),
    /// Put the output of this result into the object store. Answered by [`Event::OutputStored`] or [`Event::OutputRefused`].
    StoreOutput(Arc<JobResult>),
    /// Remove an output from the object store: another attempt gave the result. Best effort, no answer.
    RemoveOutput(OutputRef),
    /// Wait so long. Answered by [`Event::Waited`].
    Wait(Duration),
    /// Finish the lease. No answer.
    Ack,
    /// Remove the stored input of the job. Best effort, no answer.
    RemoveInput,
    /// Give the job back to the dispatchers. No answer.
    GiveBack(Box<Return>),
    /// Tell people. No answer.
    Report(Report),
    /// The last effect: how the attempt ended.
    Settle(Settled),
}

/// What people are told: a line in the log, a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The lease may be somebody else's; the attempt lets go.
    LeaseLost,
    /// An attempt of an earlier worker is booked as possibly wasted.
    Abandoned(Box<Entry>),
    /// The job was taken back.
    Cancelled,
    /// The run goes on at the provider; the next holder of the job goes on with it.
    RunLeft(&'static str),
    /// Another attempt gave the job's result.
    Lost,
    /// Something paid for cannot be stored now; it waits, and is tried again.
    Withheld {
        /// What: `result`, `cost` or `output`.
        what: &'static str,
        /// Why.
        why: String,
    },
    /// Something paid for could not be stored before the worker had to stop.
    Abandoning(&'static str),
}
