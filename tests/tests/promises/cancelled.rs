//! Promise: a job that is taken back never starts, or is stopped where it runs, and its result says `cancelled` and what
//! it cost; also while a dispatcher or a worker restarts.

use std::{collections::BTreeMap, time::Duration};

use producer::{JobRequest, Producer, ProducerConfig, request::new_job_id};
use schemas::{
    JobId, Lane, UsdNanos,
    cancel::{Filter, Target},
    cost::Purpose,
    failure::{Failure, FailureClass},
    reply::{JobResult, Status},
    time::Clock as _,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::SystemClock;

const ACK_WAIT: Duration = Duration::from_secs(4);

struct Scene {
    nats: NatsServer,
    producer: Producer,
    provider: std::sync::Arc<Scripted>,
}

impl Scene {
    async fn new(script: Script) -> Self {
        let nats = NatsServer::start().await;
        let provider = Scripted::new(script);
        // The streams must be there before the producer publishes.
        let dispatcher = Self::start_dispatcher(&nats).await;
        let producer = roles::producer(&[nats.url()]).await;
        dispatcher.stop().await;
        Self { nats, producer, provider }
    }

    async fn start_dispatcher(nats: &NatsServer) -> Role {
        Role::usual_dispatcher(&nats.url(), "d1", ACK_WAIT).await
    }

    async fn dispatcher(&self) -> Role {
        Self::start_dispatcher(&self.nats).await
    }

    async fn worker(&self, slots: u32) -> Role {
        let provider = self.provider.clone();
        let urls = [self.nats.url()];
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", slots, ACK_WAIT, provider)).await
    }

    async fn cancel(&self, job: JobId) {
        self.producer.cancel(Target::Job(job), "changed my mind").await.unwrap();
    }

    async fn results(&mut self, jobs: &[JobId]) -> Audit {
        Audit::all_ended(&mut self.producer, jobs).await
    }
}

fn only(audit: &Audit, job: JobId) -> &JobResult {
    &audit.results[&job][0]
}

#[tokio::test(flavor = "multi_thread")]
async fn queued_jobs_never_start_also_when_they_were_taken_back_while_nobody_was_there() {
    let mut scene = Scene::new(Script::Succeed).await;
    let jobs = roles::submit_many(&scene.producer, 3).await;
    scene.cancel(jobs[1]).await;
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let audit = scene.results(&jobs).await;
    let result = only(&audit, jobs[1]);
    assert_eq!((result.status, result.cost_usd), (Status::Cancelled, UsdNanos::ZERO));
    let error = result.error.as_ref().unwrap();
    assert_eq!((error.class, error.message.as_str()), (FailureClass::Cancelled, "changed my mind"));
    assert_eq!(audit.count(Status::Succeeded), 2);
    assert!(!scene.provider.runs().contains_key(&jobs[1]));
    worker.stop().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_stopped_and_says_what_it_cost() {
    let mut scene = Scene::new(Script::Hold).await;
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let jobs = roles::submit_many(&scene.producer, 1).await;
    wait::until("the job to run", || async { (scene.provider.begun() == 1).then_some(()) }).await;
    scene.cancel(jobs[0]).await;
    let audit = scene.results(&jobs).await;
    let result = only(&audit, jobs[0]);
    assert_eq!(result.status, Status::Cancelled);
    let costs: Vec<_> = audit.costs.iter().filter(|c| c.purpose == Purpose::Cancelled).collect();
    assert_eq!(costs.len(), 1, "one attempt, one cost event");
    assert_eq!(costs[0].amount_usd, result.cost_usd);
    assert!(result.cost_usd > UsdNanos::ZERO && costs[0].estimated);
    assert!(scene.provider.runs().is_empty());
    worker.stop().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_holds_while_dispatcher_and_worker_are_killed() {
    let mut scene = Scene::new(Script::Hold).await;
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let jobs = roles::submit_many(&scene.producer, 2).await;
    wait::until("both to run", || async { (scene.provider.begun() == 2).then_some(()) }).await;
    dispatcher.kill().await;
    worker.kill().await;
    scene.cancel(jobs[0]).await;
    scene.provider.release();
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let audit = scene.results(&jobs).await;
    assert_eq!(only(&audit, jobs[0]).status, Status::Cancelled);
    assert_eq!(only(&audit, jobs[1]).status, Status::Succeeded);
    assert!(!scene.provider.runs().contains_key(&jobs[0]));
    worker.stop().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_takes_back_what_it_names_and_nothing_that_comes_later() {
    let mut scene = Scene::new(Script::Succeed).await;
    let labelled = |run: &str, lane| {
        let mut job = roles::job("x").lane(lane);
        job.body.labels = BTreeMap::from([("run".to_owned(), run.to_owned())]);
        job
    };
    let mut jobs = Vec::new();
    for (run, lane) in [("a", Lane::Low), ("a", Lane::High), ("b", Lane::Low)] {
        jobs.push(scene.producer.submit(&labelled(run, lane)).await.unwrap().job);
    }
    let filter = Filter {
        labels: BTreeMap::from([("run".to_owned(), "a".to_owned())]),
        lane: Some(Lane::Low),
        ..Filter::default()
    };
    scene.producer.cancel(Target::Matching(filter), "").await.unwrap();
    jobs.push(scene.producer.submit(&labelled("a", Lane::Low)).await.unwrap().job);
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let audit = scene.results(&jobs).await;
    let statuses: Vec<_> = jobs.iter().map(|job| only(&audit, *job).status).collect();
    assert_eq!(statuses, [Status::Cancelled, Status::Succeeded, Status::Succeeded, Status::Succeeded]);
    worker.stop().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_whose_time_lies_ahead_takes_back_nothing_that_comes_later() {
    let mut scene = Scene::new(Script::Succeed).await;
    let mut jobs = roles::submit_many(&scene.producer, 1).await;
    // Nanoseconds where microseconds belong.
    let at = u128::from(SystemClock.now().get()) * 1_000;
    let order = format!(r#"{{"target":{{"matching":{{"tenant":"acme"}}}},"at_us":{at}}}"#);
    let stored =
        scene.producer.client().request("$KV.beacon-cancel.matching.all", order.into()).await.unwrap();
    assert!(!String::from_utf8_lossy(&stored.payload).contains("error"));
    jobs.extend(roles::submit_many(&scene.producer, 1).await);
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    jobs.extend(roles::submit_many(&scene.producer, 1).await);
    let audit = scene.results(&jobs).await;
    let statuses: Vec<_> = jobs.iter().map(|job| only(&audit, *job).status).collect();
    assert_eq!(statuses, [Status::Cancelled, Status::Succeeded, Status::Succeeded]);
    worker.stop().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_rests_between_attempts_is_taken_back() {
    let down = Failure::new(FailureClass::RateLimited, "later").after(Some(Duration::from_secs(3_600)));
    let mut scene = Scene::new(Script::Fail(down)).await;
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let jobs = roles::submit_many(&scene.producer, 1).await;
    wait::until("an attempt", || async { (scene.provider.begun() > 0).then_some(()) }).await;
    scene.cancel(jobs[0]).await;
    let audit = scene.results(&jobs).await;
    assert_eq!(only(&audit, jobs[0]).status, Status::Cancelled);
    worker.stop().await;
    dispatcher.stop().await;
}

/// A producer of another tenant than the scene's.
async fn other(nats: &NatsServer) -> Producer {
    Producer::connect(ProducerConfig::new(&nats.url(), "other", "inbox").unwrap()).await.unwrap()
}

/// A job that is to run in an hour.
fn later() -> JobRequest {
    let mut request = roles::job("later");
    request.body.run_at = Some((SystemClock.now() + Duration::from_secs(3_600)).to_datetime());
    request
}

fn named(job: JobId) -> JobRequest {
    let mut request = roles::job("x");
    request.body.id = Some(job.to_string());
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_for_an_id_takes_back_the_job_of_its_own_tenant_only() {
    let mut scene = Scene::new(Script::Succeed).await;
    let (mut other, job) = (other(&scene.nats).await, new_job_id());
    for producer in [&scene.producer, &other] {
        assert!(!producer.submit(&named(job)).await.unwrap().duplicate);
    }
    let theirs = other.submit(&roles::job("theirs")).await.unwrap().job;
    scene.cancel(job).await;
    // It is no job of theirs.
    scene.cancel(theirs).await;
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    assert_eq!(only(&scene.results(&[job]).await, job).status, Status::Cancelled);
    let audit = Audit::all_ended(&mut other, &[job, theirs]).await;
    assert_eq!(audit.count(Status::Succeeded), 2);
    worker.stop().await;
    dispatcher.stop().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delayed_job_is_not_brought_forward_by_another_tenant() {
    let scene = Scene::new(Script::Succeed).await;
    let other = other(&scene.nats).await;
    let job = other.submit(&later()).await.unwrap().job;
    let region = roles::REGION.parse().unwrap();
    let waits = async || {
        let mut found = transport::delayed::find(other.client(), &region, (job, None)).await.unwrap();
        found.pop()
    };
    let at = waits().await.unwrap().at;
    scene.producer.cancel_delayed(std::slice::from_ref(&region), job, "").await.unwrap();
    assert_eq!(waits().await.unwrap().at, at);
    other.cancel_delayed(std::slice::from_ref(&region), job, "").await.unwrap();
    assert!(waits().await.is_none_or(|delayed| delayed.at < at));
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_takes_back_delayed_jobs_too() {
    let mut scene = Scene::new(Script::Succeed).await;
    let (other, region) = (other(&scene.nats).await, roles::REGION.parse().unwrap());
    let labelled = |run: &str| {
        let mut request = later();
        request.body.labels.insert("run".into(), run.into());
        request
    };
    let night = scene.producer.submit(&labelled("night")).await.unwrap().job;
    let day = scene.producer.submit(&labelled("day")).await.unwrap().job;
    let theirs = other.submit(&labelled("night")).await.unwrap().job;
    let filter = Filter { labels: [("run".to_owned(), "night".to_owned())].into(), ..Filter::default() };
    let regions = std::slice::from_ref(&region);
    let taken = scene.producer.cancel_matching(regions, filter, "no nights").await.unwrap();
    assert_eq!(taken.delayed, 1);
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let audit = scene.results(&[night]).await;
    let result = only(&audit, night);
    assert_eq!(
        (result.status, result.error.as_ref().unwrap().message.as_str()),
        (Status::Cancelled, "no nights")
    );
    for (producer, job) in [(&scene.producer, day), (&other, theirs)] {
        let waiting = producer.delayed(&region).await.unwrap();
        assert_eq!(waiting.iter().map(|delayed| delayed.job).collect::<Vec<_>>(), [job]);
    }
    worker.stop().await;
    dispatcher.stop().await;
    other.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_finds_out_whose_an_id_is_and_refuses_one_of_several_tenants() {
    let scene = Scene::new(Script::Succeed).await;
    let (other, shared, folder) = (other(&scene.nats).await, new_job_id(), tempfile::tempdir().unwrap());
    for producer in [&scene.producer, &other] {
        producer.submit(&named(shared)).await.unwrap();
    }
    let mine = scene.producer.submit(&roles::job("mine")).await.unwrap().job.to_string();
    let later = other.submit(&later()).await.unwrap().job.to_string();
    let shared = shared.to_string();
    let config = process::config(folder.path(), &scene.nats.url());
    let run = |args: &[&str]| {
        let args = [&["cancel", "--config", &config], args].concat();
        let output = tokio::task::block_in_place(|| process::run(&args));
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        (output.status.code(), said.concat())
    };
    let (code, said) = run(&[&mine, &shared]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    assert!(["acme", "other", "--tenant", &shared].iter().all(|word| said.contains(word)), "{said}");
    let (code, said) = run(&[&mine, &later, "--wait"]);
    assert!(code == Some(2) && said.contains("--tenant"), "{said}");
    let order = |tenant: &str| serde_json::json!({ "tenant": tenant });
    for (args, tenant) in
        [(&[&*mine][..], "acme"), (&[&*later], "other"), (&[&*shared, "--tenant", "other"], "other")]
    {
        let (code, said) = run(&[args, &["--json"]].concat());
        let given: serde_json::Value = serde_json::from_str(&said).unwrap();
        assert_eq!((code, &given["tenant"]), (Some(0), &order(tenant)["tenant"]), "{said}");
    }
    let (dispatcher, worker) = (scene.dispatcher().await, scene.worker(4).await);
    let (code, said) = run(&[&mine, "--mailbox", "inbox", "--wait"]);
    assert!(code == Some(0) && said.contains("cancelled"), "{said}");
    let (code, said) = run(&[&shared, "--tenant", "acme", "--wait"]);
    assert!(code == Some(0) && said.contains("had ended: succeeded"), "{said}");
    worker.stop().await;
    dispatcher.stop().await;
    other.close().await;
}
