//! What every part of a machine's life is made of: what is known beside the row, what is to be done, how it moves on.

use std::time::Duration;

use schemas::Micros;

use crate::{
    landlord::{Billed, Rules},
    row::{Absence, Life, Row},
};

/// After the first failed probe; it doubles up to the second.
pub(super) const PROBE_AGAIN: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// After the first failed ending call; it doubles up to the second. The machine is paid for meanwhile.
pub(super) const END_AGAIN: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// After an accepted ending call, before it is repeated for a machine that is still listed.
pub(super) const END_REPEAT: Duration = Duration::from_secs(60);
/// Failed ending calls before a person is told.
pub(super) const END_ALARM: u32 = 3;
/// Probes in a row that a server answers without a completion, before the machine counts as useless: a broken driver does not
/// heal, and a server that loads its model does not answer its health check yet.
pub(super) const USELESS_AFTER: u32 = 4;
/// Failed probes in a row before a machine that took jobs is left.
pub(super) const SICK_AFTER: u32 = 3;
/// Between probes of a machine that takes jobs, while nothing is said against it.
pub(super) const PROBE_READY: Duration = Duration::from_secs(60);
/// Whole lists without a machine whose end was accepted, before it is gone.
pub(super) const GONE_LISTS: u32 = 2;

/// What is known beside the row.
#[derive(Clone, Copy, Debug)]
pub struct Site {
    /// How the provider is dealt with.
    pub rules: Rules,
    /// How long jobs may go on when a machine drains.
    pub drain_limit: Duration,
    /// The time, by the keeper's clock.
    pub now: Micros,
}

/// What is to be done, once the row is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the order.
    Order,
    /// Send the ending call.
    End,
    /// Send the parking call.
    Park,
    /// Start a parked machine.
    Wake,
    /// Have the provider send nothing new there.
    Cordon,
    /// Probe the server at this address.
    Probe(String),
    /// The provider named a second machine for one order: it has a row of its own from now on, and is ended.
    Duplicate(String),
    /// Tell a person.
    Alarm(String),
    /// Order nothing of this type at this place for a while.
    Cool(String),
    /// Order nothing for this pool until a person has acted.
    Close(String),
}

/// Moves on.
pub(super) fn enter(row: &mut Row, life: Life, now: Micros) {
    if life.state() != row.life.state() {
        row.since_us = now;
    }
    if life == Life::Gone {
        row.meter.stop(now);
    }
    row.life = life;
}

/// The end begins: the call is due at once.
pub(super) fn stop(row: &mut Row, park: bool, site: &Site) -> Vec<Effect> {
    let life = Life::Stopping {
        park,
        failed: 0,
        not_before_us: site.now + END_REPEAT,
        accepted: false,
        absent: Absence::default(),
    };
    enter(row, life, site.now);
    vec![if park { Effect::Park } else { Effect::End }]
}

pub(super) fn starting(row: &mut Row, site: &Site) {
    let ready_by_us = row.ordered_us.unwrap_or(site.now) + site.rules.start_within;
    enter(row, Life::Starting { ready_by_us, absent: Absence::default() }, site.now);
    if site.rules.billed == Billed::FromOrder {
        row.meter.run(row.ordered_us.unwrap_or(site.now), row.specs.usd_per_hour);
    }
}

/// Doubles from the first pause up to the second.
pub(super) fn pause(failed: u32, (least, most): (Duration, Duration)) -> Duration {
    least.saturating_mul(1 << failed.saturating_sub(1).min(16)).min(most)
}
