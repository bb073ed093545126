//! Promise: a run at a serverless provider is paid once and followed to its end, whichever worker is lost when; and
//! what nobody can tell is booked as possibly wasted, never forgotten.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture};
use producer::Producer;
use schemas::{
    JobId, UsdNanos,
    cancel::{Filter, Target},
    cost::Purpose,
    failure::Failure,
    live::LivePiece,
    prices::PriceBook,
    reply::Status,
    topology::{JOURNAL_BUCKET, bucket_stream},
};
use simulators::{Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process::root,
    roles::{self, Role},
    scripted::{Script, Scripted},
    streams, wait,
};
use tokio_util::sync::CancellationToken;
use workers::{
    PoolConfig,
    adapters::{Modal, ModalConfig, ModalMode, OpenAi, OpenAiConfig, Replicate, ReplicateConfig},
    provider::{Call, Ended, Health, Progress, Provider, Trail, UsedItem},
};

const ACK_WAIT: Duration = Duration::from_secs(3);

/// The model's name at Replicate.
const SERVED_AS: &str = "acme/llama";

/// One simulated provider, one dispatcher, one producer.
struct Scene {
    server: NatsServer,
    shutdown: CancellationToken,
    simulator: Simulator,
    dispatcher: Role,
    producer: Producer,
}

impl Scene {
    async fn new(kind: Kind, model: SimulatedModel) -> Self {
        let (server, shutdown) = (NatsServer::start().await, CancellationToken::new());
        let config = SimulatorConfig::new("simulated", kind, vec![model]);
        let simulator = simulators::start(config, shutdown.clone()).await.unwrap();
        let dispatcher = dispatcher(&[server.url()]).await;
        let producer = roles::producer(&[server.url()]).await;
        Self { server, shutdown, simulator, dispatcher, producer }
    }

    /// Replicate, whose runs take so long.
    async fn replicate(service_ms: u64) -> Self {
        let mut model = SimulatedModel::new(SERVED_AS);
        (model.slots, model.service_ms_p50, model.service_sigma) = (64, service_ms, 0.2);
        (model.sku, model.price_per_second_nanos) = ("gpu-t4".into(), 225_000);
        Self::new(Kind::Replicate, model).await
    }

    fn pool(&self, id: &str, worker: &str, sku: &str, provider: Arc<dyn Provider>) -> PoolConfig {
        pool(&[self.server.url()], id, worker, sku, provider)
    }

    /// A worker of the pool at Replicate.
    async fn worker(&self, name: &str) -> Role {
        Role::worker(self.pool("replicate@us-east", name, "gpu-t4", adapter(&self.simulator))).await
    }

    /// Submits jobs and waits until the provider runs them all.
    async fn running(&self, count: usize) -> Vec<JobId> {
        let jobs = roles::submit_many(&self.producer, count).await;
        wait::until("all to run", || async {
            (self.simulator.stats().started == count as u64).then_some(())
        })
        .await;
        jobs
    }

    async fn ended(&mut self, jobs: &[JobId]) -> Audit {
        Audit::all_ended(&mut self.producer, jobs).await
    }

    async fn stop(self, worker: Role) {
        worker.stop().await;
        self.dispatcher.stop().await;
        self.producer.close().await;
        self.shutdown.cancel();
        self.simulator.stopped().await;
    }
}

fn adapter(simulator: &Simulator) -> Arc<dyn Provider> {
    let mut config = ReplicateConfig::new(simulator.url());
    config.wait = Duration::ZERO;
    config.poll_min = Duration::from_millis(20);
    Arc::new(Replicate::new(config).unwrap())
}

fn pool(urls: &[String], pool: &str, worker: &str, sku: &str, provider: Arc<dyn Provider>) -> PoolConfig {
    let mut config = roles::pool_config(urls, pool, worker, 32, ACK_WAIT, provider);
    let text = std::fs::read_to_string(root().join("prices.toml")).unwrap();
    config.prices = Arc::new(PriceBook::from_toml(&text).unwrap());
    config.models[0].sku = sku.into();
    config.models[0].served_as = if pool.starts_with("replicate") { SERVED_AS } else { roles::MODEL }.into();
    config
}

