//! Job and failure → verdict: whether another attempt follows, how long the job rests before it goes back to a pool that failed it,
//! and how the job ends when no attempt follows. Pure.
//!
//! Nothing is repeated without growing pauses and an end. An attempt at a pool that is new to the job starts at once.

use std::time::Duration;

use rand::{Rng, RngExt};
use schemas::{
    Micros, UsdNanos,
    failure::{Failure, FailureClass, Retry},
    job::Head,
    journal::{Journal, Trace},
    reply::Status,
};

/// Half of the longest first pause before a job goes back to a pool that failed it; doubles with each failure. Four attempts then
/// last some seconds, longer than it takes other pools to be heard of again after a NATS server restarts.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest such pause after a failure that counts as an attempt: a job has few of those.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// The longest such pause after a failure that does not count. Providers limit rates by the minute, so a longer pause is of no use.
pub const BACKOFF_UNCOUNTED_MAX: Duration = Duration::from_secs(60);
/// Failures that do not count as attempts (rate limits, machines taken away) after which a job ends all the same. With the pauses
/// above they last five to ten minutes where there is one pool: longer than any limit by the minute, and soon enough for
/// whoever sent the job to be told. With many pools each of them has turned the job away before the first pause.
pub const UNCOUNTED_MAX: u16 = 16;

/// What becomes of a job after a failed attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Another attempt.
    Again {
        /// Only at a larger SKU than the one that failed.
        larger: bool,
    },
    /// It has ended.
    End(Status, Failure),
}

/// Decides after an attempt that failed with `failure`; `journal` holds that attempt too.
pub fn verdict(job: &Head, journal: &Journal, failure: &Failure, now: Micros) -> Verdict {
    let remedy = failure.class.remedy();
    let larger = match remedy.retry {
        Retry::Never => return Verdict::End(Status::Failed, failure.clone()),
        Retry::Elsewhere => false,
        Retry::Larger => true,
    };
    if job.max_cost.is_some_and(|max| journal.spent() >= max) {
        return Verdict::End(Status::Failed, failure.clone());
    }
    if journal.counted() >= job.max_attempts || journal.uncounted() >= UNCOUNTED_MAX {
        return Verdict::End(Status::Failed, failure.clone());
    }
    if let Some(end) = expired(job, now) {
        return end;
    }
    Verdict::Again { larger }
}

/// The end of a job whose deadline has passed.
pub fn expired(job: &Head, now: Micros) -> Option<Verdict> {
    let at = job.deadline.filter(|at| now > *at)?;
    let failure = Failure::new(
        FailureClass::Timeout,
        format!("field `deadline`: {at} passed before an attempt could start"),
    );
    Some(Verdict::End(Status::Expired, failure))
}

/// How long a job rests after its last failure before it may go back to a pool that failed it; `None` while no attempt has failed.
/// Draw it once per failure. All failures make it longer, and [`Ask::rests`](crate::pick::Ask::rests) applies it.
pub fn rest(journal: &Journal, rng: &mut impl Rng) -> Option<Duration> {
    let counts = journal.entries.iter().rev().find_map(|entry| match &entry.trace {
        Trace::Failed { failure, cost_usd } => {
            Some(failure.class.remedy().counts || *cost_usd > UsdNanos::ZERO)
        }
        Trace::Started { .. } | Trace::Running { .. } => None,
    })?;
    let failures = journal.counted().saturating_add(journal.uncounted());
    Some(pause(failures, if counts { BACKOFF_MAX } else { BACKOFF_UNCOUNTED_MAX }, rng))
}

