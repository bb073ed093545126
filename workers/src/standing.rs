//! Standing cost: what is new since it was last booked, by whichever worker of the pool. Pure; `standing/ledger.rs` carries.
//!
//! All workers of a pool share one [`Account`] in a bucket and change it by compare-and-set. A span of usage is first written
//! into the account as pending, then its cost event is stored under an id that names the span, then the account says booked. So
//! two workers never book the same span, and whoever finds a pending span completes it.

mod ledger;
pub mod rest;

use std::{collections::BTreeMap, ops::Range, time::Duration};

use schemas::{
    Micros, PoolId, ProviderId, UsdNanos,
    cost::{Bill, CostEvent, CostLine},
    money,
    prices::{PriceBook, PriceError, Used},
    time::micros,
};
use serde::{Deserialize, Serialize};

pub(crate) use self::ledger::Ledger;
use crate::{booking, provider::UsedItem};

/// What a pool has booked of its standing usage, and what it is about to book.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Account {
    /// Microseconds booked so far, by SKU and item.
    #[serde(flatten)]
    pub booked: Totals,
    /// The span whose event may be stored or not.
    #[serde(default, rename = "PENDING", skip_serializing_if = "Option::is_none")]
    pub pending: Option<Pending>,
}

/// Microseconds by SKU and item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Totals(pub BTreeMap<String, u64>);

/// A span of usage on its way into the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pending {
    /// What the account is when the span is booked.
    pub to: Totals,
    /// What the span costs.
    pub bill: Bill,
    /// When it was priced.
    pub at_us: Micros,
}

impl Totals {
    fn sum(&self) -> u64 {
        self.0.values().fold(0, |sum, n| sum.saturating_add(*n))
    }

    /// What an item is kept under. Idle time is by SKU alone, as it was when there was nothing else.
    fn key(item: &UsedItem) -> String {
        match item.item {
            "idle" => item.sku.clone(),
            other => format!("{}:{other}", item.sku),
        }
    }
}

impl Account {
    /// The cost event of the pending span and its message id, which names the span.
    pub fn event(&self, pool: &PoolId) -> Option<(CostEvent, String)> {
        let Pending { to, bill, at_us } = self.pending.clone()?;
        let id = format!("standing:{pool}:{}-{}:cost", self.booked.sum(), to.sum());
        Some((CostEvent::standing(pool, bill, at_us), id))
    }

    /// The account once the pending span is booked.
    #[must_use]
    pub fn settled(mut self) -> Self {
        if let Some(pending) = self.pending.take() {
            self.booked = pending.to;
        }
        self
    }

    /// The account with what is new in `total` as its pending span; `None` where nothing is new.
    ///
    /// `total` must have been read from the provider after this account was read from the bucket: then a total below what is booked
    /// can only be that of a provider that began to count again.
    ///
    /// The span is priced as the difference of two totals, so that many small bookings add up to exactly what one large one
    /// would cost while the price stays.
    pub fn advance(
        &self,
        prices: &PriceBook,
        name: &ProviderId,
        total: &[UsedItem],
        at: Micros,
    ) -> Result<Option<Self>, PriceError> {
        let (mut to, mut lines) = (self.booked.clone(), Vec::new());
        for item in total {
            let Used::Time(span) = item.used else { continue };
            let key = Totals::key(item);
            let (from, now) = (self.booked.0.get(&key).copied().unwrap_or(0), micros(span));
            // A provider that began to count again: what it says now is all new.
            let from = if now < from { 0 } else { from };
            if now == from {
                continue;
            }
            lines.extend(difference((prices, name), item, from..now, at)?);
            to.0.insert(key, now);
        }
        if lines.is_empty() {
            return Ok(None);
        }
        let amount_usd = money::total(lines.iter().map(|l| l.amount_usd)).unwrap_or_default();
        let bill = Bill { lines, amount_usd, estimated: false, price_book: prices.version.clone() };
        let pending = Some(Pending { to, bill, at_us: at });
        Ok(Some(Self { booked: self.booked.clone(), pending }))
    }
}

