//! The price book: dated, versioned prices per provider and SKU. An unknown price is an error, never a zero.
//!
//! A price may hold for a time only. Every question is about a moment, and is answered with the prices in force at it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Micros, ProviderId, UsdNanos, line::CostLine};

pub use crate::line::Unit;

/// One price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// Who charges it.
    pub provider: ProviderId,
    /// For what, as the provider calls it.
    pub sku: String,
    /// Per what.
    pub unit: Unit,
    /// Dollars, as a decimal string.
    pub usd: UsdNanos,
    /// In force from here on; always was, when missing. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<DateTime<Utc>>,
    /// In force until just before this; for good, when missing. RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
}

impl Price {
    /// Whether it holds at this moment.
    pub fn in_force(&self, at: Micros) -> bool {
        self.from.is_none_or(|from| Micros::from(from) <= at)
            && self.until.is_none_or(|end| at < Micros::from(end))
    }

    /// When it is in force, for messages.
    fn period(&self) -> String {
        let text = |at: DateTime<Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
        match (self.from.map(text), self.until.map(text)) {
            (None, None) => "always".into(),
            (Some(from), None) => format!("from {from}"),
            (None, Some(until)) => format!("until {until}"),
            (Some(from), Some(until)) => format!("from {from} until {until}"),
        }
    }

    fn is_same_thing(&self, other: &Self) -> bool {
        (&self.provider, &self.sku, self.unit) == (&other.provider, &other.sku, other.unit)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let begins_before_end = |a: &Self, b: &Self| match (a.from, b.until) {
            (Some(from), Some(until)) => from < until,
            (None, _) | (_, None) => true,
        };
        begins_before_end(self, other) && begins_before_end(other, self)
    }
}

/// A price book.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PriceBook {
    /// Names this state of the book; stands in every cost event.
    pub version: String,
    /// The day the prices were read.
    pub as_of: chrono::NaiveDate,
    /// Where they were read.
    pub source: String,
    /// The prices.
    #[serde(rename = "price")]
    pub prices: Vec<Price>,
}

/// Why a book or a bill is refused.
#[derive(Debug, thiserror::Error)]
pub enum PriceError {
    /// The file does not read.
    #[error("{0}")]
    Read(String),
    /// Two prices for the same thing at one time.
    #[error(
        "provider `{provider}` has two prices for sku `{sku}` per {unit} at one time: {first}, and {second}"
    )]
    Twice {
        /// Whose.
        provider: ProviderId,
        /// For what.
        sku: String,
        /// Per what.
        unit: Unit,
        /// When the one is in force.
        first: String,
        /// When the other is.
        second: String,
    },
    /// A price that never holds.
    #[error("provider `{0}` sku `{1}`: `from` of a price must be before its `until`, and it is in force {2}")]
    Never(ProviderId, String, String),
    /// There are prices, but none for that moment.
    #[error(
        "provider `{provider}` sku `{sku}` has no price in force at {at}; its prices are in force {periods}"
    )]
    NotInForce {
        /// Whose.
        provider: ProviderId,
        /// For what.
        sku: String,
        /// When.
        at: Micros,
        /// When those that there are hold.
        periods: String,
    },
    /// No price for what a pool uses.
    #[error(
        "no price for provider `{0}` sku `{1}`; add a [[price]] entry, an unknown price is never taken as zero"
    )]
    Unknown(ProviderId, String),
    /// A usage that the unit of the price cannot count.
    #[error("provider `{provider}` sku `{sku}` is priced per {unit}, which cannot count {usage}")]
    Unit {
        /// Who.
        provider: ProviderId,
        /// What.
        sku: String,
        /// The price's unit.
        unit: Unit,
        /// What was used.
        usage: &'static str,
    },
    /// More than the type holds.
    #[error("an amount of provider `{0}` sku `{1}` is out of range")]
    Range(ProviderId, String),
}

/// What was used, in the terms the provider bills in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Used {
    /// Machine time.
    Time(Duration),
    /// Whole inferences.
    Inferences(u64),
    /// Tokens read and written.
    Tokens {
        /// Read.
        input: u64,
        /// Written.
        output: u64,
    },
}

impl PriceBook {
    /// Reads a book and checks that nothing has two prices at any time.
    pub fn from_toml(text: &str) -> Result<Self, PriceError> {
        let book: Self = toml::from_str(text).map_err(|e| PriceError::Read(one_line(&e.to_string())))?;
        for (i, a) in book.prices.iter().enumerate() {
            if a.from.zip(a.until).is_some_and(|(from, until)| from >= until) {
                return Err(PriceError::Never(a.provider.clone(), a.sku.clone(), a.period()));
            }
            if let Some(b) = book.prices[..i].iter().find(|b| b.is_same_thing(a) && b.overlaps(a)) {
                return Err(PriceError::Twice {
                    provider: a.provider.clone(),
                    sku: a.sku.clone(),
                    unit: a.unit,
                    first: b.period(),
                    second: a.period(),
                });
            }
        }
        Ok(book)
    }

