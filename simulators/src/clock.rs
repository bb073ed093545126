//! The simulator's clock, and how times and spans are written: whole microseconds inside, seconds on the wire.

use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio::time::{self, Instant};

/// The wall clock of one simulator. It pauses when tokio's does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    started: Instant,
    /// The wall clock at the start, in microseconds.
    started_unix_us: u64,
}

impl Clock {
    /// A clock that starts now, at this wall time.
    pub(crate) fn new(started_unix_us: u64) -> Self {
        Self { started: Instant::now(), started_unix_us }
    }

    /// Unix seconds now.
    pub(crate) fn unix_s(&self) -> u64 {
        self.unix_us(Instant::now()) / 1_000_000
    }

    /// Unix microseconds at a moment since the start.
    pub(crate) fn unix_us(&self, at: Instant) -> u64 {
        self.started_unix_us + micros(at.saturating_duration_since(self.started))
    }
}

/// Whole microseconds, rounded down.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).expect("half a million years fit")
}

/// Returns at once, without asking the timer, when the time has come.
pub(crate) async fn sleep_until(at: Instant) {
    if at > Instant::now() {
        time::sleep_until(at).await;
    }
}

/// Microseconds that are written as seconds with exactly six decimals, so that `round(seconds × 10⁶)` is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) u64);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let number = RawValue::from_string(text).expect("digits, a point and digits are a JSON number");
        number.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_have_six_decimals_whatever_they_are() {
        for (micros, text) in [(0, "0.000000"), (834_510, "0.834510"), (12_000_001, "12.000001")] {
            assert_eq!(serde_json::to_string(&Seconds(micros)).unwrap(), text);
        }
    }
}
