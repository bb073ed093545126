//! Bugs of the past, put back one at a time, to see that the rules find them. They live in the drivers: the machines stay as they
//! are.

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A worker books the cost of a success as useful before it knows whether its result is the one that is stored.
    UsefulTooSoon,
    /// A dispatcher does not listen to roll calls: an attempt whose end was not heard is counted for ever.
    DeafToRollCalls,
    /// A worker whose lease may be somebody else's gives it back.
    NaksLostLease,
    /// A worker finishes the lease as soon as it has sent the result.
    AcksTooSoon,
    /// A dispatcher sends a job's text beside the handover, whatever the two add up to.
    OffersTooMuch,
    /// A worker calls its provider at once, and collects its acceptances for a while.
    CallsUnannounced,
    /// A dispatcher finishes what does not read as a job, and tells nobody.
    DropsBroken,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::UsefulTooSoon,
        Self::DeafToRollCalls,
        Self::NaksLostLease,
        Self::AcksTooSoon,
        Self::OffersTooMuch,
        Self::CallsUnannounced,
        Self::DropsBroken,
    ];
}
