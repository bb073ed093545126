//! A check asks the live service, spends nothing, ends whatever comes, and says what to do. One finding per question, at each provider.

use std::{sync::Arc, time::Duration};

use schemas::{
    check::{Aspect, Checked, Finding, Voice},
    quoted::Quoted,
};
use simulators::{
    Kind, SimulatedModel, Simulator, SimulatorConfig,
    rented::{Canned, ControlFault},
};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use workers::{
    adapters::{
        Billing, Dialect, Modal, ModalConfig, ModalMode, Noop, OpenAi, OpenAiConfig, Replicate,
        ReplicateConfig, RunPod, RunPodConfig, Secret, replicate::Target,
    },
    check::{Asked, AskedModel},
    provider::Provider,
};

/// Far above every bound of a check; only a check without one waits for it.
const BOUND: Duration = Duration::from_secs(60);

struct Bed {
    simulator: Simulator,
    provider: Arc<dyn Provider>,
    asked: Asked,
    _stop: DropGuard,
}

async fn bed(kind: Kind, key: &str, change: impl FnOnce(&mut SimulatorConfig)) -> Bed {
    let name = if kind == Kind::Replicate { "acme/llama" } else { "m" };
    let sku = match kind {
        Kind::RunPod => "L4",
        Kind::Replicate => "gpu-t4",
        Kind::OpenAi | Kind::Golem | Kind::Modal => "T4",
    };
    let model = SimulatedModel { sku: sku.to_owned(), ..SimulatedModel::new(name) };
    let mut config = SimulatorConfig::new("checked", kind, vec![model]);
    config.api_key = Some(if kind == Kind::Modal { "wk-right:ws-right" } else { "right" }.to_owned());
    change(&mut config);
    let stop = CancellationToken::new();
    let simulator = simulators::start(config, stop.clone()).await.unwrap();
    let (url, secret) = (simulator.url(), Some(Secret::new(key)));
    let provider: Arc<dyn Provider> = match kind {
        Kind::OpenAi | Kind::Golem => {
            Arc::new(OpenAi::new(OpenAiConfig { api_key: secret, ..OpenAiConfig::new(url) }).unwrap())
        }
        Kind::Modal => {
            let mut config = ModalConfig::new(url, ModalMode::Spawn);
            config.key = Some(Secret::new(format!("wk-{key}")));
            config.secret = Some(Secret::new(format!("ws-{key}")));
            Arc::new(Modal::new(config).unwrap())
        }
        Kind::RunPod => {
            let base = format!("{url}/v2/ep-sim");
            let config = RunPodConfig { api_key: secret, billing_url: Some(url), ..RunPodConfig::new(base) };
            Arc::new(RunPod::new(config).unwrap())
        }
        Kind::Replicate => Arc::new(
            Replicate::new(ReplicateConfig { api_key: secret, ..ReplicateConfig::new(url) }).unwrap(),
        ),
    };
    Bed { simulator, provider, asked: asked(name, sku), _stop: stop.drop_guard() }
}

fn asked(served_as: &str, sku: &str) -> Asked {
    Asked {
        region: "us-east".parse().unwrap(),
        slots: 4,
        models: vec![AskedModel { served_as: served_as.into(), sku: sku.into() }],
        ours: vec!["ep-sim".into(), "acme/llama".into()],
    }
}

impl Bed {
    async fn check(&self) -> Checked {
        let checked = timeout(BOUND, self.provider.check(&self.asked)).await.expect("a check is bounded");
        let bill = self.simulator.bill();
        assert_eq!((bill.total_nanos, self.simulator.stats().started), (0, 0), "a check spends nothing");
        let mut aspects: Vec<Aspect> = checked.findings.iter().map(|finding| finding.aspect).collect();
        aspects.sort_unstable();
        let all = aspects.clone();
        aspects.dedup();
        assert_eq!(aspects, all, "one finding per question: {:#?}", checked.findings);
        for finding in &checked.findings {
            let line = finding.line();
            assert!(
                !line.contains('\n') && (finding.voice == Voice::Ok || finding.todo.is_some()),
                "{finding:?}"
            );
            assert!(!line.contains("right") && !line.contains("wrong-key"), "a secret is shown: {line}");
        }
        checked
    }

