//! Promise: an output that is too large for a message goes through the object store by reference, and its job succeeds.

use std::time::Duration;

use schemas::reply::Status;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};
use transport::payloads;

const ACK_WAIT: Duration = Duration::from_secs(4);
/// Over nats-server's limit of one MiB.
const LARGE: usize = 2 * 1024 * 1024;

#[tokio::test(flavor = "multi_thread")]
async fn a_large_output_is_stored_by_reference_and_paid_once() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Write(LARGE));
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 2).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!((audit.count(Status::Succeeded), audit.costs.len()), (2, 2));
    assert!(provider.runs().values().all(|runs| *runs == 1));
    for result in audit.results.values().flatten() {
        let place = result.output_ref.as_ref().expect("a reference");
        assert!(result.output.is_none() && result.decision.is_some(), "{:?}", result.error);
        let output = payloads::get_output(producer.client(), place).await.unwrap();
        assert_eq!(output.text.len(), LARGE);
    }
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
