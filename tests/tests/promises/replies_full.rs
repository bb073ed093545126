//! Promise: a result that cannot be stored now waits; its job neither fails nor is paid again, however long that lasts.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use schemas::{reply::Status, topology::REPLIES};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    streams, wait,
};

const ACK_WAIT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_of_results_makes_no_job_fail_or_run_twice() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    config.offers.accept_within = Duration::from_millis(500);
    config.offers.margin = Duration::from_millis(200);
    let dispatcher = Role::dispatcher(config).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let client = producer.client().clone();
    streams::limit(&client, REPLIES, 16).await;
    let mut tries = client.subscribe("beacon.reply.acme.inbox.result").await.unwrap();
    client.flush().await.unwrap();
    let (jobs, since) = (roles::submit_many(&producer, 1).await, Instant::now());
    // It is tried again and again, for longer than two leases last.
    let mut count = 0;
    while count < 3 || since.elapsed() < ACK_WAIT * 2 {
        tokio::time::timeout(wait::DEADLINE, tries.next()).await.expect("another try").unwrap();
        count += 1;
    }
    assert_eq!(provider.begun(), 1, "paid again");
    streams::limit(&client, REPLIES, -1).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!((audit.count(Status::Succeeded), audit.costs.len(), provider.begun()), (1, 1, 1));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
