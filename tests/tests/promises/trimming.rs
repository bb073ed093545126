//! Promise: trimming never touches an unfinished job, and does shorten the log.

use std::time::Duration;

use schemas::reply::Status;
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

async fn first_and_count(client: &async_nats::Client) -> (u64, u64) {
    let info = api::ask(client, "STREAM.INFO.JOBS_us-east", &Value::Null).await.unwrap();
    (api::number(&info, "state/first_seq").unwrap(), api::number(&info, "state/messages").unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn finished_jobs_go_and_unfinished_ones_stay() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut settings = roles::settings(ACK_WAIT);
    settings.jobs_window = Duration::from_secs(1);
    let mut config = roles::dispatcher_config(&urls, "d1", settings);
    config.trim.horizon = Duration::from_secs(1);
    config.trim.every = Duration::from_millis(200);
    let dispatcher = Role::dispatcher(config).await;
    let quick = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 64, ACK_WAIT, quick.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = roles::submit_many(&producer, 200).await;
    Audit::all_ended(&mut producer, &jobs).await;
    // One job that does not end, and many after it that do.
    quick.set(Script::Hold);
    let stuck = roles::submit_many(&producer, 1).await;
    wait::until("the stuck job to run", || async { (quick.begun() == 201).then_some(()) }).await;
    quick.set(Script::Succeed);
    let later = roles::submit_many(&producer, 100).await;
    jobs.extend(&later);
    wait::until("the later jobs to end", || async { (quick.runs().len() == 300).then_some(()) }).await;
    let client = producer.client().clone();
    wait::until("the log to be trimmed up to the stuck job", || async {
        (first_and_count(&client).await.0 == 201).then_some(())
    })
    .await;
    // It has been looked at many times by now, and the stuck job is still there, and ends.
    assert_eq!(first_and_count(&client).await.1, 101);
    quick.release();
    jobs.extend(&stuck);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 301);
    wait::until("the rest to be trimmed", || async { (first_and_count(&client).await.1 == 0).then_some(()) })
        .await;
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_job_stays_for_a_replay() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    config.trim.every = Duration::from_millis(100);
    let dispatcher = Role::dispatcher(config).await;
    let quick = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, quick)).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 20).await;
    Audit::all_ended(&mut producer, &jobs).await;
    let client = producer.client().clone();
    // The trimmer has written a floor past the last job, so it has looked, and let them be.
    let key = transport::topology::floor_key("JOBS_us-east", "d-llama-3-2-1b-normal");
    wait::until("a floor", || async {
        let subject = format!("$JS.API.DIRECT.GET.KV_beacon-floors.$KV.beacon-floors.{key}");
        let answer = client.request(subject, "".into()).await.ok()?;
        (answer.payload.as_ref() == b"20").then_some(())
    })
    .await;
    assert_eq!(first_and_count(&client).await, (1, 20));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
