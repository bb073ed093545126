//! Rent or pay by use: for the first machine, the second, and so on, two sums of money.
//!
//! The slots `4·(k-1)+1` to `4·k` of the work are level `k` (with four slots in a machine). Each second the level's jobs would have
//! cost so much at serverless pools, and a machine for it so much rent. `over` is what was lost by not renting, `idle` what was lost
//! by renting; each falls by what the other gains, and never below zero. A machine is rented when `over` has reached what it costs
//! to start one, and let go when `idle` has. That is the rule for a task system of two states: never more than three times as dear
//! as whoever knows the future (Borodin, Linial and Saks, 1992). It is the hysteresis, too, and zero machines are no special case.

use std::time::Duration;

use schemas::{UsdNanos, time::micros};
use serde::{Deserialize, Serialize};

/// Times of need remembered of a level; then they count half.
const EPISODES_MAX: u16 = 16;
/// Times of need that must have outlasted the break-even before a level is ordered at once.
const EPISODES_MIN: u16 = 3;
/// More levels than that are not told apart.
pub(super) const LEVELS_MAX: usize = 2_000;

/// The sums of all levels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Levels {
    sums: Vec<Level>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Level {
    /// Nano-dollars.
    over: u64,
    /// Nano-dollars.
    idle: u64,
    /// Whether a time of need is on, and whether it has outlasted the break-even.
    on: bool,
    outlasted: bool,
    /// Past times of need, by whether they did.
    lasted: u16,
    brief: u16,
}

/// What a level is measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Measure {
    /// What an hour of a machine costs.
    pub(super) usd_per_hour: UsdNanos,
    /// What a second of one job costs elsewhere; `None` where nobody else serves the model.
    pub(super) serverless: Option<UsdNanos>,
    /// Slots of a machine.
    pub(super) slots: u32,
    /// What a machine costs until it is ready, and at least: the sum at which a decision falls.
    pub(super) start: UsdNanos,
    /// How much of that must be lost before a machine is ordered, thousandths.
    pub(super) theta: u32,
}

impl Measure {
    /// Of a machine at that price, started within `boot` and paid for `minimum` at least.
    pub(super) fn new(
        usd_per_hour: UsdNanos,
        serverless: Option<UsdNanos>,
        slots: u32,
        start: Duration,
        theta: u32,
    ) -> Self {
        let start = usd_per_hour.for_hours(start).unwrap_or(UsdNanos::new(u64::MAX));
        Self { usd_per_hour, serverless, slots: slots.max(1), start, theta }
    }

    fn order_at(self) -> u64 {
        let sum = u128::from(self.start.get()) * u128::from(self.theta) / 1_000;
        u64::try_from(sum).unwrap_or(u64::MAX)
    }

    /// What the jobs of level `k`, from 0, take of its slots, thousandths of a slot.
    fn busy(&self, load: u64, k: usize) -> u64 {
        let whole = u64::from(self.slots) * 1_000;
        load.saturating_sub(whole.saturating_mul(k as u64)).min(whole)
    }

    /// What level `k` costs elsewhere in an hour at present.
    pub(super) fn serverless_per_hour(&self, load: u64, k: usize) -> Option<UsdNanos> {
        let nanos = u128::from(self.serverless?.get()) * u128::from(self.busy(load, k)) * 3_600 / 1_000;
        u64::try_from(nanos).ok().map(UsdNanos::new)
    }
}