    /// The prices of a SKU that are in force at `at`, one per unit.
    pub fn of<'a>(
        &'a self,
        provider: &'a ProviderId,
        sku: &'a str,
        at: Micros,
    ) -> impl Iterator<Item = &'a Price> {
        self.at_any_time(provider, sku).filter(move |price| price.in_force(at))
    }

    fn at_any_time<'a>(&'a self, provider: &'a ProviderId, sku: &'a str) -> impl Iterator<Item = &'a Price> {
        self.prices.iter().filter(move |p| p.provider == *provider && p.sku == sku)
    }

    /// Refuses a SKU that has no price at `at`, so that a pool is refused before it runs anything.
    pub fn require(&self, provider: &ProviderId, sku: &str, at: Micros) -> Result<(), PriceError> {
        if self.at_any_time(provider, sku).next().is_none() {
            return Err(PriceError::Unknown(provider.clone(), sku.to_owned()));
        }
        let in_force = self.of(provider, sku, at).fold(0, |kinds, price| kinds | kinds_of_unit(price.unit));
        // Tokens are read and written in one call: a price for one half alone would make the other free.
        let used = if in_force & TOKENS > 0 { in_force | TOKENS } else { in_force };
        if in_force == 0 {
            Err(self.not_in_force(provider, sku, at))
        } else {
            self.no_gap(provider, sku, used, at)
        }
    }

    /// Whatever of `used` has a price at some time has one at `at`. Without this, a price that has ended would be a zero.
    fn no_gap(&self, provider: &ProviderId, sku: &str, used: u8, at: Micros) -> Result<(), PriceError> {
        let counted = |price: &Price| kinds_of_unit(price.unit) & used;
        let known = self.at_any_time(provider, sku).fold(0, |kinds, price| kinds | counted(price));
        let in_force = self.of(provider, sku, at).fold(0, |kinds, price| kinds | counted(price));
        if known == in_force { Ok(()) } else { Err(self.not_in_force(provider, sku, at)) }
    }

    fn not_in_force(&self, provider: &ProviderId, sku: &str, at: Micros) -> PriceError {
        let periods: Vec<String> = self.at_any_time(provider, sku).map(Price::period).collect();
        let periods = periods.join(", ");
        PriceError::NotInForce { provider: provider.clone(), sku: sku.to_owned(), at, periods }
    }

    /// The bill for a usage by the prices in force at `at`: one line per price that counts it. `item` says what it was for.
    pub fn bill(
        &self,
        provider: &ProviderId,
        sku: &str,
        item: &str,
        used: Used,
        at: Micros,
    ) -> Result<Vec<CostLine>, PriceError> {
        self.require(provider, sku, at)?;
        self.no_gap(provider, sku, kinds_of_use(used), at)?;
        let mut bill = Vec::new();
        for price in self.of(provider, sku, at) {
            let Some((name, quantity, amount)) = charge(price, item, used) else {
                continue;
            };
            let amount = amount.ok_or_else(|| PriceError::Range(provider.clone(), sku.to_owned()))?;
            bill.push(CostLine {
                sku: sku.to_owned(),
                unit: price.unit,
                quantity,
                item: name,
                unit_price_usd: price.usd,
                amount_usd: amount,
                machine: None,
            });
        }
        match (bill.is_empty(), self.of(provider, sku, at).next()) {
            (true, Some(price)) => Err(PriceError::Unit {
                provider: provider.clone(),
                sku: sku.to_owned(),
                unit: price.unit,
                usage: match used {
                    Used::Time(_) => "machine time",
                    Used::Inferences(_) => "inferences",
                    Used::Tokens { .. } => "tokens",
                },
            }),
            _ => Ok(bill),
        }
    }
}

const TIME: u8 = 1;
const INFERENCES: u8 = 2;
const INPUT: u8 = 4;
const OUTPUT: u8 = 8;
const TOKENS: u8 = INPUT | OUTPUT;

/// What a price can count.
const fn kinds_of_unit(unit: Unit) -> u8 {
    match unit {
        Unit::Second | Unit::Hour => TIME,
        Unit::Inference => INFERENCES,
        Unit::MillionTokens => TOKENS,
        Unit::MillionInputTokens => INPUT,
        Unit::MillionOutputTokens => OUTPUT,
    }
}

