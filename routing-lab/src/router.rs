//! The seam: what a policy is told and asked. One router stands for the dispatcher of one region; it hears heartbeats of all
//! pools, and the ends of its own attempts only.

use std::time::Duration;

use routing::{
    budget::{Draw, Held},
    cold::Bin,
    retry::Verdict,
    track::{Ours, Outcome},
};
use schemas::{
    Lane, Micros, PoolId, Tenant, UsdNanos, failure::Failure, handover::Acceptances, heartbeat::Heartbeat,
    job::Job, journal::Journal,
};

use super::slab::Key;

/// What a policy knows of a job. Its deadline stands in `job`.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) job: &'a Job,
    /// By index into the scenario's models.
    pub(super) model: usize,
    pub(super) journal: &'a Journal,
    /// Pools that must not take it now.
    pub(super) avoid: &'a [PoolId],
    /// Jobs that wait for the same slots.
    pub(super) ahead: u32,
    /// How long it has waited for this attempt.
    pub(super) held_for: Duration,
    /// Whether it rests after a failure.
    pub(super) rests: bool,
}

/// Where an attempt goes, and what its end has to be told with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// By index into the scenario's pools.
    pub(super) pool: usize,
    pub(super) model: usize,
    pub(super) bin: Bin,
    /// What it may cost.
    pub(super) reserve: UsdNanos,
    /// What it is expected to cost.
    pub(super) expected: UsdNanos,
    /// How long it may run before a second one is thought of.
    pub(super) hedge_after: Option<Duration>,
    pub(super) hedge: bool,
    /// Names the money that is set aside for it.
    pub(super) reservation: Option<Key>,
}

/// What becomes of a job that was looked at.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// It is sent.
    Send(Sending),
    /// It rests, then it is looked at again.
    Pause(Duration),
    /// Nothing can take it now.
    Wait,
    /// Nothing can take it now, for want of its tenant's money: others may go.
    WaitTenant(Held),
}

/// A policy.
pub(super) trait Router {
    /// The line its jobs wait in.
    type Line: Line;

    /// A job arrived.
    fn arrived(&mut self, job: &Job, now: Micros);
    /// A worker spoke.
    fn heard(&mut self, pool: usize, beat: &Heartbeat, now: Micros);
    /// A worker said how full it is.
    fn load(&mut self, pool: usize, news: &Acceptances, now: Micros);
    /// Looks for a pool. What it gives is sent: it counts it.
    fn choose(&mut self, want: &Want<'_>, now: Micros) -> Step;
    /// Looks for a second pool beside those of `want.avoid`.
    fn hedge(&mut self, want: &Want<'_>, now: Micros) -> Option<Sending>;
    /// An offer was taken, or not.
    fn answered(&mut self, sent: &Sending, taken: bool, now: Micros);
    /// An attempt ended.
    fn ended(&mut self, sent: &Sending, tenant: &Tenant, outcome: &Outcome, cost: UsdNanos, now: Micros);
    /// An attempt that was taken will not be heard of again.
    fn vanished(&mut self, sent: &Sending, now: Micros);
    /// Whether another attempt follows one that failed; `want.journal` holds it.
    fn verdict(&mut self, want: &Want<'_>, failure: &Failure, now: Micros) -> Verdict;
    /// All attempts of ours that are open, by pool and model. Once a second, so that no count of them drifts.
    fn ours(&mut self, _: &[(usize, usize, Ours)]) {}
    /// How long a job rests after a failure before it goes back to a pool that failed it. Others rest by rules of their own.
    fn rest(&mut self, _: &Journal) -> Duration {
        Duration::ZERO
    }
    /// Once a second: what is to be kept warm, as pool, model and containers.
    fn second(&mut self, now: Micros, orders: &mut Vec<(usize, usize, u32)>);

    /// What to ask the shared counters of budgets. Those who know no budgets ask nothing.
    fn draws(&mut self, _: Micros) -> Vec<Draw> {
        Vec::new()
    }
    /// A counter stood at this after a draw; gives what goes back to it.
    fn drawn(&mut self, _: &Draw, _: u64, _: Micros) -> Option<Draw> {
        None
    }
}

/// What to do with a job that a scan visits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Take it out and end the scan.
    Take,
    /// Go on with the next.
    Skip,
    /// Go on with the next tenant.
    SkipTenant,
    /// End the scan.
    Stop,
}

/// The jobs of one region and model that wait.
pub(super) trait Line: Default {
    /// A place that a job can come back to.
    type Seat;

    fn push(&mut self, lane: Lane, tenant: &Tenant, weight: u32, deadline: Micros, now: Micros, job: Key);
    fn put_back(&mut self, seat: Self::Seat, job: Key);
    fn scan(&mut self, judge: impl FnMut(Key) -> Look) -> Option<(Self::Seat, Key)>;
    /// A job was sent and is expected to cost so much.
    fn started(&mut self, seat: &Self::Seat, cost: UsdNanos);
    /// What it was charged and what it cost.
    fn corrected(&mut self, seat: &Self::Seat, expected: UsdNanos, actual: UsdNanos);
    fn len(&self) -> usize;
}
