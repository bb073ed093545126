//! What each agreement costs: debit notes and invoices as they came in and were accepted, and how far we have read. Pure.
//!
//! All of it can be read again from yagna; notes in the rows only say from when on.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemas::{Micros, PoolId, UsdNanos};

use super::{
    decimal::Decimal,
    facts::{self, Facts},
    tariff,
};
use crate::landlord::Notes;

/// Clocks of two hosts differ, and an activity is a little older than its agreement's approval makes it.
const CLOCKS: Duration = Duration::from_secs(60);

/// Names of notes in a row.
pub(super) mod names {
    /// When the order began: nothing of the machine is older.
    pub(crate) const SINCE: &str = "since";
    /// Up to where debit notes were read and settled.
    pub(crate) const DEBIT_AFTER: &str = "debit_notes_after";
    /// Up to where invoices were read and settled.
    pub(crate) const INVOICE_AFTER: &str = "invoices_after";
    /// Begins the name of an activity's accepted amount, GLM.
    pub(crate) const DUE: &str = "due_glm.";
    /// The invoice that was accepted.
    pub(crate) const INVOICE: &str = "invoice";
    /// Its amount, GLM.
    pub(crate) const INVOICE_GLM: &str = "invoice_glm";
    /// The rate of the order.
    pub(crate) const RATE: &str = "usd_per_glm";
    /// When the end of the agreement was first seen.
    pub(crate) const ENDED: &str = "ended_us";
    /// Out of which notes are paid.
    pub(crate) const ALLOCATION: &str = "allocation";
}

/// Which events are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    DebitNotes,
    Invoices,
}

impl Kind {
    fn note(self) -> &'static str {
        match self {
            Self::DebitNotes => names::DEBIT_AFTER,
            Self::Invoices => names::INVOICE_AFTER,
        }
    }
}

/// One agreement.
#[derive(Clone, Debug)]
pub(super) struct Account {
    pub(super) facts: Arc<Facts>,
    /// The allocation, if it is not that of the marks any more.
    pub(super) allocation: String,
    /// Accepted, by activity.
    dues: BTreeMap<String, Decimal>,
    /// The invoice that was accepted, and its amount.
    invoice: Option<(String, Decimal)>,
    /// Why its notes are not accepted any more.
    pub(super) refused: Option<String>,
    pub(super) ended_at: Option<Micros>,
    /// When it was approved, as yagna wrote it.
    pub(super) approved: Option<String>,
    /// Whether its invoice was rejected: nothing is waited for any more.
    pub(super) disputed: bool,
    /// Whether it is a machine's of a list or an order; the others are only known from what came in for them.
    pub(super) adopted: bool,
}

/// What to do with an amount that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It is owed.
    Owed(Decimal),
    /// It is not, and why.
    Refused(String),
}

/// All agreements that are not settled, and how far events were read.
#[derive(Debug, Default)]
pub(super) struct Book {
    accounts: BTreeMap<String, Account>,
    cursors: BTreeMap<(PoolId, Kind), String>,
}

impl Account {
    fn new(facts: Arc<Facts>) -> Self {
        let allocation = facts.marks.allocation.clone();
        Self {
            facts,
            allocation,
            dues: BTreeMap::new(),
            invoice: None,
            refused: None,
            ended_at: None,
            approved: None,
            disputed: false,
            adopted: false,
        }
    }

    /// GLM so far. Never falls: an invoice below what was accepted by debit notes takes nothing back.
    pub(super) fn glm(&self) -> Decimal {
        let dues = self.dues.values().try_fold(Decimal::ZERO, |sum, due| sum.checked_add(*due));
        let invoiced = self.invoice.as_ref().map_or(Decimal::ZERO, |(_, amount)| *amount);
        dues.unwrap_or_default().max(invoiced)
    }

    /// Dollars so far at the rate of the order, rounded up once.
    pub(super) fn charged(&self) -> Option<UsdNanos> {
        tariff::usd_rounded_up(self.glm(), self.facts.marks.usd_per_glm)
    }

    /// The id of the accepted invoice.
    pub(super) fn invoice(&self) -> Option<&str> {
        self.invoice.as_ref().map(|(id, _)| id.as_str())
    }

    /// Whether any activity was ever paid for.
    pub(super) fn has_dues(&self) -> bool {
        !self.dues.is_empty()
    }

    /// Whether a debit note may be accepted: no more than prices times counters, nor than our own clock allows.
    pub(super) fn check_note(&self, asked: &str, usage: Option<&[Decimal]>, now: Micros) -> Verdict {
        let Ok(amount) = asked.parse::<Decimal>() else {
            return Verdict::Refused(format!("the amount {asked:?} does not read"));
        };
        let by_usage = match usage.map(|usage| self.facts.tariff.due(usage)) {
            None => None,
            Some(Some(due)) => Some(due),
            Some(None) => return Verdict::Refused("its counters do not fit the offer's prices".into()),
        };
        if let Some(due) = by_usage.filter(|due| !tariff::is_at_most(amount, *due)) {
            return Verdict::Refused(format!("{amount} GLM are asked for, prices times counters are {due}"));
        }
        match self.most(now, 1) {
            Some(most) if tariff::is_at_most(amount, most) => Verdict::Owed(amount),
            most => Verdict::Refused(format!(
                "{amount} GLM are asked for, more than the {} that its age allows",
                most.unwrap_or_default()
            )),
        }
    }

