//! Why a job waits: which gate, how it stands, what it is held against, when it opens. Pure.

use std::time::Duration;

use rand::Rng;
use routing::{
    budget::{Budgets, Wait},
    config::PolicyConfig,
    pick::{Ask, Picker, Seen},
    pool::{Pool, Pools},
    track::Track,
};
use schemas::{
    Micros, UsdNanos,
    decision::Refusal,
    journal::Journal,
    time::micros,
    why::{Gate, Place, WhyAnswer, WhyAsk},
};

use crate::{
    config::DispatcherConfig,
    jobs::{
        Desk, Jobs,
        record::{Course, Record, Stage},
    },
};

/// What this dispatcher knows of a job.
pub fn answer(jobs: &mut Jobs, config: &DispatcherConfig, ask: &WhyAsk, now: Micros) -> WhyAnswer {
    let Desk { records, lines, pools, picker, budgets, retries, ahead: skewed, rng } = jobs.desk();
    let here =
        records.iter().filter(|(_, r)| r.head.id == ask.job && r.head.subject.tenant == ask.subject.tenant);
    let record = here.max_by_key(|(key, _)| **key).map(|(_, record)| record.as_ref());
    let group = lines.group(&ask.subject.region, &ask.subject.model);
    let waiting = record.filter(|record| matches!(record.stage, Stage::Waiting { .. }));
    let nothing = Journal::default();
    let journal = waiting.map_or(&nothing, |record| &record.journal);
    let affordable = |provider: &schemas::ProviderId, amount: UsdNanos| {
        budgets.admits(&ask.subject.tenant, provider, amount, now).is_ok()
    };
    let ahead = u32::try_from(group.line.len()).unwrap_or(u32::MAX);
    let rests = waiting.and_then(|record| record.not_before).filter(|at| *at > now);
    let spares = waiting.and_then(|record| record.forgive_at).filter(|at| *at > now);
    let question = Ask {
        subject: &ask.subject,
        routing: &ask.routing,
        deadline: ask.deadline_us,
        max_cost: ask.max_cost_usd,
        journal,
        larger_than: waiting.and_then(|record| record.larger_than),
        avoid: &[],
        ahead,
        held_for: waiting.map_or(Duration::ZERO, |record| now.since(record.held_since)),
        rests: rests.is_some(),
        affordable: &affordable,
    };
    let mut gates = gates(picker, pools, question, budgets, &config.policy, now, rng);
    for gate in &mut gates {
        // A pool that would take it, and drops what it is offered.
        let worker = skewed.iter().find(|((pool, _), _)| *pool == gate.pool);
        if let Some(((_, worker), by)) = worker.filter(|_| gate.refused.is_none()) {
            gate.limit = format!("the clock of its worker {worker} is {by:.1?} ahead: it drops offers");
        }
    }
    let wait_us = picker.wait(pools.as_slice(), question).map(micros);
    let elsewhere = Place::Elsewhere { waiting: ahead, wait_us };
    let place = match record {
        None => elsewhere,
        Some(record) => match record.stage {
            Stage::Waiting { .. } => Place::Waiting {
                since_us: record.held_since,
                others: ahead.saturating_sub(1),
                own: u32::try_from(group.line.len_of(&ask.subject.tenant))
                    .unwrap_or(u32::MAX)
                    .saturating_sub(1),
                wait_us,
                rests_us: rests.max(spares).map(|at| micros(at.since(now))),
                retry_budget: !record.journal.entries.is_empty()
                    && retries.get(&ask.subject.region).is_some_and(|budget| budget.left(now) == 0),
                attempts: record.attempts,
            },
            Stage::LookUp { .. } => Place::LookedUp,
            Stage::Away => away(record, pools).unwrap_or(elsewhere),
            Stage::Ending | Stage::Over => elsewhere,
        },
    };
    WhyAnswer { dispatcher: config.id.clone(), place, gates }
}

/// Where a job is that is offered or runs.
fn away(record: &Record, pools: &Pools) -> Option<Place> {
    let running = record.open.iter().filter(|a| matches!(a.course, Course::Running { .. })).count();
    let first = record.current().min_by_key(|attempt| attempt.offer)?;
    Some(match &first.course {
        Course::Offered { .. } => Place::Offered { pool: first.pool.clone() },
        Course::Running { worker, since, .. } => {
            let pool = pools.iter().find(|pool| pool.id == first.pool);
            let track = pool.and_then(|pool| pool.track(&record.head.subject.model));
            Place::Running {
                pool: first.pool.clone(),
                worker: worker.clone(),
                since_us: *since,
                usual_us: track.map_or(0, |track| micros(track.service().1)),
                hedged: running > 1,
            }
        }
    })
}

