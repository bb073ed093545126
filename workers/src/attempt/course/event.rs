//! What an attempt knows from the start, and what happens to it.

use std::{sync::Arc, time::Duration};

use schemas::{
    Micros, PoolId,
    cost::{Bill, CostLine},
    failure::Failure,
    handover::{Handover, OfferKey},
    job::Job,
    journal::{Entry, Journal},
    reply::{JobResult, OutputRef},
};
use transport::Stored;

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
    /// When the lease was last surely extended, by the same clock.
    pub leased: Micros,
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
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// The stored results with the job's id, oldest first. More than one where the id was used for several jobs.
    pub results: Vec<JobResult>,
    /// Whether this attempt's cost was already booked by somebody who gave the attempt up for lost.
    pub booked: bool,
}

/// What happens to an attempt.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first event: the offer was accepted.
    Accepted,
    /// Answers [`super::Effect::ReadJob`]: the job.
    JobRead(Arc<Job>),
    /// Answers [`super::Effect::ReadJob`]: the body is not a job that this worker can read.
    JobUnreadable(String),
    /// Answers [`super::Effect::ReadJob`]: the log does not have the job any more, so somebody has finished it.
    JobGone,
    /// Answers [`super::Effect::StoreCost`].
    CostStored,
    /// Answers [`super::Effect::StoreCost`].
    CostRefused(Refusal),
    /// Answers [`super::Effect::WriteJournal`]: the journal as it is stored now.
    JournalWritten(Box<Journal>),
    /// Answers [`super::Effect::WriteJournal`]: the journal as it should be stored, and is not. What it says travels on with the job, but
    /// the next holder cannot count on it.
    JournalRefused(Box<Journal>),
    /// Answers [`super::Effect::Announce`]: the acceptance is on its way to the dispatcher and survives this process.
    Announced,
    /// Answers [`super::Effect::Announce`]: the acceptance did not leave this process in time, or may be lost.
    Lapsed,
    /// Answers [`super::Effect::Check`]: whether somebody took the job back.
    Checked(Option<Failure>),
    /// Answers [`super::Effect::FetchInput`]: the input is at hand.
    InputFetched,
    /// Answers [`super::Effect::FetchInput`]: the stored input cannot be read.
    InputMissing(Failure),
    /// The provider is about to be asked for a run that goes on without us.
    Submitting,
    /// The provider gave the run an id by which it can be found again.
    RunStarted(String),
    /// Answers [`super::Effect::Call`]. A call that ended before [`super::Effect::DropCall`] was carried out is answered by this too.
    Ended(Box<Answer>),
    /// Answers [`super::Effect::DropCall`]: what the dropped call costs by our own reckoning, and how long it took.
    Dropped {
        /// The reckoning.
        bill: Bill,
        /// How long the call took until it was dropped.
        took: Duration,
    },
    /// Answers [`super::Effect::LookForResult`].
    Looked(Box<Found>),
    /// Answers [`super::Effect::StoreResult`].
    ResultStored(Stored),
    /// Answers [`super::Effect::StoreResult`].
    ResultRefused(Refusal),
    /// Answers [`super::Effect::ReadStored`]; `None` when the stream does not have it any more.
    StoredRead(Option<Box<JobResult>>),
    /// Answers [`super::Effect::LookForResult`] and [`super::Effect::ReadStored`]: nobody can say now.
    Unanswered(String),
    /// Answers [`super::Effect::StoreOutput`].
    OutputStored(OutputRef),
    /// Answers [`super::Effect::StoreOutput`].
    OutputRefused(Refusal),
    /// Answers [`super::Effect::Wait`].
    Waited,
    /// What nobody asked for; it may come at any moment.
    News(News),
}

/// What an attempt hears without having asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
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
