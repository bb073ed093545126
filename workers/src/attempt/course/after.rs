//! After the call: the result and whose it is, the cost, the journal of a failure, and waiting while nothing can be stored.

use std::{sync::Arc, time::Duration};

use schemas::{
    cost::{CostEvent, Purpose},
    failure::{Failure, FailureClass},
    journal::Trace,
    reply::{JobResult, OutputRef},
};
use transport::{Stored, stored};

use super::{
    Booking, Course, Effect, End, Found, Moment, Outcome, Refusal, Report, ResultName, Rival, State, Step,
    Then, Waiting, during::book, finish, over, papers,
};
use crate::attempt::Settled;

/// The first pause after a refusal; each further one doubles it.
const PAUSE_MIN: Duration = Duration::from_millis(250);
/// The longest pause. A stream that has space again should not be waited for much longer than that.
const PAUSE_MAX: Duration = Duration::from_secs(8);

impl Course {
    /// Stores a result. Where the lease is not surely our own, another attempt may have ended the job, perhaps so long ago that
    /// the server has forgotten the message id: we look first.
    pub(super) fn store(&mut self, outcome: Box<Outcome>) -> Step {
        if self.sure { publish(outcome) } else { look(outcome) }
    }

    /// We have looked.
    pub(super) fn looked(&mut self, outcome: Box<Outcome>, found: &Found, now: Moment) -> Step {
        // This attempt's own result, sent before; else, of several jobs with one id, the result of this job.
        let own = found.results.iter().find(|r| r.attempt_key == Some(self.key));
        let of_job = || found.results.iter().find(|r| r.log.as_ref() == Some(&self.place()));
        let result = own.or_else(of_job).or(found.results.first());
        if result.is_some() {
            return self.compare(outcome, result, now);
        }
        // Whoever booked this attempt gave it up for lost, and runs the job again. A useful cost beside the wasted one would
        // count the attempt twice.
        if found.booked && outcome.result.bill.is_some() {
            let mut effects = left_over(&outcome);
            // The job has no result by this, and nobody may take it for done.
            let failed = outcome.settled.failed.or(Some(FailureClass::WorkerLost));
            effects.push(Effect::Settle(Settled { failed, ..outcome.settled }));
            return (State::Over, effects);
        }
        publish(outcome)
    }

    /// The server has a result of the job: ours, or one with the same id from before.
    pub(super) fn stored(&mut self, outcome: Box<Outcome>, stored: Stored, now: Moment) -> Step {
        self.refusals = 0;
        if stored.duplicate {
            return (State::ReadingStored(outcome), vec![Effect::ReadStored(stored.seq)]);
        }
        let result = outcome.result.clone();
        self.ours(*outcome, &result, now)
    }

    /// This attempt gave the job's result: its cost is the useful one. Nobody goes on with what earlier attempts have left, so that is
    /// booked, too; the attempt beside a hedge has left nothing, it runs.
    fn ours(&mut self, outcome: Outcome, result: &JobResult, now: Moment) -> Step {
        let Outcome { job, settled, .. } = outcome;
        // Where the job was taken back, the attempt's own cost was booked before.
        let mut events: Vec<CostEvent> =
            stored::useful_event(result, &job.subject.tenant).into_iter().collect();
        let mut effects = Vec::new();
        if self.rival == Rival::None {
            for entry in self.journal.abandoned(Some(self.key)) {
                effects.push(Effect::Report(Report::Abandoned(Box::new(entry.clone()))));
                events.push(CostEvent::abandoned(&job, entry, self.terms.site.price_book.clone(), now.at));
            }
        }
        events.retain(|event| !event.lines.is_empty() || event.purpose == Purpose::Useful);
        let (state, more) = self.book_each(events, Then::Finish(job, settled));
        effects.extend(more);
        (state, effects)
    }

    /// Stores these cost events, one after the other.
    fn book_each(&mut self, mut events: Vec<CostEvent>, then: Then) -> Step {
        if events.is_empty() {
            return self.booked(then);
        }
        let event = events.remove(0);
        let then = if events.is_empty() { then } else { Then::BookMore(events, Box::new(then)) };
        book(Booking { event, then })
    }

