//! What a worker asks the server for its attempts, and what the answers mean to them.

use std::time::Duration;

use schemas::{
    JobId,
    journal::Journal,
    subjects,
    topology::{JOURNAL_BUCKET, LEDGER, bucket_stream},
};
use transport::Stored;
use workers::attempt::course::{Effect, Event, Found, Refusal};

use super::{MARGIN, Token, What, Worker};
use crate::{
    client::Said,
    desk::Desk,
    net::Line,
    wire::{self, API, Ask, Body, Message, Told},
};

/// How long a question to the server may take.
const GET_WITHIN: Duration = Duration::from_secs(5);
/// How often the log is asked again for a job that a replica does not have.
const MISSES_MAX: u32 = 7;

impl Worker {
    pub(super) fn ask(&mut self, attempt: u64, what: What, ask: Ask, desk: &mut Desk<'_>) {
        let message = Message::new(API, Body::Ask(ask));
        self.client.request(Token { attempt, what }, Line::Control, message, GET_WITHIN, desk);
    }

    pub(super) fn store(&mut self, attempt: u64, what: What, message: Message, desk: &mut Desk<'_>) {
        self.client.publish(Token { attempt, what }, Line::Bulk, message, desk);
    }

    pub(super) fn read_journal(&mut self, number: u64, desk: &mut Desk<'_>) {
        let Some(subject) = self.journal_subject(number) else { return };
        let stream = bucket_stream(JOURNAL_BUCKET).into();
        self.ask(number, What::ReadJournal, Ask::Last { stream, subject: subject.into() }, desk);
    }

    fn journal_subject(&self, number: u64) -> Option<String> {
        let job = self.attempts.get(&number)?.job.as_ref()?;
        Some(format!("$KV.{JOURNAL_BUCKET}.{}", job.id.journal_key(&job.subject.tenant)))
    }

    /// The stored journal is known: what this attempt knows is merged into it and stored at the next revision.
    pub(super) fn merge_journal(&mut self, number: u64, found: Option<wire::Stored>, desk: &mut Desk<'_>) {
        let Some(subject) = self.journal_subject(number) else { return };
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        let Some(own) = &attempt.writing else { return };
        let (revision, mut journal) = match found {
            Some(wire::Stored { seq, message: Message { body: Body::Journal(journal), .. }, .. }) => {
                (seq, journal.as_ref().clone())
            }
            Some(_) | None => (0, Journal::default()),
        };
        journal.merge(own);
        attempt.writing = Some(Box::new(journal.clone()));
        let message =
            Message { expect: Some(revision), ..Message::new(subject, Body::Journal(journal.into())) };
        self.store(number, What::WriteJournal, message, desk);
    }

    fn journal_told(&mut self, number: u64, stored: bool, desk: &mut Desk<'_>) {
        let journal = self.attempts.get_mut(&number).and_then(|attempt| attempt.writing.take());
        if let Some(journal) = journal {
            let event = if stored { Event::JournalWritten(journal) } else { Event::JournalRefused(journal) };
            self.apply(number, event, desk);
            self.call_goes_on(number, desk);
        }
    }

    pub(super) fn said(&mut self, said: Said<Token>, desk: &mut Desk<'_>) {
        let (Token { attempt: number, what }, told) = match said {
            Said::Stored(token, seq, duplicate) => (token, Some(Told::Stored { seq, duplicate })),
            Said::Refused(token, why) => (token, Some(Told::Refused(why))),
            Said::Answered(token, told) => (token, Some(told)),
            Said::Silent(token) => (token, None),
        };
        let full = || Refusal::Unavailable("the stream is full".into());
        let Some(attempt) = self.attempts.get_mut(&number) else { return };
        match (what, told) {
            (What::Job, Some(Told::Got(found))) => {
                let event = match found.map(|stored| stored.message.body) {
                    Some(Body::Job(parcel)) => {
                        attempt.parcel = Some(parcel.clone());
                        attempt.read(&parcel, desk.wall())
                    }
                    // As `stored::job_at` does: asked again before it is believed.
                    None if attempt.misses < MISSES_MAX => {
                        attempt.misses += 1;
                        self.carry_out(number, Effect::ReadJob, desk);
                        return;
                    }
                    Some(_) | None => Event::JobGone,
                };
                self.apply(number, event, desk);
            }
            (What::Cost, Some(Told::Stored { .. })) => self.apply(number, Event::CostStored, desk),
            (What::Cost, _) => self.apply(number, Event::CostRefused(full()), desk),
            (What::Result, Some(Told::Stored { seq, duplicate })) => {
                self.apply(number, Event::ResultStored(Stored { seq, duplicate }), desk);
            }
            (What::Result, _) => self.apply(number, Event::ResultRefused(full()), desk),
            (What::Results, Some(Told::Found(found))) => self.look_for_cost(number, &found, desk),
            (What::Costs(results), Some(Told::Found(found))) => {
                let (handover, key) = (&attempt.course.terms().handover, attempt.course.key());
                let Some(job) = &attempt.job else { return };
                let own = job.id.cost_message(&job.subject.tenant, handover.attempt, key);
                let booked = found.iter().any(|stored| stored.message.id.as_deref() == Some(own.as_str()));
                self.apply(number, Event::Looked(Box::new(Found { results, booked })), desk);
            }
            (What::Stored, Some(Told::Got(found))) => {
                let body = found.map(|stored| stored.message.body);
                let result = body.and_then(|body| {
                    if let Body::Result(result) = body {
                        Some(Box::new(result.as_ref().clone()))
                    } else {
                        None
                    }
                });
                self.apply(number, Event::StoredRead(result), desk);
            }
            (What::ReadJournal, Some(Told::Got(found))) => {
                self.merge_journal(number, found.map(|found| *found), desk);
            }
            // Somebody else wrote in between: it is read again.
            (What::WriteJournal, Some(Told::Refused(wire::Refusal::WrongSequence))) => {
                self.read_journal(number, desk);
            }
            (What::WriteJournal, Some(Told::Stored { .. })) => self.journal_told(number, true, desk),
            // What could not be read or stored is left, and the attempt goes on without.
            (What::WriteJournal | What::ReadJournal, _) => self.journal_told(number, false, desk),
            (What::Extend(asked), told) => attempt.hold.answered(asked, told.is_some()),
            // Nobody answered: the question is asked again.
            (What::Job, _) => self.carry_out(number, Effect::ReadJob, desk),
            (What::Results | What::Costs(_) | What::Stored, _) => {
                self.apply(number, Event::Unanswered("no answer".into()), desk);
            }
        }
    }

    /// A look for a result found these; whether the attempt's cost was booked is looked at next.
    fn look_for_cost(&mut self, number: u64, found: &[wire::Stored], desk: &mut Desk<'_>) {
        let Some(attempt) = self.attempts.get(&number) else { return };
        let Some(job) = &attempt.job else { return };
        let results = found.iter().filter_map(|stored| match (&stored.message.id, &stored.message.body) {
            (Some(id), Body::Result(result)) if JobId::from_result_message(id) == Some(job.id) => {
                Some(result.as_ref().clone())
            }
            _ => None,
        });
        let results = results.collect();
        let subject = subjects::cost(&job.subject.tenant, &job.mailbox).into();
        let since = attempt.lease().stored_at - MARGIN;
        self.ask(number, What::Costs(results), Ask::Since { stream: LEDGER.into(), subject, since }, desk);
    }
}
