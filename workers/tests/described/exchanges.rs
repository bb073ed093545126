//! Adapters at work against their simulators, with everything they say written down and checked.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::BoxFuture;
use schemas::job::{Input, Message, Params};
use serde_json::Value;
use simulators::{
    Exchange, Fault, FaultKind, Kind, OpenAiSettings, Server, SimulatedModel, Simulator, SimulatorConfig,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use workers::{
    adapters::{
        Billing, Dialect, OpenAi, OpenAiConfig, Replicate, ReplicateConfig, RunPod, RunPodConfig, RunPodMode,
        Secret, replicate::Target,
    },
    provider::{Call, Progress, Provider},
};

use crate::description::{Description, Drift};

/// Listens to nothing.
struct Deaf;

impl Progress for Deaf {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {})
    }

    fn started<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async {})
    }

    fn token(&self, _: &str) {}
}

pub(crate) async fn simulator(
    kind: Kind,
    name: &str,
    change: impl FnOnce(&mut SimulatorConfig),
) -> (Simulator, DropGuard) {
    let model = SimulatedModel { service_ms_p50: 30, ..SimulatedModel::new(name) };
    let mut config = SimulatorConfig::new("described", kind, vec![model]);
    (config.record, config.api_key) = (true, Some("key".to_owned()));
    change(&mut config);
    let stop = CancellationToken::new();
    (simulators::start(config, stop.clone()).await.unwrap(), stop.drop_guard())
}

fn call(number: u8, model: &str, input: Input, params: Params) -> Call {
    Call {
        job: format!("0198c0de-0000-7000-8000-0000000000{number:02x}").parse().unwrap(),
        attempt: 1,
        key: schemas::AttemptKey::of("described", number.into()),
        model: model.to_owned(),
        sku: "T4".to_owned(),
        tenant: schemas::Tenant::default(),
        input,
        params,
        timeout: Duration::from_secs(30),
        traceparent: None,
        live: false,
    }
}

/// All kinds of calls: both inputs, few and many parameters, what is refused, and a server in trouble.
async fn exercise(provider: &dyn Provider, simulator: &Simulator, model: &str, most_params: &Params) {
    let message = |role: &str, content: &str| Message { role: role.to_owned(), content: content.to_owned() };
    let chat = Input::Messages(vec![message("system", "Be brief."), message("user", "Why is the sky blue?")]);
    let prompt = Input::Prompt("Once upon a time".to_owned());
    let few = Params { max_tokens: Some(12), ..Params::default() };
    for (number, (input, params)) in
        [(&chat, &few), (&chat, most_params), (&prompt, &few), (&prompt, most_params)].into_iter().enumerate()
    {
        let number = u8::try_from(number).unwrap();
        let ended = provider.run(&call(number, model, input.clone(), params.clone()), &Deaf).await;
        assert!(ended.outcome.is_ok(), "{ended:?}");
    }
    let too_long = Params { max_tokens: Some(1_000_000), ..Params::default() };
    let _ = provider.run(&call(10, model, chat.clone(), too_long), &Deaf).await;
    let _ = provider.run(&call(11, "acme/nobody", chat.clone(), few.clone()), &Deaf).await;
    for code in [401, 429, 500] {
        simulator
            .set_fault(Some(Fault::times(FaultKind::Status { code, body: None, retry_after_s: None }, 1)));
        let _ = provider.run(&call(12, model, chat.clone(), few.clone()), &Deaf).await;
    }
    for kind in [FaultKind::ErrorFrame { after_tokens: 2 }, FaultKind::Oom] {
        simulator.set_fault(Some(Fault::times(kind, 1)));
        let _ = provider.run(&call(13, model, chat.clone(), few.clone()), &Deaf).await;
    }
    let _ = provider.health().await;
}

/// Fails with every drift on a line of its own. `allowed` says what differs on purpose.
fn assert_described(
    description: &Description,
    exchanges: &[Exchange],
    allowed: impl Fn(&Exchange, &Drift) -> bool,
) {
    assert!(exchanges.len() > 8, "only {} exchanges were written down", exchanges.len());
    let mut drifts = Vec::new();
    for exchange in exchanges {
        let Exchange { method, path, headers, request, status, content_type, response } = exchange;
        // What was refused as a bad request is bad on purpose.
        if !matches!(status, 400 | 404 | 422) {
            drifts.extend(
                description.request(method, path, headers, request).into_iter().map(|d| (exchange, d)),
            );
        }
        let found = description.response(method, path, *status, content_type, response);
        drifts.extend(found.into_iter().map(|drift| (exchange, drift)));
    }
    drifts.retain(|(exchange, drift)| !allowed(exchange, drift));
    report(drifts.into_iter().map(|(_, drift)| drift));
}

