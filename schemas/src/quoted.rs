//! What a provider says that a SKU costs now, against the price book. Pure.

use std::fmt;

use serde::Serialize;

use crate::{
    Micros, ProviderId, UsdNanos,
    prices::{Price, PriceBook, Unit},
};

/// A price as the provider tells it now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PriceNow {
    /// For what, by the name that the price book has for it.
    pub sku: String,
    /// Per what.
    pub unit: Unit,
    /// Dollars.
    pub usd: UsdNanos,
}

/// What a provider says of its prices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Quoted {
    /// Its prices now.
    Told(Vec<PriceNow>),
    /// It has no API for prices. A person reads this page.
    Untold {
        /// Where the prices stand.
        page: &'static str,
    },
    /// It has one, and did not answer; why.
    Failed(String),
}

impl Quoted {
    /// The price of a SKU, where it is told.
    pub fn of(&self, sku: &str) -> Option<&PriceNow> {
        match self {
            Self::Told(prices) => prices.iter().find(|price| price.sku == sku),
            Self::Untold { .. } | Self::Failed(_) => None,
        }
    }
}

/// A price of the book beside the provider's, both per the book's unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Compared<'a> {
    /// What the book says.
    pub booked: &'a Price,
    /// What the provider says, dollars per the unit of the book's price.
    pub now: UsdNanos,
}

/// By how much a price is above or below another, in tenths of a percent; shown as `+3.2 %`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share(pub i64);

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sign = if self.0 < 0 { '-' } else { '+' };
        let tenths = self.0.unsigned_abs();
        write!(f, "{sign}{}.{} %", tenths / 10, tenths % 10)
    }
}

impl Compared<'_> {
    /// Whether both are the same amount.
    pub fn is_same(&self) -> bool {
        self.booked.usd == self.now
    }

    /// Whether they are further apart than `tolerance`, thousandths of the book's price, to either side.
    pub fn is_beyond(&self, tolerance: u32) -> bool {
        let apart = u128::from(self.now.get().abs_diff(self.booked.usd.get())) * 1_000;
        apart > u128::from(self.booked.usd.get()) * u128::from(tolerance)
    }

    /// By how much the provider's price is above the book's; `None` where the book says zero.
    pub fn share(&self) -> Option<Share> {
        let (booked, now) = (i128::from(self.booked.usd.get()), i128::from(self.now.get()));
        let tenths = ((now - booked) * 1_000).checked_div(booked)?;
        Some(Share(i64::try_from(tenths).unwrap_or(i64::MAX)))
    }
}

impl PriceNow {
    /// The price per another unit, rounded to the nearest nano-dollar; `None` where the two count different things, or out of range.
    pub fn per(&self, unit: Unit) -> Option<UsdNanos> {
        match (self.unit, unit) {
            (from, to) if from == to => Some(self.usd),
            (Unit::Hour, Unit::Second) => {
                Some(UsdNanos::new(self.usd.get() / 3_600 + u64::from(self.usd.get() % 3_600 >= 1_800)))
            }
            (Unit::Second, Unit::Hour) => self.usd.times(3_600),
            (
                Unit::Second
                | Unit::Hour
                | Unit::Inference
                | Unit::MillionTokens
                | Unit::MillionInputTokens
                | Unit::MillionOutputTokens,
                _,
            ) => None,
        }
    }
}

impl PriceBook {
    /// The price in force at `at` that counts what `now` counts, beside it; `None` where the book has none.
    pub fn compare<'a>(
        &'a self,
        provider: &'a ProviderId,
        now: &'a PriceNow,
        at: Micros,
    ) -> Option<Compared<'a>> {
        self.of(provider, &now.sku, at)
            .find_map(|booked| Some(Compared { booked, now: now.per(booked.unit)? }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Micros = Micros::new(1_796_126_400_000_000);

    fn book(unit: &str, usd: &str) -> PriceBook {
        let text = format!(
            "version = \"1\"\nas_of = \"2026-11-24\"\nsource = \"test\"\n[[price]]\nprovider = \"p\"\nsku = \"s\"\n\
             unit = \"{unit}\"\nusd = \"{usd}\"\n"
        );
        PriceBook::from_toml(&text).unwrap()
    }

    fn now(unit: Unit, usd: &str) -> PriceNow {
        PriceNow { sku: "s".into(), unit, usd: usd.parse().unwrap() }
    }

    #[test]
    fn a_price_by_the_hour_is_compared_in_the_unit_of_the_book() {
        let (book, told) = (book("second", "0.00016"), now(Unit::Hour, "0.576"));
        let provider = "p".parse().unwrap();
        let same = book.compare(&provider, &told, AT).unwrap();
        assert!(same.is_same(), "{same:?}");
        let told = now(Unit::Hour, "0.72");
        let dearer = book.compare(&provider, &told, AT).unwrap();
        assert_eq!(
            (dearer.now, dearer.share().unwrap().to_string()),
            ("0.0002".parse().unwrap(), "+25.0 %".into())
        );
        assert!(dearer.is_beyond(200) && !dearer.is_beyond(250));
        // What an hour comes to by rounded seconds is no difference.
        assert_eq!(now(Unit::Hour, "0.58").per(Unit::Second), Some("0.000161111".parse().unwrap()));
    }

    #[test]
    fn what_counts_something_else_is_not_compared() {
        let provider = "p".parse().unwrap();
        assert_eq!(book("inference", "0.0001").compare(&provider, &now(Unit::Hour, "1"), AT), None);
        assert_eq!(book("hour", "1").compare(&"q".parse().unwrap(), &now(Unit::Hour, "1"), AT), None);
    }

    #[test]
    fn a_share_goes_to_either_side_and_nothing_has_none() {
        let (provider, told) = ("p".parse().unwrap(), now(Unit::Hour, "0.9"));
        let (one, zero) = (book("hour", "1"), book("hour", "0"));
        assert_eq!(one.compare(&provider, &told, AT).unwrap().share().unwrap().to_string(), "-10.0 %");
        let from_nothing = zero.compare(&provider, &told, AT).unwrap();
        assert_eq!((from_nothing.share(), from_nothing.is_beyond(200)), (None, true));
    }
}
