//! What an attempt writes: its result, its journal entry, its return, its cost events.

use schemas::{
    Micros, UsdNanos,
    cost::{Bill, CostEvent, Purpose},
    failure::{Failure, FailureClass},
    handover::Return,
    job::Job,
    journal::{Entry, Journal, Trace},
    reply::{JobResult, LogPlace, Status, Timings},
    time::micros,
};

use super::{Course, Moment};

impl Course {
    /// The cost event of this attempt.
    pub(super) fn cost(&self, job: &Job, purpose: Purpose, bill: Bill, at: Micros) -> CostEvent {
        let attempt = (self.terms.handover.attempt, Some(self.key));
        CostEvent::of_attempt(job, attempt, &self.terms.site.pool, purpose, bill, at)
    }

    /// The job's place in the log.
    pub(super) fn place(&self) -> LogPlace {
        let lease = &self.terms.handover.lease;
        LogPlace { stream: lease.stream().to_owned(), seq: lease.stream_seq }
    }

    /// This attempt as the journal has it.
    pub(super) fn entry(&self, started_us: Micros, trace: Trace) -> Entry {
        let (attempt, pool) = (self.terms.handover.attempt, self.terms.site.pool.clone());
        Entry { attempt, key: Some(self.key), pool, started_us, trace }
    }

    /// The journal as this attempt knows it, with what is known of itself.
    pub(super) fn journal_with(&self, entry: Entry) -> Journal {
        let mut journal = self.journal.clone();
        journal.record(entry);
        journal
    }

    /// A result of this attempt without an output. It takes the decision along, since an attempt tells it once.
    pub(super) fn result(
        &mut self,
        job: &Job,
        status: Status,
        started: Micros,
        cost: UsdNanos,
        at: Micros,
    ) -> JobResult {
        let (spent, stored) = (self.journal.spent(), self.terms.handover.lease.stored_at);
        JobResult {
            job: job.id,
            status,
            output: None,
            output_ref: None,
            usage: None,
            error: None,
            model: Some(job.subject.model.clone()),
            lane: Some(job.subject.lane),
            provider: Some(self.terms.site.pool.provider.clone()),
            region: Some(self.terms.site.pool.region.clone()),
            attempts: self.terms.handover.attempt,
            attempt_key: Some(self.key),
            bill: None,
            log: Some(self.place()),
            timings: Timings {
                queued_us: micros(self.terms.received.since(stored)),
                handover_us: micros(started.since(self.terms.received)),
                provider_us: micros(at.since(started)),
                total_us: micros(at.since(stored)),
                ..Timings::default()
            },
            cost_usd: spent.checked_add(cost).unwrap_or(spent),
            labels: job.labels.clone(),
            replay_of: job.replay_of,
            decision: self.terms.handover.decision.take(),
            finished_us: at,
        }
    }

    /// The job given back to the dispatchers.
    pub(super) fn return_of(&mut self, failure: Failure, cost_usd: UsdNanos, now: Moment) -> Box<Return> {
        let handover = &mut self.terms.handover;
        Box::new(Return {
            lease: handover.lease.clone(),
            leased_us: now.leased,
            subject: handover.subject.clone(),
            pool: self.terms.site.pool.clone(),
            attempt: handover.attempt,
            failure,
            cost_usd,
            journal: std::mem::take(&mut self.journal),
            decision: handover.decision.take(),
            offer: Some(self.terms.offer.clone()),
            in_log: handover.in_log,
        })
    }
}

/// The result that tells a second job with the id of `first` that the id was taken. `own` is what the second job would have
/// got.
pub(super) fn taken(own: &JobResult, first: &JobResult) -> JobResult {
    let since = Micros::new(first.finished_us.get().saturating_sub(first.timings.total_us));
    let message = format!(
        "field `id`: it belongs to a job that was stored at {since} and has its result; a new job needs a new id"
    );
    JobResult {
        status: Status::Failed,
        output: None,
        output_ref: None,
        usage: None,
        bill: None,
        error: Some(Failure::new(FailureClass::IdTaken, message)),
        ..own.clone()
    }
}
