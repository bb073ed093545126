//! What a backfill may cost and how long it may take, as the pools say now.

use std::{collections::BTreeMap, time::Duration};

use schemas::{UsdNanos, heartbeat::Heartbeat};
use serde::Serialize;

use super::survey::Survey;
use crate::{Producer, nats};

/// What the pools that serve a model expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct ModelQuote {
    /// The cheapest job.
    pub cheapest_usd: UsdNanos,
    /// The dearest.
    pub dearest_usd: UsdNanos,
    /// Jobs that all its pools together finish in an hour, when nobody else uses them.
    pub jobs_per_hour: u64,
}

/// By model token; a model that no pool serves is not in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quote {
    /// The models.
    pub models: BTreeMap<String, ModelQuote>,
}

/// What the whole comes to.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// Jobs.
    pub jobs: u64,
    /// Dollars at least, if every job goes where it is cheapest.
    pub from_usd: UsdNanos,
    /// Dollars at most, if every job goes where it is dearest and none fails.
    pub to_usd: UsdNanos,
    /// Hours, when nobody else uses the pools; models run beside each other.
    pub hours: f64,
    /// Models that no pool serves now; their jobs would wait.
    pub unserved: Vec<String>,
}

/// Listens to the pools for `listen`.
pub async fn quote(producer: &Producer, listen: Duration) -> Result<Quote, nats::MailboxError> {
    Ok(Quote::from(&nats::heartbeats(producer.client(), listen).await?))
}

impl Quote {
    /// From the newest word of each worker.
    pub fn from(beats: &[Heartbeat]) -> Self {
        let newest: BTreeMap<String, &Heartbeat> =
            beats.iter().map(|beat| (format!("{} {}", beat.pool, beat.worker), beat)).collect();
        let mut models: BTreeMap<String, ModelQuote> = BTreeMap::new();
        for beat in newest.into_values().filter(|beat| !beat.draining) {
            for served in &beat.models {
                let cost = served.expected_cost_usd;
                let per_hour = u64::from(beat.slots) * 3_600_000_000 / served.p50_us.max(1);
                let quote = models.entry(served.model.to_string()).or_insert(ModelQuote {
                    cheapest_usd: cost,
                    dearest_usd: cost,
                    jobs_per_hour: 0,
                });
                quote.cheapest_usd = quote.cheapest_usd.min(cost);
                quote.dearest_usd = quote.dearest_usd.max(cost);
                quote.jobs_per_hour = quote.jobs_per_hour.saturating_add(per_hour);
            }
        }
        Self { models }
    }

    /// The dearest job of any model.
    pub fn dearest(&self) -> Option<UsdNanos> {
        self.models.values().map(|quote| quote.dearest_usd).max()
    }

    /// What all lines of a file come to. Sums saturate.
    pub fn estimate(&self, survey: &Survey) -> Estimate {
        let (mut from, mut to, mut hours, mut unserved) = (0u64, 0u64, 0.0f64, Vec::new());
        for (model, jobs) in &survey.models {
            let Some(quote) = self.models.get(model) else {
                unserved.push(model.clone());
                continue;
            };
            from = from.saturating_add(quote.cheapest_usd.get().saturating_mul(*jobs));
            to = to.saturating_add(quote.dearest_usd.get().saturating_mul(*jobs));
            hours = hours.max(*jobs as f64 / quote.jobs_per_hour.max(1) as f64);
        }
        Estimate {
            jobs: survey.models.values().sum::<u64>() - survey.doubles.len() as u64,
            from_usd: UsdNanos::new(from),
            to_usd: UsdNanos::new(to),
            hours,
            unserved,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn beat(worker: &str, cost: &str, slots: u32) -> Heartbeat {
        serde_json::from_value(serde_json::json!({
            "pool": { "region": "us-east", "provider": "golem" }, "worker": worker, "started_us": 1, "at_us": 1,
            "slots": slots, "running": 0, "draining": false, "succeeded": 0, "failed": 0,
            "models": [{ "model": "m", "sku": "standard", "size": 1, "expected_cost_usd": cost,
                         "p50_us": 1_000_000, "p95_us": 2_000_000 }],
        }))
        .unwrap()
    }

    #[test]
    fn a_worker_counts_once_and_the_range_is_from_the_cheapest_to_the_dearest() {
        let quote = Quote::from(&[beat("a", "0.0001", 2), beat("a", "0.0001", 2), beat("b", "0.0003", 3)]);
        let survey = Survey {
            models: [("m".to_owned(), 18_000), ("other".to_owned(), 2)].into(),
            ..Survey::default()
        };
        let estimate = quote.estimate(&survey);
        assert_eq!(
            (estimate.from_usd.to_string(), estimate.to_usd.to_string()),
            ("1.8".into(), "5.4".into())
        );
        assert!((estimate.hours - 1.0).abs() < 1e-9, "5 slots, a second each");
        assert_eq!((estimate.jobs, estimate.unserved), (18_002, vec!["other".to_owned()]));
    }
}
