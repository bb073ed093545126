//! What the operator and the configuration make of a need.

use std::time::Duration;

use schemas::Micros;

use super::{
    rules::Policy,
    seen::{Seen, Wish},
    windows::{self, Bounds},
};

/// So many of `needed` machines there are to be, when one that is ordered now takes `boot` to start.
pub(super) fn bounded(seen: &Seen, policy: &Policy, boot: Duration, needed: u32, now: Micros) -> u32 {
    let Bounds { floor, ceiling } = windows::bounds(&policy.windows, policy.bounds, now, boot);
    let want = match seen.wish {
        Wish::None => needed.max(floor).min(ceiling.max(floor)),
        Wish::Start => needed.max(floor.max(1)).min(ceiling.max(floor).max(1)),
        Wish::Scale(machines) => machines,
        Wish::Stop | Wish::Drain => 0,
    };
    want.min(policy.machines_max)
}