    async fn finding(&self, aspect: Aspect) -> Finding {
        let checked = self.check().await;
        let found = checked.findings.iter().find(|finding| finding.aspect == aspect);
        found.unwrap_or_else(|| panic!("no {aspect:?} in {:#?}", checked.findings)).clone()
    }

    async fn expect(&self, aspect: Aspect, voice: Voice, words: &[&str]) {
        let finding = self.finding(aspect).await;
        assert_eq!(finding.voice, voice, "{finding:?}");
        for word in words {
            assert!(finding.line().contains(word), "`{word}` is not in `{}`", finding.line());
        }
    }
}

const KINDS: [Kind; 4] = [Kind::OpenAi, Kind::Modal, Kind::RunPod, Kind::Replicate];

/// The first route that each kind's check asks.
fn first_route(kind: Kind) -> &'static str {
    match kind {
        Kind::OpenAi | Kind::Golem => "/v1/models",
        Kind::Modal => "/health",
        Kind::RunPod => "/v2/ep-sim/health",
        Kind::Replicate => "/v1/account",
    }
}

#[tokio::test]
async fn where_all_is_well_nothing_is_wrong_and_nothing_is_spent() {
    for kind in KINDS {
        let bed = bed(kind, "right", |_| {}).await;
        let checked = bed.check().await;
        let wrong: Vec<_> = checked.findings.iter().filter(|finding| finding.voice >= Voice::Wrong).collect();
        assert!(wrong.is_empty(), "{kind:?}: {wrong:#?}");
        for aspect in [Aspect::Key, Aspect::Model, Aspect::App, Aspect::RoundTrip] {
            bed.expect(aspect, Voice::Ok, &[]).await;
        }
        assert_eq!(bed.finding(Aspect::Foreign).await.foreign, []);
    }
}

#[tokio::test]
async fn a_wrong_key_is_said_and_what_needs_it_is_not_asked() {
    for kind in KINDS {
        let bed = bed(kind, "wrong-key", |_| {}).await;
        bed.expect(Aspect::Key, Voice::Wrong, &["401"]).await;
        bed.expect(Aspect::Model, Voice::Unknown, &[]).await;
    }
}

