//! Draws by seed and purpose. Each purpose has a sequence of its own, so that one more draw for the network does not change
//! which faults a seed means.

use std::time::Duration;

use schemas::{Micros, time::micros};

/// What a sequence of draws is for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose {
    /// How large the world is and how it is set.
    World = 1,
    /// Which faults there are, and when.
    Faults,
    /// How long messages take.
    Net,
    /// How long the server takes, and whom it picks.
    Server,
    /// What calls at providers come to.
    Provider,
    /// Which jobs are published.
    Jobs,
    /// Chance inside the machines that are tested.
    Machines,
}

/// Draws by SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Clone, Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    /// The draws of a seed for one purpose.
    pub(crate) fn of(seed: u64, purpose: Purpose) -> Self {
        Self(mix(mix(seed) ^ (purpose as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// A sequence of its own for a part of what this one is for.
    pub(crate) fn fork(&mut self) -> Self {
        Self(self.bits())
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`, which is not zero.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        // The high half of a product: as even as a draw of so few values must be, and without a division.
        u64::try_from((u128::from(self.bits()) * u128::from(end)) >> 64).expect("the high half of 128 bits")
    }

    /// A number from `from` to `to`, both included.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    /// An index below `end`, which is not zero.
    pub(crate) fn index(&mut self, end: usize) -> usize {
        usize::try_from(self.below(end as u64)).expect("below a usize")
    }

    /// Yes, `chances` times out of `of`.
    pub(crate) fn one_in(&mut self, chances: u64, of: u64) -> bool {
        self.below(of) < chances
    }

    /// A span from `from` to `to`.
    pub(crate) fn span(&mut self, from: Duration, to: Duration) -> Duration {
        Duration::from_micros(self.between(micros(from), micros(to)))
    }

    /// A time from `from` to `to`.
    pub(crate) fn time(&mut self, from: Micros, to: Micros) -> Micros {
        Micros::new(self.between(from.get(), to.get()))
    }
}

const fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purposes_of_one_seed_are_independent_and_repeat() {
        let draw = |purpose| Chance::of(7, purpose).bits();
        assert_eq!(draw(Purpose::Net), draw(Purpose::Net));
        assert_ne!(draw(Purpose::Net), draw(Purpose::Faults));
    }

    #[test]
    fn draws_fill_their_range_and_stay_in_it() {
        let mut chance = Chance::of(1, Purpose::World);
        let mut seen = [0u32; 5];
        for _ in 0..5_000 {
            seen[chance.index(5)] += 1;
            assert!((3..=4).contains(&chance.between(3, 4)));
        }
        assert!(seen.iter().all(|count| (800..1_200).contains(count)), "{seen:?}");
    }
}
