//! What the streams `REPLIES` and `LEDGER` say in the end: how often each job ended, and what everything cost. The one file of
//! this crate that reads NATS itself.

use std::collections::HashMap;

use anyhow::Context as _;
use async_nats::{
    Client,
    jetstream::{self, consumer::pull},
};
use futures_util::StreamExt as _;
use producer::{Reply, nats::read_reply};
use schemas::{
    JobId,
    cost::CostEvent,
    topology::{LEDGER, REPLIES},
};

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
        let mut ledger = Self::default();
        for stream in [REPLIES, LEDGER] {
            ledger
                .read_stream(client, stream)
                .await
                .with_context(|| format!("cannot read stream {stream}"))?;
        }
        Ok(ledger)
    }

    async fn read_stream(&mut self, client: &Client, stream: &str) -> anyhow::Result<()> {
        let stream = jetstream::new(client.clone()).get_stream(stream).await?;
        let mut consumer = stream.create_consumer(pull::OrderedConfig::default()).await?;
        let mut left = consumer.info().await?.num_pending;
        let mut messages = consumer.messages().await?;
        while left > 0 {
            let message = messages.next().await.context("it ended early")??;
            match read_reply(&message)? {
                Reply::Result(result) => *self.results.entry(result.job).or_default() += 1,
                Reply::Cost(cost) => self.costs.push(*cost),
            }
            left -= 1;
        }
        Ok(())
    }
}
