//! The OpenAI wire in vLLM's dialect, and what a rented server and Golem bill for it.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

mod support;

use reqwest::StatusCode;
use serde_json::{Value, json};
use simulators::{BillKind, Kind, SimulatedModel, SimulatorConfig};
use support::{chat_body, endless, listen, model, serve, start};

#[tokio::test]
async fn a_stream_has_a_finish_the_true_usage_and_done() {
    let rig = serve(Kind::OpenAi, model()).await;
    let heard = listen(rig.chat(true).send().await.unwrap()).await;
    assert!(heard.text.starts_with("[simulated] "), "{}", heard.text);
    assert_eq!((heard.finish.as_deref(), heard.done, heard.broken), (Some("stop"), true, false));
    let usage = heard.usage.unwrap();
    assert_eq!(usage["completion_tokens"], heard.chunks);
    assert_eq!(usage["prompt_tokens"], 9);
    assert_eq!(usage["total_tokens"], heard.chunks + 9);
    assert!(heard.billing.is_none(), "only Modal tells");
}

#[tokio::test]
async fn streaming_or_not_the_text_is_the_same() {
    let rig = serve(Kind::Golem, model()).await;
    let heard = listen(rig.chat(true).send().await.unwrap()).await;
    let response = rig.chat(false).header("x-request-id", "job-1").send().await.unwrap();
    let whole: Value = response.json().await.unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], heard.text);
    assert_eq!(whole["choices"][0]["finish_reason"], "stop");
    assert_eq!(whole["usage"], heard.usage.unwrap());
    assert_eq!(whole["id"], "chatcmpl-job-1");
    assert_eq!(whole["object"], "chat.completion");
}

#[tokio::test]
async fn a_limit_on_tokens_cuts_the_answer_and_says_so() {
    let rig = serve(Kind::OpenAi, model()).await;
    let body = json!({ "model": "llama", "prompt": "once upon a time", "max_tokens": 3 });
    let answer: Value = rig.post("/v1/completions", &body).send().await.unwrap().json().await.unwrap();
    assert_eq!(answer["object"], "text_completion");
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 3);
    assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with("[simulated] "));
}

