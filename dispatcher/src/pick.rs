//! Job + pools → pool. Pure: no I/O, no clock, and no allocation beyond the scratch the caller brings.
//!
//! The first policy: among the pools that may take the job, hold the baseline's share by a deficit counter
//! (deficit round robin: Shreedhar and Varghese, 1995), else the cheapest by expected cost; other regions only when
//! no pool of the job's own could take it. A pool that failed this job already comes last.

use std::collections::HashMap;

use schemas::{
    Micros, ModelToken, PoolId, Region, UsdNanos,
    decision::{Candidate, Decision, Reason, Refusal},
    job::Job,
    journal::Journal,
};

use crate::{
    config::{BreakerConfig, PolicyConfig},
    pool::{Closed, Pool},
};

/// How far the share may fall behind and still be made good, in jobs. Without a bound an outage of the baseline
/// would be followed by a stampede to it (integral windup).
pub const DEFICIT_MAX: f64 = 20.0;

/// What a decision looks at besides the pools.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The job.
    pub job: &'a Job,
    /// What earlier attempts left behind.
    pub journal: &'a Journal,
    /// The size of the SKU that ran out of memory, if that is why it comes again.
    pub larger_than: Option<u16>,
    /// Pools that refused this very delivery a moment ago.
    pub avoid: &'a [PoolId],
}

/// The choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Index into the pools.
    pub index: usize,
    /// Why.
    pub reason: Reason,
    /// True when only pools that failed this job already were left.
    pub again: bool,
}

/// The policy and what it remembers: how far each (region, model) is behind its share.
#[derive(Clone, Debug)]
pub struct Picker {
    policy: PolicyConfig,
    breaker: BreakerConfig,
    deficits: HashMap<(Region, ModelToken), f64>,
    /// One verdict per pool of the last call, in the order of the pools.
    verdicts: Vec<Option<Refusal>>,
}

impl Picker {
    /// A picker without a past.
    pub fn new(policy: PolicyConfig, breaker: BreakerConfig) -> Self {
        Self { policy, breaker, deficits: HashMap::new(), verdicts: Vec::new() }
    }

    /// Picks a pool with room, or none. Counts the choice towards the share: call it when you will send.
    pub fn pick(&mut self, pools: &[Pool], ask: Ask<'_>, now: Micros) -> Option<Choice> {
        self.verdicts.clear();
        for pool in pools {
            self.verdicts.push(self.refuse(pool, ask, now));
        }
        let home = &ask.job.subject.region;
        let local = |i: &usize| pools[*i].id.region == *home;
        // A full pool here is waited for; an unusable one is not.
        let usable_here = (0..pools.len())
            .any(|i| local(&i) && matches!(self.verdicts[i], None | Some(Refusal::Full | Refusal::Tried)));
        let mut again = false;
        for (i, verdict) in self.verdicts.iter_mut().enumerate() {
            if usable_here && !local(&i) && verdict.is_none() {
                *verdict = Some(Refusal::Region);
            }
        }
        if !self.verdicts.iter().any(Option::is_none) && !self.verdicts.contains(&Some(Refusal::Full)) {
            // Nobody new is left, not even one to wait for: those that failed before may try once more.
            for (i, verdict) in self.verdicts.iter_mut().enumerate() {
                if *verdict == Some(Refusal::Tried)
                    && !ask.avoid.contains(&pools[i].id)
                    && pools[i].free(self.policy.silent_after, now) > 0
                {
                    *verdict = None;
                    again = true;
                }
            }
        }
        self.choose(pools, ask.job, home, again)
    }

    fn choose(&mut self, pools: &[Pool], job: &Job, home: &Region, again: bool) -> Option<Choice> {
        let model = &job.subject.model;
        let verdicts = &self.verdicts;
        let cheapest = |among: &dyn Fn(usize) -> bool| {
            (0..pools.len())
                .filter(|&i| verdicts[i].is_none() && among(i))
                // Equal costs go to the pool with fewer open offers, so that none is filled to the brim.
                .min_by_key(|&i| (cost(&pools[i], model), pools[i].offered))
        };
        let is_baseline = |i: usize| self.policy.baseline.contains(&pools[i].id.provider);
        let share = self.policy.baseline_share;
        let deficit = self.deficits.entry((home.clone(), model.clone())).or_insert(0.0);
        let owed = *deficit >= 0.0;
        let baseline = cheapest(&is_baseline);
        let rest = cheapest(&|i| !is_baseline(i));
        let (index, reason) = match (baseline, rest) {
            (Some(b), _) if owed => (b, Reason::BaselineShare),
            (_, Some(r)) if baseline.is_some() => (r, Reason::Cheapest),
            (None, Some(r)) => (r, Reason::Burst),
            (Some(b), _) => (b, Reason::Cheapest),
            (None, None) => return None,
        };
        let used = if is_baseline(index) { 1.0 } else { 0.0 };
        *deficit = (*deficit + share - used).clamp(-DEFICIT_MAX, DEFICIT_MAX);
        let reason = if pools[index].id.region == *home { reason } else { Reason::OtherRegion };
        Some(Choice { index, reason, again })
    }

