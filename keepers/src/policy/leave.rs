//! Which machines leave, and when: those that cost nothing yet first, and nobody in the middle of time that is paid.

use std::{cmp::Reverse, time::Duration};

use schemas::{MachineId, Micros, UsdNanos, machine::MachineState};

use super::{
    rules::Policy,
    seen::{Seen, Standing, Wish},
    starts::{Boots, Starts},
};

/// Units of a bill below this are not waited for.
const UNIT_MIN: Duration = Duration::from_secs(120);
/// A look comes each ten seconds, so the moment at which a machine should leave is so wide.
const WIDE: Duration = Duration::from_secs(15);

/// A machine that leaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leave {
    /// Which.
    pub machine: MachineId,
    /// How.
    pub how: How,
    /// Why.
    pub why: LeaveWhy,
}

/// How a machine leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// It was not asked for yet: nothing is to be done but to forget it.
    Forget,
    /// It gets no new jobs; what runs may end.
    Drain,
    /// It is ended.
    End,
    /// It is stopped and kept.
    Park,
}

/// Why a machine leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveWhy {
    /// Fewer are enough.
    Fewer,
    /// It is replaced, and its successor works.
    Replaced,
    /// The operator asked for it.
    Asked,
    /// It took too long to start.
    NeverStarted,
    /// It is drained.
    Drained,
    /// It is not drained, and was to be by now.
    DrainLimit,
    /// It was kept for later for so long that a start would have been cheaper.
    ParkedLong,
}

/// What leaves, and when another one may.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Leaving {
    pub(super) leave: Vec<Leave>,
    /// Whoever would be next works on until then: that time is paid.
    pub(super) paid: Option<Micros>,
}

/// What leaves whatever is wanted: what is drained, what never starts, what was parked for too long, what the operator sends away.
pub(super) fn anyhow(
    seen: &Seen,
    policy: &Policy,
    starts: &mut Starts,
    boots: &Boots<'_>,
    now: Micros,
) -> Vec<Leave> {
    let mut leave = Vec::new();
    let keeps = seen.parks && policy.park;
    let boot = |machine: &Standing| boots.at(&machine.sku, &machine.place);
    let mut failed = Vec::new();
    for machine in &seen.machines {
        let (how, why) = match machine.state {
            MachineState::Draining => {
                let limit = seen.wish != Wish::Drain && now.since(machine.since) >= policy.drain_limit;
                let why = match machine.jobs(now) {
                    Some(0) => LeaveWhy::Drained,
                    _ if limit => LeaveWhy::DrainLimit,
                    // It works, or nobody knows.
                    Some(_) | None => continue,
                };
                let kept = keeps && !machine.replace && !machine.unwanted;
                (if kept { How::Park } else { How::End }, why)
            }
            MachineState::Ordered | MachineState::Starting | MachineState::Probing => {
                if machine.unwanted {
                    (How::End, LeaveWhy::Asked)
                } else if now.since(machine.ordered_at) >= boot(machine).give_up() {
                    failed.push((machine.sku.clone(), machine.place.clone()));
                    (How::End, LeaveWhy::NeverStarted)
                } else {
                    continue;
                }
            }
            MachineState::Parked => {
                let stored = machine.parked_usd_per_hour.for_hours(now.since(machine.since));
                let started = machine.usd_per_hour.for_hours(boot(machine).p50);
                let dear = machine.parked_usd_per_hour > UsdNanos::ZERO && stored >= started;
                if machine.unwanted || machine.replace {
                    (How::End, LeaveWhy::Asked)
                } else if dear {
                    (How::End, LeaveWhy::ParkedLong)
                } else {
                    continue;
                }
            }
            MachineState::Wanted if machine.unwanted => (How::Forget, LeaveWhy::Asked),
            MachineState::Ready if machine.unwanted => (How::Drain, LeaveWhy::Asked),
            MachineState::Wanted
            | MachineState::Ready
            | MachineState::Stopping
            | MachineState::Lost
            | MachineState::Gone => continue,
        };
        leave.push(Leave { machine: machine.machine.clone(), how, why });
    }
    for (sku, place) in failed {
        starts.failed(&sku, &place, now);
    }
    leave
}

/// Sends `count` machines away that were asked for and do not work yet, the youngest first.
pub(super) fn unconfirmed<'a>(
    serving: impl Iterator<Item = &'a Standing>,
    count: usize,
    why: LeaveWhy,
) -> Vec<Leave> {
    let mut young: Vec<&Standing> = serving.filter(|machine| !machine.is_ready()).collect();
    young.sort_by_key(|machine| (machine.state, Reverse(machine.ordered_at)));
    let how = |machine: &Standing| {
        if machine.state == MachineState::Wanted { How::Forget } else { How::End }
    };
    let leave = young.into_iter().take(count);
    leave.map(|machine| Leave { machine: machine.machine.clone(), how: how(machine), why }).collect()
}

/// Drains `count` machines that work: first those without jobs, then those with the fewest cached tokens, the nearest end of paid
/// time, the dearest. One whose time is paid works on until a stop, and its jobs, just fit before the end of that.
pub(super) fn drain<'a>(
    ready: impl Iterator<Item = &'a Standing>,
    count: usize,
    why: LeaveWhy,
    job_p95: Duration,
    unit: Duration,
    policy: &Policy,
    now: Micros,
) -> Leaving {
    let mut leaving = Leaving::default();
    let mut open = Vec::new();
    for machine in ready {
        let jobs = machine.jobs(now).unwrap_or(0);
        let rest = if jobs > 0 { job_p95 } else { Duration::ZERO };
        let paid = machine.paid_until.filter(|until| unit >= UNIT_MIN && *until > now);
        // Without a unit, or past its end, now is as good as later.
        let from = paid.map(|until| until - policy.stop_p95 - rest - WIDE);
        // Missed: the next unit is paid in any case.
        let missed = paid.filter(|until| now + policy.stop_p95 > *until);
        match (from, missed) {
            (_, Some(until)) => note(&mut leaving.paid, until + unit - policy.stop_p95 - rest - WIDE),
            (Some(from), None) if from > now => note(&mut leaving.paid, from),
            (Some(_) | None, None) => {
                let boundary = machine.paid_until.unwrap_or_default();
                let price = Reverse(machine.usd_per_hour);
                open.push(((jobs > 0, machine.cached_tokens, boundary, price), machine));
            }
        }
    }
    open.sort_by_key(|(order, _)| *order);
    let leave = open.into_iter().take(count);
    leaving.leave =
        leave.map(|(_, machine)| Leave { machine: machine.machine.clone(), how: How::Drain, why }).collect();
    leaving
}

fn note(soonest: &mut Option<Micros>, at: Micros) {
    *soonest = Some(soonest.map_or(at, |before| before.min(at)));
}
