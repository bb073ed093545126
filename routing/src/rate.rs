//! Which part of its jobs a provider does well: a decaying rate, and a count of the last ten seconds. Pure.

use std::time::Duration;

use schemas::Micros;

/// The age at which an outcome counts half.
const HALF_LIFE: Duration = Duration::from_secs(30);
/// How many seconds the decision to leave a provider looks at.
const RECENT: usize = 10;
/// Successes that are assumed before anything is known, so that a single failure does not look like an outage.
const PRIOR: f64 = 5.0;

/// The outcomes of one model at one pool.
#[derive(Clone, Debug, Default)]
pub struct Rate {
    good: f64,
    bad: f64,
    at: Micros,
    recent: [(u64, u32, u32); RECENT],
}

impl Rate {
    /// Takes in an outcome.
    pub fn record(&mut self, good: bool, now: Micros) {
        let faded = self.fade(now);
        self.good = self.good * faded + f64::from(u8::from(good));
        self.bad = self.bad * faded + f64::from(u8::from(!good));
        self.at = self.at.max(now);
        let second = now.get() / 1_000_000;
        let slot = &mut self.recent[usize::try_from(second % RECENT as u64).unwrap_or(0)];
        if slot.0 != second {
            *slot = (second, 0, 0);
        }
        let count = if good { &mut slot.1 } else { &mut slot.2 };
        *count = count.saturating_add(1);
    }

    /// The part of jobs that succeeds, 0 to 1; 1 while nothing is known.
    pub fn ok(&self, now: Micros) -> f64 {
        if self.bad == 0.0 {
            return 1.0;
        }
        let faded = self.fade(now);
        (self.good * faded + PRIOR) / ((self.good + self.bad) * faded + PRIOR)
    }

    /// How many jobs succeeded and failed in the last ten seconds.
    pub fn recent(&self, now: Micros) -> (u32, u32) {
        let oldest = (now.get() / 1_000_000).saturating_sub(RECENT as u64 - 1);
        let recent = self.recent.iter().filter(|slot| slot.0 >= oldest);
        recent.fold((0, 0), |(good, bad), slot| (good + slot.1, bad + slot.2))
    }

    /// The probability with which a job should be kept from the provider: `max(0, (requests - 2 accepts) / (requests + 1))`, the
    /// adaptive throttling of Google's SRE book, chapter 21.
    pub fn reject(&self, now: Micros) -> f64 {
        if self.bad <= self.good {
            return 0.0;
        }
        let faded = self.fade(now);
        let (good, all) = (self.good * faded, (self.good + self.bad) * faded);
        ((all - 2.0 * good) / (all + 1.0)).max(0.0)
    }

    fn fade(&self, now: Micros) -> f64 {
        (-now.since(self.at).as_secs_f64() / HALF_LIFE.as_secs_f64()).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    #[test]
    fn bad_news_fades_and_one_failure_is_no_wreck() {
        let mut rate = Rate::default();
        rate.record(false, NOW);
        assert!(rate.ok(NOW) > 0.8);
        for _ in 0..50 {
            rate.record(false, NOW);
        }
        assert!(rate.ok(NOW) < 0.15 && rate.reject(NOW) > 0.9);
        let later = NOW + Duration::from_secs(300);
        assert!(rate.ok(later) > 0.9 && rate.reject(later) < 0.5);
    }

    #[test]
    fn the_last_ten_seconds_are_counted_by_the_second() {
        let mut rate = Rate::default();
        rate.record(true, NOW);
        rate.record(false, NOW + Duration::from_secs(5));
        assert_eq!(rate.recent(NOW + Duration::from_secs(9)), (1, 1));
        assert_eq!(rate.recent(NOW + Duration::from_secs(10)), (0, 1));
        assert_eq!(rate.recent(NOW + Duration::from_secs(60)), (0, 0));
    }

    #[test]
    fn half_of_it_well_is_not_throttled() {
        let mut rate = Rate::default();
        for i in 0..100 {
            rate.record(i % 2 == 0, NOW);
        }
        assert!(rate.reject(NOW) < 0.01);
    }
}
