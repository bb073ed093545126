//! An attempt's pages of its job's journal: merged into what others wrote, by compare-and-set.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use schemas::{JobId, journal::Journal};
use tracing::{error, warn};
use transport::bucket::Bucket;

/// How often a write is tried again because somebody else wrote in between: two attempts at once, and their dispatcher.
const TRIES: u32 = 10;
/// Between two tries; a replica may be a moment behind its leader.
const PAUSE: Duration = Duration::from_millis(20);

/// What merging a stored journal comes to.
enum Merged {
    /// The journal is to replace this revision.
    At(u64),
    /// All of it is stored already.
    Same,
    /// The stored one cannot be read now.
    Unread,
}

/// Writes the journal of one job.
#[derive(Debug)]
pub(super) struct Pages {
    /// What the stored journal is expected to be at; `None` if that must be read.
    revision: Mutex<Option<u64>>,
}

impl Pages {
    /// `fresh` if nobody is known to have written anything: then the first write needs no read.
    pub(super) fn new(fresh: bool) -> Self {
        Self { revision: Mutex::new(fresh.then_some(0)) }
    }

    /// Merges `ours` into the stored journal and gives what is stored then.
    ///
    /// # Errors
    /// What should be stored, and is not: the bucket refuses it, or does not answer. The log says why.
    pub(super) async fn write(
        &self,
        bucket: &Bucket,
        job: JobId,
        key: &str,
        ours: Journal,
    ) -> Result<Journal, Journal> {
        let mut journal = ours;
        for nth in 0..TRIES {
            if nth > 1 {
                tokio::time::sleep(PAUSE * nth).await;
            }
            let known = *self.lock();
            let revision = match known {
                Some(revision) => revision,
                None => match self.merged(bucket, job, key, &mut journal).await {
                    Merged::At(revision) => revision,
                    Merged::Same => return Ok(journal),
                    Merged::Unread => continue,
                },
            };
            let bytes = serde_json::to_vec(&journal).expect("a journal has only string keys");
            match bucket.replace(key, Bytes::from(bytes), revision).await {
                Ok(stored) => {
                    *self.lock() = stored;
                    if stored.is_some() {
                        return Ok(journal);
                    }
                }
                Err(error) => {
                    error!(%job, %error, "journal not stored");
                    return Err(journal);
                }
            }
        }
        error!(%job, "journal not stored: it cannot be read, or others write it all the time");
        Err(journal)
    }

    /// Merges what is stored into `journal`.
    async fn merged(&self, bucket: &Bucket, job: JobId, key: &str, journal: &mut Journal) -> Merged {
        let found = match bucket.read(key).await {
            Ok(found) => found,
            Err(error) => {
                warn!(%job, %error, "journal not read, so not written");
                return Merged::Unread;
            }
        };
        let stored = found.value.and_then(|bytes| match serde_json::from_slice::<Journal>(&bytes) {
            Ok(stored) => Some(stored),
            Err(error) => {
                warn!(%job, %error, "a stored journal does not read, it is replaced");
                None
            }
        });
        let Some(stored) = stored else { return Merged::At(found.revision) };
        let mut merged = stored.clone();
        merged.merge(journal);
        *journal = merged;
        if *journal == stored {
            *self.lock() = Some(found.revision);
            return Merged::Same;
        }
        Merged::At(found.revision)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<u64>> {
        self.revision.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
