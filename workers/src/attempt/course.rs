//! The course of one attempt, from an accepted offer to its last effect. Pure: no clock, no I/O, nothing async.
//!
//! ```text
//!  accepted ─▶ read ─▶ book the abandoned ─▶ journal, or announce ─▶ check once more ─▶ fetch input? ─▶ call the provider
//!                                                                                           │
//!   output ─▶ (lease unsure: look for a result) ─▶ result ─▶ whose is stored? ─▶ cost ─▶ ack ◀──┤
//!   taken back ─▶ cost ─▶ result "cancelled" ─▶ ack ◀────────────────────────────────────────┤
//!   failure ─▶ cost ─▶ journal ─▶ give back, or keep while another attempt runs ◀────────────┘
//! ```
//!
//! [`Course::apply`] takes one [`Event`] and returns the [`Effect`]s to carry out, in order. An effect that is a question
//! names the event that answers it. At most one question is open at a time, except that a running call may also report
//! [`Event::Submitting`] and [`Event::RunStarted`], whose effects are carried out before the call goes on. [`News`] may come at
//! any moment. After [`Effect::Settle`] the course is over and no event has an effect.
//!
//! Invariants, which the tests check in every state:
//! - the provider is called at most once, and not before somebody else could tell of the attempt: its journal, or the dispatcher;
//! - the cost of the attempt is stored at most once, under one purpose;
//! - once the lease is not surely its own, the attempt stores its own cost, and a result whose absence was looked up, and
//!   touches nothing else.

mod after;
mod before;
mod during;
mod effect;
mod event;
mod papers;
mod state;
#[cfg(test)]
mod tests;

use schemas::{
    AttemptKey,
    job::Job,
    journal::{Entry, Journal},
};

use self::state::{Booking, Calling, End, Outcome, Rival, State, Then, Waiting, Why};
pub use self::{
    effect::{Effect, Report, ResultName},
    event::{Answer, Event, Found, Moment, News, Refusal, Site, Terms},
};
use super::settled::Settled;

/// One attempt: where it stands, and what it was told.
#[derive(Clone, Debug, PartialEq)]
pub struct Course {
    terms: Terms,
    /// Names the attempt: by its own offer, or as the earlier worker named it that left the attempt unfinished.
    key: AttemptKey,
    /// What that earlier worker left in the journal.
    left: Option<Box<Entry>>,
    /// What is known of all attempts of the job.
    journal: Journal,
    /// Whether the stored journal names this attempt since before its call.
    written: bool,
    /// Whether the lease was surely our own at every event so far.
    sure: bool,
    rival: Rival,
    /// Whether the worker's grace period is over.
    stopping: bool,
    /// Refusals since something was stored last; the pauses grow with it.
    refusals: u32,
    state: State,
}

/// A state and the effects of entering it.
type Step = (State, Vec<Effect>);

impl Course {
    /// An attempt whose offer was accepted. Its first event is [`Event::Accepted`].
    pub fn new(mut terms: Terms) -> Self {
        let journal = std::mem::take(&mut terms.handover.journal);
        let here = |e: &&Entry| e.pool == terms.site.pool && e.attempt == terms.handover.attempt;
        let left = journal.unfinished().filter(here).cloned().map(Box::new);
        let key = left.as_ref().and_then(|entry| entry.key).unwrap_or_else(|| terms.offer.attempt());
        let rival = if terms.handover.hedge { Rival::Runs } else { Rival::None };
        Self {
            terms,
            key,
            left,
            journal,
            written: false,
            sure: true,
            rival,
            stopping: false,
            refusals: 0,
            state: State::Accepted,
        }
    }

    /// Names the attempt in the journal, in cost events and in its result.
    pub fn key(&self) -> AttemptKey {
        self.key
    }

    /// The accepted offer. Its journal is empty: what the attempt knows of others moves on with it.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether the attempt is over: nothing has an effect any more.
    pub fn is_over(&self) -> bool {
        self.state == State::Over
    }

    /// Takes in what happened, and returns what is to be done about it, in order.
    ///
    /// An answer to a question that is not open, and any event after the end, changes nothing.
    pub fn apply(&mut self, now: Moment, event: Event) -> Vec<Effect> {
        self.sure &= now.sure;
        let state = std::mem::replace(&mut self.state, State::Over);
        let (state, effects) = self.step(now, state, event);
        self.state = state;
        effects
    }

