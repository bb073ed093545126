//! How long machines take to start, by type and place: from the order to the first real completion.
//!
//! A machine that has not started yet is a sample too: it takes at least as long as it has taken. Without those, only quick starts
//! would be learnt from (Kaplan and Meier, 1958).

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use schemas::{MachineId, Micros, machine::MachineState, time::micros};
use serde::{Deserialize, Serialize};

use super::seen::{Seen, Standing};

/// Starts remembered for a type and place.
const SAMPLES_MAX: usize = 64;
/// Types and places remembered. Whoever was used least lately is forgotten.
const PLACES_MAX: usize = 24;
/// Until so many starts were seen, what the operator says counts where it is longer.
const FEW: usize = 3;
/// A start is given up after twice its 99th percentile, and not before this.
const GIVE_UP_MIN: Duration = Duration::from_secs(600);
/// Starts that were given up make the next one wait longer, up to so many times what the operator says.
const LONGEST: u32 = 4;
/// A place that failed rests for 2^k minutes, k up to this.
const RESTS_MAX: u32 = 6;

/// What is known of starts.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Starts {
    places: BTreeMap<String, Place>,
    /// Machines that start: their type and place, and when they were ordered.
    open: BTreeMap<MachineId, (String, Micros)>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Place {
    /// Milliseconds, and whether the machine was ready then; if not, it was still starting when it was last seen.
    samples: VecDeque<(u64, bool)>,
    fails: u32,
    rests_until: Micros,
    used: Micros,
}

/// How long a start takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Median.
    pub p50: Duration,
    /// 90th percentile.
    pub p90: Duration,
    /// 95th percentile.
    pub p95: Duration,
    /// 99th percentile of starts that have ended: what a start that goes on is measured by.
    pub p99: Duration,
}

impl Boot {
    /// When a start that has not ended is given up.
    pub fn give_up(&self) -> Duration {
        (self.p99 * 2).max(GIVE_UP_MIN)
    }
}

/// Where a machine starts, as it is remembered.
fn name(sku: &str, place: &str) -> String {
    format!("{sku}@{place}")
}

impl Starts {
    /// Looks at all machines: which are ready now, and which start.
    pub(super) fn look(&mut self, machines: &[Standing], now: Micros) {
        let mut still = BTreeMap::new();
        for machine in machines {
            let begun = self.open.remove(&machine.machine);
            match (machine.state, machine.ready_at) {
                (_, Some(ready)) => {
                    if let Some((place, ordered)) = begun {
                        self.ended(&place, ready.since(ordered), true, now);
                    }
                }
                (MachineState::Ordered | MachineState::Starting | MachineState::Probing, None) => {
                    let place = begun.map_or_else(|| name(&machine.sku, &machine.place), |begun| begun.0);
                    still.insert(machine.machine.clone(), (place, machine.ordered_at));
                }
                (
                    MachineState::Wanted
                    | MachineState::Ready
                    | MachineState::Draining
                    | MachineState::Stopping
                    | MachineState::Parked
                    | MachineState::Lost
                    | MachineState::Gone,
                    None,
                ) => {
                    if let Some((place, ordered)) = begun {
                        self.ended(&place, now.since(ordered), false, now);
                    }
                }
            }
        }
        // Those that are not seen any more were ended before they were ready.
        for (place, ordered) in std::mem::replace(&mut self.open, still).into_values() {
            self.ended(&place, now.since(ordered), false, now);
        }
    }

    fn ended(&mut self, place: &str, span: Duration, ready: bool, now: Micros) {
        let place = self.place(place, now);
        place.samples.push_back((micros(span) / 1_000, ready));
        if place.samples.len() > SAMPLES_MAX {
            place.samples.pop_front();
        }
        if ready {
            (place.fails, place.rests_until) = (0, Micros::default());
        }
    }

    fn place(&mut self, place: &str, now: Micros) -> &mut Place {
        if !self.places.contains_key(place) && self.places.len() >= PLACES_MAX {
            let oldest = self.places.iter().min_by_key(|(_, place)| place.used).map(|(name, _)| name.clone());
            self.places.retain(|name, _| Some(name) != oldest.as_ref());
        }
        let known = self.places.entry(place.to_owned()).or_default();
        known.used = known.used.max(now);
        known
    }

