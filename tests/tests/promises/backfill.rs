//! Promise: a backfill runs every line of its file exactly once and writes down how each ended exactly once, whoever is killed,
//! however often, whatever is lost of its state; and it stops before it costs more than it may.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use producer::{
    Producer,
    backfill::{self, Backfill, Control, Ending, Options, Snapshot},
};
use schemas::{Lane, UsdNanos, catalog::Catalog};
use serde_json::Value;
use tests::{
    by_hand,
    nats_server::NatsServer,
    process::{self, Process},
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use tokio_util::sync::CancellationToken;
use transport::{api, payloads};

const ACK_WAIT: Duration = Duration::from_secs(10);

pub(crate) struct Scene {
    folder: tempfile::TempDir,
    nats: NatsServer,
    pub(crate) provider: Arc<Scripted>,
    dispatcher: Role,
    worker: Role,
}

impl Scene {
    pub(crate) async fn new(script: Script, slots: u32) -> Self {
        let nats = NatsServer::start().await;
        let provider = Scripted::new(script);
        let (urls, mut topology) = ([nats.url()], roles::settings(ACK_WAIT));
        // The server forgets ids at once: what is not run twice is not run twice by what the backfill knows.
        topology.jobs_window = Duration::from_millis(100);
        let dispatcher = Role::dispatcher(roles::dispatcher_config(&urls, "d1", topology)).await;
        let pool = roles::pool_config(&urls, "golem@us-east", "w1", slots, ACK_WAIT, provider.clone());
        let worker = Role::worker(pool).await;
        Self { folder: tempfile::tempdir().unwrap(), nats, provider, dispatcher, worker }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of good lines, half of them as OpenAI writes them.
    fn file(&self, lines: usize) -> PathBuf {
        let mut text = String::new();
        for n in 1..=lines {
            let model = roles::MODEL;
            if n % 2 == 0 {
                writeln!(text, r#"{{"custom_id":"c{n}","model":"{model}","prompt":"prompt {n}"}}"#).unwrap();
            } else {
                let body = format!(r#"{{"model":"{model}","messages":[{{"role":"user","content":"{n}"}}]}}"#);
                writeln!(
                    text,
                    r#"{{"custom_id":"c{n}","method":"POST","url":"/v1/chat/completions","body":{body}}}"#
                )
                .unwrap();
            }
        }
        let path = self.path("prompts.jsonl");
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn options(&self, file: &Path) -> Options {
        Options {
            folder: self.path("state"),
            file: file.to_owned(),
            name: "prompts".into(),
            tenant: "acme".parse().unwrap(),
            region: roles::REGION.parse().unwrap(),
            model: None,
            lane: Lane::Low,
            catalog: Catalog::new(vec![roles::MODEL.into()]).unwrap(),
            regions: vec![roles::REGION.parse().unwrap()],
            outstanding: 50,
            max_cost: None,
            listen: Duration::from_millis(1_500),
        }
    }

    pub(crate) async fn producer(&self) -> Producer {
        roles::producer(&[self.nats.url()]).await
    }

    pub(crate) async fn run(&self, options: Options) -> (Ending, Snapshot) {
        let producer = self.producer().await;
        let mut backfill = Backfill::open(options).unwrap();
        let ending = backfill.run(&producer, &CancellationToken::new(), &mut |_| {}).await.unwrap();
        producer.close().await;
        (ending, backfill.snapshot())
    }

    /// What a real process needs to run the same backfill.
    pub(crate) fn config(&self) -> String {
        process::config(self.folder.path(), &self.nats.url())
    }

    pub(crate) async fn stop(self) {
        self.provider.release();
        self.worker.stop().await;
        self.dispatcher.stop().await;
    }
}

/// How often each `custom_id` stands in a file of output.
fn ids(path: &Path) -> BTreeMap<String, usize> {
    let mut found = BTreeMap::new();
    for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        *found.entry(line["custom_id"].as_str().unwrap_or("-").to_owned()).or_default() += 1;
    }
    found
}

/// Every line stands in the output once, and was run once.
pub(crate) fn check_once(scene: &Scene, folder: &Path, lines: usize) {
    let found = ids(&folder.join("results.jsonl"));
    assert!(found.values().all(|count| *count == 1), "a line stands there twice");
    let expected: Vec<String> = (1..=lines).map(|n| format!("c{n}")).collect();
    assert!(expected.iter().all(|id| found.contains_key(id)), "{} of {lines}", found.len());
    assert_eq!(found.len(), lines);
    let runs = scene.provider.runs();
    assert_eq!(runs.len(), lines, "as many jobs as lines");
    assert!(runs.values().all(|count| *count == 1), "a job was run twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_line_ends_once_and_running_it_again_repeats_nothing() {
    let scene = Scene::new(Script::Succeed, 16).await;
    let file = scene.file(300);
    let (ending, snapshot) = scene.run(scene.options(&file)).await;
    assert_eq!((ending, snapshot.succeeded, snapshot.failed), (Ending::Finished, 300, 0));
    assert_eq!(snapshot.spent_usd, UsdNanos::new(300 * 100_000));
    let (ending, _) = scene.run(scene.options(&file)).await;
    assert_eq!(ending, Ending::Finished);
    check_once(&scene, &scene.path("state"), 300);
    let first = std::fs::read_to_string(scene.path("state/results.jsonl")).unwrap();
    let chat: Value = serde_json::from_str(first.lines().find(|l| l.contains("\"c1\"")).unwrap()).unwrap();
    assert_eq!(chat["response"]["body"]["object"], "chat.completion");
    assert_eq!(chat["response"]["body"]["choices"][0]["message"]["role"], "assistant");
    // The state is lost, and the streams still know.
    std::fs::remove_dir_all(scene.path("state")).unwrap();
    let (ending, snapshot) = scene.run(scene.options(&file)).await;
    assert_eq!((ending, snapshot.succeeded), (Ending::Finished, 300));
    check_once(&scene, &scene.path("state"), 300);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_line_is_told_and_the_rest_runs() {
    let scene = Scene::new(Script::Succeed, 16).await;
    let model = roles::MODEL;
    let text = format!(
        "{{\"custom_id\":\"a\",\"model\":\"{model}\",\"prompt\":\"x\"}}\n\n\
         {{\"custom_id\":\"b\",\"model\":\"nobody\",\"prompt\":\"x\"}}\nnot json\n\
         {{\"custom_id\":\"a\",\"model\":\"{model}\",\"prompt\":\"again\"}}\n\
         {{\"custom_id\":\"e\",\"model\":\"{model}\",\"prompt\":\"x\",\"temperature\":9}}\n"
    );
    let file = scene.path("prompts.jsonl");
    std::fs::write(&file, text).unwrap();
    let (ending, snapshot) = scene.run(scene.options(&file)).await;
    assert_eq!((ending, snapshot.succeeded, snapshot.failed), (Ending::Finished, 1, 4));
    let errors = std::fs::read_to_string(scene.path("state/errors.jsonl")).unwrap();
    for words in [
        ["line 3", "model", "nobody"],
        ["line 4", "expected", "not json"],
        ["line 5", "custom_id", "again"],
        ["line 6", "temperature", "0 to 2"],
    ] {
        let line = errors.lines().find(|line| line.contains(words[0])).unwrap();
        assert!(words.iter().all(|word| line.contains(word)), "{line}");
        assert!(line.contains("prompts.jsonl"));
    }
    assert_eq!(scene.provider.begun(), 1);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_again_and_again_it_loses_nothing_and_runs_nothing_twice() {
    let scene = Scene::new(Script::Succeed, 4).await;
    let (file, config) = (scene.file(3_000), scene.config());
    let folder = PathBuf::from(format!("{}.beacon", file.display()));
    let args = ["backfill", "run", file.to_str().unwrap(), "--config", &config, "--outstanding", "100"];
    let start = |round: u32| Process::start(&args, &scene.path(&format!("run{round}.log")));
    let mut seen = 0;
    for round in 0..2 {
        let running = start(round);
        wait::until("some more jobs to run", || async {
            (scene.provider.begun() > seen + 250).then_some(())
        })
        .await;
        running.kill();
        seen = scene.provider.begun();
    }
    // Jobs that are out and have no result: only the job streams know of them.
    scene.provider.set(Script::Hold);
    let running = start(2);
    let jobs = scene.producer().await;
    let out = async || {
        let info =
            api::ask(jobs.client(), "CONSUMER.INFO.JOBS_us-east.d-llama-3-2-1b-low", &Value::Null).await;
        let info = info.unwrap();
        api::number(&info, "num_pending").unwrap() + api::number(&info, "num_ack_pending").unwrap()
    };
    wait::until("all that may be out to be out", || async { (out().await >= 100).then_some(()) }).await;
    running.kill();
    // Once with what it had written down, once without.
    let running = start(3);
    wait::until("it to know what is out", || async {
        let known = backfill::look(&folder).unwrap().unwrap().1;
        (known.submitted > known.succeeded + 90).then_some(())
    })
    .await;
    running.kill();
    assert!(out().await <= 110, "what was out is out once");
    std::fs::remove_dir_all(&folder).unwrap();
    scene.provider.release();
    let output = tokio::task::block_in_place(|| process::run(&args));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check_once(&scene, &folder, 3_000);
    jobs.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_it_and_it_goes_on_later() {
    let scene = Scene::new(Script::Succeed, 16).await;
    let (file, config) = (scene.file(600), scene.config());
    let folder = PathBuf::from(format!("{}.beacon", file.display()));
    // No file may grow past 100 KiB: what a full disk does, without filling one.
    let script = "ulimit -f 100; trap '' XFSZ; exec \"$@\"";
    let beacon = process::beacon();
    let args = ["backfill", "run", file.to_str().unwrap(), "--config", &config];
    let output = tokio::task::block_in_place(|| {
        Command::new("bash")
            .args(["-c", script, "bash", beacon.to_str().unwrap()])
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    });
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("results.jsonl") && said.contains("File too large"), "{said}");
    let output = tokio::task::block_in_place(|| process::run(&args));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check_once(&scene, &folder, 600);
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_refused_and_a_touched_one_is_not() {
    let scene = Scene::new(Script::Succeed, 16).await;
    let (file, config) = (scene.file(20), scene.config());
    let args = ["backfill", "run", file.to_str().unwrap(), "--config", &config];
    assert!(tokio::task::block_in_place(|| process::run(&args)).status.success());
    let text = std::fs::read(&file).unwrap();
    std::fs::write(&file, &text).unwrap();
    assert!(tokio::task::block_in_place(|| process::run(&args)).status.success());
    std::fs::write(&file, String::from_utf8(text).unwrap().replace("prompt 4", "prompt 5")).unwrap();
    let output = tokio::task::block_in_place(|| process::run(&args));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), said.trim().lines().count()), (Some(2), 1), "{said}");
    assert!(said.contains("has changed") && said.contains("--name"), "{said}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_are_out_than_said_and_a_pause_and_a_cancellation_are_obeyed() {
    let scene = Scene::new(Script::Hold, 64).await;
    let file = scene.file(40);
    let options = Options { outstanding: 5, ..scene.options(&file) };
    let producer = scene.producer().await;
    let mut backfill = Backfill::open(options).unwrap();
    let folder = scene.path("state");
    let (tell, mut told) = tokio::sync::mpsc::channel::<Snapshot>(64);
    let (shutdown, provider) = (CancellationToken::new(), scene.provider.clone());
    let mut hear = |snapshot: &Snapshot| drop(tell.try_send(snapshot.clone()));
    let running = backfill.run(&producer, &shutdown, &mut hear);
    let looking = async {
        let full = |s: &Snapshot| s.running == 5;
        while !told.recv().await.is_some_and(|s| full(&s)) {}
        // It was told twice more meanwhile, and no more went out.
        for _ in 0..2 {
            assert!(full(&told.recv().await.unwrap()));
        }
        assert_eq!(provider.begun(), 5);
        backfill::ask(&folder, Control::Pause).unwrap();
        while told.recv().await.unwrap().asked != Control::Pause {}
        provider.release();
        while told.recv().await.unwrap().running > 0 {}
        assert_eq!(provider.begun(), 5, "nothing was submitted during the pause");
        backfill::ask(&folder, Control::Run).unwrap();
        wait::until("it to go on", || async { (provider.begun() > 5).then_some(()) }).await;
        backfill::ask(&folder, Control::Cancel).unwrap();
    };
    let (ending, ()) = tokio::join!(running, looking);
    let ending = ending.unwrap();
    let snapshot = backfill.snapshot();
    // It may have been through before it heard.
    assert!(matches!(ending, Ending::Cancelled | Ending::Finished), "{ending:?}");
    let (results, errors) = (ids(&folder.join("results.jsonl")), ids(&folder.join("errors.jsonl")));
    assert_eq!(results.len() as u64, snapshot.succeeded);
    assert_eq!(errors.len() as u64, snapshot.failed);
    assert!(results.keys().all(|id| !errors.contains_key(id)));
    producer.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_stops_before_it_costs_more_than_it_may_and_goes_on_with_more() {
    let scene = Scene::new(Script::Succeed, 16).await;
    let file = scene.file(60);
    let limit = UsdNanos::new(25 * 100_000 + 1);
    let (ending, snapshot) = scene.run(Options { max_cost: Some(limit), ..scene.options(&file) }).await;
    assert_eq!((ending, snapshot.succeeded), (Ending::CostLimit, 25));
    assert!(snapshot.spent_usd <= limit);
    let (ending, snapshot) = scene.run(scene.options(&file)).await;
    assert_eq!((ending, snapshot.succeeded), (Ending::Finished, 60));
    check_once(&scene, &scene.path("state"), 60);
    scene.stop().await;
}

/// What a backfill's line is to the server.
fn ids_of(options: &Options, lines: std::ops::RangeInclusive<u64>) -> Vec<schemas::JobId> {
    lines.map(|n| options.job(&format!("c{n}"))).collect()
}

/// Runs until all jobs that may be out are, then stops, as a person does.
async fn run_until_out(scene: &Scene, options: Options) {
    let producer = scene.producer().await;
    let mut backfill = Backfill::open(options).unwrap();
    let shutdown = CancellationToken::new();
    let (provider, stop, before) = (scene.provider.clone(), shutdown.clone(), scene.provider.begun());
    let watching = async {
        wait::until("jobs to be out", || async { (provider.begun() >= before + 5).then_some(()) }).await;
        stop.cancel();
    };
    let mut tell = |_: &Snapshot| {};
    let (ending, ()) = tokio::join!(backfill.run(&producer, &shutdown, &mut tell), watching);
    assert_eq!(ending.unwrap(), Ending::Stopped);
    producer.close().await;
}

/// The state of a stream, by a path such as `state/messages`.
async fn stream_number(producer: &Producer, stream: &str, path: &str) -> u64 {
    let info = api::ask(producer.client(), &format!("STREAM.INFO.{stream}"), &Value::Null).await.unwrap();
    api::number(&info, path).unwrap()
}

/// Deletes `REPLIES`, and waits until the dispatcher has made it anew.
async fn make_replies_anew(producer: &Producer) {
    api::ask(producer.client(), "STREAM.DELETE.REPLIES", &Value::Null).await.unwrap();
    let back = || async { api::ask(producer.client(), "STREAM.INFO.REPLIES", &Value::Null).await.ok() };
    wait::until("the stream to be made anew", back).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_is_not_kept_any_more_ends_its_line_with_the_reason_and_the_cost() {
    for anew in [false, true] {
        let scene = Scene::new(Script::Hold, 16).await;
        let file = scene.file(8);
        let options = Options { outstanding: 5, ..scene.options(&file) };
        run_until_out(&scene, options.clone()).await;
        scene.provider.release();
        let producer = scene.producer().await;
        let booked =
            || async { (stream_number(&producer, "LEDGER", "state/messages").await >= 5).then_some(()) };
        wait::until("all that is out to have ended", booked).await;
        // Nobody read the results, and they are gone.
        if anew {
            make_replies_anew(&producer).await;
        } else {
            api::purge(producer.client(), "REPLIES", "beacon.reply.>").await.unwrap();
        }
        let mut backfill = Backfill::open(options).unwrap();
        let ending = backfill.run(&producer, &CancellationToken::new(), &mut |_| {}).await.unwrap();
        let snapshot = backfill.snapshot();
        assert_eq!((ending, snapshot.succeeded, snapshot.failed), (Ending::Finished, 3, 5), "anew: {anew}");
        assert_eq!(backfill.lost(), [1, 2, 3, 4, 5]);
        assert_eq!(
            snapshot.spent_usd,
            UsdNanos::new(8 * 100_000),
            "the ledger knows what the lost ones cost"
        );
        let errors = std::fs::read_to_string(scene.path("state/errors.jsonl")).unwrap();
        let told = |line: &str| line.contains("result_lost") && line.contains("--name");
        assert!(errors.lines().count() == 5 && errors.lines().all(told), "{errors}");
        assert!(scene.provider.runs().values().all(|count| *count == 1), "a job was run twice");
        producer.close().await;
        scene.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn results_that_are_lost_are_told_also_when_the_state_is_lost_too() {
    let scene = Scene::new(Script::Succeed, 16).await;
    let file = scene.file(40);
    let options = Options { outstanding: 10, ..scene.options(&file) };
    let (ending, _) = scene.run(options.clone()).await;
    assert_eq!(ending, Ending::Finished);
    let producer = scene.producer().await;
    std::fs::remove_dir_all(scene.path("state")).unwrap();
    // Of all results the last 30 are left.
    let last = stream_number(&producer, "REPLIES", "state/last_seq").await;
    let body = serde_json::json!({ "seq": last - 29 });
    api::ask(producer.client(), "STREAM.PURGE.REPLIES", &body).await.unwrap();
    let (ending, snapshot) = scene.run(options).await;
    assert_eq!((ending, snapshot.succeeded, snapshot.failed), (Ending::Finished, 30, 10));
    assert_eq!(snapshot.spent_usd, UsdNanos::new(40 * 100_000));
    assert!(scene.provider.runs().values().all(|count| *count == 1), "a job was run twice");
    producer.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn results_made_anew_under_a_run_end_it_and_the_next_run_goes_on() {
    let scene = Scene::new(Script::Hold, 16).await;
    let file = scene.file(8);
    let options = Options { outstanding: 5, ..scene.options(&file) };
    let producer = scene.producer().await;
    let mut backfill = Backfill::open(options.clone()).unwrap();
    let (shutdown, hear) = (CancellationToken::new(), &mut |_: &Snapshot| {});
    let deleting = async {
        wait::until("jobs to be out", || async { (scene.provider.begun() == 5).then_some(()) }).await;
        make_replies_anew(&producer).await;
    };
    let (ending, ()) = tokio::join!(backfill.run(&producer, &shutdown, hear), deleting);
    let error = ending.unwrap_err();
    drop(backfill);
    scene.provider.release();
    let (ending, snapshot) = scene.run(options).await;
    assert_eq!((ending, snapshot.succeeded, snapshot.failed), (Ending::Finished, 8, 0), "{error}");
    check_once(&scene, &scene.path("state"), 8);
    producer.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_does_not_read_ends_its_line_with_the_reason_and_the_cost_also_after_a_stop() {
    let scene = Scene::new(Script::Hold, 16).await;
    let file = scene.file(8);
    let options = Options { outstanding: 5, ..scene.options(&file) };
    run_until_out(&scene, options.clone()).await;
    let (producer, mailbox) = (scene.producer().await, options.mailbox());
    let tenant = "acme".parse().unwrap();
    let jobs = ids_of(&options, 1..=5);
    // The results of a newer version: two of them while nobody runs it, one more while it runs.
    let store = async |nth: usize| {
        by_hand::store_unread(producer.client(), (&tenant, &mailbox), jobs[nth]).await;
        let wasted = by_hand::wasted(jobs[nth], &tenant, 0, "0.002".parse().unwrap());
        by_hand::store_cost(producer.client(), (&tenant, &mailbox), &wasted).await;
    };
    store(0).await;
    store(1).await;
    // A run that is stopped once it has read them hides them from no later one.
    let (shutdown, mut told) = (CancellationToken::new(), 0);
    let mut backfill = Backfill::open(options.clone()).unwrap();
    let mut stop = |_: &Snapshot| {
        told += 1;
        if told == 3 {
            shutdown.cancel();
        }
    };
    let ending = backfill.run(&producer, &shutdown, &mut stop).await.unwrap();
    assert_eq!(ending, Ending::Stopped);
    drop(backfill);
    let mut backfill = Backfill::open(options).unwrap();
    let (shutdown, failed) = (CancellationToken::new(), AtomicU64::new(0));
    let going_on = async {
        store(2).await;
        wait::until("all three to be told", || async { (failed.load(Ordering::SeqCst) == 3).then_some(()) })
            .await;
        scene.provider.release();
    };
    let mut tell = |so_far: &Snapshot| failed.store(so_far.failed, Ordering::SeqCst);
    let (ending, ()) = tokio::join!(backfill.run(&producer, &shutdown, &mut tell), going_on);
    let snapshot = backfill.snapshot();
    assert_eq!((ending.unwrap(), snapshot.succeeded, snapshot.failed), (Ending::Finished, 5, 3));
    let errors = std::fs::read_to_string(scene.path("state/errors.jsonl")).unwrap();
    for (line, job) in errors.lines().zip(&jobs) {
        for part in ["result_unreadable", "\"0.002\"", &job.to_string()] {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    assert_eq!(errors.lines().count(), 3);
    assert_eq!(snapshot.spent_usd, UsdNanos::new(5 * 100_000 + 3 * 2_000_000));
    producer.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_can_read_no_results_any_more_ends_with_the_reason() {
    let scene = Scene::new(Script::Hold, 16).await;
    let file = scene.file(5);
    let (options, producer) = (scene.options(&file), scene.producer().await);
    let mut backfill = Backfill::open(options).unwrap();
    let (shutdown, hear) = (CancellationToken::new(), &mut |_: &Snapshot| {});
    let closing = async {
        wait::until("jobs to be out", || async { (scene.provider.begun() == 5).then_some(()) }).await;
        producer.client().drain().await.unwrap();
    };
    let (ending, ()) = tokio::join!(backfill.run(&producer, &shutdown, hear), closing);
    let said = ending.unwrap_err().to_string();
    assert!(!said.is_empty(), "{said}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_in_the_object_store_is_in_the_file_and_one_that_is_gone_is_told() {
    const LARGE: usize = 2 * 1024 * 1024;
    let scene = Scene::new(Script::Write(LARGE), 4).await;
    let file = scene.file(4);
    let options = scene.options(&file);
    let (ending, snapshot) = scene.run(options.clone()).await;
    assert_eq!((ending, snapshot.succeeded), (Ending::Finished, 4));
    let whole = |path: &Path| {
        let text = std::fs::read_to_string(path).unwrap();
        let long = |line: &&str| line.contains(&"x".repeat(LARGE));
        assert_eq!(text.lines().filter(long).count(), text.lines().count(), "each line has its output");
    };
    whole(&scene.path("state/results.jsonl"));
    check_once(&scene, &scene.path("state"), 4);
    // The output is written from the streams again, and one of the objects is gone.
    let producer = scene.producer().await;
    let job = ids_of(&options, 1..=4)[2];
    let found = producer::log::results_of(producer.client(), None, &[job].into(), None).await.unwrap();
    let place = found[&job].output_ref.clone().expect("a reference");
    payloads::remove_output(producer.client(), &place).await.unwrap();
    std::fs::remove_dir_all(scene.path("state")).unwrap();
    let (ending, snapshot) = scene.run(options).await;
    assert_eq!((ending, snapshot.succeeded, snapshot.failed), (Ending::Finished, 3, 1));
    whole(&scene.path("state/results.jsonl"));
    let errors = std::fs::read_to_string(scene.path("state/errors.jsonl")).unwrap();
    for part in ["\"c3\"", "output_lost", &place.object, "0.0001"] {
        assert!(errors.contains(part), "{part}: {errors}");
    }
    assert!(scene.provider.runs().values().all(|count| *count == 1), "a job was run twice");
    producer.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_jobs_cost_that_have_not_ended_counts_at_once() {
    let scene = Scene::new(Script::Hold, 16).await;
    let file = scene.file(30);
    let options = Options { outstanding: 5, max_cost: Some("0.01".parse().unwrap()), ..scene.options(&file) };
    let (producer, mailbox) = (scene.producer().await, options.mailbox());
    let jobs = ids_of(&options, 1..=5);
    let mut backfill = Backfill::open(options).unwrap();
    let (shutdown, seen) = (CancellationToken::new(), AtomicU64::new(0));
    let spending = async {
        wait::until("jobs to be out", || async { (scene.provider.begun() == 5).then_some(()) }).await;
        let client = async_nats::connect(scene.nats.url()).await.unwrap();
        let tenant = "acme".parse().unwrap();
        for (key, job) in (0..).zip(&jobs) {
            let wasted = by_hand::wasted(*job, &tenant, key, "0.002".parse().unwrap());
            by_hand::store_cost(&client, (&tenant, &mailbox), &wasted).await;
        }
        let limit: UsdNanos = "0.01".parse().unwrap();
        wait::until("it to be known", || async {
            (seen.load(Ordering::SeqCst) >= limit.get()).then_some(())
        })
        .await;
        scene.provider.release();
    };
    let mut tell = |so_far: &Snapshot| seen.store(so_far.spent_usd.get(), Ordering::SeqCst);
    let (ending, ()) = tokio::join!(backfill.run(&producer, &shutdown, &mut tell), spending);
    assert_eq!(ending.unwrap(), Ending::CostLimit);
    let snapshot = backfill.snapshot();
    assert_eq!(snapshot.succeeded, 5, "nothing went out after the money was gone");
    assert!(snapshot.spent_usd >= "0.01".parse().unwrap(), "{}", snapshot.spent_usd);
    producer.close().await;
    scene.stop().await;
}
