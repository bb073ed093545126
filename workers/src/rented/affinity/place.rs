//! The choice of a machine for one job: by time, under a hard bound. Pure, and without an allocation.
//!
//! A machine's cost is how long the job would take there: behind what its server says is waiting, with what it has still to
//! compute of the prompt, and as slow as it is with what runs there. So a machine that has the prompt's beginning is worth the
//! prefill it saves, and no more patience than that. Of equal machines the one that the beginning belongs to comes first.
//!
//! **The bound.** No machine takes a job that would fill it above 1.25 times its part of all that runs, rounded up: consistent
//! hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam, arXiv 1608.01350). Rounded up, the machine that is emptiest for
//! its slots always may take one, so a job waits only when all slots are taken. As many jobs as do not slow each other may run on
//! one machine in any case: below that, moving one costs a prefill and gains nothing.

use std::{cmp::Ordering, time::Duration};

use schemas::prefix::{BLOCK, Prefix};

use super::{
    holders::{Held, Holders, IDLE, Life},
    home,
    pace::Pace,
};

/// Bytes of text in a token, about.
const BYTES_PER_TOKEN: u64 = 4;

/// A machine that may take jobs, as one worker sees it now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Candidate {
    /// The caller's own number for it.
    pub nth: usize,
    /// The number of its type among paces.
    pub sku: u16,
    /// It in the table.
    pub life: Life,
    /// It among homes: [`home::of_name`].
    pub name: u64,
    /// All its slots, whoever fills them: equal for all workers.
    pub size: u32,
    /// Slots that this worker may fill.
    pub slots: u32,
    /// Jobs that run in them.
    pub running: u32,
    /// Requests that wait at its server, by its own word.
    pub queued: u32,
    /// Jobs that it runs at once without slowing them.
    pub floor: u32,
    /// When it was given or finished a job last.
    pub touched: Duration,
    /// Nanoseconds to compute a token of a prompt there.
    pub token_ns: u64,
    /// Nanoseconds that a job takes there.
    pub service_ns: u64,
    /// ... beside those that run now.
    pub beside_ns: u64,
}

impl Candidate {
    /// The same with what things take there.
    #[must_use]
    pub fn priced(self, pace: &Pace) -> Self {
        Self {
            floor: pace.floor(),
            token_ns: pace.token_ns(),
            service_ns: pace.service_ns(),
            beside_ns: pace.beside_ns(self.running, self.slots),
            ..self
        }
    }
}

/// Why a machine was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// It has the prompt's beginning.
    Holder,
    /// It is where such a beginning belongs, and none that has it was worth it.
    Home,
    /// Those were too full, or too slow.
    Bound,
    /// The job has no prefix to look for: the least loaded.
    None,
}

impl Reason {
    /// The word in metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Holder => "holder",
            Self::Home => "home",
            Self::Bound => "bound",
            Self::None => "none",
        }
    }
}

/// A placement, as it is looked back on when its job has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// Why the machine was chosen.
    pub reason: Reason,
    /// Bytes of the prompt that the machine was thought to have.
    pub cached: u64,
    /// Bytes of the prompt.
    pub bytes: u64,
    /// Whether they were handed over so long ago that they must have been computed by now.
    pub settled: bool,
}

impl Prediction {
    /// The same part of so many tokens.
    pub fn tokens(&self, prompt: u64) -> u64 {
        let part = u128::from(prompt) * u128::from(self.cached) / u128::from(self.bytes.max(1));
        u64::try_from(part).map_or(prompt, |part| part.min(prompt))
    }
}

/// A choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placed {
    /// The machine's number, as its candidate had it.
    pub nth: usize,
    /// Its life.
    pub life: Life,
    /// Blocks of the prefix that it has.
    pub blocks: u32,
    /// What is expected there.
    pub prediction: Prediction,
    /// How long the job was expected to take there, nanoseconds; 0 without a prefix.
    pub cost_ns: u64,
}