impl Levels {
    /// Time has passed. `load` is how many jobs run and wait, in thousandths; the first `ready` levels have a machine that works,
    /// and `stand` levels have one that may not work yet, for which nothing is idle.
    pub(super) fn pass(&mut self, load: u64, ready: usize, stand: usize, dt: Duration, by: &Measure) {
        let reached = load.div_ceil(u64::from(by.slots) * 1_000);
        let reached = usize::try_from(reached).unwrap_or(LEVELS_MAX).max(stand).min(LEVELS_MAX);
        if self.sums.len() < reached {
            self.sums.resize(reached, Level::default());
        }
        // Seconds of the rent: both sides are rounded down, by less than a nano-dollar each.
        let rent = part(by.usd_per_hour.get(), micros(dt), 3_600_000_000);
        for (k, level) in self.sums.iter_mut().enumerate() {
            let busy = by.busy(load, k);
            let (worth, rent) = match by.serverless {
                Some(price) => (part(price.get(), busy.saturating_mul(micros(dt)), 1_000_000_000), rent),
                // Where nobody else does them, jobs are worth any machine.
                None if busy > 0 => (u64::MAX, rent),
                None => (0, rent),
            };
            level.pass(worth, rent, k < ready, by);
        }
        // Levels that nobody needs and that were forgotten take no room.
        while self.sums.len() > stand && self.sums.last() == Some(&Level::default()) {
            self.sums.pop();
        }
    }

    /// Whether level `k`, from 0, is to be rented.
    pub(super) fn is_worth(&self, k: usize, by: &Measure) -> bool {
        let level = self.sums.get(k).copied().unwrap_or_default();
        match by.serverless {
            // Its jobs waited or ran within the time of a start: nobody else does them.
            None => level.over > 0,
            // A need has begun, and has cost enough or is of a kind that lasts.
            Some(_) => level.over > 0 && (level.usually_lasts() || level.over >= by.order_at()),
        }
    }

    /// Whether level `k`, from 0, has cost more than it was worth for long enough to be let go.
    pub(super) fn is_idle(&self, k: usize, by: &Measure) -> bool {
        self.sums.get(k).is_some_and(|level| level.idle >= by.start.get().max(1))
    }

    /// How far level `k` is on the way to be rented: what was lost so far, and at which sum it is rented.
    pub(super) fn lost(&self, k: usize, by: &Measure) -> (UsdNanos, UsdNanos) {
        let over = self.sums.get(k).map_or(0, |level| level.over);
        (UsdNanos::new(over), UsdNanos::new(by.order_at()))
    }
}

impl Level {
    fn pass(&mut self, worth: u64, rent: u64, works: bool, by: &Measure) {
        let most = by.start.get().max(1);
        if worth >= rent {
            let gain = worth - rent;
            self.over = self.over.saturating_add(gain).min(most);
            self.idle = self.idle.saturating_sub(gain);
            self.on |= gain > 0;
        } else {
            let loss = rent - worth;
            self.over = self.over.saturating_sub(loss);
            self.idle = self.idle.saturating_add(loss).min(most);
        }
        // Nothing is idle that does not work yet.
        if !works {
            self.idle = 0;
        }
        self.outlasted |= self.on && self.over >= most;
        if self.on && self.over == 0 {
            if self.outlasted {
                self.lasted += 1;
            } else {
                self.brief += 1;
            }
            (self.on, self.outlasted) = (false, false);
            if self.lasted + self.brief > EPISODES_MAX {
                (self.lasted, self.brief) = (self.lasted / 2, self.brief / 2);
            }
        }
    }

    /// Whether times of need mostly outlasted the break-even, so that waiting for it is a waste.
    const fn usually_lasts(self) -> bool {
        self.lasted >= EPISODES_MIN && self.lasted > self.brief
    }
}

