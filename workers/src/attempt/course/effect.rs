//! What is to be done for an attempt.

use std::{sync::Arc, time::Duration};

use schemas::{
    cost::CostEvent,
    failure::Failure,
    handover::Return,
    journal::{Entry, Journal},
    reply::{JobResult, OutputRef},
};

use crate::attempt::Settled;

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
    /// Read the job from the offer, or from the log when the offer says `in_log`. Answered by [`super::Event::JobRead`],
    /// [`super::Event::JobUnreadable`] or [`super::Event::JobGone`].
    ReadJob,
    /// Store a cost event under [`CostEvent::message_id`]. Answered by [`super::Event::CostStored`] or [`super::Event::CostRefused`].
    StoreCost(Box<CostEvent>),
    /// Merge this journal into the stored one, by compare-and-set. Answered by [`super::Event::JournalWritten`] or
    /// [`super::Event::JournalRefused`].
    WriteJournal(Box<Journal>),
    /// Have the acceptance leave this process, until [`schemas::handover::Handover::accept_by_us`] at most. Answered by
    /// [`super::Event::Announced`] or [`super::Event::Lapsed`].
    Announce,
    /// Look whether the job was taken back. Answered by [`super::Event::Checked`].
    Check,
    /// Fetch the stored input of the job. Answered by [`super::Event::InputFetched`] or [`super::Event::InputMissing`].
    FetchInput,
    /// Call the provider, or go on with the run that this entry leads to. Answered by [`super::Event::Ended`].
    Call(Option<Box<Entry>>),
    /// Drop the call. Answered by [`super::Event::Dropped`].
    DropCall,
    /// Have the provider stop the run, for this reason, and read its bill. The call then ends by itself.
    StopRun(Failure),
    /// Look for a stored result of the job, and for a cost event under this attempt's own id. Answered by [`super::Event::Looked`].
    LookForResult,
    /// Store a result. Answered by [`super::Event::ResultStored`] or [`super::Event::ResultRefused`].
    StoreResult(ResultName, Arc<JobResult>),
    /// Read the result that is stored at this sequence of `REPLIES`. Answered by [`super::Event::StoredRead`].
    ReadStored(u64),
    /// Put the output of this result into the object store. Answered by [`super::Event::OutputStored`] or [`super::Event::OutputRefused`].
    StoreOutput(Arc<JobResult>),
    /// Remove an output from the object store: another attempt gave the result. Best effort, no answer.
    RemoveOutput(OutputRef),
    /// Wait so long. Answered by [`super::Event::Waited`].
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
    RunLeft(String),
    /// Another attempt gave the job's result.
    Beaten,
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
