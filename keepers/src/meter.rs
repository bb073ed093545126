//! What a machine has cost so far. Pure; integers only.
//!
//! A clock meter adds up spans at a price, each span rounded up to the provider's unit. A told meter repeats what the provider
//! says. Either is only ever read as a total, so that whoever books the total again books nothing twice.

use std::time::Duration;

use schemas::{Micros, UsdNanos, time::micros};
use serde::{Deserialize, Serialize};

/// A stretch of time in which a machine was billed at one price.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stretch {
    /// When it began.
    pub from_us: Micros,
    /// When it ended; `None` while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_us: Option<Micros>,
    /// Dollars an hour.
    pub usd_per_hour: UsdNanos,
}

/// The cost of one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Stretches, oldest first; only the last may be open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    stretches: Vec<Stretch>,
    /// What the provider says that it cost; replaces the stretches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told_usd: Option<UsdNanos>,
    /// Bills round up to whole units of this, microseconds; 0 for none.
    #[serde(default)]
    unit_us: u64,
}

impl Meter {
    /// Nothing so far. `unit` is what the provider rounds up to.
    pub fn new(unit: Duration) -> Self {
        Self { unit_us: micros(unit), ..Self::default() }
    }

    /// Nothing so far, rounded like this one.
    #[must_use]
    pub fn fresh(&self) -> Self {
        Self { unit_us: self.unit_us, ..Self::default() }
    }

    /// Begins a stretch, or goes on with one at the same price. A stretch at another price ends first.
    pub fn run(&mut self, at: Micros, usd_per_hour: UsdNanos) {
        match self.stretches.last() {
            Some(last) if last.until_us.is_none() && last.usd_per_hour == usd_per_hour => {}
            _ => {
                self.stop(at);
                self.stretches.push(Stretch { from_us: at, until_us: None, usd_per_hour });
            }
        }
    }

    /// Ends the open stretch. `at` is never before its beginning.
    pub fn stop(&mut self, at: Micros) {
        if let Some(last) = self.stretches.last_mut().filter(|last| last.until_us.is_none()) {
            last.until_us = Some(at.max(last.from_us));
        }
    }

    /// Takes in what the provider tells: when billing began and ended, or the amount itself. Amounts never fall.
    pub fn told(
        &mut self,
        from: Option<Micros>,
        until: Option<Micros>,
        charged: Option<UsdNanos>,
        price: UsdNanos,
    ) {
        if let Some(charged) = charged {
            self.told_usd = Some(self.told_usd.map_or(charged, |before| before.max(charged)));
        }
        if let Some(from) = from {
            match self.stretches.as_mut_slice() {
                [] => self.stretches.push(Stretch { from_us: from, until_us: None, usd_per_hour: price }),
                // Our own reckoning of one stretch is corrected by the provider's word.
                [only] => only.from_us = from,
                [_, ..] => {}
            }
        }
        if let (Some(until), Some(last)) = (until, self.stretches.last_mut()) {
            last.until_us = Some(until.max(last.from_us));
        }
    }

    /// Whether it runs at this moment.
    pub fn is_running(&self) -> bool {
        self.stretches.last().is_some_and(|last| last.until_us.is_none())
    }

    /// What was billed up to `now`, dollars; saturates at the type's end.
    pub fn cost(&self, now: Micros) -> UsdNanos {
        if let Some(told) = self.told_usd {
            return told;
        }
        let amounts = self.stretches.iter().map(|stretch| self.price_of(stretch, now).get());
        UsdNanos::new(amounts.fold(0, u64::saturating_add))
    }

    /// Until when it is paid for, where bills have units; `None` where they have none or it does not run.
    pub fn paid_until(&self, now: Micros) -> Option<Micros> {
        let last = self.stretches.last().filter(|last| last.until_us.is_none() && self.unit_us > 0)?;
        let units = micros(now.since(last.from_us)).div_ceil(self.unit_us).max(1);
        Some(last.from_us + Duration::from_micros(units.saturating_mul(self.unit_us)))
    }

    /// How long it has been billed, without rounding.
    pub fn billed(&self, now: Micros) -> Duration {
        self.stretches.iter().map(|s| s.until_us.unwrap_or(now).since(s.from_us)).sum()
    }

    fn price_of(&self, stretch: &Stretch, now: Micros) -> UsdNanos {
        let span = micros(stretch.until_us.unwrap_or(now).since(stretch.from_us));
        // One that was seen a single time has begun, too.
        let units = |unit: u64| span.div_ceil(unit).max(1).saturating_mul(unit);
        let span = if self.unit_us == 0 { span } else { units(self.unit_us) };
        stretch.usd_per_hour.for_hours(Duration::from_micros(span)).unwrap_or(UsdNanos::new(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOURLY: UsdNanos = UsdNanos::new(1_290_000_000);

    fn at(seconds: u64) -> Micros {
        Micros::new(1_795_000_000_000_000) + Duration::from_secs(seconds)
    }

    #[test]
    fn a_begun_minute_is_a_whole_one_where_the_provider_says_so() {
        let mut meter = Meter::new(Duration::from_secs(60));
        meter.run(at(0), HOURLY);
        assert_eq!(meter.cost(at(61)), UsdNanos::new(43_000_000), "two minutes of $1.29 an hour");
        meter.stop(at(119));
        assert_eq!(meter.cost(at(9_999)), UsdNanos::new(43_000_000));
        assert_eq!(meter.billed(at(9_999)), Duration::from_secs(119));
        let mut once = Meter::new(Duration::from_secs(60));
        once.run(at(5), HOURLY);
        once.stop(at(5));
        assert_eq!(once.cost(at(9_999)), UsdNanos::new(21_500_000), "seen a single time, then gone");
    }

    #[test]
    fn what_is_parked_costs_its_own_price_and_running_again_is_another_stretch() {
        let mut meter = Meter::new(Duration::ZERO);
        meter.run(at(0), HOURLY);
        meter.run(at(10), HOURLY);
        meter.run(at(3_600), UsdNanos::new(36));
        meter.run(at(7_200), HOURLY);
        meter.stop(at(7_200));
        assert_eq!(meter.cost(at(7_200)).get(), HOURLY.get() + 36);
        assert!(!meter.is_running());
    }

    #[test]
    fn the_providers_word_replaces_ours_and_never_falls() {
        let mut meter = Meter::new(Duration::ZERO);
        meter.run(at(5), HOURLY);
        meter.told(Some(at(3)), None, None, HOURLY);
        assert_eq!(meter.billed(at(10)), Duration::from_secs(7));
        meter.told(None, Some(at(8)), None, HOURLY);
        assert_eq!(meter.billed(at(99)), Duration::from_secs(5));
        meter.told(None, None, Some(UsdNanos::new(7)), HOURLY);
        meter.told(None, None, Some(UsdNanos::new(6)), HOURLY);
        assert_eq!(meter.cost(at(99)), UsdNanos::new(7));
    }
}
