//! The containers of the app on Modal: starts and idle time, orders to keep some warm, a real server inside one; and the app's own
//! tests.

use std::{process::Command, time::Duration};

use schemas::failure::FailureClass as C;
use serde_json::json;
use workers::{
    adapters::{ModalMode, modal::CONTRACT},
    provider::{Ended, Health},
};

use crate::{
    app::{self, App},
    bed::{Adapter, Bed, Recorder, Wish, eventually, success},
};

/// It never had a container of its own, and what its start cost is standing cost.
#[tokio::test]
async fn a_run_that_is_stopped_in_the_queue_costs_nothing() {
    let adapter = Adapter::ModalApp(ModalMode::Spawn);
    if !adapter.is_there() {
        return;
    }
    let mut wish = Wish::default();
    wish.model.cold_start_ms = 300;
    let (bed, recorder) = (adapter.bed_with(wish).await, Recorder::default());
    let call = bed.call();
    tokio::select! {
        ended = bed.provider.run(&call, &recorder) => panic!("it starts for longer than that: {ended:?}"),
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    let run = recorder.runs().remove(0);
    assert_eq!(bed.provider.cancel(&run).await, Ok(()));
    let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
    assert!(ended.outcome.is_err() && ended.used.is_empty() && !ended.estimated, "{ended:?}");
    standing(&bed, "the start is told", |items| {
        items.iter().any(|(item, us)| *item == "warm_start" && *us >= 300_000)
    })
    .await;
}

/// Waits until the standing cost is as the test wants it.
async fn standing(bed: &Bed, what: &str, wanted: impl Fn(&[(&'static str, u128)]) -> bool) {
    use schemas::prices::Used;
    let look = async {
        loop {
            let items = bed.provider.standing().await.unwrap();
            let micros = |used| match used {
                Used::Time(span) => span.as_micros(),
                _ => panic!("containers are billed by time"),
            };
            let items: Vec<_> = items.into_iter().map(|used| (used.item, micros(used.used))).collect();
            if wanted(&items) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(
        tokio::time::timeout(Duration::from_secs(20), look).await.is_ok(),
        "it never came true that {what}"
    );
}

#[tokio::test]
async fn an_order_makes_the_next_jobs_warm_in_every_mode_and_lapses_by_itself() {
    for mode in [ModalMode::OpenAi, ModalMode::Wait, ModalMode::Spawn] {
        let adapter = Adapter::ModalApp(mode);
        if !adapter.is_there() {
            return;
        }
        let mut wish = Wish::default();
        (wish.model.cold_start_ms, wish.model.slots) = (50, 3);
        let bed = adapter.bed_with(wish).await;
        assert!(bed.provider.warmable());
        for _ in 0..3 {
            assert_eq!(bed.provider.warm("m", 2).await, Ok(()), "{mode:?}");
        }
        let app = bed.simulator.app();
        let up = || app.send("GET", "/health", "").1["containers"] == json!(2);
        eventually("they are up", up).await;
        standing(&bed, "they wait", |items| items.iter().any(|(item, _)| *item == "idle")).await;
        let (one, two) = (bed.call(), bed.call());
        let (one, two) = tokio::join!(bed.run_call(&one), bed.run_call(&two));
        for ended in [&one, &two] {
            success(ended);
            let only_execution = |ended: &Ended| ended.used.iter().all(|used| used.item == "execution");
            assert!(ended.cold_start.is_zero() && only_execution(ended), "{mode:?}: {ended:?}");
        }
        assert_eq!(app.containers(), 2);
        // Nobody asks any more, and a minute is over; the sweep comes by our word.
        app.ask("lapse", "\"m\"");
        app.ask("sweep", "");
        eventually("nothing is up", || app.containers() == 0).await;
        standing(&bed, "both starts are told", |items| {
            items.iter().any(|(item, us)| *item == "warm_start" && *us >= 100_000)
        })
        .await;
    }
}

#[tokio::test]
async fn an_order_that_cannot_be_kept_says_why() {
    let adapter = Adapter::ModalApp(ModalMode::Spawn);
    if !adapter.is_there() {
        return;
    }
    let mut wish = Wish::default();
    wish.model.slots = 3;
    let bed = adapter.bed_with(wish).await;
    let class = async |model: &str, containers| bed.provider.warm(model, containers).await.unwrap_err().class;
    assert_eq!(class("other", 1).await, C::Misconfigured);
    assert_eq!(class("m", 4).await, C::InvalidRequest, "more than the most");
    assert!(bed.provider.warmable());
}

#[tokio::test]
async fn a_question_about_health_starts_nothing_and_tells_the_contract() {
    let adapter = Adapter::ModalApp(ModalMode::Spawn);
    if !adapter.is_there() {
        return;
    }
    let bed = adapter.bed().await;
    assert_eq!(bed.provider.health().await, Health::Up);
    let (status, health) = bed.simulator.app().send("GET", "/health", "");
    assert_eq!((status, &health["contract"]), (200, &json!(CONTRACT)));
    assert_eq!(
        (&health["status"], &health["model"], &health["region"]),
        (&json!("ok"), &json!("m"), &json!("us-east"))
    );
    assert_eq!(bed.simulator.app().containers(), 0);
}

/// A start is on the bill of one job: the first that its container runs.
#[tokio::test]
async fn only_the_first_job_of_a_container_pays_for_its_start() {
    let adapter = Adapter::ModalApp(ModalMode::OpenAi);
    if !adapter.is_there() {
        return;
    }
    let mut wish = Wish::default();
    wish.model.cold_start_ms = 50;
    let app = App::start_with(&wish, &["--window-ms", "60000"]);
    let provider = adapter.provider(&app.url(), &wish);
    for is_cold in [true, false] {
        let ended = provider.run(&crate::bed::call(usize::from(is_cold)), &Recorder::default()).await;
        success(&ended);
        assert_eq!(!ended.cold_start.is_zero(), is_cold, "{ended:?}");
    }
}

/// The one path that no stand-in takes: a server process that the app starts, and a model that answers.
#[tokio::test]
async fn a_real_server_behind_the_app_answers_in_every_mode() {
    let llm = app::root().join(".beacon/llm/bin/python");
    if !Adapter::ModalApp(ModalMode::OpenAi).is_there() {
        return;
    }
    if !llm.exists() {
        eprintln!("skipped: no local model; `make setup` says why");
        return;
    }
    let script = app::root().join("scripts/llm_server.py");
    let words = [llm.to_str().unwrap(), script.to_str().unwrap(), "--port", "{port}", "--alias", "{model}"];
    let command = json!([&words[..], &["--threads", "1"]].concat()).to_string();
    let app = App::start_with(&Wish::default(), &["--command", &command]);
    for mode in [ModalMode::OpenAi, ModalMode::Wait, ModalMode::Spawn] {
        let provider = Adapter::ModalApp(mode).provider(&app.url(), &Wish::default());
        let recorder = Recorder::default();
        let ended = provider.run(&crate::bed::call(mode as usize), &recorder).await;
        let success = success(&ended);
        assert!(!success.output.text.is_empty() && success.usage.prompt_tokens > 0, "{mode:?}: {ended:?}");
        assert!(!ended.estimated && !ended.used.is_empty(), "{mode:?}: {ended:?}");
    }
}

/// The tests beside the app: the meter, the books over the real `modal.Dict`, and what the real package deploys.
#[test]
fn the_apps_own_tests_pass() {
    let Some(python) = app::python() else { return };
    let run = Command::new(python)
        .current_dir(app::root().join("deploy/modal"))
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .args(["-m", "unittest", "discover", "-s", "tests", "-t", "."])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}
