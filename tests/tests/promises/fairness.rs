//! Promise: a tenant that floods a model delays its own jobs and not those of others, whoever came first.

use std::{sync::Arc, time::Duration};

use producer::{Producer, ProducerConfig};
use schemas::{JobId, Micros};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    wait,
};
use workers::adapters::Noop;

const ACK_WAIT: Duration = Duration::from_secs(10);
const FLOOD: usize = 1_500;

async fn producer_of(urls: &[String], tenant: &str) -> Producer {
    Producer::connect(ProducerConfig::new(&urls[0], tenant, "inbox").unwrap()).await.unwrap()
}

/// When each of `jobs` ended.
fn ends(audit: &Audit, jobs: &[JobId]) -> Vec<Micros> {
    jobs.iter().map(|job| audit.results[job][0].finished_us).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_after_a_flood_does_not_wait_for_it_to_pass() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    // Two jobs at a time, of ten milliseconds each.
    let provider = Arc::new(Noop::new(Duration::from_millis(10)));
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 2, ACK_WAIT, provider)).await;
    let (mut acme, mut globex) = (producer_of(&urls, "acme").await, producer_of(&urls, "globex").await);
    let flood = roles::submit_many(&acme, FLOOD).await;
    let mut few = Vec::new();
    // A job each time the last one has ended: globex never has more than one waiting.
    while few.len() < 12 {
        few.push(globex.submit(&roles::job("one of few")).await.unwrap().job);
        Audit::all_ended(&mut globex, &few).await;
    }
    let ours = Audit::all_ended(&mut globex, &few).await;
    let last = ends(&ours, &few).into_iter().max().unwrap();
    wait::until("the flood to pass", || async {
        let done = Audit::read(&mut producer_of(&urls, "acme").await).await.results.len();
        (done == FLOOD).then_some(())
    })
    .await;
    let theirs = Audit::all_ended(&mut acme, &flood).await;
    let before = ends(&theirs, &flood).into_iter().filter(|at| *at < last).count();
    // First come, first served would have been all of them.
    assert!(before < FLOOD * 3 / 4, "{before} of {FLOOD} jobs of the flood ended before the last of the few");
    worker.stop().await;
    dispatcher.stop().await;
    acme.close().await;
    globex.close().await;
}
