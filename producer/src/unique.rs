//! Unique jobs: the second submit of a key within its period returns the first one's job.

use std::time::Duration;

use schemas::{JobId, Micros, time::Clock as _};
use tokio::time::{Instant, sleep};
use transport::{
    PublishError, SystemClock,
    unique::{self, Claim, PERIOD_MIN, UniqueError},
};

use crate::{
    JobRequest, Producer, SubmitError, Ticket,
    client::id_of,
    nats::{self, MailboxError},
};

/// Between two looks at a claim whose job is about to be accepted.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Clocks differ: how much before a claim its job is looked for.
const MARGIN: Duration = Duration::from_secs(30);

/// What must not be done twice, and for how long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unique {
    /// Any text; it is the tenant's own.
    pub key: String,
    /// How long the first submit holds it; at least a second, and longer than a submit may take.
    pub period: Duration,
}

/// Why a unique job was not submitted.
#[derive(Debug, thiserror::Error)]
pub enum UniqueSubmitError {
    /// The job was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The claim was neither made nor read.
    #[error(transparent)]
    Claim(#[from] UniqueError),
    /// Whether an earlier submit of the key was accepted could not be found out.
    #[error(transparent)]
    Look(#[from] MailboxError),
    /// Somebody else submits a job under this key, and has not done so in time.
    #[error("another submit of unique key `{0}` has neither succeeded nor failed yet; try again")]
    Undecided(String),
}

impl Producer {
    /// Submits a job unless one was submitted under the same key within its period; then that one's ticket comes back, with
    /// `duplicate` set and no sequence.
    ///
    /// A producer that dies between its claim and its job leaves the claim undecided; after twice the patience of a submit
    /// the next one looks into the job stream, and takes over if the job is not there.
    pub async fn submit_unique(
        &self,
        unique: &Unique,
        request: &JobRequest,
    ) -> Result<Ticket, UniqueSubmitError> {
        let job = id_of(request)?;
        let give_up = Instant::now() + self.patience() * 3;
        let mut revision = 0;
        loop {
            let now = SystemClock.now();
            let claim = Claim {
                key: unique.key.clone(),
                job,
                at_us: now,
                until_us: now + unique.period.max(PERIOD_MIN),
                accepted: false,
            };
            let ours = unique::set(self.publisher(), self.tenant(), &claim, revision, now).await;
            if let Some(revision) = ours.map_err(UniqueError::from)? {
                return self.submit_claimed(claim, revision, request).await;
            }
            let found = unique::get(self.client(), self.tenant(), &unique.key).await;
            let Some((theirs, at)) = found.map_err(UniqueError::from)? else {
                // Its time was over between the two.
                revision = 0;
                continue;
            };
            if theirs.accepted {
                return Ok(Ticket { job: theirs.job, seq: 0, duplicate: true, due: None });
            }
            if theirs.job == job {
                // Ours, from a submit that was not answered: its id makes it safe to send again.
                return self.submit_claimed(theirs, at, request).await;
            }
            if now.since(theirs.at_us) > self.patience() * 2 {
                if self.was_accepted(request, theirs.job, theirs.at_us).await? {
                    let accepted = Claim { accepted: true, ..theirs };
                    let told = unique::set(self.publisher(), self.tenant(), &accepted, at, now).await;
                    told.map_err(UniqueError::from)?;
                    return Ok(Ticket { job: accepted.job, seq: 0, duplicate: true, due: None });
                }
                revision = at;
                continue;
            }
            if Instant::now() >= give_up {
                return Err(UniqueSubmitError::Undecided(unique.key.clone()));
            }
            sleep(LOOK_EVERY).await;
        }
    }

    async fn submit_claimed(
        &self,
        claim: Claim,
        revision: u64,
        request: &JobRequest,
    ) -> Result<Ticket, UniqueSubmitError> {
        match self.submit_for(self.tenant(), claim.job, request).await {
            Ok(ticket) => {
                let accepted = Claim { accepted: true, ..claim };
                let now = SystemClock.now();
                let told = unique::set(self.publisher(), self.tenant(), &accepted, revision, now).await;
                // `None`: its period was over before its submit was. The job is accepted all the same.
                told.map_err(UniqueError::from)?;
                Ok(ticket)
            }
            // It may be stored: the claim stays, and the next one finds out.
            Err(error @ SubmitError::Publish(PublishError::Unknown(_))) => Err(error.into()),
            Err(error) => {
                let freed = unique::release(self.client(), self.tenant(), &claim.key).await;
                freed.map_err(UniqueError::from)?;
                Err(error.into())
            }
        }
    }

    /// Whether a job lies in the stream, or waits for its time.
    async fn was_accepted(
        &self,
        request: &JobRequest,
        job: JobId,
        since: Micros,
    ) -> Result<bool, UniqueSubmitError> {
        let which = (job, Some(self.tenant()));
        let waits = transport::delayed::find(self.client(), &request.region, which).await;
        if !waits.map_err(UniqueError::from)?.is_empty() {
            return Ok(true);
        }
        let since = Some(since - MARGIN);
        let there = nats::jobs_since(self.client(), &request.region, Some(self.tenant()), since).await?;
        Ok(there.contains(&job))
    }
}
