//! Debit notes: checked, and accepted in time. One that is not owed ends the agreement, since it cannot be rejected.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use tracing::{debug, error, warn};

use super::{
    agreements,
    book::Verdict,
    facts::{self, Facts},
    papers::{self, ACKNOWLEDGE, AT_ONCE, BASE, Handled},
    payment,
    site::Site,
    wire::{self, Acceptance, DebitNote},
    yagna::{Said, escaped, seconds},
};
use crate::landlord::CallError;

/// Accepts debit notes. Answers with those that are still open.
pub(super) async fn accept(site: &Site, ids: &[&str]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    let mut by_activity: BTreeMap<String, Vec<DebitNote>> = BTreeMap::new();
    for note in papers::read::<DebitNote>(site, "debitNotes", ids, &mut open).await {
        by_activity.entry(note.activity_id.clone()).or_default().push(note);
    }
    // One after the other within an activity, so that amounts only grow.
    let chains: Vec<_> = by_activity
        .into_values()
        .map(|mut notes| async move {
            notes.sort_by_key(|note| facts::time(&note.timestamp));
            let mut open = Vec::new();
            for note in notes {
                match one(site, &note).await {
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

async fn one(site: &Site, note: &DebitNote) -> Result<Handled, CallError> {
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
