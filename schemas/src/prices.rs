//! The price book: dated, versioned prices per provider and SKU. An unknown price is an error, never a zero.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{ProviderId, UsdNanos, cost::CostLine};

/// What a price is the price of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A second of a machine.
    Second,
    /// An hour of a machine, charged by the microsecond.
    Hour,
    /// One inference, however long.
    Inference,
    /// A million tokens, read or written.
    MillionTokens,
    /// A million tokens read.
    MillionInputTokens,
    /// A million tokens written.
    MillionOutputTokens,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Hour => "hour",
            Self::Inference => "inference",
            Self::MillionTokens => "million tokens",
            Self::MillionInputTokens => "million input tokens",
            Self::MillionOutputTokens => "million output tokens",
        })
    }
}

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
    /// Two prices for the same thing.
    #[error("provider `{0}` has two prices for sku `{1}` per {2}")]
    Twice(ProviderId, String, Unit),
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
    /// Reads a book and checks that nothing has two prices.
    pub fn from_toml(text: &str) -> Result<Self, PriceError> {
        let book: Self = toml::from_str(text).map_err(|e| PriceError::Read(one_line(&e.to_string())))?;
        for (i, a) in book.prices.iter().enumerate() {
            if book.prices[..i].iter().any(|b| (&b.provider, &b.sku, b.unit) == (&a.provider, &a.sku, a.unit))
            {
                return Err(PriceError::Twice(a.provider.clone(), a.sku.clone(), a.unit));
            }
        }
        Ok(book)
    }

    /// All prices of a SKU, one per unit.
    pub fn of<'a>(&'a self, provider: &'a ProviderId, sku: &'a str) -> impl Iterator<Item = &'a Price> {
        self.prices.iter().filter(move |p| p.provider == *provider && p.sku == sku)
    }

    /// Refuses a SKU that has no price, so that a pool is refused before it runs anything.
    pub fn require(&self, provider: &ProviderId, sku: &str) -> Result<(), PriceError> {
        self.of(provider, sku)
            .next()
            .map(drop)
            .ok_or_else(|| PriceError::Unknown(provider.clone(), sku.to_owned()))
    }

    /// The bill for a usage: one line per price that counts it. `item` says what it was for.
    pub fn bill(
        &self,
        provider: &ProviderId,
        sku: &str,
        item: &str,
        used: Used,
    ) -> Result<Vec<CostLine>, PriceError> {
        self.require(provider, sku)?;
        let mut bill = Vec::new();
        for price in self.of(provider, sku) {
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
            });
        }
        match (bill.is_empty(), self.of(provider, sku).next()) {
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
        let bill = book.bill(&provider.parse().unwrap(), sku, "execution", used).unwrap();
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
        assert!(matches!(book.require(&modal, "H200"), Err(PriceError::Unknown(..))));
        assert!(matches!(book.bill(&modal, "T4", "x", Used::Inferences(1)), Err(PriceError::Unit { .. })));
    }

    #[test]
    fn two_prices_for_one_thing_are_refused() {
        let twice = format!("{BOOK}\n[[price]]\nprovider=\"modal\"\nsku=\"T4\"\nunit=\"second\"\nusd=\"1\"");
        assert!(matches!(PriceBook::from_toml(&twice), Err(PriceError::Twice(..))));
    }
}
