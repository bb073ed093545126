//! From the accepted offer to the call.

use std::sync::Arc;

use schemas::{
    Micros, UsdNanos,
    cost::CostEvent,
    failure::{Failure, FailureClass},
    job::{Job, JobInput},
    journal::{Entry, Trace},
    reply::Status,
};

use super::{Calling, Course, Effect, End, Moment, Outcome, Report, Rival, State, Step, lapsed, over};
use crate::{attempt::Settled, config::JournalMode};

impl Course {
    /// The job is read: what earlier workers left is booked before anything else.
    pub(super) fn read(&mut self, job: Arc<Job>, now: Moment) -> Step {
        // The attempt beside a hedge is not abandoned: it runs.
        let hedge = self.terms.handover.hedge;
        let abandoned = self.journal.abandoned(Some(self.key)).filter(|_| !hedge).cloned();
        let entries = abandoned.collect();
        self.book_next(job, entries, now)
    }

    /// The first of the abandoned attempts is booked.
    pub(super) fn abandoned(&mut self, job: Arc<Job>, mut entries: Vec<Entry>, now: Moment) -> Step {
        self.refusals = 0;
        let entry = entries.remove(0);
        self.close(entry);
        self.book_next(job, entries, now)
    }

    /// Notes that an abandoned attempt is booked.
    fn close(&mut self, entry: Entry) {
        let failure = Failure::new(FailureClass::WorkerLost, "nobody heard of this attempt again");
        let cost_usd = entry.expected_usd();
        self.journal.record(Entry { trace: Trace::Failed { failure, cost_usd }, ..entry });
    }

    /// Books the first of these attempts that may have cost something; when none is left, the attempt itself begins.
    pub(super) fn book_next(&mut self, job: Arc<Job>, mut entries: Vec<Entry>, now: Moment) -> Step {
        let mut effects = Vec::new();
        while let Some(entry) = entries.first() {
            effects.push(Effect::Report(Report::Abandoned(Box::new(entry.clone()))));
            let event = CostEvent::abandoned(&job, entry, self.terms.site.price_book.clone(), now.at);
            if !event.lines.is_empty() {
                effects.push(Effect::StoreCost(Box::new(event)));
                return (State::BookingAbandoned { job, entries }, effects);
            }
            let entry = entries.remove(0);
            self.close(entry);
        }
        if self.left.is_some() {
            // The journal names the attempt.
            effects.push(Effect::Check);
            return (State::Checking { job, fetched: false }, effects);
        }
        if self.terms.site.journal == JournalMode::Always {
            let trace = Trace::Started { expected: self.terms.expected.clone() };
            let journal = self.journal_with(self.entry(now.at, trace));
            effects.push(Effect::WriteJournal(Box::new(journal)));
            return (State::WritingIntent { job }, effects);
        }
        // Should this worker die during the call, its dispatcher books what the call may have cost.
        effects.push(Effect::Announce);
        (State::Announcing { job }, effects)
    }

    /// The last look before it costs money: the dispatcher may have given the job to another worker by now, or somebody may
    /// have taken it back.
    pub(super) fn checked(
        &mut self,
        job: Arc<Job>,
        fetched: bool,
        order: Option<Failure>,
        now: Moment,
    ) -> Step {
        if self.rival == Rival::Won {
            return over(Settled { failed: Some(FailureClass::Cancelled), ..Settled::NOTHING });
        }
        // An offer whose input took long to fetch was accepted in time all the same.
        let late = !fetched && now.at > self.terms.handover.accept_by_us;
        if late || !self.sure {
            return lapsed();
        }
        if self.stopping {
            let failure = Failure::new(FailureClass::Preempted, "the worker stopped before the job began");
            return self.unbegun(failure, now);
        }
        // With a run of an earlier worker, the provider is asked all the same: to stop the run and to read its bill.
        if let Some(failure) = order
            && self.left.is_none()
        {
            return self.cancelled_before(job, failure, now);
        }
        if !fetched && matches!(job.input, JobInput::Stored(_)) {
            return (State::Fetching { job }, vec![Effect::FetchInput]);
        }
        self.call(job, now.at)
    }

    fn call(&mut self, job: Arc<Job>, started: Micros) -> Step {
        let since = self.left.as_ref().map_or(started, |entry| entry.started_us);
        let trail = self.left.is_some();
        let journalled = trail || self.written;
        let call = Calling { job, started, since, journalled, submitted: trail, trail };
        (State::Calling(call), vec![Effect::Call(self.left.clone())])
    }

    fn cancelled_before(&mut self, job: Arc<Job>, failure: Failure, now: Moment) -> Step {
        let mut result = self.result(&job, Status::Cancelled, now.at, UsdNanos::ZERO, now.at);
        result.error = Some(failure);
        let settled = Settled { failed: Some(FailureClass::Cancelled), ..Settled::NOTHING };
        let (state, mut effects) =
            self.store(Box::new(Outcome { job, result: Arc::new(result), trail: false, settled }));
        effects.insert(0, Effect::Report(Report::Cancelled));
        (state, effects)
    }

    /// The attempt failed before the provider was called.
    pub(super) fn unbegun(&mut self, failure: Failure, now: Moment) -> Step {
        let settled = Settled { failed: Some(failure.class), ..Settled::NOTHING };
        self.write_end(Box::new(End { started: now.at, failure, settled }))
    }

    /// The body is no job that this worker can read, though the dispatcher could: the worker is of an older version. The job's
    /// id is unknown, so no journal is written.
    pub(super) fn unreadable(&mut self, why: &str, now: Moment) -> Step {
        let failure = Failure::new(FailureClass::Undecodable, why);
        let settled = Settled { failed: Some(failure.class), ..Settled::NOTHING };
        let trace = Trace::Failed { failure: failure.clone(), cost_usd: UsdNanos::ZERO };
        let entry = self.entry(now.at, trace);
        self.journal.record(entry);
        self.give_back(End { started: now.at, failure, settled }, now)
    }
}
