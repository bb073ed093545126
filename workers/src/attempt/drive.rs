//! Carries out what the course of an attempt decides, and feeds it the answers.

use std::{sync::Arc, time::Duration};

use schemas::{
    cost::CostEvent,
    failure::{Failure, FailureClass},
    handover::Return,
    job::{Job, JobInput},
    journal::Journal,
    reply::JobResult,
    time::Clock as _,
};
use tokio::time::sleep;
use tracing::{debug, error, warn};
use transport::{
    SystemClock,
    payloads::{self, PayloadError},
    stored,
};

use super::{
    Attempt, Settled,
    course::{Effect, Event, News, Refusal, ResultName},
    report::refusal,
};
use crate::nats;

/// Between two tries to read a stored message.
const READ_AGAIN: Duration = Duration::from_millis(250);

/// What carrying out an effect leads to.
enum Next {
    Nothing,
    Answer(Event),
    Over(Settled),
}

impl Attempt {
    /// Runs to its end.
    ///
    /// A short job is mostly overhead, so this future is kept small: what is rarely awaited is boxed, and what can be done
    /// without waiting is done by plain functions.
    pub async fn run(self: Box<Self>) -> Settled {
        let mut event = Event::Accepted;
        loop {
            let mut answer = None;
            for effect in self.hear(event) {
                match self.carry_out(effect).await {
                    Next::Nothing => {}
                    Next::Answer(event) => answer = Some(event),
                    Next::Over(settled) => return settled,
                }
            }
            event = answer.expect("a course that is not over asks one question");
        }
    }

    /// Tells the course what happens now, and before it what was told meanwhile.
    fn hear(&self, event: Event) -> Vec<Effect> {
        let mut effects = Vec::new();
        for news in self.ears.take() {
            effects.extend(self.apply(Event::News(news)));
        }
        if self.kit.stop.is_cancelled() {
            effects.extend(self.apply(Event::News(News::WorkerStops)));
        }
        let more = self.apply(event);
        if effects.is_empty() {
            return more;
        }
        effects.extend(more);
        effects
    }

    async fn carry_out(&self, effect: Effect) -> Next {
        let answer = match effect {
            Effect::ReadJob => Box::pin(self.read_job()).await,
            Effect::StoreCost(event) => self.store_cost(*event).await,
            Effect::WriteJournal(journal) => Box::pin(self.write_journal(*journal)).await,
            Effect::Announce => {
                if self.ears.announced().await {
                    Event::Announced
                } else {
                    Event::Lapsed
                }
            }
            Effect::Check => Event::Checked(self.taken_back()),
            Effect::FetchInput => Box::pin(self.fetch_input()).await,
            Effect::Call(left) => self.call(left).await,
            Effect::LookForResult => Box::pin(self.look()).await,
            Effect::StoreResult(name, result) => self.store_result(name, result).await,
            Effect::ReadStored(seq) => Box::pin(self.read_stored(seq)).await,
            Effect::StoreOutput(result) => Box::pin(self.store_output(result)).await,
            Effect::Wait(pause) => {
                let _waits = self.kit.metrics.waits();
                tokio::select! {
                    () = sleep(pause) => Event::Waited,
                    () = self.kit.stop.cancelled() => Event::News(News::WorkerStops),
                }
            }
            // The call has ended by itself before it could be dropped or stopped.
            Effect::DropCall | Effect::StopRun(_) => return Next::Nothing,
            Effect::Settle(settled) => return Next::Over(settled),
            Effect::Ack => {
                self.kit.acks.ack(self.keeper.lease().clone()).await;
                return Next::Nothing;
            }
            Effect::RemoveOutput(place) => {
                if let Err(error) = Box::pin(payloads::remove_output(&self.kit.client, &place)).await {
                    warn!(job = %self.job().id, %error, "an output is left to the server, which removes it in time");
                }
                return Next::Nothing;
            }
            Effect::RemoveInput => {
                Box::pin(self.remove_input()).await;
                return Next::Nothing;
            }
            Effect::GiveBack(back) => {
                Box::pin(self.give_back(*back)).await;
                return Next::Nothing;
            }
            Effect::Report(report) => {
                self.report(report);
                return Next::Nothing;
            }
        };
        Next::Answer(answer)
    }

    /// Writes down what the course wants written down while a call goes on.
    pub(crate) async fn note(&self, event: Event) {
        for effect in self.apply(event) {
            if let Effect::WriteJournal(journal) = effect {
                let written = self.write_journal(*journal).await;
                self.apply(written);
            }
        }
    }

    async fn write_journal(&self, journal: Journal) -> Event {
        let job = self.job();
        let key = job.id.journal_key(&job.subject.tenant);
        match self.pages.write(&self.kit.journals, job.id, &key, journal).await {
            Ok(stored) => Event::JournalWritten(Box::new(stored)),
            Err(unstored) => Event::JournalRefused(Box::new(unstored)),
        }
    }

