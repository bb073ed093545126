//! Promise: a server on which requests of others wait is not offered more than one job at a time, for as long as they wait.

use std::{sync::Arc, time::Duration};

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use schemas::{heartbeat::Heartbeat, reply::Status, subjects};
use simulators::{Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, MODEL, Role},
    wait,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use workers::adapters::{OpenAi, OpenAiConfig};

const ACK_WAIT: Duration = Duration::from_secs(10);

/// The next heartbeat with so many slots.
async fn slots(beats: &mut Subscriber, slots: u32) {
    let looking = async {
        while let Some(message) = beats.next().await {
            let beat: Heartbeat = serde_json::from_slice(&message.payload).unwrap();
            if beat.slots == slots {
                return;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), looking).await.expect("a heartbeat with so many slots");
}

/// So many requests that no worker of ours sent; `all` are there then.
async fn others(simulator: &Simulator, number: u64, all: u64) -> JoinSet<()> {
    let client = reqwest::Client::new();
    let mut others = JoinSet::new();
    for _ in 0..number {
        let body = format!(r#"{{"model":"{MODEL}","prompt":"x","stream":true}}"#);
        let request = client.post(format!("{}/v1/completions", simulator.url())).body(body);
        others.spawn(async move {
            if let Ok(answer) = request.send().await {
                let _ = answer.bytes().await;
            }
        });
    }
    wait::until("they are there", || async {
        let stats = simulator.stats();
        (stats.running + stats.queued == all).then_some(())
    })
    .await;
    others
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_others_that_wait_take_slots_and_give_them_back() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let stop = CancellationToken::new();
    let model = SimulatedModel { slots: 2, service_ms_p50: 60_000, ..SimulatedModel::new(MODEL) };
    let simulator = simulators::start(SimulatorConfig::new("busy", Kind::OpenAi, vec![model]), stop.clone())
        .await
        .unwrap();
    let client = async_nats::connect(&urls[0]).await.unwrap();
    let mut config = OpenAiConfig::new(simulator.url());
    config.billing = workers::adapters::Billing::PerInference;
    let provider = Arc::new(OpenAi::new(config).unwrap());
    let mut pool = roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider);
    pool.health_every = Some(Duration::from_millis(50));
    let mut beats = client.subscribe(subjects::heartbeat(&pool.pool, &pool.worker)).await.unwrap();
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let worker = Role::worker(pool).await;
    slots(&mut beats, 4).await;

    let running = others(&simulator, 2, 2).await;
    let waiting = others(&simulator, 7, 9).await;
    slots(&mut beats, 1).await;
    drop(waiting);
    slots(&mut beats, 4).await;
    drop(running);

    // Our own queue takes nothing from us.
    let mut producer = roles::producer(&urls).await;
    simulator.set_fault(Some(simulators::Fault::always(simulators::FaultKind::Slow { factor: 0.005 })));
    let mut jobs = Vec::new();
    for number in 0..8 {
        jobs.push(producer.submit(&roles::job(&format!("hello {number}"))).await.unwrap().job);
    }
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert!(jobs.iter().all(|job| audit.results[job][0].status == Status::Succeeded));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    stop.cancel();
}
