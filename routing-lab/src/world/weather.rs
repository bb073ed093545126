//! The faults of one pool at one time.

use std::time::Duration;

use schemas::Micros;

use crate::scenario::FaultKind;

/// The faults of a pool, now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Weather {
    pub(super) down: bool,
    pub(super) slow: f64,
    pub(super) hang: bool,
    pub(super) rate_limit: Option<(f64, Duration)>,
    pub(super) cut_until: Option<Micros>,
    pub(super) price: f64,
    pub(super) cold: f64,
    pub(super) garbage: f64,
    pub(super) capacity: f64,
}

impl Weather {
    /// No faults.
    pub(super) const FAIR: Self = Self {
        down: false,
        slow: 1.0,
        hang: false,
        rate_limit: None,
        cut_until: None,
        price: 1.0,
        cold: 1.0,
        garbage: 0.0,
        capacity: 1.0,
    };

    /// A fault begins that ends at `until`.
    pub(super) const fn strike(&mut self, kind: FaultKind, until: Micros) {
        match kind {
            FaultKind::Down => self.down = true,
            FaultKind::Slow(factor) => self.slow = factor,
            FaultKind::Hang => self.hang = true,
            FaultKind::RateLimit { part, retry_after } => self.rate_limit = Some((part, retry_after)),
            FaultKind::CutOff => self.cut_until = Some(until),
            FaultKind::Price(factor) => self.price = factor,
            FaultKind::ColdStarts(factor) => self.cold = factor,
            FaultKind::Garbage(part) => self.garbage = part,
            FaultKind::Capacity(part) => self.capacity = part,
        }
    }

    /// A fault ends.
    pub(super) const fn calm(&mut self, kind: FaultKind) {
        match kind {
            FaultKind::Down => self.down = Self::FAIR.down,
            FaultKind::Slow(_) => self.slow = Self::FAIR.slow,
            FaultKind::Hang => self.hang = Self::FAIR.hang,
            FaultKind::RateLimit { .. } => self.rate_limit = Self::FAIR.rate_limit,
            FaultKind::CutOff => self.cut_until = Self::FAIR.cut_until,
            FaultKind::Price(_) => self.price = Self::FAIR.price,
            FaultKind::ColdStarts(_) => self.cold = Self::FAIR.cold,
            FaultKind::Garbage(_) => self.garbage = Self::FAIR.garbage,
            FaultKind::Capacity(_) => self.capacity = Self::FAIR.capacity,
        }
    }
}
