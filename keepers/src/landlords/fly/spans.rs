//! What a Fly Machine cost, by its events. Pure; integers only.
//!
//! It is billed from `started` until it is stopped, suspended, failed or destroyed, and its root filesystem from then until it
//! starts again or is destroyed: each span rounded up to whole seconds. Events are shown only so far back, so what closed
//! spans cost is kept as [`Settled`] in the machine's row.

use std::time::Duration;

use schemas::{Micros, UsdNanos};

/// Something that happened to a Machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) at_ms: u64,
    pub(super) status: String,
}

/// Dollars an hour.
#[derive(Clone, Copy, Debug)]
pub(super) struct Prices {
    pub(super) running: UsdNanos,
    pub(super) parked: UsdNanos,
}

/// What all spans cost that were closed up to a moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settled {
    until_ms: u64,
    usd: UsdNanos,
}

impl Settled {
    pub(super) fn read(note: &str) -> Option<Self> {
        let (until, usd) = note.split_once(' ')?;
        Some(Self { until_ms: until.parse().ok()?, usd: usd.parse().ok()? })
    }

    pub(super) fn note(&self) -> String {
        format!("{} {}", self.until_ms, self.usd)
    }
}

/// What it cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Charged {
    /// By closed spans.
    pub(super) settled: Settled,
    /// By all spans; the open one up to now.
    pub(super) total: UsdNanos,
}

/// Adds up a Machine's spans. `now` is the provider's clock; without it the open span costs nothing yet. `None` when an amount
/// is out of range.
pub(super) fn charge(
    events: &[Event],
    prices: Prices,
    before: Settled,
    now: Option<Micros>,
) -> Option<Charged> {
    let mut events: Vec<&Event> = events.iter().collect();
    events.sort_by_key(|event| event.at_ms);
    let mut settled = before;
    let mut open: Option<(u64, UsdNanos)> = None;
    for event in events {
        let next = match event.status.as_str() {
            "started" => Some(prices.running),
            "stopped" | "suspended" => Some(prices.parked),
            "starting" | "failed" | "destroyed" => None,
            // Stopping, destroying, updating: it is billed on as before.
            _ => continue,
        };
        // A Machine that only starts anew, by itself, was never off.
        if event.status == "starting" && open.is_some_and(|(_, price)| price == prices.running) {
            continue;
        }
        if let (Some((_, price)), Some(next)) = (open, next)
            && price == next
        {
            continue;
        }
        if let Some((from, price)) = open
            && event.at_ms > before.until_ms
        {
            settled.usd = settled.usd.checked_add(cost(from, event.at_ms, price)?)?;
            settled.until_ms = event.at_ms;
        }
        open = next.map(|price| (event.at_ms, price));
    }
    let until = now.map_or(0, |now| now.get() / 1_000);
    let running = open.map_or(Some(UsdNanos::ZERO), |(from, price)| cost(from, until.max(from), price))?;
    Some(Charged { settled, total: settled.usd.checked_add(running)? })
}

/// What a span costs, its seconds rounded up.
fn cost(from_ms: u64, until_ms: u64, usd_per_hour: UsdNanos) -> Option<UsdNanos> {
    let seconds = until_ms.saturating_sub(from_ms).div_ceil(1_000);
    usd_per_hour.for_hours(Duration::from_secs(seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PRICES: Prices = Prices { running: UsdNanos::new(3_600_000_000), parked: UsdNanos::new(3_600_000) };

    fn events(told: &[(u64, &str)]) -> Vec<Event> {
        told.iter().map(|&(at_ms, status)| Event { at_ms, status: status.to_owned() }).collect()
    }

    /// Charged at this moment of the provider's clock.
    fn charge_at(events: &[Event], settled: Settled, ms: u64) -> Charged {
        charge(events, PRICES, settled, Some(Micros::new(ms * 1_000))).unwrap()
    }

    #[test]
    fn only_started_time_is_billed_and_each_span_rounds_up() {
        let told =
            [(0, "created"), (500, "starting"), (1_000, "started"), (4_001, "stopping"), (4_100, "stopped")];
        let charged = charge_at(&events(&told), Settled::default(), 6_000);
        assert_eq!(charged.settled.usd, UsdNanos::new(4_000_000));
        assert_eq!(charged.total, UsdNanos::new(4_002_000), "two begun seconds of storage");
    }

    #[test]
    fn the_newest_event_comes_first_on_the_wire_and_an_end_ends_it() {
        let told = [(9_000, "destroyed"), (8_000, "destroying"), (1_000, "started"), (0, "created")];
        let charged = charge_at(&events(&told), Settled::default(), 99_000);
        assert_eq!(charged.total, UsdNanos::new(8_000_000));
        assert_eq!(charge(&[], PRICES, Settled::default(), None).unwrap().total, UsdNanos::ZERO);
    }

    #[test]
    fn what_was_settled_is_not_lost_with_its_events_nor_counted_twice() {
        let all = [(1_000, "started"), (3_000, "stopped"), (5_000, "starting"), (5_500, "started")];
        let whole = charge_at(&events(&all), Settled::default(), 6_000);
        let earlier = charge_at(&events(&all[..2]), Settled::default(), 3_000).settled;
        let note = Settled::read(&earlier.note()).unwrap();
        for seen in [&all[..], &all[1..]] {
            assert_eq!(charge_at(&events(seen), note, 6_000), whole);
        }
    }

    proptest! {
        #[test]
        fn the_amount_never_falls_as_events_come_and_time_goes_by(
            steps in proptest::collection::vec((1_u64..5_000, 0_usize..6), 1..12),
        ) {
            let words = ["starting", "started", "stopping", "stopped", "suspended", "restarting"];
            let (mut told, mut now, mut before, mut settled) =
                (Vec::new(), 0, UsdNanos::ZERO, Settled::default());
            for (pause, word) in steps {
                now += pause;
                let total = charge_at(&told, settled, now).total;
                prop_assert!(total >= before);
                told.push(Event { at_ms: now, status: words[word].to_owned() });
                let charged = charge_at(&told, settled, now);
                prop_assert!(charged.total >= before);
                prop_assert_eq!(charged.total, charge_at(&told, Settled::default(), now).total);
                (before, settled) = (charged.total, charged.settled);
            }
        }
    }
}
