//! Who keeps a pool: one keeper acts, the others stand by. Pure; [`crate::store`] carries.
//!
//! The lease is a value in the bucket, replaced only in place of the one that was read. It decides who *begins* to act. That two
//! keepers never act on one machine is decided by the rows: each is replaced only in place of the one that was read, before its
//! call is made, so a keeper that lost its lease unawares fails at its first write.

use std::time::Duration;

use schemas::{Micros, PoolId};
use serde::{Deserialize, Serialize};

/// How long a lease holds without being renewed.
pub const HELD_FOR: Duration = Duration::from_secs(4);
/// How often its holder renews it: two renewals may be lost.
pub const RENEW_EVERY: Duration = Duration::from_secs(1);
/// How long after its end another keeper takes it: clocks differ.
pub const MARGIN: Duration = Duration::from_secs(1);

/// A lease on a pool.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The keeper, by its name.
    pub keeper: String,
    /// When it ends unless it is renewed.
    pub until_us: Micros,
}

impl Lease {
    /// The key of a pool's lease.
    pub fn key(pool: &PoolId) -> String {
        format!("lease.{}.{}", pool.region, pool.provider)
    }

    /// A new one.
    pub fn of(keeper: &str, now: Micros) -> Self {
        Self { keeper: keeper.to_owned(), until_us: now + HELD_FOR }
    }

    /// Whether `keeper` may take it: nobody holds it, it has ended, or it is its own from before a restart.
    pub fn is_free(found: Option<&Self>, keeper: &str, now: Micros) -> bool {
        found.is_none_or(|lease| lease.keeper == keeper || !lease.is_kept(now))
    }

    /// Whether somebody keeps the pool now, as far as a reader can tell whose clock may differ.
    pub fn is_kept(&self, now: Micros) -> bool {
        now <= self.until_us + MARGIN
    }

    /// Whether nobody has kept the pool for `patience`: it is in no configuration of any keeper any more. `since` is when the
    /// one who asks began to look.
    pub fn is_forsaken(found: Option<&Self>, since: Micros, patience: Duration, now: Micros) -> bool {
        found.map_or(since, |lease| lease.until_us.max(since)) + patience < now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_is_taken_when_it_has_ended_or_is_ones_own() {
        let now = Micros::new(1_795_000_000_000_000);
        let lease = Lease::of("k1", now);
        assert!(Lease::is_free(None, "k2", now));
        assert!(Lease::is_free(Some(&lease), "k1", now));
        assert!(!Lease::is_free(Some(&lease), "k2", now + HELD_FOR));
        assert!(Lease::is_free(Some(&lease), "k2", now + HELD_FOR + MARGIN + Duration::from_micros(1)));
    }

    #[test]
    fn a_pool_is_forsaken_when_nobody_has_kept_it_for_long() {
        let (now, patience) = (Micros::new(1_795_000_000_000_000), Duration::from_secs(60));
        let lease = Lease::of("k1", now);
        let after = |seconds| now + Duration::from_secs(seconds);
        assert!(!Lease::is_forsaken(Some(&lease), now, patience, after(60)));
        assert!(Lease::is_forsaken(Some(&lease), now, patience, after(65)));
        assert!(!Lease::is_forsaken(Some(&lease), after(30), patience, after(65)));
        assert!(!Lease::is_forsaken(None, now, patience, after(60)));
    }
}