    /// The last call, told: every pool with its cost and why it was refused.
    pub fn tell(&self, pools: &[Pool], job: &Job, choice: Choice) -> Decision {
        let candidates =
            pools.iter().zip(&self.verdicts).filter(|(_, v)| **v != Some(Refusal::Model)).map(|(p, v)| {
                let score = p.serves(&job.subject.model).map(|m| m.expected_cost_usd.get() as f64 / 1e9);
                Candidate { pool: p.id.clone(), score, refused: *v }
            });
        Decision {
            chosen: pools[choice.index].id.clone(),
            reason: choice.reason,
            candidates: candidates.collect(),
        }
    }

    /// Why the last call found nothing: one verdict per pool.
    pub fn verdicts(&self) -> &[Option<Refusal>] {
        &self.verdicts
    }

    fn refuse(&self, pool: &Pool, ask: Ask<'_>, now: Micros) -> Option<Refusal> {
        let job = ask.job;
        let Some(served) = pool.serves(&job.subject.model) else {
            return Some(Refusal::Model);
        };
        let routing = &job.routing;
        let (provider, region) = (&pool.id.provider, &pool.id.region);
        if routing.deny_providers.contains(provider)
            || !(routing.allow_providers.is_empty() || routing.allow_providers.contains(provider))
        {
            return Some(Refusal::Provider);
        }
        if !(routing.allow_regions.is_empty() || routing.allow_regions.contains(region)) {
            return Some(Refusal::Region);
        }
        if ask.larger_than.is_some_and(|size| served.size <= size) {
            return Some(Refusal::Size);
        }
        let spent = ask.journal.spent();
        let after = spent.checked_add(served.expected_cost_usd).unwrap_or(UsdNanos::new(u64::MAX));
        if job.max_cost.is_some_and(|max| after > max) {
            return Some(Refusal::MaxCost);
        }
        if job.deadline.is_some_and(|at| now > at) {
            return Some(Refusal::Deadline);
        }
        match pool.closed(self.policy.silent_after, &self.breaker, now) {
            Some(Closed::Silent) => return Some(Refusal::Silent),
            Some(Closed::Draining) => return Some(Refusal::Draining),
            Some(Closed::Breaker) => return Some(Refusal::Breaker),
            Some(Closed::RateLimit) => return Some(Refusal::RateLimit),
            None => {}
        }
        if ask.avoid.contains(&pool.id) || ask.journal.entries.iter().any(|e| e.pool == pool.id) {
            return Some(Refusal::Tried);
        }
        (pool.free(self.policy.silent_after, now) == 0).then_some(Refusal::Full)
    }
}