    /// A place could not give what was ordered, or gave what did not start: it rests.
    pub fn failed(&mut self, sku: &str, place: &str, now: Micros) {
        let place = self.place(&name(sku, place), now);
        // Several orders that fail together are one failure.
        if place.rests_until > now {
            return;
        }
        place.rests_until = now + Duration::from_secs(60 << place.fails.min(RESTS_MAX));
        place.fails += 1;
    }

    /// Until when a place rests; `None` if it does not.
    pub fn rests(&self, sku: &str, place: &str, now: Micros) -> Option<Micros> {
        self.places.get(&name(sku, place)).map(|place| place.rests_until).filter(|until| *until > now)
    }

    /// How long a start takes there. `usual` is the operator's word, median and 95th percentile.
    pub fn boot(&self, sku: &str, place: &str, usual: (Duration, Duration), now: Micros) -> Boot {
        let name = name(sku, place);
        let ended = self.places.get(&name).into_iter().flat_map(|place| &place.samples).copied();
        let open = self.open.values().filter(|(at, _)| *at == name);
        let open = open.map(|(_, ordered)| (micros(now.since(*ordered)) / 1_000, false));
        let mut samples: Vec<(u64, bool)> = ended.chain(open).collect();
        // Of two that took equally long, the one that ended counts first.
        samples.sort_unstable_by_key(|(span, ready)| (*span, !ready));
        let seen = samples.iter().filter(|(_, ready)| *ready).count();
        let at = |part: f64, usual: Duration| {
            let longest = samples.last().map_or(0, |(span, _)| *span);
            match quantile(&samples, part) {
                Some(span) if seen >= FEW => Duration::from_millis(span),
                Some(span) => Duration::from_millis(span).max(usual),
                None => Duration::from_millis(longest).max(usual),
            }
        };
        let p50 = at(0.5, usual.0);
        let (p90, p95) = (at(0.9, usual.1).max(p50), at(0.95, usual.1));
        // Those that still start do not make themselves more time.
        let longest = self.places.get(&name).and_then(|at| at.samples.iter().map(|(span, _)| *span).max());
        let longest = Duration::from_millis(longest.unwrap_or(0)).min(usual.1 * LONGEST);
        let p99 = quantile(&samples, 0.99).map_or(longest, Duration::from_millis);
        Boot { p50, p90, p95: p95.max(p90), p99: p99.max(if seen >= FEW { p50 } else { usual.1 }) }
    }
}

/// How long starts take at all places that a pool has anything to do with. Computed once for a plan.
pub(super) struct Boots<'a> {
    known: Vec<((&'a str, &'a str), Boot)>,
    usual: Boot,
}

impl<'a> Boots<'a> {
    /// At the places of a pool's machines and offers.
    pub(super) fn of(starts: &Starts, seen: &'a Seen, usual: (Duration, Duration), now: Micros) -> Self {
        let mut known: Vec<((&str, &str), Boot)> = Vec::new();
        let machines = seen.machines.iter().map(|machine| (machine.sku.as_str(), machine.place.as_str()));
        let offers = seen.offers.iter().map(|offer| (offer.sku.as_str(), offer.place.as_str()));
        for at in machines.chain(offers) {
            if known.iter().all(|(other, _)| *other != at) {
                known.push((at, starts.boot(at.0, at.1, usual, now)));
            }
        }
        let (p50, p95) = usual;
        Self { known, usual: Boot { p50, p90: p95, p95, p99: p95 } }
    }

    /// At one of them.
    pub(super) fn at(&self, sku: &str, place: &str) -> Boot {
        self.known.iter().find(|(at, _)| *at == (sku, place)).map_or(self.usual, |(_, boot)| *boot)
    }
}

