//! Promise: whatever is killed, stopped or frozen, every accepted job ends once, exactly one attempt of a success is useful, and the
//! ledger is within half a percent of each provider's bill.
//!
//! Real processes, one fault each two seconds, drawn from a seed: SIGKILL, SIGTERM and SIGSTOP of dispatchers and workers. What
//! may be left of a difference is what nobody could know: attempts whose worker and whose dispatcher both died before the one
//! could tell the other, and estimates where a worker died in the middle of a call.

use std::{
    collections::{HashMap, HashSet},
    path::PathBuf,
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use schemas::{JobId, cost::Purpose, reply::Status};
use simulators::{Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    process::{Process, root},
    roles, wait,
};
use tokio_util::sync::CancellationToken;

const FAULTS: usize = 14;
const EVERY: Duration = Duration::from_secs(2);
/// Longer than a worker may be silent before its attempts count as lost.
const FROZEN: Duration = Duration::from_secs(14);

async fn simulator(name: &str, kind: Kind, shutdown: &CancellationToken) -> Simulator {
    let mut model = SimulatedModel::new(roles::MODEL);
    (model.slots, model.service_ms_p50) = (32, 120);
    if kind == Kind::Golem {
        model.price_per_inference_nanos = 100_000;
    } else {
        model.sku = "T4".into();
        (model.price_per_second_nanos, model.cold_start_ms) = (164_000, 200);
    }
    let mut config = SimulatorConfig::new(name, kind, vec![model]);
    config.modal.scaledown_window_ms = 2_000;
    simulators::start(config, shutdown.clone()).await.unwrap()
}

/// Four processes that come back under their names whatever is done to them.
struct Roles {
    folder: tempfile::TempDir,
    config: String,
    running: HashMap<&'static str, Process>,
    starts: usize,
}

/// Dispatchers, then workers of Golem and of Modal.
const NAMES: [&str; 5] = ["d1", "d2", "g1", "g2", "m1"];

impl Roles {
    fn new(nats: &str, golem: &Simulator, modal: &Simulator) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = roles::MODEL;
        let text = format!(
            r#"
            [nats]
            url = "{nats}"
            [beacon]
            regions = ["us-east"]
            models = ["{model}"]
            prices = "{prices}"
            [lease]
            ack_wait = "6s"
            [dispatcher]
            grace = "3s"
            [workers]
            grace = "3s"
            [[pools]]
            provider = "golem"
            region = "us-east"
            kind = "openai"
            base_url = "{golem}"
            billing = "per_inference"
            slots = 8
            timeout = "20s"
            models = [{{ model = "{model}", sku = "standard", expected = "120ms" }}]
            [[pools]]
            provider = "modal"
            region = "us-east"
            kind = "modal"
            mode = "spawn"
            base_url = "{modal}"
            slots = 8
            timeout = "20s"
            models = [{{ model = "{model}", sku = "T4", expected = "120ms" }}]
            "#,
            golem = golem.url(),
            modal = modal.url(),
            prices = root().join("prices.toml").display(),
        );
        let path = folder.path().join("beacon.toml");
        std::fs::write(&path, text).unwrap();
        let config = path.to_str().unwrap().to_owned();
        let mut roles = Self { folder, config, running: HashMap::new(), starts: 0 };
        for name in NAMES {
            roles.start(name);
        }
        roles
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}-{}.log", self.starts))
    }

    fn start(&mut self, name: &'static str) {
        self.starts += 1;
        let role: &[&str] = match name {
            "d1" | "d2" => &["dispatcher"],
            "g1" | "g2" => &["worker", "--pool", "golem@us-east"],
            _ => &["worker", "--pool", "modal@us-east"],
        };
        let mut args = role.to_vec();
        args.extend(["--config", &self.config, "--id", name]);
        let process = Process::start(&args, &self.log(name));
        self.running.insert(name, process);
    }

    fn fault(&mut self, rng: &mut StdRng, frozen: &mut Vec<(&'static str, tokio::time::Instant)>) -> String {
        let name = NAMES[rng.random_range(0..NAMES.len())];
        if frozen.iter().any(|(other, _)| *other == name) {
            return format!("{name} is frozen already");
        }
        let Some(process) = self.running.remove(name) else { return String::new() };
        // Half of them are SIGKILL, which leaves most behind.
        match rng.random_range(0..4u8) {
            0 | 1 => {
                process.kill();
                self.start(name);
                format!("SIGKILL of {name}")
            }
            2 => {
                assert_eq!(process.terminate(), Some(0), "{name} stops in order");
                self.start(name);
                format!("SIGTERM of {name}")
            }
            _ => {
                process.freeze();
                self.running.insert(name, process);
                frozen.push((name, tokio::time::Instant::now() + FROZEN));
                format!("SIGSTOP of {name}")
            }
        }
    }

    fn thaw(&mut self, frozen: &mut Vec<(&'static str, tokio::time::Instant)>, until: tokio::time::Instant) {
        frozen.retain(|(name, at)| {
            if *at <= until {
                self.running[name].thaw();
            }
            *at > until
        });
    }

    fn stop(mut self) {
        // Dispatchers last: budgets and lost attempts are settled by what workers tell at their end.
        for name in ["g1", "g2", "m1", "d1", "d2"] {
            assert_eq!(self.running.remove(name).unwrap().terminate(), Some(0), "{name} stops in order");
        }
    }
}

/// The purposes of each job's attempts agree with its result: one is useful, and it is the one that gave the result.
fn check_useful(audit: &Audit) {
    let mut useful: HashMap<JobId, usize> = HashMap::new();
    for cost in audit.costs.iter().filter(|cost| cost.purpose == Purpose::Useful) {
        let job = cost.job.unwrap();
        *useful.entry(job).or_default() += 1;
        assert_eq!(
            cost.attempt_key, audit.results[&job][0].attempt_key,
            "another attempt is booked as useful"
        );
    }
    for (job, results) in &audit.results {
        assert_eq!(useful.get(job).copied().unwrap_or(0), 1, "useful attempts of {job}: {:?}", results[0]);
    }
}

async fn standing(url: &str) -> HashMap<String, u64> {
    let config = producer::ProducerConfig::new(url, "default", "standing").unwrap();
    let mut reader = producer::Producer::connect(config).await.unwrap();
    let paid = Audit::read(&mut reader).await.paid();
    reader.close().await;
    paid.into_iter().map(|(pool, usd)| (pool, usd.get())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_every_two_seconds_lose_nothing_and_leave_the_ledger_within_half_a_percent_of_the_bill() {
    let seed = 20_261_128;
    let (server, shutdown) = (NatsServer::start().await, CancellationToken::new());
    let urls = [server.url()];
    let golem = simulator("golem", Kind::Golem, &shutdown).await;
    let modal = simulator("modal", Kind::Modal, &shutdown).await;
    let mut processes = Roles::new(&urls[0], &golem, &modal);
    let mut producer = roles::producer(&urls).await;
    wait::until("the streams", || async { producer.submit(&roles::job("first")).await.ok() }).await;
    let (mut rng, mut frozen, mut jobs) = (StdRng::seed_from_u64(seed), Vec::new(), Vec::new());
    for nth in 0..FAULTS {
        let until = tokio::time::Instant::now() + EVERY;
        // As much as the pools can do meanwhile, and no more: the line stays short, so that faults hit running jobs.
        jobs.extend(roles::submit_many(&producer, 150).await);
        println!("seed {seed}, fault {nth}: {}", processes.fault(&mut rng, &mut frozen));
        tokio::time::sleep_until(until).await;
        processes.thaw(&mut frozen, tokio::time::Instant::now());
    }
    processes.thaw(&mut frozen, tokio::time::Instant::now() + FROZEN);
    let end = tokio::time::Instant::now() + wait::DEADLINE * 2;
    loop {
        let audit = Audit::read(&mut producer).await;
        let missing: HashSet<_> = jobs.iter().filter(|job| !audit.results.contains_key(job)).collect();
        if missing.is_empty() {
            break;
        }
        assert!(
            tokio::time::Instant::now() < end,
            "seed {seed}: {} jobs have not ended: {missing:?}",
            missing.len()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    wait::until("modal to scale down", || async {
        let before = modal.bill().total_nanos;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        (modal.stats().running == 0 && modal.bill().total_nanos == before).then_some(())
    })
    .await;
    processes.stop();
    let audit = Audit::read(&mut producer).await;
    assert!(audit.results.values().all(|results| results.len() == 1), "seed {seed}: a job has two results");
    assert!(audit.results.values().flatten().all(|r| r.status == Status::Succeeded), "seed {seed}");
    check_useful(&audit);
    let (paid, idle) = (audit.paid(), standing(&urls[0]).await);
    for (pool, bill) in [("golem@us-east", golem.bill()), ("modal@us-east", modal.bill())] {
        let booked = paid[pool].get() + idle.get(pool).copied().unwrap_or(0);
        let difference = booked.abs_diff(bill.total_nanos) as f64 / bill.total_nanos as f64;
        println!(
            "{pool}: booked {booked}, billed {}, difference {:.3} %",
            bill.total_nanos,
            difference * 100.0
        );
        assert!(
            difference < 0.005,
            "seed {seed}, {pool}: booked {booked}, billed {}: {:#?}",
            bill.total_nanos,
            audit.differing_runs(&bill)
        );
    }
    producer.close().await;
    shutdown.cancel();
    golem.stopped().await;
    modal.stopped().await;
}
