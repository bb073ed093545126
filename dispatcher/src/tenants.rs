//! Whose jobs are coming: what the streams count by subject. A consumer gives jobs in the order they were stored, so while one
//! tenant's backlog is being read, this is the only way to see that others wait behind it.

use std::collections::HashMap;

use async_nats::Client;
use schemas::{ModelToken, Region, Tenant, subjects::JobSubject, topology};
use serde_json::{Value, json};
use transport::api::{self, ApiError};

/// Tenants looked at in one answer; the server pages beyond. With more than that, those of the first page are seen.
const SUBJECTS_MAX: usize = 100_000;

/// Jobs that a region's stream holds, done ones included, by model and tenant.
#[derive(Debug, Default)]
pub struct Counts {
    /// Which region.
    pub region: Option<Region>,
    counts: HashMap<(ModelToken, Tenant), u64>,
}

/// Asks the server.
pub async fn count(client: Client, region: Region) -> Result<Counts, ApiError> {
    let body = json!({ "subjects_filter": format!("beacon.jobs.{region}.>") });
    let info = api::ask(&client, &format!("STREAM.INFO.{}", topology::jobs_stream(&region)), &body).await?;
    let mut counts = HashMap::new();
    let subjects = info.pointer("/state/subjects").and_then(Value::as_object);
    for (subject, count) in subjects.into_iter().flatten().take(SUBJECTS_MAX) {
        let (Ok(subject), Some(count)) = (subject.parse::<JobSubject>(), count.as_u64()) else { continue };
        *counts.entry((subject.model, subject.tenant)).or_default() += count;
    }
    Ok(Counts { region: Some(region), counts })
}

impl Counts {
    /// Whose jobs have become more since `before`.
    pub fn grown<'a>(&'a self, before: &'a Self) -> impl Iterator<Item = (&'a ModelToken, &'a Tenant)> {
        let more = |(key, count): &(&(ModelToken, Tenant), &u64)| {
            before.counts.get(*key).is_none_or(|was| was < *count)
        };
        self.counts.iter().filter(more).map(|((model, tenant), _)| (model, tenant))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(all: &[(&str, &str, u64)]) -> Counts {
        let key = |model: &str, tenant: &str| (model.parse().unwrap(), tenant.parse().unwrap());
        Counts { region: None, counts: all.iter().map(|(m, t, n)| (key(m, t), *n)).collect() }
    }

    #[test]
    fn who_has_more_than_before_is_coming() {
        let before = counts(&[("m", "acme", 5), ("m", "globex", 7)]);
        // Trimming takes some away; what is new came.
        let after = counts(&[("m", "acme", 6), ("m", "globex", 3), ("m", "hooli", 1)]);
        let mut grown: Vec<String> = after.grown(&before).map(|(_, tenant)| tenant.to_string()).collect();
        grown.sort();
        assert_eq!(grown, ["acme", "hooli"]);
    }
}
