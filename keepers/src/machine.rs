//! The life of one rented machine: `apply(event) -> effects`, the same for every provider. Pure: no clock, no I/O.
//!
//! ```text
//!  wanted ─▶ ordered ─▶ starting ─▶ probing ─▶ ready ─▶ draining ─▶ stopping ─▶ gone
//!    ▲          │ no clear answer      ▲  │                           ▲   │
//!    └─ absent ─┘ for long             │  ▼                           │   ▼
//!                                      lost ─────────────────────────▶┘  parked ─▶ starting
//! ```
//!
//! The rules (they hold for any order of events):
//!
//! 1. Whoever carries an effect stores the row first. So every call has its intent written before it and its fact after it.
//! 2. `gone` needs the provider's explicit, final word, or two whole lists without the machine after its end was accepted. A
//!    refused, limited or broken-off call is no observation.
//! 3. `draining` and `stopping` never lead back to `ready`.
//! 4. `lost` leads to `probing` or `stopping`, never straight to `gone`.
//! 5. An order without a clear answer is looked for in lists; it is ordered again only when enough of them, over enough time,
//!    did not show it.
//! 6. An ending call is repeated, with growing pauses and an alarm, until the machine is gone.

mod calls;
mod moves;
mod sights;
#[cfg(test)]
mod tests;

use schemas::Micros;

use self::moves::{
    END_ALARM, END_REPEAT, PROBE_AGAIN, PROBE_READY, SICK_AFTER, USELESS_AFTER, enter, pause, starting, stop,
};
pub use self::moves::{Effect, Site};
use crate::{
    landlord::{CallError, Ending, Ordered, Parking, Rules, Sighting},
    probe::ProbeError,
    row::{Absence, Life, Row},
};

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Another keeper, or this one before a restart, wrote the row; no call of it is under way here.
    TakenOver,
    /// Time has passed and no call about this machine is under way.
    Tick,
    /// The order was answered.
    Answered(Result<Ordered, CallError>),
    /// The landlord noted something in the middle of a call.
    Noted(String, String),
    /// The landlord learnt the provider's id in the middle of a call.
    Identified(String),
    /// A list shows it.
    Seen(Box<Sighting>),
    /// A whole list does not show it.
    NotSeen,
    /// A probe ended.
    Probed(Result<(), ProbeError>),
    /// Workers say that it serves nobody: probe it now.
    Suspect(String),
    /// It is not wanted any more. `park`: it may be wanted again.
    Unwanted {
        /// Why.
        because: String,
        /// Whether it is to be parked where the provider can.
        park: bool,
    },
    /// Nothing runs on it, and no worker will hand it anything.
    Drained,
    /// It is parked and wanted again.
    Wake(String),
    /// The waking call was answered.
    Woken(Result<(), CallError>),
    /// The ending call was answered.
    Ended(Result<Ending, CallError>),
    /// The parking call was answered.
    ParkAnswered(Result<(), CallError>),
}

impl Event {
    /// Why a control call did not do what was asked, if this is the answer of one that did not.
    pub fn refusal(&self) -> Option<&CallError> {
        match self {
            Self::Answered(answer) => answer.as_ref().err(),
            Self::Ended(answer) => answer.as_ref().err(),
            Self::ParkAnswered(answer) | Self::Woken(answer) => answer.as_ref().err(),
            Self::TakenOver
            | Self::Tick
            | Self::Noted(..)
            | Self::Identified(_)
            | Self::Seen(_)
            | Self::NotSeen
            | Self::Probed(_)
            | Self::Suspect(_)
            | Self::Unwanted { .. }
            | Self::Drained
            | Self::Wake(_) => None,
        }
    }
}

/// Applies an event. The row has changed if it differs from before; it is stored before the effects are carried out.
pub fn apply(row: &mut Row, event: Event, site: &Site) -> Vec<Effect> {
    match event {
        Event::TakenOver => taken_over(row, site),
        Event::Tick => tick(row, site),
        Event::Answered(answer) => calls::answered(row, answer, site),
        Event::Noted(name, value) => {
            row.notes.insert(name, value);
            Vec::new()
        }
        Event::Identified(id) => {
            row.id.get_or_insert(id);
            Vec::new()
        }
        Event::Seen(sighting) => sights::seen(row, *sighting, site),
        Event::NotSeen => sights::not_seen(row, site),
        Event::Probed(outcome) => probed(row, outcome, site),
        Event::Suspect(because) => suspect(row, because, site),
        Event::Unwanted { because, park } => unwanted(row, because, park, site),
        Event::Drained => match row.life {
            Life::Draining { park, .. } => stop(row, park, site),
            _ => Vec::new(),
        },
        Event::Wake(because) => match row.life {
            Life::Parked { .. } => {
                row.because = Some(because);
                (row.ordered_us, row.ready_us) = (Some(site.now), None);
                starting(row, site);
                vec![Effect::Wake]
            }
            _ => Vec::new(),
        },
        Event::Woken(answer) => calls::woken(row, answer, site),
        Event::Ended(answer) => calls::ended(row, answer, site),
        Event::ParkAnswered(answer) => calls::parked(row, answer, site),
    }
}

