//! A worker's calls to its provider: begun, gone on with, stopped, dropped. Mirrors what adapters and the real pool do.

use schemas::{failure::Failure, journal::Entry};
use workers::attempt::course::{Effect, Event};

use super::{
    Worker,
    attempt::{self, Attempt, Call, Phase},
};
use crate::{desk::Desk, provider::RunId, world::CallNews};

impl Worker {
    /// Calls the provider, or goes on with what an earlier worker left.
    pub(super) fn begin_call(&mut self, number: u64, entry: Option<&Entry>, desk: &mut Desk<'_>) {
        let Some(of) = self.attempts.get(&number).and_then(Attempt::call_of) else { return };
        self.next_call += 1;
        let (call, now) = (self.next_call, desk.now());
        let mut begun =
            Call { number: call, of: of.clone(), began: now, phase: Phase::Runs(None), unwanted: None };
        let detached = desk.provider(self.pool).config.detached;
        let left = entry.map(attempt::run_of);
        begun.phase = match left {
            Some(Some(run)) => Phase::Runs(Some(run)),
            Some(None) => Phase::Finding,
            None if detached => Phase::Submitting,
            None => Phase::Runs(None),
        };
        let phase = begun.phase.clone();
        if let Some(attempt) = self.attempts.get_mut(&number) {
            attempt.call = Some(begun);
        }
        match phase {
            Phase::Runs(Some(run)) => desk.await_run(self.pool, call, run),
            Phase::Finding if desk.provider(self.pool).config.finds => desk.find_run(self.pool, call, &of),
            Phase::Finding => self.nobody_knows(number, desk),
            Phase::Submitting => self.submit(number, desk),
            Phase::Runs(None) | Phase::Asked | Phase::Noting(_) => desk.start_run(self.pool, call, of),
        }
    }

    fn nobody_knows(&mut self, number: u64, desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let Some(call) = attempt.call.take() else { return };
        let took = desk.now().since(call.began);
        let answer = attempt::possibly_wasted(desk.provider(self.pool), "nobody can tell", took);
        self.apply(number, Event::Ended(Box::new(answer)), desk);
    }

    /// A detached run is about to be asked for: the journal hears of it first.
    fn submit(&mut self, number: u64, desk: &mut Desk<'_>) {
        self.note_then_go_on(number, Phase::Submitting, Event::Submitting, desk);
    }

    /// The run has an id: the journal hears of it before the run is asked about.
    fn started(&mut self, number: u64, run: RunId, desk: &mut Desk<'_>) {
        self.note_then_go_on(number, Phase::Noting(run), Event::RunStarted(format!("run-{run}")), desk);
    }

    /// Tells the attempt how far the call is. The call goes on when the journal is written, or at once if nothing is.
    fn note_then_go_on(&mut self, number: u64, phase: Phase, event: Event, desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let Some(call) = &mut attempt.call else { return };
        call.phase = phase;
        let moment = attempt.moment(desk);
        let effects = attempt.course.apply(moment, event);
        let writes = effects.iter().any(|effect| matches!(effect, Effect::WriteJournal(_)));
        for effect in effects {
            self.carry_out(number, effect, desk);
        }
        if !writes {
            self.call_goes_on(number, desk);
        }
    }

    /// What the call waited for is written.
    pub(super) fn call_goes_on(&mut self, number: u64, desk: &mut Desk<'_>) {
        let Some(call) = self.attempts.get_mut(&number).and_then(|attempt| attempt.call.as_mut()) else {
            return;
        };
        let (id, of, unwanted) = (call.number, call.of.clone(), call.unwanted.is_some());
        match call.phase {
            Phase::Submitting => {
                call.phase = Phase::Asked;
                desk.start_run(self.pool, id, of);
            }
            Phase::Noting(run) => {
                call.phase = Phase::Runs(Some(run));
                if unwanted {
                    desk.stop_run(self.pool, run);
                }
                desk.await_run(self.pool, id, run);
            }
            Phase::Asked | Phase::Runs(_) | Phase::Finding => {}
        }
    }

    /// The provider says something.
    pub(super) fn call_answered(&mut self, news: &CallNews, desk: &mut Desk<'_>) {
        let (CallNews::Started(id, _) | CallNews::Ended(id, _) | CallNews::Named(id, _)) = *news;
        let ours = |attempt: &Attempt| attempt.call.as_ref().is_some_and(|call| call.number == id);
        let Some(number) = self.attempts.iter().find(|(_, attempt)| ours(attempt)).map(|(n, _)| *n) else {
            return;
        };
        match news {
            CallNews::Ended(_, run) => {
                let Some(attempt) = self.attempts.get_mut(&number) else { return };
                let Some(call) = attempt.call.take() else { return };
                let answer = attempt::answer(desk.provider(self.pool), *run, &call, desk.now());
                let seq = call.of.seq;
                desk.note(Some(seq), || {
                    let outcome = answer.outcome.as_ref().map(|_| ()).map_err(|f| f.class);
                    format!("run-{run} has ended: {outcome:?}, {}", answer.bill.amount_usd)
                });
                self.apply(number, Event::Ended(Box::new(answer)), desk);
            }
            CallNews::Started(_, run) | CallNews::Named(_, Some(run)) => self.started(number, *run, desk),
            // Nothing was started under this name: the call is simply made.
            CallNews::Named(_, None) => self.submit(number, desk),
        }
    }

    /// Has the provider stop the run; the call then ends by itself.
    pub(super) fn stop_run(&mut self, number: u64, why: Failure, desk: &mut Desk<'_>) {
        let Some(call) = self.attempts.get_mut(&number).and_then(|attempt| attempt.call.as_mut()) else {
            return;
        };
        call.unwanted = Some(why);
        if let Phase::Runs(Some(run)) = call.phase {
            let id = call.number;
            desk.stop_run(self.pool, run);
            desk.await_run(self.pool, id, run);
        }
    }

    /// Drops the call: an attached one ends as far as the provider notices, a detached run goes on.
    pub(super) fn drop_call(&mut self, number: u64, desk: &mut Desk<'_>) {
        let Some(call) = self.attempts.get_mut(&number).and_then(|attempt| attempt.call.take()) else {
            return;
        };
        desk.hang_up(self.pool, call.number);
        let took = desk.now().since(call.began);
        let bill = attempt::bill(desk.provider(self.pool), took, true);
        self.apply(number, Event::Dropped { bill, took }, desk);
    }
}
