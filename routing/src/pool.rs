//! Which pools are alive, where, how loaded and how good: what heartbeats, acceptances and outcomes add up to. Pure.
//!
//! A [`Pool`] holds what all its models share: workers, slots, rate limits. A [`Track`] holds what is known of one model there.
//! [`Pools`] is all of them, and takes in news.

mod pools;

use std::time::Duration;

use schemas::{Micros, ModelToken, PoolId, WorkerId, heartbeat::Heartbeat};

pub use self::pools::{Change, Pools};
use crate::{reports::Report, track::Track};

/// The part of a pool's slots that is kept for jobs of its own region.
const KEPT_AT_HOME: f64 = 0.2;
/// How much the newest heartbeat counts for the delay.
const DELAY_NEWS: f64 = 0.1;
/// The longest delay that is believed: a clock that is wrong must not make a pool look a day away.
const DELAY_MAX: Duration = Duration::from_secs(1);
/// A worker that was silent for so long is gone with all that it ran: by then its jobs have been delivered again.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(60);

/// One pool.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its provider and region.
    pub id: PoolId,
    /// By name. They are few, and walked for every decision: a list is several times as fast as a tree.
    workers: Vec<(WorkerId, Worker)>,
    /// A rate limit keeps the pool closed until then.
    pub closed_until: Micros,
    /// How long a message from there takes, by the clocks of both ends.
    delay: Duration,
    tracks: Vec<(ModelToken, Track)>,
}

#[derive(Clone, Debug)]
struct Worker {
    heard: Micros,
    slots: u32,
    running: u32,
    draining: bool,
    healthy: bool,
}

/// What keeps a whole pool from taking jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// No worker was heard for too long.
    Silent,
    /// All workers are leaving.
    Draining,
    /// Every worker finds its provider down.
    Unhealthy,
    /// A rate limit.
    RateLimit,
}

impl Pool {
    fn new(id: PoolId) -> Self {
        Self {
            id,
            workers: Vec::new(),
            closed_until: Micros::default(),
            delay: Duration::ZERO,
            tracks: Vec::new(),
        }
    }

    /// What is known of `model` there; `None` if it is not served.
    pub fn track(&self, model: &ModelToken) -> Option<&Track> {
        self.tracks.iter().find(|(token, _)| token == model).map(|(_, track)| track)
    }

    /// Like [`Pool::track`], to be changed.
    pub fn track_mut(&mut self, model: &ModelToken) -> Option<&mut Track> {
        self.tracks.iter_mut().find(|(token, _)| token == model).map(|(_, track)| track)
    }

    /// All models that are served there.
    pub fn tracks(&self) -> impl Iterator<Item = (&ModelToken, &Track)> {
        self.tracks.iter().map(|(model, track)| (model, track))
    }

    /// Its workers, by name.
    pub fn workers(&self) -> impl Iterator<Item = &WorkerId> {
        self.workers.iter().map(|(id, _)| id)
    }

    /// Whether that worker was heard within `silent_after`.
    pub fn heard_of(&self, worker: &WorkerId, silent_after: Duration, now: Micros) -> bool {
        self.workers.iter().any(|(id, w)| id == worker && now.since(w.heard) <= silent_after)
    }

    /// How long a message from there takes, as far as heartbeats tell.
    pub const fn delay(&self) -> Duration {
        self.delay
    }

    /// What keeps the pool from taking jobs; `None` if it is open.
    pub fn closed(&self, silent_after: Duration, now: Micros) -> Option<Closed> {
        let mut heard = self.each().filter(|w| now.since(w.heard) <= silent_after).peekable();
        if heard.peek().is_none() {
            return Some(Closed::Silent);
        }
        let mut taking = heard.filter(|w| !w.draining).peekable();
        if taking.peek().is_none() {
            return Some(Closed::Draining);
        }
        if !taking.any(|w| w.healthy) {
            return Some(Closed::Unhealthy);
        }
        (now < self.closed_until).then_some(Closed::RateLimit)
    }

    /// The free slots and all slots of workers that take jobs. Our own unanswered offers count as taken.
    pub fn free(&self, silent_after: Duration, now: Micros) -> (u32, u32) {
        let (mut free, mut slots) = (0u32, 0u32);
        for w in self.each() {
            if !w.draining && w.healthy && now.since(w.heard) <= silent_after {
                free += w.slots.saturating_sub(w.running);
                slots += w.slots;
            }
        }
        let offered: u32 = self.tracks.iter().map(|(_, track)| track.ours().offered).sum();
        (free.saturating_sub(offered), slots)
    }

    /// Takes in a heartbeat. True if the provider seems to hang, and did not before.
    fn heartbeat(&mut self, beat: Heartbeat, now: Micros) -> bool {
        let before = self.slots();
        let delay = now.since(beat.at_us).min(DELAY_MAX);
        self.delay = if before == 0 {
            delay
        } else {
            self.delay.mul_f64(1.0 - DELAY_NEWS) + delay.mul_f64(DELAY_NEWS)
        };
        let worker = Worker {
            heard: now,
            slots: beat.slots,
            running: beat.running,
            draining: beat.draining,
            healthy: beat.healthy.unwrap_or(true),
        };
        let weight = if worker.draining { 0 } else { worker.slots };
        match self.workers.binary_search_by(|(id, _)| id.cmp(&beat.worker)) {
            Ok(index) => self.workers[index].1 = worker,
            Err(index) => self.workers.insert(index, (beat.worker.clone(), worker)),
        }
        let slots = self.slots();
        for (model, track) in &mut self.tracks {
            if !beat.models.iter().any(|served| served.model == *model) {
                track.forget(&beat.worker);
            }
        }
        let mut hangs = false;
        for served in beat.models {
            let report = Report { worker: beat.worker.clone(), weight, served };
            if let Some(track) = self.track_mut(&report.served.model) {
                hangs |= track.heard(report, before, slots, now);
            } else {
                self.tracks.push((report.served.model.clone(), Track::new(report, slots)));
            }
        }
        self.tracks.retain(|(_, track)| track.is_served());
        hangs
    }

    /// Drops workers that were silent for too long, with all that they said.
    fn forget_silent(&mut self, now: Micros) {
        let Self { workers, tracks, .. } = self;
        workers.retain(|(id, worker)| {
            let stays = now.since(worker.heard) < FORGOTTEN_AFTER;
            if !stays {
                for (_, track) in tracks.iter_mut() {
                    track.forget(id);
                }
            }
            stays
        });
    }

    /// Takes in how many jobs a worker runs.
    fn load(&mut self, worker: &WorkerId, running: u32, now: Micros) {
        if let Some((_, worker)) = self.workers.iter_mut().find(|(id, _)| id == worker) {
            (worker.running, worker.heard) = (running, now);
        }
    }

    /// Moves what was noted by a clock that is set back now with it: a worker that spoke would look as if it went on speaking until
    /// the clock is where it was.
    fn clock_was_set_back(&mut self, by: Duration) {
        for (_, worker) in &mut self.workers {
            worker.heard = worker.heard - by;
        }
        self.closed_until = self.closed_until - by;
    }

    fn each(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter().map(|(_, worker)| worker)
    }

    fn slots(&self) -> u32 {
        self.each().map(|w| w.slots).sum()
    }
}

/// How many of a pool's `slots` are kept for jobs of its own region.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a part of a number of slots")]
pub fn kept(slots: u32) -> u32 {
    (f64::from(slots) * KEPT_AT_HOME).ceil() as u32
}

#[cfg(test)]
pub(crate) mod tests;