    /// Whose result is stored? `None` if the stream has dropped it, so that nobody can tell; then it counts as another's, since
    /// a wasted cost stands beside whatever was booked as useful.
    pub(super) fn compare(&mut self, outcome: Box<Outcome>, found: Option<&JobResult>, now: Moment) -> Step {
        if let Some(found) = found
            && found.attempt_key == Some(self.key)
        {
            return self.ours(*outcome, found, now);
        }
        let mut outcome = outcome;
        let mut effects = left_over(&outcome);
        let bill = outcome.result.bill.clone();
        let job = outcome.job.clone();
        let own = bill.map(|bill| self.cost(&job, Purpose::WastedRace, bill, now.at));
        let mut events: Vec<CostEvent> = own.into_iter().collect();
        let another = |found: &&JobResult| found.log.as_ref().is_some_and(|log| *log != self.place());
        let then = if let Some(first) = found.filter(another) {
            // Not another attempt of the same job, but another job with the same id.
            outcome.result = Arc::new(papers::taken(&outcome.result, first));
            Then::TellTaken(outcome)
        } else {
            // Its worker may have died between the result and the cost, and the job ends here.
            events.extend(found.and_then(|found| stored::useful_event(found, &job.subject.tenant)));
            Then::Finish(outcome.job, outcome.settled)
        };
        let (state, more) = self.book_each(events, then);
        effects.extend(more);
        (state, effects)
    }

    /// The cost of the attempt is stored.
    pub(super) fn booked(&mut self, then: Then) -> Step {
        self.refusals = 0;
        match then {
            Then::Finish(job, settled) => finish(&job, settled),
            Then::Store(outcome) => self.store(outcome),
            Then::TellTaken(outcome) => self.tell_taken(outcome),
            Then::GiveBack(end) => self.write_end(end),
            Then::Settle(settled) => over(settled),
            Then::BookMore(events, then) => self.book_each(events, *then),
        }
    }

    fn tell_taken(&self, outcome: Box<Outcome>) -> Step {
        let name = ResultName::IdTaken(self.terms.handover.lease.stream_seq);
        let effect = Effect::StoreResult(name, outcome.result.clone());
        (State::TellingTaken(outcome), vec![effect])
    }

    /// A result was not stored. One that is too large gets its output out of the way, then its decision.
    pub(super) fn refused(&mut self, mut outcome: Box<Outcome>, why: Refusal, now: Moment) -> Step {
        match why {
            Refusal::TooLarge if outcome.result.output.is_some() => store_output(outcome),
            Refusal::TooLarge if outcome.result.decision.is_some() => {
                Arc::make_mut(&mut outcome.result).decision = None;
                self.store(outcome)
            }
            why @ (Refusal::TooLarge | Refusal::Unavailable(_)) => {
                self.wait(Waiting::Result(outcome), why, now)
            }
        }
    }

    /// The output lies in the object store; the result says where.
    pub(super) fn output_stored(&mut self, mut outcome: Box<Outcome>, place: OutputRef) -> Step {
        self.refusals = 0;
        let result = Arc::make_mut(&mut outcome.result);
        (result.output, result.output_ref) = (None, Some(place));
        self.store(outcome)
    }

    /// Something was refused: it is tried again after a pause, with the lease kept meanwhile. What was paid for is never given
    /// up for that, unless the worker must stop.
    pub(super) fn wait(&mut self, waiting: Waiting, why: Refusal, now: Moment) -> Step {
        if self.stopping {
            return self.give_up(waiting, now);
        }
        let why = match why {
            Refusal::TooLarge => "too large for a message".to_owned(),
            Refusal::Unavailable(why) => why,
        };
        let pause = PAUSE_MIN.saturating_mul(1 << self.refusals.min(8)).min(PAUSE_MAX);
        self.refusals = self.refusals.saturating_add(1);
        let what = waiting.name();
        (State::Waiting(waiting), vec![Effect::Report(Report::Withheld { what, why }), Effect::Wait(pause)])
    }

    /// The pause is over.
    pub(super) fn again(&mut self, waiting: Waiting, now: Moment) -> Step {
        match waiting {
            Waiting::Result(outcome) => self.store(outcome),
            Waiting::Look { outcome, .. } => look(outcome),
            Waiting::Output(outcome) => store_output(outcome),
            Waiting::Taken(outcome) => self.tell_taken(outcome),
            // The next holder of the job books it, too.
            Waiting::Abandoned { .. } if !self.sure => {
                (State::Over, vec![Effect::Report(Report::LeaseLost), Effect::Settle(Settled::NOTHING)])
            }
            Waiting::Abandoned { job, entries } => self.book_next(job, entries, now),
            Waiting::Cost(booking) => book(*booking),
        }
    }

