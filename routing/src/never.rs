//! Job and all pools there could be → whether none of them could ever take it. Pure.
//!
//! Most gates open by themselves: a full pool gets a free slot, a breaker closes, a worker is heard of again. Some never do: the
//! lists of the job, the models and sizes that exist, the price of the cheapest pool. A job that only such gates keep from every
//! pool would wait for ever, so it is to end at once, and its end names the gate.

use std::time::Duration;

use schemas::{Micros, ModelToken, PoolId, ProviderId, Region, UsdNanos, decision::Refusal};

use crate::{pick::Ask, pool::Pool};

/// How long a job waits for a measured cost to fall before that cost counts as what a pool costs. A provider that is slow for some
/// minutes is dear for as long; longer than that, the figures say what an attempt there costs.
pub const DEAR_FOR: Duration = Duration::from_secs(600);

/// A pool that the configuration lists, whether or not anything was heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPool {
    /// Which.
    pub id: PoolId,
    /// What it serves.
    pub models: Vec<KnownModel>,
}

/// A model at such a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownModel {
    /// Which.
    pub model: ModelToken,
    /// The rank of what it runs on, as in heartbeats; the largest, where there are several.
    pub size: u16,
    /// What the cheapest attempt there is expected to cost.
    pub least_cost: UsdNanos,
}

/// The gate that keeps a job from every pool there could be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hopeless {
    /// No pool serves the model.
    Model(ModelToken),
    /// No pool that serves it is at a provider that the job's lists admit.
    Provider {
        /// The providers that serve the model.
        serving: Vec<ProviderId>,
    },
    /// None of those is in a region that the job's list admits.
    Region {
        /// The regions in which the model is served by providers that the job admits.
        serving: Vec<Region>,
    },
    /// None of those is larger than the one that ran out of memory.
    Size {
        /// The size that was too small.
        larger_than: u16,
    },
    /// None of those is cheap enough for what is left of the job's money.
    MaxCost {
        /// The cheapest of those pools.
        pool: PoolId,
        /// What an attempt there is expected to cost.
        cost: UsdNanos,
        /// What earlier attempts have cost.
        spent: UsdNanos,
    },
}

impl Hopeless {
    /// The gate, as decisions name it.
    pub const fn gate(&self) -> Refusal {
        match self {
            Self::Model(_) => Refusal::Model,
            Self::Provider { .. } => Refusal::Provider,
            Self::Region { .. } => Refusal::Region,
            Self::Size { .. } => Refusal::Size,
            Self::MaxCost { .. } => Refusal::MaxCost,
        }
    }

    /// The message for the sender of the job: the field, and what would fit.
    pub fn message(&self) -> String {
        match self {
            Self::Model(model) => format!("no pool serves the model `{model}`"),
            Self::Provider { serving } => format!(
                "fields `routing.allow_providers` and `routing.deny_providers` leave no pool; the model is served at {}",
                list(serving)
            ),
            Self::Region { serving } => {
                format!(
                    "field `routing.allow_regions` leaves no pool; the model is served in {}",
                    list(serving)
                )
            }
            Self::Size { larger_than } => format!(
                "an attempt ran out of memory at size {larger_than}, and no larger pool may take the job"
            ),
            Self::MaxCost { pool, cost, spent } => {
                let before =
                    if *spent > UsdNanos::ZERO { format!(", after ${spent} spent") } else { String::new() };
                format!(
                    "field `max_cost_usd`: the cheapest pool, {pool}, is expected to cost ${cost}{before}"
                )
            }
        }
    }
}

/// A pool that may take the job some day.
struct Candidate<'a> {
    id: &'a PoolId,
    size: u16,
    cost: UsdNanos,
}

/// The gate that keeps `ask` from every pool for ever; `None` while one pool could take it some day.
///
/// Pools are those that the configuration lists and those that were heard of. Without any listed pool nothing is hopeless: others
/// may come. A pool costs the least of what is listed, what its workers expect and what was measured. Once the job has waited for
/// [`DEAR_FOR`], a pool costs what an attempt there has to set aside now, which is what [`crate::pick`] holds against
/// `max_cost_usd`. So no job is hopeless that a pool could take now.
pub fn hopeless(known: &[KnownPool], heard: &[Pool], ask: Ask<'_>, now: Micros) -> Option<Hopeless> {
    if known.is_empty() {
        return None;
    }
    let model = &ask.subject.model;
    let mut left = candidates(known, heard, ask, now);
    if left.is_empty() {
        return Some(Hopeless::Model(model.clone()));
    }
    let serving = distinct(left.iter().map(|pool| &pool.id.provider));
    left.retain(|pool| ask.admits_provider(&pool.id.provider));
    if left.is_empty() {
        return Some(Hopeless::Provider { serving });
    }
    let serving = distinct(left.iter().map(|pool| &pool.id.region));
    left.retain(|pool| ask.admits_region(&pool.id.region));
    if left.is_empty() {
        return Some(Hopeless::Region { serving });
    }
    if let Some(larger_than) = ask.larger_than {
        left.retain(|pool| pool.size > larger_than);
        if left.is_empty() {
            return Some(Hopeless::Size { larger_than });
        }
    }
    let (max, spent) = (ask.max_cost?, ask.journal.spent());
    let cheapest = left.into_iter().min_by_key(|pool| pool.cost)?;
    let fits = spent.checked_add(cheapest.cost).is_some_and(|sum| sum <= max);
    (!fits).then(|| Hopeless::MaxCost { pool: cheapest.id.clone(), cost: cheapest.cost, spent })
}

