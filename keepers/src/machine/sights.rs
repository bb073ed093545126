//! What lists mean.

use schemas::Micros;

use super::{
    calls,
    moves::{END_REPEAT, Effect, GONE_LISTS, Site, enter, stop},
};
use crate::{
    landlord::{Billed, Phase, Sighting},
    row::{Absence, Life, Row},
};

/// A list shows the machine.
pub(super) fn seen(row: &mut Row, sighting: Sighting, site: &Site) -> Vec<Effect> {
    let now = site.now;
    let Sighting { id, phase, told, notes, expires_at, .. } = sighting;
    row.seen_us = Some(now);
    row.id.get_or_insert(id);
    row.notes.extend(notes);
    row.expires_us = expires_at.or(row.expires_us);
    let accounted = told.is_some();
    if let Some(told) = told {
        row.meter.told(told.from, told.until, told.charged_usd, row.specs.usd_per_hour);
    }
    if let Some(absent) = absence(&mut row.life).filter(|_| phase != Phase::Gone) {
        *absent = Absence::default();
    }
    // Before anything else: an order whose answer never came has been carried out.
    let mut effects = match row.life {
        Life::Ordered { .. } | Life::Unknown { .. } | Life::Wanted { .. } => calls::begin(row, site),
        Life::Starting { .. }
        | Life::Probing { .. }
        | Life::Ready { .. }
        | Life::Draining { .. }
        | Life::Stopping { .. }
        | Life::Parked { .. }
        | Life::Lost { .. }
        | Life::Gone => Vec::new(),
    };
    meter(row, &phase, site);
    effects.extend(match phase {
        Phase::Starting => Vec::new(),
        Phase::Up(address) => up(row, address, site),
        Phase::Parked => parked(row, site),
        Phase::Ending => ending(row, site),
        Phase::Gone if accounted => accounted_end(row, now),
        Phase::Gone => {
            enter(row, Life::Gone, now);
            Vec::new()
        }
        Phase::Broken(because) => broken(row, because, site),
        Phase::Unknown(word) => {
            row.because = Some(format!("the provider says `{word}`, which is not a state we know"));
            Vec::new()
        }
    });
    effects
}

/// The provider says that the machine is gone and what it cost. The cost may have been read a moment before the end: the next list
/// tells the last of it.
fn accounted_end(row: &mut Row, now: Micros) -> Vec<Effect> {
    if !matches!(row.life, Life::Stopping { accepted: true, .. }) {
        let life = Life::Stopping {
            park: false,
            failed: 0,
            not_before_us: now + END_REPEAT,
            accepted: true,
            absent: Absence::default(),
        };
        enter(row, life, now);
    }
    if let Life::Stopping { absent, .. } = &mut row.life {
        *absent = absent.again(now);
        if absent.lists >= GONE_LISTS {
            enter(row, Life::Gone, now);
        }
    }
    Vec::new()
}

/// The meter follows what the provider shows.
fn meter(row: &mut Row, phase: &Phase, site: &Site) {
    let now = site.now;
    if row.life == Life::Gone {
        return;
    }
    let runs = match (phase, site.rules.billed) {
        (_, Billed::AsTold) | (Phase::Unknown(_), _) | (Phase::Starting, Billed::FromUp) => return,
        (Phase::Gone, _) | (Phase::Ending, Billed::FromUp) => false,
        (Phase::Parked, _) => {
            row.meter.run(now, row.specs.parked_usd_per_hour);
            return;
        }
        (Phase::Ending | Phase::Starting, Billed::FromOrder)
        | (Phase::Up(_) | Phase::Broken(_), Billed::FromUp | Billed::FromOrder) => true,
    };
    // A machine whose end was accepted is not billed again because a list lags.
    let over =
        matches!(row.life, Life::Stopping { accepted: true, .. }) && site.rules.billed == Billed::FromUp;
    if !runs || over {
        row.meter.stop(now);
    } else {
        row.meter.run(now, row.specs.usd_per_hour);
    }
}

fn up(row: &mut Row, address: String, site: &Site) -> Vec<Effect> {
    let now = site.now;
    let probing = |ready_by_us, address| Life::Probing {
        ready_by_us,
        address,
        not_before_us: now,
        failed: 0,
        useless: 0,
        absent: Absence::default(),
    };
    match &mut row.life {
        Life::Starting { ready_by_us, .. } => {
            let life = probing(*ready_by_us, address);
            enter(row, life, now);
        }
        Life::Probing { address: known, .. } => *known = address,
        Life::Ready { address: known, .. } if *known != address => {
            row.because = Some("its address changed".into());
            enter(row, probing(now + site.rules.start_within, address), now);
        }
        Life::Lost { .. } | Life::Parked { .. } => {
            row.because = Some("it shows again".into());
            enter(row, probing(now + site.rules.start_within, address), now);
        }
        Life::Gone => {
            row.because = Some("it was gone and shows again".into());
            let mut effects = stop(row, false, site);
            effects.push(Effect::Alarm("a machine that was gone shows again; it is ended".into()));
            return effects;
        }
        Life::Wanted { .. }
        | Life::Ordered { .. }
        | Life::Unknown { .. }
        | Life::Ready { .. }
        | Life::Draining { .. }
        | Life::Stopping { .. } => {}
    }
    Vec::new()
}

