//! Taking jobs back.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use schemas::{
    JobId, Micros, Region, Tenant,
    cancel::{Filter, Order, Target},
    time::Clock as _,
};
use transport::{
    PublishError, SystemClock,
    api::ApiError,
    cancels,
    delayed::{self, BringForwardError, Delayed},
};

use crate::{
    Producer, log,
    nats::MailboxError,
    replay::{Selection, Source},
};

/// The clock of whoever made an id may be ahead by this much.
const CLOCKS_DIFFER: Duration = Duration::from_secs(600);

/// Jobs that wait for their time and are taken back at once.
const AT_ONCE: usize = 64;

/// Why a delayed job was not taken back.
#[derive(Debug, thiserror::Error)]
pub enum CancelDelayedError {
    /// The order was not stored.
    #[error(transparent)]
    Order(#[from] PublishError),
    /// The order is stored, but the job stays where it is until its time comes.
    #[error("job is taken back, but not before its time comes")]
    BringForward(#[from] BringForwardError),
    /// The order is stored, but which jobs wait for their time could not be read: those are not taken back.
    #[error("what matches is taken back, but not what waits for its time")]
    List(#[from] ApiError),
}

/// What an order by a filter took back.
#[derive(Clone, Debug)]
pub struct TakenBack {
    /// The order.
    pub order: Order,
    /// Jobs that waited for their time, each with an order of its own.
    pub delayed: usize,
}

/// Why it is not known whose a job is.
#[derive(Debug, thiserror::Error)]
pub enum OwnersError {
    /// The job log could not be read.
    #[error(transparent)]
    Log(#[from] MailboxError),
    /// The delayed jobs could not be read.
    #[error(transparent)]
    Delayed(#[from] ApiError),
}

impl Producer {
    /// Takes jobs back: those that wait never start, those that run are stopped where the provider can, and each ends
    /// `cancelled`, unless it ended before. When it returns, the order is stored and holds through any restart.
    ///
    /// An id means this producer's own tenant. So does a filter unless it names one, and only jobs accepted before now. A filter does
    /// not mean jobs that wait for their time: [`Self::cancel_matching`] does.
    pub async fn cancel(&self, target: Target, reason: &str) -> Result<Order, PublishError> {
        let own = Some(self.tenant().clone());
        let (target, tenant) = match target {
            Target::Job(job) => (Target::Job(job), own),
            Target::Matching(filter) => {
                (Target::Matching(Filter { tenant: filter.tenant.or(own), ..filter }), None)
            }
        };
        self.order(target, tenant, reason).await
    }

    /// Takes back a job of this producer's tenant that may wait for its `run_at` in one of `regions`: it is due at once, and ends
    /// `cancelled`. The order comes first, so that a crash in between leaves a job that is taken back when its time comes.
    pub async fn cancel_delayed(
        &self,
        regions: &[Region],
        job: JobId,
        reason: &str,
    ) -> Result<Order, CancelDelayedError> {
        self.cancel_of(Some(self.tenant()), regions, job, reason).await
    }

    /// The same for the job of another tenant; without one, for the job of each tenant that has the id.
    pub async fn cancel_of(
        &self,
        tenant: Option<&Tenant>,
        regions: &[Region],
        job: JobId,
        reason: &str,
    ) -> Result<Order, CancelDelayedError> {
        let order = self.order(Target::Job(job), tenant.cloned(), reason).await?;
        for region in regions {
            let now = SystemClock.now();
            let which = (job, tenant);
            if delayed::bring_forward(self.client(), self.publisher(), region, which, now).await? {
                break;
            }
        }
        Ok(order)
    }

    /// Takes back all jobs that match and were accepted before now, also those that wait for their `run_at` in one of `regions`: these
    /// are due at once, and end `cancelled`. A filter means this producer's own tenant unless it names one.
    ///
    /// The streams of delayed jobs are read whole.
    pub async fn cancel_matching(
        &self,
        regions: &[Region],
        filter: Filter,
        reason: &str,
    ) -> Result<TakenBack, CancelDelayedError> {
        let own = Some(self.tenant().clone());
        let filter = Filter { tenant: filter.tenant.or(own), ..filter };
        // Before the order: a job whose time comes in between is stored for its dispatchers only after it.
        let waiting = self.waiting(regions, &filter).await;
        let order = self.order(Target::Matching(filter), None, reason).await?;
        let waiting = waiting?;
        let mut taken = stream::iter(&waiting)
            .map(async |delayed| -> Result<(), CancelDelayedError> {
                let tenant = Some(delayed.subject.tenant.clone());
                self.order(Target::Job(delayed.job), tenant, reason).await?;
                let now = SystemClock.now();
                // One whose time has come meanwhile would run a second time otherwise.
                let which = (delayed.job, Some(&delayed.subject.tenant));
                let region = &delayed.subject.region;
                delayed::bring_forward(self.client(), self.publisher(), region, which, now).await?;
                Ok(())
            })
            .buffer_unordered(AT_ONCE);
        while let Some(outcome) = taken.next().await {
            outcome?;
        }
        drop(taken);
        Ok(TakenBack { order, delayed: waiting.len() })
    }

    /// The jobs of these regions that wait for their time and match.
    async fn waiting(&self, regions: &[Region], filter: &Filter) -> Result<Vec<Delayed>, ApiError> {
        let mut found = Vec::new();
        for region in regions.iter().filter(|region| filter.region.as_ref().is_none_or(|r| r == *region)) {
            let all = delayed::list(self.client(), region).await?;
            found.extend(all.into_iter().filter(|one| one.head().is_ok_and(|head| filter.matches(&head))));
        }
        Ok(found)
    }

    async fn order(
        &self,
        target: Target,
        tenant: Option<Tenant>,
        reason: &str,
    ) -> Result<Order, PublishError> {
        let order = Order { target, tenant, at_us: SystemClock.now(), reason: reason.to_owned() };
        cancels::order(self.publisher(), &order).await?;
        Ok(order)
    }

    /// The tenants that have jobs of these ids, as far as job logs and delayed jobs of `regions` say. The logs are read from when the
    /// ids were made, at the rate the server can deliver; for ids that are not found there, from their start.
    pub async fn owners(
        &self,
        regions: &[Region],
        jobs: &BTreeSet<JobId>,
    ) -> Result<BTreeMap<JobId, BTreeSet<Tenant>>, OwnersError> {
        let mut owners = BTreeMap::<JobId, BTreeSet<Tenant>>::new();
        for region in regions {
            for job in jobs {
                for delayed in delayed::find(self.client(), region, (*job, None)).await? {
                    owners.entry(*job).or_default().insert(delayed.subject.tenant);
                }
            }
        }
        let made: Option<Vec<Micros>> = jobs.iter().map(|job| job.made_at()).collect();
        let since =
            made.and_then(|made| made.into_iter().min()).map(|at| at.min(SystemClock.now()) - CLOCKS_DIFFER);
        // One tenant's job may wait for its time, and another's lie in the log.
        let mut left = jobs.clone();
        for since in since.map(Some).into_iter().chain([None]) {
            if left.is_empty() {
                break;
            }
            let selection = Selection { jobs: left.clone(), since, ..Selection::default() };
            for (stream, region) in log::streams(Source::Jobs, regions) {
                log::read(self.client(), Source::Jobs, (&stream, region.as_ref()), &selection, |entry| {
                    if let (Some(job), Some(subject)) = (entry.job, entry.subject)
                        && selection.jobs.contains(&job)
                    {
                        owners.entry(job).or_default().insert(subject.tenant);
                    }
                    true
                })
                .await?;
            }
            left.retain(|job| !owners.contains_key(job));
        }
        Ok(owners)
    }
}
