//! Promise: nats-server may be restarted, or killed, mid-run, and nothing that was accepted is lost.

use std::time::Duration;

use futures_util::{StreamExt, stream};
use schemas::JobId;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};

const ACK_WAIT: Duration = Duration::from_secs(5);

async fn check(kill: bool) {
    let mut server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 32, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let ids: Vec<JobId> = (0..1_500).map(|_| producer::request::new_job_id()).collect();
    let submitting = async {
        // What is not acknowledged is sent again under the same id by the producer itself.
        let sent = stream::iter(&ids).map(|id| {
            let mut job = roles::job("through a restart");
            job.body.id = Some(id.to_string());
            let producer = &producer;
            async move { producer.submit(&job).await.unwrap() }
        });
        sent.buffer_unordered(50).for_each(|_| async {}).await;
    };
    let breaking = async {
        wait::until("some jobs to run", || async { (provider.begun() > 200).then_some(()) }).await;
        if kill { server.kill_and_restart().await } else { server.restart().await }
    };
    tokio::join!(submitting, breaking);
    let audit = Audit::all_ended(&mut producer, &ids).await;
    assert_eq!(audit.results.len(), ids.len());
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_loses_nothing() {
    check(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_server_loses_nothing_that_was_accepted() {
    check(true).await;
}
