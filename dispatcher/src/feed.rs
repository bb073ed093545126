//! One consumer that a dispatcher reads, and the pulls it has open there. Pure.

use std::{collections::VecDeque, time::Duration};

use schemas::{Lane, Micros, ModelToken, Region, lease::Lease, topology};

/// How long a pull stays open. Short, so that one lost in a leader change is soon made again.
pub const PULL_EXPIRES: Duration = Duration::from_secs(5);
/// A pull that was not heard to end for so long after its time is lost.
const PULL_LOST_AFTER: Duration = Duration::from_secs(1);
/// After a pull found no consumer or no leader.
const PULL_PAUSE: Duration = Duration::from_millis(500);

/// A consumer.
#[derive(Debug)]
pub struct Feed {
    /// The region of its stream.
    pub region: Region,
    /// Its model.
    pub model: ModelToken,
    /// Its lane.
    pub lane: Lane,
    /// Its stream.
    pub stream: String,
    /// Its name.
    pub consumer: String,
    /// Deliveries up to this sequence may be done already: the consumer was made anew.
    pub recreated_at: u64,
    /// The highest sequence delivered to us.
    pub seen: u64,
    /// Jobs known to wait behind the last one delivered.
    pub backlog: u64,
    /// Whether the server has told `backlog`.
    pub heard: bool,
    /// Jobs that were delivered here and nowhere before.
    pub arrivals: u64,
    /// No pull before this: the last one found nobody.
    paused: Option<Micros>,
    pulls: VecDeque<Pull>,
}

#[derive(Debug)]
struct Pull {
    number: u64,
    left: u32,
    asked: Micros,
    lost_at: Micros,
}

impl Feed {
    /// A feed for one model and lane.
    pub fn new(region: Region, model: ModelToken, lane: Lane) -> Self {
        Self {
            stream: topology::jobs_stream(&region),
            consumer: topology::consumer_name(&model, lane),
            region,
            model,
            lane,
            recreated_at: 0,
            seen: 0,
            backlog: 0,
            heard: false,
            arrivals: 0,
            paused: None,
            pulls: VecDeque::new(),
        }
    }

    /// Jobs that open pulls may still bring.
    pub fn outstanding(&self) -> u32 {
        self.pulls.iter().map(|p| p.left).sum()
    }

    /// Counts a delivery against the oldest pull: the server serves them in order.
    pub fn delivered(&mut self, lease: &Lease) {
        self.waits_behind(lease.pending);
        if let Some(pull) = self.pulls.front_mut() {
            pull.left = pull.left.saturating_sub(1);
            if pull.left == 0 {
                self.pulls.pop_front();
            }
        }
    }

    /// The server says how many jobs wait behind the last one delivered.
    pub const fn waits_behind(&mut self, jobs: u64) {
        (self.backlog, self.heard) = (jobs, true);
    }

    /// A pull begins.
    pub fn asked(&mut self, number: u64, batch: u32, now: Micros) {
        self.paused = None;
        let lost_at = now + PULL_EXPIRES + PULL_LOST_AFTER;
        self.pulls.push_back(Pull { number, left: batch, asked: now, lost_at });
    }

    /// A pull has ended, filled or not.
    pub fn ended(&mut self, number: u64) {
        self.pulls.retain(|p| p.number != number);
    }

    /// The consumer did not serve a pull: leave it alone for a moment.
    pub fn pause(&mut self, now: Micros) {
        self.paused = Some(now + PULL_PAUSE);
    }

    /// Whether the consumer is left alone now.
    pub fn is_paused(&self, now: Micros) -> bool {
        self.paused.is_some_and(|at| at > now)
    }

    /// Forgets pulls the server must have forgotten, and says when the first of them was asked for.
    pub fn forget_lost(&mut self, now: Micros) -> Option<Micros> {
        let first = self.pulls.iter().filter(|p| p.lost_at <= now).map(|p| p.asked).min();
        self.pulls.retain(|p| p.lost_at > now);
        first
    }

    /// Forgets all that was known of a consumer whose stream was made anew.
    pub fn begin_anew(&mut self) {
        (self.recreated_at, self.seen, self.paused) = (0, 0, None);
        self.pulls.clear();
        (self.backlog, self.heard) = (0, false);
    }

    /// What was noted by the clock moves back with it.
    pub fn clock_was_set_back(&mut self, by: Duration) {
        self.paused = self.paused.map(|at| at - by);
        for pull in &mut self.pulls {
            (pull.asked, pull.lost_at) = (pull.asked - by, pull.lost_at - by);
        }
    }

    /// Forgets all pulls: the connection is a new one.
    pub fn forget_all(&mut self) {
        self.pulls.clear();
    }
}
