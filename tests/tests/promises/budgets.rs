//! Promise: a hard budget is never overspent, by any number of dispatchers; its tenant's jobs wait and say why, and nobody
//! else's do.

use std::{collections::HashMap, time::Duration};

use dispatcher::DispatcherConfig;
use producer::{Producer, ProducerConfig};
use routing::budget::{Mode, Period, Rule, Rules};
use schemas::{JobId, UsdNanos, reply::Status};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};

const ACK_WAIT: Duration = Duration::from_secs(6);
/// What a job costs at Golem in the tests' price book.
const JOB: u64 = 100_000;

/// A dispatcher that lets tenant acme have ten jobs a day.
fn ten_a_day(urls: &[String], id: &str) -> DispatcherConfig {
    let rule = Rule {
        tenant: Some("acme".parse().unwrap()),
        provider: None,
        period: Period::Day,
        limit: UsdNanos::new(10 * JOB),
        mode: Mode::Hard,
    };
    let mut config = roles::dispatcher_config(urls, id, roles::settings(ACK_WAIT));
    config.budgets = Rules::new(vec![rule]).unwrap();
    config
}

async fn producer_of(urls: &[String], tenant: &str) -> Producer {
    Producer::connect(ProducerConfig::new(&urls[0], tenant, "inbox").unwrap()).await.unwrap()
}

/// Waits until nothing changes any more for the tenant whose budget is used up: `count` of its jobs have ended.
async fn ended(producer: &mut Producer, count: usize) -> Audit {
    let end = tokio::time::Instant::now() + wait::DEADLINE;
    loop {
        let audit = Audit::read(producer).await;
        assert!(audit.results.len() <= count, "{} jobs ran on money for {count}", audit.results.len());
        if audit.results.len() == count {
            return audit;
        }
        assert!(tokio::time::Instant::now() < end, "only {} of {count} ended", audit.results.len());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What `beacon why --json` says of a job, by process.
fn why(config: &str, job: JobId) -> serde_json::Value {
    let output = process::run(&["why", &job.to_string(), "--config", config, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_budget_holds_its_tenants_jobs_and_nobody_elses_and_they_say_so() {
    let (server, folder) = (NatsServer::start().await, tempfile::tempdir().unwrap());
    let urls = [server.url()];
    let dispatcher = Role::dispatcher(ten_a_day(&urls, "d1")).await;
    let golem = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, golem)).await;
    let (mut acme, mut globex) = (producer_of(&urls, "acme").await, producer_of(&urls, "globex").await);
    let held = roles::submit_many(&acme, 30).await;
    let free = roles::submit_many(&globex, 20).await;
    let others = Audit::all_ended(&mut globex, &free).await;
    assert_eq!(others.count(Status::Succeeded), 20);
    let audit = ended(&mut acme, 10).await;
    let spent: u64 = audit.costs.iter().map(|cost| cost.amount_usd.get()).sum();
    assert_eq!(spent, 10 * JOB);
    let waiting = held.iter().find(|job| !audit.results.contains_key(job)).unwrap();
    let config = process::config(folder.path(), &urls[0]);
    let told = tokio::task::spawn_blocking({
        let waiting = *waiting;
        move || why(&config, waiting)
    });
    let told = told.await.unwrap();
    let gate = told.pointer("/dispatchers/0/gates/0").unwrap();
    assert_eq!(gate["refused"], "budget", "{told}");
    assert_eq!(gate["value"], "$0.001 taken, $0.0001 needed", "{told}");
    assert_eq!(gate["limit"], "$0.001 per day for tenant acme", "{told}");
    assert!(gate["until_us"].as_u64().is_some(), "the next day is when it opens: {told}");
    assert!(told.pointer("/dispatchers/0/place/waiting").is_some(), "{told}");
    worker.stop().await;
    dispatcher.stop().await;
    acme.close().await;
    globex.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_dispatchers_share_one_budget() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let one = Role::dispatcher(ten_a_day(&urls, "d1")).await;
    let two = Role::dispatcher(ten_a_day(&urls, "d2")).await;
    let golem = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, golem)).await;
    let mut acme = producer_of(&urls, "acme").await;
    let jobs = roles::submit_many(&acme, 60).await;
    let audit = ended(&mut acme, 10).await;
    let mut paid: HashMap<JobId, usize> = HashMap::new();
    for cost in &audit.costs {
        *paid.entry(cost.job.unwrap()).or_default() += 1;
    }
    assert!(paid.values().all(|times| *times == 1) && paid.keys().all(|job| jobs.contains(job)));
    // Each gives back what it holds when it ends; the counter then says what was spent.
    one.stop().await;
    two.stop().await;
    let audit = Audit::read(&mut acme).await;
    assert_eq!(audit.costs.iter().map(|cost| cost.amount_usd.get()).sum::<u64>(), 10 * JOB);
    worker.stop().await;
    acme.close().await;
}
