//! Where an attempt stands.

use std::sync::Arc;

use schemas::{
    Micros,
    cost::CostEvent,
    failure::{Failure, FailureClass},
    job::Job,
    journal::Entry,
    reply::JobResult,
};

use crate::attempt::Settled;

/// Another attempt of the job beside this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rival {
    None,
    Runs,
    /// It was first: the job is its own.
    Won,
}

/// Where an attempt stands. Each state but the first and the last waits for the answer to one question.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// Nothing has happened yet.
    Accepted,
    Reading,
    /// Books attempts that earlier workers left, the first of these first.
    BookingAbandoned {
        job: Arc<Job>,
        entries: Vec<Entry>,
    },
    WritingIntent {
        job: Arc<Job>,
    },
    /// The journal says nothing yet, so the dispatcher must know of the attempt before it costs money.
    Announcing {
        job: Arc<Job>,
    },
    /// The last look before the call; `fetched` when the input was fetched since the look before.
    Checking {
        job: Arc<Job>,
        fetched: bool,
    },
    Fetching {
        job: Arc<Job>,
    },
    Calling(Calling),
    /// The call is being dropped; why, and whether its run goes on at the provider.
    Dropping {
        call: Calling,
        why: Why,
    },
    Looking(Box<Outcome>),
    StoringResult(Box<Outcome>),
    StoringOutput(Box<Outcome>),
    ReadingStored(Box<Outcome>),
    TellingTaken(Box<Outcome>),
    StoringCost(Box<Booking>),
    WritingEnd(Box<End>),
    /// Something was refused; it is tried again after a pause.
    Waiting(Waiting),
    Over,
}

/// A call to the provider.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Calling {
    pub(super) job: Arc<Job>,
    pub(super) started: Micros,
    /// When the run was begun that the call follows: by an earlier worker perhaps.
    pub(super) since: Micros,
    /// Whether the journal has an entry of this attempt.
    pub(super) journalled: bool,
    /// Whether the provider was asked for a run that goes on without us.
    pub(super) submitted: bool,
    /// Whether a run may go on at the provider that the next holder of the job finds by the journal.
    pub(super) trail: bool,
}

/// Why a call is dropped.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Why {
    LeaseLost,
    WorkerStops,
    NotWanted(Failure),
}

/// A result on its way into `REPLIES`. It has a bill if the cost is not booked yet.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) job: Arc<Job>,
    pub(super) result: Arc<JobResult>,
    /// Whether the journal leads to the run that gave the output, so that the next holder of the job can have it again.
    pub(super) trail: bool,
    pub(super) settled: Settled,
}

/// A cost event of this attempt on its way into the ledger, and what follows.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Booking {
    pub(super) event: CostEvent,
    pub(super) then: Then,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Then {
    /// A result is stored: finish the lease.
    Finish(Arc<Job>, Settled),
    /// Store the result that says that the job was taken back.
    Store(Box<Outcome>),
    /// Tell that the id was taken.
    TellTaken(Box<Outcome>),
    /// Write the journal and give the job back.
    GiveBack(Box<End>),
    /// The job is another's; nothing more is done.
    Settle(Settled),
    /// Store these, too, one after the other.
    BookMore(Vec<CostEvent>, Box<Then>),
}

/// A failed attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct End {
    pub(super) started: Micros,
    pub(super) failure: Failure,
    pub(super) settled: Settled,
}

/// What waits to be tried again.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Waiting {
    Result(Box<Outcome>),
    /// Looking for a result; `stored` when the server said that there is one.
    Look {
        outcome: Box<Outcome>,
        stored: bool,
    },
    Output(Box<Outcome>),
    /// The cost of an attempt that an earlier worker left, the first of these.
    Abandoned {
        job: Arc<Job>,
        entries: Vec<Entry>,
    },
    Taken(Box<Outcome>),
    Cost(Box<Booking>),
}

/// What ends an attempt that was not the first of two.
pub(super) fn beaten() -> Failure {
    Failure::new(FailureClass::Cancelled, "another attempt was first")
}

impl Why {
    /// What the attempt fails with.
    pub(super) fn failure(self) -> Failure {
        match self {
            Self::LeaseLost => Failure::new(FailureClass::WorkerLost, "the lease was lost"),
            Self::WorkerStops => {
                Failure::new(FailureClass::Preempted, "the worker stopped before the job ended")
            }
            Self::NotWanted(failure) => failure,
        }
    }
}

impl Rival {
    /// Takes in an order; one that comes after the race was decided is stale.
    pub(super) fn becomes(&mut self, now: Self) {
        if *self != Self::Won {
            *self = now;
        }
    }
}
