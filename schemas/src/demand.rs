//! What waits, as a dispatcher tells whoever rents machines: how much, by when, how fast more of it comes.
//!
//! Core NATS on [`crate::subjects::demand`], each second, and at once when something waits where nothing did. Every message is
//! whole: a lost one is made good by the next, and what happened since is read off counters that only grow.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Lane, Micros, ModelToken, PoolId, Region, WorkerId, time::micros};

/// A dispatcher that says nothing for so long is gone, and what it held is somebody else's. It speaks each second.
pub const SILENT_AFTER: Duration = Duration::from_secs(4);
/// The most groups of deadlines in one lane, those without a deadline included.
pub const GROUPS_MAX: usize = 16;
/// The first group of deadlines reaches so far ahead, each further one twice as far; the last has no end (34 hours and more).
const FIRST_GROUP: Duration = Duration::from_secs(15);

/// What one dispatcher sees waiting in one region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Demand {
    /// Who tells.
    pub dispatcher: WorkerId,
    /// Changes when the process is another one: its counters begin anew.
    pub started_us: Micros,
    /// Of which region.
    pub region: Region,
    /// When this was said, by the dispatcher's clock.
    pub at_us: Micros,
    /// The models of which there is anything to say.
    pub models: Vec<ModelDemand>,
}

/// What is known of one model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelDemand {
    /// Which.
    pub model: ModelToken,
    /// The lanes of which there is anything to say.
    pub lanes: Vec<LaneDemand>,
    /// How long a job takes in each pool of the region that serves the model.
    #[serde(default)]
    pub service: Vec<ServiceTime>,
}

/// What is known of one lane of a model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneDemand {
    /// Which.
    pub lane: Lane,
    /// Jobs that this dispatcher holds and that run nowhere.
    pub in_hand: u32,
    /// Jobs that were never delivered to any dispatcher. All dispatchers of a region tell of the same jobs here, so this number is
    /// not to be added up. `None` while this dispatcher does not know.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// Jobs that this dispatcher has offered or knows to run, in whatever pool.
    pub running: u32,
    /// Jobs that were delivered to this dispatcher, and to nobody before, since it started. Always 0 in lane `low`: a backfill
    /// says nothing about what comes next.
    pub arrivals: u64,
    /// The time that the jobs in hand are expected to take of one slot, microseconds.
    pub slot_us: u64,
    /// The jobs in hand by deadline, earliest first, those without one last; at most [`GROUPS_MAX`].
    #[serde(default)]
    pub due: Vec<Due>,
}

/// Jobs that are due at about the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Due {
    /// The earliest of their deadlines; `None` for jobs without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by_us: Option<Micros>,
    /// How many.
    pub jobs: u32,
    /// The time that they are expected to take of one slot, microseconds.
    pub slot_us: u64,
}

/// How long a job takes in one pool, as the dispatcher learnt it; the worker's word until it has seen enough.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceTime {
    /// Where.
    pub pool: PoolId,
    /// The attempts that this was learnt from; 0 while it is the worker's word.
    pub samples: u64,
    /// Mean, microseconds.
    pub mean_us: u64,
    /// Median, microseconds.
    pub p50_us: u64,
    /// 90th percentile, microseconds.
    pub p90_us: u64,
    /// 95th percentile, microseconds.
    pub p95_us: u64,
}

/// Jobs counted by their deadlines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    dated: [(Micros, u32); GROUPS_MAX - 1],
    undated: u32,
}

impl Groups {
    /// Counts a job. Deadlines that have passed are the first group's.
    pub fn count(&mut self, deadline: Option<Micros>, now: Micros) {
        let Some(by) = deadline else {
            self.undated = self.undated.saturating_add(1);
            return;
        };
        let (earliest, jobs) = &mut self.dated[group(by.since(now))];
        *earliest = if *jobs == 0 { by } else { by.min(*earliest) };
        *jobs = jobs.saturating_add(1);
    }

    /// How many jobs were counted.
    pub fn jobs(&self) -> u32 {
        self.dated.iter().map(|(_, jobs)| *jobs).fold(self.undated, u32::saturating_add)
    }

    /// The groups that have jobs, when each job takes `each`.
    pub fn due(&self, each: Duration) -> Vec<Due> {
        let due =
            |by_us, jobs: u32| Due { by_us, jobs, slot_us: micros(each).saturating_mul(u64::from(jobs)) };
        let dated = self.dated.iter().map(|(by, jobs)| due(Some(*by), *jobs));
        dated.chain([due(None, self.undated)]).filter(|due| due.jobs > 0).collect()
    }
}

/// The group of a deadline that is so far ahead.
fn group(ahead: Duration) -> usize {
    let steps = micros(ahead) / micros(FIRST_GROUP);
    let doublings = u64::BITS - steps.leading_zeros();
    (doublings as usize).min(GROUPS_MAX - 2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    #[test]
    fn a_backfill_with_one_deadline_is_one_group_with_that_deadline() {
        let (mut groups, by) = (Groups::default(), NOW + Duration::from_secs(8 * 3600));
        for _ in 0..200 {
            groups.count(Some(by), NOW);
        }
        groups.count(None, NOW);
        let due = groups.due(Duration::from_secs(2));
        assert_eq!(due[0], Due { by_us: Some(by), jobs: 200, slot_us: 400_000_000 });
        assert_eq!(due[1], Due { by_us: None, jobs: 1, slot_us: 2_000_000 });
        assert_eq!((due.len(), groups.jobs()), (2, 201));
    }

    #[test]
    fn a_message_with_fields_that_we_do_not_know_reads() {
        let text = r#"{"dispatcher":"d1","started_us":1,"region":"us-east","at_us":2,"weather":"fine","models":[
            {"model":"m","lanes":[{"lane":"high","in_hand":1,"running":0,"arrivals":1,"slot_us":5}]}]}"#;
        let demand: Demand = serde_json::from_str(text).unwrap();
        let lane = &demand.models[0].lanes[0];
        assert_eq!((lane.in_hand, lane.behind, lane.due.len()), (1, None, 0));
    }

    proptest! {
        #[test]
        fn groups_are_few_in_order_never_late_and_lose_nobody(spans in proptest::collection::vec(proptest::option::of(0..1_000_000_000_000u64), 0..200)) {
            let mut groups = Groups::default();
            for span in &spans {
                groups.count(span.map(|us| NOW + Duration::from_micros(us)), NOW);
            }
            let due = groups.due(Duration::from_micros(3));
            prop_assert!(due.len() <= GROUPS_MAX);
            let jobs: u32 = due.iter().map(|d| d.jobs).sum();
            prop_assert_eq!(jobs as usize, spans.len());
            let dates: Vec<_> = due.iter().filter_map(|d| d.by_us).collect();
            prop_assert!(dates.is_sorted());
            for by in &dates {
                prop_assert!(spans.iter().flatten().any(|us| NOW + Duration::from_micros(*us) == *by));
            }
            // No group promises more time than a job in it has.
            for us in spans.iter().flatten() {
                let by = NOW + Duration::from_micros(*us);
                let sooner: u32 = due.iter().filter(|d| d.by_us.is_some_and(|at| at <= by)).map(|d| d.jobs).sum();
                let exact = spans.iter().flatten().filter(|other| *other <= us).count();
                prop_assert!(sooner as usize >= exact);
            }
        }
    }
}