/// The time within which `part` of all starts have ended, by the product-limit estimate; `None` if too few have.
fn quantile(samples: &[(u64, bool)], part: f64) -> Option<u64> {
    let (mut left, mut not_ready) = (samples.len(), 1.0);
    for (span, ready) in samples {
        if *ready {
            not_ready *= 1.0 - 1.0 / left as f64;
            if not_ready <= 1.0 - part + 1e-9 {
                return Some(*span);
            }
        }
        left -= 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);
    const USUAL: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(120));

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn without_censored_samples_quantiles_are_the_plain_ones() {
        let samples: Vec<_> = (1..=100).map(|span| (span, true)).collect();
        assert_eq!([0.5, 0.9, 0.99].map(|part| quantile(&samples, part)), [Some(50), Some(90), Some(99)]);
        assert_eq!(quantile(&[], 0.5), None);
    }

    #[test]
    fn the_textbook_example_of_kaplan_and_meier() {
        // Months: 1.0 ended, 1.3 lost, 2.2 ended: after the first S = 2/3, after the last 0.
        let samples = [(10, true), (13, false), (22, true)];
        assert_eq!(quantile(&samples, 0.3), Some(10));
        assert_eq!(quantile(&samples, 0.5), Some(22));
    }

    fn machine(name: &str, state: MachineState, ready_at: Option<Micros>) -> Standing {
        Standing {
            machine: name.parse().unwrap(),
            state,
            since: NOW,
            sku: "a10".into(),
            place: "east".into(),
            slots: 4,
            usd_per_hour: schemas::UsdNanos::ZERO,
            parked_usd_per_hour: schemas::UsdNanos::ZERO,
            ordered_at: NOW,
            ready_at,
            paid_until: None,
            running: None,
            cached_tokens: 0,
            replace: false,
            unwanted: false,
        }
    }

    #[test]
    fn starts_that_do_not_end_are_learnt_from() {
        let mut starts = Starts::default();
        let names = ["a", "b", "c", "d", "e", "f"];
        let starting: Vec<_> = names.iter().map(|n| machine(n, MachineState::Starting, None)).collect();
        starts.look(&starting, NOW);
        let quick = |n: &&str| ["a", "b", "c"].contains(n);
        let later = NOW + secs(600);
        let half: Vec<_> = names
            .iter()
            .map(|n| {
                let ready = quick(n).then_some(NOW + secs(100));
                let state = if quick(n) { MachineState::Ready } else { MachineState::Starting };
                machine(n, state, ready)
            })
            .collect();
        starts.look(&half, later);
        let boot = starts.boot("a10", "east", USUAL, later);
        assert_eq!(boot.p50, secs(100));
        assert!(boot.p95 >= secs(600), "three of six took longer than 600 s already: {boot:?}");
        // Elsewhere nothing is known.
        assert_eq!(starts.boot("a10", "west", USUAL, later).p95, USUAL.1);
        // Given up: they stay what they are, starts that took longer.
        starts.look(&half[..3], later);
        assert!(starts.boot("a10", "east", USUAL, later).p95 >= secs(600));
        assert!(starts.open.is_empty());
    }

    #[test]
    fn a_place_that_fails_rests_longer_each_time_and_is_forgiven_when_a_machine_starts() {
        let mut starts = Starts::default();
        let mut now = NOW;
        for minutes in [1, 2, 4, 8, 16, 32, 64, 64] {
            starts.failed("a10", "east", now);
            starts.failed("a10", "east", now);
            assert_eq!(starts.rests("a10", "east", now), Some(now + secs(minutes * 60)));
            assert_eq!(starts.rests("a10", "west", now), None);
            now = now + secs(minutes * 60);
            assert_eq!(starts.rests("a10", "east", now), None);
        }
        starts.look(&[machine("a", MachineState::Starting, None)], now);
        starts.look(&[machine("a", MachineState::Ready, Some(now))], now);
        starts.failed("a10", "east", now);
        assert_eq!(starts.rests("a10", "east", now), Some(now + secs(60)));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut starts = Starts::default();
        for nth in 0..100 {
            starts.failed("a10", &format!("place-{nth}"), NOW + secs(nth));
            for _ in 0..100 {
                starts.ended("a10@one", secs(1), true, NOW + secs(1_000));
            }
        }
        assert!(starts.places.len() <= PLACES_MAX);
        assert_eq!(starts.places["a10@one"].samples.len(), SAMPLES_MAX);
    }
}
