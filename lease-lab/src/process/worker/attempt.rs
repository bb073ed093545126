//! One attempt at a worker: [`Course`] as it is, its lease, and its call at the provider.

use std::{sync::Arc, time::Duration};

use dispatcher::nats;
use schemas::{
    Micros, UsdNanos,
    cost::{Bill, CostLine},
    failure::{Failure, FailureClass},
    job::Job,
    journal::{Entry, Journal, Trace},
    lease::{Lease, margin},
    prices::Unit,
    reply::{Output, Usage},
    time::micros,
};
use workers::{
    attempt::{
        Settled,
        course::{Answer, Course, Event, Moment, News, Terms},
    },
    provider::Success,
};

use crate::{
    desk::Desk,
    provider::{CallOf, Provider, RunId},
    wire,
};

/// How long one request to extend a lease may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(1);

/// An attempt.
pub(super) struct Attempt {
    pub(super) course: Course,
    pub(super) parcel: Option<wire::Job>,
    pub(super) job: Option<Arc<Job>>,
    pub(super) call: Option<Call>,
    /// Until when it waits before it tries something again.
    pub(super) waits: Option<Micros>,
    /// What is to be merged into the stored journal.
    pub(super) writing: Option<Box<Journal>>,
    pub(super) settled: Option<Settled>,
    ack_wait: Duration,
    /// When the lease was last surely extended, by the steady clock.
    extended: Micros,
    asking: bool,
    lost: bool,
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
        let age = terms.received.since(terms.handover.leased_us);
        Self {
            course: Course::new(terms),
            parcel,
            job: None,
            call: None,
            waits: None,
            writing: None,
            settled: None,
            ack_wait,
            extended: desk.now() - age,
            asking: false,
            lost: false,
        }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.course.terms().handover.lease
    }

    /// The circumstances of an event now.
    pub(super) fn moment(&self, desk: &Desk<'_>) -> Moment {
        let (now, wall) = (desk.now(), desk.wall());
        let sure = !self.lost && now < self.lost_at();
        Moment { at: wall, leased: wall - now.since(self.extended), sure }
    }

    fn lost_at(&self) -> Micros {
        self.extended + self.ack_wait.saturating_sub(margin(self.ack_wait))
    }

    /// Whether the lease is to be extended now; true once, until it is or is not.
    pub(super) fn wants_extension(&mut self, now: Micros) -> bool {
        let due = now.since(self.extended) >= self.ack_wait / 3 && !self.asking && now < self.lost_at();
        self.asking |= due;
        due
    }

    /// An extension was answered, or not. It was asked for at `asked`.
    pub(super) fn extended(&mut self, asked: Micros, answered: bool) {
        self.asking = false;
        if answered {
            self.extended = self.extended.max(asked);
        }
    }

    /// Whether the lease's time is up; true once.
    pub(super) fn loses_lease(&mut self, now: Micros) -> bool {
        let over = now >= self.lost_at() && !self.lost;
        self.lost |= over;
        over
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
        sku: "T4".into(),
        unit: Unit::Second,
        quantity: micros(ran),
        item: "execution".into(),
        unit_price_usd: provider.config.second,
        amount_usd: amount,
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
    let bill = bill(provider, crate::setup::EXPECTED, true);
    Answer { outcome: Err(failure), bill, took, cold_start: Duration::ZERO, first_token: Duration::ZERO }
}

fn success() -> Success {
    let output = Output { text: "done".into(), finish_reason: "stop".into() };
    Success { output, usage: Usage { prompt_tokens: 1, completion_tokens: 1, estimated: false } }
}

/// What an order means for an attempt.
pub(super) fn news(order: &schemas::handover::Order) -> Option<News> {
    use schemas::handover::Order;
    match order {
        Order::Hedged(_) => Some(News::Hedged),
        Order::Alone(_, entry) => Some(News::Alone(entry.clone())),
        Order::Stop(_) => Some(News::Stop),
        Order::Warm { .. } => None,
    }
}
