//! The seam between engine and policies: what a policy is told, and what it is asked. One router is the dispatcher of one region.
//! It hears the heartbeats of all pools, and the ends of its own attempts only.

use std::time::Duration;

use routing::{
    budget::{Draw, Held},
    cold::Bin,
    fair::Look,
    retry::Verdict,
    track::{Ours, Outcome},
};
use schemas::{
    Lane, Micros, PoolId, Tenant, UsdNanos, failure::Failure, handover::Acceptances, heartbeat::Heartbeat,
    job::Job, journal::Journal,
};

use super::slab::Key;

/// A job as a policy sees it. Its deadline is in `job`.
#[derive(Clone, Copy)]
pub(super) struct Want<'a> {
    pub(super) job: &'a Job,
    /// The index of its model in the scenario.
    pub(super) model: usize,
    pub(super) journal: &'a Journal,
    /// Pools that must not take the job now.
    pub(super) avoid: &'a [PoolId],
    /// How many jobs wait in front of it for the same slots.
    pub(super) ahead: u32,
    /// How long the job has waited for this attempt.
    pub(super) held_for: Duration,
    /// Whether the job rests after a failure.
    pub(super) rests: bool,
}

/// Where an attempt goes, and what the router wants back when it ends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    /// The index of the pool in the scenario.
    pub(super) pool: usize,
    pub(super) model: usize,
    pub(super) bin: Bin,
    /// What the attempt may cost.
    pub(super) reserve: UsdNanos,
    /// What the attempt is expected to cost.
    pub(super) expected: UsdNanos,
    /// How long the attempt may take before a second one is considered.
    pub(super) hedge_after: Option<Duration>,
    pub(super) hedge: bool,
    /// The key of the money that is set aside for it.
    pub(super) reservation: Option<Key>,
}

/// What to do with a job.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Send it.
    Send(Sending),
    /// Look at it again after this time.
    Pause(Duration),
    /// No pool can take it now.
    Wait,
    /// No pool can take it now because its tenant has no money left. Other tenants' jobs may go.
    WaitTenant(Held),
}

/// A policy.
pub(super) trait Router {
    /// The kind of line in which its jobs wait.
    type Line: Line;

    /// A job arrived.
    fn arrived(&mut self, job: &Job, now: Micros);
    /// A heartbeat was heard.
    fn heard(&mut self, pool: usize, beat: &Heartbeat, now: Micros);
    /// A worker told how many jobs it runs.
    fn load(&mut self, pool: usize, news: &Acceptances, now: Micros);
    /// Looks for a pool. What it returns is sent, so the router counts it at once.
    fn choose(&mut self, want: &Want<'_>, now: Micros) -> Step;
    /// Looks for a pool for a second attempt, other than those in `want.avoid`.
    fn hedge(&mut self, want: &Want<'_>, now: Micros) -> Option<Sending>;
    /// An offer was taken, or not.
    fn answered(&mut self, sent: &Sending, taken: bool, now: Micros);
    /// An attempt ended.
    fn ended(&mut self, sent: &Sending, tenant: &Tenant, outcome: &Outcome, cost: UsdNanos, now: Micros);
    /// An accepted attempt will not be heard of again.
    fn vanished(&mut self, sent: &Sending, now: Micros);
    /// Whether another attempt follows one that failed; `want.journal` holds it.
    fn verdict(&mut self, want: &Want<'_>, failure: &Failure, now: Micros) -> Verdict;
    /// Once a second: all open attempts of this router, by pool and model.
    fn ours(&mut self, _: &[(usize, usize, Ours)]) {}
    /// How long a job rests after a failure before it goes back to a pool that failed it. The other policies have pauses of their
    /// own.
    fn rest(&mut self, _: &Journal) -> Duration {
        Duration::ZERO
    }
    /// Once a second: adds what is to be kept warm, as pool, model and containers.
    fn second(&mut self, now: Micros, orders: &mut Vec<(usize, usize, u32)>);

    /// The draws on the shared counters of budgets. The other policies know no budgets.
    fn draws(&mut self, _: Micros) -> Vec<Draw> {
        Vec::new()
    }
    /// A counter was at `total` after a draw. Returns the draw that gives money back to it, if one should.
    fn drawn(&mut self, _draw: &Draw, _total: u64, _: Micros) -> Option<Draw> {
        None
    }
}

/// The jobs of one region and model that wait.
pub(super) trait Line: Default {
    /// A place in the line that a job can come back to.
    type Seat;

    fn push(&mut self, lane: Lane, tenant: &Tenant, weight: u32, deadline: Micros, now: Micros, job: Key);
    fn put_back(&mut self, seat: Self::Seat, job: Key);
    fn scan(&mut self, look: impl FnMut(Key) -> Look) -> Option<(Self::Seat, Key)>;
    /// A job was sent, and is expected to cost `cost`.
    fn started(&mut self, seat: &Self::Seat, cost: UsdNanos);
    /// A job was charged `expected`, and cost `actual`.
    fn corrected(&mut self, seat: &Self::Seat, expected: UsdNanos, actual: UsdNanos);
    fn len(&self) -> usize;
}
