//! `[keeper]`: how keepers work.

use std::time::Duration;

use serde::Deserialize;

use super::{
    rule::{Rule, at_least},
    span::Span,
};

/// `[keeper]`, checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keeping {
    /// How often what no job used of rented machines is booked.
    pub(crate) standing_every: Duration,
    /// How long nobody must have kept a pool that is in no configuration before its machines are ended.
    pub(crate) forsaken_after: Duration,
    /// How long a keeper that stops waits for calls under way.
    pub(crate) grace: Duration,
}

/// `[keeper]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawKeeper {
    standing_every: Option<Span>,
    forsaken_after: Option<Span>,
    grace: Option<Span>,
}

impl RawKeeper {
    pub(super) fn check(&self) -> Result<Keeping, Rule> {
        let every = self.standing_every.unwrap_or(Span::secs(3_600));
        Ok(Keeping {
            standing_every: at_least("keeper.standing_every", every, Span::secs(1), "")?,
            forsaken_after: at_least(
                "keeper.forsaken_after",
                self.forsaken_after.unwrap_or(Span::secs(60)),
                Span::secs(10),
                ", or machines of a keeper that restarts would be ended",
            )?,
            grace: self.grace.unwrap_or(Span::secs(30)).get(),
        })
    }
}
