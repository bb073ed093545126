//! Debit notes and invoices: read, checked and accepted, whatever else happens. A note that is not accepted in time costs us
//! the machine, an invoice that is accepted twice costs us money.
//!
//! Events are read from a point up to which all are settled, so that nothing is skipped by a restart or a failed call.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use schemas::PoolId;
use serde::de::DeserializeOwned;
use tokio::time;
use tracing::{debug, error, info, warn};

use super::{
    agreements,
    book::{Kind, Verdict},
    facts::{self, Facts},
    payment,
    site::Site,
    wire::{self, Acceptance, DebitNote, DebitNoteEvent, Invoice, InvoiceEvent, Rejection},
    yagna::{Said, escaped, seconds},
};
use crate::landlord::CallError;

const BASE: &str = "/payment-api/v1";
/// Events of one page, the most that yagna gives.
const PAGE: usize = 100;
/// Calls at a time. One provider that does not answer must not hold up the others' notes.
const AT_ONCE: usize = 16;
/// How long yagna waits for a provider to take notice of an acceptance. Two of them fit into a minute.
const ACKNOWLEDGE: Duration = Duration::from_secs(10);
/// Where reading begins before any row is known. Older notes are past their deadline, and rows send reading back further.
const LOOK_BACK: Duration = Duration::from_secs(3_600);

/// One event, of either kind.
struct Event {
    id: String,
    at: String,
    received: bool,
}

/// What became of one event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Handled {
    Settled,
    /// To be tried again.
    Open,
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
        Kind::DebitNotes => notes(site, &received).await,
        Kind::Invoices => invoices(site, &received).await,
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

/// Reads documents, in the order of their ids; those that could not be read are open.
async fn read<T: DeserializeOwned>(
    site: &Site,
    kind: &str,
    ids: &[&str],
    open: &mut BTreeSet<String>,
) -> Vec<T> {
    let one = |id: &str| {
        let (id, path) = (id.to_owned(), format!("{BASE}/{kind}/{}", escaped(id)));
        async move { (id, site.yagna.read::<T>(&path).await) }
    };
    // Made before they are streamed: a closure over borrowed ids is not general enough for a task.
    let calls: Vec<_> = ids.iter().map(|id| one(id)).collect();
    let mut answers = stream::iter(calls).buffered(AT_ONCE);
    let mut read = Vec::with_capacity(ids.len());
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(document) => read.push(document),
            Err(error) => {
                warn!(id, %error, "a note cannot be read; it is read again");
                open.insert(id);
            }
        }
    }
    read
}

/// Accepts debit notes. Answers with those that are still open.
async fn notes(site: &Site, ids: &[&str]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    let mut by_activity: BTreeMap<String, Vec<DebitNote>> = BTreeMap::new();
    for note in read::<DebitNote>(site, "debitNotes", ids, &mut open).await {
        by_activity.entry(note.activity_id.clone()).or_default().push(note);
    }
    // One after the other within an activity, so that amounts only grow.
    let chains: Vec<_> = by_activity
        .into_values()
        .map(|mut notes| async move {
            notes.sort_by_key(|note| facts::time(&note.timestamp));
            let mut open = Vec::new();
            for note in notes {
                match self::note(site, &note).await {
                    Ok(Handled::Settled) => {}
                    Ok(Handled::Open) => open.push(note.debit_note_id),
                    Err(error) => {
                        warn!(note = note.debit_note_id, %error, "a debit note is not accepted yet");
                        open.push(note.debit_note_id);
                    }
                }
            }
            open
        })
        .collect();
    let mut chains = stream::iter(chains).buffer_unordered(AT_ONCE);
    while let Some(left) = chains.next().await {
        open.extend(left);
    }
    open
}

