//! Promise: an output that is too large for a message goes through the object store by reference, and its job succeeds.

use std::time::Duration;

use schemas::reply::Status;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process,
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

#[tokio::test(flavor = "multi_thread")]
async fn the_command_shows_an_output_that_lies_in_the_object_store_or_says_where_it_was() {
    let server = NatsServer::start().await;
    let (urls, folder) = ([server.url()], tempfile::tempdir().unwrap());
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Write(LARGE));
    let pool = roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider);
    let worker = Role::worker(pool).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    let place = audit.results[&jobs[0]][0].output_ref.clone().expect("a reference");
    let config = process::config(folder.path(), &urls[0]);
    let results = |more: &[&str]| {
        let args =
            [&["results", "--tenant", "acme", "--mailbox", "inbox", "--config", &config], more].concat();
        let output = tokio::task::block_in_place(|| process::run(&args));
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{error}");
        (String::from_utf8(output.stdout).unwrap(), error)
    };
    let json = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    let (line, _) = results(&[]);
    assert!(line.contains("xxxxx…") && line.len() < 400, "{line}");
    let (line, _) = results(&["--json"]);
    assert_eq!(json(&line)["output"]["text"].as_str().unwrap().len(), LARGE);
    payloads::remove_output(producer.client(), &place).await.unwrap();
    let (line, _) = results(&[]);
    assert!(line.contains(&place.object) && line.contains("is not in bucket"), "{line}");
    let (line, error) = results(&["--json"]);
    assert_eq!(json(&line)["output_ref"]["object"], place.object.as_str());
    assert!(json(&line)["output"].is_null() && error.contains("cannot be fetched"), "{error}");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
