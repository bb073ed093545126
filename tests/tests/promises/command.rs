//! Promise: the command says what is wrong in one line, ends as it should, and leaves nothing behind.

use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use tests::{
    process::{self, Process},
    roles, wait,
};

fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).trim().to_owned()
}

fn check_refused(config: &str, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("beacon.toml");
    std::fs::write(&path, config).unwrap();
    let output = process::run(&["up", "--config", path.to_str().unwrap()]);
    let line = said(&output);
    assert_eq!(output.status.code(), Some(2), "{line}");
    assert_eq!(line.lines().count(), 1, "one line, not more: {line}");
    for word in words {
        assert!(line.contains(word), "`{line}` should name `{word}`");
    }
}

#[test]
fn a_wrong_configuration_is_one_line_and_exit_code_2() {
    check_refused("[nats]\nurll = \"x\"", &["beacon.toml", "urll"]);
    check_refused("[routing]\nshare = 1.5", &["share", "1.5"]);
    check_refused("[lease]\nack_wait = \"10ms\"", &["ack_wait", "10ms"]);
    check_refused("[beacon]\nmodels = [\"a b\", \"a-b\"]", &["models", "a b", "a-b"]);
    check_refused("[beacon", &["beacon.toml"]);
    let pool = "[[pools]]\nprovider = \"golem\"\nregion = \"mars\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1\"\n\
                slots = 1\nmodels = [{ model = \"llama-3.2-1b\", sku = \"standard\" }]";
    check_refused(pool, &["region", "mars"]);
    check_refused(&pool.replace("mars", "us-east").replace("standard", "H200"), &["H200", "price"]);
    let secret = format!(
        "{}\nbilling = \"per_inference\"\napi_key_env = \"BEACON_TEST_NO_SUCH_KEY\"",
        pool.replace("mars", "us-east")
    );
    check_refused(&secret, &["BEACON_TEST_NO_SUCH_KEY"]);
}