    /// Whether an invoice may be accepted.
    pub(super) fn check_invoice(&self, asked: &str, now: Micros) -> Verdict {
        let Ok(amount) = asked.parse::<Decimal>() else {
            return Verdict::Refused(format!("the amount {asked:?} does not read"));
        };
        let activities = u64::try_from(self.dues.len()).unwrap_or(u64::MAX).max(1);
        match self.most(now, activities) {
            Some(most) if tariff::is_at_most(amount, most.max(self.glm())) => Verdict::Owed(amount),
            most => Verdict::Refused(format!(
                "{amount} GLM are invoiced, more than the {} that its age allows",
                most.unwrap_or_default()
            )),
        }
    }

    /// The most that it can have cost by now.
    fn most(&self, now: Micros, activities: u64) -> Option<Decimal> {
        let one = self.facts.tariff.most(now.since(self.facts.made_at) + CLOCKS)?;
        one.checked_mul(Decimal::whole(activities))
    }
}

impl Book {
    /// Opens an account because something came in for it.
    pub(super) fn open(&mut self, facts: &Arc<Facts>) -> &mut Account {
        let id = facts.agreement.clone();
        self.accounts.entry(id).or_insert_with(|| Account::new(Arc::clone(facts)))
    }

    /// Opens an account for a machine that an order or a list shows. What its row knows is taken over once, and what came in
    /// since is read again.
    pub(super) fn adopt(&mut self, facts: &Arc<Facts>, notes: &Notes) -> &mut Account {
        if !self.accounts.get(&facts.agreement).is_some_and(|account| account.adopted) {
            for kind in [Kind::DebitNotes, Kind::Invoices] {
                let since = notes.get(kind.note()).or_else(|| notes.get(names::SINCE)).unwrap_or(&facts.made);
                self.rewind(&facts.marks.pool, kind, since);
            }
            let account = self.open(facts);
            account.adopted = true;
            recall(account, notes);
        }
        self.open(facts)
    }

    /// The account of an agreement.
    pub(super) fn get(&self, agreement: &str) -> Option<&Account> {
        self.accounts.get(agreement)
    }

    /// As [`Book::get`], to change it.
    pub(super) fn get_mut(&mut self, agreement: &str) -> Option<&mut Account> {
        self.accounts.get_mut(agreement)
    }

    /// All accounts.
    pub(super) fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    /// Forgets an agreement that is settled. What may still come for it is read from yagna.
    pub(super) fn close(&mut self, agreement: &str) {
        self.accounts.remove(agreement);
    }

    /// A debit note was accepted, now or earlier. Amounts are cumulative; a late note changes nothing.
    pub(super) fn accepted_note(&mut self, agreement: &str, activity: &str, amount: Decimal) {
        if let Some(account) = self.accounts.get_mut(agreement) {
            let due = account.dues.entry(activity.to_owned()).or_default();
            *due = amount.max(*due);
        }
    }

    /// An invoice was accepted, now or earlier. The first one stays.
    pub(super) fn accepted_invoice(&mut self, agreement: &str, invoice: &str, amount: Decimal) {
        if let Some(account) = self.accounts.get_mut(agreement) {
            account.invoice.get_or_insert_with(|| (invoice.to_owned(), amount));
        }
    }

    /// From where events are to be read.
    pub(super) fn cursor(&self, pool: &PoolId, kind: Kind) -> Option<&str> {
        self.cursors.get(&(pool.clone(), kind)).map(String::as_str)
    }

    /// Everything up to `to` is settled. Does nothing if reading was sent back since it began at `from`.
    pub(super) fn advance(&mut self, pool: &PoolId, kind: Kind, from: &str, to: &str) {
        if let Some(cursor) = self.cursors.get_mut(&(pool.clone(), kind))
            && cursor == from
        {
            to.clone_into(cursor);
        }
    }

    /// Reading begins at `at` or earlier.
    pub(super) fn rewind(&mut self, pool: &PoolId, kind: Kind, at: &str) {
        let cursor = self.cursors.entry((pool.clone(), kind)).or_insert_with(|| at.to_owned());
        if facts::time(at) < facts::time(cursor) {
            at.clone_into(cursor);
        }
    }

    /// What is to be kept in the row of an agreement's machine.
    pub(super) fn notes(&self, agreement: &str) -> Notes {
        let mut notes = Notes::new();
        let Some(account) = self.accounts.get(agreement) else { return notes };
        for kind in [Kind::DebitNotes, Kind::Invoices] {
            if let Some(cursor) = self.cursor(&account.facts.marks.pool, kind) {
                notes.insert(kind.note().into(), cursor.into());
            }
        }
        for (activity, due) in &account.dues {
            notes.insert(format!("{}{activity}", names::DUE), due.to_string());
        }
        if let Some((id, amount)) = &account.invoice {
            notes.insert(names::INVOICE.into(), id.clone());
            notes.insert(names::INVOICE_GLM.into(), amount.to_string());
        }
        if let Some(ended) = account.ended_at {
            notes.insert(names::ENDED.into(), ended.get().to_string());
        }
        notes.insert(names::RATE.into(), account.facts.marks.usd_per_glm.to_string());
        notes.insert(names::ALLOCATION.into(), account.allocation.clone());
        notes
    }
}

