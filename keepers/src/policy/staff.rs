//! Who stands, and what the next machine would be.

use std::collections::HashSet;

use schemas::{MachineId, Micros, UsdNanos};

use super::{
    leave::Leave,
    seen::{Seen, Standing},
    shop,
    starts::{Boot, Boots, Starts},
};

/// The machine that would be ordered next.
pub(super) struct Unit {
    pub(super) slots: u32,
    pub(super) usd_per_hour: UsdNanos,
    pub(super) boot: Boot,
}

impl Unit {
    /// The best that is offered, else what stands.
    pub(super) fn of(seen: &Seen, starts: &Starts, boots: &Boots<'_>, now: Micros) -> Self {
        let best = shop::best(seen, starts, now).first().copied().or_else(|| seen.offers.first());
        let offered = best.map(|offer| (offer.slots, offer.usd_per_hour, boots.at(&offer.sku, &offer.place)));
        let stands = || {
            let machine = seen.machines.iter().max_by_key(|machine| machine.usd_per_hour)?;
            Some((machine.slots, machine.usd_per_hour, boots.at(&machine.sku, &machine.place)))
        };
        let (slots, usd_per_hour, boot) =
            offered.or_else(stands).unwrap_or((1, UsdNanos::ZERO, boots.at("", "")));
        Self { slots: slots.max(1), usd_per_hour, boot }
    }
}

/// Machines that work or will, but for those that leave in this plan anyhow.
pub(super) struct Staff<'a> {
    /// Those that stay.
    pub(super) own: Vec<&'a Standing>,
    /// Those that are to be replaced.
    pub(super) old: Vec<&'a Standing>,
    /// How many levels of the work they make: a machine and its successor share one.
    pub(super) levels: u32,
    /// How many of these have a machine that works.
    pub(super) ready: u32,
}

impl<'a> Staff<'a> {
    /// `want` is what the last plan wanted: beyond that, who stands beside a machine that is to be replaced is its successor.
    pub(super) fn of(seen: &'a Seen, leave: &[Leave], want: Option<u32>) -> Self {
        let gone: HashSet<&MachineId> = leave.iter().map(|leave| &leave.machine).collect();
        let serving = seen.machines.iter().filter(|m| m.is_serving() && !gone.contains(&m.machine));
        let (old, own): (Vec<_>, Vec<_>) = serving.partition(|machine| machine.replace);
        let all = len(own.len() + old.len());
        let levels = all.min(len(own.len()).max(want.unwrap_or(all)));
        let works = own.iter().chain(&old).filter(|machine| machine.is_ready()).count();
        Self { own, old, levels, ready: len(works).min(levels) }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &'a Standing> {
        self.own.iter().chain(&self.old).copied()
    }

    pub(super) fn have(&self) -> u32 {
        len(self.own.len())
    }
}

pub(super) fn len(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