/// `price · quantity / per`, rounded down.
fn part(price: u64, quantity: u64, per: u64) -> u64 {
    let nanos = u128::from(price) * u128::from(quantity) / u128::from(per);
    u64::try_from(nanos).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A Lambda A10 of four slots against Modal's.
    fn measure() -> Measure {
        let (rent, modal) = ("1.29".parse().unwrap(), "0.000306".parse().unwrap());
        Measure::new(rent, Some(modal), 4, Duration::from_secs(300), 1_000)
    }

    fn pass(levels: &mut Levels, load: u64, ready: usize, seconds: u64) {
        for _ in 0..seconds {
            levels.pass(load, ready, ready, SECOND, &measure());
        }
    }

    #[test]
    fn a_machine_is_rented_where_its_jobs_would_cost_more_elsewhere_and_not_below() {
        // Break-even lies at 29 % of four slots: 1.17 jobs at a time.
        for (load, rented) in [(500, false), (1_000, false), (1_300, true), (4_000, true)] {
            let mut levels = Levels::default();
            pass(&mut levels, load, 0, 3 * 3600);
            assert_eq!(levels.is_worth(0, &measure()), rented, "{load}");
            assert!(!levels.is_worth(1, &measure()));
        }
    }

    #[test]
    fn a_short_burst_is_left_to_others_and_a_long_one_pays() {
        let mut levels = Levels::default();
        // Full, a level gains $3.12 an hour; a start costs $0.1075: 124 seconds.
        pass(&mut levels, 4_000, 0, 120);
        assert!(!levels.is_worth(0, &measure()));
        pass(&mut levels, 4_000, 0, 10);
        assert!(levels.is_worth(0, &measure()));
        assert!(!levels.is_idle(0, &measure()));
        // Rented and empty, it has lost a start after 300 seconds.
        pass(&mut levels, 0, 1, 299);
        assert!(!levels.is_idle(0, &measure()));
        pass(&mut levels, 0, 1, 2);
        assert!(levels.is_idle(0, &measure()));
    }

    #[test]
    fn where_needs_mostly_last_nobody_waits_for_the_break_even() {
        let mut levels = Levels::default();
        for _ in 0..4 {
            pass(&mut levels, 4_000, 0, 300);
            pass(&mut levels, 0, 1, 400);
        }
        assert!(!levels.is_worth(0, &measure()), "no need is no need of any kind");
        pass(&mut levels, 4_000, 0, 1);
        assert!(levels.is_worth(0, &measure()), "{levels:?}");
        for _ in 0..12 {
            pass(&mut levels, 4_000, 0, 10);
            pass(&mut levels, 0, 0, 60);
        }
        pass(&mut levels, 4_000, 0, 1);
        assert!(!levels.is_worth(0, &measure()), "{levels:?}");
    }

    #[test]
    fn without_anybody_else_any_job_is_worth_a_machine_and_any_job_makes_it_not_idle() {
        let alone = Measure { serverless: None, ..measure() };
        let mut levels = Levels::default();
        levels.pass(0, 0, 0, SECOND, &alone);
        assert!(!levels.is_worth(0, &alone));
        levels.pass(5_000, 0, 0, Duration::ZERO, &alone);
        assert!(levels.is_worth(0, &alone) && levels.is_worth(1, &alone) && !levels.is_worth(2, &alone));
        for second in 0..900 {
            levels.pass(if second % 250 == 0 { 100 } else { 0 }, 1, 1, SECOND, &alone);
            assert!(!levels.is_idle(0, &alone));
        }
        for _ in 0..300 {
            levels.pass(0, 1, 1, SECOND, &alone);
        }
        assert!(levels.is_idle(0, &alone) && !levels.is_worth(0, &alone));
    }

    proptest! {
        #[test]
        fn sums_stay_between_nothing_and_a_start_and_are_monotone_in_the_load(loads in proptest::collection::vec((0..20_000u64, 0..4usize, 0..30u64), 1..60), more in 0..4_000u64) {
            let (mut less, mut extra) = (Levels::default(), Levels::default());
            for (load, ready, seconds) in loads {
                less.pass(load, ready, ready, SECOND * u32::try_from(seconds).unwrap(), &measure());
                extra.pass(load + more, ready, ready, SECOND * u32::try_from(seconds).unwrap(), &measure());
            }
            for (k, level) in less.sums.iter().enumerate() {
                prop_assert!(level.over <= measure().start.get() && level.idle <= measure().start.get());
                let other = extra.sums.get(k).copied().unwrap_or_default();
                prop_assert!(other.over >= level.over && other.idle <= level.idle);
            }
        }
    }
}