/// Every pool that serves the model, listed or heard of: the larger size and the lower cost of the two.
fn candidates<'a>(
    known: &'a [KnownPool],
    heard: &'a [Pool],
    ask: Ask<'_>,
    now: Micros,
) -> Vec<Candidate<'a>> {
    let model = &ask.subject.model;
    let mut all: Vec<Candidate<'a>> = Vec::new();
    for pool in known {
        for served in pool.models.iter().filter(|served| served.model == *model) {
            all.push(Candidate { id: &pool.id, size: served.size, cost: served.least_cost });
        }
    }
    for pool in heard {
        let Some(track) = pool.track(model) else { continue };
        let measured = track.expect(now).reserve;
        let least = track.served.expected_cost_usd.min(measured);
        let size = track.served.size;
        let mut listed = false;
        for candidate in all.iter_mut().filter(|candidate| *candidate.id == pool.id) {
            listed = true;
            candidate.size = candidate.size.max(size);
            candidate.cost = if ask.held_for < DEAR_FOR { candidate.cost.min(least) } else { measured };
        }
        if !listed {
            let cost = if ask.held_for < DEAR_FOR { least } else { measured };
            all.push(Candidate { id: &pool.id, size, cost });
        }
    }
    all
}

fn distinct<'a, T: Ord + Clone + 'a>(all: impl Iterator<Item = &'a T>) -> Vec<T> {
    let mut all: Vec<T> = all.cloned().collect();
    all.sort();
    all.dedup();
    all
}

