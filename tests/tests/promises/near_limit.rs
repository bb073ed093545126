//! Promise: a job of any size that the server takes is handed over, given back and buried, whatever has to go beside it.

use std::time::Duration;

use futures_util::StreamExt as _;
use producer::{
    log,
    replay::{Selection, Source},
};
use schemas::{
    dead::Obituary,
    failure::{Failure, FailureClass},
    headers,
    reply::{JobResult, Status},
    topology,
};
use serde_json::json;
use tests::{
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::payloads;

const ACK_WAIT: Duration = Duration::from_secs(4);
const SUBJECT: &str = "beacon.jobs.us-east.llama-3-2-1b.normal.acme";

/// As many bytes as one header may have in a stream, beside a job's id.
const LONG: usize = 65_300;

#[tokio::test(flavor = "multi_thread")]
async fn a_job_ends_whatever_headers_the_server_took_with_it() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider.clone())).await;
    let producer = roles::producer(&urls).await;
    let client = producer.client().clone();
    let mut results = client.subscribe("beacon.reply.acme.inbox.result").await.unwrap();
    let mut letters = client.subscribe("beacon.dead.>").await.unwrap();
    client.flush().await.unwrap();
    let job = publish(&client, 1, Some(headers::TRACEPARENT)).await;
    assert_eq!(result(&mut results, &job).await.status, Status::Succeeded);
    provider.set(Script::Fail(Failure::new(FailureClass::ProviderDown, "down")));
    for (name, class) in [
        (headers::TRACEPARENT, FailureClass::ProviderDown),
        (headers::CONTENT_TYPE, FailureClass::Undecodable),
        (headers::SCHEMA, FailureClass::Undecodable),
    ] {
        let job = publish(&client, 1, Some(name)).await;
        let failed = result(&mut results, &job).await;
        assert_eq!((failed.status, failed.error.unwrap().class), (Status::Failed, class));
        let letter = tokio::time::timeout(wait::DEADLINE, letters.next()).await.unwrap().unwrap();
        let map = letter.headers.unwrap();
        let obituary: Obituary = serde_json::from_str(map.get(headers::OBITUARY).unwrap().as_str()).unwrap();
        assert_eq!(obituary.job.unwrap().to_string(), job);
        assert!(map.get(name).is_none_or(|kept| kept.as_str().len() < 200), "{name}");
    }
    // Core subscribers hear of a letter also when it is not stored.
    let info = transport::api::ask(&client, "STREAM.INFO.DEAD", &json!(null)).await.unwrap();
    assert_eq!(transport::api::number(&info, "state/messages"), Some(3));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

/// Publishes a job with a prompt of so many bytes, as a producer in another language may; with one more header nearly as long as the
/// server takes, where one is named.
async fn publish(client: &async_nats::Client, text: usize, long: Option<&'static str>) -> String {
    let id = producer::request::new_job_id().to_string();
    let body =
        json!({ "id": id, "prompt": "x".repeat(text), "mailbox": "inbox", "max_attempts": 2 }).to_string();
    let mut map = async_nats::HeaderMap::new();
    map.insert(headers::MESSAGE_ID, format!("{id}:acme"));
    if let Some(name) = long {
        map.insert(name, "x".repeat(LONG));
    }
    let context = async_nats::jetstream::new(client.clone());
    context.publish_with_headers(SUBJECT, map, body.into()).await.unwrap().await.unwrap();
    id
}

async fn result(results: &mut async_nats::Subscriber, job: &str) -> JobResult {
    let found = async {
        loop {
            let message = results.next().await.unwrap();
            let result: JobResult = serde_json::from_slice(&message.payload).unwrap();
            if result.job.to_string() == job {
                return result;
            }
        }
    };
    tokio::time::timeout(wait::DEADLINE, found).await.expect("a result in time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_just_under_the_limit_runs_fails_elsewhere_and_is_buried_with_all_its_bytes() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let measures = Scripted::new(Script::Measure);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, measures.clone())).await;
    let producer = roles::producer(&urls).await;
    let client = producer.client().clone();
    let mut results = client.subscribe("beacon.reply.acme.inbox.result").await.unwrap();
    let mut letters = client.subscribe("beacon.dead.>").await.unwrap();
    client.flush().await.unwrap();
    let text = 1_048_000;
    let job = publish(&client, text, None).await;
    let done = result(&mut results, &job).await;
    assert_eq!((done.status, done.output.unwrap().text), (Status::Succeeded, text.to_string()));
    // The same when it fails: it goes back and forth, and its letter leads to all of it.
    measures.set(Script::Fail(Failure::new(FailureClass::ProviderDown, "f\u{fc}nfhundertdrei")));
    let job = publish(&client, text, None).await;
    let failed = result(&mut results, &job).await;
    assert_eq!((failed.status, failed.attempts), (Status::Failed, 2));
    let letter = tokio::time::timeout(wait::DEADLINE, letters.next()).await.unwrap().unwrap();
    let header = letter.headers.as_ref().unwrap().get(headers::OBITUARY).unwrap().as_str();
    assert!(header.is_ascii(), "some clients drop the headers of a message whose headers are not ASCII");
    let obituary: Obituary = serde_json::from_str(header).unwrap();
    assert_eq!(obituary.failure.message, "f\u{fc}nfhundertdrei");
    let body = payloads::get_bytes(&client, &obituary.body_ref.unwrap()).await.unwrap();
    let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(body["prompt"].as_str().unwrap().len(), text);
    // A replay of it has all its bytes, too.
    let (mut sizes, all) = (Vec::new(), Selection::default());
    log::read(&client, Source::Dead, (topology::DEAD, None), &all, |entry| {
        sizes.push(entry.body().unwrap().prompt.unwrap().len());
        true
    })
    .await
    .unwrap();
    assert_eq!(sizes, [text]);
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
