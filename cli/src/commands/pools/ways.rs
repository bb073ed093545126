//! How far pools are from their runners, as their workers measured it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use comfy_table::Table;
use schemas::{
    PoolId,
    check::{ROUND_TRIP_MAX, median},
    heartbeat::Heartbeat,
};
use serde::Serialize;

use crate::table::table;

/// A pool whose workers were heard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Way {
    pub(super) pool: PoolId,
    /// Workers that were heard.
    pub(super) workers: usize,
    /// The median of what they measured, microseconds; `None` where none has measured yet.
    pub(super) round_trip_us: Option<u64>,
}

/// What heartbeats say, by pool. The newest of each worker counts.
pub(super) fn ways(beats: &[Heartbeat], only: &[PoolId]) -> Vec<Way> {
    let mut newest: BTreeMap<(&PoolId, &str), &Heartbeat> = BTreeMap::new();
    for beat in beats.iter().filter(|beat| only.is_empty() || only.contains(&beat.pool)) {
        newest.insert((&beat.pool, beat.worker.as_str()), beat);
    }
    let pools: BTreeSet<&PoolId> = newest.keys().map(|(pool, _)| *pool).collect();
    let of = |pool: &&PoolId| {
        let beats: Vec<&&Heartbeat> =
            newest.iter().filter(|((of, _), _)| of == pool).map(|(_, beat)| beat).collect();
        let measured =
            beats.iter().filter_map(|beat| beat.round_trip_us).map(Duration::from_micros).collect();
        let round_trip_us = median(measured).map(schemas::time::micros);
        Way { pool: (*pool).clone(), workers: beats.len(), round_trip_us }
    };
    pools.iter().map(of).collect()
}

/// Whether each of these pools was heard.
pub(super) fn all_heard(beats: &[Heartbeat], pools: &[PoolId]) -> bool {
    pools.iter().all(|pool| beats.iter().any(|beat| beat.pool == *pool))
}

/// The same for people; `None` where nobody was heard.
pub(super) fn shown(ways: &[Way]) -> Option<Table> {
    let rows: Vec<[String; 4]> = ways
        .iter()
        .map(|Way { pool, workers, round_trip_us }| {
            let (measured, verdict) = match round_trip_us {
                None => ("-".to_owned(), "not measured"),
                Some(us) if Duration::from_micros(*us) <= ROUND_TRIP_MAX => (millis(*us), "within"),
                Some(us) => (millis(*us), "above"),
            };
            [pool.to_string(), workers.to_string(), measured, verdict.to_owned()]
        })
        .collect();
    let target = format!("{} ms", ROUND_TRIP_MAX.as_millis());
    (!rows.is_empty()).then(|| table(["pool", "workers", "round trip ms", &target], &[1, 2], &rows))
}

fn millis(us: u64) -> String {
    format!("{}.{}", us / 1_000, us % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::Micros;

    fn beat(pool: &str, worker: &str, round_trip_us: Option<u64>) -> Heartbeat {
        Heartbeat {
            pool: pool.parse().unwrap(),
            worker: worker.parse().unwrap(),
            started_us: Micros::new(1),
            at_us: Micros::new(2),
            slots: 1,
            running: 0,
            draining: false,
            healthy: None,
            round_trip_us,
            succeeded: 0,
            failed: 0,
            models: Vec::new(),
            machines: None,
        }
    }

    #[test]
    fn a_pools_way_is_the_median_of_what_its_workers_measured_last() {
        let beats = [
            beat("modal@us-east", "a", Some(9_000)),
            beat("modal@us-east", "a", Some(20_400)),
            beat("modal@us-east", "b", None),
            beat("runpod@eu-west", "c", Some(150_000)),
            beat("golem@us-east", "d", None),
        ];
        let ways = ways(&beats, &[]);
        let found: Vec<_> = ways.iter().map(|way| (way.workers, way.round_trip_us)).collect();
        assert_eq!(ways.iter().map(|way| way.pool.to_string()).collect::<Vec<_>>().len(), 3);
        assert!(found.contains(&(2, Some(20_400))) && found.contains(&(1, None)), "{found:?}");
        let table = shown(&ways).unwrap().to_string();
        for word in ["20.4", "within", "150.0", "above", "not measured"] {
            assert!(table.contains(word), "{word} is not in {table}");
        }
        assert!(shown(&[]).is_none());
        let only = ["golem@us-east".parse().unwrap()];
        assert_eq!(super::ways(&beats, &only).len(), 1);
        assert!(all_heard(&beats, &only) && !all_heard(&beats, &["x@y".parse().unwrap()]));
    }
}
