//! What the price book says of a type of machine, against what its provider tells. Pure.

use schemas::{
    Micros, ProviderId, UsdNanos,
    prices::{Price, PriceBook, Unit},
};

/// How far a provider's price may be from the book's unless the operator says otherwise, thousandths.
pub const TOLERANCE: u32 = 200;

/// The book's prices for one type, and how far the provider's may be from them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BookPrice {
    prices: Vec<Price>,
    tolerance: u32,
}

/// A price that is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Differs {
    /// What the book says, dollars an hour.
    pub booked: UsdNanos,
    /// How far a price may be from it, thousandths.
    pub tolerance: u32,
}

impl Default for BookPrice {
    /// The book says nothing.
    fn default() -> Self {
        Self { prices: Vec::new(), tolerance: TOLERANCE }
    }
}

impl BookPrice {
    /// What `book` says of a provider's type by the time it stands: its prices per hour, or per second.
    pub fn of(book: &PriceBook, provider: &ProviderId, sku: &str, tolerance: u32) -> Self {
        let by_time = |price: &&Price| match price.unit {
            Unit::Hour | Unit::Second => true,
            Unit::Inference | Unit::MillionTokens | Unit::MillionInputTokens | Unit::MillionOutputTokens => {
                false
            }
        };
        let of_type = book.prices.iter().filter(|price| price.provider == *provider && price.sku == sku);
        Self { prices: of_type.filter(by_time).cloned().collect(), tolerance }
    }

    /// Dollars an hour in force at a moment; `None` where the book has none.
    pub fn at(&self, now: Micros) -> Option<UsdNanos> {
        let price = self.prices.iter().find(|price| price.in_force(now))?;
        if price.unit == Unit::Second { price.usd.times(3_600) } else { Some(price.usd) }
    }

    /// Whether a provider's price is further from the book's than it may be, to either side.
    pub fn differs(&self, told: UsdNanos, now: Micros) -> Option<Differs> {
        let booked = self.at(now)?;
        let apart = u128::from(told.get().abs_diff(booked.get())) * 1_000;
        let within = u128::from(booked.get()) * u128::from(self.tolerance);
        (apart > within).then_some(Differs { booked, tolerance: self.tolerance })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn book(sku: &str, unit: &str, usd: &str, more: &str) -> BookPrice {
        let text = format!(
            "version = \"1\"\nas_of = \"2026-11-24\"\nsource = \"test\"\n[[price]]\nprovider = \"lambda\"\nsku = \"{sku}\"\n\
             unit = \"{unit}\"\nusd = \"{usd}\"\n{more}"
        );
        BookPrice::of(&PriceBook::from_toml(&text).unwrap(), &"lambda".parse().unwrap(), "gpu_1x_a10", 200)
    }

    fn usd(text: &str) -> UsdNanos {
        text.parse().unwrap()
    }

    #[test]
    fn a_price_may_be_a_fifth_above_or_below_the_book_and_no_further() {
        let book = book("gpu_1x_a10", "hour", "1.00", "");
        for (told, refused) in [("1.2", false), ("0.8", false), ("1.200000001", true), ("0.799999999", true)]
        {
            assert_eq!(book.differs(usd(told), NOW).is_some(), refused, "{told}");
        }
    }

    #[test]
    fn a_price_per_second_is_one_per_hour_and_what_the_book_does_not_know_is_no_difference() {
        assert_eq!(book("gpu_1x_a10", "second", "0.0005", "").at(NOW), Some(usd("1.8")));
        assert_eq!(book("gpu_8x_h100", "hour", "1.00", "").differs(usd("9"), NOW), None);
        assert_eq!(book("gpu_1x_a10", "inference", "0.0001", "").differs(usd("9"), NOW), None);
        let over = book("gpu_1x_a10", "hour", "1.00", "until = \"2026-01-01T00:00:00Z\"");
        assert_eq!(over.differs(usd("9"), NOW), None);
    }
}
