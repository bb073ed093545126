//! The invoice of an account, to the nano-dollar, with arithmetic of its own.
//!
//! Spans begin and end at whole milliseconds, which is how finely any provider tells times. A span is rounded up to whole
//! units of time, and its amount `billed × price per hour` up to the next nano-dollar,
//! span by span. Amounts that the provider measures itself ([`Meter::tell`]) are lines of their own.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use crate::clock::micros;

/// When a machine is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tariff {
    /// Spans round up to whole units of this; zero for microseconds.
    pub unit: Duration,
    /// When billing begins.
    pub from: BilledFrom,
    /// When billing ends.
    pub until: BilledUntil,
}

/// When the billing of a machine begins, or begins again after it was parked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BilledFrom {
    /// With its order, or when it is woken.
    Order,
    /// When it is up.
    Up,
    /// Never by time: the provider measures, and tells amounts.
    Never,
}

/// When the billing of a machine ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BilledUntil {
    /// When its end or its parking is accepted.
    Asked,
    /// When it is gone or parked.
    Over,
}

/// What an account owes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Invoice {
    /// In the order in which the spans began; told amounts come last.
    pub lines: Vec<InvoiceLine>,
    /// The sum of all lines, in nano-dollars.
    pub total_nanos: u64,
}

/// One span of one machine, or one amount that was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvoiceLine {
    /// The machine's id.
    pub id: String,
    /// The order's name that the machine bears.
    pub mark: Option<String>,
    /// `machine`, `parked`, or the provider's own word.
    pub item: String,
    /// Microseconds since the Unix epoch; zero for a told amount.
    pub from_us: u64,
    /// As `from_us`; `None` while the span goes on.
    pub until_us: Option<u64>,
    /// Rounded up to units.
    pub billed_us: u64,
    /// Nano-dollars an hour.
    pub price_per_hour_nanos: u64,
    /// The amount, in nano-dollars.
    pub amount_nanos: u64,
}

#[derive(Debug)]
struct Span {
    id: String,
    mark: Option<String>,
    item: &'static str,
    price_per_hour_nanos: u64,
    from_us: u64,
    until_us: Option<u64>,
}

#[derive(Debug, Default)]
struct Pages {
    spans: Vec<Span>,
    /// By machine and item: mark and amount so far.
    told: BTreeMap<(String, String), (Option<String>, u64)>,
}

/// The invoice while it is being written.
#[derive(Debug)]
pub(super) struct Meter {
    unit_us: u64,
    pages: Mutex<Pages>,
}

impl Meter {
    pub(super) fn new(unit: Duration) -> Self {
        Self { unit_us: micros(unit).max(1), pages: Mutex::default() }
    }

    /// Opens a span, unless one of this machine and item is open.
    pub(super) fn open(&self, id: &str, mark: Option<&str>, item: &'static str, price: u64, at_us: u64) {
        let mut pages = self.pages();
        let open = |span: &Span| span.id == id && span.item == item && span.until_us.is_none();
        if !pages.spans.iter().any(open) {
            pages.spans.push(Span {
                id: id.to_owned(),
                mark: mark.map(str::to_owned),
                item,
                price_per_hour_nanos: price,
                from_us: whole_ms(at_us),
                until_us: None,
            });
        }
    }

    /// Closes all spans of a machine.
    pub(super) fn close(&self, id: &str, at_us: u64) {
        for span in self.pages().spans.iter_mut().filter(|span| span.id == id && span.until_us.is_none()) {
            span.until_us = Some(whole_ms(at_us));
        }
    }

    /// Sets what an item of a machine cost so far, by the provider's own measurement.
    pub(super) fn tell(&self, id: &str, mark: Option<&str>, item: &str, nanos: u64) {
        let key = (id.to_owned(), item.to_owned());
        self.pages().told.insert(key, (mark.map(str::to_owned), nanos));
    }

    /// The invoice as it stands.
    pub(super) fn invoice(&self, now_us: u64) -> Invoice {
        let pages = self.pages();
        let spans = pages.spans.iter().map(|span| {
            let length = span.until_us.unwrap_or(whole_ms(now_us)).saturating_sub(span.from_us);
            let billed_us = length.div_ceil(self.unit_us) * self.unit_us;
            InvoiceLine {
                id: span.id.clone(),
                mark: span.mark.clone(),
                item: span.item.to_owned(),
                from_us: span.from_us,
                until_us: span.until_us,
                billed_us,
                price_per_hour_nanos: span.price_per_hour_nanos,
                amount_nanos: amount(billed_us, span.price_per_hour_nanos),
            }
        });
        let told = pages.told.iter().map(|((id, item), (mark, nanos))| InvoiceLine {
            id: id.clone(),
            mark: mark.clone(),
            item: item.clone(),
            from_us: 0,
            until_us: None,
            billed_us: 0,
            price_per_hour_nanos: 0,
            amount_nanos: *nanos,
        });
        let lines: Vec<InvoiceLine> = spans.chain(told).collect();
        let total_nanos = lines.iter().map(|line| line.amount_nanos).sum();
        Invoice { lines, total_nanos }
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn whole_ms(at_us: u64) -> u64 {
    at_us - at_us % 1_000
}

/// What a span costs, rounded up.
fn amount(billed_us: u64, price_per_hour_nanos: u64) -> u64 {
    let nanos = (u128::from(billed_us) * u128::from(price_per_hour_nanos)).div_ceil(3_600_000_000);
    u64::try_from(nanos).expect("a thousand years at any price fit")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_begun_minute_is_a_minute_and_a_part_of_a_nano_dollar_is_one() {
        let meter = Meter::new(Duration::from_secs(60));
        meter.open("i", Some("order"), "machine", 1_290_000_000, 1_000);
        meter.open("i", Some("order"), "machine", 9, 2_000);
        meter.close("i", 1_100_000);
        let invoice = meter.invoice(99_000_000);
        assert_eq!(invoice.lines.len(), 1, "an open span is not opened twice");
        assert_eq!((invoice.lines[0].billed_us, invoice.total_nanos), (60_000_000, 21_500_000));
        assert_eq!(amount(60_000_000, 100), 2); // 1.67 nano-dollars
    }

    #[test]
    fn an_open_span_costs_up_to_now_and_each_span_is_rounded_alone() {
        let meter = Meter::new(Duration::from_secs(1));
        for from in [0, 5_000_000] {
            meter.open("i", None, "machine", 3_600_000_000, from);
            meter.close("i", from + 1_000);
        }
        meter.open("i", None, "parked", 3_600_000, 7_000_000);
        meter.tell("j", None, "debit notes", 5);
        meter.tell("j", None, "debit notes", 7);
        assert_eq!(meter.invoice(9_500_000).total_nanos, 1_000_000 + 1_000_000 + 3_000 + 7);
    }
}