/// When [`Event::Tick`] has something to do; `None` when only news moves the machine.
pub fn due_at(row: &Row, rules: &Rules) -> Option<Micros> {
    match &row.life {
        Life::Starting { ready_by_us, .. } => Some(*ready_by_us),
        Life::Probing { not_before_us, ready_by_us, .. } => Some((*not_before_us).min(*ready_by_us)),
        Life::Wanted { not_before_us, .. }
        | Life::Ready { not_before_us, .. }
        | Life::Stopping { not_before_us, .. } => Some(*not_before_us),
        Life::Draining { until_us, .. } => Some(*until_us),
        Life::Lost { .. } => Some(row.since_us + rules.broken_for),
        Life::Ordered { .. } | Life::Unknown { .. } | Life::Parked { .. } | Life::Gone => None,
    }
}

/// Whether a machine's end failed so often that a person should know.
pub fn is_stuck(life: &Life) -> bool {
    matches!(life, Life::Stopping { failed, .. } if *failed >= END_ALARM)
}

fn taken_over(row: &mut Row, site: &Site) -> Vec<Effect> {
    let now = site.now;
    match &mut row.life {
        // Nobody here waits for the answer.
        Life::Ordered { .. } => enter(row, Life::Unknown { absent: Absence::default() }, now),
        Life::Probing { not_before_us, absent, .. } | Life::Ready { not_before_us, absent, .. } => {
            (*not_before_us, *absent) = (now, Absence::default());
        }
        Life::Stopping { not_before_us, absent, .. } => (*not_before_us, *absent) = (now, Absence::default()),
        Life::Unknown { absent }
        | Life::Starting { absent, .. }
        | Life::Draining { absent, .. }
        | Life::Parked { absent }
        | Life::Lost { absent } => *absent = Absence::default(),
        Life::Wanted { .. } | Life::Gone => {}
    }
    Vec::new()
}

fn tick(row: &mut Row, site: &Site) -> Vec<Effect> {
    let now = site.now;
    if due_at(row, &site.rules).is_none_or(|at| now < at) {
        return Vec::new();
    }
    match &mut row.life {
        Life::Wanted { refused, .. } => {
            let refused = *refused;
            if let Some(because) = row.doomed.clone() {
                row.because = Some(because);
                enter(row, Life::Gone, now);
                return Vec::new();
            }
            row.ordered_us = Some(now);
            enter(row, Life::Ordered { refused }, now);
            vec![Effect::Order]
        }
        Life::Starting { .. } => {
            row.because = Some(format!("not up within {} s", site.rules.start_within.as_secs()));
            let mut effects = stop(row, false, site);
            effects.push(Effect::Cool("starts take too long".into()));
            effects
        }
        Life::Probing { ready_by_us, address, not_before_us, .. } => {
            if *ready_by_us <= now {
                let why = row.because.take().unwrap_or_default();
                row.because =
                    Some(format!("not ready within {} s: {why}", site.rules.start_within.as_secs()));
                let mut effects = stop(row, false, site);
                effects.push(Effect::Cool("starts take too long".into()));
                return effects;
            }
            // The answer sets the time of the next one; this is for an answer that never comes.
            *not_before_us = now + site.rules.start_within;
            vec![Effect::Probe(address.clone())]
        }
        Life::Ready { address, not_before_us, .. } => {
            *not_before_us = now + PROBE_READY;
            vec![Effect::Probe(address.clone())]
        }
        Life::Draining { park, .. } => {
            let park = *park;
            stop(row, park, site)
        }
        Life::Stopping { park, not_before_us, .. } => {
            *not_before_us = now + END_REPEAT;
            vec![if *park { Effect::Park } else { Effect::End }]
        }
        Life::Lost { .. } => {
            let mut effects = stop(row, false, site);
            let because = row.because.clone().unwrap_or_default();
            effects.push(Effect::Alarm(format!("a lost machine is ended: {because}")));
            effects
        }
        Life::Ordered { .. } | Life::Unknown { .. } | Life::Parked { .. } | Life::Gone => Vec::new(),
    }
}

