//! `[offers]`, `[trim]` and `[dispatcher]`: how a dispatcher offers jobs, trims the log and ends.

use std::time::Duration;

use dispatcher::config::{OfferConfig, TrimConfig};
use serde::Deserialize;

use super::{
    rule::{Rule, at_least, longer, positive},
    span::Span,
};

/// Offers younger than this would be refused for the network's delay alone.
const ACCEPT_WITHIN_MIN: Span = Span::millis(10);

/// `[offers]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOffers {
    accept_within: Option<Span>,
    margin: Option<Span>,
    poison_after: Option<u64>,
    pull_batch: Option<u32>,
    pub(super) look_ahead: Option<u32>,
}

impl RawOffers {
    pub(super) fn check(self, ack_wait: Duration) -> Result<OfferConfig, Rule> {
        let plan = OfferConfig::default();
        let accept_within = match self.accept_within {
            Some(span) => at_least("offers.accept_within", span, ACCEPT_WITHIN_MIN, "")?,
            None => plan.accept_within.min(ack_wait / 4),
        };
        let margin = self.margin.map_or(plan.margin.min(ack_wait / 8), Span::get);
        // A lease must outlive its offer, or it would be handed out twice.
        if accept_within + margin > ack_wait / 2 {
            return Err(Rule::new(
                "offers.accept_within",
                format!(
                    "`{accept_within:?}` and offers.margin (`{margin:?}`) together must not be longer than half of \
                     lease.ack_wait (`{ack_wait:?}`)"
                ),
            ));
        }
        Ok(OfferConfig {
            accept_within,
            margin,
            poison_after: positive("offers.poison_after", self.poison_after.unwrap_or(plan.poison_after))?,
            pull_batch: positive("offers.pull_batch", self.pull_batch.unwrap_or(plan.pull_batch))?,
            look_ahead: self.look_ahead.unwrap_or(plan.look_ahead),
        })
    }
}

/// `[trim]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrim {
    horizon: Option<Span>,
    every: Option<Span>,
}

impl RawTrim {
    pub(super) fn check(self, jobs_window: Duration) -> Result<TrimConfig, Rule> {
        let plan = TrimConfig::default();
        if let Some(horizon) = self.horizon {
            let window = Span::millis(u64::try_from(jobs_window.as_millis()).unwrap_or(u64::MAX));
            // Message ids of trimmed jobs are forgotten when the server restarts.
            longer(("trim.horizon", horizon), ("lease.jobs_window", window))?;
        }
        let every = match self.every {
            Some(span) => at_least("trim.every", span, Span::millis(100), "")?,
            None => plan.every,
        };
        Ok(TrimConfig { horizon: self.horizon.map_or(plan.horizon, Span::get), every })
    }
}

/// `[dispatcher]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDispatcher {
    pub(super) grace: Span,
}

impl Default for RawDispatcher {
    fn default() -> Self {
        Self { grace: Span::secs(10) }
    }
}
