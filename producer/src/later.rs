//! Jobs that wait for their time, and jobs that come again and again.

use schemas::{
    Mailbox, Region,
    recurring::{Recurring, RecurringError},
};
use transport::{
    api::ApiError,
    delayed::{self, Delayed},
    recurring::{self, ChangeError},
};

use crate::Producer;

/// Why a recurring job was not set.
#[derive(Debug, thiserror::Error)]
pub enum RecurringSetError {
    /// It is none, or its runs would not be jobs.
    #[error(transparent)]
    Recurring(#[from] RecurringError),
    /// It was not stored.
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl Producer {
    /// The jobs of a region that wait for their `run_at`, this tenant's only.
    pub async fn delayed(&self, region: &Region) -> Result<Vec<Delayed>, ApiError> {
        let mut found = delayed::list(self.client(), region).await?;
        found.retain(|delayed| delayed.subject.tenant == *self.tenant());
        Ok(found)
    }

    /// Lets a job come again and again from now on. Its runs go to this producer's tenant.
    pub async fn add_recurring(&self, job: &Recurring) -> Result<(), RecurringSetError> {
        job.check()?;
        Ok(recurring::add(self.publisher(), job).await?)
    }

    /// The recurring jobs of this tenant.
    pub async fn recurring(&self) -> Result<Vec<Recurring>, ApiError> {
        let found = recurring::list(self.client()).await?;
        Ok(found.into_iter().map(|entry| entry.job).filter(|job| job.tenant() == self.tenant()).collect())
    }

    /// Ends a recurring job; those of its runs that still wait go with it. False when there is none of that name.
    pub async fn remove_recurring(&self, name: &Mailbox) -> Result<bool, ChangeError> {
        recurring::remove(self.client(), self.tenant(), name).await
    }
}
