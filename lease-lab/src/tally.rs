//! What worlds come to, to be added up.

/// What worlds come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Worlds.
    pub worlds: u64,
    /// Accepted jobs.
    pub jobs: u64,
    /// Jobs that succeeded.
    pub succeeded: u64,
    /// Runs that were billed.
    pub runs: u64,
    /// Dollars on the bills.
    pub billed: u64,
    /// Billed attempts that no cost event knows.
    pub unknown: u64,
    /// Dollars of those.
    pub unknown_usd: u64,
    /// Attempts with more than one cost event.
    pub twice: u64,
    /// Attempts that were booked and cost nothing.
    pub imagined: u64,
    /// Naks of leases that were somebody else's by then.
    pub stale_naks: u64,
    /// Events.
    pub events: u64,
    /// Virtual seconds.
    pub seconds: u64,
}

impl Tally {
    /// Adds another.
    pub fn add(&mut self, other: &Self) {
        let Self {
            worlds,
            jobs,
            succeeded,
            runs,
            billed,
            unknown,
            unknown_usd,
            twice,
            imagined,
            stale_naks,
            events,
            seconds,
        } = self;
        *worlds += other.worlds;
        *jobs += other.jobs;
        *succeeded += other.succeeded;
        *runs += other.runs;
        *billed += other.billed;
        *unknown += other.unknown;
        *unknown_usd += other.unknown_usd;
        *twice += other.twice;
        *imagined += other.imagined;
        *stale_naks += other.stale_naks;
        *events += other.events;
        *seconds += other.seconds;
    }
}