/// What there is to count.
const fn kinds_of_use(used: Used) -> u8 {
    match used {
        Used::Time(_) => TIME,
        Used::Inferences(_) => INFERENCES,
        Used::Tokens { .. } => TOKENS,
    }
}

/// Item, quantity and amount, if this price counts this usage; the amount is `None` when out of range.
fn charge(price: &Price, item: &str, used: Used) -> Option<(String, u64, Option<UsdNanos>)> {
    let usd = price.usd;
    let as_is = |quantity, amount| Some((item.to_owned(), quantity, amount));
    match (price.unit, used) {
        (Unit::Second, Used::Time(span)) => as_is(crate::time::micros(span), usd.for_seconds(span)),
        (Unit::Hour, Used::Time(span)) => as_is(crate::time::micros(span), usd.for_hours(span)),
        (Unit::Inference, Used::Inferences(count)) => as_is(count, usd.times(count)),
        (Unit::MillionTokens, Used::Tokens { input, output }) => {
            let tokens = input.saturating_add(output);
            Some(("tokens".into(), tokens, usd.for_tokens(tokens)))
        }
        (Unit::MillionInputTokens, Used::Tokens { input, .. }) => {
            Some(("input_tokens".into(), input, usd.for_tokens(input)))
        }
        (Unit::MillionOutputTokens, Used::Tokens { output, .. }) => {
            Some(("output_tokens".into(), output, usd.for_tokens(output)))
        }
        (Unit::Second | Unit::Hour, Used::Inferences(_) | Used::Tokens { .. })
        | (Unit::Inference, Used::Time(_) | Used::Tokens { .. })
        | (
            Unit::MillionTokens | Unit::MillionInputTokens | Unit::MillionOutputTokens,
            Used::Time(_) | Used::Inferences(_),
        ) => None,
    }
}

