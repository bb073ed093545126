//! Promise: jobs of the past run again, each once per replay, whoever is killed; under ids of their own, with their cost
//! booked apart; and dead letters are found, shown and purged by what went wrong.

use std::{collections::BTreeMap, path::Path, process::Output, sync::Arc, time::Duration};

use producer::Producer;
use schemas::{
    JobId,
    failure::{Failure, FailureClass},
    reply::Status,
    topology::DEAD,
};
use serde_json::Value;
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process::{self, Process},
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::{api, payloads};

const ACK_WAIT: Duration = Duration::from_secs(10);

struct Scene {
    folder: tempfile::TempDir,
    nats: NatsServer,
    producer: Producer,
    provider: Arc<Scripted>,
    dispatcher: Role,
    workers: Vec<Role>,
}

impl Scene {
    async fn new(script: Script) -> Self {
        let nats = NatsServer::start().await;
        let urls = [nats.url()];
        let mut topology = roles::settings(ACK_WAIT);
        // The server forgets ids at once: what is not replayed twice is not by what the replay knows.
        topology.jobs_window = Duration::from_millis(100);
        let dispatcher = Role::dispatcher(roles::dispatcher_config(&urls, "d1", topology)).await;
        let provider = Scripted::new(script);
        let pool = |name: &str| roles::pool_config(&urls, name, "w1", 16, ACK_WAIT, provider.clone());
        let workers =
            vec![Role::worker(pool("golem@us-east")).await, Role::worker(pool("modal@us-east")).await];
        let producer = roles::producer(&urls).await;
        Self { folder: tempfile::tempdir().unwrap(), nats, producer, provider, dispatcher, workers }
    }

    fn config(&self) -> String {
        process::config(self.folder.path(), &self.nats.url())
    }

    /// Runs the command to its end.
    fn beacon(&self, args: &[&str]) -> Output {
        let (config, state) = (self.config(), self.folder.path().join("state"));
        let mut all = args.to_vec();
        all.extend(["--config", &config]);
        if args[0] == "replay" {
            all.extend(["--state", state.to_str().unwrap()]);
        }
        tokio::task::block_in_place(|| process::run(&all))
    }