async fn dispatcher(urls: &[String]) -> Role {
    let mut config = roles::dispatcher_config(urls, "d1", roles::settings(ACK_WAIT));
    config.offers.accept_within = Duration::from_millis(500);
    config.offers.margin = Duration::from_millis(200);
    config.policy.silent_after = Duration::from_secs(2);
    Role::dispatcher(config).await
}

/// A provider whose worker is lost at a certain moment: when it should write down the id of its run.
struct LostBeforeTheJournal(Arc<dyn Provider>);

/// Forwards everything, but never comes back from writing down an id.
struct NeverWritten<'a>(&'a dyn Progress);

impl Progress for NeverWritten<'_> {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        self.0.submitting()
    }

    fn started<'a>(&'a self, _: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(std::future::pending())
    }

    fn token(&self, text: &str) {
        self.0.token(text);
    }
}

impl Provider for LostBeforeTheJournal {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move { self.0.run(call, &NeverWritten(progress)).await })
    }

    fn reattach<'a>(
        &'a self,
        call: &'a Call,
        run: &'a str,
        age: Duration,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Option<Ended>> {
        self.0.reattach(call, run, age, progress)
    }

    fn find<'a>(&'a self, call: &'a Call, age: Duration) -> BoxFuture<'a, Trail> {
        self.0.find(call, age)
    }

    fn cancel<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.cancel(run)
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        self.0.health()
    }

    fn standing(&self) -> BoxFuture<'_, Option<Vec<UsedItem>>> {
        self.0.standing()
    }
}

