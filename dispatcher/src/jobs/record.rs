//! What a dispatcher knows of one job: its head and lease, where it stands, and its attempts that have not been heard to end.

use std::{sync::Arc, time::Duration};

use routing::{
    budget::Reservation,
    cold::Bin,
    fair::{Seat, Ticket},
};
use schemas::{
    AttemptKey, Micros, PoolId, UsdNanos, WorkerId,
    decision::Decision,
    job::Head,
    journal::{Entry, Journal},
    lease::Lease,
};

use super::event::Suspect;
use crate::{jobs::JobKey, nats::Parcel};

/// One job.
#[derive(Debug)]
pub struct Record {
    /// Everything about it but its text.
    pub head: Arc<Head>,
    /// Its headers and body, while it is in our hands. Without them it is passed on by its place in the log.
    pub parcel: Option<Parcel>,
    /// The right to finish it; the newest one that is known.
    pub lease: Lease,
    /// When the lease was last known to be extended. Of a job that is away, the worker knows better.
    pub leased: Micros,
    /// When an extension was asked for that was not answered yet.
    pub asked: Option<Micros>,
    /// What earlier attempts left behind.
    pub journal: Journal,
    /// The highest number an attempt has had, as far as is known.
    pub attempts: u16,
    /// Deliveries that were given back before anybody tried the job, as far as is known.
    pub untried: u64,
    /// Whether a worker may have tried it with this lease, and nobody has heard how that ended.
    pub tried: bool,
    /// Where the job stands.
    pub stage: Stage,
    /// Attempts that are offered, or run and were not heard to end.
    pub open: Vec<Attempt>,
    /// The size of the SKU that ran out of memory.
    pub larger_than: Option<u16>,
    /// Pools that refused this delivery a moment ago; forgotten when none is left to ask.
    pub avoid: Vec<PoolId>,
    /// Offers that nobody answered since one was taken.
    pub vain: u32,
    /// Those that refused or did not answer are not asked again before this.
    pub forgive_at: Option<Micros>,
    /// Why its last attempt went where it went, or why none was made.
    pub decision: Option<Decision>,
    /// Since when it is held here.
    pub held_since: Micros,
    /// It rests until then: its last attempt failed.
    pub not_before: Option<Micros>,
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// In our hands. Delivered before, or offered in vain: its results and its journal are looked at before it goes on.
    LookUp {
        /// Whether the look-up is on its way.
        asked: bool,
        /// Whether the lease was somebody else's in between and must be extended before the job goes on.
        confirm: bool,
    },
    /// In our hands, in its line.
    Waiting {
        /// Its place there; another place in the line is a leftover.
        ticket: Ticket,
    },
    /// Offered, or in a worker's hands: an attempt is open that holds its lease.
    Away,
    /// Its terminal result is on its way.
    Ending,
    /// It has ended, or is somebody else's. Only news of its attempts is awaited.
    Over,
}

/// An attempt: offered, or running and not heard to have ended.
#[derive(Debug)]
pub struct Attempt {
    /// The number of its offer.
    pub offer: u64,
    /// Its key.
    pub key: AttemptKey,
    /// Which attempt of the job it is, or would be.
    pub number: u16,
    /// Where.
    pub pool: PoolId,
    /// How far it is.
    pub course: Course,
    /// Whether it was made with the job's newest lease: the job is its own.
    pub current: bool,
    /// Whether it is the second of two at once.
    pub hedge: bool,
    /// How long it may run before a second one is thought of.
    pub hedge_after: Option<Duration>,
    /// Which cold starts it is counted with.
    pub bin: Bin,
    /// What it may cost.
    pub reserve: UsdNanos,
    /// On what it runs, and what it is expected to cost, for the case that its worker vanishes.
    pub expected: (String, UsdNanos),
    /// What was set aside for it, where budgets count it.
    pub reservation: Option<Reservation>,
    /// Its place in the line, and what its tenant was charged for the start.
    pub charged: Option<(Seat, UsdNanos)>,
    /// What an attempt beside it left that has failed, to be told to its worker once it is known.
    pub tell: Option<Box<Entry>>,
}

/// How far an attempt is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// No worker has answered.
    Offered {
        /// After this the worker drops it.
        accept_by: Micros,
    },
    /// A worker took it.
    Running {
        /// Which.
        worker: WorkerId,
        /// When that process started: another one of the same name knows nothing of the attempt.
        life: Micros,
        /// Since when, by our clock.
        since: Micros,
        /// When the worker last named it in a roll call, or took it.
        named: Micros,
    },
}

impl Attempt {
    /// The worker that runs it.
    pub fn worker(&self) -> Option<&WorkerId> {
        match &self.course {
            Course::Offered { .. } => None,
            Course::Running { worker, .. } => Some(worker),
        }
    }
}

impl Record {
    /// How long the lease has been running down.
    pub fn age(&self, now: Micros) -> Duration {
        now.since(self.leased)
    }

    /// Whether the lease is ours to use or to give back.
    pub fn in_hand(&self) -> bool {
        matches!(self.stage, Stage::LookUp { .. } | Stage::Waiting { .. })
    }

    /// Moves the job to another stage, counting jobs under look-up.
    pub(super) fn enter(&mut self, stage: Stage, looked_up: &mut usize) {
        *looked_up -= usize::from(matches!(self.stage, Stage::LookUp { .. }));
        *looked_up += usize::from(matches!(stage, Stage::LookUp { .. }));
        self.stage = stage;
    }

    /// Attempts made with the newest lease.
    pub fn current(&self) -> impl Iterator<Item = &Attempt> {
        self.open.iter().filter(|attempt| attempt.current)
    }

    /// An attempt by its offer's number.
    pub fn attempt(&mut self, offer: u64) -> Option<&mut Attempt> {
        self.open.iter_mut().find(|attempt| attempt.offer == offer)
    }

    /// Bytes that it keeps in memory for the job's text.
    pub fn bytes(&self) -> usize {
        self.parcel.as_ref().map_or(0, Parcel::bytes)
    }

    /// The question of a look-up.
    pub fn suspect(&self, job: JobKey, confirm: bool) -> Suspect {
        Suspect { job, head: self.head.clone(), lease: self.lease.clone(), confirm }
    }

    /// Writes down that an attempt has ended badly beside another.
    pub fn failed_beside(
        &mut self,
        attempt: &Attempt,
        failure: schemas::failure::Failure,
        cost_usd: UsdNanos,
        now: Micros,
    ) -> Entry {
        let started_us = match attempt.course {
            Course::Offered { .. } => now,
            Course::Running { since, .. } => since,
        };
        let entry = Entry {
            attempt: attempt.number,
            key: Some(attempt.key),
            pool: attempt.pool.clone(),
            started_us,
            trace: schemas::journal::Trace::Failed { failure, cost_usd },
        };
        self.journal.record(entry.clone());
        entry
    }
}
