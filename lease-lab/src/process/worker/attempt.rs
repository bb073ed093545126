//! One attempt at a worker: [`Course`] as it is, its lease, and its call at the provider.

use std::{sync::Arc, time::Duration};

use dispatcher::nats;
use schemas::{
    Micros, UsdNanos,
    cost::{Bill, CostLine},
    failure::{Failure, FailureClass},
    job::Job,
    journal::{Entry, Journal, Trace},
    lease::Lease,
    prices::Unit,
    reply::{Output, Usage},
    time::micros,
};
use workers::{
    attempt::{
        Settled,
        course::{Answer, Course, Event, Moment, Terms},
    },
    keeper::Hold,
    provider::Success,
};

use super::Worker;
use crate::{
    desk::Desk,
    provider::{CallOf, Provider, RunId},
    setup, wire,
};

/// An attempt.
pub(super) struct Attempt {
    pub(super) course: Course,
    pub(super) parcel: Option<wire::Job>,
    /// How often the log was asked for the job in vain: a replica may be a moment behind.
    pub(super) misses: u32,
    pub(super) job: Option<Arc<Job>>,
    pub(super) call: Option<Call>,
    /// Until when it waits before it tries something again.
    pub(super) waits: Option<Micros>,
    /// Until when it waits for its acceptance to be on its way.
    pub(super) announces: Option<Micros>,
    /// What is to be merged into the stored journal.
    pub(super) writing: Option<Box<Journal>>,
    /// Whether nobody is known to have written a journal.
    pub(super) fresh: bool,
    pub(super) settled: Option<Settled>,
    /// How long the lease is surely its own.
    pub(super) hold: Hold,
    /// Whether the lease may be somebody else's.
    pub(super) lost: bool,
}

/// A call to the provider.
#[derive(Debug)]
pub(super) struct Call {
    /// Its number at this worker.
    pub(super) number: u64,
    pub(super) of: CallOf,
    pub(super) began: Micros,
    pub(super) phase: Phase,
    /// The run is not wanted any more.
    pub(super) unwanted: Option<Failure>,
}

/// How far a call is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The journal is being told that a run will be asked for.
    Submitting,
    /// A detached run was asked for.
    Asked,
    /// The journal is being told of this run.
    Noting(RunId),
    /// The run goes on, or an attached call does.
    Runs(Option<RunId>),
    /// The run of an earlier worker is looked for.
    Finding,
}

impl Attempt {
    pub(super) fn new(terms: Terms, parcel: Option<wire::Job>, ack_wait: Duration, desk: &Desk<'_>) -> Self {
        let leased = Worker::now(desk).steady_at(terms.handover.leased_us);
        let fresh = terms.handover.journal.entries.is_empty();
        Self {
            course: Course::new(terms),
            parcel,
            misses: 0,
            job: None,
            call: None,
            waits: None,
            announces: None,
            writing: None,
            fresh,
            settled: None,
            hold: Hold::new(ack_wait, leased),
            lost: false,
        }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.course.terms().handover.lease
    }

    /// The circumstances of an event now.
    pub(super) fn moment(&self, desk: &Desk<'_>) -> Moment {
        let now = Worker::now(desk);
        let sure = !self.lost && self.hold.is_sure(now.steady);
        Moment { at: now.wall, leased: now.wall_at(self.hold.extended_at()), sure }
    }

    /// What the job of the offer reads as.
    pub(super) fn read(&mut self, parcel: &nats::Parcel, now: Micros) -> Event {
        let subject = self.course.terms().handover.subject.clone();
        match Job::read(subject, nats::job_headers(Some(&parcel.headers)), &parcel.body, now) {
            Ok(job) => {
                let job = Arc::new(job);
                self.job = Some(job.clone());
                Event::JobRead(job)
            }
            Err(error) => Event::JobUnreadable(error.to_string()),
        }
    }

    /// Which attempt a call is made for.
    pub(super) fn call_of(&self) -> Option<CallOf> {
        let (job, handover) = (self.job.as_ref()?, &self.course.terms().handover);
        Some(CallOf {
            tenant: job.subject.tenant.clone(),
            job: job.id,
            seq: handover.lease.stream_seq,
            attempt: handover.attempt,
            key: self.course.key(),
        })
    }
}

/// The run that a journal entry leads to.
pub(super) fn run_of(entry: &Entry) -> Option<RunId> {
    match &entry.trace {
        Trace::Running { run, .. } => run.strip_prefix("run-")?.parse().ok(),
        Trace::Started { .. } | Trace::Failed { .. } => None,
    }
}

/// A bill for so long at a provider.
pub(super) fn bill(provider: &Provider, ran: Duration, estimated: bool) -> Bill {
    let amount = provider.price(ran);
    let line = CostLine {
        sku: setup::SKU.into(),
        unit: Unit::Second,
        quantity: micros(ran),
        item: "execution".into(),
        unit_price_usd: provider.config.second,
        amount_usd: amount,
        machine: None,
    };
    let lines = if amount > UsdNanos::ZERO { vec![line] } else { Vec::new() };
    Bill { lines, amount_usd: amount, estimated, price_book: "sim".into() }
}

/// How a run ended, as the provider tells it to its caller.
pub(super) fn answer(provider: &Provider, id: RunId, call: &Call, now: Micros) -> Answer {
    let run = provider.run(id);
    // Where the connection broke, nobody tells how long it ran.
    let lost_sight = run.outcome.as_ref().is_err_and(|f| f.class == FailureClass::Connection);
    let ran = if run.billed { run.ends.since(run.began) } else { Duration::ZERO };
    let bill = bill(provider, ran, lost_sight);
    let outcome = match (&run.outcome, &call.unwanted) {
        (Ok(()), _) => Ok(success()),
        (Err(_), Some(why)) if run.stopped => Err(why.clone()),
        (Err(failure), _) => Err(failure.clone()),
    };
    Answer {
        outcome,
        bill,
        took: now.since(call.began),
        cold_start: Duration::ZERO,
        first_token: Duration::ZERO,
    }
}

/// An attempt of which nobody can tell what it came to.
pub(super) fn possibly_wasted(provider: &Provider, why: &str, took: Duration) -> Answer {
    let failure = Failure::new(FailureClass::WorkerLost, format!("the worker was lost: {why}"));
    let bill = bill(provider, setup::EXPECTED, true);
    Answer { outcome: Err(failure), bill, took, cold_start: Duration::ZERO, first_token: Duration::ZERO }
}

fn success() -> Success {
    let output = Output { text: "done".into(), finish_reason: "stop".into() };
    Success { output, usage: Usage { prompt_tokens: 1, completion_tokens: 1, ..Usage::default() } }
}
