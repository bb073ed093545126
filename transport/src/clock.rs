//! Wall time. The one place where the system's clock is read for the wire.

use std::time::{SystemTime, UNIX_EPOCH};

use schemas::{Micros, time::Clock};

/// The machine's own clock. Leases and `accept_by` compare times of several hosts, so keep them in step (NTP).
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Micros::new(schemas::time::micros(since))
    }
}