#[test]
fn wrong_arguments_are_exit_code_2_and_a_server_that_is_not_there_is_1() {
    assert_eq!(process::run(&["no-such-command"]).status.code(), Some(2));
    assert_eq!(process::run(&["submit", "--lane", "urgent", "x"]).status.code(), Some(2));
    let port = tests::nats_server::free_port().to_string();
    let output = process::run(&["results", "--nats-url", &format!("nats://127.0.0.1:{port}")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains(&port), "{}", said(&output));
}

#[test]
fn a_nats_server_that_is_too_old_is_refused_with_advice() {
    let folder = tempfile::tempdir().unwrap();
    let old = folder.path().join("nats-server");
    std::fs::write(&old, "#!/bin/sh\necho 'nats-server: v2.9.10'\n").unwrap();
    std::fs::set_permissions(&old, std::fs::Permissions::from_mode(0o755)).unwrap();
    let config = folder.path().join("beacon.toml");
    std::fs::write(&config, format!("[nats]\nserver = \"{}\"\n", old.display())).unwrap();
    let data = folder.path().join("data");
    let output =
        process::run(&["up", "--config", config.to_str().unwrap(), "--data", data.to_str().unwrap()]);
    assert!(!output.status.success());
    for word in ["2.9.10", "2.14", "make setup"] {
        assert!(said(&output).contains(word), "`{}` should name `{word}`", said(&output));
    }
}

fn config(folder: &Path) -> String {
    let text = format!(
        r#"
        [beacon]
        regions = ["us-east"]
        models = ["{0}"]
        [[simulators]]
        name = "golem"
        kind = "golem"
        models = [{{ name = "{0}", service_ms_p50 = 30, price_per_inference_nanos = 100000 }}]
        [[pools]]
        provider = "golem"
        region = "us-east"
        kind = "openai"
        simulator = "golem"
        billing = "per_inference"
        slots = 4
        models = [{{ model = "{0}", sku = "standard" }}]
        "#,
        roles::MODEL
    );
    let path = folder.join("beacon.toml");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Whether any process but this one has `folder` among its arguments.
fn somebody_uses(folder: &Path) -> bool {
    let name = folder.to_str().unwrap().as_bytes();
    let me = std::process::id().to_string();
    std::fs::read_dir("/proc").unwrap().flatten().any(|entry| {
        entry.file_name().to_str() != Some(&me)
            && std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.windows(name.len()).any(|w| w == name))
    })
}

async fn answered(data: &str, config: &str) -> Value {
    wait::until("an answer from beacon up", || async {
        let args = ["submit", "--wait", "--json", "--config", config, "--data", data, "Say something."];
        let output = tokio::task::block_in_place(|| process::run(&args));
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn up_answers_jobs_and_ends_with_all_it_started() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let folder = tempfile::tempdir().unwrap();
        let (config, data) = (config(folder.path()), folder.path().join("data"));
        let data = data.to_str().unwrap();
        let args = ["up", "--config", &config, "--data", data];
        let up = Process::start(&args, &folder.path().join("up.log"));
        let result = answered(data, &config).await;
        assert_eq!(result["status"], "succeeded");
        assert!(result["output"]["text"].as_str().unwrap().contains("[simulated]"));
        kill(Pid::from_raw(i32::try_from(up.id()).unwrap()), signal).unwrap();
        up.wait_within(Duration::from_secs(40));
        wait::until("everything to be gone", || async { (!somebody_uses(folder.path())).then_some(()) })
            .await;
    }
}

#[test]
fn the_demo_loses_nothing_and_its_ledger_matches_the_bill() {
    let output = process::run(&["demo", "--json", "--jobs", "120", "--rate", "120", "--no-local"]);
    assert!(output.status.success(), "{}", said(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    for key in ["p50_ms", "p95_ms", "p99_ms", "blended_cost_usd", "availability", "share", "nats_server"] {
        assert!(!report[key].is_null(), "no `{key}` in {report}");
    }
    assert_eq!((&report["jobs"], &report["succeeded"]), (&Value::from(120), &Value::from(120)));
    assert_eq!((&report["failed"], &report["lost"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(report["ledger_matches_bill"], Value::Bool(true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_has_ended_or_never_was_is_told_at_once_whatever_time_its_id_says() {
    let nats = tests::nats_server::NatsServer::start().await;
    let (urls, folder) = ([nats.url()], tempfile::tempdir().unwrap());
    let dispatcher = roles::Role::usual_dispatcher(&urls[0], "d1", Duration::from_secs(4)).await;
    let provider = tests::scripted::Scripted::new(tests::scripted::Script::Succeed);
    let pool = roles::pool_config(&urls, "golem@us-east", "w1", 4, Duration::from_secs(4), provider);
    let worker = roles::Role::worker(pool).await;
    let config = process::config(folder.path(), &urls[0]);
    let producer = roles::producer(&urls).await;
    // An hour ahead: the clock of whoever made it is wrong.
    let hour = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 3_600;
    let ahead = uuid::Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, hour, 0)).to_string();
    let mut request = roles::job("x");
    request.body.id = Some(ahead.clone());
    producer.submit_and_wait(&request, Duration::from_secs(30)).await.unwrap();
    let run = |args: &[&str]| {
        let output = tokio::task::block_in_place(|| process::run(&[args, &["--config", &config]].concat()));
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), said(&output))
    };
    let (code, told, _) = run(&["why", &ahead]);
    assert!(code == Some(0) && told.contains("ended succeeded"), "{told}");
    // Another tenant has a job of that id, which waits for its time.
    let theirs = producer::ProducerConfig::new(&urls[0], "other", "inbox").unwrap();
    let theirs = producer::Producer::connect(theirs).await.unwrap();
    let later = schemas::Micros::new((hour + 86_400) * 1_000_000);
    request.body.run_at = Some(later.to_datetime());
    theirs.submit(&request).await.unwrap();
    let (code, _, error) = run(&["why", &ahead]);
    assert!(code == Some(2) && error.lines().count() == 1, "{error}");
    assert!(["acme, other", "--tenant", &ahead].iter().all(|part| error.contains(part)), "{error}");
    let (code, told, _) = run(&["why", &ahead, "--tenant", "other"]);
    assert!(code == Some(0) && told.contains("waits for its time"), "{told}");
    let (code, told, _) = run(&["why", &ahead, "--tenant", "acme"]);
    assert!(code == Some(0) && told.contains("ended succeeded"), "{told}");
    let (code, _, error) = run(&["why", &ahead, "--tenant", "third"]);
    assert!(code == Some(1) && error.contains("of tenant third is in no stream"), "{error}");
    theirs.close().await;
    let never = uuid::Uuid::now_v7().to_string();
    let (code, _, error) = run(&["why", &never]);
    assert!(code == Some(1) && error.contains("never accepted") && error.lines().count() == 1, "{error}");
    // It waits for minutes where it does not know better; its mailbox is not even named.
    let began = std::time::Instant::now();
    let (code, told, error) = run(&["cancel", &ahead, "--tenant", "acme", "--wait", "--timeout", "10m"]);
    assert!(code == Some(0) && told.contains("had ended: succeeded"), "{told}{error}");
    let (code, _, error) = run(&["cancel", &never, "--tenant", "acme", "--wait", "--timeout", "10m"]);
    assert!(code == Some(1) && error.contains("never accepted") && error.lines().count() == 1, "{error}");
    assert!(began.elapsed() < Duration::from_secs(120), "it waited");
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
