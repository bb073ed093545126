//! The call: what is written down while it goes on, why it is dropped, and what its end leads to.

use std::{sync::Arc, time::Duration};

use schemas::{
    Micros,
    cost::{Bill, Purpose},
    failure::{Failure, FailureClass},
    job::Job,
    journal::Trace,
    reply::Status,
    time::micros,
};

use super::{
    Answer, Booking, Calling, Course, Effect, End, Moment, Outcome, Report, Rival, State, Step, Then, Why,
    over,
};
use crate::{attempt::Settled, provider::Success};

impl Course {
    /// The provider is about to be asked for a run that goes on without us: the journal must say so first.
    pub(super) fn submitting(&mut self, call: Calling) -> Step {
        let call = Calling { submitted: true, ..call };
        if call.journalled {
            return (State::Calling(Calling { trail: true, ..call }), Vec::new());
        }
        let trace = Trace::Started { expected: self.terms.expected.clone() };
        let journal = self.journal_with(self.entry(call.since, trace));
        (State::Calling(call), vec![Effect::WriteJournal(Box::new(journal))])
    }

    /// The run has an id: the journal must lead to it before the run is asked about.
    pub(super) fn run_started(&mut self, call: Calling, run: String) -> Step {
        let trace = Trace::Running { run, expected: self.terms.expected.clone() };
        let journal = self.journal_with(self.entry(call.since, trace));
        (State::Calling(call), vec![Effect::WriteJournal(Box::new(journal))])
    }

    /// A call is not to go on. In any other state there is none.
    pub(super) fn drop_call(state: State, why: Why) -> Step {
        match (state, why) {
            // The provider stops a run that would go on without us, and reads its bill.
            (State::Calling(call), Why::NotWanted(failure)) if call.trail => {
                (State::Calling(call), vec![Effect::StopRun(failure)])
            }
            // Nobody would find the run: the journal could not be written.
            (State::Calling(call), why) if call.submitted && !call.trail => {
                (State::Calling(call), vec![Effect::StopRun(why.failure())])
            }
            (State::Calling(call), why) => (State::Dropping { call, why }, vec![Effect::DropCall]),
            (state, Why::LeaseLost | Why::WorkerStops | Why::NotWanted(_)) => (state, Vec::new()),
        }
    }

    /// The call was dropped.
    pub(super) fn dropped(
        &mut self,
        call: Calling,
        why: Why,
        bill: Bill,
        took: Duration,
        now: Moment,
    ) -> Step {
        let left = match why {
            Why::LeaseLost | Why::WorkerStops => call.trail,
            Why::NotWanted(_) => false,
        };
        let failure = why.failure();
        if left {
            // The journal leads to the run, so the next holder of the job goes on with it, and nothing is booked twice.
            let report = Report::RunLeft(failure.message);
            return (State::Over, vec![Effect::Report(report), Effect::Settle(Settled::NOTHING)]);
        }
        self.ended(call, dropped(failure, bill, took), now)
    }

    /// The call has ended.
    pub(super) fn ended(&mut self, call: Calling, answer: Answer, now: Moment) -> Step {
        let failed = answer.outcome.as_ref().err();
        let settled = Settled {
            failed: failed.map(|failure| failure.class),
            retry_after_us: failed.and_then(|failure| failure.retry_after_us),
            service: answer.took.saturating_sub(answer.cold_start),
            cold: answer.cold_start,
            cost: answer.bill.amount_usd,
            kept: false,
        };
        // The journal names the attempt, so a later holder of the job may have gone on with it under the same key, and been first: then
        // the output is the stored one, and whose cost is useful shows as for any other output.
        let maybe_ours = call.journalled && answer.outcome.is_ok();
        if self.rival == Rival::Won && !maybe_ours {
            return self.lose(&call.job, answer.bill, settled, now.at);
        }
        match answer.outcome {
            Ok(success) => {
                let times = [answer.took, answer.cold_start, answer.first_token];
                self.succeeded(&call, success, answer.bill, times, settled, now)
            }
            Err(failure) if failure.class == FailureClass::Cancelled => {
                self.cancelled(call, failure, answer.bill, settled, now)
            }
            Err(failure) => self.failed(&call, failure, answer.bill, settled, now),
        }
    }

    /// Another attempt was first: the job is that one's, the cost is booked.
    fn lose(&mut self, job: &Job, bill: Bill, settled: Settled, at: Micros) -> Step {
        if bill.lines.is_empty() {
            return over(settled);
        }
        let event = self.cost(job, Purpose::WastedRace, bill, at);
        let (state, mut effects) = book(Booking { event, then: Then::Settle(settled) });
        effects.insert(0, Effect::Report(Report::Beaten));
        (state, effects)
    }

    /// There is an output. Its result is stored first; whether the cost was useful shows then.
    fn succeeded(
        &mut self,
        call: &Calling,
        success: Success,
        bill: Bill,
        [took, cold_start, first_token]: [Duration; 3],
        settled: Settled,
        now: Moment,
    ) -> Step {
        let job = call.job.clone();
        let mut result = self.result(&job, Status::Succeeded, call.started, bill.amount_usd, now.at);
        result.output = Some(success.output);
        result.usage = Some(success.usage);
        result.bill = Some(bill);
        result.timings.provider_us = micros(took);
        result.timings.cold_start_us = micros(cold_start);
        result.timings.first_token_us = micros(first_token);
        self.store(Box::new(Outcome { job, result: Arc::new(result), trail: call.trail, settled }))
    }

    /// The job was taken back while it ran.
    fn cancelled(
        &mut self,
        call: Calling,
        failure: Failure,
        bill: Bill,
        settled: Settled,
        now: Moment,
    ) -> Step {
        let job = call.job;
        let mut result = self.result(&job, Status::Cancelled, call.started, bill.amount_usd, now.at);
        result.error = Some(failure);
        let event = (!bill.lines.is_empty()).then(|| self.cost(&job, Purpose::Cancelled, bill, now.at));
        let outcome = Box::new(Outcome { job, result: Arc::new(result), trail: call.trail, settled });
        let (state, mut effects) = match event {
            Some(event) => book(Booking { event, then: Then::Store(outcome) }),
            None => self.store(outcome),
        };
        effects.insert(0, Effect::Report(Report::Cancelled));
        (state, effects)
    }

    /// The attempt failed. The cost is booked first: once the job is given back, others may end it.
    fn failed(
        &mut self,
        call: &Calling,
        failure: Failure,
        bill: Bill,
        settled: Settled,
        now: Moment,
    ) -> Step {
        let end = Box::new(End { started: call.since, failure, settled });
        if bill.lines.is_empty() {
            return self.write_end(end);
        }
        let event = self.cost(&call.job, Purpose::WastedFailure, bill, now.at);
        book(Booking { event, then: Then::GiveBack(end) })
    }
}

/// The answer of a call that was dropped.
fn dropped(failure: Failure, bill: Bill, took: Duration) -> Answer {
    Answer { outcome: Err(failure), bill, took, cold_start: Duration::ZERO, first_token: Duration::ZERO }
}

/// Stores a cost event of the attempt.
pub(super) fn book(booking: Booking) -> Step {
    let effect = Effect::StoreCost(Box::new(booking.event.clone()));
    (State::StoringCost(Box::new(booking)), vec![effect])
}
