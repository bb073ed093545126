//! Which entries of a log are meant. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{
    JobId, Lane, Micros, ModelToken, ProviderId, Region, Tenant,
    failure::FailureClass,
    job::JobBody,
    reply::{JobResult, Status},
};
use serde::{Deserialize, Serialize};

use super::fingerprint;
use crate::log::Entry;

/// Which log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Source {
    /// Jobs that will not be tried again.
    #[default]
    Dead,
    /// All jobs, as long as the log keeps them.
    Jobs,
}

/// What must be true of an entry; whatever is not said is not asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selection {
    /// One of these jobs.
    pub jobs: BTreeSet<JobId>,
    /// Stored at or after.
    pub since: Option<Micros>,
    /// Stored before.
    pub until: Option<Micros>,
    /// Not before this sequence of its stream.
    pub first_seq: Option<u64>,
    /// Not behind this one.
    pub last_seq: Option<u64>,
    /// Published to this region.
    pub region: Option<Region>,
    /// For this model.
    pub model: Option<ModelToken>,
    /// In this lane.
    pub lane: Option<Lane>,
    /// By this tenant.
    pub tenant: Option<Tenant>,
    /// Failed like this.
    pub class: Option<FailureClass>,
    /// Whose last attempt was here.
    pub provider: Option<ProviderId>,
    /// With these labels.
    pub labels: BTreeMap<String, String>,
    /// A dead letter of this group.
    pub fingerprint: Option<String>,
}

impl Selection {
    /// Whether it asks nothing, and so means everything.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether an entry can only be judged with its job's result.
    pub fn needs_result(&self, source: Source) -> bool {
        source == Source::Jobs && (self.class.is_some() || self.provider.is_some())
    }

    /// Whether what stands in the entry itself is as asked; class and provider of the job log come from results.
    pub fn matches(&self, entry: &Entry) -> bool {
        // Every field by name, so that a new one cannot be overlooked.
        let Self {
            jobs,
            since,
            until,
            first_seq,
            last_seq,
            region,
            model,
            lane,
            tenant,
            class,
            provider,
            labels,
            fingerprint,
        } = self;
        let in_subject = match &entry.subject {
            Some(subject) => {
                region.as_ref().is_none_or(|r| *r == subject.region)
                    && model.as_ref().is_none_or(|m| *m == subject.model)
                    && lane.is_none_or(|l| l == subject.lane)
                    && tenant.as_ref().is_none_or(|t| *t == subject.tenant)
            }
            None => region.is_none() && model.is_none() && lane.is_none() && tenant.is_none(),
        };
        let in_letter = match &entry.obituary {
            Some(letter) => {
                class.is_none_or(|c| c == letter.failure.class)
                    && provider.as_ref().is_none_or(|p| Some(p) == fingerprint::last_provider(letter))
                    && fingerprint.as_ref().is_none_or(|f| *f == fingerprint::fingerprint(letter))
            }
            None => fingerprint.is_none(),
        };
        (jobs.is_empty() || entry.job.is_some_and(|job| jobs.contains(&job)))
            && since.is_none_or(|at| entry.at >= at)
            && until.is_none_or(|at| entry.at < at)
            && first_seq.is_none_or(|seq| entry.seq >= seq)
            && last_seq.is_none_or(|seq| entry.seq <= seq)
            && in_subject
            && in_letter
            && (labels.is_empty() || entry.body().is_ok_and(|body| has(&body, labels)))
    }

    /// Whether a job's result is as asked.
    pub fn matches_result(&self, result: &JobResult) -> bool {
        self.class.is_none_or(|class| {
            result.status != Status::Succeeded && result.error.as_ref().is_some_and(|e| e.class == class)
        }) && self.provider.as_ref().is_none_or(|p| Some(p) == result.provider.as_ref())
    }

    /// What a consumer of the log filters on.
    pub fn subject(&self, source: Source, region: Option<&Region>) -> String {
        let any = |token: Option<String>| token.unwrap_or_else(|| "*".into());
        let region = any(region.or(self.region.as_ref()).map(ToString::to_string));
        let model = any(self.model.as_ref().map(ToString::to_string));
        match source {
            Source::Dead => {
                format!("beacon.dead.{region}.{model}.{}", any(self.class.map(|c| c.to_string())))
            }
            Source::Jobs => {
                let (lane, tenant) = (self.lane.map(|l| l.to_string()), self.tenant.as_ref());
                format!("beacon.jobs.{region}.{model}.{}.{}", any(lane), any(tenant.map(ToString::to_string)))
            }
        }
    }
}

fn has(body: &JobBody, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| body.labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Entry {
        Entry {
            stream: "JOBS_us-east".into(),
            seq: 7,
            at: Micros::new(1_000),
            job: "0198c0de-0000-7000-8000-000000000001".parse().ok(),
            subject: "beacon.jobs.us-east.m.low.acme".parse().ok(),
            content_type: None,
            traceparent: None,
            payload: br#"{"prompt":"x","labels":{"run":"night"}}"#.as_slice().into(),
            obituary: None,
        }
    }

    #[test]
    fn every_part_of_a_selection_must_hold() {
        let check = |change: fn(&mut Selection), meant: bool| {
            let mut selection = Selection::default();
            change(&mut selection);
            assert!(!selection.is_empty());
            assert_eq!(selection.matches(&entry()), meant, "{selection:?}");
        };
        check(|s| s.tenant = "acme".parse().ok(), true);
        check(|s| s.tenant = "other".parse().ok(), false);
        check(|s| s.lane = Some(Lane::High), false);
        check(|s| s.since = Some(Micros::new(1_000)), true);
        check(|s| s.until = Some(Micros::new(1_000)), false);
        check(|s| s.last_seq = Some(6), false);
        check(|s| drop(s.labels.insert("run".into(), "night".into())), true);
        check(|s| drop(s.labels.insert("run".into(), "day".into())), false);
        check(|s| s.jobs = [JobId::new(uuid::Uuid::nil())].into(), false);
        check(|s| s.fingerprint = Some("0".into()), false);
    }

    #[test]
    fn what_can_be_asked_of_the_server_is() {
        let selection =
            Selection { model: "m".parse().ok(), tenant: "acme".parse().ok(), ..Selection::default() };
        let region = "us-east".parse().unwrap();
        assert_eq!(selection.subject(Source::Jobs, Some(&region)), "beacon.jobs.us-east.m.*.acme");
        assert_eq!(selection.subject(Source::Dead, None), "beacon.dead.*.m.*");
    }
}
