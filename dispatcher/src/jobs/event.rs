//! What happens to jobs, and what is to be done about it: the two enums that [`super::Jobs::apply`] joins.

use std::sync::Arc;

use routing::pool::Change;
use schemas::{
    AttemptKey, Micros, ModelToken, PoolId, UsdNanos, WorkerId,
    failure::{Failure, FailureClass},
    handover::{Acceptances, Handover, Order, Return},
    heartbeat::Heartbeat,
    job::Head,
    journal::Journal,
    lease::Lease,
};

use crate::{ending::Ending, nats::Parcel};

/// Names a job by its place in the log: the index of its stream among the dispatcher's regions, and its sequence there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKey {
    /// Index of the region whose stream it lies in.
    pub region: u16,
    /// Its sequence.
    pub seq: u64,
}

/// News.
#[derive(Debug)]
pub enum Event {
    /// The server delivered a job.
    Delivered(Box<Delivered>),
    /// A pull has ended.
    PullEnded {
        /// Which consumer it was on.
        feed: usize,
        /// Its number.
        number: u64,
        /// Why.
        end: PullEnd,
    },
    /// The connection is a new one: pulls are forgotten by the server.
    Reconnected,
    /// The job stream of a region was deleted and made anew.
    Remade {
        /// The region's index.
        region: u16,
        /// When the stream was made.
        born: Micros,
    },
    /// A worker says what it took, refused and ended, or which attempts it runs.
    Answered(Acceptances),
    /// A worker says how it is.
    Heard(Heartbeat),
    /// A worker gives a job back after a failed attempt.
    Returned(Box<Returned>),
    /// A look-up has ended.
    Found(Vec<Finding>),
    /// The server said that it extended a lease, asked at `asked`.
    Extended {
        /// Whose.
        job: JobKey,
        /// The delivery that the lease belongs to.
        delivery: u64,
        /// When it was asked.
        asked: Micros,
    },
    /// The terminal result of a job is stored and its lease finished, or that was given up.
    Concluded(JobKey),
    /// Something outside changed that may give a waiting job a place: money, an order to cancel.
    Stirred,
    /// Time has passed.
    Tick,
    /// The dispatcher stops: nothing new is placed, and what is held is given back.
    Stop,
}

impl Event {
    /// Whether it shows that messages come through.
    pub(super) const fn comes_from_outside(&self) -> bool {
        match self {
            Self::Delivered(_)
            | Self::PullEnded { .. }
            | Self::Reconnected
            | Self::Remade { .. }
            | Self::Answered(_)
            | Self::Heard(_)
            | Self::Returned(_)
            | Self::Extended { .. } => true,
            Self::Found(_) | Self::Concluded(_) | Self::Stirred | Self::Tick | Self::Stop => false,
        }
    }
}

/// A delivered job.
#[derive(Debug)]
pub struct Delivered {
    /// Everything about the job but its text.
    pub head: Head,
    /// Its headers and body, passed on untouched.
    pub parcel: Parcel,
    /// The right to finish it.
    pub lease: Lease,
}

/// A job that a worker gave back.
#[derive(Debug)]
pub struct Returned {
    /// What the worker says.
    pub back: Return,
    /// Everything about the job but its text.
    pub head: Head,
    /// Its headers and body.
    pub parcel: Parcel,
}

/// Why a pull has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullEnd {
    /// Nothing more lies in the stream.
    Empty,
    /// It brought as many bytes as it may.
    Full,
    /// Its consumer did not serve it; try again after a pause.
    Unserved,
    /// Its consumer is gone.
    Gone,
}

/// What a look-up found out about one job.
#[derive(Debug)]
pub struct Finding {
    /// Which job.
    pub job: JobKey,
    /// The delivery that was looked up; a newer one makes the finding stale.
    pub delivery: u64,
    /// What was found.
    pub fate: Fate,
    /// When the lease was last known to be extended, if the look-up made sure of it.
    pub leased: Option<Micros>,
    /// How many of its deliveries were given back before anybody tried it.
    pub untried: u64,
}

/// What became of a job that was delivered before.
#[derive(Debug)]
pub enum Fate {
    /// It has a result.
    Done,
    /// Another job of the same tenant has the same id, and a result.
    IdTaken(Failure),
    /// It has no result: go on from its journal.
    Again(Journal),
    /// The server did not tell; the lease runs out and the job comes again.
    Unknown,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Ask a consumer for jobs.
    Pull {
        /// Which consumer.
        feed: usize,
        /// The pull's number.
        number: u64,
        /// How many jobs.
        batch: u32,
    },
    /// Make the map of streams right again: a consumer is gone.
    Repair,
    /// Offer a job to a pool.
    Offer {
        /// To which pool.
        pool: PoolId,
        /// What goes with the job.
        handover: Box<Handover>,
        /// The job's headers and body; none when the worker reads them from the log.
        parcel: Option<Parcel>,
    },
    /// Send an order to a worker.
    Order {
        /// Of which pool.
        pool: PoolId,
        /// To which worker.
        worker: WorkerId,
        /// The order.
        order: Order,
    },
    /// Finish a lease: the job has its result.
    Ack(Lease),
    /// Give a lease back at once, for another dispatcher.
    GiveBack {
        /// The lease.
        lease: Lease,
        /// The job, where nobody tried it with this lease: that is noted, so that the delivery does not count against it.
        untried: Option<Arc<Head>>,
    },
    /// Extend a lease and tell when the server has.
    Extend {
        /// Whose.
        job: JobKey,
        /// The lease.
        lease: Lease,
    },
    /// Look for the job's result and its journal, and tell.
    LookUp(Vec<Suspect>),
    /// Store the terminal result of a job, then finish its lease and tell.
    End(Box<Ending>),
    /// Book an attempt whose worker has vanished, unless somebody else does.
    BookLost(Box<Lost>),
    /// Tell people how a pool changed.
    Tell {
        /// Which pool.
        pool: PoolId,
        /// Which model there.
        model: ModelToken,
        /// What changed.
        change: Change,
        /// The failure behind it.
        class: Option<FailureClass>,
    },
}

/// A job to be looked up.
#[derive(Clone, Debug)]
pub struct Suspect {
    /// Which.
    pub job: JobKey,
    /// Everything about it but its text.
    pub head: Arc<Head>,
    /// Its lease.
    pub lease: Lease,
    /// Whether the lease was somebody else's in between, so that it must be extended before the job goes on.
    pub confirm: bool,
}

/// An attempt that began at a worker which has vanished.
#[derive(Clone, Debug)]
pub struct Lost {
    /// The job.
    pub head: Arc<Head>,
    /// Where the job lies in the log.
    pub lease: Lease,
    /// The attempt's number.
    pub attempt: u16,
    /// The attempt's key.
    pub key: AttemptKey,
    /// Where it ran.
    pub pool: PoolId,
    /// On what.
    pub sku: String,
    /// What an attempt there is expected to cost.
    pub expected: UsdNanos,
}
