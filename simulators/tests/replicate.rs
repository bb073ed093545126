//! Replicate: creating, holding, listing, cancelling and streaming predictions, its limits and its webhooks.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

mod support;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use reqwest::{RequestBuilder, StatusCode};
use ring::hmac;
use serde_json::{Value, json};
use simulators::{Kind, OutputShape, ReplicateSettings, SimulatedModel, SimulatorConfig};
use support::{Rig, endless, model, start};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

const CREATE: &str = "/v1/models/meta/llama/predictions";

async fn platform(model: SimulatedModel, replicate: ReplicateSettings) -> Rig {
    let model = SimulatedModel { name: "meta/llama".to_owned(), ..model };
    start(SimulatorConfig { replicate, ..SimulatorConfig::new("test", Kind::Replicate, vec![model]) }).await
}

async fn plain(model: SimulatedModel) -> Rig {
    platform(model, ReplicateSettings { limits: false, ..ReplicateSettings::default() }).await
}

fn input() -> Value {
    json!({ "input": { "prompt": "why is the sky blue?", "max_tokens": 64 } })
}

async fn send(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Asks for a prediction until it has ended.
async fn ended(rig: &Rig, created: &Value) -> Value {
    loop {
        let (status, now) = send(rig.client.get(created["urls"]["get"].as_str().unwrap())).await;
        assert_eq!(status, StatusCode::OK);
        if !["starting", "processing"].contains(&now["status"].as_str().unwrap()) {
            return now;
        }
    }
}

#[tokio::test]
async fn without_prefer_a_prediction_is_answered_before_it_starts() {
    let rig = plain(model()).await;
    let (status, created) = send(rig.post(CREATE, &input())).await;
    assert_eq!((status, &created["status"]), (StatusCode::CREATED, &json!("starting")));
    assert_eq!((&created["version"], &created["input"]), (&json!("hidden"), &input()["input"]));
    let done = ended(&rig, &created).await;
    assert_eq!(done["status"], "succeeded");
    let pieces = done["output"].as_array().unwrap();
    assert!(pieces[0].as_str().unwrap().starts_with("[simulated]"));
    let line = &rig.simulator.bill().lines[0];
    assert_eq!(line.run.as_deref(), done["id"].as_str());
    let predict_us = (done["metrics"]["predict_time"].as_f64().unwrap() * 1e6).round();
    assert_eq!(format!("{predict_us:.0}"), line.billed_micros.to_string());
    let stats = rig.simulator.stats();
    assert_eq!(done["metrics"]["input_token_count"], stats.prompt_tokens);
    assert_eq!(done["metrics"]["output_token_count"], stats.generated_tokens);
}

#[tokio::test]
async fn prefer_holds_the_answer_until_the_end_or_until_the_time_is_up() {
    let settings = ReplicateSettings { output: OutputShape::String, ..ReplicateSettings::default() };
    let rig = platform(model(), settings).await;
    let (status, done) = send(rig.post(CREATE, &input()).header("prefer", "wait")).await;
    assert_eq!((status, &done["status"]), (StatusCode::CREATED, &json!("succeeded")));
    assert!(done["output"].as_str().unwrap().starts_with("[simulated]"));

    let settings = ReplicateSettings { time_scale: 0.01, ..ReplicateSettings::default() };
    let rig = platform(endless(), settings).await;
    let (status, held) = send(rig.post(CREATE, &input()).header("prefer", "wait=1")).await;
    assert_eq!((status, &held["output"]), (StatusCode::ACCEPTED, &json!(null)));
    assert!(["starting", "processing"].contains(&held["status"].as_str().unwrap()), "{held}");
    let (status, refused) = send(rig.post(CREATE, &input()).header("prefer", "wait=61")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{refused}");
}

#[tokio::test]
async fn each_way_to_name_a_model_finds_it_and_no_other_does() {
    let rig = plain(model()).await;
    let (_, about) = send(rig.get("/v1/models/meta/llama")).await;
    let version = about["latest_version"]["id"].as_str().unwrap();
    assert_eq!(
        rig.get_json(&format!("/v1/models/meta/llama/versions/{version}")).await,
        about["latest_version"]
    );
    for (named, expected) in [
        ("meta/llama".to_owned(), Some("hidden")),
        (format!("meta/llama:{version}"), Some(version)),
        (version.to_owned(), Some(version)),
        ("meta/other".to_owned(), None),
        (format!("meta/other:{version}"), None),
        ("0".repeat(64), None),
    ] {
        let mut body = input();
        body["version"] = json!(named);
        let (status, answer) = send(rig.post("/v1/predictions", &body)).await;
        match expected {
            Some(version) => assert_eq!((status, &answer["version"]), (StatusCode::CREATED, &json!(version))),
            None => assert_eq!(status, StatusCode::NOT_FOUND, "{named}"),
        }
    }
    let (status, deployed) = send(rig.post("/v1/deployments/meta/llama/predictions", &input())).await;
    assert_eq!((status, &deployed["deployment"]), (StatusCode::CREATED, &json!("meta/llama")));
    let (status, missing) = send(rig.post("/v1/models/meta/other/predictions", &input())).await;
    assert_eq!((status, missing["detail"].is_string()), (StatusCode::NOT_FOUND, true));
    let (status, _) = send(rig.get("/v1/predictions/gm3qorzdhgbfurvjtvhg6dckhu")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_deadline_aborts_what_still_waits() {
    let settings = ReplicateSettings { time_scale: 0.001, ..ReplicateSettings::default() };
    let rig = platform(SimulatedModel { slots: 1, cold_start_ms: 3_600_000, ..model() }, settings).await;
    let (_, waiting) = send(rig.post(CREATE, &input()).header("cancel-after", "5s")).await;
    assert!(waiting["deadline"].is_string());
    assert_eq!(ended(&rig, &waiting).await["status"], "aborted");
    assert_eq!((rig.simulator.bill().lines.len(), rig.simulator.stats().left_queue), (0, 1));
    let (status, _) = send(rig.post(CREATE, &input()).header("cancel-after", "4s")).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
}

#[tokio::test]
async fn a_cancel_is_answered_at_once_and_takes_effect_later() {
    let rig = plain(endless()).await;
    let (_, created) = send(rig.post(CREATE, &input())).await;
    rig.until(|stats| stats.running == 1).await;
    let cancel = created["urls"]["cancel"].as_str().unwrap();
    let (status, asked) = send(rig.client.post(cancel)).await;
    assert_eq!((status, &asked["status"]), (StatusCode::OK, &json!("processing")));
    assert_eq!(ended(&rig, &created).await["status"], "canceled");
    let (status, again) = send(rig.client.post(cancel)).await;
    assert_eq!((status, &again["status"]), (StatusCode::OK, &json!("canceled")));
    let (status, _) = send(rig.post("/v1/predictions/nothing/cancel", &json!({}))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn the_list_is_walked_by_its_own_urls() {
    let rig = plain(model()).await;
    for _ in 0..103 {
        send(rig.post(CREATE, &input())).await;
    }
    let first = rig.get_json("/v1/predictions?created_after=2020-01-01T00:00:00Z").await;
    assert_eq!((first["results"].as_array().unwrap().len(), &first["previous"]), (100, &json!(null)));
    let next = first["next"].as_str().unwrap();
    assert!(next.contains("&created_after=2020-01-01T00:00:00Z"), "{next}");
    let (_, second) = send(rig.client.get(next)).await;
    assert_eq!((second["results"].as_array().unwrap().len(), &second["next"]), (3, &json!(null)));
    let (_, back) = send(rig.client.get(second["previous"].as_str().unwrap())).await;
    assert_eq!(back["results"][0]["id"], first["results"][0]["id"]);
    for none in ["source=web", "created_before=2020-01-01T00:00:00%2B02:00"] {
        assert_eq!(rig.get_json(&format!("/v1/predictions?{none}")).await["results"], json!([]));
    }
    for odd in ["source=api", "cursor=x", "created_after=today"] {
        let (status, _) = send(rig.get(&format!("/v1/predictions?{odd}"))).await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{odd}");
    }
}

#[tokio::test]
async fn refusals_say_what_replicate_says() {
    let config = SimulatorConfig {
        api_key: Some("r8_1".to_owned()),
        ..SimulatorConfig::new("test", Kind::Replicate, vec![SimulatedModel::new("meta/llama")])
    };
    let (status, body) = send(start(config).await.get("/v1/account")).await;
    assert_eq!(
        (status, &body["title"], &body["status"]),
        (StatusCode::UNAUTHORIZED, &json!("Unauthenticated"), &json!(401))
    );

    let settings = ReplicateSettings { no_credit: true, ..ReplicateSettings::default() };
    let (status, body) = send(platform(model(), settings).await.post(CREATE, &input())).await;
    assert_eq!((status, &body["status"]), (StatusCode::PAYMENT_REQUIRED, &json!(402)));

    let settings = ReplicateSettings {
        create_limit: 1,
        other_limit: 1,
        retry_after: true,
        ..ReplicateSettings::default()
    };
    let rig = platform(model(), settings).await;
    let (status, body) = send(rig.post(CREATE, &json!({ "input": { "promt": "hi" } }))).await;
    assert_eq!((status, body["detail"].is_string()), (StatusCode::UNPROCESSABLE_ENTITY, true));
    let throttled = rig.post(CREATE, &input()).send().await.unwrap();
    assert_eq!(throttled.status(), StatusCode::TOO_MANY_REQUESTS);
    let seconds = throttled.headers()["retry-after"].to_str().unwrap().to_owned();
    let expected = format!("Request was throttled. Your rate limit resets in ~{seconds}s.");
    assert_eq!(throttled.json::<Value>().await.unwrap()["detail"], expected);
    assert_eq!(send(rig.get("/v1/hardware")).await.1, json!([{ "name": "T4", "sku": "T4" }]));
    assert_eq!(send(rig.get("/v1/account")).await.0, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(rig.simulator.stats().refused, 3);
}

/// Name and data of each event.
async fn events(rig: &Rig, created: &Value) -> Vec<(String, String)> {
    let stream = rig.client.get(created["urls"]["stream"].as_str().unwrap());
    let text = stream.header("accept", "text/event-stream").send().await.unwrap().text().await.unwrap();
    let event = |event: &str| {
        let field = |name: &str| {
            let fields = event.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
            fields.collect::<Vec<_>>().join("\n")
        };
        (field("event"), field("data"))
    };
    text.split_terminator("\n\n").map(event).collect()
}

#[tokio::test]
async fn a_stream_tells_every_piece_and_how_it_ended() {
    let rig = plain(model()).await;
    let (_, created) = send(rig.post(CREATE, &input())).await;
    let mut live = events(&rig, &created).await;
    assert_eq!(live, events(&rig, &created).await, "who comes late misses nothing");
    assert_eq!(live.pop().unwrap(), ("done".to_owned(), "{}".to_owned()));
    let pieces: Vec<_> = live.into_iter().map(|(_, data)| data).collect();
    assert_eq!(json!(pieces), ended(&rig, &created).await["output"]);

    rig.set_fault(json!({ "kind": "error_frame", "after_tokens": 1, "count": 1 })).await;
    let (_, created) = send(rig.post(CREATE, &input())).await;
    let told = events(&rig, &created).await;
    let detail = r#"{"detail":"Prediction failed: EngineCore encountered an issue."}"#;
    assert_eq!(told[1], ("error".to_owned(), detail.to_owned()));
    assert_eq!(told[2], ("done".to_owned(), r#"{"reason":"error"}"#.to_owned()));

    let rig =
        platform(model(), ReplicateSettings { stream_cut_after: Some(2), ..ReplicateSettings::default() })
            .await;
    let (_, created) = send(rig.post(CREATE, &input())).await;
    assert!(events(&rig, &created).await.iter().map(|(name, _)| name).eq(["output", "output"]));
}

#[tokio::test]
async fn a_late_reader_of_a_long_stream_gets_the_newest_events() {
    let long = SimulatedModel { output_tokens_min: 1_500, output_tokens_max: 1_500, ..model() };
    let rig = plain(long).await;
    let body = json!({ "input": { "prompt": "why?" } });
    let (_, created) = send(rig.post(CREATE, &body).header("prefer", "wait")).await;
    let told = events(&rig, &created).await;
    assert_eq!(told.len(), 1_024 + 1);
    assert_eq!(json!(told[0].1), created["output"][1_500 - 1_024]);
}

#[tokio::test]
async fn a_spoiled_create_has_made_a_prediction_all_the_same() {
    let rig = plain(model()).await;
    for kind in [
        json!({ "kind": "reset_mid_stream", "after_tokens": 0, "count": 1 }),
        json!({ "kind": "truncated_body", "count": 1 }),
        json!({ "kind": "garbage_json", "count": 1 }),
        json!({ "kind": "silent_end", "after_tokens": 0, "count": 1 }),
    ] {
        rig.set_fault(kind).await;
        let spoiled = match rig.post(CREATE, &input()).header("prefer", "wait").send().await {
            Ok(response) => response.json::<Value>().await.is_err(),
            Err(_) => true,
        };
        assert!(spoiled);
    }
    rig.until(|stats| stats.finished == 4).await;
    let listed = rig.get_json("/v1/predictions").await;
    let last = ended(&rig, &listed["results"][0]).await;
    assert_eq!((listed["results"].as_array().unwrap().len(), &last["status"]), (4, &json!("succeeded")));

    rig.set_fault(json!({ "kind": "status", "code": 429, "count": 2 })).await;
    let (status, body) = send(rig.get("/v1/predictions")).await;
    assert_eq!((status, &body["detail"]), (StatusCode::TOO_MANY_REQUESTS, &json!("Request was throttled.")));
    assert_eq!(send(rig.post(CREATE, &input())).await.0, StatusCode::TOO_MANY_REQUESTS);
}

/// Takes one webhook, answers it with `status`, and gives its head and its body.
async fn take(listener: &TcpListener, status: u16) -> (String, String) {
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut text = String::new();
    loop {
        if let Some((head, body)) = text.split_once("\r\n\r\n")
            && body.len().to_string() == header(head, "content-length")
        {
            let taken = (head.to_owned(), body.to_owned());
            stream
                .write_all(format!("HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").as_bytes())
                .await
                .unwrap();
            return taken;
        }
        let mut part = [0; 4_096];
        let read = stream.read(&mut part).await.unwrap();
        assert!(read > 0, "the webhook breaks off: {text}");
        text.push_str(std::str::from_utf8(&part[..read]).unwrap());
    }
}

fn header(head: &str, name: &str) -> String {
    let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    found.unwrap().to_owned()
}

#[tokio::test]
async fn webhooks_are_signed_repeated_until_taken_and_doubled_on_demand() {
    let settings =
        ReplicateSettings { time_scale: 0.001, webhook_duplicates: true, ..ReplicateSettings::default() };
    let rig = platform(model(), settings).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut body = input();
    body["webhook"] = json!(format!("http://{}/hook?a=b", listener.local_addr().unwrap()));
    body["webhook_events_filter"] = json!(["start", "completed"]);
    let (_, created) = send(rig.post(CREATE, &body)).await;
    let secret = rig.get_json("/v1/webhooks/default/secret").await;
    let key = STANDARD.decode(secret["key"].as_str().unwrap().strip_prefix("whsec_").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);

    let mut ids = Vec::new();
    // Nobody takes the first two tries of `completed`; each webhook comes twice.
    for (answer, status) in [
        (500, "processing"),
        (200, "processing"),
        (500, ""),
        (500, ""),
        (302, ""),
        (404, ""),
        (200, ""),
        (200, ""),
    ] {
        let (head, body) = take(&listener, answer).await;
        assert!(head.starts_with("POST /hook?a=b HTTP/1.1\r\n"), "{head}");
        let (id, timestamp) = (header(&head, "webhook-id"), header(&head, "webhook-timestamp"));
        let signature =
            STANDARD.decode(header(&head, "webhook-signature").strip_prefix("v1,").unwrap()).unwrap();
        hmac::verify(&key, format!("{id}.{timestamp}.{body}").as_bytes(), &signature).unwrap();
        let told: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(told["id"], created["id"]);
        assert_eq!(told["status"], if status.is_empty() { "succeeded" } else { status });
        ids.push(id);
    }
    assert!(ids[..2].iter().all(|id| *id == ids[0]) && ids[2..].iter().all(|id| *id == ids[2]));
    assert_ne!(ids[0], ids[2]);
}
