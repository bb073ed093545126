//! How many machines a pool has, which are ordered and which leave. Pure: all that is known comes in as [`Seen`], time as `now`, and
//! what is remembered as [`Memory`], which a successor goes on with.
//!
//! ```text
//!  arrivals ─▶ flow ──┐
//!  deadlines ─▶ due ──┼▶ levels: rent or serverless? ─▶ bounds, windows, wish ─▶ want ─┬▶ shop: caps, cheapest slot ─▶ order, wake
//!  backfill ──────────┘                                                                └▶ the clock of fewer ─▶ leave
//! ```
//!
//! What is needed is never computed from what was wanted before, only from what waits, arrives, stands and starts. Up goes in one
//! step, down by one machine a look, after fewer were enough for as long as a start takes.

mod arrivals;
mod bounded;
mod leave;
mod levels;
mod memory;
mod need;
mod peers;
mod reason;
mod rules;
mod seen;
mod shop;
mod staff;
mod starts;
mod verdict;
mod weigh;
mod windows;

use std::{cmp::Ordering, time::Duration};

use schemas::{MachineId, Micros, machine::MachineState};

use self::{
    bounded::bounded,
    levels::Measure,
    shop::Hindrance,
    staff::{Staff, Unit, len},
    starts::Boots,
};
pub use self::{
    leave::{How, Leave, LeaveWhy},
    memory::Memory,
    peers::{Peer, ahead},
    reason::Reason,
    rules::{Policy, PolicyError},
    seen::{Offer, REPORT_HOLDS, Seen, Serverless, Standing, Wish},
    shop::Purchase,
    starts::{Boot, Starts},
    verdict::verdict,
    windows::{Bounds, Window, WindowError},
};
use crate::demand::Load;

/// How often a pool is looked at when nothing happens.
pub const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Fewer machines are not believed in sooner than this.
const DOWN_MIN: Duration = Duration::from_secs(60);
/// While dispatchers are silent for no longer than this, everything stays as it is; then nothing waits.
const UNHEARD_MAX: Duration = Duration::from_secs(60);

/// What is to be done.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// How many machines there should be.
    pub want: u32,
    /// How many would be needed without bounds and caps.
    pub needed: u32,
    /// Parked machines to start.
    pub wake: Vec<MachineId>,
    /// Machines to order.
    pub order: Vec<Purchase>,
    /// Machines that leave.
    pub leave: Vec<Leave>,
    /// Why, the most important first.
    pub reasons: Vec<Reason>,
    /// When to plan again, if nothing happens before.
    pub look_again_at: Micros,
}

impl Plan {
    /// Why, as one sentence for people.
    pub fn why(&self) -> String {
        self.reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    }
}

/// Plans. `memory` is what the last plan left; it is changed.
pub fn plan(seen: &Seen, policy: &Policy, memory: &mut Memory, now: Micros) -> Plan {
    let dt = memory.pass(now);
    memory.starts.look(&seen.machines, now);
    let boots = Boots::of(&memory.starts, seen, policy.boot, now);
    let unit = Unit::of(seen, &memory.starts, &boots, now);
    let mut plan = Plan { look_again_at: now + LOOK_EVERY, ..Plan::default() };
    plan.leave = leave::anyhow(seen, policy, &mut memory.starts, &boots, now);
    let staff = Staff::of(seen, &plan.leave, memory.want);
    for machine in seen.machines.iter().filter(|m| m.state == MachineState::Draining) {
        plan.look_by(machine.since + policy.drain_limit, now);
    }

    if let Some(load) = &seen.load {
        memory.heard = now;
        memory.rates.hear(load, now);
    }
    let unheard = now.since(memory.heard);
    let price = seen.serverless.map(|serverless| serverless.usd_per_second);
    let start = unit.boot.p50 + seen.minimum;
    let measure = Measure::new(unit.usd_per_hour, price, unit.slots, start, policy.theta);
    let nothing = Load::default();
    let needed = if seen.load.is_none() && unheard <= UNHEARD_MAX {
        plan.reasons.push(Reason::Unheard(unheard));
        staff.levels
    } else {
        if seen.load.is_none() {
            plan.reasons.push(Reason::Unheard(unheard));
        }
        let load = seen.load.as_ref().unwrap_or(&nothing);
        let busy = weigh::busy(seen, load, now);
        memory.levels.pass(busy, staff.ready as usize, staff.levels as usize, dt, &measure);
        let needs = weigh::needs(seen, policy, memory, &staff, &boots, &unit, load, now);
        let needed = weigh::needed(seen, memory, &staff, &measure, &needs, load, busy, &mut plan.reasons);
        let granted = bounded(seen, policy, unit.boot.p95, needed, now);
        let most = granted.min(affordable(seen, policy, &staff, &unit));
        let risks = [needs.due.at_risk(most), needs.backfill.at_risk(most)];
        for (jobs, by) in risks.into_iter().flatten() {
            plan.reasons.insert(0, Reason::AtRisk(jobs, by));
        }
        needed
    };
    plan.needed = needed;
    plan.want = bounded(seen, policy, unit.boot.p95, needed, now);
    memory.want = Some(plan.want);
    tell_bounds(&mut plan, seen, needed);
    let job_p95 = seen.load.as_ref().unwrap_or(&nothing).service.p95;
    replace(&mut plan, &staff, policy, seen, job_p95, now);
    match plan.want.cmp(&staff.have()) {
        Ordering::Greater => {
            memory.lower_at = None;
            buy(&mut plan, seen, policy, memory, staff.have(), now);
        }
        Ordering::Less => lower(&mut plan, seen, policy, memory, &staff, &unit, job_p95, now),
        Ordering::Equal => memory.lower_at = None,
    }
    let works = |load: &Load| load.running > 0 || !load.waiting.is_empty() || !load.backfill.is_empty();
    if seen.ahead_slots > 0 && seen.load.as_ref().is_some_and(works) {
        plan.reasons.push(Reason::Ahead(seen.ahead_slots));
    }
    if plan.reasons.is_empty() {
        plan.reasons.push(Reason::Nothing);
    }
    plan
}

