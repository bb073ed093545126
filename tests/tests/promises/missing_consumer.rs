//! Promise: a consumer that is missing is never made anew over jobs that are done.

use std::time::Duration;

use schemas::{Lane, reply::Status, topology};
use serde_json::Value;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};
use transport::api;

const ACK_WAIT: Duration = Duration::from_secs(4);

fn consumer() -> String {
    topology::consumer_name(&schemas::catalog::token_of(roles::MODEL).unwrap(), Lane::Normal)
}

async fn delete_consumer(client: &async_nats::Client) {
    let subject = format!("CONSUMER.DELETE.JOBS_us-east.{}", consumer());
    api::ask(client, &subject, &Value::Null).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_made_anew_runs_no_finished_job_again() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = roles::submit_many(&producer, 50).await;
    Audit::all_ended(&mut producer, &jobs).await;
    dispatcher.stop().await;
    delete_consumer(producer.client()).await;
    // Some wait unfinished behind the finished ones.
    jobs.extend(roles::submit_many(&producer, 10).await);
    let again = Role::usual_dispatcher(&urls[0], "d2", ACK_WAIT).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 60);
    assert!(provider.runs().values().all(|runs| *runs == 1), "a finished job ran again");
    worker.stop().await;
    again.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_vanishes_while_we_run_is_made_anew_from_its_floor() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = roles::submit_many(&producer, 30).await;
    Audit::all_ended(&mut producer, &jobs).await;
    delete_consumer(producer.client()).await;
    jobs.extend(roles::submit_many(&producer, 10).await);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 40);
    assert!(provider.runs().values().all(|runs| *runs == 1), "a finished job ran again");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_floor_the_dispatcher_stops_and_asks() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let producer = roles::producer(&urls).await;
    roles::submit_many(&producer, 3).await;
    dispatcher.stop().await;
    delete_consumer(producer.client()).await;
    let purge = format!("STREAM.PURGE.{}", topology::bucket_stream(topology::FLOORS_BUCKET));
    api::ask(producer.client(), &purge, &Value::Null).await.unwrap();
    let config = roles::dispatcher_config(&urls, "d2", roles::settings(ACK_WAIT));
    let refusal = dispatcher::Dispatcher::connect(config).await.err().expect("it must not start").to_string();
    for word in [consumer().as_str(), "JOBS_us-east", "beacon-floors"] {
        assert!(refusal.contains(word), "`{refusal}` should name `{word}`");
    }
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_that_cannot_be_applied_names_its_field() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    dispatcher.stop().await;
    // What may change is changed: a longer lease.
    let longer = Role::dispatcher(roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT * 2))).await;
    longer.stop().await;
    let producer = roles::producer(&urls).await;
    let subject = format!("CONSUMER.INFO.JOBS_us-east.{}", consumer());
    let info = api::ask(producer.client(), &subject, &Value::Null).await.unwrap();
    assert_eq!(api::number(&info, "config/ack_wait"), Some(topology::nanos(ACK_WAIT * 2)));
    // What may not is named: three replicas on a single server.
    let mut settings = roles::settings(ACK_WAIT);
    settings.replicas = 3;
    let refusal =
        dispatcher::Dispatcher::connect(roles::dispatcher_config(&urls, "d1", settings)).await.err().unwrap();
    assert!(refusal.to_string().contains("num_replicas"), "{refusal}");
    producer.close().await;
}
