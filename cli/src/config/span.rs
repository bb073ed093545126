//! Spans as a person writes them: `250ms`, `60s`, `10m`, `24h`, `3d`. A plain number has no unit and is refused.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A span of time, whole milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span(Duration);

/// Why a text is no span.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` must be a whole number and one of ms, s, m, h and d, for instance 60s")]
pub(crate) struct SpanError(String);

/// The longest span: nothing here lasts longer than ten years, and sums of two cannot overflow.
const DAYS_MAX: u64 = 3_650;

/// Units with their milliseconds; `ms` before `m` and `s`, which are its last letters.
const UNITS: [(&str, u64); 5] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];

impl Span {
    pub(crate) const fn millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub(crate) const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    pub(crate) const fn get(self) -> Duration {
        self.0
    }
}

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let refuse = || SpanError(text.chars().take(40).collect());
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
        let number: u64 = number.parse().map_err(|_| refuse())?;
        number
            .checked_mul(*factor)
            .filter(|millis| *millis <= DAYS_MAX * 86_400_000)
            .map(Self::millis)
            .ok_or_else(refuse)
    }
}

impl fmt::Display for Span {
    /// In the largest unit that needs no fraction.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, factor) = UNITS
            .iter()
            .rev()
            .find(|(_, factor)| millis >= *factor && millis.is_multiple_of(*factor))
            .unwrap_or(&UNITS[0]);
        write!(f, "{}{unit}", millis / factor)
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a span in quotes such as \"60s\" or \"250ms\"")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_number_and_a_unit() {
        for (text, millis) in [
            ("250ms", 250),
            ("60s", 60_000),
            ("10m", 600_000),
            ("24h", 86_400_000),
            ("3d", 259_200_000),
            ("0s", 0),
        ] {
            assert_eq!(text.parse::<Span>(), Ok(Span::millis(millis)), "{text}");
        }
    }

    #[test]
    fn a_span_without_unit_with_a_fraction_or_out_of_range_is_refused() {
        for bad in ["", "60", "s", "1.5s", "-1s", "60 s", "1w", "99999999999999d", "4000d"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_span_is_told_in_its_largest_whole_unit() {
        for text in ["250ms", "90s", "10m", "36h", "3d"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!(Span::secs(0).to_string(), "0ms");
    }
}
