//! Runs that go on without us: followed to their end, and stopped when they take too long.
//!
//! ```text
//!  intent ─▶ submit ─┬─ id ─▶ journal ─▶ ask ⟲ pause ─┬─▶ over
//!   (journal)        ├─ over at once                  └─ too long, or hopeless ─▶ stop ─▶ ask: its bill
//!                    └─ no answer ─▶ find ─┬─ id ─▶ journal ─▶ ask …
//!                                          └─ lost: possibly billed
//! ```
//!
//! A run with an id does not fail because a question about it does: it is asked again, some times. Dropping the future
//! leaves the run alone, so that another worker can go on with it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures_util::future::BoxFuture;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rustc_hash::FxHashMap;
use schemas::failure::{Failure, FailureClass as C};
use tokio::time::{self, Instant, timeout_at};
use tracing::{debug, warn};

use super::{
    hints::{Hint, Hints},
    throttle::Throttle,
};
use crate::{
    metrics,
    provider::{Call, Ended, Progress, Success, Trail, UsedItem},
};

/// Questions that may fail in a row. With the default pauses that is a few seconds, in which an edge recovers or not.
const FAILURES_MAX: u32 = 5;

/// Questions after a run was asked to stop: some providers take seconds for it.
const ASKS_AFTER_STOP: u32 = 12;

/// Looks for a run whose submission was not answered; a listing may be a moment behind.
const FINDS_MAX: u32 = 3;

/// What is kept of a call's time for stopping a run and reading its bill: a tenth, and at most this.
const SETTLE_MAX: Duration = Duration::from_secs(5);

/// The pause between two questions is this share of the run's age: what is lost at the end of a run is then a small
/// part of it, whether it takes a second or an hour.
const PAUSE_SHARE: f64 = 0.125;

/// The first question comes after this share of the time that runs of the model usually take.
const FIRST_SHARE: f64 = 0.8;

/// How much one run changes what is thought usual.
const LEARN_SHARE: f64 = 0.2;

/// A result that is fetched with less time left than this came close to being lost.
const CLOSE_CALL: Duration = Duration::from_secs(60);

/// How one provider's runs are asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    /// The shortest pause between two questions about a run.
    pub(super) min: Duration,
    /// The longest.
    pub(super) max: Duration,
    /// How long one question may take.
    pub(super) request_timeout: Duration,
    /// How long an ended run's result can be fetched; zero where it is kept for days.
    pub(super) kept: Duration,
    /// How long a new run may be unknown to the provider's own front door.
    pub(super) visible_within: Duration,
    /// Submissions of one call. More than one only where the provider starts the same call once.
    pub(super) submits: u32,
}

/// A provider whose runs go on by themselves.
pub(super) trait Remote: Send + Sync {
    /// The provider's name, for metrics.
    fn name(&self) -> &'static str;

    fn pace(&self) -> Pace;

    /// Asks for a run that the provider ends by itself after `limit`. May hold until then.
    fn submit<'a>(&'a self, call: &'a Call, limit: Duration) -> BoxFuture<'a, Submitted>;

    /// Asks how a run is.
    fn ask<'a>(&'a self, call: &'a Call, run: &'a str) -> BoxFuture<'a, Asked>;

    /// Asks to stop a run. One that is unknown or over does not run.
    fn stop<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>>;

    /// Looks for the run of a call that was submitted `age` ago without an answer.
    fn look_for<'a>(&'a self, call: &'a Call, age: Duration) -> BoxFuture<'a, Trail>;

    /// Whether a run that has not begun for so long never will, and why.
    fn hopeless(&self, queued: Duration) -> BoxFuture<'_, Option<Failure>> {
        let _ = queued;
        Box::pin(async { None })
    }

    /// The pace of submissions, where the key has one.
    fn submits(&self) -> Option<&Throttle> {
        None
    }

    /// The pace of questions.
    fn throttle(&self) -> &Throttle;

    /// How long its runs usually take.
    fn typical(&self) -> &Typical;

    /// Where hints come from, if they do.
    fn hints(&self) -> Option<&Hints> {
        None
    }

    /// A failure that repeats neither the key nor what the job said.
    fn clean(&self, failure: Failure, call: &Call) -> Failure;

    /// What a call used that took so long and that nobody reports on.
    fn reckon(&self, call: &Call, took: Duration) -> Vec<UsedItem>;
}