fn list<T: ToString>(all: &[T]) -> String {
    all.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};
    use schemas::{
        failure::{Failure, FailureClass},
        job::{Job, JobHeaders},
        journal::{Entry, Journal, Trace},
    };

    use super::*;
    use crate::{
        config::BreakerConfig,
        pool::{Pools, tests::beat},
        track::Outcome,
    };

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn job(extra: &str) -> Job {
        let body = format!(r#"{{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x"{extra}}}"#);
        let subject = "beacon.jobs.us-east.llama-3-2-1b.normal.acme".parse().unwrap();
        Job::read(subject, JobHeaders::default(), body.as_bytes(), NOW).unwrap()
    }

    fn listed(id: &str, model: &str, size: u16, cost: u64) -> KnownPool {
        let served = KnownModel { model: model.parse().unwrap(), size, least_cost: UsdNanos::new(cost) };
        KnownPool { id: id.parse().unwrap(), models: vec![served] }
    }

    fn config() -> Vec<KnownPool> {
        vec![
            listed("golem@us-east", "llama-3-2-1b", 1, 100_000),
            listed("modal@eu-west", "llama-3-2-1b", 3, 300_000),
            listed("modal@us-east", "mistral-7b", 3, 50_000),
        ]
    }

    fn spent(usd: u64) -> Journal {
        let failure = Failure::new(FailureClass::ProviderDown, "x");
        let trace = Trace::Failed { failure, cost_usd: UsdNanos::new(usd) };
        let mut journal = Journal::default();
        let pool = "golem@us-east".parse().unwrap();
        journal.record(Entry { attempt: 1, key: None, pool, started_us: NOW, trace });
        journal
    }

    fn gate(extra: &str, heard: &Pools) -> Option<Hopeless> {
        let (job, journal) = (job(extra), Journal::default());
        hopeless(&config(), heard.as_slice(), Ask::of(&job, &journal), NOW)
    }

    fn check(extra: &str, gate_is: Refusal, message: &str) {
        let found = gate(extra, &Pools::default()).unwrap();
        assert_eq!((found.gate(), found.message().as_str()), (gate_is, message));
    }

    #[test]
    fn lists_that_leave_no_pool_are_named_with_what_there_is() {
        let providers = "fields `routing.allow_providers` and `routing.deny_providers` leave no pool; the model is served at golem, modal";
        check(r#","routing":{"allow_providers":["nobody"]}"#, Refusal::Provider, providers);
        let both = r#","routing":{"allow_providers":["golem"],"deny_providers":["golem"]}"#;
        check(both, Refusal::Provider, providers);
        let regions = "field `routing.allow_regions` leaves no pool; the model is served in us-east";
        let nowhere = r#","routing":{"allow_providers":["golem"],"allow_regions":["mars"]}"#;
        check(nowhere, Refusal::Region, regions);
    }

    #[test]
    fn a_model_that_no_pool_serves_is_named_unless_nothing_is_configured() {
        let (job, journal) = (job(""), Journal::default());
        let others = [listed("modal@us-east", "mistral-7b", 3, 1)];
        let found = hopeless(&others, &[], Ask::of(&job, &journal), NOW).unwrap();
        assert_eq!(found.message(), "no pool serves the model `llama-3-2-1b`");
        assert_eq!(hopeless(&[], &[], Ask::of(&job, &journal), NOW), None);
        let mut heard = Pools::default();
        heard.heartbeat(beat("fly@us-east", 1, 1, 1), NOW);
        assert_eq!(hopeless(&others, heard.as_slice(), Ask::of(&job, &journal), NOW), None);
    }

    #[test]
    fn the_largest_size_that_ran_out_of_memory_leaves_nothing() {
        let (job, journal) = (job(""), Journal::default());
        let at = |size| Ask { larger_than: Some(size), ..Ask::of(&job, &journal) };
        assert_eq!(hopeless(&config(), &[], at(2), NOW), None);
        let found = hopeless(&config(), &[], at(3), NOW);
        assert_eq!(found, Some(Hopeless::Size { larger_than: 3 }));
    }

    #[test]
    fn the_cheapest_pool_and_its_cost_are_named_where_money_does_not_reach() {
        let told = "field `max_cost_usd`: the cheapest pool, golem@us-east, is expected to cost $0.0001";
        check(r#","max_cost_usd":"0""#, Refusal::MaxCost, told);
        check(r#","max_cost_usd":"0.000099""#, Refusal::MaxCost, told);
        assert_eq!(gate(r#","max_cost_usd":"0.0001""#, &Pools::default()), None);
        let dearer = r#","max_cost_usd":"0.0002","routing":{"allow_regions":["eu-west"]}"#;
        check(
            dearer,
            Refusal::MaxCost,
            "field `max_cost_usd`: the cheapest pool, modal@eu-west, is expected to cost $0.0003",
        );
        let (job, journal) = (job(r#","max_cost_usd":"0.00015""#), spent(60_000));
        let found = hopeless(&config(), &[], Ask::of(&job, &journal), NOW).unwrap();
        assert_eq!(found.message(), format!("{told}, after $0.00006 spent"));
    }

    #[test]
    fn a_measured_cost_counts_only_once_a_job_has_waited_for_it_to_fall() {
        // Workers expect more than what is configured, and the 95th percentile is more than twice the median.
        let mut heard = Pools::default();
        for id in ["golem@us-east", "modal@eu-west"] {
            let mut beat = beat(id, 10, 0, 400_000);
            beat.models[0].second_usd = UsdNanos::new(1_000_000);
            heard.heartbeat(beat, NOW);
        }
        let (job, journal) = (job(r#","max_cost_usd":"0.0005""#), Journal::default());
        let ask = Ask::of(&job, &journal);
        assert_eq!(hopeless(&config(), heard.as_slice(), ask, NOW), None);
        let long = Ask { held_for: DEAR_FOR, ..ask };
        let found = hopeless(&config(), heard.as_slice(), long, NOW).unwrap().message();
        assert_eq!(
            found,
            "field `max_cost_usd`: the cheapest pool, golem@us-east, is expected to cost $0.0009"
        );
    }

    #[test]
    fn a_pool_that_is_full_or_closed_or_silent_now_is_hope() {
        let (config, mut rng, model) =
            (BreakerConfig::default(), StdRng::seed_from_u64(1), "llama-3-2-1b".parse().unwrap());
        let only_golem = r#","routing":{"allow_providers":["golem"],"allow_regions":["us-east"]}"#;
        let mut full = Pools::default();
        full.heartbeat(beat("golem@us-east", 4, 4, 100_000), NOW);
        assert_eq!(gate(only_golem, &full), None, "full");
        let mut closed = full.clone();
        let bin = closed.sent(0, &model, &config, NOW);
        let limited = Outcome { failed: Some(FailureClass::Authentication), ..Outcome::default() };
        closed.ended(&"golem@us-east".parse().unwrap(), &model, &limited, bin, &config, NOW, &mut rng);
        assert!(closed.at(0).track(&model).unwrap().breaker.is_tripped());
        assert_eq!(gate(only_golem, &closed), None, "closed");
        assert_eq!(gate(only_golem, &Pools::default()), None, "not heard of yet");
        full.forget_silent(NOW + Duration::from_secs(3_600));
        assert_eq!(gate(only_golem, &full), None, "silent");
        let mut leaving = beat("golem@us-east", 4, 4, 100_000);
        leaving.draining = true;
        full.heartbeat(leaving, NOW);
        assert_eq!(gate(only_golem, &full), None, "leaving");
        let deadline = r#","deadline":"2020-01-01T00:00:00Z""#;
        assert_eq!(gate(deadline, &full), None, "a deadline ends a job by itself");
    }
}
