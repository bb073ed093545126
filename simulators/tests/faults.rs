//! Each fault, as its caller sees it, and what it costs.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

mod support;

use reqwest::StatusCode;
use serde_json::{Value, json};
use simulators::{Fault, FaultKind, Kind};
use support::{Heard, Rig, endless, listen, model, serve};

async fn golem_with(fault: Value) -> Rig {
    let rig = serve(Kind::Golem, model()).await;
    rig.set_fault(fault).await;
    rig
}

async fn heard_with(fault: Value) -> (Heard, Rig) {
    let rig = golem_with(fault).await;
    let heard = listen(rig.chat(true).send().await.unwrap()).await;
    (heard, rig)
}

#[tokio::test]
async fn a_status_comes_with_its_body_its_delay_and_no_charge() {
    let rig = golem_with(json!({ "kind": "status", "code": 429, "retry_after_s": 7, "count": 1 })).await;
    let refused = rig.chat(true).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["retry-after"], "7");
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["code"], 429);
    assert!(rig.simulator.bill().lines.is_empty());
    let next = listen(rig.chat(true).send().await.unwrap()).await;
    assert!(next.done, "the fault has cleared itself");
    assert_eq!(rig.get_json("/_sim/fault").await, Value::Null);
}

#[tokio::test]
async fn a_refusing_server_closes_every_route_but_its_control() {
    let rig = golem_with(json!({ "kind": "refuse" })).await;
    assert!(rig.chat(true).send().await.is_err());
    assert!(rig.get("/health").send().await.is_err());
    assert_eq!(rig.get_json("/_sim/fault").await, json!({ "kind": "refuse", "rate": 1.0 }));
    assert_eq!(rig.simulator.bill().total_nanos, 0);
    rig.set_fault(Value::Null).await;
    assert_eq!(rig.get("/health").send().await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_hanging_server_admits_nobody() {
    let rig = golem_with(json!({ "kind": "hang", "count": 1 })).await;
    let hanging = rig.chat(true).send();
    tokio::select! {
        answer = hanging => panic!("answered: {answer:?}"),
        _ = rig.until(|stats| stats.refused == 1) => {}
    }
    assert_eq!(rig.simulator.stats().started, 0);
    assert_eq!(rig.simulator.bill().total_nanos, 0);
}

#[tokio::test]
async fn a_reset_breaks_the_connection_after_so_many_tokens() {
    let (heard, rig) = heard_with(json!({ "kind": "reset_mid_stream", "after_tokens": 3 })).await;
    assert!(heard.broken && !heard.done && heard.finish.is_none());
    assert_eq!(heard.chunks, 3);
    let bill = rig.simulator.bill();
    assert_eq!((bill.total_nanos, bill.lines[0].completed), (100_000, false));
    assert_eq!(rig.simulator.stats().aborted, 1);
}

#[tokio::test]
async fn an_error_frame_is_followed_by_done() {
    let (heard, _rig) = heard_with(json!({ "kind": "error_frame", "after_tokens": 2 })).await;
    assert_eq!(heard.error.unwrap()["code"], 500);
    assert!(heard.done && heard.finish.is_none() && heard.usage.is_none() && !heard.broken);
    assert_eq!(heard.chunks, 2);
}

#[tokio::test]
async fn a_silent_end_has_neither_finish_nor_done() {
    let (heard, _rig) = heard_with(json!({ "kind": "silent_end", "after_tokens": 2 })).await;
    assert!(!heard.done && heard.finish.is_none() && !heard.broken);
    assert_eq!(heard.chunks, 2);
}

#[tokio::test]
async fn garbage_is_billed_as_the_run_it_was() {
    let (heard, rig) = heard_with(json!({ "kind": "garbage_json", "count": 1 })).await;
    assert!(heard.garbage && heard.done);
    assert_eq!(rig.simulator.bill().total_nanos, 100_000);
    rig.set_fault(json!({ "kind": "garbage_json" })).await;
    assert!(rig.chat(false).send().await.unwrap().json::<Value>().await.is_err());
}

#[tokio::test]
async fn a_truncated_body_is_shorter_than_promised() {
    let rig = golem_with(json!({ "kind": "truncated_body" })).await;
    let response = rig.chat(false).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.bytes().await.is_err());
}

#[tokio::test]
async fn a_stall_keeps_the_slot_until_the_caller_leaves() {
    let rig = golem_with(json!({ "kind": "stall_mid_stream", "after_tokens": 1, "count": 1 })).await;
    let mut stalled = rig.chat(true).send().await.unwrap();
    let mut text = String::new();
    while !text.contains("[simulated]") {
        let chunk = stalled.chunk().await.unwrap().expect("one token comes");
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(rig.simulator.stats().running, 1);
    drop(stalled);
    rig.until(|stats| stats.aborted == 1 && stats.running == 0).await;
}

#[tokio::test]
async fn out_of_memory_says_so_and_costs_nothing() {
    let rig = golem_with(json!({ "kind": "oom" })).await;
    let failed = rig.chat(true).send().await.unwrap();
    assert_eq!(failed.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(failed.text().await.unwrap().contains("CUDA out of memory"));
    assert!(rig.simulator.bill().lines.is_empty());
}

#[tokio::test]
async fn a_fault_can_be_set_from_inside_and_makes_a_run_faster_too() {
    let rig = serve(Kind::OpenAi, endless()).await;
    rig.simulator.set_fault(Some(Fault::always(FaultKind::Slow { factor: 0.0 })));
    assert!(listen(rig.chat(true).send().await.unwrap()).await.done);
    rig.simulator.set_fault(None);
    assert_eq!(rig.simulator.fault(), None);
}

#[tokio::test]
async fn a_fault_that_makes_no_sense_changes_nothing() {
    let rig = golem_with(json!({ "kind": "hang" })).await;
    for wrong in [json!({ "kind": "status", "code": 200 }), json!({ "kind": "what" }), json!(3)] {
        let response = rig.post("/_sim/fault", &wrong).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST, "{wrong}");
    }
    assert_eq!(rig.simulator.fault(), Some(Fault::always(FaultKind::Hang)));
}