    async fn read_job(&self) -> Event {
        let (subject, in_log) = {
            let course = self.course();
            let handover = &course.terms().handover;
            (handover.subject.clone(), handover.in_log)
        };
        let now = SystemClock.now().max(self.keeper.lease().stored_at);
        let read = if in_log {
            match self.read_log().await {
                Some((headers, body)) => nats::read_job(subject, Some(&headers), &body, now),
                None => return Event::JobGone,
            }
        } else {
            nats::read_job(subject, self.message.headers.as_ref(), &self.message.payload, now)
        };
        match read {
            Ok(job) => {
                let job = self.job.get_or_init(|| Arc::new(job));
                Event::JobRead(job.clone())
            }
            Err(error) => {
                // The dispatcher read it; then this is a worker of an older version.
                error!(%error, "an offered job does not read");
                Event::JobUnreadable(error.to_string())
            }
        }
    }

    /// Reads headers and body from the log, as long as the lease is ours.
    async fn read_log(&self) -> Option<(async_nats::HeaderMap, bytes::Bytes)> {
        let lease = self.keeper.lease();
        while self.keeper.moment().sure && !self.kit.stop.is_cancelled() {
            match stored::job_at(&self.kit.client, lease.stream(), lease.stream_seq).await {
                Ok(found) => return found,
                Err(error) => debug!(%lease, %error, "the job cannot be read from the log now"),
            }
            sleep(READ_AGAIN).await;
        }
        None
    }

    /// Reads the result that is stored at `seq`.
    async fn read_stored(&self, seq: u64) -> Event {
        match stored::result_at(&self.kit.control, seq).await {
            Ok(found) => Event::StoredRead(found.map(Box::new)),
            Err(error) => Event::Unanswered(error.to_string()),
        }
    }

    async fn store_cost(&self, event: CostEvent) -> Event {
        let (purpose, amount) = (event.purpose, event.amount_usd);
        let (subject, headers, body) = nats::cost(self.job(), &event);
        match self.kit.publisher.publish(subject, headers, body).await {
            Ok(stored) => {
                if !stored.duplicate {
                    self.kit.metrics.booked(purpose, amount);
                }
                Event::CostStored
            }
            Err(error) => Event::CostRefused(refusal(&error)),
        }
    }

    async fn store_result(&self, name: ResultName, result: Arc<JobResult>) -> Event {
        let (subject, headers, body) = nats::result(self.job(), name, &result);
        drop(result);
        match self.kit.publisher.publish(subject, headers, body).await {
            Ok(stored) => Event::ResultStored(stored),
            Err(error) => Event::ResultRefused(refusal(&error)),
        }
    }

    async fn store_output(&self, result: Arc<JobResult>) -> Event {
        let Some(output) = &result.output else { return Event::OutputRefused(Refusal::TooLarge) };
        let key = self.course().key();
        match payloads::put_output(&self.kit.client, self.job().id, key, output).await {
            Ok(place) => Event::OutputStored(place),
            Err(error) => Event::OutputRefused(Refusal::Unavailable(error.to_string())),
        }
    }

    /// Whether somebody took the job back, and what its result says then.
    fn taken_back(&self) -> Option<Failure> {
        let order = self.kit.cancels.of(self.job(), self.keeper.lease().stored_at)?;
        Some(order.failure())
    }

    async fn fetch_input(&self) -> Event {
        let JobInput::Stored(stored) = &self.job().input else { return Event::InputFetched };
        match payloads::get(&self.kit.client, stored).await {
            Ok(input) => {
                self.input.get_or_init(|| input);
                Event::InputFetched
            }
            Err(error) => Event::InputMissing(unfetched(&error)),
        }
    }

    async fn remove_input(&self) {
        if let JobInput::Stored(stored) = &self.job().input
            && let Err(error) = payloads::remove(&self.kit.client, stored).await
        {
            warn!(job = %self.job().id, %error, "a stored input is left to the server, which removes it in time");
        }
    }

    /// Looks for a result of the job, and whether this attempt was booked by somebody else.
    async fn look(&self) -> Event {
        let job: &Job = self.job();
        let (key, attempt) = {
            let course = self.course();
            (course.key(), course.terms().handover.attempt)
        };
        let cost = job.id.cost_message(&job.subject.tenant, attempt, key);
        match self.kit.lookup.find(job, &cost, self.keeper.lease().stored_at).await {
            Ok(found) => Event::Looked(Box::new(found)),
            Err(error) => Event::Unanswered(error.to_string()),
        }
    }

    async fn give_back(&self, back: Return) {
        let client = &self.kit.client;
        let (subject, headers, payload) = nats::give_back(&self.message, back, client.max_payload());
        if let Err(error) = client.publish_with_headers(subject, headers, payload).await {
            // The lease runs out and the journal says what happened.
            warn!(lease = %self.keeper.lease(), %error, "job not given back");
        }
    }

    /// Counts what a call came to.
    pub(super) fn count(&self, failed: Option<FailureClass>, took: Duration) {
        match failed {
            None => self.kit.metrics.succeeded(took.as_secs_f64()),
            Some(FailureClass::Cancelled) => {}
            Some(class) => self.kit.metrics.failed(class),
        }
    }
}

/// What a job fails with whose input cannot be read: another worker may read it, unless nobody can.
fn unfetched(error: &PayloadError) -> Failure {
    let class = match error {
        PayloadError::TooLarge(_) | PayloadError::Gone(_) | PayloadError::Unreadable(..) => {
            FailureClass::InvalidRequest
        }
        PayloadError::Store(_) | PayloadError::Slow(_) | PayloadError::Api(_) => FailureClass::WorkerLost,
    };
    Failure::new(class, format!("field `input_ref`: {error}"))
}