/// Fails with each drift once, on a line of its own.
pub(crate) fn report(drifts: impl Iterator<Item = Drift>) {
    let lines: BTreeSet<String> = drifts.map(|drift| drift.to_string()).collect();
    let lines: Vec<String> = lines.into_iter().collect();
    assert!(lines.is_empty(), "adapter or simulator has drifted:\n{}", lines.join("\n"));
}

/// Errors are in no description but for a few; what an adapter makes of them is in its contract.
fn is_error(exchange: &Exchange) -> bool {
    exchange.status >= 400
}

fn most_params() -> Params {
    Params {
        max_tokens: Some(12),
        temperature: Some(0.5),
        top_p: Some(0.9),
        seed: Some(7),
        stop: vec!["zzz".into()],
    }
}

#[tokio::test]
async fn openai_bodies_are_as_openai_describes_them() {
    let Some(description) = Description::load("openai", "openai-subset.json") else { return };
    for stream in [true, false] {
        let (simulator, _stop) = simulator(Kind::OpenAi, "m", |_| {}).await;
        let mut config = OpenAiConfig::new(simulator.url());
        (config.api_key, config.stream) = (Some(Secret::new("key")), stream);
        exercise(&OpenAi::new(config).unwrap(), &simulator, "m", &most_params()).await;
        let exchanges: Vec<Exchange> =
            simulator.exchanges().into_iter().filter(|exchange| exchange.path.starts_with("/v1")).collect();
        assert_described(&description, &exchanges, |exchange, drift| {
            // vLLM's own: it answers completions as a stream, which OpenAI describes without a schema, and an engine's
            // error with status 200; its answers have no `refusal`.
            is_error(exchange)
                || drift.reason.contains("nobody described \"text/event-stream\"")
                || String::from_utf8_lossy(&exchange.response).contains(r#"{"error""#)
                || drift.reason == r#""refusal" is a required property"#
        });
    }
}

#[tokio::test]
async fn tgi_bodies_are_as_tgi_describes_them() {
    let Some(description) = Description::load("tgi", "tgi.json") else { return };
    for stream in [true, false] {
        let settings = OpenAiSettings { server: Server::Tgi, ..OpenAiSettings::default() };
        let (simulator, _stop) = simulator(Kind::OpenAi, "m", |config| config.openai = settings).await;
        let mut config = OpenAiConfig::new(simulator.url());
        (config.api_key, config.stream, config.dialect) = (Some(Secret::new("key")), stream, Dialect::Tgi);
        let provider = OpenAi::new(config).unwrap();
        let most = Params { top_p: Some(1.0), seed: Some(-7), ..most_params() };
        exercise(&provider, &simulator, "m", &most).await;
        // Its metrics are described as nothing but text.
        let exchanges: Vec<Exchange> =
            simulator.exchanges().into_iter().filter(|exchange| exchange.path != "/metrics").collect();
        assert_described(&description, &exchanges, |exchange, drift| {
            // An error with status 200 is in no description, and a prompt may be a text as well.
            is_error(exchange)
                || String::from_utf8_lossy(&exchange.response).contains(r#"{"error""#)
                || drift.reason.contains("is not of type \"array\"")
        });
    }
}

#[tokio::test]
async fn replicate_bodies_are_as_replicate_describes_them() {
    let Some(description) = Description::load("replicate", "replicate.json") else { return };
    for (target, model) in
        [(Target::Model, "acme/m"), (Target::Deployment, "acme/m"), (Target::Version, "acme/m")]
    {
        for wait in [Duration::ZERO, Duration::from_secs(10)] {
            let (simulator, _stop) = simulator(Kind::Replicate, "acme/m", |_| {}).await;
            let mut config = ReplicateConfig::new(simulator.url());
            (config.api_key, config.target, config.wait) = (Some(Secret::new("key")), target, wait);
            (config.poll_min, config.poll_max) = (Duration::from_millis(2), Duration::from_millis(20));
            config.billing = Billing::PerSecond;
            let provider = Replicate::new(config).unwrap();
            exercise(&provider, &simulator, model, &most_params()).await;
            // A look through the list, and a run that is stopped.
            let known = call(20, model, Input::Prompt("hi".to_owned()), Params::default());
            let _ = provider.find(&known, Duration::ZERO).await;
            simulator.set_fault(Some(Fault::times(FaultKind::StallMidStream { after_tokens: 1 }, 1)));
            let stalled = Call { timeout: Duration::from_millis(300), ..known };
            let _ = provider.run(&stalled, &Deaf).await;
            assert_described(&description, &simulator.exchanges(), |exchange, drift| {
                // The description contradicts itself: `hidden` is also one of "any text", of which it wants only one.
                is_error(exchange) || drift.reason.contains("\"hidden\" is valid under more than one")
            });
        }
    }
}

#[tokio::test]
async fn what_a_runpod_job_asks_and_gives_is_as_openai_describes_it() {
    let Some(description) = Description::load("runpod", "openai-subset.json") else { return };
    for mode in [RunPodMode::Run, RunPodMode::RunSync] {
        let (simulator, _stop) = simulator(Kind::RunPod, "m", |_| {}).await;
        let mut config = RunPodConfig::new(format!("{}/v2/ep-sim", simulator.url()));
        (config.api_key, config.mode) = (Some(Secret::new("key")), mode);
        (config.poll_min, config.poll_max) = (Duration::from_millis(2), Duration::from_millis(20));
        exercise(&RunPod::new(config).unwrap(), &simulator, "m", &most_params()).await;
        // The job API itself is in no description; what worker-vllm is asked and answers is OpenAI's.
        let (mut drifts, mut asked, mut answered) = (Vec::new(), 0, 0);
        for exchange in simulator.exchanges() {
            let request: Value = serde_json::from_slice(&exchange.request).unwrap_or_default();
            if let Some(route) = request["input"]["route"].as_str() {
                asked += 1;
                let body = serde_json::to_vec(&request["input"]["body"]).unwrap();
                drifts.extend(description.request("POST", route, &[], &body));
            }
            let answer: Value = serde_json::from_slice(&exchange.response).unwrap_or_default();
            if let Some(output) = answer["output"].get(0) {
                answered += 1;
                let object = output["object"].as_str().unwrap_or_default();
                let route =
                    if object == "text_completion" { "/v1/completions" } else { "/v1/chat/completions" };
                let body = serde_json::to_vec(output).unwrap();
                drifts.extend(description.response("POST", route, 200, "application/json", &body));
            }
        }
        assert!(asked > 8 && answered >= 4, "{asked} asked, {answered} answered");
        // vLLM's answers have no `refusal`.
        drifts.retain(|drift| drift.reason != r#""refusal" is a required property"#);
        report(drifts.into_iter());
    }
}

#[tokio::test]
async fn contract_runpod_the_bill_is_asked_for_and_read_as_runpod_describes_it() {
    let Some(description) = Description::load("runpod", "runpod-rest-v2.json") else { return };
    let (simulator, _stop) = simulator(Kind::RunPod, "m", |config| {
        config.models[0].price_per_second_nanos = 200_000;
    })
    .await;
    let mut config = RunPodConfig::new(format!("{}/v2/ep-sim", simulator.url()));
    (config.api_key, config.billing_url) = (Some(Secret::new("key")), Some(simulator.url()));
    (config.poll_min, config.poll_max) = (Duration::from_millis(2), Duration::from_millis(20));
    let provider = RunPod::new(config.clone()).unwrap();
    exercise(&provider, &simulator, "m", &most_params()).await;
    let since = schemas::Micros::new(1_795_000_000_000_000);
    let now = since + Duration::from_secs(600);
    assert_eq!(provider.billed(since, now).await.map(schemas::UsdNanos::get), Some(0), "not final yet");
    config.billing_settles = Duration::ZERO;
    let provider = RunPod::new(config).unwrap();
    let billed = provider.billed(since, now).await.unwrap();
    assert!(billed.get() > 0 && billed.get() <= simulator.bill().total_nanos, "{billed}");
    let mut drifts = Vec::new();
    let mut asked = 0;
    for exchange in simulator.exchanges().iter().filter(|exchange| exchange.path.contains("/billing/")) {
        let Exchange { method, path, headers, request, status, content_type, response } = exchange;
        asked += 1;
        drifts.extend(description.request(method, path, headers, request));
        drifts.extend(description.response(method, path, *status, content_type, response));
    }
    assert_eq!(asked, 2);
    report(drifts.into_iter());
}