#[tokio::test]
async fn what_cannot_be_answered_is_refused_as_vllm_refuses_it() {
    let rig = serve(Kind::OpenAi, SimulatedModel { context_tokens: 70, ..model() }).await;
    let with = |key: &str, value: Value| {
        let mut body = chat_body(false);
        body[key] = value;
        body
    };
    let long = json!([{ "role": "user", "content": "word ".repeat(80) }]);
    let cases = [
        (with("model", json!("gpt")), StatusCode::NOT_FOUND, "NotFoundError"),
        (with("max_tokens", json!("many")), StatusCode::BAD_REQUEST, "BadRequestError"),
        (with("stream_options", json!({})), StatusCode::BAD_REQUEST, "BadRequestError"),
        (with("messages", long), StatusCode::BAD_REQUEST, "BadRequestError"),
    ];
    for (body, status, kind) in cases {
        let response = rig.post("/v1/chat/completions", &body).send().await.unwrap();
        assert_eq!(response.status(), status, "{body}");
        let error: Value = response.json().await.unwrap();
        assert_eq!(error["error"]["type"], kind);
        assert_eq!(error["error"]["code"], status.as_u16());
    }
    assert_eq!(rig.simulator.stats().refused, 4);
    assert!(rig.simulator.bill().lines.is_empty());
    let unknown = rig.get("/v2/none").send().await.unwrap();
    assert_eq!(unknown.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_guards_the_api_and_leaves_health_open() {
    let config = SimulatorConfig {
        api_key: Some("sk-1".to_owned()),
        ..SimulatorConfig::new("test", Kind::OpenAi, vec![model()])
    };
    let rig = start(config).await;
    let refused = rig.chat(false).bearer_auth("sk-2").send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(refused.text().await.unwrap(), r#"{"error":"Unauthorized"}"#);
    assert_eq!(rig.chat(false).bearer_auth("sk-1").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(rig.get("/health").send().await.unwrap().status(), StatusCode::OK);
    assert_eq!(rig.get_json("/_sim/bill").await["lines"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn golem_bills_each_admitted_inference_once_and_no_other() {
    let rig = serve(Kind::Golem, SimulatedModel { slots: 1, ..endless() }).await;
    let running = rig.chat(true).header("x-request-id", "a").send().await.unwrap();
    assert_eq!(running.status(), StatusCode::OK);
    assert_eq!(rig.simulator.bill().total_nanos, 100_000, "a caller who sees a 200 has been billed");

    let waiting = rig.chat(true).header("x-request-id", "b").send();
    tokio::select! {
        answer = waiting => panic!("the only slot is taken: {answer:?}"),
        _ = rig.until(|stats| stats.queued == 1) => {}
    }
    rig.until(|stats| stats.left_queue == 1).await;
    assert_eq!(rig.simulator.bill().lines.len(), 1, "whoever left the queue is not billed");

    drop(running);
    let stats = rig.until(|stats| stats.aborted == 1).await;
    assert_eq!((stats.running, stats.peak_running, stats.started), (0, 1, 1));
    let bill = rig.simulator.bill();
    assert_eq!((bill.total_nanos, bill.lines.len()), (100_000, 1));
    assert_eq!((bill.lines[0].run.as_deref(), bill.lines[0].completed), (Some("a"), false));
}

#[tokio::test]
async fn a_rented_server_bills_the_time_from_admission_to_the_end() {
    let rig = serve(Kind::OpenAi, model()).await;
    listen(rig.chat(true).header("x-request-id", "a").send().await.unwrap()).await;
    let bill = rig.simulator.bill();
    let [line] = &bill.lines[..] else { panic!("{bill:?}") };
    assert_eq!((line.kind, line.completed), (BillKind::Run, true));
    assert!(line.billed_micros >= 2_000);
    assert_eq!(line.amount_nanos, (line.billed_micros * 164_000).div_ceil(1_000_000));
}

#[tokio::test]
async fn models_and_metrics_are_vllms() {
    let rig = serve(Kind::OpenAi, endless()).await;
    let models = rig.get_json("/v1/models").await;
    assert_eq!(models["data"][0]["id"], "llama");
    assert_eq!(models["data"][0]["owned_by"], "vllm");
    let _running = rig.chat(true).send().await.unwrap();
    let page = rig.get("/metrics").send().await.unwrap().text().await.unwrap();
    assert!(page.contains("vllm:num_requests_running{engine=\"0\",model_name=\"llama\"} 1\n"), "{page}");
    assert!(page.contains("vllm:num_requests_waiting{engine=\"0\",model_name=\"llama\"} 0\n"), "{page}");
}

#[tokio::test]
async fn the_slots_bound_what_runs_at_once_and_everything_is_billed() {
    let rig = serve(Kind::Golem, SimulatedModel { slots: 3, ..model() }).await;
    let requests = (0..200).map(|n| async move {
        let text = format!("question {n}");
        let body = json!({ "model": "llama", "messages": [{ "role": "user", "content": text }] });
        body
    });
    let bodies = futures_util::future::join_all(requests).await;
    let answers = bodies.iter().map(|body| async {
        rig.post("/v1/chat/completions", body).send().await.unwrap().json::<Value>().await.unwrap()
    });
    let answers = futures_util::future::join_all(answers).await;
    assert!(answers.iter().all(|answer| answer["choices"][0]["finish_reason"] == "stop"));
    let (stats, bill) = (rig.simulator.stats(), rig.simulator.bill());
    assert_eq!((stats.finished, stats.aborted, stats.peak_running), (200, 0, 3));
    assert_eq!((bill.lines.len(), bill.total_nanos), (200, 200 * 100_000));
    let generated: u64 = answers.iter().map(|a| a["usage"]["completion_tokens"].as_u64().unwrap()).sum();
    assert_eq!(stats.generated_tokens, generated);
}

#[tokio::test]
async fn stopping_ends_every_request_and_the_listener() {
    let rig = serve(Kind::OpenAi, SimulatedModel { slots: 1, ..endless() }).await;
    let url = rig.simulator.url();
    let running = rig.chat(true).send().await.unwrap();
    rig.shutdown.cancel();
    rig.simulator.stopped().await;
    assert!(listen(running).await.broken);
    assert!(rig.client.get(url).send().await.unwrap_err().is_connect());
}
