//! Taking jobs back.

use schemas::{
    JobId, Region,
    cancel::{Order, Target},
    time::Clock as _,
};
use transport::{
    PublishError, SystemClock, cancels,
    delayed::{self, BringForwardError},
};

use crate::Producer;

/// Why a delayed job was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum CancelDelayedError {
    /// The order was not stored.
    #[error(transparent)]
    Order(#[from] PublishError),
    /// The order is stored, but the job stays where it is until its time comes.
    #[error("job is taken back, but not before its time comes")]
    BringForward(#[from] BringForwardError),
}

impl Producer {
    /// Takes jobs back: those that wait never start, those that run are stopped where the provider can, and each ends
    /// `cancelled`, unless it ended before. When it returns, the order is stored and holds through any restart.
    ///
    /// A filter means this producer's own tenant unless it names one, and only jobs accepted before now.
    pub async fn cancel(&self, target: Target, reason: &str) -> Result<Order, PublishError> {
        let target = match target {
            Target::Job(job) => Target::Job(job),
            Target::Matching(mut filter) => {
                filter.tenant.get_or_insert_with(|| self.tenant().clone());
                Target::Matching(filter)
            }
        };
        let order = Order { target, at_us: SystemClock.now(), reason: reason.to_owned() };
        cancels::order(self.publisher(), &order).await?;
        Ok(order)
    }

    /// Takes back a job that may wait for its `run_at` in one of `regions`: it is due at once, and ends `cancelled`. The
    /// order comes first, so that a crash in between leaves a job that is taken back when its time comes.
    pub async fn cancel_delayed(
        &self,
        regions: &[Region],
        job: JobId,
        reason: &str,
    ) -> Result<Order, CancelDelayedError> {
        let order = self.cancel(Target::Job(job), reason).await?;
        for region in regions {
            let now = SystemClock.now();
            if delayed::bring_forward(self.client(), self.publisher(), region, job, now).await? {
                break;
            }
        }
        Ok(order)
    }
}
