//! Decimal numbers, exactly as they are written: amounts of GLM, prices and counters. Never a float.

use std::{cmp::Ordering, fmt, str::FromStr};

/// Intermediate products are kept to this many decimals: six more than GLM has, so that no sum of ours is off by one.
const KEPT: u32 = 24;

/// More decimals than this are refused; a double has at most 17 digits, and no price is below 10⁻³⁰.
const SCALE_MAX: u32 = 60;

/// A number that is not negative: `digits` × 10^-`scale`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decimal {
    digits: u128,
    scale: u32,
}

/// Why a text is no such number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no decimal number that we can hold exactly: not negative, at most 38 digits")]
pub struct DecimalError(String);

impl Decimal {
    /// Nothing.
    pub const ZERO: Self = Self { digits: 0, scale: 0 };

    /// A whole number.
    pub const fn whole(number: u64) -> Self {
        Self { digits: number as u128, scale: 0 }
    }

    /// `nanos` × 10⁻⁹.
    pub const fn nanos(nanos: u64) -> Self {
        Self { digits: nanos as u128, scale: 9 }
    }

    /// Whether it is nothing.
    pub fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// The sum; `None` if out of range.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let digits = self.at(scale)?.checked_add(other.at(scale)?)?;
        Some(Self { digits, scale }.shortened())
    }

    /// The product, rounded half up to 24 decimals; `None` if out of range.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let (a, b) = (self.shortened(), other.shortened());
        let product = Self { digits: a.digits.checked_mul(b.digits)?, scale: a.scale + b.scale };
        Some(product.rounded_half_up(KEPT).shortened())
    }

    /// The count of 10^-`decimals` that it is, rounded up; `None` if out of range.
    pub fn rounded_up(self, decimals: u32) -> Option<u128> {
        if self.scale <= decimals {
            return self.at(decimals);
        }
        Some(match 10_u128.checked_pow(self.scale - decimals) {
            Some(divisor) => self.digits.div_ceil(divisor),
            None => u128::from(self.digits > 0),
        })
    }

    fn rounded_half_up(self, scale: u32) -> Self {
        if self.scale <= scale {
            return self;
        }
        let digits = match 10_u128.checked_pow(self.scale - scale) {
            Some(divisor) => self.digits / divisor + u128::from(self.digits % divisor >= divisor.div_ceil(2)),
            None => 0,
        };
        Self { digits, scale }
    }

    /// The digits at a scale that is not below its own.
    fn at(self, scale: u32) -> Option<u128> {
        self.digits.checked_mul(10_u128.checked_pow(scale - self.scale)?)
    }

    fn shortened(mut self) -> Self {
        if self.digits == 0 {
            return Self::ZERO;
        }
        while self.scale > 0 && self.digits.is_multiple_of(10) {
            (self.digits, self.scale) = (self.digits / 10, self.scale - 1);
        }
        self
    }
}

impl FromStr for Decimal {
    type Err = DecimalError;

    /// `12`, `0.000069`, `6.9e-5`.
    fn from_str(text: &str) -> Result<Self, DecimalError> {
        read(text).ok_or_else(|| DecimalError(text.chars().take(60).collect()))
    }
}

fn read(text: &str) -> Option<Decimal> {
    let (number, exponent) = match text.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let all_digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit());
    if whole.is_empty() || number.ends_with('.') || !all_digits(whole) || !all_digits(part) {
        return None;
    }
    let part = part.trim_end_matches('0');
    let digits: u128 = format!("{whole}{part}").parse().ok()?;
    let scale = i32::try_from(part.len()).ok()?.checked_sub(exponent)?;
    let read = if let Ok(scale) = u32::try_from(scale) {
        Decimal { digits, scale }
    } else {
        let digits = digits.checked_mul(10_u128.checked_pow(scale.unsigned_abs())?)?;
        Decimal { digits, scale: 0 }
    };
    (read.scale <= SCALE_MAX || digits == 0).then(|| read.shortened())
}

impl fmt::Display for Decimal {
    /// Without an exponent and without trailing zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = self.shortened();
        let scale = short.scale as usize;
        let digits = format!("{:0>width$}", short.digits, width = scale + 1);
        let (whole, part) = digits.split_at(digits.len() - scale);
        if part.is_empty() { f.write_str(whole) } else { write!(f, "{whole}.{part}") }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b) = (self.shortened(), other.shortened());
        let scale = a.scale.max(b.scale);
        match (a.at(scale), b.at(scale)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // At most one of them is stretched, so the one that does not fit is the larger one.
            (None, _) => Ordering::Greater,
            (_, None) => Ordering::Less,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decimal(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_read_as_json_and_people_write_them() {
        for (text, shown) in [
            ("0", "0"),
            ("0.10", "0.1"),
            ("12.5e1", "125"),
            ("6.944444444444444e-05", "0.00006944444444444444"),
            ("1e3", "1000"),
            ("0.000000000000000001", "0.000000000000000001"),
        ] {
            assert_eq!(decimal(text).to_string(), shown);
        }
        for bad in ["", "-1", ".5", "1.", "1,5", "NaN", "1e", "1e999", "1e-99", &"9".repeat(40)] {
            assert!(bad.parse::<Decimal>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_price_times_a_counter_is_exact() {
        let due = decimal("0.00006944444444444444").checked_mul(decimal("3605.2")).unwrap();
        assert_eq!(due.to_string(), "0.250361111111111095088");
        assert_eq!(decimal("0.1").checked_add(decimal("0.02")).unwrap(), decimal("0.120"));
    }

    #[test]
    fn rounding_up_never_gives_away_a_part() {
        assert_eq!(decimal("0.0000000001").rounded_up(9), Some(1));
        assert_eq!(decimal("1.000000001").rounded_up(9), Some(1_000_000_001));
        assert_eq!(decimal("1e-55").rounded_up(9), Some(1));
        assert_eq!(Decimal::ZERO.rounded_up(9), Some(0));
    }

    proptest! {
        #[test]
        fn a_number_survives_its_text(digits in any::<u64>(), scale in 0_u32..30) {
            let number = Decimal { digits: digits.into(), scale };
            prop_assert_eq!(decimal(&number.to_string()), number);
        }

        #[test]
        fn order_is_that_of_the_numbers(a in any::<u32>(), b in any::<u32>(), scale in 0_u32..20) {
            let (x, y) = (Decimal { digits: a.into(), scale }, Decimal { digits: b.into(), scale });
            prop_assert_eq!(x.cmp(&y), a.cmp(&b));
            prop_assert_eq!(x.cmp(&Decimal { digits: u128::from(b) * 1000, scale: scale + 3 }), a.cmp(&b));
        }
    }
}