/// How long runs usually take, by model: an exponentially weighted mean, cold starts left out.
#[derive(Debug, Default)]
pub(super) struct Typical(Mutex<FxHashMap<String, Duration>>);

impl Typical {
    /// Zero until one has run.
    fn of(&self, model: &str) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(model).copied().unwrap_or_default()
    }

    fn learn(&self, model: &str, took: Duration) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match known.get_mut(model) {
            Some(usual) => *usual = usual.mul_f64(1.0 - LEARN_SHARE) + took.mul_f64(LEARN_SHARE),
            None => drop(known.insert(model.to_owned(), took)),
        }
    }
}

/// What came of a submission.
#[derive(Debug)]
pub(super) enum Submitted {
    /// It runs under this id.
    Run(String),
    /// It was held and is over.
    Over(Over),
    /// It was refused; nothing runs.
    Refused(Failure),
    /// Nobody knows whether it runs: the answer was lost.
    Unsure(Failure),
    /// It ran, and its end was lost with its bill.
    Lost(Failure),
}

/// What came of one question about a run.
#[derive(Debug)]
pub(super) enum Asked {
    /// It waits for its turn.
    Queued,
    /// It goes on.
    Going,
    /// It goes on, and the question was held for as long as it may be: ask again at once.
    Held,
    /// It is over.
    Over(Over),
    /// The provider does not know it, or no longer.
    Unknown,
    /// It could not be asked, for a reason that may pass.
    Failed(Failure),
    /// It cannot be asked.
    Hopeless(Failure),
}

/// A run that is over.
#[derive(Debug, PartialEq)]
pub(super) struct Over {
    pub(super) outcome: Result<Success, Failure>,
    /// What the provider will bill; `None` when it does not say.
    pub(super) used: Option<Vec<UsedItem>>,
    /// Whether that is told by the run, but is not what the bill is made of.
    pub(super) estimated: bool,
    /// The part that was a cold start, where it can be told.
    pub(super) cold_start: Duration,
    /// From its submission to its end, by the provider's clock.
    pub(super) took: Option<Duration>,
    /// From sending to the first piece of output, where the provider says so.
    pub(super) first_token: Duration,
}

/// One call and its run.
pub(super) struct Runs<'a, R: Remote + ?Sized> {
    remote: &'a R,
    call: &'a Call,
    progress: &'a dyn Progress,
    /// When the run was submitted.
    began: Instant,
    /// When it was last known to go on; its result cannot be lost before this and the time it is kept.
    seen: Instant,
    /// Nobody waits for the run any longer.
    give_up: Instant,
    /// The call is over.
    end: Instant,
    /// For the pauses. From the job's id, so that a test replays and jobs do not ask in step.
    rng: StdRng,
}

impl<'a, R: Remote + ?Sized> Runs<'a, R> {
    pub(super) fn new(remote: &'a R, call: &'a Call, progress: &'a dyn Progress) -> Self {
        let now = Instant::now();
        let end = now + call.timeout;
        let seed = call.job.uuid().as_u64_pair().1 ^ u64::from(call.attempt);
        let give_up = end - (call.timeout / 10).min(SETTLE_MAX);
        let rng = StdRng::seed_from_u64(seed);
        Self { remote, call, progress, began: now, seen: now, give_up, end, rng }
    }

    /// Starts a run and follows it to its end.
    pub(super) async fn run(mut self) -> Ended {
        self.progress.submitting().await;
        let run = match self.submit().await {
            Submitted::Run(run) => run,
            Submitted::Over(over) => return self.finish(over),
            Submitted::Refused(failure) => return self.failed(failure),
            Submitted::Lost(failure) => return self.estimated(failure),
            Submitted::Unsure(failure) => match self.find().await {
                Trail::Run(run) => run,
                Trail::Clean => return self.failed(failure),
                Trail::Lost => return self.estimated(failure),
            },
        };
        self.progress.started(&run).await;
        match self.follow(&run).await {
            Some(ended) => ended,
            None => self.estimated(Failure::new(
                C::ProviderDown,
                "the provider does not know the run any more; it may have been billed",
            )),
        }
    }

    /// Goes on with a run that was submitted `age` ago; `None` when the provider knows it no more.
    pub(super) async fn reattach(mut self, run: &str, age: Duration) -> Option<Ended> {
        let now = Instant::now();
        self.began = now.checked_sub(age).unwrap_or(now);
        self.seen = self.began;
        self.follow(run).await
    }

