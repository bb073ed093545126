//! Promise: a job that no pool of the configuration could ever take fails soon, names the gate, and holds nobody up.

use std::time::Duration;

use routing::never::{KnownModel, KnownPool};
use schemas::{UsdNanos, failure::FailureClass, reply::Status, topology::Settings};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};

const ACK_WAIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_nobody_can_take_fail_with_the_gate_and_do_not_stop_their_lane() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    // More of them than the server lets out of a consumer at once.
    let topology = Settings { max_ack_pending: 100, ..roles::settings(ACK_WAIT) };
    let mut config = roles::dispatcher_config(&urls, "d1", topology);
    let model = schemas::catalog::token_of(roles::MODEL).unwrap();
    config.pools = vec![KnownPool {
        id: "golem@us-east".parse().unwrap(),
        models: vec![KnownModel { model, size: 1, least_cost: UsdNanos::new(100_000) }],
    }];
    let dispatcher = Role::dispatcher(config).await;
    let provider = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider)).await;
    let mut producer = roles::producer(&urls).await;
    let mut jobs = Vec::new();
    for nth in 0..300 {
        let mut request = roles::job("x");
        let routing = &mut request.body.routing;
        match nth % 4 {
            0 => routing.allow_providers = vec!["nobody".parse().unwrap()],
            1 => {
                routing.allow_providers = vec!["golem".parse().unwrap()];
                routing.deny_providers = vec!["golem".parse().unwrap()];
            }
            2 => routing.allow_regions = vec!["mars".parse().unwrap()],
            _ => request.body.max_cost_usd = Some(UsdNanos::ZERO),
        }
        jobs.push(producer.submit(&request).await.unwrap().job);
    }
    let fine = roles::submit_many(&producer, 5).await;
    jobs.extend(&fine);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert!(fine.iter().all(|job| audit.results[job][0].status == Status::Succeeded));
    for (nth, job) in jobs[..300].iter().enumerate() {
        let error = audit.results[job][0].error.as_ref().unwrap();
        let gate = ["allow_providers", "deny_providers", "allow_regions", "max_cost_usd"][nth % 4];
        assert_eq!(error.class, FailureClass::NoPool, "{gate}");
        assert!(error.message.contains(gate), "{}", error.message);
        assert!(
            nth % 4 != 3 || error.message.contains("golem@us-east") && error.message.contains("0.0001"),
            "{}",
            error.message
        );
    }
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
