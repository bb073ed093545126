//! Beacon's app on Modal, asked to keep containers up: alike in all of its modes.

use std::time::Duration;

use schemas::failure::FailureClass as C;
use simulators::{BillKind, FaultKind};
use tokio::time;
use workers::{
    adapters::{Modal, ModalConfig, ModalMode, Secret},
    provider::{Ended, Provider as _},
};

use crate::{
    bed::{Adapter, Bed, Wish, success},
    raw::{RawServer, Reply},
};

const MODES: [ModalMode; 3] = [ModalMode::OpenAi, ModalMode::Wait, ModalMode::Spawn];

/// A start that a job would notice, and an order that holds for a second.
async fn bed(mode: ModalMode) -> Bed {
    let mut wish = Wish { warm_lease_ms: 1_000, ..Wish::default() };
    (wish.model.cold_start_ms, wish.model.slots) = (150, 3);
    Adapter::Modal(mode).bed_with(wish).await
}

/// Waits until nothing is up and nothing is billed any more. Idle containers stay for 200 ms.
async fn scaled_down(bed: &Bed) {
    let quiet = async {
        loop {
            let before = bed.simulator.bill().total_nanos;
            time::sleep(Duration::from_millis(300)).await;
            if bed.simulator.bill().total_nanos == before {
                return;
            }
        }
    };
    assert!(time::timeout(Duration::from_secs(20), quiet).await.is_ok(), "it bills for ever");
}

/// What the runs and the pool are charged is what the simulator bills.
async fn exact(bed: &Bed, runs: &[Ended]) {
    let standing = bed.provider.standing().await.unwrap();
    let used = runs.iter().map(|ended| bed.cost(&ended.used)).chain([bed.cost(&standing)]);
    assert_eq!(schemas::money::total(used).unwrap().get(), bed.simulator.bill().total_nanos);
}

fn starts(bed: &Bed, kind: BillKind) -> u64 {
    let lines = bed.simulator.bill().lines;
    lines.iter().filter(|line| line.kind == kind).map(|line| line.billed_micros).sum()
}

#[tokio::test]
async fn an_order_makes_the_next_job_warm_and_everything_is_on_some_bill() {
    for mode in MODES {
        let bed = bed(mode).await;
        assert!(bed.provider.warmable());
        for _ in 0..3 {
            assert_eq!(bed.provider.warm("m", 2).await, Ok(()), "{mode:?}");
        }
        time::sleep(Duration::from_millis(200)).await;
        let (one, two) = (bed.call(), bed.call());
        let (one, two) = tokio::join!(bed.run_call(&one), bed.run_call(&two));
        for ended in [&one, &two] {
            success(ended);
            assert!(ended.used.iter().all(|used| used.item == "execution"), "{mode:?}: {ended:?}");
            assert!(ended.cold_start.is_zero() && !ended.estimated);
        }
        scaled_down(&bed).await;
        let started = (starts(&bed, BillKind::WarmStart), starts(&bed, BillKind::Startup));
        assert_eq!(started.1, 0, "{mode:?}: no job waited for a start");
        assert!((300_000..310_000).contains(&started.0), "two of them, once: {started:?}");
        exact(&bed, &[one, two]).await;
    }
}

#[tokio::test]
async fn a_job_beyond_what_was_ordered_waits_for_a_start_of_its_own() {
    let bed = bed(ModalMode::Spawn).await;
    bed.provider.warm("m", 1).await.unwrap();
    time::sleep(Duration::from_millis(200)).await;
    let (one, two) = (bed.call(), bed.call());
    let (one, two) = tokio::join!(bed.run_call(&one), bed.run_call(&two));
    let cold = [&one, &two].into_iter().filter(|ended| !ended.cold_start.is_zero()).count();
    assert_eq!(cold, 1);
    scaled_down(&bed).await;
    exact(&bed, &[one, two]).await;
}

#[tokio::test]
async fn an_order_that_is_not_repeated_lapses_and_jobs_are_cold_again() {
    let bed = bed(ModalMode::Wait).await;
    bed.provider.warm("m", 1).await.unwrap();
    scaled_down(&bed).await;
    let ended = bed.run().await;
    assert!(ended.cold_start >= Duration::from_millis(150), "{ended:?}");
    scaled_down(&bed).await;
    exact(&bed, &[ended]).await;
}

#[tokio::test]
async fn an_order_for_none_lets_go_at_once() {
    let bed = bed(ModalMode::Spawn).await;
    bed.provider.warm("m", 3).await.unwrap();
    bed.provider.warm("m", 0).await.unwrap();
    scaled_down(&bed).await;
    let idle = starts(&bed, BillKind::Idle);
    assert!(idle < 3 * 300_000, "the window and no lease: {idle}");
    exact(&bed, &[]).await;
}

#[tokio::test]
async fn an_order_that_fails_says_why_and_the_next_is_tried_all_the_same() {
    let bed = bed(ModalMode::Spawn).await;
    let class = async |model: &str, containers| bed.provider.warm(model, containers).await.unwrap_err().class;
    assert_eq!(class("other", 1).await, C::Misconfigured);
    assert_eq!(class("m", 4).await, C::InvalidRequest, "more than the most");
    for (kind, expected) in [
        (FaultKind::Refuse, C::Connection),
        (FaultKind::Status { code: 429, body: None, retry_after_s: None }, C::RateLimited),
        (FaultKind::Status { code: 404, body: None, retry_after_s: None }, C::Misconfigured),
        (FaultKind::Status { code: 500, body: None, retry_after_s: None }, C::ProviderDown),
    ] {
        bed.fault_once(kind.clone());
        assert_eq!(class("m", 1).await, expected, "{kind:?}");
    }
    assert!(bed.provider.warmable());
    assert_eq!(bed.provider.warm("m", 1).await, Ok(()));
}

#[tokio::test]
async fn an_order_that_is_not_answered_ends_by_the_time_limit() {
    let silent = bed(ModalMode::Spawn).await;
    silent.fault(FaultKind::Hang);
    let mut config = ModalConfig::new(silent.simulator.url(), ModalMode::Spawn);
    (config.key, config.secret) = (Some(Secret::new("key-1")), Some(Secret::new("secret-1")));
    config.request_timeout = Duration::from_millis(50);
    let modal = Modal::new(config).unwrap();
    assert_eq!(modal.warm("m", 1).await.unwrap_err().class, C::Timeout);
}

#[tokio::test]
async fn an_app_from_before_that_route_is_found_out() {
    let server = RawServer::start(vec![Reply::json("404 Not Found", r#"{"detail":"Not Found"}"#)]).await;
    let modal = Modal::new(ModalConfig::new(server.url(), ModalMode::Wait)).unwrap();
    assert!(modal.warmable());
    assert!(modal.warm("m", 1).await.is_err());
    assert!(!modal.warmable());
}
