//! The bucket of machines, as one keeper uses it: rows, leases, books, what operators ask and are told.
//!
//! Every write that decides something names the revision it replaces; who is second hears so and steps down.

use std::collections::BTreeMap;

use bytes::Bytes;
use schemas::{MachineId, PoolId, machine, topology::MACHINES_BUCKET};
use serde::{Serialize, de::DeserializeOwned};
use tracing::error;
use transport::{
    PublishError, Publisher,
    bucket::{Bucket, ReadError, Revised, ScanError},
};

use crate::{nats::Client, row::Row};

/// Why the bucket did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The rows could not be read.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// It could not be written.
    #[error(transparent)]
    Write(#[from] PublishError),
    /// A value does not read: another version, or somebody else's hand.
    #[error("key `{key}` does not read: {source}")]
    Value {
        /// The key.
        key: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The ledger could not be read, so nobody knows where a pool's books begin.
    #[error("{0}")]
    Ledger(String),
    /// Somebody else has replaced the value: another keeper acts for this pool.
    #[error("key `{0}` was replaced by another keeper")]
    Replaced(String),
}

/// The bucket.
#[derive(Clone, Debug)]
pub struct Store {
    bucket: Bucket,
}

/// A row and the revision it has.
pub type Revisioned = (Row, u64);

impl Store {
    /// Over a connection and its publisher.
    pub fn new(client: Client, publisher: Publisher) -> Self {
        Self { bucket: Bucket::new(client, publisher, MACHINES_BUCKET) }
    }

    /// All rows, of all pools.
    pub async fn all_rows(&self) -> Result<BTreeMap<MachineId, Revisioned>, StoreError> {
        self.load("machine").await
    }

    /// The rows of a pool. One that does not read is an error that names its key: a machine may stand behind it.
    pub async fn rows(&self, pool: &PoolId) -> Result<BTreeMap<MachineId, Revisioned>, StoreError> {
        self.load(&machine::pool_prefix(pool)).await
    }

    async fn load(&self, prefix: &str) -> Result<BTreeMap<MachineId, Revisioned>, StoreError> {
        let mut rows = BTreeMap::new();
        for (key, Revised { value, revision }) in self.bucket.scan(prefix).await? {
            let Some(value) = value else { continue };
            let row = Row::decode(&value).map_err(|source| StoreError::Value { key, source })?;
            rows.insert(row.specs.machine.clone(), (row, revision));
        }
        Ok(rows)
    }

    /// Stores a row in place of the one at `revision` (0: there is none) and gives its own.
    pub async fn put_row(&self, row: &Row, revision: u64) -> Result<u64, StoreError> {
        self.replace_bytes(&row.machine().key(), row.encode(), revision).await
    }

    /// Deletes the row of a machine that is gone and paid for.
    pub async fn delete_row(&self, row: &Row, revision: u64) -> Result<(), StoreError> {
        let key = row.machine().key();
        if self.bucket.delete(&key, revision).await? { Ok(()) } else { Err(StoreError::Replaced(key)) }
    }

    /// Reads a value and its revision.
    pub async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<(Option<T>, u64), StoreError> {
        let Revised { value, revision } = self.bucket.read(key).await?;
        let value = value.as_deref().map(serde_json::from_slice).transpose();
        let value = value.map_err(|source| StoreError::Value { key: key.to_owned(), source })?;
        Ok((value, revision))
    }

    /// Stores a value in place of the one at `revision` and gives its own.
    pub async fn replace(&self, key: &str, value: &impl Serialize, revision: u64) -> Result<u64, StoreError> {
        self.replace_bytes(key, encode(value), revision).await
    }

    /// Stores a value that nobody else decides by.
    pub async fn put(&self, key: &str, value: &impl Serialize) {
        if let Err(error) = self.bucket.put(key, encode(value)).await {
            error!(key, %error, "a value was not stored");
        }
    }

    async fn replace_bytes(&self, key: &str, value: Bytes, revision: u64) -> Result<u64, StoreError> {
        match self.bucket.replace(key, value, revision).await? {
            Some(revision) => Ok(revision),
            None => Err(StoreError::Replaced(key.to_owned())),
        }
    }
}

fn encode(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("what is stored has only string keys and no failing parts"))
}
