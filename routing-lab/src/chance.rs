//! Random draws that depend on what they are for, not on what was drawn before. The luck of a job's second attempt is the same
//! under every policy, so that all policies are compared in one world.

use std::f64::consts::TAU;

/// A sequence of draws, by SplitMix64 (Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014).
#[derive(Clone, Copy, Debug)]
pub(super) struct Chance(u64);

/// What a draw is for. Two uses of one number are independent.
#[derive(Clone, Copy, Debug)]
pub(super) enum About {
    Arrivals = 1,
    Shift,
    Job,
    Attempt,
    Start,
}

impl Chance {
    /// The draws for one part of one thing under a seed.
    pub(super) fn of(seed: u64, about: About, thing: u64, part: u64) -> Self {
        let mut chance = Self(seed);
        for word in [about as u64, thing, part] {
            chance.0 = mix(chance.0 ^ word.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        }
        chance
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Uniform, at least 0 and less than 1.
    pub(super) fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Normal, with mean 0 and variance 1 (Box and Muller, 1958).
    pub(super) fn normal(&mut self) -> f64 {
        let (a, b) = (1.0 - self.unit(), self.unit());
        (-2.0 * a.ln()).sqrt() * (TAU * b).cos()
    }

    /// Exponential, with mean 1: the gap between two independent events.
    pub(super) fn gap(&mut self) -> f64 {
        -(1.0 - self.unit()).ln()
    }

    /// An index, drawn by shares that add up to 1.
    pub(super) fn index(&mut self, shares: impl Iterator<Item = f64>) -> usize {
        let mut left = self.unit();
        let mut last = 0;
        for (index, share) in shares.enumerate() {
            if share > 0.0 {
                last = index;
                if left < share {
                    return index;
                }
            }
            left -= share;
        }
        // Rounding may leave a little beyond the last share.
        last
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
    fn draws_have_the_mean_and_spread_they_should() {
        let mut chance = Chance::of(7, About::Job, 1, 2);
        let count = 100_000;
        let (mut sum, mut squares, mut gaps, mut first) = (0.0, 0.0, 0.0, 0);
        for _ in 0..count {
            let z = chance.normal();
            sum += z;
            squares += z * z;
            gaps += chance.gap();
            first += u32::from(chance.index([0.3, 0.0, 0.7].into_iter()) == 0);
        }
        let count = f64::from(count);
        assert!((sum / count).abs() < 0.02 && (squares / count - 1.0).abs() < 0.02);
        assert!((gaps / count - 1.0).abs() < 0.02 && (f64::from(first) / count - 0.3).abs() < 0.01);
    }
}
