//! Rate limits, whose state every answer tells.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// The limits of reads, writes, deploys and creations.
#[derive(Debug)]
pub(super) struct Budgets(pub(super) [Budget; 4]);

#[derive(Debug)]
pub(super) struct Budget {
    pub(super) most: u32,
    window: Duration,
    /// When it ends, and how many calls were made in it.
    current: Mutex<Option<(Instant, u32)>>,
}

impl Budgets {
    pub(super) fn new(limits: [(u32, Duration); 4]) -> Self {
        Self(limits.map(|(most, window)| Budget { most, window, current: Mutex::default() }))
    }
}

impl Budget {
    /// Counts a call: whether it is within the limit, what is left, and the seconds until the limit begins anew.
    pub(super) fn take(&self, now: Instant) -> (bool, u32, u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let (ends, taken) = match *current {
            Some((ends, taken)) if now < ends => (ends, taken + 1),
            Some(_) | None => (now + self.window, 1),
        };
        *current = Some((ends, taken));
        let left = ends.duration_since(now).as_millis().div_ceil(1_000);
        (taken <= self.most, self.most.saturating_sub(taken), u64::try_from(left).unwrap_or(u64::MAX))
    }
}
