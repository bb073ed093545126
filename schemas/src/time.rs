//! Points in time. Spans are `std::time::Duration`.

use std::{fmt, time::Duration};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

/// Microseconds since the Unix epoch, UTC. On the wire a plain integer in a field that ends in `_us`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Micros(u64);

impl Micros {
    /// Wraps a count of microseconds since the epoch.
    pub const fn new(micros: u64) -> Self {
        Self(micros)
    }

    /// The count.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// From a JetStream time stamp, nanoseconds since the epoch; truncates to whole microseconds.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos / 1_000)
    }

    /// The span from `earlier` to `self`; zero if `earlier` is later (clocks of two hosts differ).
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0))
    }

    /// As a calendar time; the epoch when out of chrono's range.
    pub fn to_datetime(self) -> DateTime<Utc> {
        i64::try_from(self.0).ok().and_then(DateTime::from_timestamp_micros).unwrap_or_default()
    }
}

impl From<DateTime<Utc>> for Micros {
    /// Times before 1970 become the epoch.
    fn from(at: DateTime<Utc>) -> Self {
        Self(u64::try_from(at.timestamp_micros()).unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Micros {
    type Output = Self;
    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(micros(span)))
    }
}

impl std::ops::Sub<Duration> for Micros {
    type Output = Self;
    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(micros(span)))
    }
}

impl fmt::Display for Micros {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_datetime().to_rfc3339_opts(chrono::SecondsFormat::Millis, true))
    }
}

/// A span in whole microseconds, saturating.
pub fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// For spans that are left out of messages when there is nothing to say.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's own shape")]
pub(crate) const fn is_zero(micros: &u64) -> bool {
    *micros == 0
}

/// Where wall time comes from; the seam lets a test or a simulation own the clock.
pub trait Clock: Send + Sync + 'static {
    /// Now, in UTC.
    fn now(&self) -> Micros;
}
