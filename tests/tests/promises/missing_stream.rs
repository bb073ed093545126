//! Promise: a stream of ours that is deleted while all runs is noticed and made anew, and what runs meanwhile is neither lost nor
//! paid twice.

use std::time::Duration;

use schemas::{Lane, reply::Status, topology};
use serde_json::Value;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::api;

const ACK_WAIT: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn replies_that_are_deleted_while_jobs_run_are_made_anew_and_each_job_runs_once() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Hold);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 5).await;
    wait::until("the jobs to run", || async { (provider.begun() == 5).then_some(()) }).await;
    let delete = format!("STREAM.DELETE.{}", topology::REPLIES);
    api::ask(producer.client(), &delete, &Value::Null).await.unwrap();
    provider.release();
    let client = producer.client().clone();
    let info = format!("STREAM.INFO.{}", topology::REPLIES);
    wait::until("the stream", || async { api::ask(&client, &info, &Value::Null).await.ok() }).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 5);
    assert!(provider.runs().values().all(|runs| *runs == 1), "a job was paid for twice");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_a_job_stream_that_is_deleted_and_made_anew_run_at_once() {
    // Whatever waits for a lease to run out waits for longer than this test.
    let ack_wait = Duration::from_secs(600);
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ack_wait));
    config.offers.look_ahead = 10;
    let dispatcher = Role::dispatcher(config).await;
    let mut producer = roles::producer(&urls).await;
    roles::submit_many(&producer, 5).await;
    let client = producer.client().clone();
    let stream = topology::jobs_stream(&roles::REGION.parse().unwrap());
    let consumer = topology::consumer_name(&schemas::catalog::token_of(roles::MODEL).unwrap(), Lane::Normal);
    let consumer = format!("CONSUMER.INFO.{stream}.{consumer}");
    wait::until("the jobs in hand", || async {
        let info = api::ask(&client, &consumer, &Value::Null).await.ok()?;
        (api::number(&info, "num_ack_pending")? == 5).then_some(())
    })
    .await;
    api::ask(&client, &format!("STREAM.DELETE.{stream}"), &Value::Null).await.unwrap();
    wait::until("the consumer", || async { api::ask(&client, &consumer, &Value::Null).await.ok() }).await;
    let jobs = roles::submit_many(&producer, 5).await;
    let good = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ack_wait, good.clone())).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!((audit.count(Status::Succeeded), audit.results.len(), good.runs().len()), (5, 5, 5));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