fn probed(row: &mut Row, outcome: Result<(), ProbeError>, site: &Site) -> Vec<Effect> {
    let now = site.now;
    match (&mut row.life, outcome) {
        (Life::Probing { address, absent, .. }, Ok(())) => {
            let address = std::mem::take(address);
            let absent = *absent;
            row.because = None;
            row.ready_us.get_or_insert(now);
            enter(row, Life::Ready { address, failed: 0, not_before_us: now + PROBE_READY, absent }, now);
            match row.doomed.clone() {
                Some(because) => unwanted(row, because, false, site),
                None => Vec::new(),
            }
        }
        (Life::Probing { failed, useless, not_before_us, .. }, Err(error)) => {
            *failed = failed.saturating_add(1);
            *useless = if error.is_useless() { useless.saturating_add(1) } else { 0 };
            *not_before_us = now + pause(*failed, PROBE_AGAIN);
            let foreign = matches!(error, ProbeError::Foreign(_));
            let given_up = *useless >= USELESS_AFTER;
            row.because = Some(error.to_string());
            if foreign {
                enter(row, Life::Lost { absent: Absence::default() }, now);
                return vec![Effect::Alarm(format!("another machine answers at its address: {error}"))];
            }
            if !given_up {
                return Vec::new();
            }
            let mut effects = stop(row, false, site);
            effects.push(Effect::Cool(format!("a machine came up useless: {error}")));
            effects.push(Effect::Alarm(format!("a machine is up and useless, so it is ended: {error}")));
            effects
        }
        (Life::Ready { failed, not_before_us, .. }, Ok(())) => {
            (*failed, *not_before_us) = (0, now + PROBE_READY);
            row.because = None;
            Vec::new()
        }
        (Life::Ready { failed, not_before_us, .. }, Err(error)) => {
            *failed = failed.saturating_add(1);
            *not_before_us = now + pause(*failed, PROBE_AGAIN);
            let sick = *failed >= SICK_AFTER;
            row.because = Some(error.to_string());
            if matches!(error, ProbeError::Foreign(_)) {
                enter(row, Life::Lost { absent: Absence::default() }, now);
                return vec![Effect::Alarm(format!("another machine answers at its address: {error}"))];
            }
            if !sick {
                return Vec::new();
            }
            let because = format!("it gives no completion any more: {error}");
            let mut effects = unwanted(row, because.clone(), false, site);
            effects.push(Effect::Alarm(because));
            effects
        }
        // A probe of a state that is over.
        (_, Ok(()) | Err(_)) => Vec::new(),
    }
}

fn suspect(row: &mut Row, because: String, site: &Site) -> Vec<Effect> {
    if let Life::Ready { not_before_us, .. } = &mut row.life {
        *not_before_us = site.now;
        row.because = Some(because);
    }
    Vec::new()
}

fn unwanted(row: &mut Row, because: String, park: bool, site: &Site) -> Vec<Effect> {
    let now = site.now;
    let park = park && site.rules.parking == Parking::Offered;
    match &mut row.life {
        Life::Wanted { .. } => {
            row.because = Some(because);
            enter(row, Life::Gone, now);
            Vec::new()
        }
        Life::Ordered { .. } | Life::Unknown { .. } => {
            row.doomed = Some(because);
            Vec::new()
        }
        Life::Starting { .. } | Life::Probing { .. } | Life::Lost { .. } => {
            row.because = Some(because);
            stop(row, false, site)
        }
        Life::Ready { address, absent, .. } => {
            let (address, absent) = (std::mem::take(address), *absent);
            row.because = Some(because);
            let until_us = now + site.drain_limit;
            enter(row, Life::Draining { address, until_us, park, absent }, now);
            vec![Effect::Cordon]
        }
        Life::Parked { .. } if !park => {
            row.because = Some(because);
            stop(row, false, site)
        }
        Life::Draining { park: later, .. } | Life::Stopping { park: later, accepted: false, .. }
            if *later && !park =>
        {
            *later = false;
            row.because = Some(because);
            Vec::new()
        }
        Life::Draining { .. } | Life::Stopping { .. } | Life::Parked { .. } | Life::Gone => Vec::new(),
    }
}
