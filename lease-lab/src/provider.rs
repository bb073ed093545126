//! A simulated provider with a bill of its own. What ran is billed, whether or not anybody is left to hear of it.
//!
//! An *attached* provider answers on the connection that asked; when the caller is gone it stops, or goes on to the end. A
//! *detached* provider starts a run, gives its id, and is asked until the run has ended; a run goes on without its caller and is
//! found again by its id, and at some providers by the caller's own name for it.

use std::time::Duration;

use schemas::{
    AttemptKey, JobId, Micros, Tenant, UsdNanos,
    failure::{Failure, FailureClass},
    time::micros,
};

use crate::chance::Chance;

/// What a provider is like.
#[derive(Clone, Debug)]
pub(crate) struct ProviderConfig {
    /// Whether a run goes on without its caller.
    pub(crate) detached: bool,
    /// Whether runs are found by the caller's own name for them.
    pub(crate) finds: bool,
    /// How long a job takes, shortest and longest.
    pub(crate) takes: (Duration, Duration),
    /// The longest that a call may take.
    pub(crate) timeout: Duration,
    /// Price of a second.
    pub(crate) second: UsdNanos,
}

/// A provider.
#[derive(Debug)]
pub(crate) struct Provider {
    /// What it is like.
    pub(crate) config: ProviderConfig,
    runs: Vec<Run>,
    mood: Mood,
    chance: Chance,
}

/// How a provider treats calls for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mood {
    /// Of 100 calls so many fail.
    pub(crate) fails: u64,
    /// With this class; without one each call draws its own.
    pub(crate) class: Option<FailureClass>,
    /// How many times longer than usual a call takes.
    pub(crate) slow: u32,
}

impl Mood {
    /// Nothing fails and nothing is slow.
    pub(crate) const GOOD: Self = Self { fails: 0, class: None, slow: 1 };
}

/// Which attempt a call is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CallOf {
    /// Whose job.
    pub(crate) tenant: Tenant,
    /// Which job.
    pub(crate) job: JobId,
    /// Its place in the log.
    pub(crate) seq: u64,
    /// The attempt's number.
    pub(crate) attempt: u16,
    /// The attempt's key.
    pub(crate) key: AttemptKey,
}

/// A run, billed or not.
#[derive(Clone, Debug)]
pub(crate) struct Run {
    /// Which attempt asked for it.
    pub(crate) of: CallOf,
    /// When it began.
    pub(crate) began: Micros,
    /// When it ends, or has ended.
    pub(crate) ends: Micros,
    /// How.
    pub(crate) outcome: Result<(), Failure>,
    /// Whether it is billed for the time it ran.
    pub(crate) billed: bool,
    /// Whether somebody stopped it.
    pub(crate) stopped: bool,
    /// Who asked for it: a host, its life, and the number of its call.
    pub(crate) caller: (usize, u32, u64),
}

/// A run's number; its id in the journal is `run-<number>`.
pub(crate) type RunId = usize;

impl Provider {
    /// A provider at which nothing runs.
    pub(crate) fn new(config: ProviderConfig, chance: Chance) -> Self {
        Self { config, runs: Vec::new(), mood: Mood::GOOD, chance }
    }

    /// Changes how calls are treated from now on.
    pub(crate) fn set(&mut self, mood: Mood) {
        self.mood = mood;
    }

    /// All runs there ever were.
    pub(crate) fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// How long until a request arrives, or an answer does.
    pub(crate) fn way(&mut self) -> Duration {
        self.chance.span(Duration::from_millis(5), Duration::from_millis(80))
    }

    /// Starts what a call asks for.
    pub(crate) fn start(&mut self, of: CallOf, caller: (usize, u32, u64), now: Micros) -> RunId {
        let (least, most) = self.config.takes;
        let takes = self.chance.span(least, most) * self.mood.slow;
        let failed = self.chance.below(100) < self.mood.fails;
        let (outcome, takes, billed) = if failed { self.failure(takes) } else { (Ok(()), takes, true) };
        let (outcome, takes) = if takes > self.config.timeout {
            (Err(Failure::new(FailureClass::Timeout, "it took too long")), self.config.timeout)
        } else {
            (outcome, takes)
        };
        self.runs.push(Run { of, began: now, ends: now + takes, outcome, billed, stopped: false, caller });
        self.runs.len() - 1
    }

    /// How a call fails: with what, after how long, and whether what it did is billed.
    fn failure(&mut self, takes: Duration) -> (Result<(), Failure>, Duration, bool) {
        const CLASSES: [FailureClass; 6] = [
            FailureClass::RateLimited,
            FailureClass::Capacity,
            FailureClass::ProviderDown,
            FailureClass::Connection,
            FailureClass::Timeout,
            FailureClass::Preempted,
        ];
        let class = self.mood.class.unwrap_or_else(|| CLASSES[self.chance.index(CLASSES.len())]);
        let early = takes.mul_f64(0.05);
        let (takes, billed) = match class {
            FailureClass::Timeout => (self.config.timeout, true),
            // The call was taken in, and the failure is told in the middle of the answer.
            _ if self.chance.one_in(1, 3) => (takes / 2, true),
            _ => (early, false),
        };
        let wait = (class == FailureClass::RateLimited && self.chance.one_in(1, 2))
            .then_some(Duration::from_secs(2));
        (Err(Failure::new(class, "it fails here").after(wait)), takes, billed)
    }

