//! Who waits for which result. Nothing here touches the network.
//!
//! A job may have any number of waiters, and all of them are served. A waiter is a guard: dropping it removes it, so that a
//! future that was given up leaves nothing behind.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schemas::{
    JobId,
    reply::{JobResult, LogPlace},
};
use tokio::{sync::oneshot, time::Instant};
use transport::denied::Denied;

/// Results that a waiter holds until its submit is acknowledged: the one of its job, and those of jobs that had the same id.
const HELD_MAX: usize = 4;

/// Whose result is waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meant {
    /// The result of the job with this id: the first one, when several had it.
    First,
    /// The result of a job that is being submitted: only its acknowledgement says which of several with this id it is.
    Submitted,
    /// The result of the job at this place in the log.
    At(LogPlace),
}

/// How a result is stored: as the one of its job, or as the one that tells a second job with its id, stored at that sequence,
/// that the id was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoredAs {
    /// The job's own.
    First,
    /// A second job's.
    Taken(u64),
}

impl Meant {
    /// Whether a result is the one that is meant.
    fn is(&self, stored: StoredAs, result: &JobResult) -> bool {
        match (self, stored, &result.log) {
            (Self::Submitted, ..) | (Self::First, StoredAs::Taken(_), _) => false,
            (Self::At(place), _, Some(log)) => place == log,
            // An older worker does not say where the job lay.
            (Self::First | Self::At(_), StoredAs::First, _) => true,
            (Self::At(place), StoredAs::Taken(seq), None) => place.seq == seq,
        }
    }
}

/// Why no result will be heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unheard {
    /// The producer was closed.
    Closed,
    /// The server does not permit this user to listen to its mailbox.
    NotPermitted(Denied),
}

struct Waiter {
    number: u64,
    since: Instant,
    meant: Meant,
    held: Vec<(StoredAs, JobResult)>,
    done: oneshot::Sender<JobResult>,
}

#[derive(Default)]
struct Registry {
    next: u64,
    jobs: HashMap<JobId, Vec<Waiter>>,
    ended: Option<Unheard>,
}

/// All that wait. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Waiters {
    registry: Arc<Mutex<Registry>>,
}

impl Waiters {
    /// Begins to wait. Do so before anything is sent: a result may come before the acknowledgement of its job.
    pub(crate) fn wait(&self, job: JobId, meant: Meant) -> Waiting {
        let (done, answer) = oneshot::channel();
        let mut registry = self.lock();
        registry.next += 1;
        let number = registry.next;
        // Where nothing will be heard the sender is dropped, and the waiter knows at once.
        if registry.ended.is_none() {
            let waiter = Waiter { number, since: Instant::now(), meant, held: Vec::new(), done };
            registry.jobs.entry(job).or_default().push(waiter);
        }
        drop(registry);
        Waiting { waiters: self.clone(), job, number, answer }
    }

    /// Whether anybody waits for a result of this job.
    pub(crate) fn want(&self, job: JobId) -> bool {
        self.lock().jobs.contains_key(&job)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().jobs.values().map(Vec::len).sum()
    }

