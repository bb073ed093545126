//! Promise: an id belongs to a tenant. Another tenant may use the same one; the tenant itself hears that it is taken, and the attempt
//! that was made for it is booked.

use std::time::Duration;

use futures_util::StreamExt as _;
use schemas::{
    cost::{CostEvent, Purpose},
    failure::FailureClass,
    reply::{JobResult, Status},
    topology::Settings,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};

const ACK_WAIT: Duration = Duration::from_secs(4);

async fn next<T: serde::de::DeserializeOwned>(messages: &mut async_nats::Subscriber) -> T {
    let message = tokio::time::timeout(wait::DEADLINE, messages.next()).await.expect("in time").unwrap();
    serde_json::from_slice(&message.payload).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_is_used_again_gets_a_clear_end_and_its_attempt_is_booked() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    // The server forgets a job's id as soon as it may.
    let topology = Settings { jobs_window: Duration::from_millis(100), ..roles::settings(ACK_WAIT) };
    let dispatcher = Role::dispatcher(roles::dispatcher_config(&urls, "d1", topology)).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider.clone())).await;
    let producer = roles::producer(&urls).await;
    let client = producer.client().clone();
    let mut results = client.subscribe("beacon.reply.acme.inbox.result").await.unwrap();
    let mut costs = client.subscribe("beacon.reply.acme.inbox.cost").await.unwrap();
    client.flush().await.unwrap();
    let mut request = roles::job("once");
    request.body.id = Some(producer::request::new_job_id().to_string());
    let first = producer.submit(&request).await.unwrap();
    let done: JobResult = next(&mut results).await;
    let cost: CostEvent = next(&mut costs).await;
    assert_eq!((done.status, cost.purpose), (Status::Succeeded, Purpose::Useful));
    assert_eq!(done.log.as_ref().unwrap().seq, first.seq);
    let second = wait::until("the server to forget the id", || async {
        let ticket = producer.submit(&request).await.unwrap();
        (!ticket.duplicate).then_some(ticket)
    })
    .await;
    // Core subscribers see whatever is published; what is stored is what holds.
    let audit = wait::until("both results and both costs", || async {
        let mut reader = roles::producer(&urls).await;
        let audit = Audit::read(&mut reader).await;
        reader.close().await;
        (audit.results.get(&first.job).map_or(0, Vec::len) + audit.costs.len() == 4).then_some(audit)
    })
    .await;
    let taken = &audit.results[&first.job][1];
    let error = taken.error.as_ref().unwrap();
    assert_eq!((taken.status, error.class), (Status::Failed, FailureClass::IdTaken));
    assert_eq!(taken.log.as_ref().unwrap().seq, second.seq);
    assert!(error.message.contains("field `id`"), "{}", error.message);
    // It ran, was billed, and its answer was not needed.
    let purposes: Vec<Purpose> = audit.costs.iter().map(|cost| cost.purpose).collect();
    assert_eq!(purposes, [Purpose::Useful, Purpose::WastedRace]);
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_may_use_one_id_at_once() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider)).await;
    let mut request = roles::job("twice");
    request.body.id = Some(producer::request::new_job_id().to_string());
    for tenant in ["acme", "other"] {
        let config = producer::ProducerConfig::new(&urls[0], tenant, "inbox").unwrap();
        let producer = producer::Producer::connect(config).await.unwrap();
        let result = producer.submit_and_wait(&request, wait::DEADLINE).await.unwrap();
        assert_eq!(result.status, Status::Succeeded, "{tenant}");
        producer.close().await;
    }
    worker.stop().await;
    dispatcher.stop().await;
}
