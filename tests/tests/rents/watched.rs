//! Promise: a keeper's metrics say whether it acts, what stands and costs, what was called and failed, how soon an order follows
//! what waits, and when it last looked.

use schemas::{
    Lane, Micros,
    demand::{Demand, Due, LaneDemand, ModelDemand},
    machine::MachineState,
    subjects,
    time::Clock as _,
};
use simulators::rented::{Canned, ControlFault};
use tests::{
    nats_server::{self, NatsServer},
    rent::Office,
    roles, wait,
};
use tokio_util::sync::CancellationToken;
use transport::SystemClock;

use crate::typed::{self, Says};

/// What a dispatcher tells while four jobs wait that nobody can take.
fn demand(started_us: Micros) -> Demand {
    let due = vec![Due { by_us: None, jobs: 4, slot_us: 4_000_000 }];
    let lane = LaneDemand {
        lane: Lane::Normal,
        in_hand: 4,
        behind: Some(0),
        running: 0,
        arrivals: 4,
        slot_us: 4_000_000,
        due,
    };
    let model = schemas::catalog::token_of(roles::MODEL).unwrap();
    Demand {
        dispatcher: "d1".parse().unwrap(),
        started_us,
        region: roles::REGION.parse().unwrap(),
        at_us: SystemClock.now(),
        models: vec![ModelDemand { model, lanes: vec![lane], service: Vec::new() }],
    }
}

/// The value of a metric whose line has all these words.
async fn value(url: &str, words: &[&str]) -> Option<f64> {
    let text = reqwest::get(url).await.ok()?.text().await.ok()?;
    let line =
        text.lines().find(|line| !line.starts_with('#') && words.iter().all(|word| line.contains(word)))?;
    line.rsplit(' ').next()?.parse().ok()
}

async fn until(url: &str, words: &[&str], expected: f64) {
    wait::until(&format!("{words:?} to be {expected}"), || async {
        (value(url, words).await? - expected).abs().lt(&1e-9).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_s_metrics_follow_its_pool() {
    // Fails when some other part of the process was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nats = NatsServer::start().await;
    let (office, folder) = (Office::open(&nats.url()).await, tempfile::tempdir().unwrap());
    let shutdown = CancellationToken::new();
    let fly = typed::fly(&shutdown).await;
    let file = |name: &str| {
        let port = nats_server::free_port();
        let listen = format!("[metrics]\nlisten = \"127.0.0.1:{port}\"");
        let says = Says { least: 0, tables: &listen, ..Says::default() };
        (
            typed::file(folder.path(), name, &nats.url(), &fly.url(), says),
            format!("http://127.0.0.1:{port}/metrics"),
        )
    };
    let ((first, url), (second, other)) = (file("k1.toml"), file("k2.toml"));
    let keeper = typed::keeper(folder.path(), "k1", &first);
    until(&url, &["keeper_acts", "fly@us-east"], 1.0).await;
    let standby = typed::keeper(folder.path(), "k2", &second);
    until(&other, &["keeper_acts", "fly@us-east"], 0.0).await;
    until(&url, &["keeper_usd_per_hour", "fly@us-east"], 0.0).await;

    let (started, subject) = (SystemClock.now(), subjects::demand(&roles::REGION.parse().unwrap()));
    wait::until("machines for what waits", || async {
        let told = serde_json::to_vec(&demand(started)).unwrap();
        office.client.publish(subject.clone(), told.into()).await.unwrap();
        let machines = office.machines(&typed::pool()).await;
        machines.values().any(|state| *state == MachineState::Ready).then_some(())
    })
    .await;
    let count = value(&url, &["keeper_pressure_to_order_seconds_count", "fly@us-east"]).await;
    assert_eq!(count, Some(1.0));
    let sum = value(&url, &["keeper_pressure_to_order_seconds_sum", "fly@us-east"]).await;
    assert!(sum.is_some_and(|seconds| seconds > 0.0), "{sum:?}");
    let orders = value(&url, &["keeper_calls_total", "call=\"order\""]).await;
    assert!(orders.is_some_and(|orders| orders >= 1.0), "{orders:?}");
    wait::until("the machines and their rent to be counted", || async {
        let ready = value(&url, &["keeper_machines", "state=\"ready\""]).await?;
        let rent = value(&url, &["keeper_usd_per_hour", "fly@us-east"]).await?;
        (ready >= 1.0 && rent > 0.16).then_some(())
    })
    .await;
    let pass = value(&url, &["keeper_last_pass_timestamp_seconds", "fly@us-east"]).await.unwrap();
    assert!((pass - SystemClock.now().get() as f64 / 1e6).abs() < 60.0, "{pass}");

    // The one that goes on counts its own calls, and those that fail.
    fly.account().fault("stop", ControlFault::Refused(Canned::json(429, "{}")), 1);
    let wish = keepers::wish::Wish { stopped: true, ..keepers::wish::Wish::default() };
    office.wish(&typed::pool(), &wish).await;
    wait::until("a failed call to be counted", || async {
        value(&url, &["keeper_call_failures_total", "call=\"end\"", "why=\"rate_limited\""]).await
    })
    .await;
    office.until_empty(&typed::pool()).await;
    until(&url, &["keeper_machines", "state=\"stopping\""], 0.0).await;
    keeper.kill();
    until(&other, &["keeper_acts", "fly@us-east"], 1.0).await;
    assert_eq!(standby.terminate(), Some(0));
    shutdown.cancel();
    office.close().await;
}