    /// The whole table: which event matters in which state. What is not named here is stale.
    fn step(&mut self, now: Moment, state: State, event: Event) -> Step {
        use {Event as E, State as S};
        match (state, event) {
            (S::Accepted, E::Accepted) => (S::Reading, vec![Effect::ReadJob]),
            (S::Reading, E::JobRead(job)) => self.read(job, now),
            (S::Reading, E::JobUnreadable(why)) => self.unreadable(&why, now),
            (S::Reading, E::JobGone) => over(Settled::NOTHING),
            (S::BookingAbandoned { job, entries }, E::CostStored) => self.abandoned(job, entries, now),
            (S::BookingAbandoned { job, entries }, E::CostRefused(why)) => {
                self.wait(Waiting::Abandoned { job, entries }, why, now)
            }
            (S::WritingIntent { job }, E::JournalWritten(journal)) => {
                (self.journal, self.written) = (*journal, true);
                (S::Checking { job, fetched: false }, vec![Effect::Check])
            }
            (S::WritingIntent { job }, E::JournalRefused(journal)) => {
                self.journal = *journal;
                (S::Announcing { job }, vec![Effect::Announce])
            }
            (S::Announcing { job }, E::Announced) => {
                (S::Checking { job, fetched: false }, vec![Effect::Check])
            }
            (S::Announcing { .. }, E::Lapsed) => lapsed(),
            (S::Checking { job, fetched }, E::Checked(order)) => self.checked(job, fetched, order, now),
            (S::Fetching { job }, E::InputFetched) => {
                (S::Checking { job, fetched: true }, vec![Effect::Check])
            }
            (S::Fetching { .. }, E::InputMissing(failure)) => self.unbegun(failure, now),

            (S::Calling(call), E::Submitting) => self.submitting(call),
            (S::Calling(call), E::RunStarted(run)) => self.run_started(call, run),
            (S::Calling(call), E::JournalWritten(journal)) => {
                self.journal = *journal;
                (S::Calling(Calling { journalled: true, trail: true, ..call }), Vec::new())
            }
            // What the journal said of the call before still holds.
            (S::Calling(call), E::JournalRefused(journal)) => {
                self.journal = *journal;
                (S::Calling(call), Vec::new())
            }
            (S::Calling(call) | S::Dropping { call, .. }, E::Ended(answer)) => self.ended(call, *answer, now),
            (S::Dropping { call, why }, E::Dropped { bill, took }) => {
                self.dropped(call, why, bill, took, now)
            }

            (S::Looking(outcome), E::Looked(found)) => self.looked(outcome, &found, now),
            (S::Looking(outcome), E::Unanswered(why)) => {
                let waiting = Waiting::Look { outcome, stored: false };
                self.wait(waiting, Refusal::Unavailable(why), now)
            }
            (S::ReadingStored(outcome), E::Unanswered(why)) => {
                let waiting = Waiting::Look { outcome, stored: true };
                self.wait(waiting, Refusal::Unavailable(why), now)
            }
            (S::StoringResult(outcome), E::ResultStored(stored)) => self.stored(outcome, stored, now),
            (S::StoringResult(outcome), E::ResultRefused(why)) => self.refused(outcome, why, now),
            (S::StoringOutput(outcome), E::OutputStored(place)) => self.output_stored(outcome, place),
            (S::StoringOutput(outcome), E::OutputRefused(why)) => {
                self.wait(Waiting::Output(outcome), why, now)
            }
            (S::ReadingStored(outcome), E::StoredRead(found)) => self.compare(outcome, found.as_deref(), now),
            (S::TellingTaken(outcome), E::ResultStored(_)) => {
                self.refusals = 0;
                finish(&outcome.job, outcome.settled)
            }
            (S::TellingTaken(outcome), E::ResultRefused(why)) => self.wait(Waiting::Taken(outcome), why, now),
            (S::StoringCost(booking), E::CostStored) => self.booked(booking.then),
            (S::StoringCost(booking), E::CostRefused(why)) => self.wait(Waiting::Cost(booking), why, now),
            (S::WritingEnd(end), E::JournalWritten(journal) | E::JournalRefused(journal)) => {
                self.journal = *journal;
                self.give_back(*end, now)
            }
            (S::Waiting(waiting), E::Waited) => self.again(waiting, now),

            (state, E::News(news)) => self.news(state, news, now),
            // Every other answer is stale: nobody asked, or the question was given up. Named one by one, so that a new event is
            // not overlooked.
            (
                state,
                E::Accepted
                | E::JobRead(_)
                | E::JobUnreadable(_)
                | E::JobGone
                | E::CostStored
                | E::CostRefused(_)
                | E::JournalWritten(_)
                | E::JournalRefused(_)
                | E::Announced
                | E::Lapsed
                | E::Checked(_)
                | E::InputFetched
                | E::InputMissing(_)
                | E::Submitting
                | E::RunStarted(_)
                | E::Ended(_)
                | E::Dropped { .. }
                | E::Looked(_)
                | E::ResultStored(_)
                | E::ResultRefused(_)
                | E::StoredRead(_)
                | E::Unanswered(_)
                | E::OutputStored(_)
                | E::OutputRefused(_)
                | E::Waited,
            ) => (state, Vec::new()),
        }
    }

    /// What nobody asked for, and what may come in every state.
    fn news(&mut self, state: State, news: News, now: Moment) -> Step {
        match (state, news) {
            (state, News::LeaseLost) => {
                self.sure = false;
                Self::drop_call(state, Why::LeaseLost)
            }
            (State::Waiting(waiting), News::WorkerStops) => {
                self.stopping = true;
                self.give_up(waiting, now)
            }
            (state, News::WorkerStops) => {
                self.stopping = true;
                Self::drop_call(state, Why::WorkerStops)
            }
            (state, News::TakenBack(failure)) => Self::drop_call(state, Why::NotWanted(failure)),
            (state, News::Stop) => {
                self.rival = Rival::Won;
                Self::drop_call(state, Why::NotWanted(state::beaten()))
            }
            (state, News::Hedged) => {
                self.rival.becomes(Rival::Runs);
                (state, Vec::new())
            }
            (state, News::Alone(entry)) => {
                self.rival.becomes(Rival::None);
                if let Some(entry) = entry {
                    self.journal.record(*entry);
                }
                (state, Vec::new())
            }
        }
    }
}

/// The dispatcher has given up on the offer, or may not know that it was accepted: the job comes again.
fn lapsed() -> Step {
    (State::Over, vec![Effect::Report(Report::LeaseLost), Effect::Settle(Settled::NOTHING)])
}

/// The end.
fn over(settled: Settled) -> Step {
    (State::Over, vec![Effect::Settle(settled)])
}

/// A result of the job is stored: the lease is finished, and nobody needs a stored input any more.
fn finish(job: &Job, settled: Settled) -> Step {
    let mut effects = vec![Effect::Ack];
    if job.input.stored().is_some() {
        effects.push(Effect::RemoveInput);
    }
    effects.push(Effect::Settle(settled));
    (State::Over, effects)
}
