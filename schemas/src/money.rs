//! Money: unsigned nano-dollars, checked arithmetic, every rounding named. Never a float.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// US dollars in nano-dollars: `UsdNanos::new(1_500_000_000)` is $1.50. Up to about $18.4 billion.
///
/// On the wire a decimal string of dollars (`"1.5"`), because readers that parse JSON numbers as doubles would
/// not be exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UsdNanos(u64);

/// Why a text is no amount of dollars.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("amount `{0}` must be dollars as a decimal number with at most nine decimals, not negative")]
pub struct MoneyError(String);

impl UsdNanos {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// Wraps a count of nano-dollars.
    pub const fn new(nanos: u64) -> Self {
        Self(nanos)
    }

    /// The count of nano-dollars.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The sum; `None` if out of range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// The sum, at most the largest amount there is: for accounts that must go on whatever stands in them.
    #[must_use]
    pub fn saturating_add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; `None` if it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// What `tokens` cost when `self` is the price of a million tokens; `None` if out of range.
    ///
    /// Multiplies before dividing and rounds up, so a cheap token is never free.
    pub fn for_tokens(self, tokens: u64) -> Option<Self> {
        Self::ratio_up(self.0, tokens, 1_000_000)
    }

    /// What `span` costs when `self` is the price of a second; whole microseconds, rounded up once at the end.
    pub fn for_seconds(self, span: Duration) -> Option<Self> {
        Self::ratio_up(self.0, u64::try_from(span.as_micros()).ok()?, 1_000_000)
    }

    /// What `span` costs when `self` is the price of an hour; whole microseconds, rounded up once at the end.
    pub fn for_hours(self, span: Duration) -> Option<Self> {
        Self::ratio_up(self.0, u64::try_from(span.as_micros()).ok()?, 3_600_000_000)
    }

    /// The same, rounded down: for parts that must not add up to more than the whole.
    pub fn for_hours_down(self, span: Duration) -> Option<Self> {
        let nanos = u128::from(self.0) * u128::from(u64::try_from(span.as_micros()).ok()?);
        u64::try_from(nanos / 3_600_000_000).ok().map(Self)
    }

    /// One of `parts` equal parts, rounded down; `None` when `parts` is zero.
    pub fn part(self, parts: u64) -> Option<Self> {
        self.0.checked_div(parts).map(Self)
    }

    /// What `count` pieces cost when `self` is the price of one.
    pub fn times(self, count: u64) -> Option<Self> {
        self.0.checked_mul(count).map(Self)
    }

    /// The mean of `self` over `count`, rounded up; `None` when `count` is zero.
    pub fn per(self, count: u64) -> Option<Self> {
        (count > 0).then(|| Self(self.0.div_ceil(count)))
    }

    fn ratio_up(price: u64, quantity: u64, per: u64) -> Option<Self> {
        // Nearly all products fit, and a division of 128 bits takes ten times as long.
        if let Some(product) = price.checked_mul(quantity) {
            return Some(Self(product.div_ceil(per)));
        }
        let nanos = (u128::from(price) * u128::from(quantity)).div_ceil(u128::from(per));
        u64::try_from(nanos).ok().map(Self)
    }
}

/// Adds up amounts; `None` if out of range.
pub fn total(amounts: impl IntoIterator<Item = UsdNanos>) -> Option<UsdNanos> {
    amounts.into_iter().try_fold(UsdNanos::ZERO, UsdNanos::checked_add)
}

impl fmt::Display for UsdNanos {
    /// Dollars without a sign and without trailing zeros: `0.0001`, `12`, `0`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:09}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for UsdNanos {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<Self, MoneyError> {
        let refuse = || MoneyError(text.chars().take(40).collect());
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > 9 || text.ends_with('.') {
            return Err(refuse());
        }
        let whole: u64 = whole.parse().map_err(|_| refuse())?;
        let part: u64 = format!("{part:0<9}").parse().map_err(|_| refuse())?;
        whole.checked_mul(1_000_000_000).and_then(|n| n.checked_add(part)).map(Self).ok_or_else(refuse)
    }
}

impl Serialize for UsdNanos {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for UsdNanos {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_cheap_token_is_never_free() {
        assert_eq!(UsdNanos::new(1).for_tokens(1), Some(UsdNanos::new(1)));
        assert_eq!(UsdNanos::new(1).for_tokens(0), Some(UsdNanos::ZERO));
    }

    #[test]
    fn two_seconds_of_a_t4_cost_what_the_report_says() {
        let t4: UsdNanos = "0.000164".parse().unwrap();
        assert_eq!(t4.for_seconds(Duration::from_secs(2)).unwrap().to_string(), "0.000328");
    }

    #[test]
    fn texts_that_are_no_amounts_are_refused() {
        for bad in ["", "-1", ".5", "1.", "1e3", "0.0000000001", "1,5", "99999999999999", " 1", "NaN"] {
            assert!(bad.parse::<UsdNanos>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn text_and_amount_are_one(nanos: u64) {
            let amount = UsdNanos::new(nanos);
            prop_assert_eq!(amount.to_string().parse::<UsdNanos>().unwrap(), amount);
            let json = serde_json::to_string(&amount).unwrap();
            prop_assert_eq!(serde_json::from_str::<UsdNanos>(&json).unwrap(), amount);
        }

        #[test]
        fn shares_of_a_machine_never_cost_more_than_the_machine(
            hour in 0..1_000_000_000_000u64,
            slots in 1..64u64,
            spans in prop::collection::vec(0..10_000_000_000u64, 1..50),
        ) {
            let (hour, whole) = (UsdNanos::new(hour), spans.iter().sum());
            let slot = hour.part(slots).unwrap();
            let shares = spans.iter().map(|us| slot.for_hours_down(Duration::from_micros(*us)).unwrap());
            // That much slot-time on all slots is a slots-th of that on the machine.
            let machine = hour.for_hours(Duration::from_micros(whole)).unwrap();
            prop_assert!(total(shares).unwrap().get() * slots <= machine.get());
        }

        #[test]
        fn parts_never_cost_less_than_the_whole(price in 0..10_000_000_000u64, a in 0..10_000_000u64, b in 0..10_000_000u64) {
            let price = UsdNanos::new(price);
            let whole = price.for_tokens(a + b).unwrap();
            let parts = price.for_tokens(a).unwrap().checked_add(price.for_tokens(b).unwrap()).unwrap();
            prop_assert!(parts >= whole);
            prop_assert!(parts.get() <= whole.get() + 1);
        }
    }
}
