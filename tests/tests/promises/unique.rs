//! Promise: within its period, a unique key stands for one job, however many submit it at once and whoever dies meanwhile.

use std::{collections::BTreeSet, time::Duration};

use futures_util::future::join_all;
use producer::{Producer, ProducerConfig, Unique};
use schemas::{JobId, time::Clock as _};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::{
    SystemClock,
    publisher::{Patience, publisher},
    unique::{self, Claim},
};

const ACK_WAIT: Duration = Duration::from_secs(10);

async fn dispatcher(server: &NatsServer) -> Role {
    Role::usual_dispatcher(&server.url(), "d1", ACK_WAIT).await
}

async fn producer(server: &NatsServer) -> Producer {
    let mut config = ProducerConfig::new(&server.url(), "acme", "inbox").unwrap();
    config.patience = Duration::from_millis(500);
    Producer::connect(config).await.unwrap()
}

fn daily(key: &str) -> Unique {
    Unique { key: key.into(), period: Duration::from_secs(86_400) }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_submits_at_once_one_is_accepted_and_all_hear_its_id() {
    let server = NatsServer::start().await;
    let dispatcher = dispatcher(&server).await;
    let provider = Scripted::new(Script::Succeed);
    let pool = roles::pool_config(&[server.url()], "golem@us-east", "w1", 8, ACK_WAIT, provider.clone());
    let worker = Role::worker(pool).await;
    let mut first = producer(&server).await;
    let second = producer(&server).await;
    let (report, job) = (daily("report of 24 November"), roles::job("report"));
    let submits = (0..20).map(|n| if n % 2 == 0 { &first } else { &second });
    let tickets = join_all(submits.map(|producer| producer.submit_unique(&report, &job))).await;
    let tickets: Vec<_> = tickets.into_iter().map(Result::unwrap).collect();
    assert_eq!(tickets.iter().map(|t| t.job).collect::<BTreeSet<_>>().len(), 1);
    assert_eq!(tickets.iter().filter(|t| !t.duplicate).count(), 1);
    let other = second.submit_unique(&daily("another"), &job).await.unwrap();
    assert!(!other.duplicate);
    Audit::all_ended(&mut first, &[tickets[0].job, other.job]).await;
    assert_eq!(provider.runs().len(), 2);
    worker.stop().await;
    dispatcher.stop().await;
    first.close().await;
    second.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_its_period_a_key_is_free_again_and_a_refused_job_does_not_hold_it() {
    let server = NatsServer::start().await;
    let dispatcher = dispatcher(&server).await;
    let producer = producer(&server).await;
    let short = Unique { key: "k".into(), period: Duration::from_secs(1) };
    let mut bad = roles::job("x");
    bad.body.max_attempts = Some(0);
    assert!(producer.submit_unique(&short, &bad).await.is_err());
    let first = producer.submit_unique(&short, &roles::job("x")).await.unwrap();
    assert!(!first.duplicate, "the refused one left nothing behind");
    let next = wait::until("the key to be free", || async {
        let ticket = producer.submit_unique(&short, &roles::job("x")).await.unwrap();
        (!ticket.duplicate).then_some(ticket)
    })
    .await;
    assert_ne!(first.job, next.job);
    dispatcher.stop().await;
    producer.close().await;
}

/// A claim that somebody left who died a while ago, for a job that was accepted or was not.
async fn left_behind(server: &NatsServer, key: &str, job: JobId) {
    let link = transport::Link::connect(&transport::LinkConfig::to(server.url()), "dead").await.unwrap();
    let (publisher, task) = publisher(&link, Patience::FOREVER).await.unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let now = SystemClock.now();
    let claim = Claim {
        key: key.into(),
        job,
        at_us: now - Duration::from_secs(5),
        until_us: now + Duration::from_secs(3_600),
        accepted: false,
    };
    let set = async {
        unique::set(&publisher, &"acme".parse().unwrap(), &claim, 0, now).await.unwrap().unwrap();
        stop.cancel();
    };
    tokio::join!(task.run(stop.clone()), set);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_whose_owner_died_is_decided_by_the_job_stream() {
    let server = NatsServer::start().await;
    let dispatcher = dispatcher(&server).await;
    let producer = producer(&server).await;
    let lost = producer::request::new_job_id();
    left_behind(&server, "never sent", lost).await;
    let ticket = producer.submit_unique(&daily("never sent"), &roles::job("x")).await.unwrap();
    assert!(!ticket.duplicate && ticket.job != lost);
    let accepted = producer.submit(&roles::job("x")).await.unwrap().job;
    left_behind(&server, "sent", accepted).await;
    let ticket = producer.submit_unique(&daily("sent"), &roles::job("x")).await.unwrap();
    assert!(ticket.duplicate && ticket.job == accepted);
    dispatcher.stop().await;
    producer.close().await;
}