fn cost(pool: &Pool, model: &ModelToken) -> UsdNanos {
    pool.serves(model).map_or(UsdNanos::new(u64::MAX), |m| m.expected_cost_usd)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;
    use schemas::{
        failure::{Failure, FailureClass},
        job::JobHeaders,
        journal::{Entry, Trace},
    };

    use super::*;
    use crate::pool::{Pools, tests::beat};

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn job(extra: &str) -> Job {
        let body = format!(r#"{{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x"{extra}}}"#);
        let subject = "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap();
        Job::read(subject, JobHeaders::default(), body.as_bytes(), NOW).unwrap()
    }

    fn picker() -> Picker {
        Picker::new(PolicyConfig::default(), BreakerConfig::default())
    }

    fn pools(beats: &[(&str, u32, u32, u64)]) -> Pools {
        let mut pools = Pools::default();
        for (id, slots, running, cost) in beats {
            pools.heartbeat(beat(id, *slots, *running, *cost), &BreakerConfig::default(), NOW);
        }
        pools
    }

    fn pick(picker: &mut Picker, pools: &Pools, job: &Job, journal: &Journal) -> Option<(String, Reason)> {
        let ask = Ask { job, journal, larger_than: None, avoid: &[] };
        let choice = picker.pick(pools.as_slice(), ask, NOW)?;
        Some((pools.as_slice()[choice.index].id.to_string(), choice.reason))
    }

    fn failed_at(pool: &str) -> Journal {
        let failure = Failure::new(FailureClass::ProviderDown, "x");
        let trace = Trace::Failed { failure, cost_usd: UsdNanos::new(600_000) };
        Journal { entries: vec![Entry { attempt: 1, pool: pool.parse().unwrap(), started_us: NOW, trace }] }
    }

    const THREE: [(&str, u32, u32, u64); 3] = [
        ("golem@us-east", 10, 0, 100_000),
        ("modal@us-east", 10, 0, 300_000),
        ("fly@us-east", 10, 0, 200_000),
    ];

    #[test]
    fn the_baseline_gets_its_share_and_the_cheapest_other_the_rest() {
        let (pools, mut picker, job) = (pools(&THREE), picker(), job(""));
        let mut golem = 0;
        for _ in 0..1_000 {
            let (pool, _) = pick(&mut picker, &pools, &job, &Journal::default()).unwrap();
            assert_ne!(pool, "modal@us-east");
            golem += u32::from(pool == "golem@us-east");
        }
        assert!((695..=705).contains(&golem), "{golem}");
    }

    #[test]
    fn a_full_baseline_bursts_and_an_outage_is_not_made_good_by_a_stampede() {
        let full = pools(&[("golem@us-east", 10, 10, 1), ("modal@us-east", 10, 0, 3)]);
        let (mut picker, job) = (picker(), job(""));
        for _ in 0..1_000 {
            let (pool, reason) = pick(&mut picker, &full, &job, &Journal::default()).unwrap();
            assert_eq!((pool.as_str(), reason), ("modal@us-east", Reason::Burst));
        }
        let back = pools(&[("golem@us-east", 10, 0, 1), ("modal@us-east", 10, 0, 3)]);
        let run = (0..200)
            .filter(|_| pick(&mut picker, &back, &job, &Journal::default()).unwrap().0 == "golem@us-east");
        assert!(run.count() <= 140 + 2 * 20 + 1);
    }

    #[test]
    fn a_retry_goes_elsewhere_and_back_only_when_nobody_else_is_left() {
        let (mut picker, job) = (picker(), job(""));
        let journal = failed_at("golem@us-east");
        assert_eq!(pick(&mut picker, &pools(&THREE), &job, &journal).unwrap().0, "fly@us-east");
        let alone = pools(&THREE[..1]);
        let ask = Ask { job: &job, journal: &journal, larger_than: None, avoid: &[] };
        assert!(picker.pick(alone.as_slice(), ask, NOW).unwrap().again);
        let waiting = pools(&[THREE[0], ("modal@us-east", 10, 10, 1)]);
        assert_eq!(picker.pick(waiting.as_slice(), ask, NOW), None, "a full pool that is new is waited for");
    }

    #[test]
    fn another_region_takes_it_only_when_this_one_cannot() {
        let (mut picker, job) = (picker(), job(""));
        let both = [("golem@us-east", 10, 10, 1), ("golem@eu-west", 10, 0, 1)];
        assert_eq!(pick(&mut picker, &pools(&both), &job, &Journal::default()), None);
        let far = pools(&both[1..]);
        assert_eq!(pick(&mut picker, &far, &job, &Journal::default()).unwrap().1, Reason::OtherRegion);
        let bound = self::job(r#","routing":{"allow_regions":["us-east"]}"#);
        assert_eq!(pick(&mut picker, &far, &bound, &Journal::default()), None);
    }

    fn check_refused(extra: &str, journal: &Journal, refusal: Refusal) {
        let (pools, mut picker, job) = (pools(&THREE[..1]), picker(), job(extra));
        assert_eq!(pick(&mut picker, &pools, &job, journal), None);
        assert_eq!(picker.verdicts(), [Some(refusal)]);
    }

    #[test]
    fn a_refusal_has_a_reason() {
        let none = Journal::default();
        check_refused(r#","routing":{"deny_providers":["golem"]}"#, &none, Refusal::Provider);
        check_refused(r#","routing":{"allow_providers":["modal"]}"#, &none, Refusal::Provider);
        check_refused(r#","max_cost_usd":"0.00009"}"#.trim_end_matches('}'), &none, Refusal::MaxCost);
        check_refused(r#","max_cost_usd":"0.0006""#, &failed_at("fly@us-east"), Refusal::MaxCost);
        check_refused(r#","deadline":"2020-01-01T00:00:00Z""#, &none, Refusal::Deadline);
    }

    proptest! {
        #[test]
        fn no_decision_for_a_pool_that_may_not_take_it(
            loads in proptest::collection::vec((0..4u32, 0..4u32, 1..9u64, 0..3u32), 1..8),
            deny in 0..8usize,
        ) {
            let names: Vec<String> = (0..loads.len()).map(|i| format!("p{i}@{}", ["us-east", "eu-west"][i % 2])).collect();
            let mut pools = Pools::default();
            for (name, (slots, running, cost, _)) in names.iter().zip(&loads) {
                pools.heartbeat(beat(name, *slots, *running, *cost), &BreakerConfig::default(), NOW);
            }
            for (i, (.., offered)) in loads.iter().enumerate() {
                pools.at(i).offered = *offered;
            }
            let job = job(&format!(r#","routing":{{"deny_providers":["p{deny}"]}}"#));
            if let Some((chosen, _)) = pick(&mut picker(), &pools, &job, &Journal::default()) {
                let i = names.iter().position(|n| *n == chosen).unwrap();
                prop_assert!(i != deny);
                prop_assert!(pools.as_slice()[i].free(Duration::from_secs(4), NOW) > 0);
            }
        }
    }
}