fn recall(account: &mut Account, notes: &Notes) {
    for (name, value) in notes {
        if let (Some(activity), Ok(due)) = (name.strip_prefix(names::DUE), value.parse::<Decimal>()) {
            let known = account.dues.entry(activity.to_owned()).or_default();
            *known = due.max(*known);
        }
    }
    if let (Some(id), Some(Ok(amount))) =
        (notes.get(names::INVOICE), notes.get(names::INVOICE_GLM).map(|text| text.parse()))
    {
        account.invoice.get_or_insert_with(|| (id.clone(), amount));
    }
    account.ended_at = notes.get(names::ENDED).and_then(|text| text.parse().ok()).map(Micros::new);
    if let Some(allocation) = notes.get(names::ALLOCATION) {
        allocation.clone_into(&mut account.allocation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::landlords::golem::facts::tests::facts;

    fn opened(notes: &Notes) -> (Book, Arc<Facts>) {
        let (mut book, facts) = (Book::default(), Arc::new(facts()));
        book.adopt(&facts, notes);
        (book, facts)
    }

    fn glm(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn notes_are_cumulative_and_a_late_one_changes_nothing() {
        let (mut book, _) = opened(&Notes::new());
        for amount in ["0.2", "0.5", "0.3"] {
            book.accepted_note("ag-1", "ac-1", glm(amount));
        }
        book.accepted_note("ag-1", "ac-2", glm("0.1"));
        assert_eq!(book.get("ag-1").unwrap().glm(), glm("0.6"));
        assert_eq!(book.get("ag-1").unwrap().charged(), Some("0.15".parse().unwrap()));
    }

    #[test]
    fn the_first_invoice_counts_once() {
        let (mut book, _) = opened(&Notes::new());
        book.accepted_note("ag-1", "ac-1", glm("0.5"));
        book.accepted_invoice("ag-1", "in-1", glm("0.7"));
        book.accepted_invoice("ag-1", "in-2", glm("0.9"));
        let account = book.get("ag-1").unwrap();
        assert_eq!((account.glm(), account.invoice()), (glm("0.7"), Some("in-1")));
    }

    #[test]
    fn more_than_usage_or_time_allow_is_refused() {
        let (book, facts) = opened(&Notes::new());
        let account = book.get("ag-1").unwrap();
        let now = facts.made_at + Duration::from_secs(100);
        assert_eq!(account.check_note("0.1", Some(&[glm("100")]), now), Verdict::Owed(glm("0.1")));
        assert!(matches!(account.check_note("0.2", Some(&[glm("100")]), now), Verdict::Refused(_)));
        assert!(matches!(account.check_note("0.1", Some(&[]), now), Verdict::Refused(_)));
        // Its counters say ten thousand seconds, our clock says a hundred.
        assert!(matches!(account.check_note("10", Some(&[glm("10000")]), now), Verdict::Refused(_)));
        assert!(matches!(account.check_invoice("10", now), Verdict::Refused(_)));
        assert_eq!(account.check_invoice("0.15", now), Verdict::Owed(glm("0.15")));
        assert!(matches!(account.check_invoice("-1", now), Verdict::Refused(_)));
    }

    #[test]
    fn a_row_brings_back_what_was_known() {
        let (mut book, facts) = opened(&Notes::new());
        book.accepted_note("ag-1", "ac-1", glm("0.5"));
        book.accepted_invoice("ag-1", "in-1", glm("0.7"));
        book.get_mut("ag-1").unwrap().ended_at = Some(Micros::new(7));
        let notes = book.notes("ag-1");
        let (again, _) = opened(&notes);
        let account = again.get("ag-1").unwrap();
        assert_eq!((account.glm(), account.invoice()), (glm("0.7"), Some("in-1")));
        assert_eq!(account.ended_at, Some(Micros::new(7)));
        assert_eq!(again.notes("ag-1"), notes);
        assert_eq!(again.cursor(&facts.marks.pool, Kind::Invoices), Some(facts.made.as_str()));
    }

    #[test]
    fn reading_goes_back_for_an_older_machine_and_the_page_under_way_does_not_undo_it() {
        let (mut book, facts) = opened(&Notes::new());
        let pool = &facts.marks.pool;
        let old = "2026-11-22T00:00:00Z";
        book.rewind(pool, Kind::Invoices, old);
        book.advance(pool, Kind::Invoices, &facts.made, "2026-11-23T10:00:00Z");
        assert_eq!(book.cursor(pool, Kind::Invoices), Some(old));
        book.advance(pool, Kind::Invoices, old, "2026-11-23T10:00:00Z");
        assert_eq!(book.cursor(pool, Kind::Invoices), Some("2026-11-23T10:00:00Z"));
    }
}
