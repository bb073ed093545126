//! What the answers to control calls mean.

use std::time::Duration;

use schemas::Micros;

use super::moves::{END_AGAIN, END_ALARM, END_REPEAT, Effect, Site, enter, pause, starting, stop};
use crate::{
    landlord::{Billed, CallError, Ending, Ordered},
    row::{Absence, Life, Row},
};

/// Before an order that was refused for a while is sent again; it doubles up to the second.
const ORDER_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// The order's answer.
pub(super) fn answered(row: &mut Row, answer: Result<Ordered, CallError>, site: &Site) -> Vec<Effect> {
    match answer {
        Ok(Ordered { id, notes }) => {
            row.notes.extend(notes);
            if row.id.as_ref().is_some_and(|known| *known != id) {
                return vec![Effect::Duplicate(id)];
            }
            row.id = Some(id);
            match row.life {
                // Ordered by this call, or believed never to have been made.
                Life::Ordered { .. } | Life::Unknown { .. } | Life::Wanted { .. } | Life::Gone => {
                    begin(row, site)
                }
                Life::Starting { .. }
                | Life::Probing { .. }
                | Life::Ready { .. }
                | Life::Draining { .. }
                | Life::Stopping { .. }
                | Life::Parked { .. }
                | Life::Lost { .. } => Vec::new(),
            }
        }
        Err(error) => match row.life {
            Life::Ordered { refused } => refuse(row, refused, error, site),
            Life::Wanted { .. }
            | Life::Unknown { .. }
            | Life::Starting { .. }
            | Life::Probing { .. }
            | Life::Ready { .. }
            | Life::Draining { .. }
            | Life::Stopping { .. }
            | Life::Parked { .. }
            | Life::Lost { .. }
            | Life::Gone => Vec::new(),
        },
    }
}

/// It exists: it starts, or is ended at once when nobody wants it any more.
pub(super) fn begin(row: &mut Row, site: &Site) -> Vec<Effect> {
    starting(row, site);
    match row.doomed.clone() {
        Some(because) => {
            row.because = Some(because);
            stop(row, false, site)
        }
        None => Vec::new(),
    }
}

fn refuse(row: &mut Row, refused: u32, error: CallError, site: &Site) -> Vec<Effect> {
    let now = site.now;
    row.because = Some(error.to_string());
    // A landlord whose order takes several calls may have made something before it was refused.
    let made = row.id.is_some();
    match error {
        CallError::Unclear(_) => {
            enter(row, Life::Unknown { absent: Absence::default() }, now);
            Vec::new()
        }
        CallError::RateLimited(_, after) => again(row, refused, after, now),
        CallError::Unreachable(_) => again(row, refused, None, now),
        CallError::Capacity(text) => give_up(row, made, Effect::Cool(text), site),
        CallError::Price { .. } => give_up(row, made, Effect::Cool(error.to_string()), site),
        CallError::Authentication(_) | CallError::Misconfigured(_) => {
            give_up(row, made, Effect::Close(error.told()), site)
        }
    }
}

/// Nothing was done; the order is sent again after a pause.
fn again(row: &mut Row, refused: u32, after: Option<Duration>, now: Micros) -> Vec<Effect> {
    let refused = refused.saturating_add(1);
    let wait = after.unwrap_or_default().max(pause(refused, ORDER_AGAIN));
    enter(row, Life::Wanted { not_before_us: now + wait, refused }, now);
    Vec::new()
}

/// This order will not be filled. What was made of it is ended.
fn give_up(row: &mut Row, made: bool, tell: Effect, site: &Site) -> Vec<Effect> {
    let mut effects = if made {
        stop(row, false, site)
    } else {
        enter(row, Life::Gone, site.now);
        Vec::new()
    };
    effects.push(tell);
    effects
}

/// The ending call's answer.
pub(super) fn ended(row: &mut Row, answer: Result<Ending, CallError>, site: &Site) -> Vec<Effect> {
    let now = site.now;
    let Life::Stopping { failed, not_before_us, accepted, .. } = &mut row.life else { return Vec::new() };
    match answer {
        // Where the provider tells the cost, it tells the last of it in a list after the end.
        Ok(Ending::Gone) if site.rules.billed != Billed::AsTold => {
            enter(row, Life::Gone, now);
            Vec::new()
        }
        Ok(Ending::Accepted | Ending::Gone) => {
            (*failed, *not_before_us) = (0, now + END_REPEAT);
            let first = !std::mem::replace(accepted, true);
            // Providers that bill until the end is asked for stop here; the others bill until it is seen.
            if first && site.rules.billed == Billed::FromUp {
                row.meter.stop(now);
            }
            Vec::new()
        }
        Ok(Ending::NotNow) => {
            // By the next list the provider may have got on with it.
            *not_before_us = now + site.rules.list_every;
            Vec::new()
        }
        Err(error) => failed_to_end(row, &error, site),
    }
}

fn failed_to_end(row: &mut Row, error: &CallError, site: &Site) -> Vec<Effect> {
    let Life::Stopping { failed, not_before_us, park, .. } = &mut row.life else { return Vec::new() };
    *failed = failed.saturating_add(1);
    let told = match error {
        CallError::RateLimited(_, after) => *after,
        CallError::Capacity(_)
        | CallError::Price { .. }
        | CallError::Authentication(_)
        | CallError::Misconfigured(_)
        | CallError::Unreachable(_)
        | CallError::Unclear(_) => None,
    };
    *not_before_us = site.now + told.unwrap_or_default().max(pause(*failed, END_AGAIN));
    let verb = if *park { "parked" } else { "ended" };
    let alarm = *failed == END_ALARM || (*failed == 1 && error.needs_a_person());
    row.because = Some(format!("cannot be {verb}: {error}"));
    if alarm {
        vec![Effect::Alarm(format!(
            "a machine cannot be {verb} and goes on costing; it is tried again: {error}"
        ))]
    } else {
        Vec::new()
    }
}

/// The parking call's answer. That the machine is parked is to be seen yet.
pub(super) fn parked(row: &mut Row, answer: Result<(), CallError>, site: &Site) -> Vec<Effect> {
    match answer {
        Ok(()) => ended(row, Ok(Ending::Accepted), site),
        Err(CallError::Misconfigured(text)) => {
            // It cannot be parked as it is: better ended than paid for.
            row.because = Some(format!("cannot be parked: {text}"));
            stop(row, false, site)
        }
        Err(error) => failed_to_end(row, &error, site),
    }
}

/// The waking call's answer.
pub(super) fn woken(row: &mut Row, answer: Result<(), CallError>, site: &Site) -> Vec<Effect> {
    let Life::Starting { .. } = row.life else { return Vec::new() };
    match answer {
        // Carried out or not, lists tell: a machine that still shows as parked is parked again.
        Ok(()) | Err(CallError::Unclear(_)) => Vec::new(),
        Err(error) => {
            row.because = Some(format!("cannot be started again: {error}"));
            enter(row, Life::Parked { absent: Absence::default() }, site.now);
            row.meter.run(site.now, row.specs.parked_usd_per_hour);
            let tell = match error {
                CallError::Authentication(_) | CallError::Misconfigured(_) => Effect::Close(error.told()),
                CallError::RateLimited(..)
                | CallError::Capacity(_)
                | CallError::Price { .. }
                | CallError::Unreachable(_)
                | CallError::Unclear(_) => Effect::Cool(error.to_string()),
            };
            vec![tell]
        }
    }
}
