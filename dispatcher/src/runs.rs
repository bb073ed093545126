//! What runs at workers on this dispatcher's offer: accepted, and not heard to have ended. The jobs are the workers' by then;
//! here is what their end is settled with, and what a second attempt needs. Pure.

use std::{collections::BTreeSet, time::Duration};

use routing::{budget::Reservation, cold::Bin, fair::Seat};
use rustc_hash::FxHashMap;
use schemas::{JobId, Micros, PoolId, UsdNanos, WorkerId, journal::Entry, subjects::JobSubject};

use crate::flight::Flight;

/// An attempt of which nothing was heard for so long has ended unheard: the news was lost on a reconnect.
const UNHEARD_MAX: Duration = Duration::from_secs(3_600);

/// What an attempt is counted with while it is open.
#[derive(Debug, Default)]
pub struct Spend {
    /// What was set aside for it, where budgets count it.
    pub reservation: Option<Reservation>,
    /// Its place in the line, and what its tenant was charged for the start.
    pub charged: Option<(Seat, UsdNanos)>,
}

/// An open offer.
#[derive(Debug)]
pub struct Offer {
    /// The job.
    pub flight: Flight,
    /// Where it was offered.
    pub pool: PoolId,
    /// Which attempt it would be.
    pub attempt: u16,
    /// Which cold starts its attempt is counted with.
    pub bin: Bin,
    /// What the attempt may cost.
    pub reserve: UsdNanos,
    /// What it is counted with.
    pub spend: Spend,
    /// How long the attempt may run before a second one is thought of.
    pub hedge_after: Option<Duration>,
    /// The attempt beside which this one is a second.
    pub hedge_of: Option<u64>,
}

/// An attempt that runs.
#[derive(Debug)]
pub struct Run {
    /// Which job.
    pub job: JobId,
    /// Where.
    pub pool: PoolId,
    /// At which worker.
    pub worker: WorkerId,
    /// Region, model, lane and tenant of its job.
    pub subject: JobSubject,
    /// Which attempt of the job it is.
    pub attempt: u16,
    /// Which cold starts it is counted with.
    pub bin: Bin,
    /// What it may cost.
    pub reserve: UsdNanos,
    /// What it is counted with.
    pub spend: Spend,
    /// Since when.
    pub since: Micros,
    /// The other attempt of the same job that runs beside it.
    pub twin: Option<u64>,
    /// Whether it is the second of two.
    pub hedge: bool,
    /// The job, where a second attempt may come, or is this one.
    pub flight: Option<Box<Flight>>,
    /// What another attempt beside it left, which has failed.
    pub left: Option<Entry>,
}

/// All attempts that run, by the number of their offer.
#[derive(Debug, Default)]
pub struct Runs {
    runs: FxHashMap<u64, Run>,
    /// When to think of a second attempt, soonest first.
    hedges: BTreeSet<(Micros, u64)>,
}

impl Runs {
    /// An offer was taken by `worker`.
    pub fn begin(&mut self, number: u64, offer: Offer, worker: WorkerId, now: Micros) {
        let Offer { flight, pool, attempt, bin, reserve, spend, hedge_after, hedge_of } = offer;
        if let Some(first) = hedge_of.and_then(|first| self.runs.get_mut(&first)) {
            first.twin = Some(number);
        }
        if let Some(after) = hedge_after {
            self.hedges.insert((now + after, number));
        }
        let run = Run {
            job: flight.job.id,
            pool,
            worker,
            subject: flight.job.subject.clone(),
            attempt,
            bin,
            reserve,
            spend,
            since: now,
            twin: hedge_of.filter(|first| self.runs.contains_key(first)),
            hedge: hedge_of.is_some(),
            flight: (hedge_after.is_some() || hedge_of.is_some()).then(|| Box::new(flight)),
            left: None,
        };
        self.runs.insert(number, run);
    }

    /// An attempt has ended, or will not be heard of again. What is left has no other beside it.
    pub fn end(&mut self, number: u64) -> Option<Run> {
        let run = self.runs.remove(&number)?;
        if let Some(twin) = run.twin.and_then(|twin| self.runs.get_mut(&twin)) {
            twin.twin = None;
        }
        Some(run)
    }

    /// An attempt that runs.
    pub fn get(&self, number: u64) -> Option<&Run> {
        self.runs.get(&number)
    }

    /// The next attempt that runs longer than usual and has no other beside it. Each is given once.
    pub fn overdue(&mut self, now: Micros) -> Option<u64> {
        while let Some((at, number)) = self.hedges.first().copied() {
            if at > now {
                return None;
            }
            self.hedges.pop_first();
            if self.runs.get(&number).is_some_and(|run| run.twin.is_none() && !run.hedge) {
                return Some(number);
            }
        }
        None
    }

    /// Takes out the job of an attempt, for a second one.
    pub fn take_flight(&mut self, number: u64) -> Option<Box<Flight>> {
        self.runs.get_mut(&number)?.flight.take()
    }

    /// One of two attempts has failed: the other has the job, and what that left.
    pub fn inherit(&mut self, number: u64, flight: Option<Box<Flight>>, entry: Entry) {
        if let Some(run) = self.runs.get_mut(&number) {
            run.flight = flight.or(run.flight.take());
            run.left = Some(entry);
        }
    }

    /// Takes out attempts of which nothing will be heard: `alive` says whether a worker still speaks.
    pub fn vanished(&mut self, alive: impl Fn(&PoolId, &WorkerId) -> bool, now: Micros) -> Vec<Run> {
        let gone = |run: &Run| !alive(&run.pool, &run.worker) || now.since(run.since) > UNHEARD_MAX;
        let numbers: Vec<u64> = self.runs.iter().filter(|(_, run)| gone(run)).map(|(n, _)| *n).collect();
        numbers.into_iter().filter_map(|number| self.end(number)).collect()
    }

    /// All that run.
    pub fn iter(&self) -> impl Iterator<Item = &Run> {
        self.runs.values()
    }
}
