//! Promise: the examples of `schemas/README.md` work as they stand, with a plain NATS client.

use std::time::Duration;

use async_nats::HeaderMap;
use futures_util::StreamExt;
use schemas::{Codec, cost::CostEvent, job::JobBody, reply::JobResult};
use serde_json::Value;
use tests::{
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};

const README: &str = include_str!("../../../schemas/README.md");
const ACK_WAIT: Duration = Duration::from_secs(4);

/// The blocks that begin with "```json <kind>": the rest of that line, and the text.
fn blocks(kind: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        if let Some(rest) = line.strip_prefix(&format!("```json {kind}")) {
            let text: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
            found.push((rest.trim().to_owned(), text.join("\n")));
        }
    }
    assert!(!found.is_empty(), "no `{kind}` block in schemas/README.md");
    found
}

#[test]
fn documented_results_and_costs_are_what_we_write() {
    for (_, text) in blocks("result") {
        let result: JobResult = Codec::Json.decode(text.as_bytes()).unwrap();
        let (ours, theirs): (Value, Value) =
            (serde_json::to_value(&result).unwrap(), serde_json::from_str(&text).unwrap());
        assert_eq!(ours, theirs);
    }
    for (_, text) in blocks("cost") {
        let cost: CostEvent = Codec::Json.decode(text.as_bytes()).unwrap();
        assert_eq!(serde_json::to_value(&cost).unwrap(), serde_json::from_str::<Value>(&text).unwrap());
        let book = schemas::prices::PriceBook::from_toml(include_str!("../../../prices.toml")).unwrap();
        let line = &cost.lines[0];
        let used = schemas::prices::Used::Time(Duration::from_micros(line.quantity));
        assert_eq!(book.bill(&cost.provider, &line.sku, &line.item, used, cost.at_us).unwrap()[0], *line);
    }
}

#[test]
fn every_field_of_a_job_is_documented() {
    let (_, full) = blocks("publish").pop().unwrap();
    let body: JobBody = Codec::Json.decode(full.as_bytes()).unwrap();
    let Value::Object(fields) = serde_json::to_value(&body).unwrap() else { panic!("a job is a map") };
    for field in fields.keys() {
        assert!(README.contains(&format!("`{field}`")) || README.contains(&format!("`{field}.")), "{field}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn documented_jobs_run_with_a_plain_client_in_both_codecs() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider)).await;
    let client = async_nats::connect(server.url()).await.unwrap();
    let mut results = client.subscribe("beacon.reply.acme.inbox.result").await.unwrap();
    let mut costs = client.subscribe("beacon.reply.acme.inbox.cost").await.unwrap();
    for (subject, text) in blocks("publish") {
        for codec in [Codec::Json, Codec::MsgPack] {
            let mut body: JobBody = Codec::Json.decode(text.as_bytes()).unwrap();
            let id = producer::request::new_job_id().to_string();
            let bytes = match codec {
                // Byte for byte as documented, but for the id.
                Codec::Json => text.replace(body.id.as_deref().unwrap(), &id).into_bytes(),
                Codec::MsgPack => {
                    body.id = Some(id.clone());
                    codec.encode(&body).unwrap()
                }
            };
            let mut map = HeaderMap::new();
            map.insert("Content-Type", codec.content_type());
            map.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
            let ack = client.request_with_headers(subject.clone(), map, bytes.into()).await.unwrap();
            let ack: Value = serde_json::from_slice(&ack.payload).unwrap();
            assert_eq!(ack["stream"], "JOBS_us-east");
            let message =
                tokio::time::timeout(Duration::from_secs(30), results.next()).await.unwrap().unwrap();
            let headers = message.headers.as_ref().unwrap();
            assert_eq!(headers.get("Content-Type").unwrap().as_str(), codec.content_type());
            assert_eq!(headers.get("Nats-Msg-Id").unwrap().as_str(), format!("{id}:acme:result"));
            assert!(headers.get("traceparent").unwrap().as_str().starts_with("00-4bf9"));
            let result: JobResult = codec.decode(&message.payload).unwrap();
            assert_eq!((result.job.to_string(), result.labels), (id.clone(), body.labels));
            let message = tokio::time::timeout(Duration::from_secs(30), costs.next()).await.unwrap().unwrap();
            let cost: CostEvent = codec.decode(&message.payload).unwrap();
            assert_eq!(cost.amount_usd, result.cost_usd);
        }
    }
    worker.stop().await;
    dispatcher.stop().await;
}
