//! What an old job becomes when it runs again. Pure.

use schemas::{Codec, JobId, Mailbox, Micros, ModelToken, ProviderId, Region, Tenant, codec::CodecError};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{JobRequest, log::Entry};

/// Where it runs this time; whatever is not said stays as it was.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// Only at this provider.
    pub provider: Option<ProviderId>,
    /// Published to this region.
    pub region: Option<Region>,
    /// For this model.
    pub model: Option<ModelToken>,
    /// Replies go here.
    pub mailbox: Option<Mailbox>,
}

/// Why an entry cannot be replayed.
#[derive(Debug, thiserror::Error)]
pub enum Unsuitable {
    /// Its subject is no job's.
    #[error("its subject is no job's")]
    Subject,
    /// It names no job.
    #[error("it has no id")]
    Id,
    /// It has nothing for a model to read.
    #[error("it has no input")]
    Input,
    /// Its body is no job's.
    #[error("its body does not read as a job's")]
    Body(#[from] CodecError),
}

/// The job that replays an entry, and whose it is. `new` is its id.
pub fn rewrite(
    entry: &Entry,
    new: JobId,
    to: &Destination,
    now: Micros,
) -> Result<(Tenant, JobRequest), Unsuitable> {
    let subject = entry.subject.clone().ok_or(Unsuitable::Subject)?;
    let old = entry.job.ok_or(Unsuitable::Id)?;
    let codec = Codec::from_content_type(entry.content_type.as_deref())?;
    let mut body = entry.body()?;
    if body.messages.is_none() && body.prompt.is_none() && body.input_ref.is_none() {
        return Err(Unsuitable::Input);
    }
    body.id = Some(new.to_string());
    body.replay_of = Some(old.to_string());
    body.run_at = None;
    // It has passed; the job would expire at once.
    body.deadline = body.deadline.filter(|at| Micros::from(*at) > now);
    let mailbox = to.mailbox.as_ref().map(ToString::to_string);
    body.mailbox = mailbox.or(body.mailbox).or_else(|| Some(Mailbox::default().to_string()));
    if let Some(provider) = &to.provider {
        body.routing.deny_providers.retain(|p| p != provider);
        body.routing.allow_providers = vec![provider.clone()];
    }
    let region = to.region.clone().unwrap_or(subject.region);
    if !body.routing.allow_regions.is_empty() && !body.routing.allow_regions.contains(&region) {
        body.routing.allow_regions.clear();
    }
    let request = JobRequest {
        region,
        model: to.model.clone().unwrap_or(subject.model),
        lane: subject.lane,
        codec,
        traceparent: entry.traceparent.clone(),
        body,
    };
    Ok((subject.tenant, request))
}

/// The id of the job that replays an entry in the replay `key`.
pub fn new_id(key: &str, entry: &Entry) -> JobId {
    let old = entry.job.map(|job| job.to_string()).unwrap_or_default();
    let text = format!("{key}\0{old}\0{}\0{}", entry.stream, entry.seq);
    JobId::new(Uuid::new_v5(&NAMESPACE, text.as_bytes()))
}

const NAMESPACE: Uuid = Uuid::from_u128(0x7a0e_4f86_25c9_5d41_b4a3_90d7_1e5b_6c38);

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(body: &str) -> Entry {
        Entry {
            stream: "DEAD".into(),
            seq: 1,
            at: Micros::new(0),
            job: "0198c0de-0000-7000-8000-000000000001".parse().ok(),
            subject: "beacon.jobs.us-east.m.low.acme".parse().ok(),
            content_type: None,
            traceparent: None,
            payload: body.as_bytes().to_vec().into(),
            obituary: None,
        }
    }

    #[test]
    fn it_says_what_it_replays_and_goes_where_it_is_sent() {
        let old = entry(
            r#"{"prompt":"x","deadline":"2020-01-01T00:00:00Z","mailbox":"inbox","labels":{"a":"b"},
                "routing":{"allow_regions":["us-east"],"deny_providers":["modal"]}}"#,
        );
        let to = Destination {
            provider: "modal".parse().ok(),
            region: "eu-west".parse().ok(),
            model: "other".parse().ok(),
            mailbox: None,
        };
        let id = new_id("key", &old);
        let (tenant, new) = rewrite(&old, id, &to, Micros::new(1_795_000_000_000_000)).unwrap();
        assert_eq!((tenant.as_str(), new.region.as_str(), new.model.as_str()), ("acme", "eu-west", "other"));
        let body = new.body;
        assert_eq!(body.replay_of, old.job.map(|job| job.to_string()));
        assert_ne!(body.id, body.replay_of);
        assert_eq!((body.deadline, body.mailbox.as_deref()), (None, Some("inbox")));
        assert!(body.routing.deny_providers.is_empty() && body.routing.allow_regions.is_empty());
        assert_eq!(body.routing.allow_providers, to.provider.into_iter().collect::<Vec<_>>());
        assert_eq!(body.labels["a"], "b");
    }

    #[test]
    fn the_same_replay_of_the_same_entry_has_the_same_id() {
        let (one, two) = (entry("{}"), Entry { seq: 2, ..entry("{}") });
        assert_eq!(new_id("k", &one), new_id("k", &one));
        assert_ne!(new_id("k", &one), new_id("k", &two));
        assert_ne!(new_id("k", &one), new_id("again", &one));
    }

    #[test]
    fn what_is_no_job_is_named_and_left_out() {
        let now = Micros::new(0);
        let id = new_id("k", &entry("{}"));
        for body in ["{}", "{", r#"{"prompt":7}"#] {
            let refused = rewrite(&entry(body), id, &Destination::default(), now).unwrap_err();
            assert_eq!(matches!(refused, Unsuitable::Input), body == "{}", "{refused}");
        }
    }
}