    /// A run by its number.
    pub(crate) fn run(&self, id: RunId) -> &Run {
        &self.runs[id]
    }

    /// The newest run that was asked for under the name of this attempt, if this provider keeps names.
    pub(crate) fn find(&self, key: AttemptKey) -> Option<RunId> {
        let named = |run: &Run| run.of.key == key;
        self.runs.iter().rposition(named).filter(|_| self.config.finds)
    }

    /// Stops a run that goes on.
    pub(crate) fn stop(&mut self, id: RunId, now: Micros) {
        let run = &mut self.runs[id];
        if run.ends > now {
            run.ends = now.max(run.began);
            run.stopped = true;
            run.outcome = Err(Failure::new(FailureClass::Cancelled, "it was stopped"));
            run.billed = true;
        }
    }

    /// The caller of an attached call is gone: the provider stops the run at once, or never notices.
    pub(crate) fn caller_gone(&mut self, id: RunId, now: Micros) {
        if !self.config.detached && self.chance.one_in(1, 2) {
            self.stop(id, now);
        }
    }

    /// A caller closes the connection of a call.
    pub(crate) fn hang_up(&mut self, caller: (usize, u32, u64), now: Micros) {
        if let Some(id) = self.runs.iter().rposition(|run| run.caller == caller) {
            self.caller_gone(id, now);
        }
    }

    /// A process is gone, and with it all its connections.
    pub(crate) fn callers_gone(&mut self, host: usize, life: u32, now: Micros) {
        for id in 0..self.runs.len() {
            if (self.runs[id].caller.0, self.runs[id].caller.1) == (host, life) {
                self.caller_gone(id, now);
            }
        }
    }

    /// What a run costs that ran for so long.
    pub(crate) fn price(&self, ran: Duration) -> UsdNanos {
        let nanos = (u128::from(self.config.second.get()) * u128::from(micros(ran))).div_ceil(1_000_000);
        UsdNanos::new(u64::try_from(nanos).expect("a run is not that long"))
    }

    /// What is on the bill for a run.
    pub(crate) fn bill(&self, id: RunId) -> UsdNanos {
        let run = &self.runs[id];
        if run.billed { self.price(run.ends.since(run.began)) } else { UsdNanos::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Purpose;

    fn provider(detached: bool) -> Provider {
        let config = ProviderConfig {
            detached,
            finds: detached,
            takes: (Duration::from_secs(1), Duration::from_secs(2)),
            timeout: Duration::from_secs(10),
            second: UsdNanos::new(1_000),
        };
        Provider::new(config, Chance::of(1, Purpose::Provider))
    }

    fn call() -> CallOf {
        CallOf {
            tenant: "acme".parse().expect("a tenant"),
            job: "0198c0de-0000-7000-8000-000000000001".parse().expect("an id"),
            seq: 1,
            attempt: 1,
            key: AttemptKey::of("x", 1),
        }
    }

    #[test]
    fn a_run_is_billed_for_as_long_as_it_ran_though_nobody_waits_for_it() {
        let mut provider = provider(false);
        let mut stopped = 0;
        for _ in 0..100 {
            let id = provider.start(call(), (0, 1, 1), Micros::new(0));
            provider.caller_gone(id, Micros::new(500_000));
            let bill = provider.bill(id).get();
            assert!(bill == 500 || (1_000..=2_000).contains(&bill), "{bill}");
            stopped += u32::from(bill == 500);
        }
        assert!((20..80).contains(&stopped), "{stopped}");
    }

    #[test]
    fn a_detached_run_goes_on_without_its_caller_and_is_found_by_its_name() {
        let mut provider = provider(true);
        let id = provider.start(call(), (0, 1, 1), Micros::new(0));
        provider.caller_gone(id, Micros::new(1));
        assert!(!provider.run(id).stopped);
        assert_eq!(provider.find(call().key), Some(id));
        assert_eq!(provider.find(AttemptKey::of("x", 2)), None);
    }

    #[test]
    fn what_fails_at_once_is_free_and_what_fails_in_the_middle_is_not() {
        let mut provider = provider(false);
        provider.set(Mood { fails: 100, class: Some(FailureClass::RateLimited), slow: 1 });
        let bills: Vec<u64> = (0..100)
            .map(|_| {
                let id = provider.start(call(), (0, 1, 1), Micros::new(0));
                assert!(provider.run(id).outcome.is_err());
                provider.bill(id).get()
            })
            .collect();
        let free = bills.iter().filter(|bill| **bill == 0).count();
        assert!((40..90).contains(&free), "{free}");
    }
}
