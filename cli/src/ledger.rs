//! What the `REPLIES` stream says in the end: how often each job ended, and what everything cost. The one file of
//! this crate that reads NATS itself.

use std::collections::HashMap;

use anyhow::Context as _;
use async_nats::{
    Client,
    jetstream::{self, consumer::pull},
};
use futures_util::StreamExt as _;
use producer::{Reply, nats::read_reply};
use schemas::{JobId, cost::CostEvent, topology::REPLIES};

/// Everything that was stored.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Terminal results per job; exactly one each, if all is well.
    pub(crate) results: HashMap<JobId, u32>,
    /// Cost events, standing ones included.
    pub(crate) costs: Vec<CostEvent>,
}

impl Ledger {
    /// Reads all replies of all tenants, as stored now.
    pub(crate) async fn read(client: &Client) -> anyhow::Result<Self> {
        let context = jetstream::new(client.clone());
        let stream = context.get_stream(REPLIES).await.context("cannot read stream REPLIES")?;
        let config =
            pull::OrderedConfig { filter_subject: "beacon.reply.>".into(), ..pull::OrderedConfig::default() };
        let mut consumer = stream.create_consumer(config).await.context("cannot read stream REPLIES")?;
        let mut left = consumer.info().await.context("cannot read stream REPLIES")?.num_pending;
        let mut messages = consumer.messages().await.context("cannot read stream REPLIES")?;
        let mut ledger = Self::default();
        while left > 0 {
            let message = messages.next().await.context("stream REPLIES ended early")?;
            let message = message.context("cannot read stream REPLIES")?;
            match read_reply(&message)? {
                Reply::Result(result) => *ledger.results.entry(result.job).or_default() += 1,
                Reply::Cost(cost) => ledger.costs.push(*cost),
            }
            left -= 1;
        }
        Ok(ledger)
    }
}
