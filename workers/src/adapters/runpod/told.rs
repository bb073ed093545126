//! What RunPod's REST v2 tells of an endpoint, its workers and the rest of the account, and what that means for a pool. Pure.
//!
//! Every field that a judgment needs may be missing. What is missing is unknown.

use std::collections::BTreeMap;

use schemas::{
    UsdNanos,
    check::{Aspect, Finding, image},
};
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

use super::{billing::dollars, catalog::pool_of};
use crate::check::{self, Asked};

/// Where a person changes it.
const CONSOLE: &str = "in RunPod's console, or by PATCH /v2/serverless/<id>";

/// An endpoint. Of its variables only those are read that name the model: others may be secrets.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Endpoint {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    image: Option<String>,
    #[serde(default)]
    env: BTreeMap<String, Value>,
    workers: Option<Bounds>,
    gpu: Option<Gpu>,
    data_center_ids: Option<Vec<String>>,
}

#[derive(Debug, Deserialize)]
struct Bounds {
    min: Option<u64>,
    max: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct Gpu {
    #[serde(default)]
    pools: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Endpoints {
    pub(super) endpoints: Vec<Endpoint>,
}

/// The workers of an endpoint.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Workers {
    #[serde(default)]
    pub(super) workers: Vec<Worker>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Worker {
    status: Option<String>,
    #[serde(default)]
    is_stale: bool,
    pub(super) gpu_type_id: Option<String>,
    pub(super) gpu_count: Option<u64>,
    data_center_id: Option<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pods<'a> {
    #[serde(borrow)]
    pub(super) pods: Vec<Pod<'a>>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Pod<'a> {
    pub(super) id: String,
    #[serde(default)]
    pub(super) name: String,
    #[serde(default)]
    pub(super) status: String,
    #[serde(borrow)]
    cost: Option<&'a RawValue>,
}

impl Pod<'_> {
    /// Whether it costs something now.
    pub(super) fn stands(&self) -> bool {
        !matches!(self.status.as_str(), "EXITED" | "TERMINATED")
    }

    pub(super) fn usd_per_hour(&self) -> Option<UsdNanos> {
        self.cost.and_then(|cost| dollars(cost.get()))
    }
}

impl Worker {
    /// Whether it is billed.
    pub(super) fn runs(&self) -> bool {
        self.status.as_deref().is_some_and(|status| status.eq_ignore_ascii_case("running"))
    }
}

impl Endpoint {
    /// Workers that are always on.
    pub(super) fn always_on(&self) -> u64 {
        self.workers.as_ref().and_then(|bounds| bounds.min).unwrap_or(0)
    }

    /// Image, and whether all workers run what is configured now.
    pub(super) fn app(&self, workers: Option<&Workers>) -> Finding {
        let stale =
            workers.map_or(0, |workers| workers.workers.iter().filter(|worker| worker.is_stale).count());
        if stale > 0 {
            let found = format!("{stale} workers run an older release of the endpoint than is configured");
            return Finding::warning(
                Aspect::App,
                found,
                "wait for the rolling release to end, or restart them",
            );
        }
        match self.image.as_deref().filter(|image| !image.is_empty()) {
            Some(reference) => image(reference),
            None => Finding::unknown(
                Aspect::App,
                "the endpoint is there; the API does not tell its image",
                "look at its template in RunPod's console",
            ),
        }
    }

    /// The model by the endpoint's variables. The route that would list models starts a worker, so it is not asked.
    pub(super) fn model(&self, asked: &Asked) -> Finding {
        let of = |key: &str| self.env.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
        let names = ["OPENAI_SERVED_MODEL_NAME_OVERRIDE", "SERVED_MODEL_NAME", "MODEL_NAME"];
        let Some((key, served)) = names.into_iter().find_map(|key| Some((key, of(key)?))) else {
            return Finding::unknown(
                Aspect::Model,
                "the API does not tell which model is served, and asking the endpoint would start a worker",
                "see that MODEL_NAME is set in the endpoint's template",
            );
        };
        let wanted = asked.models.iter().map(|model| model.served_as.as_str());
        let missing: Vec<&str> = wanted.filter(|wanted| *wanted != served).collect();
        if missing.is_empty() {
            return Finding::ok(Aspect::Model, format!("it serves {served} ({key})"));
        }
        let found =
            format!("the endpoint serves {served} ({key}), and the pool asks for {}", missing.join(", "));
        Finding::wrong(Aspect::Model, found, "correct served_as, or the endpoint's variable")
    }

    /// Where its workers may stand.
    pub(super) fn region(&self, asked: &Asked) -> Finding {
        let Some(centers) = &self.data_center_ids else {
            let found = "the API does not tell in which data centers it may run";
            return Finding::unknown(Aspect::Region, found, "look in RunPod's console");
        };
        if centers.is_empty() {
            let found = format!("it may run in any data center, not only in {}", asked.region);
            return Finding::warning(
                Aspect::Region,
                found,
                format!("name the data centers of the region {CONSOLE}"),
            );
        }
        let outside: Vec<&str> = centers
            .iter()
            .map(String::as_str)
            .filter(|center| check::lies_in(&asked.region, center) == Some(false))
            .collect();
        if outside.len() == centers.len() {
            let found = format!("it runs in {}, which is not in {}", outside.join(", "), asked.region);
            let todo = format!("name the data centers of the region {CONSOLE}");
            return Finding::wrong(Aspect::Region, found, todo);
        }
        if !outside.is_empty() {
            let found =
                format!("it may also run in {}, which is not in {}", outside.join(", "), asked.region);
            return Finding::warning(Aspect::Region, found, format!("take them out {CONSOLE}"));
        }
        match centers.iter().find(|center| check::lies_in(&asked.region, center).is_none()) {
            Some(center) => check::region(asked, center),
            None => Finding::ok(Aspect::Region, format!("it runs in {}", centers.join(", "))),
        }
    }

    /// How many workers it may have, and whether they are what the pool is booked by.
    pub(super) fn quota(&self, asked: &Asked) -> Finding {
        let bounds = self.workers.as_ref();
        let pools = self.gpu.as_ref().map_or(&[][..], |gpu| gpu.pools.as_slice());
        let other = asked
            .models
            .iter()
            .find(|model| !pools.is_empty() && !pools.iter().any(|pool| pool == pool_of(&model.sku)));
        match (bounds.and_then(|bounds| bounds.max), other) {
            (None, _) => Finding::unknown(
                Aspect::Quota,
                "the API does not tell how many workers it may have",
                "look in RunPod's console",
            ),
            (Some(0), _) => Finding::wrong(
                Aspect::Quota,
                "it may have 0 workers: RunPod scales an endpoint down that nobody used for a week",
                format!("raise its max workers {CONSOLE}"),
            ),
            (Some(_), Some(model)) => Finding::warning(
                Aspect::Quota,
                format!(
                    "it runs on {}, and {} is booked as {} ({})",
                    pools.join(", "),
                    model.served_as,
                    model.sku,
                    pool_of(&model.sku)
                ),
                "correct the model's sku, or the endpoint's GPUs",
            ),
            (Some(max), None) => {
                let min = bounds
                    .and_then(|bounds| bounds.min)
                    .map_or_else(|| "unknown".into(), |min| min.to_string());
                Finding::ok(Aspect::Quota, format!("at most {max} workers, always on: {min}"))
            }
        }
    }
}

impl Workers {
    /// Whether the workers that run now stand in the region.
    pub(super) fn astray(&self, asked: &Asked) -> Option<Finding> {
        let running = self.workers.iter().filter(|worker| worker.runs());
        let mut centers = running.filter_map(|worker| worker.data_center_id.as_deref());
        let center = centers.find(|center| check::lies_in(&asked.region, center) == Some(false))?;
        let found = format!("a worker runs in {center} now, which is not in {}", asked.region);
        Some(Finding::warning(
            Aspect::Region,
            found,
            format!("name the data centers of the region {CONSOLE}"),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::AskedModel;
    use schemas::check::Voice;

    fn asked(sku: &str) -> Asked {
        Asked {
            region: "us-east".parse().unwrap(),
            slots: 4,
            models: vec![AskedModel { served_as: "m".into(), sku: sku.into() }],
            ours: Vec::new(),
        }
    }

    fn endpoint(more: &str) -> Endpoint {
        serde_json::from_str(&format!(r#"{{"id":"ep","name":"e"{more}}}"#)).unwrap()
    }

    #[test]
    fn a_pool_of_no_workers_is_wrong_and_of_untold_workers_unknown() {
        let quota = |more| endpoint(more).quota(&asked("L4")).voice;
        assert_eq!(quota(r#","workers":{"min":0,"max":3}"#), Voice::Ok);
        assert_eq!(quota(r#","workers":{"min":0,"max":0}"#), Voice::Wrong);
        assert_eq!(quota(r#","workers":{}"#), Voice::Unknown);
        assert_eq!(quota(""), Voice::Unknown);
        let bare = endpoint(r#","workers":{"max":3}"#).quota(&asked("L4")).found;
        assert!(bare.contains("always on: unknown"), "{bare}");
    }

    #[test]
    fn gpus_that_are_not_what_is_booked_are_told() {
        let on = |pool: &str, sku: &str| {
            let more = format!(r#","workers":{{"max":3}},"gpu":{{"pools":["{pool}"],"count":1}}"#);
            endpoint(&more).quota(&asked(sku)).voice
        };
        assert_eq!((on("AMPERE_24", "L4"), on("ADA_24", "L4")), (Voice::Ok, Voice::Warning));
        assert_eq!(on("AMPERE_24", "AMPERE_24"), Voice::Ok);
    }

    #[test]
    fn data_centers_are_held_against_the_region() {
        let region =
            |centers: &str| endpoint(&format!(r#","dataCenterIds":{centers}"#)).region(&asked("L4")).voice;
        assert_eq!(region(r#"["US-NC-1","US-GA-1"]"#), Voice::Ok);
        assert_eq!(region(r#"["US-NC-1","EU-NL-1"]"#), Voice::Warning);
        assert_eq!(region(r#"["EU-NL-1"]"#), Voice::Wrong);
        assert_eq!(region("[]"), Voice::Warning);
        assert_eq!(region(r#"["XX-1"]"#), Voice::Unknown);
        assert_eq!(endpoint("").region(&asked("L4")).voice, Voice::Unknown);
        let workers = r#"{"workers":[{"id":"w","status":"running","dataCenterId":"EU-NL-1"}]}"#;
        let workers: Workers = serde_json::from_str(workers).unwrap();
        assert_eq!(workers.astray(&asked("L4")).map(|finding| finding.voice), Some(Voice::Warning));
    }

    #[test]
    fn the_model_is_read_from_the_variables_and_no_other_variable_is_shown() {
        let served = |env: &str| endpoint(&format!(r#","env":{env}"#)).model(&asked("L4"));
        assert_eq!(served(r#"{"MODEL_NAME":"m","HF_TOKEN":"hf_secret"}"#).voice, Voice::Ok);
        let other = served(r#"{"MODEL_NAME":"m","SERVED_MODEL_NAME":"x","HF_TOKEN":"hf_secret"}"#);
        assert!(other.voice == Voice::Wrong && !other.line().contains("hf_secret"), "{other:?}");
        assert_eq!(
            (served("{}").voice, served(r#"{"MODEL_NAME":7}"#).voice),
            (Voice::Unknown, Voice::Unknown)
        );
    }

    #[test]
    fn an_older_release_comes_before_the_shape_of_the_image() {
        let here = endpoint(r#","image":"runpod/worker-v1-vllm:v2.7.0""#);
        assert_eq!(here.app(None).voice, Voice::Warning, "a tag can change");
        let stale: Workers = serde_json::from_str(r#"{"workers":[{"id":"w","isStale":true}]}"#).unwrap();
        assert!(here.app(Some(&stale)).found.contains("older release"));
        assert_eq!(endpoint("").app(None).voice, Voice::Unknown);
    }

    #[test]
    fn a_pod_costs_while_it_is_not_over() {
        let body = r#"{"pods":[{"id":"p","name":"n","status":"RUNNING","cost":0.44},{"id":"q","status":"EXITED","cost":0.0}]}"#;
        let pods: Pods<'_> = serde_json::from_str(body).unwrap();
        let told: Vec<_> = pods.pods.iter().map(|pod| (pod.stands(), pod.usd_per_hour())).collect();
        assert_eq!(told, [(true, Some("0.44".parse().unwrap())), (false, Some(UsdNanos::ZERO))]);
    }
}