async fn note(site: &Site, note: &DebitNote) -> Result<Handled, CallError> {
    let Some(facts) = agreements::facts(site, &note.agreement_id).await? else {
        warn!(note = note.debit_note_id, "a debit note for an agreement that is not ours; it is left alone");
        return Ok(Handled::Settled);
    };
    let now = site.now();
    let usage = match note.usage_counter_vector.as_deref().map(wire::numbers) {
        Some(None) => Some(Vec::new()),
        Some(Some(numbers)) => Some(numbers),
        None => None,
    };
    let (verdict, refused, allocation) = {
        let mut book = site.book();
        let account = book.open(&facts);
        let verdict = account.check_note(&note.total_amount_due, usage.as_deref(), now);
        (verdict, account.refused.is_some(), account.allocation.clone())
    };
    let amount = match (note.status.as_str(), verdict) {
        ("ACCEPTED" | "SETTLED", _) => {
            if let Ok(amount) = note.total_amount_due.parse() {
                site.book().accepted_note(&note.agreement_id, &note.activity_id, amount);
            }
            return Ok(Handled::Settled);
        }
        ("RECEIVED" | "ISSUED", Verdict::Owed(_)) if refused => return Ok(Handled::Settled),
        ("RECEIVED" | "ISSUED", Verdict::Owed(amount)) => amount,
        ("RECEIVED" | "ISSUED", Verdict::Refused(why)) => return refuse(site, &facts, &why).await,
        (status, _) => {
            debug!(note = note.debit_note_id, status, "a debit note that is not to be accepted");
            return Ok(Handled::Settled);
        }
    };
    let path =
        format!("{BASE}/debitNotes/{}/accept?timeout={}", escaped(&note.debit_note_id), seconds(ACKNOWLEDGE));
    let acceptance = Acceptance { total_amount_accepted: &note.total_amount_due, allocation_id: &allocation };
    match site.yagna.post(&path, &acceptance, ACKNOWLEDGE).await? {
        Said::Good(_) => {
            site.book().accepted_note(&note.agreement_id, &note.activity_id, amount);
            debug!(note = note.debit_note_id, %amount, "a debit note is accepted");
            Ok(Handled::Settled)
        }
        // Accepting once more does no harm.
        Said::Slow => Ok(Handled::Open),
        Said::Bad(trouble) => {
            let why = trouble.message.unwrap_or_default();
            warn!(note = note.debit_note_id, why, "a debit note is not taken; its allocation is topped up");
            payment::keep(site, &facts, true).await?;
            Ok(Handled::Open)
        }
        other => Err(other.unexpected("POST /debitNotes/accept")),
    }
}

/// A debit note cannot be rejected: to refuse it, the agreement is ended.
async fn refuse(site: &Site, facts: &Facts, why: &str) -> Result<Handled, CallError> {
    error!(machine = %facts.marks.machine, agreement = %facts.agreement, provider = %facts.provider, why,
        "a debit note asks for what is not owed; the agreement is ended");
    if let Some(account) = site.book().get_mut(&facts.agreement) {
        account.refused = Some(format!("a debit note was refused: {why}"));
    }
    agreements::terminate(site, &facts.agreement, why, false).await?;
    Ok(Handled::Settled)
}

/// Accepts invoices. Answers with those that are still open.
async fn invoices(site: &Site, ids: &[&str]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    // One after the other: the second one of an agreement must see the first.
    for invoice in read::<Invoice>(site, "invoices", ids, &mut open).await {
        match self::invoice(site, &invoice).await {
            Ok(Handled::Settled) => {}
            Ok(Handled::Open) => drop(open.insert(invoice.invoice_id)),
            Err(error) => {
                warn!(invoice = invoice.invoice_id, %error, "an invoice is not accepted yet");
                open.insert(invoice.invoice_id);
            }
        }
    }
    open
}

