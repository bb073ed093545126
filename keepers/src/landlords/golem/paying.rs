//! Debit notes and invoices: read, checked and accepted, whatever else happens. A note that is not accepted in time costs us
//! the machine, an invoice that is accepted twice costs us money.
//!
//! Events are read from a point up to which all are settled, so that nothing is skipped by a restart or a failed call.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use schemas::PoolId;
use tokio::time;
use tracing::warn;

use super::{
    book::Kind,
    debit_notes, facts, invoices,
    papers::{BASE, PAGE},
    site::Site,
    wire::{DebitNoteEvent, InvoiceEvent},
    yagna::{escaped, seconds},
};
use crate::landlord::CallError;

/// Where reading begins before any row is known. Older notes are past their deadline, and rows send reading back further.
const LOOK_BACK: Duration = Duration::from_secs(3_600);

/// One event, of either kind.
struct Event {
    id: String,
    at: String,
    received: bool,
}

/// Follows one kind of events of a pool's session until it is stopped.
pub(super) async fn follow(site: Arc<Site>, pool: PoolId, kind: Kind) {
    let start = facts::written(site.now() - LOOK_BACK);
    site.book().rewind(&pool, kind, &start);
    let mut last = BTreeSet::new();
    let rounds = async {
        loop {
            match round(&site, &pool, kind, &mut last).await {
                Ok(true) => {}
                // An open note is tried again in a moment.
                Ok(false) => time::sleep(site.config.pace.again).await,
                Err(error) => {
                    warn!(%pool, ?kind, %error, "events cannot be read; they are read again");
                    time::sleep(site.config.pace.again).await;
                }
            }
        }
    };
    // What is broken off here is idempotent, or is looked up before it is done again.
    tokio::select! {
        () = site.stop.cancelled() => {}
        () = rounds => {}
    }
}

/// One page. False if the next one should not follow at once.
async fn round(
    site: &Site,
    pool: &PoolId,
    kind: Kind,
    last: &mut BTreeSet<String>,
) -> Result<bool, CallError> {
    let Some(from) = site.book().cursor(pool, kind).map(str::to_owned) else { return Ok(false) };
    let events = poll(site, pool, kind, &from).await?;
    if events.is_empty() {
        return Ok(true);
    }
    let received: Vec<&str> =
        events.iter().filter(|event| event.received).map(|event| event.id.as_str()).collect();
    let open = match kind {
        Kind::DebitNotes => debit_notes::accept(site, &received).await,
        Kind::Invoices => invoices::accept(site, &received).await,
    };
    if let Some(to) = settled_up_to(&events, &open) {
        site.book().advance(pool, kind, &from, to);
    }
    // A server that counts the last event as newer than itself would be asked without a pause.
    let ids: BTreeSet<String> = events.into_iter().map(|event| event.id).collect();
    let new = !ids.is_subset(last);
    *last = ids;
    Ok(new && open.is_empty())
}

/// The time up to which all events of a page are settled.
fn settled_up_to<'a>(events: &'a [Event], open: &BTreeSet<String>) -> Option<&'a str> {
    let end = events.iter().position(|event| open.contains(&event.id)).unwrap_or(events.len());
    let (settled, rest) = events.split_at(end);
    let last = settled.last()?;
    // Others of the same moment may follow: on the next page, or among the open ones.
    let cut = !rest.is_empty() || events.len() >= PAGE;
    let earlier = settled.iter().rev().find(|event| event.at != last.at);
    match (cut, earlier) {
        (false, _) => Some(&last.at),
        (true, Some(earlier)) => Some(&earlier.at),
        // A whole page of one moment: going on is the only way to ever see the next.
        (true, None) if rest.is_empty() => Some(&last.at),
        (true, None) => None,
    }
}

async fn poll(site: &Site, pool: &PoolId, kind: Kind, from: &str) -> Result<Vec<Event>, CallError> {
    let held = site.config.pace.poll;
    let name = match kind {
        Kind::DebitNotes => "debitNoteEvents",
        Kind::Invoices => "invoiceEvents",
    };
    let path = format!(
        "{BASE}/{name}?timeout={}&maxEvents={PAGE}&afterTimestamp={}&appSessionId={}",
        seconds(held),
        escaped(from),
        escaped(&site.config.session(pool))
    );
    let said = site.yagna.get(&path, held).await?;
    Ok(match kind {
        Kind::DebitNotes => {
            let events: Vec<DebitNoteEvent> = said.json("GET /debitNoteEvents")?;
            let event = |e: DebitNoteEvent| Event {
                id: e.debit_note_id,
                at: e.event_date,
                received: e.event_type == "DebitNoteReceivedEvent",
            };
            events.into_iter().map(event).collect()
        }
        Kind::Invoices => {
            let events: Vec<InvoiceEvent> = said.json("GET /invoiceEvents")?;
            let event = |e: InvoiceEvent| Event {
                id: e.invoice_id,
                at: e.event_date,
                received: e.event_type == "InvoiceReceivedEvent",
            };
            events.into_iter().map(event).collect()
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(times: &[&str]) -> Vec<Event> {
        let event =
            |(number, at): (usize, &&str)| Event { id: number.to_string(), at: (*at).into(), received: true };
        times.iter().enumerate().map(event).collect()
    }

    #[test]
    fn reading_never_passes_an_open_event() {
        let events = events(&["a", "b", "b", "c"]);
        let open = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(settled_up_to(&events, &open(&[])), Some("c"));
        assert_eq!(settled_up_to(&events, &open(&["3"])), Some("a"));
        assert_eq!(settled_up_to(&events, &open(&["1"])), None);
        assert_eq!(settled_up_to(&events, &open(&["0"])), None);
    }

    #[test]
    fn a_full_page_may_be_cut_within_one_moment() {
        let mut times = vec!["a"; PAGE - 1];
        times.push("b");
        assert_eq!(settled_up_to(&events(&times), &BTreeSet::new()), Some("a"));
        assert_eq!(settled_up_to(&events(&vec!["a"; PAGE]), &BTreeSet::new()), Some("a"));
    }
}
