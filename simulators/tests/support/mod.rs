//! Starts simulators and talks to them. Each test file uses its own part of this.
#![allow(dead_code, reason = "compiled once for each test file, and none uses all of it")]

use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use simulators::{Kind, SimulatedModel, Simulator, SimulatorConfig, Stats};
use tokio_util::sync::CancellationToken;

/// No test waits this long; it only keeps a broken one from hanging for ever.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running simulator, a client, and the token that stops it.
pub(crate) struct Rig {
    pub(crate) simulator: Simulator,
    pub(crate) client: Client,
    pub(crate) shutdown: CancellationToken,
}

pub(crate) fn client() -> Client {
    // Another test of the process may have installed it already: that is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = Client::builder().redirect(reqwest::redirect::Policy::none());
    builder.no_proxy().timeout(PATIENCE).build().expect("a plain client can be built")
}

/// A quick model that costs something.
pub(crate) fn model() -> SimulatedModel {
    SimulatedModel {
        service_ms_p50: 2,
        sku: "T4".to_owned(),
        price_per_second_nanos: 164_000,
        price_per_inference_nanos: 100_000,
        ..SimulatedModel::new("llama")
    }
}

/// A model that does not end within a test.
pub(crate) fn endless() -> SimulatedModel {
    SimulatedModel { service_ms_p50: 3_600_000, ..model() }
}

pub(crate) async fn start(config: SimulatorConfig) -> Rig {
    let shutdown = CancellationToken::new();
    let simulator = simulators::start(config, shutdown.clone()).await.expect("a local port is free");
    Rig { simulator, client: client(), shutdown }
}

pub(crate) async fn serve(kind: Kind, model: SimulatedModel) -> Rig {
    start(SimulatorConfig::new("test", kind, vec![model])).await
}

pub(crate) fn chat_body(stream: bool) -> Value {
    let messages = json!([{ "role": "user", "content": "why is the sky blue?" }]);
    let mut body = json!({ "model": "llama", "messages": messages, "max_tokens": 64, "stream": stream });
    if stream {
        body["stream_options"] = json!({ "include_usage": true });
    }
    body
}

pub(crate) fn job_body(id: &str) -> Value {
    let messages = json!([{ "role": "user", "content": "why is the sky blue?" }]);
    json!({ "id": id, "model": "llama", "messages": messages, "params": { "max_tokens": 64 }, "timeout_s": 600 })
}

impl Rig {
    pub(crate) fn get(&self, path: &str) -> RequestBuilder {
        self.client.get(format!("{}{path}", self.simulator.url()))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> RequestBuilder {
        self.client.post(format!("{}{path}", self.simulator.url())).json(body)
    }

    pub(crate) fn chat(&self, stream: bool) -> RequestBuilder {
        self.post("/v1/chat/completions", &chat_body(stream))
    }

    pub(crate) async fn get_json(&self, path: &str) -> Value {
        self.get(path).send().await.unwrap().json().await.unwrap()
    }

    pub(crate) async fn set_fault(&self, fault: Value) {
        let response = self.post("/_sim/fault", &fault).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT, "{fault}");
    }

    /// Asks for the stats, over the wire, until they are as expected.
    pub(crate) async fn until(&self, fine: impl Fn(Stats) -> bool) -> Stats {
        let asking = async {
            loop {
                let stats: Stats = serde_json::from_value(self.get_json("/_sim/stats").await).unwrap();
                if fine(stats) {
                    return stats;
                }
            }
        };
        let patience = tokio::time::timeout(PATIENCE, asking).await;
        patience.unwrap_or_else(|_| panic!("never came: {:?}", self.simulator.stats()))
    }

    /// Polls a job until it is no longer pending.
    pub(crate) async fn job_result(&self, call: &str) -> Value {
        let polling = async {
            loop {
                let response = self.get(&format!("/v1/jobs/{call}")).send().await.unwrap();
                if response.status() != StatusCode::ACCEPTED {
                    return response.json().await.unwrap();
                }
            }
        };
        tokio::time::timeout(PATIENCE, polling).await.expect("the job ends")
    }
}

/// A stream, taken apart.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    pub(crate) text: String,
    pub(crate) chunks: u32,
    pub(crate) finish: Option<String>,
    pub(crate) usage: Option<Value>,
    pub(crate) error: Option<Value>,
    pub(crate) billing: Option<Value>,
    pub(crate) garbage: bool,
    pub(crate) done: bool,
    /// Whether the connection broke before the end of the body.
    pub(crate) broken: bool,
}

pub(crate) async fn listen(mut response: Response) -> Heard {
    assert_eq!(response.status(), StatusCode::OK);
    let mut bytes = Vec::new();
    let mut heard = Heard::default();
    loop {
        match response.chunk().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => break,
            Err(_) => {
                heard.broken = true;
                break;
            }
        }
    }
    for line in String::from_utf8(bytes).unwrap().lines() {
        if let Some(comment) = line.strip_prefix(": beacon-billing ") {
            heard.billing = Some(serde_json::from_str(comment).unwrap());
        }
        match line.strip_prefix("data: ") {
            Some("[DONE]") => heard.done = true,
            Some(data) => heard.take(data),
            None => {}
        }
    }
    heard
}

impl Heard {
    fn take(&mut self, data: &str) {
        let Ok(chunk) = serde_json::from_str::<Value>(data) else {
            self.garbage = true;
            return;
        };
        if chunk["error"].is_object() {
            self.error = Some(chunk["error"].clone());
        }
        if chunk["usage"].is_object() {
            assert_eq!(chunk["choices"], json!([]));
            self.usage = Some(chunk["usage"].clone());
        }
        let choice = &chunk["choices"][0];
        let piece = choice["delta"]["content"].as_str().or(choice["text"].as_str()).unwrap_or("");
        if !piece.is_empty() {
            self.chunks += 1;
            self.text.push_str(piece);
        }
        if let Some(finish) = choice["finish_reason"].as_str() {
            self.finish = Some(finish.to_owned());
        }
    }
}