    /// Runs the command, which must go well, and gives what it printed.
    fn said(&self, args: &[&str]) -> String {
        let output = self.beacon(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Submits jobs that fail for good, and waits for their dead letters.
    async fn dead(&mut self, count: usize, class: FailureClass, message: &str) -> Vec<JobId> {
        self.provider.set(Script::Fail(Failure::new(class, message)));
        let jobs = roles::submit_many(&self.producer, count).await;
        self.ended(&jobs).await;
        jobs
    }

    async fn ended(&mut self, jobs: &[JobId]) -> Audit {
        let end = tokio::time::Instant::now() + wait::DEADLINE;
        loop {
            let audit = Audit::read(&mut self.producer).await;
            if jobs.iter().all(|job| audit.results.contains_key(job)) {
                return audit;
            }
            assert!(tokio::time::Instant::now() < end, "jobs have not ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Waits until there are `count` results of replays, and gives how often each job was replayed.
    async fn replayed(&mut self, count: usize) -> BTreeMap<JobId, usize> {
        let end = tokio::time::Instant::now() + wait::DEADLINE;
        loop {
            let audit = Audit::read(&mut self.producer).await;
            let mut times: BTreeMap<JobId, usize> = BTreeMap::new();
            for result in audit.results.values().flatten() {
                if let Some(of) = result.replay_of {
                    *times.entry(of).or_default() += 1;
                }
            }
            if times.values().sum::<usize>() >= count {
                return times;
            }
            assert!(tokio::time::Instant::now() < end, "{times:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn stop(self) {
        self.provider.release();
        for worker in self.workers {
            worker.stop().await;
        }
        self.dispatcher.stop().await;
        self.producer.close().await;
    }
}

fn once(jobs: &[JobId]) -> BTreeMap<JobId, usize> {
    jobs.iter().map(|job| (*job, 1)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_run_again_once_with_their_cost_booked_apart() {
    let mut scene = Scene::new(Script::Succeed).await;
    let jobs = scene.dead(12, FailureClass::Refused, "no").await;
    let others = scene.dead(3, FailureClass::InvalidRequest, "bad").await;
    scene.provider.set(Script::Succeed);
    let told = scene.said(&["replay", "--class", "refused", "--dry-run"]);
    assert!(told.starts_with("12 jobs, $0.0012 to $0.0036"), "{told}");
    assert!(scene.said(&["replay", "--class", "refused", "--yes"]).contains("12 replayed"));
    assert_eq!(scene.replayed(12).await, once(&jobs));
    let again = scene.said(&["replay", "--class", "refused", "--yes"]);
    assert!(again.contains("0 replayed, 12 had been replayed before"), "{again}");
    // Its notes are gone: the log still knows.
    std::fs::remove_dir_all(scene.folder.path().join("state")).unwrap();
    let again = scene.said(&["replay", "--class", "refused", "--yes"]);
    assert!(again.contains("0 replayed, 12 had been replayed before"), "{again}");
    // Whatever else is asked for: what went there once does not go there again.
    let more = scene.said(&["replay", "--all", "--yes"]);
    assert!(more.contains("3 replayed, 12 had been replayed before"), "{more}");
    scene.replayed(15).await;
    scene.said(&["replay", "--class", "refused", "--yes", "--again", "1"]);
    let times = scene.replayed(27).await;
    assert!(jobs.iter().all(|job| times[job] == 2) && others.iter().all(|job| times[job] == 1));
    let audit = Audit::read(&mut scene.producer).await;
    let apart: Vec<_> = audit.costs.iter().filter(|c| c.replay_of.is_some()).collect();
    assert_eq!(apart.len(), 27);
    assert!(apart.iter().all(|cost| times.contains_key(&cost.replay_of.unwrap())));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_half_way_it_goes_on_and_sends_nothing_twice() {
    let mut scene = Scene::new(Script::Succeed).await;
    let jobs = scene.dead(60, FailureClass::Refused, "no").await;
    scene.provider.set(Script::Succeed);
    let (config, state) = (scene.config(), scene.folder.path().join("state"));
    let state = state.to_str().unwrap().to_owned();
    let args = [
        "replay", "--class", "refused", "--since", "1h", "--yes", "--rate", "20", "--config", &config,
        "--state", &state,
    ];
    for round in 1..=2 {
        let running = Process::start(&args, &scene.folder.path().join(format!("run{round}.log")));
        scene.replayed(round * 12).await;
        running.kill();
    }
    // An hour before now is another time by now, and the same replay.
    let rest = scene.said(&["replay", "--class", "refused", "--since", "1h", "--yes", "--rate", "1000"]);
    assert!(rest.contains("had been replayed before"), "{rest}");
    assert_eq!(scene.replayed(60).await, once(&jobs));
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_the_log_are_chosen_by_what_they_are_and_how_they_ended() {
    let mut scene = Scene::new(Script::Succeed).await;
    let mut jobs = Vec::new();
    for (nth, run) in ["a", "b", "a"].into_iter().enumerate() {
        let mut job = roles::job(&format!("log {nth}"));
        job.body.labels = [("run".to_owned(), run.to_owned())].into();
        jobs.push(scene.producer.submit(&job).await.unwrap().job);
    }
    scene.ended(&jobs).await;
    let failed = scene.dead(2, FailureClass::Refused, "no").await;
    scene.provider.set(Script::Succeed);
    let log = ["replay", "--from", "jobs", "--yes"];
    let with = |more: &[&'static str]| [&log[..], more].concat();
    scene.said(&with(&["--label", "run=a", "--to-provider", "modal"]));
    let times = scene.replayed(2).await;
    assert_eq!(times, once(&[jobs[0], jobs[2]]));
    scene.said(&with(&["--class", "refused", "--since", "1h"]));
    let times = scene.replayed(4).await;
    assert!(failed.iter().all(|job| times[job] == 1));
    let audit = Audit::read(&mut scene.producer).await;
    let at_modal = audit.results.values().flatten().filter(|r| {
        r.replay_of.is_some_and(|of| jobs.contains(&of)) && r.provider.as_ref().unwrap().as_str() == "modal"
    });
    assert_eq!(at_modal.count(), 2);
    // A job that has not ended is left out unless it is asked for.
    scene.provider.set(Script::Hold);
    let running = scene.producer.submit(&roles::job("still at it")).await.unwrap().job.to_string();
    let told = scene.said(&["replay", "--from", "jobs", "--dry-run", &running]);
    assert!(told.starts_with("0 jobs") && told.contains("1 left out: it has not ended"), "{told}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_difference_between_old_and_new_is_shown() {
    let mut scene = Scene::new(Script::Succeed).await;
    scene.dead(1, FailureClass::Refused, "would not say").await;
    scene.provider.set(Script::Succeed);
    let told = scene.said(&["replay", "--class", "refused", "--yes", "--diff"]);
    for part in ["-refused: would not say", "+scripted llama-3.2-1b", "failed at", "succeeded at"] {
        assert!(told.contains(part), "{told}");
    }
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn outputs_in_the_object_store_are_compared_and_one_that_is_gone_is_told() {
    const LARGE: usize = 2 * 1024 * 1024;
    let mut scene = Scene::new(Script::Write(LARGE)).await;
    let jobs = roles::submit_many(&scene.producer, 1).await;
    let audit = scene.ended(&jobs).await;
    let place = audit.results[&jobs[0]][0].output_ref.clone().expect("a reference");
    let job = jobs[0].to_string();
    let verdict = |scene: &Scene, again: &str| {
        let args = ["replay", "--from", "jobs", &job, "--yes", "--diff", "--json", "--again", again];
        let said = scene.said(&args);
        let last: Value = serde_json::from_str(said.lines().last().unwrap()).unwrap();
        let text = |side: &str| last[side]["output"]["text"].as_str().unwrap().to_owned();
        (last["verdict"].as_str().unwrap().to_owned(), text("old"), text("new"))
    };
    let long = "x".repeat(LARGE);
    assert!(verdict(&scene, "1") == ("same".into(), long.clone(), long.clone()));
    scene.provider.set(Script::Write(LARGE + 1));
    assert!(verdict(&scene, "2") == ("different output".into(), long.clone(), long.clone() + "x"));
    payloads::remove_output(scene.producer.client(), &place).await.unwrap();
    let (verdict, old, new) = verdict(&scene, "3");
    assert_eq!((verdict.as_str(), new.len()), ("different output", LARGE + 1));
    assert!(old.contains("output not kept") && old.contains(&place.object), "{old}");
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_nothing_or_is_not_confirmed_is_refused() {
    let mut scene = Scene::new(Script::Succeed).await;
    scene.dead(1, FailureClass::Refused, "no").await;
    for (args, word) in [
        (&["replay"][..], "--all"),
        (&["dead", "purge"], "--all"),
        (&["replay", "--all"], "--yes"),
        (&["dead", "purge", "--all"], "--yes"),
        (&["replay", "--class", "sulking"], "sulking"),
        (&["replay", "--since", "yesterday"], "yesterday"),
        (&["replay", "--seq", "9..5"], "9..5"),
        (&["replay", "--all", "--to-region", "mars"], "mars"),
    ] {
        let output = scene.beacon(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains(word), "{args:?}: {said}");
    }
    scene.stop().await;
}

async fn stored(producer: &Producer) -> u64 {
    let info = api::ask(producer.client(), &format!("STREAM.INFO.{DEAD}"), &Value::Null).await.unwrap();
    api::number(&info, "state/messages").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_grouped_shown_and_purged() {
    let mut scene = Scene::new(Script::Succeed).await;
    for status in [500, 503] {
        scene.dead(2, FailureClass::Refused, &format!("status {status} from `x{status}`")).await;
    }
    let bad = scene.dead(1, FailureClass::InvalidRequest, "too long").await;
    let groups: Vec<Value> = scene
        .said(&["dead", "list", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let counts: u64 = groups.iter().map(|g| g["count"].as_u64().unwrap()).sum();
    assert_eq!(counts, 5);
    // A group per class and provider; the number in the message makes no other.
    assert!(groups.len() <= 4, "{groups:?}");
    assert!(groups.iter().all(|g| g["first_us"].as_u64() <= g["last_us"].as_u64()));
    assert!(scene.said(&["dead", "list"]).contains("too long"));
    let shown = scene.said(&["dead", "show", &bad[0].to_string(), "--body"]);
    for part in ["invalid_request: too long", "attempt 1", "beacon.jobs.us-east", "prompt 0"] {
        assert!(shown.contains(part), "{shown}");
    }
    assert_eq!(scene.beacon(&["dead", "show", "00000000"]).status.code(), Some(1));
    let group = groups[0]["fingerprint"].as_str().unwrap();
    let purged = scene.said(&["dead", "purge", "--fingerprint", group, "--yes"]);
    assert!(purged.contains(&groups[0]["count"].to_string()), "{purged}");
    assert_eq!(stored(&scene.producer).await, 5 - groups[0]["count"].as_u64().unwrap());
    scene.said(&["dead", "purge", "--all", "--yes"]);
    assert_eq!(stored(&scene.producer).await, 0);
    let audit = scene.ended(&bad).await;
    assert_eq!(audit.count(Status::Failed), 5, "results stay");
    assert!(Path::new(&scene.config()).is_file());
    scene.stop().await;
}
