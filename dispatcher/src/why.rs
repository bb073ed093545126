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
    JobId, Micros, UsdNanos, WorkerId,
    decision::Refusal,
    journal::Journal,
    state::State,
    time::micros,
    why::{Gate, Place, WhyAnswer, WhyAsk},
};
use tokio::time::Instant;

use crate::held::Held;

/// What this dispatcher knows of a job.
pub fn answer(
    held: &mut Held,
    dispatcher: &WorkerId,
    ask: &WhyAsk,
    policy: &PolicyConfig,
    now: Micros,
) -> WhyAnswer {
    let found = find(held, ask.job);
    let Held { pools, picker, budgets, rng, waiting, .. } = held;
    let group = waiting.group(&ask.subject.region, &ask.subject.model);
    let held_here =
        group.line.iter().find(|(_, _, flight)| flight.job.id == ask.job).map(|(.., flight)| flight);
    let nothing = Journal::default();
    let journal = held_here.map_or(&nothing, |flight| &flight.journal);
    let affordable = |provider: &schemas::ProviderId, amount: UsdNanos| {
        budgets.admits(&ask.subject.tenant, provider, amount, now).is_ok()
    };
    let ahead = u32::try_from(group.line.len()).unwrap_or(u32::MAX);
    let question = Ask {
        subject: &ask.subject,
        routing: &ask.routing,
        deadline: ask.deadline_us,
        max_cost: ask.max_cost_usd,
        journal,
        larger_than: held_here.and_then(|flight| flight.larger_than),
        avoid: &[],
        ahead,
        held_for: held_here.map_or(Duration::ZERO, |flight| now.since(flight.held_since)),
        rests: false,
        affordable: &affordable,
    };
    let gates = gates(picker, pools, question, budgets, policy, now, rng);
    let wait_us = picker.wait(pools.as_slice(), question).map(micros);
    let place = match found {
        Some(place) => place,
        None => match held_here {
            None => Place::Elsewhere { waiting: ahead, wait_us },
            Some(flight) => Place::Waiting {
                since_us: flight.held_since,
                others: ahead - 1,
                own: u32::try_from(group.line.len_of(&ask.subject.tenant))
                    .unwrap_or(u32::MAX)
                    .saturating_sub(1),
                wait_us,
                rests_us: flight.not_before.map(|at| micros(at.saturating_duration_since(Instant::now()))),
                retry_budget: !flight.journal.entries.is_empty()
                    && held.retries.get(&ask.subject.region).is_some_and(|budget| budget.left(now) == 0),
                attempts: flight.attempts(),
            },
        },
    };
    WhyAnswer { dispatcher: dispatcher.clone(), place, gates }
}

/// Where the job is, unless it waits in its line or is not here at all.
fn find(held: &Held, job: JobId) -> Option<Place> {
    if let Some(run) = held.runs.iter().find(|run| run.job == job) {
        let usual = held.pools.iter().find(|pool| pool.id == run.pool);
        let usual =
            usual.and_then(|pool| pool.track(&run.subject.model)).map_or(0, |t| micros(t.service().1));
        return Some(Place::Running {
            pool: run.pool.clone(),
            worker: run.worker.clone(),
            since_us: run.since,
            usual_us: usual,
            hedged: run.twin.is_some(),
        });
    }
    if let Some(offer) = held.offered.values().find(|offer| offer.flight.job.id == job) {
        return match &offer.flight.state {
            State::Offered { pool, .. } => Some(Place::Offered { pool: pool.clone() }),
            State::Waiting { .. } | State::Running { .. } | State::Ended { .. } => None,
        };
    }
    held.suspects.contains(job).then_some(Place::LookedUp)
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