fn parked(row: &mut Row, site: &Site) -> Vec<Effect> {
    match &row.life {
        Life::Stopping { park: true, .. } => {
            enter(row, Life::Parked { absent: Absence::default() }, site.now);
            Vec::new()
        }
        Life::Probing { .. } | Life::Ready { .. } | Life::Draining { .. } => {
            row.because = Some("somebody else stopped it at the provider".into());
            enter(row, Life::Lost { absent: Absence::default() }, site.now);
            vec![Effect::Alarm("somebody else stopped a machine at the provider".into())]
        }
        // One that starts was woken a moment ago, and the list lags.
        Life::Wanted { .. }
        | Life::Ordered { .. }
        | Life::Unknown { .. }
        | Life::Starting { .. }
        | Life::Parked { .. }
        | Life::Stopping { .. }
        | Life::Gone
        | Life::Lost { .. } => Vec::new(),
    }
}

fn ending(row: &mut Row, site: &Site) -> Vec<Effect> {
    match &mut row.life {
        Life::Stopping { accepted, .. } => {
            *accepted = true;
            Vec::new()
        }
        Life::Gone => Vec::new(),
        Life::Wanted { .. }
        | Life::Ordered { .. }
        | Life::Unknown { .. }
        | Life::Starting { .. }
        | Life::Probing { .. }
        | Life::Ready { .. }
        | Life::Draining { .. }
        | Life::Parked { .. }
        | Life::Lost { .. } => {
            row.because = Some("somebody else is ending it at the provider".into());
            // Our own call makes sure of it.
            stop(row, false, site)
        }
    }
}

fn broken(row: &mut Row, because: String, site: &Site) -> Vec<Effect> {
    match &row.life {
        Life::Starting { .. } | Life::Probing { .. } | Life::Ready { .. } | Life::Parked { .. } => {
            row.because = Some(because);
            enter(row, Life::Lost { absent: Absence::default() }, site.now);
            Vec::new()
        }
        Life::Draining { .. } => {
            row.because = Some(because);
            stop(row, false, site)
        }
        Life::Lost { .. }
        | Life::Stopping { .. }
        | Life::Gone
        | Life::Wanted { .. }
        | Life::Ordered { .. }
        | Life::Unknown { .. } => Vec::new(),
    }
}

/// A whole list does not show the machine.
pub(super) fn not_seen(row: &mut Row, site: &Site) -> Vec<Effect> {
    let (now, rules) = (site.now, &site.rules);
    let Some(absent) = absence(&mut row.life) else { return Vec::new() };
    let now_absent = absent.again(now);
    *absent = now_absent;
    let sure = now_absent.is_sure(rules.looks, rules.looks_span, now);
    match &row.life {
        Life::Unknown { .. } if sure => {
            row.id = None;
            row.because = Some("the order was never carried out".into());
            enter(row, Life::Wanted { not_before_us: now, refused: 0 }, now);
            Vec::new()
        }
        // Lists lag behind orders.
        Life::Starting { .. } if now.since(row.since_us) < rules.looks_span => Vec::new(),
        Life::Starting { .. } | Life::Probing { .. } | Life::Ready { .. } | Life::Draining { .. } => {
            let draining = matches!(row.life, Life::Draining { .. });
            row.because = Some("a list does not show it".into());
            if draining && !sure {
                return Vec::new();
            }
            enter(row, Life::Lost { absent: now_absent }, now);
            Vec::new()
        }
        Life::Lost { .. } | Life::Parked { .. } if sure => {
            row.because = Some("lists do not show it any more".into());
            let seen = row.seen_us;
            let mut effects = stop(row, false, site);
            // What nobody saw running is not ours to pay; a list that shows it again starts the meter again.
            row.meter.stop(seen.unwrap_or(now));
            effects.push(Effect::Alarm("a machine vanished from the provider's lists".into()));
            effects
        }
        Life::Stopping { accepted: true, .. } if now_absent.lists >= GONE_LISTS => {
            let seen = row.seen_us;
            if site.rules.billed == Billed::FromOrder {
                row.meter.stop(seen.unwrap_or(now));
            }
            enter(row, Life::Gone, now);
            Vec::new()
        }
        // Its ending call was never answered, and many lists agree that there is nothing to end.
        Life::Stopping { .. } if sure && now_absent.lists >= 2 * rules.looks => {
            row.meter.stop(row.seen_us.unwrap_or(now));
            enter(row, Life::Gone, now);
            Vec::new()
        }
        Life::Unknown { .. }
        | Life::Lost { .. }
        | Life::Stopping { .. }
        | Life::Wanted { .. }
        | Life::Ordered { .. }
        | Life::Parked { .. }
        | Life::Gone => Vec::new(),
    }
}

/// Where a state counts lists that do not show the machine.
fn absence(life: &mut Life) -> Option<&mut Absence> {
    match life {
        Life::Unknown { absent }
        | Life::Starting { absent, .. }
        | Life::Probing { absent, .. }
        | Life::Ready { absent, .. }
        | Life::Draining { absent, .. }
        | Life::Stopping { absent, .. }
        | Life::Parked { absent }
        | Life::Lost { absent } => Some(absent),
        Life::Wanted { .. } | Life::Ordered { .. } | Life::Gone => None,
    }
}
