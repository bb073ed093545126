//! Every subject Beacon speaks on, built from checked tokens so that building one cannot fail.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{
    JobId, Lane, Mailbox, ModelToken, PoolId, ProviderId, Region, Tenant, WorkerId, failure::FailureClass,
    token::TokenError,
};

/// `beacon.jobs.<region>.<model>.<lane>.<tenant>`, the fields that NATS permissions protect.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JobSubject {
    /// Where it was published to.
    pub region: Region,
    /// Which model.
    pub model: ModelToken,
    /// How urgent.
    pub lane: Lane,
    /// Who pays.
    pub tenant: Tenant,
}

/// Why a subject is not a job subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Not six tokens, or another prefix.
    #[error("subject `{0}` must be beacon.jobs.<region>.<model>.<lane>.<tenant>")]
    Shape(String),
    /// A token breaks its rule.
    #[error(transparent)]
    Token(#[from] TokenError),
}

impl fmt::Display for JobSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "beacon.jobs.{}.{}.{}.{}", self.region, self.model, self.lane, self.tenant)
    }
}

impl FromStr for JobSubject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let mut parts = text.split('.');
        let mut next = || parts.next();
        let (Some("beacon"), Some("jobs"), Some(region), Some(model), Some(lane), Some(tenant), None) =
            (next(), next(), next(), next(), next(), next(), next())
        else {
            return Err(SubjectError::Shape(text.chars().take(120).collect()));
        };
        Ok(Self {
            region: region.parse()?,
            model: model.parse()?,
            lane: lane.parse()?,
            tenant: tenant.parse()?,
        })
    }
}

impl TryFrom<String> for JobSubject {
    type Error = SubjectError;
    fn try_from(text: String) -> Result<Self, SubjectError> {
        text.parse()
    }
}

impl From<JobSubject> for String {
    fn from(subject: JobSubject) -> String {
        subject.to_string()
    }
}

/// What a consumer of one (model, lane) filters on: any tenant.
pub fn job_filter(region: &Region, model: &ModelToken, lane: Lane) -> String {
    format!("beacon.jobs.{region}.{model}.{lane}.*")
}

/// Where a job of a tenant waits for its time.
pub fn delayed(region: &Region, tenant: &Tenant, job: JobId) -> String {
    format!("beacon.delayed.{region}.{tenant}.{job}")
}

/// The tenant who could publish at a place where a job waits for its time; `None` for an old place, and for what is none.
pub fn delayed_owner(place: &str) -> Option<&str> {
    let mut parts = place.strip_prefix("beacon.delayed.")?.split('.').skip(1);
    match (parts.next(), parts.next(), parts.next()) {
        (Some(tenant), Some(_), None) => Some(tenant),
        _ => None,
    }
}

/// Where the jobs with an id wait for their time, one tenant's or all.
pub fn delayed_of(region: &Region, tenant: Option<&Tenant>, job: JobId) -> String {
    format!("beacon.delayed.{region}.{}.{job}", tenant.map_or("*", Tenant::as_str))
}

/// All jobs of a region that wait for their time.
pub fn delayed_filter(region: &Region) -> String {
    format!("beacon.delayed.{region}.*.*")
}

/// Where earlier versions let a job wait for its time, whoever's it was: the jobs of two tenants with one id replaced each other.
pub fn delayed_old(region: &Region, job: JobId) -> String {
    format!("beacon.delayed.{region}.{job}")
}

/// All jobs of a region that wait at such a place.
pub fn delayed_old_filter(region: &Region) -> String {
    format!("beacon.delayed.{region}.*")
}

/// All jobs of a region that wait for their time, at either place.
pub fn delayed_any_filter(region: &Region) -> String {
    format!("beacon.delayed.{region}.>")
}

/// What a delayed job is published on when its time has come; `JOBS` copies it to the job's own subject.
pub fn due(job: &JobSubject) -> String {
    let JobSubject { region, model, lane, tenant } = job;
    format!("beacon.due.{region}.{model}.{lane}.{tenant}")
}

/// Due jobs of one model and lane, any tenant.
pub fn due_filter(region: &Region, model: &ModelToken, lane: Lane) -> String {
    format!("beacon.due.{region}.{model}.{lane}.*")
}

/// Offers to the workers of a pool.
pub fn work(pool: &PoolId) -> String {
    format!("beacon.work.{}.{}", pool.region, pool.provider)
}

/// The queue group of a pool's workers.
pub fn work_group(pool: &PoolId) -> String {
    format!("w-{}", pool.provider)
}