    async fn submit(&mut self) -> Submitted {
        let mut tries = 0;
        loop {
            tries += 1;
            let limit = self.give_up.saturating_duration_since(Instant::now());
            let failure = match timeout_at(self.give_up, self.submit_once(limit)).await {
                Ok(Submitted::Unsure(failure)) => failure,
                Ok(submitted) => return submitted,
                Err(_) => Failure::new(C::Timeout, "no answer within the time limit of the call"),
            };
            if tries >= self.remote.pace().submits || Instant::now() >= self.give_up {
                return Submitted::Unsure(failure);
            }
            self.pause(tries, None).await;
        }
    }

    /// One submission, when its turn has come. A key that is closed is not asked at all.
    async fn submit_once(&self, limit: Duration) -> Submitted {
        let Some(submits) = self.remote.submits() else {
            return self.remote.submit(self.call, limit).await;
        };
        if let Some(left) = submits.closed_for() {
            let failure = Failure::new(C::RateLimited, "the provider asked to be left alone for a while");
            return Submitted::Refused(failure.after(Some(left)));
        }
        let turn = submits.turn(false).await;
        let submitted = self.remote.submit(self.call, limit).await;
        match &submitted {
            Submitted::Run(_) | Submitted::Over(_) => turn.answered(None),
            Submitted::Refused(failure) => turn.answered(Some(failure)),
            Submitted::Unsure(_) | Submitted::Lost(_) => {}
        }
        submitted
    }

    /// Looks for the run of a submission that was not answered.
    async fn find(&mut self) -> Trail {
        if self.remote.pace().submits > 1 {
            // It was found again by submitting it again, or not at all.
            return Trail::Lost;
        }
        for nth in 1..=FINDS_MAX {
            let age = self.began.elapsed();
            match timeout_at(self.end, self.remote.look_for(self.call, age)).await {
                Ok(Trail::Run(run)) => {
                    debug!(job = %self.call.job, run, "found the run of a submission that was not answered");
                    return Trail::Run(run);
                }
                // A listing may not show yet what was only just submitted.
                Ok(Trail::Clean) if nth < FINDS_MAX && age < self.remote.pace().visible_within => {
                    self.pause(nth, None).await;
                }
                Ok(trail) => return trail,
                Err(_) => break,
            }
        }
        Trail::Lost
    }

    /// Asks until the run is over, or takes too long. `None` when the run is unknown or its result is gone.
    async fn follow(&mut self, run: &str) -> Option<Ended> {
        let remote = self.remote;
        let hint = remote.hints().map(|hints| hints.listen(run));
        let pace = remote.pace();
        let mut failures = 0;
        let mut first = true;
        // The provider has only just said that it runs; a run of an earlier attempt may be about to expire.
        let usual = remote
            .typical()
            .of(&self.call.model)
            .mul_f64(FIRST_SHARE)
            .clamp(pace.min, pace.max.max(pace.min));
        if self.began.elapsed() < usual {
            self.rest(usual.saturating_sub(self.began.elapsed()), hint.as_ref()).await;
        }
        loop {
            let urgent = is_urgent(pace.kept, self.seen.elapsed(), first && self.is_old());
            first = false;
            let by = self.give_up.min(Instant::now() + self.patience(urgent));
            let asked = tokio::select! {
                biased;
                // A question that is dropped has done nothing.
                failure = self.progress.taken_back() => return Some(self.abandon(run, failure).await),
                asked = timeout_at(by.max(Instant::now() + pace.min), self.ask(run, urgent)) => asked,
            };
            let failure = match asked {
                Ok(Asked::Over(over)) => return Some(self.finish(over)),
                Ok(Asked::Unknown) if self.began.elapsed() < pace.visible_within => None,
                Ok(Asked::Unknown) => return None,
                Ok(Asked::Hopeless(failure)) => return Some(self.abandon(run, failure).await),
                Ok(Asked::Failed(failure)) => Some(failure),
                Ok(going @ (Asked::Going | Asked::Held | Asked::Queued)) => {
                    (failures, self.seen) = (0, Instant::now());
                    if matches!(going, Asked::Queued)
                        && let Some(failure) = remote.hopeless(self.began.elapsed()).await
                    {
                        return Some(self.abandon(run, failure).await);
                    }
                    if matches!(going, Asked::Held) && Instant::now() < self.give_up {
                        continue;
                    }
                    None
                }
                Err(_) => Some(unanswered()),
            };
            if Instant::now() >= self.give_up {
                let message = "the run did not end within the time limit of the call";
                return Some(self.abandon(run, Failure::new(C::Timeout, message)).await);
            }
            match failure {
                None => {
                    let pause = self.next_pause();
                    self.rest(pause, hint.as_ref()).await;
                }
                Some(failure) => {
                    failures += 1;
                    if failures == FAILURES_MAX {
                        return Some(self.abandon(run, failure).await);
                    }
                    self.pause(failures, failure.retry_after_us.map(Duration::from_micros)).await;
                }
            }
        }
    }

