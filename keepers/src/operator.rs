//! What an operator's command does with a keeper's bucket: looks, and asks. The keeper of the pool hears it and acts.

use std::{collections::BTreeMap, time::Duration};

use schemas::{MachineId, PoolId};
use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use transport::{
    Link, LinkConfig,
    publisher::{Patience, publisher},
};

use crate::{
    keeper::KeeperError,
    row::Row,
    store::{Store, StoreError},
    wish::{Status, Wish},
};

/// How long the publisher may take to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// A connection for one command.
pub struct Operator {
    store: Store,
    link: Link,
    publishing: JoinSet<()>,
    stop: CancellationToken,
}

impl Operator {
    /// Connects.
    pub async fn connect(link: &LinkConfig) -> Result<Self, KeeperError> {
        let link = Link::connect(link, "pools").await?;
        let (publisher, task) = publisher(&link, Patience::FOREVER).await?;
        let (mut publishing, stop) = (JoinSet::new(), CancellationToken::new());
        publishing.spawn(task.run(stop.clone()));
        Ok(Self { store: Store::new(link.client.clone(), publisher), link, publishing, stop })
    }

    /// All machines of all pools.
    pub async fn rows(&self) -> Result<BTreeMap<MachineId, Row>, StoreError> {
        let rows = self.store.all_rows().await?;
        Ok(rows.into_iter().map(|(machine, (row, _))| (machine, row)).collect())
    }

    /// What its keeper said of a pool last.
    pub async fn status(&self, pool: &PoolId) -> Result<Option<Status>, StoreError> {
        self.store.read(&Status::key(pool)).await.map(|(status, _)| status)
    }

    /// What was asked of a pool last, and the revision to replace.
    pub async fn wish(&self, pool: &PoolId) -> Result<(Wish, u64), StoreError> {
        let (wish, revision) = self.store.read(&Wish::key(pool)).await?;
        Ok((wish.unwrap_or_default(), revision))
    }

    /// Asks. [`StoreError::Replaced`] when somebody else has asked meanwhile.
    pub async fn ask(&self, pool: &PoolId, wish: &Wish, revision: u64) -> Result<(), StoreError> {
        self.store.replace(&Wish::key(pool), wish, revision).await.map(drop)
    }

    /// Deletes the row of a machine that a person has ended by hand. Nobody looks for it any more.
    pub async fn forget(&self, machine: &MachineId) -> Result<Option<Row>, StoreError> {
        let mut rows = self.store.all_rows().await?;
        let Some((row, revision)) = rows.remove(machine) else { return Ok(None) };
        self.store.delete_row(&row, revision).await?;
        Ok(Some(row))
    }

    /// The bucket itself.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Ends the connection.
    pub async fn close(mut self) {
        self.stop.cancel();
        let ending = async { while self.publishing.join_next().await.is_some() {} };
        if timeout(CLOSE_WITHIN, ending).await.is_err() {
            warn!("the publisher did not end in time");
        }
        if let Err(error) = self.link.client.flush().await {
            warn!(%error, "connection not flushed");
        }
    }
}
