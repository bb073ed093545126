//! Promise: any process of Beacon may be killed with SIGKILL at any moment, and every accepted job still ends once.

use std::{path::Path, time::Duration};

use schemas::reply::Status;
use simulators::{Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{audit::Audit, nats_server::NatsServer, process::Process, roles, wait};
use tokio_util::sync::CancellationToken;

async fn slow_golem(name: &str, shutdown: &CancellationToken) -> Simulator {
    let mut model = SimulatedModel::new(roles::MODEL);
    (model.slots, model.service_ms_p50, model.price_per_inference_nanos) = (64, 400, 100_000);
    simulators::start(SimulatorConfig::new(name, Kind::Golem, vec![model]), shutdown.clone()).await.unwrap()
}

fn write_config(path: &Path, nats: &str, golem: &Simulator, other: &Simulator) {
    let pool = |provider: &str, url: String| {
        format!(
            r#"
            [[pools]]
            provider = "{provider}"
            region = "us-east"
            kind = "openai"
            base_url = "{url}"
            billing = "per_inference"
            price_name = "golem"
            slots = 16
            timeout = "20s"
            models = [{{ model = "{}", sku = "standard", expected = "400ms" }}]
            "#,
            roles::MODEL
        )
    };
    let text = format!(
        r#"
        [nats]
        url = "{nats}"
        [beacon]
        regions = ["us-east"]
        models = ["{}"]
        [lease]
        ack_wait = "4s"
        [dispatcher]
        grace = "5s"
        [workers]
        grace = "5s"
        {}{}"#,
        roles::MODEL,
        pool("golem", golem.url()),
        pool("spare", other.url()),
    );
    std::fs::write(path, text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_worker_and_dispatcher_processes_lose_nothing() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let shutdown = CancellationToken::new();
    let (golem, spare) = (slow_golem("golem", &shutdown).await, slow_golem("spare", &shutdown).await);
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("beacon.toml");
    write_config(&config, &urls[0], &golem, &spare);
    let config = config.to_str().unwrap();
    let start = |name: &str, args: &[&str]| {
        let mut all = args.to_vec();
        all.extend(["--config", config, "--id", name]);
        Process::start(&all, &folder.path().join(format!("{name}.log")))
    };
    let dispatcher = start("d1", &["dispatcher"]);
    let doomed = start("w1", &["worker", "--pool", "golem@us-east"]);
    let worker = start("w2", &["worker", "--pool", "spare@us-east"]);
    let mut producer = roles::producer(&urls).await;
    wait::until("the streams", || async { producer.submit(&roles::job("first")).await.ok() }).await;
    let first = Audit::read(&mut producer).await;
    drop(first);
    let mut jobs = roles::submit_many(&producer, 100).await;
    wait::until("jobs to run at both", || async {
        (golem.stats().running > 0 && spare.stats().running > 0).then_some(())
    })
    .await;
    doomed.kill();
    wait::until("the provider to notice", || async { (golem.stats().running == 0).then_some(()) }).await;
    jobs.extend(roles::submit_many(&producer, 50).await);
    wait::until("jobs to run on", || async { (spare.stats().running > 0).then_some(()) }).await;
    dispatcher.kill();
    jobs.extend(roles::submit_many(&producer, 50).await);
    let again = start("d2", &["dispatcher"]);
    let revived = start("w3", &["worker", "--pool", "golem@us-east"]);
    let end = tokio::time::Instant::now() + wait::DEADLINE;
    let audit = loop {
        let audit = Audit::read(&mut producer).await;
        if jobs.iter().all(|j| audit.results.contains_key(j)) {
            break audit;
        }
        assert!(tokio::time::Instant::now() < end, "{} of {} jobs ended", audit.results.len(), jobs.len());
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(audit.results.values().all(|results| results.len() == 1), "a job has two results");
    assert!(audit.results.values().flatten().all(|r| r.status == Status::Succeeded));
    // What is asked to end ends in order, and says so by its exit code.
    assert_eq!(revived.terminate(), Some(0));
    assert_eq!(worker.terminate(), Some(0));
    assert_eq!(again.terminate(), Some(0));
    producer.close().await;
    shutdown.cancel();
    golem.stopped().await;
    spare.stopped().await;
}
