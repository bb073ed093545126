//! Promise: a stream of ours that is deleted while all runs is noticed and made anew, and what runs meanwhile is neither lost nor
//! paid twice.

use std::time::Duration;

use schemas::{reply::Status, topology};
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
