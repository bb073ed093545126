//! What is needed, what of it is worth its rent, and why.

use std::time::Duration;

use schemas::{Micros, UsdNanos, machine::MachineState};

use super::{
    levels::Measure,
    memory::Memory,
    need::{self, Due, Supply},
    reason::Reason,
    rules::Policy,
    seen::{Seen, Standing},
    staff::{Staff, Unit},
    starts::Boots,
};
use crate::demand::Load;

/// What is needed, each by itself.
pub(super) struct Needs {
    /// For what arrives, to order and to keep.
    pub(super) flow: (u32, u32),
    pub(super) due: Due,
    pub(super) backfill: Due,
    /// Machines for the backfill, if renting them is right.
    pub(super) backfills: u32,
    /// Jobs a second.
    pub(super) rate: f64,
}

/// How many jobs run and wait beyond what cheaper pools take, in thousandths. Backfills count where they run.
pub(super) fn busy(seen: &Seen, load: &Load, now: Micros) -> u64 {
    let reported: u64 = seen.machines.iter().filter_map(|machine| machine.jobs(now)).map(u64::from).sum();
    let waiting: u64 = load.waiting.iter().map(|waiting| waiting.jobs).sum();
    let jobs = load.running.max(reported).saturating_add(waiting);
    jobs.saturating_sub(u64::from(seen.ahead_slots)).saturating_mul(1_000)
}

#[expect(clippy::too_many_arguments, reason = "all that a need is computed from")]
pub(super) fn needs(
    seen: &Seen,
    policy: &Policy,
    memory: &Memory,
    staff: &Staff<'_>,
    boots: &Boots<'_>,
    unit: &Unit,
    load: &Load,
    now: Micros,
) -> Needs {
    // Nobody speaks: the rates of the past say nothing.
    let (up, down) = seen.load.as_ref().map_or((0.0, 0.0), |_| (memory.rates.up(), memory.rates.down()));
    let (mean, z) = (load.service.mean, memory.rates.risk());
    let flow = |rate| need::flow(rate, mean, z, seen.ahead_slots, unit.slots);
    let from = |machine: &Standing| {
        if machine.is_ready() {
            return now;
        }
        let ordered = if machine.state == MachineState::Wanted { now } else { machine.ordered_at };
        now.max(ordered + boots.at(&machine.sku, &machine.place).p90)
    };
    let mut standing: Vec<(Micros, u32)> =
        staff.all().map(|machine| (from(machine), machine.slots)).collect();
    standing.sort_unstable();
    let free = seen.serverless.map_or(0, |serverless| serverless.free_slots);
    let supply = Supply {
        standing,
        elsewhere: f64::from(free) + f64::from(seen.ahead_slots),
        taken: 0.0,
        new_from: now + unit.boot.p95,
        slots: unit.slots,
        patience: policy.patience,
    };
    let due = need::due(&load.waiting, &supply, now);
    // A backfill gets what the others leave, and nothing that costs by use unless that is cheaper.
    let taken = up * mean.as_secs_f64();
    let supply = Supply { elsewhere: f64::from(seen.ahead_slots), taken, ..supply };
    let backfill = need::due(&load.backfill, &supply, now);
    let any = u32::from(backfill.each.iter().any(|need| need.jobs > 0 && !need.late));
    let machines = backfill.dated().max(any);
    let backfills = if is_cheaper(seen, load, unit, machines) { machines } else { 0 };
    Needs { flow: (flow(up), flow(down)), due, backfill, backfills, rate: up }
}

/// Whether a backfill costs less on so many machines than at serverless pools.
fn is_cheaper(seen: &Seen, load: &Load, unit: &Unit, machines: u32) -> bool {
    let Some(serverless) = seen.serverless else { return true };
    let slot_us = load.backfill.iter().fold(0u64, |sum, waiting| sum.saturating_add(waiting.slot_us));
    let elsewhere = serverless.usd_per_second.for_seconds(Duration::from_micros(slot_us));
    let works = Duration::from_micros(slot_us / u64::from(unit.slots));
    let rent = unit.usd_per_hour.for_hours(works + (unit.boot.p50 + seen.minimum).saturating_mul(machines));
    // What is beyond all amounts is no price.
    rent.is_some_and(|rent| elsewhere.is_none_or(|elsewhere| rent <= elsewhere))
}

/// How many machines are needed or still worth their rent, and why.
#[expect(clippy::too_many_arguments, reason = "all that is weighed")]
pub(super) fn needed(
    seen: &Seen,
    memory: &Memory,
    staff: &Staff<'_>,
    measure: &Measure,
    needs: &Needs,
    load: &Load,
    busy: u64,
    reasons: &mut Vec<Reason>,
) -> u32 {
    let (flow_up, flow_down) = needs.flow;
    let (dated, undated) = (needs.due.dated(), needs.due.undated());
    let candidates = flow_up.max(undated);
    let worth = (0..candidates).rev().find(|k| memory.levels.is_worth(*k as usize, measure));
    let worth = worth.map_or(0, |k| k + 1);
    let up = dated.max(needs.backfills).max(worth);
    // Machines that work stay until they were idle for as long as a start costs. Those that do not work yet stay while they are needed.
    let quiet = memory.levels.is_idle(0, measure);
    let keep = flow_up.max(flow_down).max(undated).max(dated).max(needs.backfills);
    let stays = |k: u32| {
        if k >= staff.ready {
            return k < keep;
        }
        let flows = seen.serverless.is_none() && !quiet && k < flow_down;
        flows || !memory.levels.is_idle(k as usize, measure)
    };
    let kept = (0..staff.levels).rev().find(|k| stays(*k)).map_or(0, |k| k + 1);

    if dated > 0
        && let Some(tightest) = needs.due.tightest()
        && let Some(by) = tightest.by
    {
        reasons.push(Reason::Due(tightest.jobs, by, dated));
    }
    if undated > dated && worth > dated {
        let jobs = load.waiting.iter().filter(|waiting| waiting.by.is_none()).map(|w| w.jobs).sum();
        reasons.push(Reason::Waiting(jobs, undated.min(worth)));
    }
    if flow_up > 0 && worth > 0 {
        reasons.push(Reason::Flow(whole(needs.rate * 3_600.0), flow_up.min(worth)));
    }
    if needs.backfills > 0 {
        let jobs = load.backfill.iter().map(|waiting| waiting.jobs).sum();
        let by = needs.backfill.tightest().and_then(|need| need.by);
        reasons.push(Reason::Backfill(jobs, by, needs.backfills));
    }
    if kept > up {
        reasons.push(Reason::Kept(kept - up));
    }
    let elsewhere = |k: u32| measure.serverless_per_hour(busy, k as usize);
    if worth > 0
        && let Some(elsewhere) = elsewhere(worth - 1).filter(|elsewhere| *elsewhere > measure.usd_per_hour)
    {
        reasons.push(Reason::Rented { rent: measure.usd_per_hour, elsewhere });
    }
    let next = up.max(kept);
    if candidates > next
        && let Some(elsewhere) = elsewhere(next).filter(|usd| next == 0 || *usd > UsdNanos::ZERO)
    {
        let (lost, until) = memory.levels.lost(next as usize, measure);
        reasons.push(Reason::Serverless { rent: measure.usd_per_hour, elsewhere, lost, until });
    }
    up.max(kept)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is not negative")]
fn whole(number: f64) -> u64 {
    number.round() as u64
}
