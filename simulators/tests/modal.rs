//! Modal: its edge, the three modes of Beacon's app, its containers and its bill.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

mod support;

use reqwest::{Response, StatusCode};
use serde_json::{Value, json};
use simulators::{BillKind, Kind, ModalSettings, SimulatedModel, SimulatorConfig};
use support::{Rig, endless, job_body, listen, model, serve, start};

async fn app(model: SimulatedModel, modal: ModalSettings) -> Rig {
    start(SimulatorConfig { modal, ..SimulatorConfig::new("test", Kind::Modal, vec![model]) }).await
}

async fn submit(rig: &Rig, id: &str) -> (StatusCode, Value) {
    let response = rig.post("/v1/jobs", &job_body(id)).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// What a caller computes from the seconds it is told.
fn micros(seconds: &Value) -> u64 {
    let micros = (seconds.as_f64().unwrap() * 1e6).round();
    format!("{micros:.0}").parse().unwrap()
}

fn cost(micros: u64) -> u64 {
    (micros * 164_000).div_ceil(1_000_000)
}

fn location(response: &Response) -> String {
    response.headers()["location"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn the_edge_refuses_bad_credentials_in_plain_text_on_every_route() {
    let config = SimulatorConfig {
        api_key: Some("wk-1:ws-1".to_owned()),
        ..SimulatorConfig::new("test", Kind::Modal, vec![model()])
    };
    let rig = start(config).await;
    for path in ["/health", "/billing", "/v1/models", "/v1/jobs/fc-1"] {
        let refused = rig.get(path).header("modal-key", "wk-1").send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{path}");
        let text = refused.text().await.unwrap();
        assert_eq!(text, "modal-http: missing credentials for proxy authorization");
    }
    let chat = rig.chat(true).header("modal-key", "wk-1").header("modal-secret", "ws-1");
    assert!(listen(chat.send().await.unwrap()).await.done);
    let lines = rig.simulator.bill().lines;
    assert_eq!(lines.iter().filter(|line| line.kind == BillKind::Run).count(), 1);
}

#[tokio::test]
async fn a_caller_can_compute_the_bill_to_the_nano_dollar() {
    let rig = serve(Kind::Modal, SimulatedModel { slots: 2, cold_start_ms: 3, ..model() }).await;
    let mut owed = 0;
    for n in 0..20 {
        let chat = rig.chat(true).header("x-request-id", format!("job-{n}"));
        let heard = listen(chat.send().await.unwrap()).await;
        let billing = heard.billing.expect("the app tells before [DONE]");
        assert_eq!((&billing["gpu"], &billing["region"]), (&json!("T4"), &json!("us-east")));
        assert_eq!(billing["cold_start_s"].is_number(), n == 0, "only the first input of a container");
        if n == 0 {
            owed += cost(micros(&billing["cold_start_s"]));
        }
        owed += cost(micros(&billing["execution_s"]));
    }
    for n in 0..20 {
        let (_, submitted) = submit(&rig, &format!("spawned-{n}")).await;
        let result = rig.job_result(submitted["call_id"].as_str().unwrap()).await;
        if result["billing"]["cold_start_s"].is_number() {
            owed += cost(micros(&result["billing"]["cold_start_s"]));
        }
        owed += cost(micros(&result["billing"]["execution_s"]));
    }
    let (usage, bill) = (rig.get_json("/billing").await, rig.simulator.bill());
    owed += cost(usage["items"][0]["idle_us"].as_u64().unwrap());
    assert_eq!(bill.total_nanos, owed);
    assert!(bill.lines.iter().filter(|line| line.kind == BillKind::Run).all(|line| line.completed));
}

#[tokio::test]
async fn idle_time_is_billed_when_the_container_scales_down() {
    let modal = ModalSettings { scaledown_window_ms: 5, ..ModalSettings::default() };
    let rig = app(model(), modal).await;
    listen(rig.chat(true).send().await.unwrap()).await;
    while rig.get_json("/health").await["containers"] != 0 {}
    let usage = rig.get_json("/billing").await;
    assert_eq!((&usage["items"][0]["idle_us"], &usage["items"][0]["idle_spans"]), (&json!(5_000), &json!(1)));
    let bill = rig.simulator.bill();
    let idle = bill.lines.last().unwrap();
    assert_eq!((idle.kind, &idle.run, idle.amount_nanos), (BillKind::Idle, &None, 820));
}

#[tokio::test]
async fn health_starts_no_container() {
    let rig = serve(Kind::Modal, model()).await;
    let expected = json!({
        "status": "ok",
        "model": "llama",
        "models": ["llama"],
        "region": "us-east",
        "containers": 0,
        "contract": 1,
    });
    assert_eq!(rig.get_json("/health").await, expected);
    assert!(rig.simulator.bill().lines.is_empty());
}

#[tokio::test]
async fn a_job_submitted_twice_runs_once() {
    let rig = serve(Kind::Modal, model()).await;
    let (first, created) = submit(&rig, "job:1").await;
    let (second, known) = submit(&rig, "job:1").await;
    assert_eq!((first, second), (StatusCode::ACCEPTED, StatusCode::OK));
    assert_eq!((&created["created"], &known["created"]), (&json!(true), &json!(false)));
    assert_eq!(created["call_id"], known["call_id"]);
    let result = rig.job_result(created["call_id"].as_str().unwrap()).await;
    assert_eq!(result["status"], "succeeded");
    assert!(result["output"].as_str().unwrap().starts_with("[simulated] "));
    let lines = rig.simulator.bill().lines;
    let runs: Vec<_> = lines.iter().filter(|line| line.kind == BillKind::Run).collect();
    assert_eq!((runs.len(), runs[0].run.as_deref()), (1, Some("job:1")));
}

#[tokio::test]
async fn a_cancelled_job_costs_what_it_used() {
    let rig = serve(Kind::Modal, SimulatedModel { slots: 1, ..endless() }).await;
    let (_, running) = submit(&rig, "job:1").await;
    let (_, queued) = submit(&rig, "job:2").await;
    rig.until(|stats| stats.running == 1 && stats.queued == 1).await;
    let mut billed = Vec::new();
    for call in [&queued, &running] {
        let path = format!("/v1/jobs/{}", call["call_id"].as_str().unwrap());
        assert_eq!(rig.get_json(&path).await["status"], "pending");
        let cancel = rig.client.delete(format!("{}{path}", rig.simulator.url())).send().await.unwrap();
        assert_eq!(cancel.status(), StatusCode::ACCEPTED);
        let result = rig.job_result(call["call_id"].as_str().unwrap()).await;
        assert_eq!(result["status"], "cancelled");
        billed.push(micros(&result["billing"]["execution_s"]));
    }
    let lines = rig.simulator.bill().lines;
    let runs: Vec<_> = lines.iter().filter(|line| line.kind == BillKind::Run).collect();
    assert_eq!((runs.len(), runs[0].billed_micros, runs[0].completed), (1, billed[1], false));
    assert_eq!(billed[0], 0);
}

#[tokio::test]
async fn results_expire_and_unknown_calls_are_not_found() {
    let modal = ModalSettings { result_ttl_ms: 0, ..ModalSettings::default() };
    let rig = app(model(), modal).await;
    let (_, submitted) = submit(&rig, "job:1").await;
    rig.until(|stats| stats.finished == 1).await;
    let call = submitted["call_id"].as_str().unwrap();
    assert_eq!(rig.job_result(call).await, json!({ "detail": "the result has expired" }));
    assert_eq!(rig.get("/v1/jobs/fc-none").send().await.unwrap().status(), StatusCode::NOT_FOUND);
    let lost = rig.get("/v1/run?__modal_function_call_id=fc-none").send().await.unwrap();
    assert_eq!(lost.status(), StatusCode::NOT_FOUND);
    assert!(lost.text().await.unwrap().starts_with("modal-http:"));
}

#[tokio::test]
async fn wait_answers_directly_when_the_run_is_short() {
    let rig = serve(Kind::Modal, model()).await;
    let result = rig.post("/v1/run", &job_body("job:1")).send().await.unwrap();
    assert_eq!(result.status(), StatusCode::OK);
    let result: Value = result.json().await.unwrap();
    assert_eq!(result["status"], "succeeded");
    assert!(result["billing"]["execution_s"].is_number());
}

#[tokio::test]
async fn a_long_wait_goes_on_by_redirect_and_can_be_fetched_again_and_again() {
    let modal = ModalSettings { hold_limit_ms: 0, ..ModalSettings::default() };
    let rig = app(model(), modal).await;
    let held = rig.post("/v1/run", &job_body("job:1")).send().await.unwrap();
    assert_eq!(held.status(), StatusCode::SEE_OTHER);
    let url = location(&held);
    assert!(
        url.starts_with(&format!("{}/v1/run?__modal_function_call_id=fc-", rig.simulator.url())),
        "{url}"
    );
    let mut results = Vec::new();
    while results.len() < 3 {
        let fetched = rig.client.get(&url).send().await.unwrap();
        match fetched.status() {
            StatusCode::SEE_OTHER => assert_eq!(location(&fetched), url),
            status => {
                assert_eq!(status, StatusCode::OK);
                results.push(fetched.text().await.unwrap());
            }
        }
    }
    assert!(results.iter().all(|result| result == &results[0]));
    assert_eq!(rig.simulator.stats().started, 1, "fetching starts no new run");
}

/// Begins a `wait` call and leaves once it runs.
async fn wait_and_leave(rig: &Rig) {
    let waiting = rig.post("/v1/run", &job_body("job:1")).send();
    tokio::select! {
        answer = waiting => panic!("answered: {answer:?}"),
        _ = rig.until(|stats| stats.running == 1) => {}
    }
}

#[tokio::test]
async fn a_wait_run_outlives_its_caller() {
    let rig = serve(Kind::Modal, SimulatedModel { service_ms_p50: 100, ..model() }).await;
    wait_and_leave(&rig).await;
    let stats = rig.until(|stats| stats.running == 0).await;
    assert_eq!((stats.finished, stats.aborted), (1, 0));
}

#[tokio::test]
async fn a_wait_run_ends_with_its_caller_when_so_configured() {
    let modal = ModalSettings { cancel_on_disconnect: true, ..ModalSettings::default() };
    let rig = app(endless(), modal).await;
    wait_and_leave(&rig).await;
    let stats = rig.until(|stats| stats.running == 0).await;
    assert_eq!((stats.finished, stats.aborted), (0, 1));
}

#[tokio::test]
async fn faults_of_the_run_show_in_its_result() {
    let rig = serve(Kind::Modal, model()).await;
    for (fault, class) in [("oom", "out_of_memory"), ("container_dies", "provider_down")] {
        rig.set_fault(json!({ "kind": fault, "count": 1 })).await;
        let (_, submitted) = submit(&rig, fault).await;
        let result = rig.job_result(submitted["call_id"].as_str().unwrap()).await;
        assert_eq!((&result["status"], &result["error"]["class"]), (&json!("failed"), &json!(class)));
        assert_eq!(result["billing"].is_object(), fault == "oom", "a dead container tells nothing");
    }
    rig.set_fault(json!({ "kind": "container_dies" })).await;
    for request in [rig.post("/v1/run", &job_body("waited")), rig.chat(true)] {
        let died = request.send().await.unwrap();
        assert_eq!(died.status(), StatusCode::BAD_GATEWAY);
        assert!(died.text().await.unwrap().starts_with("modal-http:"));
    }
    let lines = rig.simulator.bill().lines;
    let runs: Vec<_> = lines.iter().filter(|line| line.kind == BillKind::Run).collect();
    assert_eq!(runs.len(), 4);
    assert!(runs.iter().all(|line| !line.completed));
}

#[tokio::test]
async fn a_submission_whose_answer_is_lost_can_be_repeated() {
    for fault in ["reset_mid_stream", "truncated_body", "garbage_json", "silent_end"] {
        let rig = serve(Kind::Modal, model()).await;
        let mut wanted = json!({ "kind": fault, "count": 1 });
        if fault == "reset_mid_stream" || fault == "silent_end" {
            wanted["after_tokens"] = json!(0);
        }
        rig.set_fault(wanted).await;
        let lost = async { rig.post("/v1/jobs", &job_body("job:1")).send().await?.json::<Value>().await };
        assert!(lost.await.is_err(), "{fault}");
        let (status, known) = submit(&rig, "job:1").await;
        assert_eq!((status, &known["created"]), (StatusCode::OK, &json!(false)), "{fault}");
        let result = rig.job_result(known["call_id"].as_str().unwrap()).await;
        assert_eq!(result["status"], "succeeded");
    }
}

#[tokio::test]
async fn polls_can_be_struck_at_the_edge_in_plain_text() {
    let rig = serve(Kind::Modal, model()).await;
    let (_, submitted) = submit(&rig, "job:1").await;
    let path = format!("/v1/jobs/{}", submitted["call_id"].as_str().unwrap());
    for code in [404, 429, 500, 502, 503] {
        rig.set_fault(json!({ "kind": "status", "code": code, "count": 1 })).await;
        let struck = rig.get(&path).send().await.unwrap();
        assert_eq!(struck.status(), code);
        assert!(struck.text().await.unwrap().starts_with("modal-http:"));
    }
    assert_eq!(rig.job_result(submitted["call_id"].as_str().unwrap()).await["status"], "succeeded");
}

#[tokio::test]
async fn an_unusable_job_is_the_apps_error_in_json() {
    let rig = serve(Kind::Modal, model()).await;
    let no_model = json!({ "id": "j", "messages": [{ "role": "user", "content": "hi" }] });
    let refused = rig.post("/v1/jobs", &no_model).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNPROCESSABLE_ENTITY);
    assert!(refused.json::<Value>().await.unwrap()["detail"].is_array());
    let mut other = job_body("j");
    other["model"] = json!("gpt");
    assert_eq!(rig.post("/v1/run", &other).send().await.unwrap().status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_job_that_passes_its_own_time_limit_fails_and_is_billed() {
    let rig = serve(Kind::Modal, endless()).await;
    let mut body = job_body("job:1");
    body["timeout_s"] = json!(0.002);
    let result: Value = rig.post("/v1/run", &body).send().await.unwrap().json().await.unwrap();
    assert_eq!((&result["status"], &result["error"]["class"]), (&json!("failed"), &json!("timeout")));
    let lines = rig.simulator.bill().lines;
    let run = lines.iter().find(|line| line.kind == BillKind::Run).unwrap();
    assert_eq!(run.billed_micros, micros(&result["billing"]["execution_s"]));
}

async fn keep_warm(rig: &Rig, order: Value) -> (StatusCode, Value) {
    let url = format!("{}/v1/warm", rig.simulator.url());
    let response = rig.client.put(url).json(&order).send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

#[tokio::test]
async fn containers_are_kept_on_order_and_their_start_is_on_no_runs_bill() {
    let modal = ModalSettings { scaledown_window_ms: 0, ..ModalSettings::default() };
    let rig = app(SimulatedModel { cold_start_ms: 5, ..model() }, modal).await;
    for order in [json!({ "model": "llama", "containers": 2 }), json!({ "model": "llama", "containers": 2 })]
    {
        assert_eq!(keep_warm(&rig, order.clone()).await, (StatusCode::OK, order));
    }
    assert_eq!(rig.get_json("/health").await["containers"], 2);
    let (_, submitted) = submit(&rig, "job:1").await;
    let result = rig.job_result(submitted["call_id"].as_str().unwrap()).await;
    assert_eq!(result["billing"]["cold_start_s"], Value::Null, "it started ahead: {result}");
    let let_go = json!({ "model": "llama", "containers": 0 });
    assert_eq!(keep_warm(&rig, let_go).await.0, StatusCode::OK);
    // One may still be starting.
    while rig.get_json("/health").await["containers"] != 0 {}
    let (usage, bill) = (rig.get_json("/billing").await, rig.simulator.bill());
    let used = &usage["items"][0];
    assert_eq!((&used["warm_start_us"], &used["startup_us"]), (&json!(10_000), &json!(0)));
    let parts = ["warm_start_us", "idle_us", "execution_us"];
    let owed: u64 = parts.iter().map(|part| cost(used[part].as_u64().unwrap())).sum();
    assert_eq!(bill.total_nanos, owed);
    let starts: Vec<_> = bill.lines.iter().filter(|line| line.kind == BillKind::WarmStart).collect();
    assert_eq!((starts.len(), &starts[0].run, starts[0].billed_micros), (1, &None, 10_000));
}

#[tokio::test]
async fn an_order_that_is_not_repeated_lapses() {
    let modal = ModalSettings { scaledown_window_ms: 0, warm_lease_ms: 50, ..ModalSettings::default() };
    let rig = app(model(), modal).await;
    keep_warm(&rig, json!({ "model": "llama", "containers": 3 })).await;
    assert_eq!(rig.get_json("/health").await["containers"], 3);
    while rig.get_json("/health").await["containers"] != 0 {}
    let idle = rig.simulator.bill().lines.pop().unwrap();
    assert_eq!((idle.kind, idle.billed_micros), (BillKind::Idle, 150_000));
}

#[tokio::test]
async fn an_order_that_cannot_be_kept_is_refused_and_starts_nothing() {
    let rig = serve(Kind::Modal, SimulatedModel { slots: 2, ..model() }).await;
    for (order, status) in [
        (json!({ "model": "gpt", "containers": 1 }), StatusCode::NOT_FOUND),
        (json!({ "model": "llama", "containers": 3 }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "model": "llama", "containers": -1 }), StatusCode::UNPROCESSABLE_ENTITY),
        (json!({ "model": "llama" }), StatusCode::UNPROCESSABLE_ENTITY),
    ] {
        let (answered, body) = keep_warm(&rig, order.clone()).await;
        assert_eq!(answered, status, "{order}");
        assert!(!body["detail"].is_null(), "{body}");
    }
    assert_eq!(rig.get_json("/health").await["containers"], 0);
    rig.set_fault(json!({ "kind": "status", "code": 503, "count": 1 })).await;
    let url = format!("{}/v1/warm", rig.simulator.url());
    let struck =
        rig.client.put(url).json(&json!({ "model": "llama", "containers": 1 })).send().await.unwrap();
    assert_eq!(struck.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(struck.text().await.unwrap().starts_with("modal-http:"));
}