/// Jobs given back to the dispatchers of a region.
pub fn returns(region: &Region) -> String {
    format!("beacon.return.{region}")
}

/// The queue group of a region's dispatchers.
pub fn dispatch_group(region: &Region) -> String {
    format!("d-{region}")
}

/// A worker's heartbeats.
pub fn heartbeat(pool: &PoolId, worker: &WorkerId) -> String {
    format!("beacon.pool.{}.{}.{worker}", pool.region, pool.provider)
}

/// The heartbeats of all workers of a region.
pub fn heartbeats_in(region: &Region) -> String {
    format!("beacon.pool.{region}.*.*")
}

/// Orders to one worker.
pub fn orders(pool: &PoolId, worker: &WorkerId) -> String {
    format!("beacon.order.{}.{}.{worker}", pool.region, pool.provider)
}

/// Where dispatchers of a region are asked why a job waits. Each of them answers.
pub fn why(region: &Region) -> String {
    format!("beacon.admin.{region}.why")
}

/// What waits in a region, as its dispatchers tell whoever rents machines there.
pub fn demand(region: &Region) -> String {
    format!("beacon.demand.{region}")
}

/// All heartbeats.
pub const HEARTBEATS: &str = "beacon.pool.>";

/// Where a job's result goes.
pub fn result(tenant: &Tenant, mailbox: &Mailbox) -> String {
    format!("beacon.reply.{tenant}.{mailbox}.result")
}

/// Where an attempt's cost goes.
pub fn cost(tenant: &Tenant, mailbox: &Mailbox) -> String {
    format!("beacon.reply.{tenant}.{mailbox}.cost")
}

/// Results and costs of one mailbox.
pub fn replies(tenant: &Tenant, mailbox: &Mailbox) -> String {
    format!("beacon.reply.{tenant}.{mailbox}.*")
}

/// Progress and partial output of a running job; core only.
pub fn live(tenant: &Tenant, mailbox: &Mailbox, job: JobId) -> String {
    format!("beacon.live.{tenant}.{mailbox}.{job}")
}

/// Where a dead letter goes.
pub fn dead(region: &Region, model: &ModelToken, class: FailureClass) -> String {
    format!("beacon.dead.{region}.{model}.{class}")
}

/// Stands in a budget's subject for every tenant or provider. Capitals, so that no token can be mistaken for it.
const ALL: &str = "ALL";

/// The counter of a budget: whose, at whom, and the period's name (`2026-11-26T13`, `2026-11-26` or `2026-11`).
pub fn budget(tenant: Option<&Tenant>, provider: Option<&ProviderId>, period: &str) -> String {
    let (tenant, provider) = (tenant.map_or(ALL, Tenant::as_str), provider.map_or(ALL, ProviderId::as_str));
    format!("beacon.budget.{tenant}.{provider}.{period}")
}

/// All counters of budgets.
pub const BUDGETS: &str = "beacon.budget.*.*.*";

/// Advisories that a stream was deleted; the stream's name is the last token.
pub const STREAM_DELETED: &str = "$JS.EVENT.ADVISORY.STREAM.DELETED.*";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn other_subjects_are_no_job_subjects() {
        for bad in [
            "beacon.jobs.us-east.m.high",
            "beacon.jobs.us-east.m.high.t.x",
            "beacon.jobs.us-east.m.urgent.t",
            "beacon.jobs.us-east.*.high.t",
            "beacon.dead.us-east.m.high.t",
            "",
        ] {
            assert!(bad.parse::<JobSubject>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_tenant_is_mistaken_for_all_of_them() {
        let tenant: Tenant = "all".parse().unwrap();
        assert_eq!(budget(None, None, "2026-11"), "beacon.budget.ALL.ALL.2026-11");
        assert_eq!(budget(Some(&tenant), None, "2026-11"), "beacon.budget.all.ALL.2026-11");
        assert!("ALL".parse::<Tenant>().is_err());
    }

    proptest! {
        #[test]
        fn a_job_subject_survives_its_text(region in "[a-z0-9_-]{1,64}", model in "[a-z0-9_-]{1,64}", lane in 0..3usize, tenant in "[a-z0-9_-]{1,64}") {
            let subject = JobSubject {
                region: region.parse().unwrap(),
                model: model.parse().unwrap(),
                lane: Lane::ALL[lane],
                tenant: tenant.parse().unwrap(),
            };
            let text = subject.to_string();
            prop_assert_eq!(text.split('.').count(), 6);
            prop_assert_eq!(text.parse::<JobSubject>().unwrap(), subject);
        }
    }
}