    /// One question, when its turn has come.
    async fn ask(&self, run: &str, urgent: bool) -> Asked {
        let turn = self.remote.throttle().turn(urgent).await;
        let limit = self.remote.pace().request_timeout;
        let asked = time::timeout(limit, self.remote.ask(self.call, run)).await;
        let asked = asked.unwrap_or_else(|_| Asked::Failed(unanswered()));
        turn.answered(if let Asked::Failed(failure) = &asked { Some(failure) } else { None });
        asked
    }

    /// How long a question may take, the wait for its turn included.
    fn patience(&self, urgent: bool) -> Duration {
        let pace = self.remote.pace();
        // Behind thousands of others a turn may take long; that is no failure, until the result is in danger.
        if urgent || pace.kept.is_zero() {
            pace.request_timeout * 4
        } else {
            pace.kept / 2 + pace.request_timeout
        }
    }

    /// Whether it was submitted long before anybody asked.
    fn is_old(&self) -> bool {
        self.seen.elapsed() > self.remote.pace().max
    }

    /// Stops a run and reads its bill. A run that was over in the meantime is taken as it is.
    async fn abandon(&mut self, run: &str, failure: Failure) -> Ended {
        let now = Instant::now();
        // Half of what is left at most, so that the bill can still be read.
        let end = self.end.max(now + self.remote.pace().min * 4);
        if timeout_at(now + (end - now) / 2, self.remote.stop(run)).await.is_err() {
            // It ends at the limit it was submitted with.
            warn!(job = %self.call.job, run, "a run was not stopped in time");
        }
        let mut failures = 0;
        for nth in 1..=ASKS_AFTER_STOP {
            let Ok(asked) = timeout_at(end, self.ask(run, true)).await else { break };
            failures += u32::from(matches!(asked, Asked::Failed(_)));
            match asked {
                Asked::Failed(_) if failures > 2 => break,
                Asked::Over(over @ Over { outcome: Ok(_), .. }) => return self.finish(over),
                Asked::Over(over) => return self.finish(Over { outcome: Err(failure), ..over }),
                Asked::Queued | Asked::Going | Asked::Held | Asked::Failed(_) => {
                    let pause = self.grown(nth);
                    self.sleep(pause, end, None).await;
                }
                Asked::Unknown | Asked::Hopeless(_) => break,
            }
        }
        self.estimated(failure)
    }

    /// After a failed question: grows by half each time, a fifth more or less by chance.
    async fn pause(&mut self, nth: u32, asked_for: Option<Duration>) {
        let pause = self.grown(nth).max(asked_for.unwrap_or_default());
        self.sleep(pause, self.give_up, None).await;
    }

    fn grown(&mut self, nth: u32) -> Duration {
        let Pace { min, max, .. } = self.remote.pace();
        // Thirty-two steps take any sensible minimum past any sensible maximum.
        let steps = i32::try_from(nth.saturating_sub(1).min(32)).unwrap_or(32);
        let grown = Duration::try_from_secs_f64(min.as_secs_f64() * 1.5_f64.powi(steps)).unwrap_or(max);
        self.jitter(grown.min(max))
    }

    /// After a good answer: a share of the run's age.
    fn next_pause(&mut self) -> Duration {
        let Pace { min, max, .. } = self.remote.pace();
        let pause = self.began.elapsed().mul_f64(PAUSE_SHARE).clamp(min, max.max(min));
        self.jitter(pause)
    }

    fn jitter(&mut self, pause: Duration) -> Duration {
        pause.mul_f64(self.rng.random_range(0.8..1.2))
    }

    async fn sleep(&self, pause: Duration, until: Instant, hint: Option<&Hint<'_>>) {
        let sleep = time::sleep_until((Instant::now() + pause).min(until));
        match hint {
            Some(hint) => tokio::select! {
                () = sleep => {}
                () = hint.came() => {}
            },
            None => sleep.await,
        }
    }

