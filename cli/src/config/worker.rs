//! `[workers]`: the settings that all pools of a process share, and where providers send webhooks.

use std::{net::SocketAddr, time::Duration};

use serde::Deserialize;
use workers::{adapters::http::BaseUrl, config::JournalMode};

use super::{
    rule::{Rule, at_least},
    span::Span,
};

/// `[workers]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Workers {
    pub(crate) journal: JournalMode,
    pub(crate) standing_every: Duration,
    pub(crate) grace: Duration,
    pub(crate) webhooks: Option<ReceiveWebhooks>,
}

/// `[workers.webhooks]`, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceiveWebhooks {
    /// Where to listen.
    pub(crate) listen: SocketAddr,
    /// The URL at which providers reach it.
    pub(crate) public_url: String,
}

/// `[workers]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorkers {
    journal: JournalMode,
    standing_every: Span,
    grace: Span,
    webhooks: Option<RawWebhooks>,
}

/// `[workers.webhooks]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebhooks {
    listen: SocketAddr,
    public_url: String,
}

impl Default for RawWorkers {
    fn default() -> Self {
        Self {
            journal: JournalMode::default(),
            standing_every: Span::secs(60),
            grace: Span::secs(30),
            webhooks: None,
        }
    }
}

impl RawWorkers {
    pub(super) fn check(self) -> Result<Workers, Rule> {
        let Self { journal, standing_every, grace, webhooks } = self;
        let webhooks = webhooks.map(|RawWebhooks { listen, public_url }| match BaseUrl::parse(&public_url) {
            Ok(_) => Ok(ReceiveWebhooks { listen, public_url }),
            Err(error) => Err(Rule::new(
                "workers.webhooks.public_url",
                error.to_string().trim_start_matches("base_url "),
            )),
        });
        Ok(Workers {
            webhooks: webhooks.transpose()?,
            journal,
            standing_every: at_least("workers.standing_every", standing_every, Span::millis(100), "")?,
            grace: grace.get(),
        })
    }
}
