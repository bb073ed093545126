//! Points in time as a person writes them: a span before now (`2h`), or RFC 3339.

use std::str::FromStr;

use chrono::DateTime;
use schemas::Micros;

use crate::config::span::Span;

/// Either way of saying it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Ago(Span),
    At(Micros),
}

impl When {
    pub(crate) fn from(self, now: Micros) -> Micros {
        match self {
            Self::Ago(span) => now - span.get(),
            Self::At(at) => at,
        }
    }
}

impl FromStr for When {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let span = text.parse().map(Self::Ago);
        let at = || DateTime::parse_from_rfc3339(text).map(|at| Self::At(at.to_utc().into()));
        span.or_else(|_| at()).map_err(|_| {
            format!("`{text}` must be a span before now, such as 2h, or a time, such as 2026-11-24T06:00:00Z")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_before_now_and_a_time_is_itself() {
        let now = Micros::new(10_000_000);
        assert_eq!("2s".parse::<When>().unwrap().from(now), Micros::new(8_000_000));
        assert_eq!("1970-01-01T00:00:01Z".parse::<When>().unwrap().from(now), Micros::new(1_000_000));
        assert!("yesterday".parse::<When>().is_err());
    }
}