    /// Whether nobody waits for anything.
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().jobs.is_empty()
    }

    /// Whether anybody has waited for at least so long.
    pub(crate) fn any_older_than(&self, age: Duration) -> bool {
        self.lock().jobs.values().flatten().any(|waiter| waiter.since.elapsed() >= age)
    }

    /// Hands a result to everybody who waits for it. It may come again, live and stored: then nobody waits any more.
    pub(crate) fn deliver(&self, stored: StoredAs, result: JobResult) {
        let mut registry = self.lock();
        let Some(waiters) = registry.jobs.get_mut(&result.job) else { return };
        for waiter in waiters.iter_mut().filter(|waiter| waiter.meant == Meant::Submitted) {
            let known = waiter.held.iter().any(|(held, _)| *held == stored);
            if !known && waiter.held.len() < HELD_MAX {
                waiter.held.push((stored, result.clone()));
            }
        }
        let mut served: Vec<Waiter> =
            waiters.extract_if(.., |waiter| waiter.meant.is(stored, &result)).collect();
        if waiters.is_empty() {
            registry.jobs.remove(&result.job);
        }
        drop(registry);
        // Any of them may have given up in this moment.
        let last = served.pop();
        for waiter in served {
            let _ = waiter.done.send(result.clone());
        }
        if let Some(waiter) = last {
            let _ = waiter.done.send(result);
        }
    }

    /// Tells everybody, now and later, that nothing will be heard.
    pub(crate) fn end(&self, why: Unheard) {
        let mut registry = self.lock();
        registry.ended = Some(why);
        registry.jobs.clear();
    }

    /// Lets waiters in again: after a reconnect the server may permit what it did not.
    pub(crate) fn reopen(&self) {
        let mut registry = self.lock();
        if registry.ended != Some(Unheard::Closed) {
            registry.ended = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registry> {
        // A panic while holding it leaves the map whole.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One that waits, until it is dropped.
pub(crate) struct Waiting {
    waiters: Waiters,
    job: JobId,
    number: u64,
    answer: oneshot::Receiver<JobResult>,
}

impl Waiting {
    /// Says, once the acknowledgement is there, which of several jobs with this id is meant. Its result may be here already.
    pub(crate) fn settle(&self, meant: Meant) {
        let mut registry = self.waiters.lock();
        let Some(waiters) = registry.jobs.get_mut(&self.job) else { return };
        let Some(at) = waiters.iter().position(|waiter| waiter.number == self.number) else { return };
        let waiter = &mut waiters[at];
        waiter.meant = meant;
        let held = std::mem::take(&mut waiter.held);
        let found = held.into_iter().find(|(stored, result)| waiters[at].meant.is(*stored, result));
        if let Some((_, result)) = found {
            let _ = waiters.swap_remove(at).done.send(result);
        }
    }

    /// The result. Cancel-safe: another call goes on waiting.
    pub(crate) async fn result(&mut self) -> Result<JobResult, Unheard> {
        match (&mut self.answer).await {
            Ok(result) => Ok(result),
            Err(_) => Err(self.waiters.lock().ended.clone().unwrap_or(Unheard::Closed)),
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut registry = self.waiters.lock();
        if let Some(waiters) = registry.jobs.get_mut(&self.job) {
            waiters.retain(|waiter| waiter.number != self.number);
            if waiters.is_empty() {
                registry.jobs.remove(&self.job);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JOB: &str = "0198c0de-0000-7000-8000-000000000001";

    fn job() -> JobId {
        JOB.parse().unwrap()
    }

    fn place(seq: u64) -> LogPlace {
        LogPlace { stream: "JOBS_us-east".into(), seq }
    }

    /// A result that says where its job lay, and is told apart by its time.
    fn result(log: Option<u64>, finished: u64) -> JobResult {
        let text = format!(
            r#"{{"job":"{JOB}","status":"succeeded","attempts":1,"cost_usd":"0","finished_us":{finished},
                "timings":{{"queued_us":0,"handover_us":0,"provider_us":0,"cold_start_us":0,"first_token_us":0,"total_us":0}}}}"#
        );
        let result: JobResult = serde_json::from_str(&text).unwrap();
        JobResult { log: log.map(place), ..result }
    }

    fn got(waiting: &mut Waiting) -> Option<u64> {
        waiting.answer.try_recv().ok().map(|result| result.finished_us.get())
    }

    #[test]
    fn all_who_wait_for_a_job_are_served_and_nobody_is_left() {
        let waiters = Waiters::default();
        let mut all: Vec<Waiting> = (0..3).map(|_| waiters.wait(job(), Meant::First)).collect();
        all.push(waiters.wait(job(), Meant::At(place(7))));
        waiters.deliver(StoredAs::First, result(Some(7), 1));
        assert!(all.iter_mut().all(|waiting| got(waiting) == Some(1)));
        assert!(waiters.is_empty());
    }

    #[test]
    fn one_that_is_dropped_leaves_nothing_behind_and_the_others_wait_on() {
        let waiters = Waiters::default();
        let (one, mut other) = (waiters.wait(job(), Meant::Submitted), waiters.wait(job(), Meant::First));
        drop(one);
        assert!(waiters.want(job()));
        waiters.deliver(StoredAs::First, result(None, 1));
        assert_eq!(got(&mut other), Some(1));
        drop(waiters.wait(job(), Meant::First));
        assert!(waiters.is_empty() && !waiters.want(job()));
    }

    #[test]
    fn of_two_jobs_with_one_id_each_gets_its_own_result() {
        for early in [true, false] {
            let waiters = Waiters::default();
            let (first, second) =
                (waiters.wait(job(), Meant::Submitted), waiters.wait(job(), Meant::Submitted));
            let mut all = [first, second];
            let settle = |all: &[Waiting; 2]| {
                all[0].settle(Meant::At(place(7)));
                all[1].settle(Meant::At(place(9)));
            };
            if !early {
                settle(&all);
            }
            // The first job's result, live and stored, then the second's.
            waiters.deliver(StoredAs::First, result(Some(7), 1));
            waiters.deliver(StoredAs::First, result(Some(7), 1));
            waiters.deliver(StoredAs::Taken(9), result(Some(9), 2));
            if early {
                assert!(all.iter_mut().all(|waiting| got(waiting).is_none()));
                settle(&all);
            }
            assert_eq!(all.each_mut().map(got), [Some(1), Some(2)], "early: {early}");
            assert!(waiters.is_empty());
        }
    }

    #[test]
    fn a_result_that_does_not_say_where_its_job_lay_is_told_by_its_message_id() {
        let waiters = Waiters::default();
        let mut all =
            [Meant::At(place(7)), Meant::At(place(9)), Meant::First].map(|meant| waiters.wait(job(), meant));
        waiters.deliver(StoredAs::Taken(9), result(None, 2));
        assert_eq!(all.each_mut().map(got), [None, Some(2), None]);
        waiters.deliver(StoredAs::First, result(None, 1));
        assert_eq!(got(&mut all[0]), Some(1));
        assert_eq!(got(&mut all[2]), Some(1));
    }

    #[tokio::test]
    async fn when_nothing_will_be_heard_those_who_wait_and_those_who_come_know_at_once() {
        let waiters = Waiters::default();
        let denied = Denied::Subscribe { subject: "beacon.reply.acme.inbox.result".into() };
        let why = Unheard::NotPermitted(denied);
        let mut waits = waiters.wait(job(), Meant::First);
        waiters.end(why.clone());
        assert_eq!(waits.result().await, Err(why.clone()));
        assert_eq!(waiters.wait(job(), Meant::First).result().await, Err(why));
        waiters.reopen();
        let mut again = waiters.wait(job(), Meant::First);
        waiters.end(Unheard::Closed);
        waiters.reopen();
        assert_eq!(again.result().await, Err(Unheard::Closed));
        assert_eq!(waiters.wait(job(), Meant::First).result().await, Err(Unheard::Closed));
    }
}