/// Chooses a machine; `None` when all slots are taken.
pub fn place(
    prefix: Option<&Prefix>,
    candidates: &[Candidate],
    holders: &Holders,
    now: Duration,
) -> Option<Placed> {
    let free = || candidates.iter().filter(|it| it.running < it.slots);
    let Some(prefix) = prefix else {
        let least = free().min_by(|a, b| by_load(a, b))?;
        return Some(placed(least, Reason::None, None, 0, 0));
    };
    let found = holders.find(prefix, now);
    let beginning = prefix.head().or(found.again).or(prefix.blocks().last().copied()).unwrap_or_default();
    let pool = Pool::of(candidates);
    let draw = |it: &Candidate| home::draw(beginning, it.name, it.size);
    // A draw takes a logarithm, so only those are drawn for that are equal otherwise.
    let (mut best, mut drawn): (Option<(u64, &Candidate)>, Option<f64>) = (None, None);
    for it in candidates.iter().filter(|it| it.running < it.slots && it.running < pool.cap(it)) {
        let cost = cost(it, prefix, found.by(it.life));
        match best {
            Some((least, _)) if cost > least => {}
            Some((least, known)) if cost == least => {
                let (own, most) = (draw(it), drawn.unwrap_or_else(|| draw(known)));
                drawn = Some(own.max(most));
                if own > most {
                    best = Some((cost, it));
                }
            }
            Some(_) | None => (best, drawn) = (Some((cost, it)), None),
        }
    }
    // The emptiest always passes the bound. Should it not, a full pool is still no reason to wait.
    let (cost, it) = match best {
        Some((cost, it)) => (cost, it),
        None => (0, free().min_by(|a, b| by_load(a, b))?),
    };
    let held = found.by(it.life);
    let belongs = || {
        let own = drawn.unwrap_or_else(|| draw(it));
        candidates.iter().all(|other| other.nth == it.nth || draw(other) <= own)
    };
    let reason = match held {
        Some(_) => Reason::Holder,
        None if belongs() => Reason::Home,
        None => Reason::Bound,
    };
    Some(placed(it, reason, held, prefix.bytes(), cost))
}

fn placed(it: &Candidate, reason: Reason, held: Option<&Held>, bytes: u64, cost_ns: u64) -> Placed {
    // What was handed over a moment ago is still being computed.
    let settled =
        held.is_some_and(|held| held.idle.as_nanos() >= u128::from(it.service_ns) && held.idle < IDLE);
    let prediction = Prediction { reason, cached: held.map_or(0, |held| text(held.blocks)), bytes, settled };
    Placed { nth: it.nth, life: it.life, blocks: held.map_or(0, |held| held.blocks), prediction, cost_ns }
}

/// Fuller machines are greater; of two that are equally full, the one that was given or finished a job last.
pub fn by_load(one: &Candidate, other: &Candidate) -> Ordering {
    let load = |a: &Candidate, b: &Candidate| u64::from(a.running) * u64::from(b.slots);
    load(one, other).cmp(&load(other, one)).then(one.touched.cmp(&other.touched))
}

/// How long the job takes there, nanoseconds.
fn cost(it: &Candidate, prefix: &Prefix, held: Option<&Held>) -> u64 {
    let waits = u64::from(it.queued) * it.service_ns / u64::from(it.size.max(1));
    let cached =
        held.map_or(0, |held| if held.idle < IDLE { text(held.blocks) } else { text(held.blocks) / 2 });
    let prefill = prefix.bytes().saturating_sub(cached) / BYTES_PER_TOKEN * it.token_ns;
    waits.saturating_add(prefill).saturating_add(it.beside_ns)
}

/// Bytes of so many blocks.
fn text(blocks: u32) -> u64 {
    u64::from(blocks) * BLOCK as u64
}

/// What runs in the pool, and on how many slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pool {
    running: u64,
    slots: u64,
}

impl Pool {
    /// All machines together.
    pub fn of(candidates: &[Candidate]) -> Self {
        let each = candidates.iter();
        let (running, slots) = each.fold((0, 0), |(running, slots), it| {
            (running + u64::from(it.running), slots + u64::from(it.slots))
        });
        Self { running, slots }
    }

    /// The most jobs that one of them may run when one more is begun.
    pub fn cap(&self, it: &Candidate) -> u32 {
        // 1.25 · (running + 1) · its slots / all slots.
        let part = (5 * (self.running + 1) * u64::from(it.slots)).div_ceil(4 * self.slots.max(1));
        it.slots.min(it.floor.max(u32::try_from(part).unwrap_or(u32::MAX)))
    }
}