impl Plan {
    /// Plans again no later than at `at`, and not at once.
    fn look_by(&mut self, at: Micros, now: Micros) {
        if at > now {
            self.look_again_at = self.look_again_at.min(at);
        }
    }
}

/// How many machines there may be by what they cost.
fn affordable(seen: &Seen, policy: &Policy, staff: &Staff<'_>, unit: &Unit) -> u32 {
    let left = policy.usd_per_hour_max.get().saturating_sub(shop::dollars(seen).get());
    let more = left.checked_div(unit.usd_per_hour.get()).unwrap_or(u64::MAX);
    len(staff.all().count()).saturating_add(u32::try_from(more).unwrap_or(u32::MAX))
}

fn tell_bounds(plan: &mut Plan, seen: &Seen, needed: u32) {
    match seen.wish {
        Wish::None if plan.want > needed => plan.reasons.push(Reason::Floor(plan.want)),
        Wish::None if plan.want < needed => plan.reasons.push(Reason::Ceiling(plan.want, needed)),
        Wish::None => {}
        wish @ (Wish::Start | Wish::Scale(_) | Wish::Stop | Wish::Drain) => {
            plan.reasons.insert(0, Reason::Wish(wish));
        }
    }
}

/// Those that are to be replaced leave when there are enough that work without them.
fn replace(plan: &mut Plan, staff: &Staff<'_>, policy: &Policy, seen: &Seen, job_p95: Duration, now: Micros) {
    let count = staff.old.len();
    if count == 0 {
        return;
    }
    let why = LeaveWhy::Replaced;
    plan.leave.extend(leave::unconfirmed(staff.old.iter().copied(), count, why));
    let ready = staff.all().filter(|machine| machine.is_ready()).count();
    let surplus = ready.saturating_sub(plan.want as usize).min(1);
    let old = staff.old.iter().copied().filter(|machine| machine.is_ready());
    let stay = old.clone().count() > surplus;
    let leaving = leave::drain(old, surplus, why, job_p95, seen.unit, policy, now);
    if stay {
        plan.reasons.push(Reason::Replacing(len(count - leaving.leave.len())));
    }
    if let Some(at) = leaving.paid {
        plan.look_by(at, now);
    }
    plan.leave.extend(leaving.leave);
}

/// Orders what is missing.
fn buy(plan: &mut Plan, seen: &Seen, policy: &Policy, memory: &Memory, have: u32, now: Micros) {
    let basket = shop::shop(seen, policy, &memory.starts, plan.want - have, now);
    (plan.wake, plan.order) = (basket.wake, basket.order);
    let hindrance = basket.hindrance.map(|hindrance| match hindrance {
        Hindrance::Machines(max) => Reason::MachinesMax(max),
        Hindrance::Dollars(taken, max) => Reason::DollarsMax(taken, max),
        Hindrance::NoOffer => Reason::NoOffer,
        Hindrance::Rest(until) => {
            plan.look_by(until, now);
            Reason::Rest(until)
        }
    });
    plan.reasons.extend(hindrance);
}

/// Sends machines away, one a look, once fewer were enough for long enough; all at once if the operator says so.
#[expect(clippy::too_many_arguments, reason = "all that a farewell depends on")]
fn lower(
    plan: &mut Plan,
    seen: &Seen,
    policy: &Policy,
    memory: &mut Memory,
    staff: &Staff<'_>,
    unit: &Unit,
    job_p95: Duration,
    now: Micros,
) {
    let excess = staff.have() - plan.want;
    let by_hand = match seen.wish {
        Wish::None | Wish::Start => false,
        Wish::Scale(_) | Wish::Stop | Wish::Drain => true,
    };
    let wait = policy.down_after.max(DOWN_MIN);
    // Decided once: machines that never start would make a start look longer and longer.
    let from = now + wait.max(unit.boot.p50);
    let from = memory.lower_at.map_or(from, |at| at.min(from));
    memory.lower_at = Some(from);
    // A clock that was set back must not make us wait for it.
    let left = memory.left.min(now);
    let at = if left == Micros::default() { from } else { from.max(left + LOOK_EVERY) };
    if !by_hand && now < at {
        plan.reasons.push(Reason::Lower(at));
        plan.look_by(at, now);
        return;
    }
    let (count, why) = if by_hand { (excess, LeaveWhy::Asked) } else { (1, LeaveWhy::Fewer) };
    let young = leave::unconfirmed(staff.own.iter().copied(), count as usize, why);
    let rest = (count as usize).saturating_sub(young.len());
    // To be idle counts from when it could work.
    let rested = |m: &Standing| by_hand || m.ready_at.is_none_or(|ready| now.since(ready) >= wait);
    let ready = staff.own.iter().copied().filter(|machine| machine.is_ready() && rested(machine));
    let billed = if by_hand { Duration::ZERO } else { seen.unit };
    let leaving = leave::drain(ready, rest, why, job_p95, billed, policy, now);
    if rest > 0
        && leaving.leave.is_empty()
        && let Some(at) = leaving.paid
    {
        plan.reasons.push(Reason::Paid(at));
        plan.look_by(at, now);
    }
    let before = plan.leave.len();
    plan.leave.extend(young.into_iter().chain(leaving.leave));
    if plan.leave.len() > before {
        memory.left = now;
    }
}

#[cfg(test)]
mod tests;
