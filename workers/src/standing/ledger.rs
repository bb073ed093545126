//! Books a pool's standing cost: the bucket, the provider, the ledger, in the order that books every span once.

use std::sync::Arc;

use bytes::Bytes;
use schemas::{cost::CostEvent, prices::PriceError, time::Clock as _};
use serde::Serialize;
use tracing::{debug, error, warn};
use transport::{
    PublishError, SystemClock,
    api::ApiError,
    bucket::{Bucket, ReadError},
    ledger::{self, LedgerError},
    replies,
};

use super::{Account, rest::Rest};
use crate::kit::Kit;

/// How often the account is read again because another worker of the pool was first. Each time that worker has booked.
const TRIES: u32 = 5;

/// Why nothing is booked now.
#[derive(Debug, thiserror::Error)]
enum BookError {
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Never booked from nothing instead: everything would be booked again.
    #[error("the account of standing cost does not read: {0}")]
    Account(#[from] serde_json::Error),
    #[error(transparent)]
    Publish(#[from] PublishError),
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("standing usage without a price: {0}")]
    Price(#[from] PriceError),
}

/// Books for one pool.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) kit: Arc<Kit>,
    /// The bucket of accounts.
    pub(crate) accounts: Bucket,
}

/// What one look at the account came to.
enum Outcome {
    /// Everything is booked.
    Done,
    /// The account has changed: look again.
    Again,
}

impl Ledger {
    /// Books what the provider counts as standing since it was last booked, by whichever worker of this pool. What cannot be
    /// booked now is booked the next time: the provider's count is cumulative.
    pub(crate) async fn book(&self) {
        let provider = &self.kit.config.provider;
        for _ in 0..TRIES {
            let step = if provider.tells_bill() { self.rest().await } else { self.step().await };
            match step {
                Ok(Outcome::Done) => return,
                Ok(Outcome::Again) => {}
                Err(error @ (BookError::Price(_) | BookError::Account(_))) => {
                    error!(pool = %self.kit.config.pool, %error, "standing cost not booked");
                    return;
                }
                Err(error) => {
                    warn!(pool = %self.kit.config.pool, %error, "standing cost not booked now");
                    return;
                }
            }
        }
        debug!(pool = %self.kit.config.pool, "other workers of the pool book its standing cost");
    }

    async fn step(&self) -> Result<Outcome, BookError> {
        let config = &self.kit.config;
        let key = format!("standing.{}.{}", config.pool.region, config.pool.provider);
        let found = self.accounts.read(&key).await?;
        let account = found.value.as_deref().map(serde_json::from_slice::<Account>).transpose()?;
        let account = account.unwrap_or_default();
        if account.pending.is_some() {
            return self
                .finish_left(&key, found.revision, account.event(&config.pool), &account.settled())
                .await;
        }
        // After the account was read: what the account says is never newer than the total.
        let Some(total) = config.provider.standing().await else { return Ok(Outcome::Done) };
        let pending = account.advance(&config.prices, &config.price_name, &total, SystemClock.now())?;
        let Some(pending) = pending else { return Ok(Outcome::Done) };
        self.book_new(&key, found.revision, &pending, pending.event(&config.pool), &pending.clone().settled())
            .await
    }

    /// The same where the provider tells its whole bill: what jobs have not booked of it.
    async fn rest(&self) -> Result<Outcome, BookError> {
        let config = &self.kit.config;
        let key = format!("rest.{}.{}", config.pool.region, config.pool.provider);
        let found = self.accounts.read(&key).await?;
        let Some(value) = found.value else {
            let account = Rest::begin(SystemClock.now(), ledger::head(&self.kit.control).await?);
            self.replace(&key, &account, found.revision).await?;
            return Ok(Outcome::Again);
        };
        let mut account: Rest = serde_json::from_slice(&value)?;
        let sku = config.models.first().map_or("", |model| model.sku.as_str());
        let event = |account: &Rest| account.event(&config.pool, sku, &config.prices.version);
        if account.pending.is_some() {
            return self.finish_left(&key, found.revision, event(&account), &account.settled()).await;
        }
        // Before the ledger is read: what jobs have booked by then is never less than what the bill has of them.
        let now = SystemClock.now();
        let Some(billed) = config.provider.billed(account.from_us, now).await else {
            return Ok(Outcome::Done);
        };
        let before = (account.ledger_made.clone(), account.ledger_seq);
        let take = |event: &CostEvent| account.read(&config.pool, event);
        let place = ledger::read_on(&self.kit.control, (&before.0, before.1), take).await?;
        (account.ledger_made, account.ledger_seq) = place.clone();
        let Some(pending) = account.advance(billed, now) else {
            // What was read of the ledger need not be read again.
            if place != before {
                self.replace(&key, &account, found.revision).await?;
            }
            return Ok(Outcome::Done);
        };
        self.book_new(&key, found.revision, &pending, event(&pending), &pending.clone().settled()).await
    }

    /// Stores what another worker left pending, and then the account without it.
    async fn finish_left(
        &self,
        key: &str,
        revision: u64,
        event: Option<(CostEvent, String)>,
        settled: &impl Serialize,
    ) -> Result<Outcome, BookError> {
        self.store(event, true).await?;
        self.replace(key, settled, revision).await?;
        Ok(Outcome::Again)
    }

    /// Stores the account with something pending in place of the one at `revision`, then the event, then the account without it.
    async fn book_new<A: Serialize>(
        &self,
        key: &str,
        revision: u64,
        pending: &A,
        event: Option<(CostEvent, String)>,
        settled: &A,
    ) -> Result<Outcome, BookError> {
        let Some(revision) = self.replace(key, pending, revision).await? else { return Ok(Outcome::Again) };
        self.store(event, false).await?;
        // If another worker has completed the span meanwhile, it has written the same.
        self.replace(key, settled, revision).await?;
        Ok(Outcome::Done)
    }

    /// Stores the event of what is pending. One that was `left` by another worker may be stored already, perhaps so long ago
    /// that the server has forgotten its message id.
    async fn store(&self, pending: Option<(CostEvent, String)>, left: bool) -> Result<(), BookError> {
        let Some((event, id)) = pending else { return Ok(()) };
        if left && ledger::is_standing_stored(&self.kit.control, &id, event.at_us).await? {
            return Ok(());
        }
        let (subject, headers, body) = replies::standing(&event, id);
        let stored = self.kit.publisher.publish(subject, headers, body).await?;
        if !stored.duplicate {
            self.kit.metrics.booked(event.purpose, event.amount_usd);
        }
        Ok(())
    }

    async fn replace(
        &self,
        key: &str,
        account: &impl Serialize,
        revision: u64,
    ) -> Result<Option<u64>, BookError> {
        let bytes = serde_json::to_vec(account).expect("an account has only string keys");
        Ok(self.accounts.replace(key, Bytes::from(bytes), revision).await?)
    }
}
