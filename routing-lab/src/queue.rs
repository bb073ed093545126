//! The two kinds of lines in which jobs wait: Beacon's own, and a plain one for the other policies, with strict priority of lanes
//! and first come, first served in each.

use std::collections::VecDeque;

use schemas::{Lane, Micros, Tenant, UsdNanos};

use super::{router::Line, scenario::lane_index, slab::Key};
use routing::fair::{Entry, Line as Fair, Look, Seat};

/// How many jobs of a lane a scan visits: jobs that wait for one pool must not hide all those behind them.
const VISITS: usize = 8;

/// A plain line.
#[derive(Debug, Default)]
pub(super) struct Plain {
    lanes: [VecDeque<Key>; 3],
}

impl Line for Plain {
    type Seat = Lane;

    fn push(&mut self, lane: Lane, _: &Tenant, _: u32, _: Micros, _: Micros, job: Key) {
        self.lanes[lane_index(lane)].push_back(job);
    }

    fn put_back(&mut self, seat: Lane, job: Key) {
        self.lanes[lane_index(seat)].push_front(job);
    }

    fn scan(&mut self, mut look: impl FnMut(Key) -> Look) -> Option<(Lane, Key)> {
        for (lane, jobs) in Lane::ALL.into_iter().zip(&mut self.lanes) {
            for at in 0..jobs.len().min(VISITS) {
                match look(jobs[at]) {
                    Look::Take => return jobs.remove(at).map(|job| (lane, job)),
                    Look::Skip | Look::SkipTenant => {}
                    Look::Stop => return None,
                }
            }
        }
        None
    }

    fn started(&mut self, _: &Lane, _: UsdNanos) {}

    fn corrected(&mut self, _: &Lane, _: UsdNanos, _: UsdNanos) {}

    fn len(&self) -> usize {
        self.lanes.iter().map(VecDeque::len).sum()
    }
}

impl Line for Fair<Key> {
    type Seat = Seat;

    fn push(&mut self, lane: Lane, tenant: &Tenant, weight: u32, deadline: Micros, now: Micros, job: Key) {
        self.push(lane, tenant, weight, Some(deadline), now, job);
    }

    fn put_back(&mut self, seat: Seat, job: Key) {
        self.put_back(Entry { seat, item: job });
    }

    fn scan(&mut self, mut look: impl FnMut(Key) -> Look) -> Option<(Seat, Key)> {
        let found = self.scan(|_, job| look(*job));
        found.map(|Entry { seat, item }| (seat, item))
    }

    fn started(&mut self, seat: &Seat, cost: UsdNanos) {
        self.started(seat, cost);
    }

    fn corrected(&mut self, seat: &Seat, expected: UsdNanos, actual: UsdNanos) {
        self.correct(seat, expected, actual);
    }

    fn len(&self) -> usize {
        self.len()
    }
}
