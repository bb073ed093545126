//! Promise: an input over the server's limit on a message goes through the object store by itself, survives restarts like any
//! other, and is collected after use.

use std::time::Duration;

use producer::{Producer, ProducerConfig};
use schemas::{
    failure::FailureClass,
    job::{InputRef, Message},
    reply::Status,
    topology::{PAYLOADS_BUCKET, object_stream},
};
use serde_json::Value;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::api;

const ACK_WAIT: Duration = Duration::from_secs(4);
/// Over nats-server's limit of one MiB.
const LARGE: usize = 3 * 1024 * 1024;

async fn dispatcher(server: &NatsServer) -> Role {
    Role::usual_dispatcher(&server.url(), "d1", ACK_WAIT).await
}

async fn worker(server: &NatsServer) -> Role {
    let provider = Scripted::new(Script::Measure);
    Role::worker(roles::pool_config(&[server.url()], "golem@us-east", "w1", 4, ACK_WAIT, provider)).await
}

async fn stored(client: &async_nats::Client) -> u64 {
    let stream = object_stream(PAYLOADS_BUCKET);
    let info = api::ask(client, &format!("STREAM.INFO.{stream}"), &Value::Null).await.unwrap();
    api::number(&info, "state/messages").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_input_reaches_its_provider_through_a_restart_and_is_collected() {
    let mut server = NatsServer::start().await;
    let first = dispatcher(&server).await;
    let mut producer = roles::producer(&[server.url()]).await;
    let chat = roles::job(&"x".repeat(LARGE));
    let mut prompt = roles::job("");
    prompt.body.messages = None;
    prompt.body.prompt = Some("y".repeat(LARGE + 1));
    let mut jobs = Vec::new();
    for job in [&chat, &prompt, &roles::job("small")] {
        jobs.push(producer.submit(job).await.unwrap().job);
    }
    assert!(stored(producer.client()).await > 40, "two inputs in chunks of 128 KiB");
    first.stop().await;
    server.restart().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    let text = |at: usize| audit.results[&jobs[at]][0].output.as_ref().unwrap().text.clone();
    assert_eq!((text(0), text(1), text(2)), (LARGE.to_string(), (LARGE + 1).to_string(), "5".to_owned()));
    let client = producer.client().clone();
    wait::until("the inputs to be collected", || async { (stored(&client).await == 0).then_some(()) }).await;
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_input_belongs_to_one_job_of_one_tenant_whatever_ids_others_use() {
    let server = NatsServer::start().await;
    let dispatcher = dispatcher(&server).await;
    let mut own = roles::producer(&[server.url()]).await;
    let config = ProducerConfig::new(&server.url(), "other", "inbox").unwrap();
    let mut other = Producer::connect(config).await.unwrap();
    let large = |bytes: usize| {
        let mut request = roles::job(&"x".repeat(bytes));
        request.body.id = Some("0198c0de-0000-7000-8000-000000000001".into());
        request
    };
    let job = own.submit(&large(LARGE)).await.unwrap().job;
    other.submit(&large(LARGE + 1)).await.unwrap();
    let both = stored(own.client()).await;
    // The first one holds; what came with the second is not kept.
    assert!(own.submit(&large(LARGE + 2)).await.unwrap().duplicate);
    let mut refused = large(LARGE);
    refused.model = "gpt-9".parse().unwrap();
    own.submit(&refused).await.unwrap_err();
    assert_eq!(stored(own.client()).await, both);
    let worker = worker(&server).await;
    for (producer, bytes) in [(&mut own, LARGE), (&mut other, LARGE + 1)] {
        let audit = Audit::all_ended(producer, &[job]).await;
        assert_eq!(audit.results[&job][0].output.as_ref().unwrap().text, bytes.to_string());
    }
    let client = own.client().clone();
    wait::until("the inputs to be collected", || async { (stored(&client).await == 0).then_some(()) }).await;
    worker.stop().await;
    dispatcher.stop().await;
    own.close().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_input_that_is_not_there_fails_its_job_with_the_reason() {
    let server = NatsServer::start().await;
    let (dispatcher, worker) = (dispatcher(&server).await, worker(&server).await);
    let mut producer = roles::producer(&[server.url()]).await;
    let mut job = roles::job("");
    job.body.messages = None;
    job.body.input_ref = Some(InputRef { object: "nowhere".into(), bytes: 5 });
    let missing = producer.submit(&job).await.unwrap().job;
    job.body.messages = Some(vec![Message { role: "user".into(), content: "both".into() }]);
    assert!(producer.submit(&job).await.unwrap_err().to_string().contains("input_ref"));
    let audit = Audit::all_ended(&mut producer, &[missing]).await;
    let result = &audit.results[&missing][0];
    let error = result.error.as_ref().unwrap();
    assert_eq!((result.status, error.class), (Status::Failed, FailureClass::InvalidRequest));
    assert!(error.message.contains("input_ref") && error.message.contains("nowhere"), "{}", error.message);
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