/// A TOML error on one line: where, then what.
pub fn one_line(text: &str) -> String {
    let mut parts: Vec<&str> = text.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    // The library draws the place with bars; the first line says where and the last one why.
    parts.retain(|l| !l.starts_with('|') && !l.contains(" | "));
    parts.join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-12-01T12:00:00Z.
    const NOON: Micros = Micros::new(1_796_126_400_000_000);
    const MORNING: Micros = Micros::new(NOON.get() - 1);

    const BOOK: &str = r#"
        version = "t1"
        as_of = "2025-09-05"
        source = "test"
        [[price]]
        provider = "modal"
        sku = "T4"
        unit = "second"
        usd = "0.000164"
        [[price]]
        provider = "fly"
        sku = "A10"
        unit = "hour"
        usd = "1.50"
        [[price]]
        provider = "host"
        sku = "text"
        unit = "million_input_tokens"
        usd = "0.10"
        [[price]]
        provider = "host"
        sku = "text"
        unit = "million_output_tokens"
        usd = "0.40"
    "#;

    fn check(provider: &str, sku: &str, used: Used, amounts: &[&str]) {
        let book = PriceBook::from_toml(BOOK).unwrap();
        let bill = book.bill(&provider.parse().unwrap(), sku, "execution", used, NOON).unwrap();
        assert_eq!(bill.iter().map(|l| l.amount_usd.to_string()).collect::<Vec<_>>(), amounts);
    }

    #[test]
    fn a_bill_follows_the_unit_of_the_price() {
        check("modal", "T4", Used::Time(Duration::from_secs(2)), &["0.000328"]);
        // The report's figure for two seconds of an A10 at Fly.io, rounded up to the nano-dollar.
        check("fly", "A10", Used::Time(Duration::from_secs(2)), &["0.000833334"]);
        check("host", "text", Used::Tokens { input: 1_000, output: 10 }, &["0.0001", "0.000004"]);
    }

    #[test]
    fn an_unknown_price_is_an_error_and_not_a_zero() {
        let book = PriceBook::from_toml(BOOK).unwrap();
        let modal = "modal".parse().unwrap();
        assert!(matches!(book.require(&modal, "H200", NOON), Err(PriceError::Unknown(..))));
        assert!(matches!(
            book.bill(&modal, "T4", "x", Used::Inferences(1), NOON),
            Err(PriceError::Unit { .. })
        ));
    }

    /// The book with more prices, each as `provider sku unit usd period`.
    fn book_with(prices: &[(&str, &str, &str, &str, &str)]) -> Result<PriceBook, PriceError> {
        let price = |(provider, sku, unit, usd, period): &(&str, &str, &str, &str, &str)| {
            format!(
                "[[price]]\nprovider = \"{provider}\"\nsku = \"{sku}\"\nunit = \"{unit}\"\nusd = \"{usd}\"\n{period}\n"
            )
        };
        PriceBook::from_toml(&format!("{BOOK}\n{}", prices.iter().map(price).collect::<String>()))
    }

    const UNTIL_NOON: &str = "until = \"2026-12-01T12:00:00Z\"";
    const FROM_NOON: &str = "from = \"2026-12-01T12:00:00Z\"";

    fn sum(
        book: &PriceBook,
        provider: &str,
        sku: &str,
        used: Used,
        at: Micros,
    ) -> Result<String, PriceError> {
        let bill = book.bill(&provider.parse().unwrap(), sku, "x", used, at)?;
        Ok(crate::money::total(bill.iter().map(|line| line.amount_usd)).unwrap().to_string())
    }

    #[test]
    fn a_price_rise_at_noon_is_charged_from_noon_on() {
        let golem = |usd, period| ("golem", "standard", "inference", usd, period);
        let book = book_with(&[golem("0.0001", UNTIL_NOON), golem("0.00014", FROM_NOON)]).unwrap();
        for (at, usd) in
            [(MORNING, "0.0001"), (NOON, "0.00014"), (NOON + Duration::from_secs(86_400), "0.00014")]
        {
            assert_eq!(sum(&book, "golem", "standard", Used::Inferences(1), at).unwrap(), usd);
        }
    }

    #[test]
    fn a_time_without_a_price_is_an_error_that_says_when_there_is_one() {
        let later = "from = \"2026-12-02T00:00:00Z\"\nuntil = \"2026-12-03T00:00:00Z\"";
        let l4 = |period| ("modal", "L4", "second", "0.0002", period);
        let book = book_with(&[l4(UNTIL_NOON), l4(later)]).unwrap();
        let used = Used::Time(Duration::from_secs(1));
        assert_eq!(sum(&book, "modal", "L4", used, MORNING).unwrap(), "0.0002");
        let error = book.require(&"modal".parse().unwrap(), "L4", NOON).unwrap_err().to_string();
        assert!(error.contains("`L4` has no price in force at 2026-12-01T12:00:00"), "{error}");
        assert!(
            error.contains("until 2026-12-01T12:00:00Z, from 2026-12-02T00:00:00Z until 2026-12-03"),
            "{error}"
        );
        assert!(matches!(sum(&book, "modal", "L4", used, NOON), Err(PriceError::NotInForce { .. })));
    }

    #[test]
    fn tokens_are_not_free_because_the_price_of_one_half_has_ended() {
        let half = |unit, period| ("h2", "text", unit, "1", period);
        let input = half("million_input_tokens", "");
        let used = Used::Tokens { input: 1_000, output: 1_000 };
        let gap = book_with(&[input, half("million_output_tokens", UNTIL_NOON)]).unwrap();
        assert_eq!(sum(&gap, "h2", "text", used, MORNING).unwrap(), "0.002");
        assert!(gap.require(&"h2".parse().unwrap(), "text", NOON).is_err());
        assert!(sum(&gap, "h2", "text", used, NOON).is_err());
        // Both halves replaced by one price for all is no gap.
        let halves = [half("million_input_tokens", UNTIL_NOON), half("million_output_tokens", UNTIL_NOON)];
        let replaced = book_with(&[halves[0], halves[1], half("million_tokens", FROM_NOON)]).unwrap();
        assert_eq!(sum(&replaced, "h2", "text", used, NOON).unwrap(), "0.002");
    }

    #[test]
    fn two_prices_for_one_thing_at_one_time_are_refused() {
        let t4 = |period| ("modal", "T4", "second", "1", period);
        let l4 = |period| ("modal", "L4", "second", "1", period);
        for twice in
            [&[t4("")][..], &[t4(FROM_NOON)], &[l4(FROM_NOON), l4("until = \"2026-12-01T12:00:01Z\"")]]
        {
            let error = book_with(twice).unwrap_err();
            assert!(matches!(error, PriceError::Twice { .. }), "{error}");
            assert!(!error.to_string().contains('\n'));
        }
        let error = book_with(&[t4(FROM_NOON)]).unwrap_err().to_string();
        assert!(error.ends_with("per second at one time: always, and from 2026-12-01T12:00:00Z"), "{error}");
        let never = format!("{FROM_NOON}\n{UNTIL_NOON}");
        assert!(matches!(book_with(&[l4(&never)]), Err(PriceError::Never(..))));
    }
}
