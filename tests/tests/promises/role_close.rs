//! Promise: a role that closes has stored what its tasks published and has confirmed its acks.

use std::time::Duration;

use futures_util::StreamExt;
use schemas::{
    headers,
    lease::Lease,
    topology::{FLOORS_BUCKET, Topology, consumer_name, jobs_stream},
};
use serde_json::Value;
use tests::{nats_server::NatsServer, roles};
use transport::{
    LinkConfig, api,
    bucket::Bucket,
    role::{Links, Publishes},
    topology,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_role_has_stored_what_its_tasks_published_and_confirmed_its_acks() {
    let server = NatsServer::start().await;
    let ack_wait = Duration::from_secs(60);
    let links = Links::connect(&LinkConfig::to(server.url()), "role").await.unwrap();
    topology::ensure(&links.bulk.client, &Topology::new(&roles::settings(ack_wait))).await.unwrap();
    let mut role = links.start(Publishes::OnBulk).await.unwrap();
    let watcher = Links::connect(&LinkConfig::to(server.url()), "watcher").await.unwrap().control.client;

    let job = roles::job("one");
    let producer = roles::producer(&[server.url()]).await;
    producer.submit(&job).await.unwrap();
    let (stream, consumer) = (jobs_stream(&job.region), consumer_name(&job.model, job.lane));
    let inbox = watcher.new_inbox();
    let mut deliveries = watcher.subscribe(inbox.clone()).await.unwrap();
    let pull = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
    watcher.publish_with_reply(pull, inbox, "".into()).await.unwrap();
    let delivery = deliveries.next().await.unwrap();
    assert!(delivery.headers.as_ref().is_some_and(|h| h.get(headers::MESSAGE_ID).is_some()));
    let lease: Lease = delivery.reply.unwrap().as_str().parse().unwrap();

    let floors = Bucket::new(role.control.client.clone(), role.publisher.clone(), FLOORS_BUCKET);
    let reader = floors.clone();
    role.spawn(|stop| async move {
        stop.cancelled().await;
        floors.put("last-words", "said after the order to stop".into()).await.unwrap();
    });
    role.acks.ack(lease).await;
    role.close(Duration::from_secs(20)).await;

    let info = api::ask(&watcher, &format!("CONSUMER.INFO.{stream}.{consumer}"), &Value::Null).await.unwrap();
    assert_eq!(api::number(&info, "num_ack_pending"), Some(0), "the ack has arrived");
    let last_words = reader.get("last-words").await.unwrap();
    assert_eq!(last_words.as_deref(), Some(&b"said after the order to stop"[..]));
    producer.close().await;
}