    /// The worker must stop before what waits could be stored. The job is delivered again: a result without its cost is found
    /// and booked then; an output without a result is lost, and what it cost is wasted, unless the journal leads to its run.
    pub(super) fn give_up(&mut self, waiting: Waiting, now: Moment) -> Step {
        let mut effects = vec![Effect::Report(Report::Abandoning(waiting.name()))];
        let (state, more) = match waiting {
            Waiting::Result(outcome)
            | Waiting::Output(outcome)
            | Waiting::Look { outcome, stored: false } => {
                let failed = outcome.settled.failed.or(Some(FailureClass::WorkerLost));
                let settled = Settled { failed, ..outcome.settled };
                match outcome.result.bill.clone().filter(|_| !outcome.trail) {
                    Some(bill) => {
                        let event = self.cost(&outcome.job, Purpose::WastedFailure, bill, now.at);
                        book(Booking { event, then: Then::Settle(settled) })
                    }
                    None => over(settled),
                }
            }
            // Should the result be ours, whoever finds it books the useful cost.
            Waiting::Taken(outcome) | Waiting::Look { outcome, stored: true } => over(outcome.settled),
            // Nothing has begun: the job is given back, and its journal still says what is to be booked.
            Waiting::Abandoned { .. } => {
                let failure =
                    Failure::new(FailureClass::Preempted, "the worker stopped before the job began");
                self.unbegun(failure, now)
            }
            Waiting::Cost(booking) => self.leave_cost(*booking, now),
        };
        effects.extend(more);
        (state, effects)
    }

    /// The worker must stop before the attempt's cost could be stored. It is left in the journal, and the next holder of the job books
    /// it. A job that has its result has no next holder; a useful cost that is missing is booked by whoever finds the result.
    fn leave_cost(&mut self, booking: Booking, now: Moment) -> Step {
        let end = match booking.then {
            Then::GiveBack(end) => end,
            Then::Settle(settled) => {
                let text = "the worker stopped before what it spent could be booked";
                let failure = Failure::new(FailureClass::Preempted, text);
                Box::new(End { started: now.at, failure, settled })
            }
            then @ (Then::Finish(..) | Then::Store(_) | Then::TellTaken(_) | Then::BookMore(..)) => {
                return over(then.settled());
            }
        };
        if let Some(step) = self.not_ours(&end) {
            return step;
        }
        let trace = Trace::Started { expected: booking.event.lines };
        let journal = self.journal_with(self.entry(end.started, trace));
        (State::WritingEnd(end), vec![Effect::WriteJournal(Box::new(journal))])
    }

    /// Writes down how the attempt failed, if the job is still its own.
    pub(super) fn write_end(&mut self, end: Box<End>) -> Step {
        if let Some(step) = self.not_ours(&end) {
            return step;
        }
        let trace = Trace::Failed { failure: end.failure.clone(), cost_usd: end.settled.cost };
        let journal = self.journal_with(self.entry(end.started, trace));
        (State::WritingEnd(end), vec![Effect::WriteJournal(Box::new(journal))])
    }

    /// Gives the job back, unless another attempt has it.
    pub(super) fn give_back(&mut self, end: End, now: Moment) -> Step {
        if let Some(step) = self.not_ours(&end) {
            return step;
        }
        if self.rival == Rival::Runs {
            // Should the other attempt fail, too, the dispatcher takes the job up again.
            return over(Settled { kept: true, ..end.settled });
        }
        let back = self.return_of(end.failure, end.settled.cost, now);
        (State::Over, vec![Effect::GiveBack(back), Effect::Settle(end.settled)])
    }

    /// The end of a failed attempt whose job is another's now.
    fn not_ours(&self, end: &End) -> Option<Step> {
        if self.rival == Rival::Won {
            return Some(over(end.settled));
        }
        let lost = || vec![Effect::Report(Report::LeaseLost), Effect::Settle(end.settled)];
        (!self.sure).then(|| (State::Over, lost()))
    }
}

impl Waiting {
    const fn name(&self) -> &'static str {
        match self {
            Self::Result(_) | Self::Look { .. } | Self::Taken(_) => "result",
            Self::Output(_) => "output",
            Self::Abandoned { .. } | Self::Cost(_) => "cost",
        }
    }
}

impl Then {
    fn settled(&self) -> Settled {
        match self {
            Self::Finish(_, settled) | Self::Settle(settled) => *settled,
            Self::Store(outcome) | Self::TellTaken(outcome) => outcome.settled,
            Self::GiveBack(end) => end.settled,
            Self::BookMore(_, then) => then.settled(),
        }
    }
}

fn publish(outcome: Box<Outcome>) -> Step {
    let effect = Effect::StoreResult(ResultName::OfJob, outcome.result.clone());
    (State::StoringResult(outcome), vec![effect])
}

fn look(outcome: Box<Outcome>) -> Step {
    (State::Looking(outcome), vec![Effect::LookForResult])
}

fn store_output(outcome: Box<Outcome>) -> Step {
    let effect = Effect::StoreOutput(outcome.result.clone());
    (State::StoringOutput(outcome), vec![effect])
}

/// What is told and removed when another attempt gave the result.
fn left_over(outcome: &Outcome) -> Vec<Effect> {
    let remove = outcome.result.output_ref.clone().map(Effect::RemoveOutput);
    [Effect::Report(Report::Beaten)].into_iter().chain(remove).collect()
}
