//! Promise: whoever waits for a result gets it, live or stored, and no other job's; who gives up leaves nothing behind; and that some
//! wait for long costs the others nothing.

use std::{sync::atomic::Ordering, time::Duration};

use async_nats::jetstream;
use futures_util::{StreamExt as _, future::join_all, stream};
use producer::{JobRequest, Producer, WaitError, request::new_job_id};
use schemas::{
    JobId, Mailbox, Micros, Tenant,
    failure::{Failure, FailureClass},
    reply::{JobResult, OutputRef, Status},
    topology::PAYLOADS_BUCKET,
};
use tests::{
    by_hand,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use tokio::time::sleep;

const ACK_WAIT: Duration = Duration::from_secs(4);
/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(50);
/// How long the server knows ids of jobs in a [`Scene`].
const WINDOW: Duration = Duration::from_millis(100);

fn acme() -> Tenant {
    "acme".parse().unwrap()
}

fn inbox() -> Mailbox {
    "inbox".parse().unwrap()
}

fn named(job: JobId) -> JobRequest {
    let mut request = roles::job("x");
    request.body.id = Some(job.to_string());
    request
}

/// A server with all streams, and a producer; whoever wants an answer gives it himself.
struct Scene {
    nats: NatsServer,
    producer: Producer,
    client: async_nats::Client,
}

impl Scene {
    async fn new() -> Self {
        let nats = NatsServer::start().await;
        let mut topology = roles::settings(ACK_WAIT);
        topology.jobs_window = WINDOW;
        Role::dispatcher(roles::dispatcher_config(&[nats.url()], "d1", topology)).await.stop().await;
        let producer = roles::producer(&[nats.url()]).await;
        let client = async_nats::connect(nats.url()).await.unwrap();
        Self { nats, producer, client }
    }

    /// Stores the result of a job that lay at `seq`.
    async fn answer(&self, job: JobId, seq: u64, text: &str) {
        self.store(job.result_message(&acme()), &by_hand::result(job, seq, text)).await;
    }

    async fn store(&self, id: String, result: &JobResult) {
        by_hand::store_result(&self.client, (&acme(), &inbox()), id, result).await;
    }
}

fn text(result: Result<JobResult, WaitError>) -> String {
    result.unwrap().output.unwrap().text
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_wait_for_one_job_are_served() {
    let scene = Scene::new().await;
    let job = new_job_id();
    let ticket = scene.producer.submit(&named(job)).await.unwrap();
    let waits = join_all((0..5).map(|_| scene.producer.wait(job, Micros::default(), LONG)));
    let answer = async {
        wait::until("all to wait", || async { (scene.producer.waiting() == 5).then_some(()) }).await;
        scene.answer(job, ticket.seq, "for all").await;
    };
    let (results, ()) = tokio::join!(waits, answer);
    for result in results {
        assert_eq!(text(result), "for all");
    }
    assert_eq!(scene.producer.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_gives_up_leaves_nothing_behind() {
    let scene = Scene::new().await;
    let (job, producer) = (named(new_job_id()), &scene.producer);
    for span in [0, 30] {
        let span = Duration::from_millis(span);
        let _ = tokio::time::timeout(span, producer.submit_and_wait(&job, LONG)).await;
        let _ = tokio::time::timeout(span, producer.wait(new_job_id(), Micros::default(), LONG)).await;
        let mut many =
            Box::pin(producer.run_all(stream::iter((0..20).map(|n| roles::job(&n.to_string()))), 20, LONG));
        let _ = tokio::time::timeout(span, many.next()).await;
    }
    assert_eq!(producer.waiting(), 0);
    let late = producer.submit_and_wait(&job, Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(late, WaitError::Timeout(_)), "{late}");
    let late = producer.wait(new_job_id(), Micros::default(), Duration::from_millis(1)).await.unwrap_err();
    assert!(matches!(late, WaitError::Silent(_)) && !late.to_string().contains("accepted"), "{late}");
    let mut elsewhere = roles::job("x");
    elsewhere.body.mailbox = Some("other".into());
    let refused = producer.submit_and_wait(&elsewhere, LONG).await.unwrap_err().to_string();
    assert!(refused.contains("other") && refused.contains("inbox"), "{refused}");
    assert_eq!(producer.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_id_that_has_ended_is_answered_with_its_stored_result() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider.clone())).await;
    let producer = roles::producer(&urls).await;
    let job = named(new_job_id());
    let first = producer.submit_and_wait(&job, LONG).await.unwrap();
    let (again, other) = (producer.submit_and_wait(&job, LONG), roles::producer(&urls));
    let (again, other) = tokio::join!(again, other);
    assert_eq!(again.unwrap(), first);
    // Another process asks for the same, and for what it knows only the id of.
    assert_eq!(other.submit_and_wait(&job, LONG).await.unwrap(), first);
    assert_eq!(other.wait(first.job, Micros::default(), LONG).await.unwrap(), first);
    assert_eq!(provider.begun(), 1);
    worker.stop().await;
    dispatcher.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_jobs_with_one_id_each_hears_how_it_ended_itself() {
    let scene = Scene::new().await;
    let (job, producer) = (new_job_id(), &scene.producer);
    let request = named(job);
    let first = producer.submit(&request).await.unwrap();
    // The server has forgotten the id.
    sleep(WINDOW * 3).await;
    let second = producer.submit_and_wait(&request, LONG);
    let answer = async {
        wait::until("it to be submitted", || async { (producer.waiting() == 1).then_some(()) }).await;
        scene.answer(job, first.seq, "the first").await;
        let taken = JobResult {
            status: Status::Failed,
            output: None,
            error: Some(Failure::new(FailureClass::IdTaken, "taken since then")),
            ..by_hand::result(job, first.seq + 1, "")
        };
        scene.store(job.taken_message(&acme(), first.seq + 1), &taken).await;
    };
    let (second, ()) = tokio::join!(second, answer);
    assert_eq!(second.unwrap().error.unwrap().class, FailureClass::IdTaken);
    // Who knows only the id means the job that has it.
    assert_eq!(text(producer.wait(job, Micros::default(), LONG).await), "the first");
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_come_while_the_connection_is_away_are_found() {
    let mut scene = Scene::new().await;
    let jobs: Vec<JobId> = (0..200).map(|_| new_job_id()).collect();
    let submits = jobs.iter().map(|job| async { scene.producer.submit(&named(*job)).await.unwrap().seq });
    let seqs = join_all(submits).await;
    let Scene { nats, producer, .. } = &mut scene;
    let waits = join_all(jobs.iter().map(|job| producer.wait(*job, Micros::default(), LONG)));
    let answers = async {
        wait::until("all to wait", || async { (producer.waiting() == jobs.len()).then_some(()) }).await;
        nats.restart().await;
        // A fresh connection is sooner than one that comes back.
        let client = async_nats::connect(nats.url()).await.unwrap();
        for (job, seq) in jobs.iter().zip(&seqs) {
            let result = by_hand::result(*job, *seq, "after the break");
            by_hand::store_result(&client, (&acme(), &inbox()), job.result_message(&acme()), &result).await;
        }
    };
    let (results, ()) = tokio::join!(waits, answers);
    assert!(results.into_iter().all(|result| text(result) == "after the break"));
}

#[tokio::test(flavor = "multi_thread")]
async fn while_some_wait_for_long_stored_results_are_read_once() {
    const OTHERS: u64 = 3_000;
    let scene = Scene::new().await;
    let (slow, producer) = (new_job_id(), &scene.producer);
    let seq = producer.submit(&named(slow)).await.unwrap().seq;
    let received = || producer.client().statistics().in_messages.load(Ordering::Relaxed);
    let mut looks = scene.client.subscribe("$JS.EVENT.ADVISORY.CONSUMER.CREATED.REPLIES.*").await.unwrap();
    let before = received();
    let waits = producer.wait(slow, Micros::default(), LONG);
    let others = async {
        for n in 0..OTHERS {
            let job = new_job_id();
            let to = (&acme(), &inbox());
            by_hand::store_result(
                &scene.client,
                to,
                job.result_message(&acme()),
                &by_hand::result(job, n + 2, ""),
            )
            .await;
        }
        while futures_util::FutureExt::now_or_never(looks.next()).flatten().is_some() {}
        // By now it has waited for long, and stored results are looked at again and again.
        for _ in 0..4 {
            looks.next().await.unwrap();
        }
        scene.answer(slow, seq, "at last").await;
    };
    let (result, ()) = tokio::join!(waits, others);
    assert_eq!(text(result), "at last");
    // Live, and once as headers; a little for each look, of which there are more on a slow machine. Read anew at each look it
    // would be many times as much.
    let read = received() - before;
    assert!(read < 3 * OTHERS, "{read} messages for {OTHERS} results");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_in_the_object_store_is_put_into_the_result() {
    let scene = Scene::new().await;
    let store = jetstream::new(scene.client.clone()).get_object_store(PAYLOADS_BUCKET).await.unwrap();
    let long = "y".repeat(300_000);
    let output = serde_json::json!({ "text": long, "finish_reason": "stop" }).to_string();
    let job = new_job_id();
    store.put(format!("{job}.output").as_str(), &mut output.as_bytes()).await.unwrap();
    let referred = |job: JobId, seq| JobResult {
        output: None,
        output_ref: Some(OutputRef { object: format!("{job}.output"), bytes: output.len() as u64 }),
        ..by_hand::result(job, seq, "")
    };
    let waits = |job| {
        let (producer, request) = (&scene.producer, named(job));
        async move { producer.submit_and_wait(&request, LONG).await }
    };
    let (result, ()) = tokio::join!(waits(job), async {
        wait::until("it to wait", || async { (scene.producer.waiting() == 1).then_some(()) }).await;
        scene.store(job.result_message(&acme()), &referred(job, 1)).await;
    });
    assert_eq!(text(result), long);
    assert_eq!(text(scene.producer.wait(job, Micros::default(), LONG).await), long);
    // One whose output is gone says so, and the rest of the result is there.
    let gone = new_job_id();
    scene.store(gone.result_message(&acme()), &referred(gone, 2)).await;
    let error = scene.producer.wait(gone, Micros::default(), LONG).await.unwrap_err();
    let WaitError::Output(error) = error else { panic!("{error}") };
    assert_eq!(error.result.job, gone);
    let said = format!("{error}: {}", error.source);
    assert!(said.contains(&gone.to_string()) && said.contains("is not in bucket"), "{said}");
}
