//! What an operator's command does with a keeper's bucket: looks, and asks. The keeper of the pool hears it and acts.

use std::{collections::BTreeMap, time::Duration};

use futures_util::StreamExt as _;
use schemas::{MachineId, Micros, PoolId, heartbeat::Heartbeat, subjects};
use tokio::time::{Instant, timeout_at};
use transport::LinkConfig;

use crate::{
    connection::{Connection, ConnectionError},
    lease::Lease,
    nats,
    row::Row,
    store::{Store, StoreError},
    wish::{Notices, Status, Wish},
};

/// A connection for one command.
pub struct Operator(Connection);

impl Operator {
    /// Connects.
    pub async fn connect(link: &LinkConfig) -> Result<Self, ConnectionError> {
        Connection::open(link, "pools").await.map(Self)
    }

    /// All machines of all pools.
    pub async fn rows(&self) -> Result<BTreeMap<MachineId, Row>, StoreError> {
        let rows = self.0.store.all_rows().await?;
        Ok(rows.into_iter().map(|(machine, (row, _))| (machine, row)).collect())
    }

    /// What its keeper said of a pool last.
    pub async fn status(&self, pool: &PoolId) -> Result<Option<Status>, StoreError> {
        self.0.store.read(&Status::key(pool)).await.map(|(status, _)| status)
    }

    /// Who keeps a pool now; `None` when nobody does.
    pub async fn keeper(&self, pool: &PoolId, now: Micros) -> Result<Option<String>, StoreError> {
        let (lease, _) = self.0.store.read::<Lease>(&Lease::key(pool)).await?;
        Ok(lease.filter(|lease| lease.is_kept(now)).map(|lease| lease.keeper))
    }

    /// What keepers said of an account last.
    pub async fn notices(&self, account: &str) -> Result<Option<Notices>, StoreError> {
        self.0.store.read(&Notices::key(account)).await.map(|(notices, _)| notices)
    }

    /// What was asked of a pool last, and the revision to replace.
    pub async fn wish(&self, pool: &PoolId) -> Result<(Wish, u64), StoreError> {
        let (wish, revision) = self.0.store.read(&Wish::key(pool)).await?;
        Ok((wish.unwrap_or_default(), revision))
    }

    /// Asks. [`StoreError::Replaced`] when somebody else has asked meanwhile.
    pub async fn ask(&self, pool: &PoolId, wish: &Wish, revision: u64) -> Result<(), StoreError> {
        self.0.store.replace(&Wish::key(pool), wish, revision).await.map(drop)
    }

    /// Deletes the row of a machine that a person has ended by hand. Nobody looks for it any more.
    pub async fn forget(&self, machine: &MachineId) -> Result<Option<Row>, StoreError> {
        let mut rows = self.0.store.all_rows().await?;
        let Some((row, revision)) = rows.remove(machine) else { return Ok(None) };
        self.0.store.delete_row(&row, revision).await?;
        Ok(Some(row))
    }

    /// What workers say about themselves within `listen`, or until it is `enough`. Nothing where the connection may not listen.
    pub async fn heartbeats(
        &self,
        listen: Duration,
        enough: impl Fn(&[Heartbeat]) -> bool,
    ) -> Vec<Heartbeat> {
        let end = Instant::now() + listen;
        let mut found = Vec::new();
        let Some(mut beats) = nats::subscribe(&self.0.link.client, subjects::HEARTBEATS.to_owned()).await
        else {
            return found;
        };
        while !enough(&found)
            && let Ok(Some(message)) = timeout_at(end, beats.next()).await
        {
            found.extend(nats::read_heartbeat(&message.payload));
        }
        found
    }

    /// The bucket itself.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Ends the connection.
    pub async fn close(self) {
        self.0.close().await;
    }
}