async fn invoice(site: &Site, invoice: &Invoice) -> Result<Handled, CallError> {
    let id = &invoice.invoice_id;
    let Some(facts) = agreements::facts(site, &invoice.agreement_id).await? else {
        warn!(invoice = id, "an invoice for an agreement that is not ours; it is left alone");
        return Ok(Handled::Settled);
    };
    let now = site.now();
    let (verdict, first, allocation) = {
        let mut book = site.book();
        let account = book.open(&facts);
        let verdict = account.check_invoice(&invoice.amount, now);
        (verdict, account.invoice().map(str::to_owned), account.allocation.clone())
    };
    match invoice.status.as_str() {
        "RECEIVED" | "ISSUED" | "FAILED" => {}
        "ACCEPTED" | "SETTLED" => {
            if let Ok(amount) = invoice.amount.parse() {
                site.book().accepted_invoice(&invoice.agreement_id, id, amount);
            }
            return Ok(Handled::Settled);
        }
        "REJECTED" => {
            dispute(site, &facts);
            return Ok(Handled::Settled);
        }
        status => {
            debug!(invoice = id, status, "an invoice that is not to be accepted");
            return Ok(Handled::Settled);
        }
    }
    let first = match first {
        Some(first) => Some(first),
        None => accepted_before(site, &facts, id).await?,
    };
    if let Some(first) = first.filter(|first| first != id) {
        error!(machine = %facts.marks.machine, invoice = id, first, "a second invoice for one agreement is not paid");
        return reject(site, id, "UNSOLICITED_SERVICE", "this agreement is invoiced already").await;
    }
    let amount = match verdict {
        Verdict::Owed(amount) => amount,
        Verdict::Refused(why) => {
            error!(machine = %facts.marks.machine, invoice = id, why, "an invoice asks for what is not owed");
            dispute(site, &facts);
            return reject(site, id, "INCORRECT_AMOUNT", &why).await;
        }
    };
    let path = format!("{BASE}/invoices/{}/accept?timeout={}", escaped(id), seconds(ACKNOWLEDGE));
    let acceptance = Acceptance { total_amount_accepted: &invoice.amount, allocation_id: &allocation };
    match site.yagna.post(&path, &acceptance, ACKNOWLEDGE).await? {
        Said::Good(_) => {
            site.book().accepted_invoice(&invoice.agreement_id, id, amount);
            info!(machine = %facts.marks.machine, invoice = id, %amount, "an invoice is accepted");
            Ok(Handled::Settled)
        }
        // The next look at it says whether it was accepted.
        Said::Slow => Ok(Handled::Open),
        Said::Bad(trouble) => {
            let why = trouble.message.unwrap_or_default();
            warn!(invoice = id, why, "an invoice is not taken; its allocation is topped up");
            payment::keep(site, &facts, true).await?;
            Ok(Handled::Open)
        }
        other => Err(other.unexpected("POST /invoices/accept")),
    }
}

/// An invoice is rejected: what its debit notes came to stays the cost, and no other invoice is waited for.
fn dispute(site: &Site, facts: &Facts) {
    if let Some(account) = site.book().get_mut(&facts.agreement) {
        account.disputed = true;
    }
}

/// The accepted invoice of an agreement, if yagna has one beside `id`: rows and memory may have forgotten it.
async fn accepted_before(site: &Site, facts: &Facts, id: &str) -> Result<Option<String>, CallError> {
    let mut after = facts.made.clone();
    loop {
        let path = format!("{BASE}/invoices?maxItems={PAGE}&afterTimestamp={}", escaped(&after));
        let page: Vec<Listed> = site.yagna.read(&path).await?;
        let accepted = page.iter().find(|one| {
            one.invoice.agreement_id == facts.agreement
                && one.invoice.invoice_id != id
                && matches!(one.invoice.status.as_str(), "ACCEPTED" | "SETTLED")
        });
        if let Some(accepted) = accepted {
            return Ok(Some(accepted.invoice.invoice_id.clone()));
        }
        match page.last() {
            Some(last) if page.len() >= PAGE && last.timestamp != after => after.clone_from(&last.timestamp),
            _ => return Ok(None),
        }
    }
}

/// An invoice of a list.
#[derive(serde::Deserialize)]
struct Listed {
    #[serde(flatten)]
    invoice: Invoice,
    timestamp: String,
}

/// Says no. Some daemons cannot: then it just stays unpaid.
async fn reject(site: &Site, id: &str, reason: &str, message: &str) -> Result<Handled, CallError> {
    let rejection = Rejection { rejection_reason: reason, total_amount_accepted: "0", message };
    let path = format!("{BASE}/invoices/{}/reject?timeout={}", escaped(id), seconds(ACKNOWLEDGE));
    if let Err(error) = site.yagna.post(&path, &rejection, ACKNOWLEDGE).await {
        debug!(invoice = id, %error, "an invoice was not rejected");
    }
    Ok(Handled::Settled)
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