    /// The same between two questions: who hears that the job is taken back acts on it at once.
    async fn rest(&self, pause: Duration, hint: Option<&Hint<'_>>) {
        tokio::select! {
            () = self.sleep(pause, self.give_up, hint) => {}
            _ = self.progress.taken_back() => {}
        }
    }

    fn finish(&self, over: Over) -> Ended {
        let Over { outcome, used, estimated, cold_start, took, first_token } = over;
        let kept = self.remote.pace().kept;
        if outcome.is_ok() && !kept.is_zero() {
            // Without the provider's word it may have ended right after it was last seen running.
            let ended_ago = match took {
                Some(took) => self.began.elapsed().saturating_sub(took),
                None => self.seen.elapsed(),
            };
            if let Some(left) = nearly_lost(kept, ended_ago) {
                metrics::result_nearly_lost(self.remote.name());
                warn!(job = %self.call.job, ?left, "a result was fetched shortly before its provider removes it");
            }
        }
        let outcome = outcome.map_err(|failure| self.remote.clean(failure, self.call));
        if let Ok(success) = &outcome {
            let spent = took.unwrap_or_else(|| self.began.elapsed());
            self.remote.typical().learn(&self.call.model, spent.saturating_sub(cold_start));
            self.progress.token(&success.output.text);
        }
        let estimated = estimated || used.is_none();
        let used = used.unwrap_or_else(|| self.reckoned());
        Ended { outcome, used, estimated, cold_start, first_token }
    }

    /// A failure before anything ran.
    fn failed(&self, failure: Failure) -> Ended {
        Ended::unbilled(self.remote.clean(failure, self.call))
    }

    /// A failure after something may have run, and nobody says how long.
    fn estimated(&self, failure: Failure) -> Ended {
        Ended { used: self.reckoned(), estimated: true, ..self.failed(failure) }
    }

    fn reckoned(&self) -> Vec<UsedItem> {
        self.remote.reckon(self.call, self.began.elapsed())
    }
}

fn unanswered() -> Failure {
    Failure::new(C::Timeout, "a question about the run was not answered in time")
}

/// How much longer a result would have been there, if that is so little that somebody must know.
fn nearly_lost(kept: Duration, ended_ago: Duration) -> Option<Duration> {
    let left = kept.saturating_sub(ended_ago);
    // What is kept for a minute only is always within a minute of loss; its last quarter is what is close.
    (left < CLOSE_CALL.min(kept / 4)).then_some(left)
}

/// Whether a run must be asked about before others: it may have ended right after it was last seen to go on, or,
/// after a crash, at any time, and its result is not kept for ever.
fn is_urgent(kept: Duration, unseen: Duration, first_of_an_old_run: bool) -> bool {
    !kept.is_zero() && (unseen > kept / 2 || first_of_an_old_run)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HALF_AN_HOUR: Duration = Duration::from_secs(1_800);

    #[test]
    fn an_alarm_is_raised_in_the_last_minute_only() {
        let left = |kept, ago| nearly_lost(kept, Duration::from_secs(ago)).map(|left| left.as_secs());
        assert_eq!(left(HALF_AN_HOUR, 0), None);
        assert_eq!(left(HALF_AN_HOUR, 1_740), None);
        assert_eq!(left(HALF_AN_HOUR, 1_741), Some(59));
        assert_eq!(left(HALF_AN_HOUR, 9_999), Some(0));
        let minute = Duration::from_secs(60);
        assert_eq!((left(minute, 45), left(minute, 46)), (None, Some(14)));
    }

    #[test]
    fn a_result_in_danger_is_fetched_first() {
        let minutes = |minutes: u64| Duration::from_secs(minutes * 60);
        assert!(!is_urgent(HALF_AN_HOUR, minutes(15), false));
        assert!(is_urgent(HALF_AN_HOUR, minutes(16), false));
        assert!(is_urgent(HALF_AN_HOUR, minutes(1), true), "nobody knows when it ended");
        assert!(!is_urgent(Duration::ZERO, minutes(9_999), true), "kept for days");
    }

    #[test]
    fn what_is_usual_follows_what_is_seen() {
        let typical = Typical::default();
        assert_eq!(typical.of("m"), Duration::ZERO);
        typical.learn("m", Duration::from_secs(10));
        typical.learn("m", Duration::from_secs(20));
        assert_eq!((typical.of("m"), typical.of("other")), (Duration::from_secs(12), Duration::ZERO));
    }
}
