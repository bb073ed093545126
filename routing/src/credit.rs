//! How many jobs to pull: as many as can be placed, the urgent lanes first. Pure.
//!
//! Each consumer (one model, one lane) has pulls open for `outstanding` jobs. A consumer with a backlog gets its share of the free
//! slots by lane weight. A consumer that seems idle keeps a small pull open, so that a job that arrives is delivered at once.

use schemas::Lane;

/// The size of the pull that an idle consumer keeps open. Idle pulls may bring this many jobs more than there are slots; those
/// wait at the dispatcher.
pub const IDLE_PULL: u32 = 4;

/// The weight of a lane while several have a backlog. Every lane has one, so none starves.
pub const fn weight(lane: Lane) -> u32 {
    match lane {
        Lane::High => 8,
        Lane::Normal => 3,
        Lane::Low => 1,
    }
}

/// One consumer, as far as pulling is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// Its lane.
    pub lane: Lane,
    /// Jobs its open pulls may still bring.
    pub outstanding: u32,
    /// Jobs that are known to wait behind the last one delivered.
    pub backlog: u64,
}

/// How many more jobs each consumer of one model should ask for now.
///
/// `free` is the number of free slots for the model, `batch` the largest pull. Writes one number per entry of `wants` into `out`.
pub fn plan(free: u32, batch: u32, wants: &[Want], out: &mut Vec<u32>) {
    out.clear();
    out.resize(wants.len(), 0);
    if free == 0 {
        return;
    }
    let total: u32 = wants.iter().filter(|w| w.backlog > 0).map(|w| weight(w.lane)).sum();
    for (want, out) in wants.iter().zip(out) {
        let goal = if want.backlog > 0 {
            let share = (u64::from(free) * u64::from(weight(want.lane))).div_ceil(u64::from(total.max(1)));
            share.min(want.backlog.max(u64::from(IDLE_PULL))).min(u64::from(batch))
        } else {
            u64::from(IDLE_PULL.min(free))
        };
        let goal = u32::try_from(goal).unwrap_or(batch);
        // Each pull costs a message, so a new one waits until half of the last is used up.
        if want.outstanding * 2 <= goal {
            *out = goal - want.outstanding;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn check(free: u32, wants: &[(Lane, u32, u64)], asked: &[u32]) {
        let wants: Vec<Want> =
            wants.iter().map(|&(lane, outstanding, backlog)| Want { lane, outstanding, backlog }).collect();
        let mut out = Vec::new();
        plan(free, 500, &wants, &mut out);
        assert_eq!(out, asked);
    }

    #[test]
    fn without_a_free_slot_nothing_is_pulled() {
        check(0, &[(Lane::High, 0, 100)], &[0]);
    }

    #[test]
    fn an_idle_consumer_keeps_a_small_pull_open() {
        check(40, &[(Lane::High, 0, 0), (Lane::Low, 4, 0)], &[4, 0]);
    }

    #[test]
    fn lanes_with_a_backlog_share_by_weight_and_low_is_not_starved() {
        check(120, &[(Lane::High, 0, 900), (Lane::Normal, 0, 900), (Lane::Low, 0, 900)], &[80, 30, 10]);
        check(120, &[(Lane::High, 0, 0), (Lane::Normal, 0, 0), (Lane::Low, 0, 900)], &[4, 4, 120]);
    }

    proptest! {
        #[test]
        fn never_more_than_the_free_slots_and_the_idle_pulls(free in 0..5_000u32, wants in proptest::collection::vec((0..3usize, 0..600u32, 0..5_000u64), 1..6)) {
            let wants: Vec<Want> = wants.into_iter().map(|(l, outstanding, backlog)| Want { lane: Lane::ALL[l], outstanding, backlog }).collect();
            let mut out = Vec::new();
            plan(free, 500, &wants, &mut out);
            let asked: u32 = wants.iter().zip(&out).filter(|(_, o)| **o > 0).map(|(w, o)| w.outstanding + o).sum();
            prop_assert!(asked <= free + u32::try_from(wants.len()).unwrap() * IDLE_PULL);
        }
    }
}