/// The lines for the usage of one item from one total to the next.
fn difference(
    (prices, name): (&PriceBook, &ProviderId),
    item: &UsedItem,
    span: Range<u64>,
    at: Micros,
) -> Result<Vec<CostLine>, PriceError> {
    let price = |us| {
        let used = Used::Time(Duration::from_micros(us));
        let used = [UsedItem { used, ..item.clone() }];
        booking::bill(prices, name, &used, at)
    };
    let ((new, _), (old, _)) = (price(span.end)?, price(span.start)?);
    let subtract = |(mut line, old): (CostLine, CostLine)| {
        line.quantity = span.end - span.start;
        line.amount_usd = line.amount_usd.checked_sub(old.amount_usd).unwrap_or(UsdNanos::ZERO);
        line
    };
    Ok(new.into_iter().zip(old).map(subtract).collect())
}

#[cfg(test)]
mod tests {
    use schemas::cost::Purpose;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn book() -> PriceBook {
        let text = "version = \"t\"\nas_of = \"2025-09-05\"\nsource = \"t\"\n[[price]]\nprovider = \"modal\"\n\
                    sku = \"T4\"\nunit = \"second\"\nusd = \"0.000164\"\n";
        PriceBook::from_toml(text).unwrap()
    }

    fn idle(millis: u64) -> Vec<UsedItem> {
        let used = Used::Time(Duration::from_millis(millis));
        vec![UsedItem { sku: "T4".into(), item: "idle", used, rate: None }]
    }

    fn advance(account: &Account, millis: u64) -> Option<Account> {
        account.advance(&book(), &"modal".parse().unwrap(), &idle(millis), NOW).unwrap()
    }

    #[test]
    fn a_span_is_pending_until_it_is_booked_and_its_event_says_which_span() {
        let pool = "modal@us-east".parse().unwrap();
        let pending = advance(&Account::default(), 1_000).unwrap();
        let (event, id) = pending.event(&pool).unwrap();
        assert_eq!(id, "standing:modal@us-east:0-1000000:cost");
        assert_eq!((event.purpose, event.amount_usd.get()), (Purpose::Standing, 164_000));
        let booked = pending.settled();
        assert!(booked.event(&pool).is_none() && advance(&booked, 1_000).is_none());
        let (_, id) = advance(&booked, 1_500).unwrap().event(&pool).unwrap();
        assert_eq!(id, "standing:modal@us-east:1000000-1500000:cost");
    }

    #[test]
    fn many_small_bookings_add_up_to_one_large_one() {
        let pool = "modal@us-east".parse().unwrap();
        let cost = |account: &Account| account.event(&pool).unwrap().0.amount_usd.get();
        let whole = cost(&advance(&Account::default(), 10_007).unwrap());
        let (mut account, mut sum) = (Account::default(), 0);
        for millis in [3, 1_000, 1_001, 9_999, 10_007] {
            let pending = advance(&account, millis).unwrap();
            sum += cost(&pending);
            account = pending.settled();
        }
        assert_eq!(sum, whole);
    }

    #[test]
    fn an_account_of_an_older_version_reads_and_a_booked_one_reads_there() {
        let old: Account = serde_json::from_str(r#"{"T4":7,"T4:warm_start":3}"#).unwrap();
        assert_eq!((old.booked.sum(), old.pending.is_none()), (10, true));
        let text = serde_json::to_string(&old).unwrap();
        assert_eq!(serde_json::from_str::<BTreeMap<String, u64>>(&text).unwrap(), old.booked.0);
        let pending = advance(&old, 1_000).unwrap();
        let text = serde_json::to_string(&pending).unwrap();
        assert_eq!(serde_json::from_str::<Account>(&text).unwrap(), pending);
    }
}
