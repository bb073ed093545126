//! What a check asks and what simulators answer it, held against the providers' descriptions.

use simulators::{Kind, Simulator};
use workers::{
    adapters::{Replicate, ReplicateConfig, RunPod, RunPodConfig, Secret, replicate::Target},
    check::{Asked, AskedModel},
    provider::Provider,
};

use crate::{
    description::Description,
    exchanges::{report, simulator},
};

fn asked(served_as: &str) -> Asked {
    Asked {
        region: "us-east".parse().unwrap(),
        slots: 4,
        models: vec![AskedModel { served_as: served_as.into(), sku: "T4".into() }],
        ours: vec!["ep-sim".into()],
    }
}

/// Holds every exchange whose path `is_described` against the description; there are `count` of them at least.
fn held(
    description: &Description,
    simulator: &Simulator,
    is_described: impl Fn(&str) -> bool,
    count: usize,
    allowed: impl Fn(&str) -> bool,
) {
    let exchanges = simulator.exchanges();
    let described: Vec<_> = exchanges.iter().filter(|exchange| is_described(&exchange.path)).collect();
    assert!(described.len() >= count, "only {} exchanges were written down", described.len());
    let mut drifts = Vec::new();
    for exchange in described {
        let (method, path) = (&exchange.method, &exchange.path);
        drifts.extend(description.request(method, path, &exchange.headers, &exchange.request));
        let (status, content_type) = (exchange.status, &exchange.content_type);
        drifts.extend(description.response(method, path, status, content_type, &exchange.response));
    }
    drifts.retain(|drift| !allowed(&drift.reason));
    report(drifts.into_iter());
}

#[tokio::test]
async fn an_endpoint_its_workers_prices_and_pods_are_as_runpod_describes_them() {
    let Some(description) = Description::load("runpod", "runpod-rest-v2.json") else { return };
    let (simulator, _stop) = simulator(Kind::RunPod, "m", |config| {
        let account = &mut config.runpod.account;
        account.others = [("ep-theirs".into(), 2)].into();
        account.pods = [("pod-1".into(), "0.35".into())].into();
        account.stale = true;
    })
    .await;
    let mut config = RunPodConfig::new(format!("{}/v2/ep-sim", simulator.url()));
    (config.api_key, config.billing_url) = (Some(Secret::new("key")), Some(simulator.url()));
    let _ = RunPod::new(config).unwrap().check(&asked("m")).await;
    // The job API, to which the endpoint's health belongs, is in no description.
    held(&description, &simulator, |path| !path.ends_with("/health"), 6, |_| false);
}

#[tokio::test]
async fn account_models_and_deployments_are_as_replicate_describes_them() {
    let Some(description) = Description::load("replicate", "replicate.json") else { return };
    for (target, served_as) in [(Target::Model, "acme/m"), (Target::Deployment, "acme/m")] {
        let (simulator, _stop) = simulator(Kind::Replicate, "acme/m", |config| {
            config.replicate.others = [("acme/theirs".into(), 1)].into();
        })
        .await;
        let mut config = ReplicateConfig::new(simulator.url());
        (config.api_key, config.target) = (Some(Secret::new("key")), target);
        let _ = Replicate::new(config).unwrap().check(&asked(served_as)).await;
        // The description contradicts itself: `hidden` is also one of "any text", of which it wants only one.
        let allowed = |reason: &str| reason.contains("\"hidden\" is valid under more than one");
        held(&description, &simulator, |_| true, 5, allowed);
    }
}