/// Half fixed and half drawn, so that it is never nothing ("equal jitter" in Brooker, "Exponential Backoff And Jitter").
fn pause(failures: u16, longest: Duration, rng: &mut impl Rng) -> Duration {
    let ceiling = BACKOFF_FIRST.saturating_mul(1 << failures.min(10)).min(longest);
    ceiling / 2 + Duration::from_micros(rng.random_range(0..=schemas::time::micros(ceiling) / 2))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use schemas::{
        job::{Job, JobHeaders},
        journal::Entry,
    };

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn job(extra: &str) -> Job {
        let body = format!(
            r#"{{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x","max_attempts":2{extra}}}"#
        );
        let subject = "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap();
        Job::read(subject, JobHeaders::default(), body.as_bytes(), NOW).unwrap()
    }

    /// A journal of failures, of which those cost something that `billed` names.
    fn journal(classes: &[FailureClass], billed: impl Fn(FailureClass) -> bool) -> Journal {
        let mut journal = Journal::default();
        for (i, class) in classes.iter().enumerate() {
            let cost_usd = UsdNanos::new(if billed(*class) { 1_000_000 } else { 0 });
            let trace = Trace::Failed { failure: Failure::new(*class, "x"), cost_usd };
            let pool = "golem@us-east".parse().unwrap();
            journal.record(Entry {
                attempt: u16::try_from(i).unwrap() + 1,
                key: None,
                pool,
                started_us: NOW,
                trace,
            });
        }
        journal
    }

    fn after(classes: &[FailureClass]) -> (Journal, Failure) {
        (journal(classes, |class| class.remedy().counts), Failure::new(*classes.last().unwrap(), "x"))
    }

    fn check(extra: &str, classes: &[FailureClass], again: bool) {
        let (journal, failure) = after(classes);
        let verdict = verdict(&job(extra), &journal, &failure, NOW);
        assert_eq!(matches!(verdict, Verdict::Again { .. }), again, "{classes:?}: {verdict:?}");
    }

    #[test]
    fn attempts_end_but_rate_limits_do_not_use_them_up() {
        use FailureClass as F;
        check("", &[F::ProviderDown], true);
        check("", &[F::ProviderDown, F::Connection], false);
        check("", &[F::RateLimited, F::RateLimited, F::RateLimited, F::ProviderDown], true);
        check("", &[F::InvalidRequest], false);
    }

    #[test]
    fn attempts_that_do_not_count_have_a_bound_of_their_own() {
        let limited = [FailureClass::RateLimited, FailureClass::Preempted].repeat(8);
        check("", &limited[1..], true);
        check("", &limited, false);
        check("", &[&limited[1..], &[FailureClass::ProviderDown]].concat(), true);
    }

    #[test]
    fn a_rate_limit_that_was_billed_counts_as_an_attempt() {
        let limited = [FailureClass::RateLimited; 2];
        let failure = Failure::new(FailureClass::RateLimited, "x");
        let of = |billed: bool| verdict(&job(""), &journal(&limited, |_| billed), &failure, NOW);
        assert_eq!(of(true), Verdict::End(Status::Failed, failure.clone()));
        assert_eq!(of(false), Verdict::Again { larger: false });
    }

    #[test]
    fn a_pause_grows_and_is_never_nothing() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        for attempts in 0..30 {
            let (pause, ceiling) =
                (pause(attempts, BACKOFF_MAX, &mut rng), BACKOFF_FIRST * (1 << attempts.min(10)));
            assert!(pause >= ceiling.min(BACKOFF_MAX) / 2 && pause <= ceiling.min(BACKOFF_MAX), "{pause:?}");
        }
    }

    #[test]
    fn a_rest_grows_with_all_failures_and_longest_after_those_that_do_not_count() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        assert_eq!(rest(&Journal::default(), &mut rng), None);
        let mut check = |classes: &[FailureClass], ceiling: u64| {
            let ceiling = Duration::from_secs(ceiling);
            let pause = rest(&after(classes).0, &mut rng).unwrap();
            assert!(pause >= ceiling / 2 && pause <= ceiling, "{} failures: {pause:?}", classes.len());
        };
        let (limited, down) = (FailureClass::RateLimited, FailureClass::ProviderDown);
        for (failures, ceiling) in [(1, 1), (2, 2), (5, 16), (6, 32), (7, 60), (40, 60)] {
            check(&vec![limited; failures], ceiling);
        }
        for (failures, ceiling) in [(1, 1), (3, 4), (5, 10), (9, 10)] {
            check(&vec![down; failures], ceiling);
        }
        check(&[down, down, limited, limited, limited], 16);
        check(&[limited, limited, limited, down], 8);
    }

    #[test]
    fn sixteen_rate_limits_at_one_pool_last_minutes() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let limited = [FailureClass::RateLimited; UNCOUNTED_MAX as usize];
        let pauses =
            (1..limited.len()).map(|failures| rest(&after(&limited[..failures]).0, &mut rng).unwrap());
        let sum = pauses.sum::<Duration>();
        assert!((300..=604).contains(&sum.as_secs()), "{sum:?}");
    }

    #[test]
    fn money_and_time_end_a_job_too() {
        check(r#","max_cost_usd":"0.001""#, &[FailureClass::Timeout], false);
        let late = job(r#","deadline":"2020-01-01T00:00:00Z""#);
        let (journal, failure) = after(&[FailureClass::Timeout]);
        assert!(matches!(verdict(&late, &journal, &failure, NOW), Verdict::End(Status::Expired, _)));
    }
}
