//! Job + failure → verdict: whether another attempt follows, and how the job ends when none does. Pure.

use std::time::Duration;

use rand::{Rng, RngExt};
use schemas::{
    Micros,
    failure::{Failure, FailureClass, Retry},
    job::Head,
    journal::Journal,
    reply::Status,
};

/// The first pause before a job goes back to a pool that failed it; doubles with each attempt. Four attempts then last
/// some seconds, longer than it takes other pools to be heard of again after a NATS server restarts.
pub const BACKOFF_FIRST: Duration = Duration::from_millis(500);
/// The longest such pause.
pub const BACKOFF_MAX: Duration = Duration::from_secs(10);

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
    if journal.counted() >= job.max_attempts {
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

/// The pause before going back to a pool that failed it: half fixed and half drawn, so that it is never nothing ("equal
/// jitter" in Brooker, "Exponential Backoff And Jitter").
pub fn backoff(attempts: u16, rng: &mut impl Rng) -> Duration {
    let ceiling = BACKOFF_FIRST.saturating_mul(1 << attempts.min(10)).min(BACKOFF_MAX);
    ceiling / 2 + Duration::from_micros(rng.random_range(0..=schemas::time::micros(ceiling) / 2))
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use schemas::{
        UsdNanos,
        job::{Job, JobHeaders},
        journal::{Entry, Trace},
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

    fn after(classes: &[FailureClass]) -> (Journal, Failure) {
        let mut journal = Journal::default();
        for (i, class) in classes.iter().enumerate() {
            let trace =
                Trace::Failed { failure: Failure::new(*class, "x"), cost_usd: UsdNanos::new(1_000_000) };
            let pool = "golem@us-east".parse().unwrap();
            journal.record(Entry {
                attempt: u16::try_from(i).unwrap() + 1,
                key: None,
                pool,
                started_us: NOW,
                trace,
            });
        }
        (journal, Failure::new(*classes.last().unwrap(), "x"))
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
    fn a_pause_grows_and_is_never_nothing() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        for attempts in 0..30 {
            let (pause, ceiling) = (backoff(attempts, &mut rng), BACKOFF_FIRST * (1 << attempts.min(10)));
            assert!(pause >= ceiling.min(BACKOFF_MAX) / 2 && pause <= ceiling.min(BACKOFF_MAX), "{pause:?}");
        }
    }

    #[test]
    fn money_and_time_end_a_job_too() {
        check(r#","max_cost_usd":"0.001""#, &[FailureClass::Timeout], false);
        let late = job(r#","deadline":"2020-01-01T00:00:00Z""#);
        let (journal, failure) = after(&[FailureClass::Timeout]);
        assert!(matches!(verdict(&late, &journal, &failure, NOW), Verdict::End(Status::Expired, _)));
    }
}