/// Every job succeeded in one attempt, each was run once, and the ledger equals the bill.
fn once_and_exact(audit: &Audit, jobs: usize, simulator: &Simulator) {
    assert_eq!(audit.count(Status::Succeeded), jobs);
    assert!(audit.results.values().flatten().all(|result| result.attempts == 1));
    assert_eq!(simulator.stats().started, jobs as u64, "nothing was started twice");
    assert!(audit.costs.iter().all(|cost| !cost.estimated), "nothing had to be guessed");
    assert_eq!(audit.paid()["replicate@us-east"].get(), simulator.bill().total_nanos);
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_of_a_killed_worker_are_gone_on_with_and_billed_once() {
    let mut scene = Scene::replicate(1_500).await;
    let doomed = scene.worker("w1").await;
    let jobs = scene.running(20).await;
    doomed.kill().await;
    let next = scene.worker("w2").await;
    let audit = scene.ended(&jobs).await;
    once_and_exact(&audit, 20, &scene.simulator);
    scene.stop(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_whose_ids_were_never_written_down_are_found_in_the_list() {
    let mut scene = Scene::replicate(300).await;
    let lost = Arc::new(LostBeforeTheJournal(adapter(&scene.simulator)));
    let doomed = Role::worker(scene.pool("replicate@us-east", "w1", "gpu-t4", lost)).await;
    let jobs = scene.running(10).await;
    doomed.kill().await;
    let next = scene.worker("w2").await;
    let audit = scene.ended(&jobs).await;
    once_and_exact(&audit, 10, &scene.simulator);
    scene.stop(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_stops_in_order_leaves_its_runs_to_the_next() {
    let mut scene = Scene::replicate(2_500).await;
    let mut hasty = scene.pool("replicate@us-east", "w1", "gpu-t4", adapter(&scene.simulator));
    hasty.grace = Duration::from_millis(50);
    let first = Role::worker(hasty).await;
    let jobs = scene.running(5).await;
    first.stop().await;
    let next = scene.worker("w2").await;
    let audit = scene.ended(&jobs).await;
    once_and_exact(&audit, 5, &scene.simulator);
    scene.stop(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_that_the_journal_could_not_be_told_of_are_stopped_and_booked_at_a_stop() {
    let mut scene = Scene::replicate(4_000).await;
    let (client, journal) = (scene.producer.client().clone(), bucket_stream(JOURNAL_BUCKET));
    streams::limit(&client, &journal, 16).await;
    let mut hasty = scene.pool("replicate@us-east", "w1", "gpu-t4", adapter(&scene.simulator));
    hasty.grace = Duration::from_millis(50);
    let first = Role::worker(hasty).await;
    let jobs = scene.running(3).await;
    first.stop().await;
    streams::limit(&client, &journal, -1).await;
    let next = scene.worker("w2").await;
    let audit = scene.ended(&jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 3);
    assert_eq!(scene.simulator.stats().started, 6, "nobody could find the first three");
    assert_eq!(audit.paid()["replicate@us-east"].get(), scene.simulator.bill().total_nanos);
    scene.stop(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_two_tenants_with_one_id_are_two_runs() {
    let mut model = SimulatedModel::new(roles::MODEL);
    (model.slots, model.sku, model.price_per_second_nanos) = (4, "T4".into(), 164_000);
    let scene = Scene::new(Kind::Modal, model).await;
    // It starts the same name once within a day.
    let modal = Arc::new(Modal::new(ModalConfig::new(scene.simulator.url(), ModalMode::Spawn)).unwrap());
    let worker = Role::worker(scene.pool("modal@us-east", "w1", "T4", modal)).await;
    let mut request = roles::job("twice");
    request.body.id = Some(producer::request::new_job_id().to_string());
    for tenant in ["acme", "other"] {
        let config = producer::ProducerConfig::new(&scene.server.url(), tenant, "two").unwrap();
        let producer = Producer::connect(config).await.unwrap();
        let result = producer.submit_and_wait(&request, wait::DEADLINE).await.unwrap();
        assert_eq!(result.status, Status::Succeeded, "{tenant}");
        producer.close().await;
    }
    assert_eq!(scene.simulator.stats().started, 2, "the second is not answered with what the first said");
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_nobody_can_find_is_booked_as_possibly_wasted_and_tried_again() {
    let mut model = SimulatedModel::new(roles::MODEL);
    (model.service_ms_p50, model.sku, model.price_per_second_nanos) = (60_000, "T4".into(), 164_000);
    let mut scene = Scene::new(Kind::Modal, model).await;
    // Held for 150 s before it says an id.
    let held = Modal::new(ModalConfig::new(scene.simulator.url(), ModalMode::Wait)).unwrap();
    let doomed = Role::worker(scene.pool("modal@us-east", "w1", "T4", Arc::new(held))).await;
    let jobs = scene.running(2).await;
    doomed.kill().await;
    // One worker of the same pool, whose provider cannot tell: it answers at once, and knows nothing of the past.
    let next = scene.pool("modal@us-east", "w2", "T4", Scripted::new(Script::Succeed));
    let next = Role::worker(next).await;
    let audit = scene.ended(&jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 2);
    assert!(audit.results.values().flatten().all(|result| result.attempts == 2));
    let wasted: Vec<_> = audit.costs.iter().filter(|c| c.purpose == Purpose::WastedFailure).collect();
    assert_eq!(wasted.len(), 2);
    // What a job was expected to take, 100 ms, at the price of a T4.
    assert!(wasted.iter().all(|c| c.estimated && c.attempt == 1 && c.amount_usd == UsdNanos::new(16_400)));
    scene.stop(next).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_whose_pool_is_gone_is_booked_by_whoever_takes_the_job_next() {
    let mut scene = Scene::replicate(60_000).await;
    let doomed = scene.worker("w1").await;
    let jobs = scene.running(3).await;
    doomed.kill().await;
    let other = scene.pool("golem@us-east", "w2", "standard", Scripted::new(Script::Succeed));
    let other = Role::worker(other).await;
    let audit = scene.ended(&jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 3);
    let paid = audit.paid();
    assert_eq!(paid["replicate@us-east"], UsdNanos::new(3 * 22_500), "100 ms of a T4 for each");
    assert_eq!(paid["golem@us-east"], UsdNanos::new(3 * 100_000));
    let wasted: Vec<_> = audit.costs.iter().filter(|c| c.purpose == Purpose::WastedFailure).collect();
    assert!(wasted.len() == 3 && wasted.iter().all(|c| c.estimated && c.attempt == 1));
    scene.stop(other).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn live_output_comes_piece_by_piece_for_jobs_that_ask_for_it() {
    let mut model = SimulatedModel::new(roles::MODEL);
    (model.service_ms_p50, model.price_per_inference_nanos) = (300, 100_000);
    let mut scene = Scene::new(Kind::Golem, model).await;
    let streamed = Arc::new(OpenAi::new(OpenAiConfig::new(scene.simulator.url())).unwrap());
    let worker = Role::worker(scene.pool("golem@us-east", "w1", "standard", streamed)).await;
    let watcher = async_nats::connect(scene.server.url()).await.unwrap();
    let mut pieces = watcher.subscribe("beacon.live.acme.inbox.*").await.unwrap();
    watcher.flush().await.unwrap();
    let quiet = scene.producer.submit(&roles::job("nobody watches")).await.unwrap().job;
    let mut request = roles::job("somebody watches");
    request.body.live = true;
    let watched = scene.producer.submit(&request).await.unwrap().job;
    let audit = scene.ended(&[quiet, watched]).await;
    let whole = audit.results[&watched][0].output.as_ref().unwrap().text.clone();
    let (mut text, mut count) = (String::new(), 0);
    while text.len() < whole.len() {
        let message = tokio::time::timeout(wait::DEADLINE, pieces.next()).await.unwrap().unwrap();
        assert!(message.subject.ends_with(&watched.to_string()), "nobody asked for the other's");
        assert_eq!(message.headers.unwrap().get("Beacon-Schema").unwrap().as_str(), "live.v1");
        let piece: LivePiece = serde_json::from_slice(&message.payload).unwrap();
        assert_eq!((piece.attempt, piece.at), (1, text.len() as u64));
        text.push_str(&piece.text);
        count += 1;
    }
    assert_eq!(text, whole);
    assert!(count > 1, "it came in pieces");
    scene.stop(worker).await;
}

/// Every job was taken back, its run was stopped at the provider, and the ledger equals the bill.
fn stopped_and_exact(audit: &Audit, jobs: usize, simulator: &Simulator) {
    assert_eq!(audit.count(Status::Cancelled), jobs);
    assert_eq!((simulator.stats().started, simulator.stats().running), (jobs as u64, 0));
    assert!(audit.costs.iter().all(|cost| cost.purpose == Purpose::Cancelled));
    let told: u64 = audit.results.values().flatten().map(|result| result.cost_usd.get()).sum();
    assert_eq!(audit.paid()["replicate@us-east"].get(), simulator.bill().total_nanos);
    assert_eq!(told, simulator.bill().total_nanos, "each result says what it cost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_taken_back_is_stopped_at_its_provider_and_what_it_cost_is_booked() {
    let mut scene = Scene::replicate(600_000).await;
    let worker = scene.worker("w1").await;
    let jobs = scene.running(5).await;
    for job in &jobs {
        scene.producer.cancel(Target::Job(*job), "").await.unwrap();
    }
    let audit = scene.ended(&jobs).await;
    stopped_and_exact(&audit, 5, &scene.simulator);
    scene.stop(worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_taken_back_while_its_worker_is_gone_is_stopped_by_the_next() {
    let mut scene = Scene::replicate(600_000).await;
    let doomed = scene.worker("w1").await;
    let jobs = scene.running(3).await;
    doomed.kill().await;
    scene.producer.cancel(Target::Matching(Filter::default()), "").await.unwrap();
    let next = scene.worker("w2").await;
    let audit = scene.ended(&jobs).await;
    stopped_and_exact(&audit, 3, &scene.simulator);
    scene.stop(next).await;
}