/// A gate for every pool that serves the model.
fn gates(
    picker: &mut Picker,
    pools: &Pools,
    ask: Ask<'_>,
    budgets: &Budgets,
    policy: &PolicyConfig,
    now: Micros,
    rng: &mut impl Rng,
) -> Vec<Gate> {
    picker.explain(pools.as_slice(), ask, now, rng);
    let seen = pools.iter().zip(picker.seen());
    let served = seen.filter(|(_, seen)| seen.refused != Some(Refusal::Model));
    served.map(|(pool, seen)| gate(pool, seen, ask, budgets, policy, now)).collect()
}

fn gate(
    pool: &Pool,
    seen: &Seen,
    ask: Ask<'_>,
    budgets: &Budgets,
    policy: &PolicyConfig,
    now: Micros,
) -> Gate {
    let track = pool.track(&ask.subject.model);
    let (free, slots) = pool.free(policy.silent_after, now);
    let running = track.map_or(0, routing::track::Track::running);
    let plain = |value: String, limit: String| (value, limit, None);
    let (value, limit, until_us) = match seen.refused {
        None => plain(format!("{free} of {slots} slots free"), String::new()),
        Some(Refusal::Full) => {
            plain(format!("{} running", slots - free.min(slots)), format!("{slots} slots"))
        }
        Some(Refusal::Limit) => plain(
            format!("{running} of its model running"),
            format!("{} at once", track.map_or(0, Track::limit)),
        ),
        Some(Refusal::Breaker) => {
            let until = track.and_then(|t| t.breaker.open_until());
            let ok = track.map_or(1.0, |t| t.ok(now));
            (format!("{:.0} % of its jobs succeed", ok * 100.0), "its breaker is open".into(), until)
        }
        Some(Refusal::RateLimit) => {
            (String::new(), "the provider asked us to stay away".into(), Some(pool.closed_until))
        }
        Some(Refusal::Throttled) => {
            let reject = track.map_or(0.0, |t| t.reject(now));
            plain(format!("{:.0} % of jobs are kept from it", reject * 100.0), "it fails too many".into())
        }
        Some(Refusal::Suspect) => {
            let (usual, present) = track.map_or_else(Default::default, routing::track::Track::averages);
            plain(format!("{present:.1?} a job"), format!("{usual:.1?} are usual"))
        }
        Some(Refusal::MaxCost) => plain(
            format!("${} spent and ${} more", ask.journal.spent(), seen.expected.reserve),
            ask.max_cost.map_or_else(String::new, |max| format!("max_cost_usd ${max}")),
        ),
        Some(Refusal::Budget) => {
            match budgets.admits(&ask.subject.tenant, &pool.id.provider, seen.expected.reserve, now) {
                Ok(()) => plain(String::new(), String::new()),
                Err(held) => {
                    let until = match held.wait {
                        Wait::Period(at) => Some(at),
                        Wait::Chunk => None,
                    };
                    let limit = budgets
                        .rule(held.rule)
                        .map_or_else(|| format!("${}", held.limit), ToString::to_string);
                    (format!("${} taken, ${} needed", held.taken, held.amount), limit, until)
                }
            }
        }
        Some(Refusal::Deadline) => plain(
            format!("would end in {:.1?}", seen.time),
            ask.deadline.map_or_else(String::new, |at| format!("deadline in {:.1?}", at.since(now))),
        ),
        Some(Refusal::Size) => plain(
            format!("size {}", track.map_or(0, |t| t.served.size)),
            format!("larger than {}", ask.larger_than.unwrap_or(0)),
        ),
        Some(Refusal::Region) => {
            let listed =
                ask.routing.allow_regions.contains(&pool.id.region) || ask.routing.allow_regions.is_empty();
            if listed {
                plain(format!("{:.0?} away", pool.delay()), "a slot here is free sooner".into())
            } else {
                plain(String::new(), "not in its allow_regions".into())
            }
        }
        Some(Refusal::Provider) => plain(String::new(), "not among the providers it allows".into()),
        Some(Refusal::Tried) => plain(String::new(), "it failed there, and others may be free".into()),
        Some(Refusal::Silent) => plain("no heartbeat".into(), format!("{:.0?}", policy.silent_after)),
        Some(Refusal::Draining) => plain(String::new(), "its workers are leaving".into()),
        Some(Refusal::Model) => plain(String::new(), "does not serve the model".into()),
    };
    Gate { pool: pool.id.clone(), refused: seen.refused, value, limit, until_us }
}