#[tokio::test]
async fn whatever_a_route_answers_the_check_ends_and_nothing_is_made_up() {
    let canned = |canned| ControlFault::Refused(canned);
    for kind in KINDS {
        let bed = bed(kind, "right", |_| {}).await;
        for (fault, word) in [
            (canned(Canned::html(503)), "503"),
            (canned(Canned::html(200)), "200"),
            (canned(Canned::json(200, "{}")), ""),
            (canned(Canned::json(200, "[]")), ""),
            (canned(Canned::json(200, r#"{"data":7,"endpoints":null,"workers":"x"}"#)), ""),
            (canned(Canned::text(500, "")), "500"),
            (ControlFault::Cut, ""),
        ] {
            bed.simulator.fault_route("*", fault);
            let checked = bed.check().await;
            assert!(
                word.is_empty() || checked.findings.iter().any(|finding| finding.line().contains(word)),
                "{kind:?} {word}: {checked:#?}"
            );
            let quota = checked.findings.iter().find(|finding| finding.aspect == Aspect::Quota);
            assert_ne!(quota.map(|finding| finding.voice), Some(Voice::Ok), "{kind:?}: {checked:#?}");
            bed.simulator.clear_route_faults();
        }
    }
}

#[tokio::test]
async fn too_many_requests_is_no_verdict_on_the_key() {
    for kind in KINDS {
        let bed = bed(kind, "right", |_| {}).await;
        let busy = Canned::json(429, "{}").retry_after("7");
        bed.simulator.fault_route(first_route(kind), ControlFault::Refused(busy));
        bed.expect(Aspect::Key, Voice::Unknown, &["429", "wait 7 s", "check again later"]).await;
    }
}

#[tokio::test]
async fn a_service_that_hangs_is_given_up() {
    // Side by side: each waits for its requests to be given up.
    let hangs = KINDS.map(|kind| async move {
        let bed = bed(kind, "right", |_| {}).await;
        bed.simulator.fault_route("*", ControlFault::Hang);
        bed.expect(Aspect::App, if kind == Kind::Replicate { Voice::Unknown } else { Voice::Wrong }, &[])
            .await;
    });
    futures_util::future::join_all(hangs).await;
}

#[tokio::test]
async fn an_older_app_on_modal_says_so_and_another_region_or_model_is_wrong() {
    let old = bed(Kind::Modal, "right", |config| config.modal.contract = None).await;
    old.expect(Aspect::App, Voice::Warning, &["older than Beacon", "modal deploy"]).await;
    let newer = bed(Kind::Modal, "right", |config| config.modal.contract = Some(9)).await;
    newer.expect(Aspect::App, Voice::Warning, &["9", "update Beacon"]).await;
    let mut elsewhere = bed(Kind::Modal, "right", |config| config.region = "eu-west".into()).await;
    elsewhere.expect(Aspect::Region, Voice::Wrong, &["eu-west", "us-east"]).await;
    elsewhere.asked = asked("other", "T4");
    elsewhere.expect(Aspect::Model, Voice::Wrong, &["other", "serves m"]).await;
    let gone = bed(Kind::Modal, "right", |_| {}).await;
    let stopped = Canned::text(404, "modal-http: app not found");
    gone.simulator.fault_route("/health", ControlFault::Refused(stopped));
    gone.expect(Aspect::App, Voice::Wrong, &["no such app", "modal deploy"]).await;
    assert!(matches!(gone.check().await.prices, Quoted::Untold { page } if page.contains("modal.com")));
}

#[tokio::test]
async fn an_endpoint_on_runpod_is_looked_at_from_all_sides() {
    let all = bed(Kind::RunPod, "right", |config| {
        let account = &mut config.runpod.account;
        account.workers_max = 0;
        account.data_centers = Some(vec!["EU-NL-1".into()]);
        account.others = [("ep-theirs".into(), 2), ("ep-idle".into(), 0)].into();
        account.pods = [("pod-1".into(), "0.35".into())].into();
        account.prices = [("AMPERE_24".into(), "0.9".into())].into();
        account.env = [("HF_TOKEN".into(), "right".into()), ("MODEL_NAME".into(), "other".into())].into();
    })
    .await;
    all.expect(Aspect::Quota, Voice::Wrong, &["0 workers", "max workers"]).await;
    all.expect(Aspect::Region, Voice::Wrong, &["EU-NL-1", "us-east"]).await;
    all.expect(Aspect::Model, Voice::Wrong, &["other", "asks for m"]).await;
    let words = ["2 not ours", "ep-theirs", "$1.8 an hour", "pod-1", "$0.35", "$2.15 an hour together"];
    all.expect(Aspect::Foreign, Voice::Warning, &words).await;
    let checked = all.check().await;
    assert_eq!(checked.prices.of("L4").map(|price| price.usd.to_string()).as_deref(), Some("0.9"));
    assert_eq!(all.provider.prices().await, checked.prices);

    let other = bed(Kind::RunPod, "right", |config| config.runpod.account.gpu_pool = "ADA_24".into()).await;
    other.expect(Aspect::Quota, Voice::Warning, &["ADA_24", "AMPERE_24"]).await;
    let stale = bed(Kind::RunPod, "right", |config| config.runpod.account.stale = true).await;
    stale.expect(Aspect::App, Voice::Warning, &["older release"]).await;
    let crashing = bed(Kind::RunPod, "right", |config| config.runpod.unhealthy = true).await;
    crashing.expect(Aspect::App, Voice::Wrong, &["unhealthy", "logs"]).await;
    let missing = bed(Kind::RunPod, "right", |config| config.runpod.endpoint_id = "ep-other".into()).await;
    missing.expect(Aspect::App, Voice::Wrong, &["no such endpoint", "base_url"]).await;
}

#[tokio::test]
async fn a_key_that_may_not_manage_leaves_its_findings_unknown() {
    let bed = bed(Kind::RunPod, "right", |_| {}).await;
    let forbidden = || ControlFault::Refused(Canned::json(403, r#"{"title":"Forbidden","status":403}"#));
    for route in ["/v2/serverless/ep-sim", "/v2/serverless", "/v2/catalog/gpus", "/v2/pods"] {
        bed.simulator.fault_route(route, forbidden());
    }
    bed.expect(Aspect::Key, Voice::Ok, &[]).await;
    for aspect in [Aspect::Model, Aspect::Region, Aspect::Quota, Aspect::Foreign] {
        bed.expect(aspect, Voice::Unknown, &["403", "allow the key"]).await;
    }
    assert!(matches!(bed.check().await.prices, Quoted::Failed(why) if why.contains("403")));
    // Pods alone are not told: what endpoints run is said, and no more.
    bed.simulator.clear_route_faults();
    bed.simulator.fault_route("/v2/pods", forbidden());
    bed.expect(Aspect::Foreign, Voice::Unknown, &["pods are not told"]).await;
}

fn replicate(bed: &Bed, target: Target, change: impl FnOnce(&mut ReplicateConfig)) -> Arc<dyn Provider> {
    let mut config = ReplicateConfig::new(bed.simulator.url());
    (config.api_key, config.target, config.billing) =
        (Some(Secret::new("right")), target, Billing::PerSecond);
    change(&mut config);
    Arc::new(Replicate::new(config).unwrap())
}

#[tokio::test]
async fn a_model_or_deployment_on_replicate_is_looked_at_by_its_own_route() {
    let mut bed = bed(Kind::Replicate, "right", |config| {
        config.replicate.others = [("acme/theirs".into(), 2)].into();
    })
    .await;
    bed.expect(Aspect::Foreign, Voice::Warning, &["acme/theirs", "price not told"]).await;
    bed.provider = replicate(&bed, Target::Deployment, |_| {});
    bed.expect(Aspect::Quota, Voice::Ok, &["at most 3 instances"]).await;
    bed.expect(Aspect::Model, Voice::Ok, &["gpu-t4"]).await;
    bed.asked = asked("acme/llama", "gpu-h100");
    bed.expect(Aspect::Model, Voice::Warning, &["gpu-t4", "gpu-h100"]).await;
    bed.expect(Aspect::App, Voice::Warning, &["no hardware gpu-h100", "gpu-t4"]).await;
    bed.asked = asked("acme/nobody", "gpu-t4");
    bed.expect(Aspect::Model, Voice::Wrong, &["no deployment acme/nobody"]).await;
    bed.provider = replicate(&bed, Target::Model, |_| {});
    bed.expect(Aspect::Model, Voice::Wrong, &["acme/nobody", "does not exist"]).await;
    bed.asked = asked("acme/llama", "gpu-t4");
    bed.provider = replicate(&bed, Target::Model, |config| config.input.max_tokens = "max_new_tokens".into());
    bed.expect(Aspect::Model, Voice::Wrong, &["no input max_new_tokens", "max_tokens"]).await;
    bed.provider = replicate(&bed, Target::Version, |_| {});
    bed.asked = asked(&"0".repeat(64), "gpu-t4");
    bed.expect(Aspect::Model, Voice::Unknown, &["owner/name:version"]).await;
}

#[tokio::test]
async fn a_server_with_another_model_is_wrong_unless_it_serves_any_name() {
    let mut bed = bed(Kind::OpenAi, "right", |_| {}).await;
    bed.asked = asked("other", "T4");
    bed.expect(Aspect::Model, Voice::Wrong, &["other", "(m)", "served_as"]).await;
    let config = OpenAiConfig {
        api_key: Some(Secret::new("right")),
        dialect: Dialect::LlamaCpp,
        ..OpenAiConfig::new(bed.simulator.url())
    };
    bed.provider = Arc::new(OpenAi::new(config).unwrap());
    bed.expect(Aspect::Model, Voice::Warning, &["other"]).await;
    bed.simulator.fault_route("/health", ControlFault::Refused(Canned::json(503, "{}")));
    bed.expect(Aspect::App, Voice::Wrong, &["503", "log"]).await;
}

#[tokio::test]
async fn who_cannot_be_asked_is_unknown_and_the_way_is_measured_where_somebody_answers() {
    let noop: Arc<dyn Provider> = Arc::new(Noop::new(Duration::ZERO));
    let checked = noop.check(&asked("m", "T4")).await;
    assert!(checked.findings.iter().all(|finding| finding.voice == Voice::Unknown));
    assert_eq!(noop.round_trip().await, None);
    for kind in KINDS {
        let bed = bed(kind, "right", |_| {}).await;
        assert!(bed.provider.round_trip().await.is_some(), "{kind:?}");
        bed.simulator.fault_route("*", ControlFault::Cut);
        assert_eq!(bed.provider.round_trip().await, None, "{kind:?}");
    }
}
