//! What the streams `REPLIES` and `LEDGER` say in the end: how often each job ended, and what everything cost. The one file of
//! this crate that reads NATS itself.

use std::collections::HashMap;

use anyhow::Context as _;
use async_nats::{Client, jetstream::consumer::pull};
use producer::{
    Reply,
    nats::{read_reply, read_stored},
};
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
            let mut taken = Ok(());
            read_stored(client, stream, pull::OrderedConfig::default(), |message| {
                taken = read_reply(message).map(|reply| ledger.take(reply));
                taken.is_ok()
            })
            .await
            .and(taken)
            .with_context(|| format!("cannot read stream {stream}"))?;
        }
        Ok(ledger)
    }

    fn take(&mut self, reply: Reply) {
        match reply {
            Reply::Result(result) => *self.results.entry(result.job).or_default() += 1,
            Reply::Cost(cost) => self.costs.push(*cost),
        }
    }
}
