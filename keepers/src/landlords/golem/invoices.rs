//! Invoices: checked, and accepted once for each agreement.

use std::collections::BTreeSet;

use tracing::{debug, error, info, warn};

use super::{
    agreements,
    book::Verdict,
    facts::Facts,
    papers::{self, ACKNOWLEDGE, BASE, Handled, PAGE},
    payment,
    site::Site,
    wire::{Acceptance, Invoice, Rejection},
    yagna::{Said, escaped, seconds},
};
use crate::landlord::CallError;

/// Accepts invoices. Answers with those that are still open.
pub(super) async fn accept(site: &Site, ids: &[&str]) -> BTreeSet<String> {
    let mut open = BTreeSet::new();
    // One after the other: the second one of an agreement must see the first.
    for invoice in papers::read::<Invoice>(site, "invoices", ids, &mut open).await {
        match one(site, &invoice).await {
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

async fn one(site: &Site, invoice: &Invoice) -> Result<Handled, CallError> {
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
