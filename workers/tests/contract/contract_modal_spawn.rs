//! Beacon's app on Modal, started and polled.

use std::time::Duration;

use schemas::failure::FailureClass as C;
use simulators::{Fault, FaultKind};
use workers::adapters::ModalMode;

use crate::{
    bed::{Adapter, Bed, Recorder, Wish, eventually, failure, success},
    suite::{all_promises, goes_on_elsewhere, promises},
};

const ADAPTER: Adapter = Adapter::Modal(ModalMode::Spawn);

all_promises!(ADAPTER);

promises! { ADAPTER; a_run_that_takes_too_long_is_stopped_and_its_bill_is_exact }

/// A job that takes as long as nobody waits.
async fn endless() -> Bed {
    let mut wish = Wish::default();
    wish.model.service_ms_p50 = 60_000;
    ADAPTER.bed_with(wish).await
}

#[tokio::test]
async fn a_submission_whose_answer_was_lost_starts_nothing_twice() {
    for kind in [
        FaultKind::ResetMidStream { after_tokens: 0 },
        FaultKind::TruncatedBody,
        FaultKind::GarbageJson,
        FaultKind::SilentEnd { after_tokens: 0 },
        FaultKind::Refuse,
    ] {
        let bed = ADAPTER.bed().await;
        bed.fault_once(kind.clone());
        let ended = bed.run().await;
        success(&ended);
        assert_eq!(bed.simulator.stats().started, 1, "{kind:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged(), "{kind:?}");
    }
}

#[tokio::test]
async fn another_worker_goes_on_with_a_run_whose_first_one_is_gone() {
    let mut wish = Wish::default();
    wish.model.service_ms_p50 = 300;
    let bed = ADAPTER.bed_with(wish).await;
    let call = goes_on_elsewhere(&bed).await;
    let unknown = bed.provider.reattach(&call, "fc-unknown", Duration::ZERO, &Recorder::default()).await;
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn a_dropped_call_runs_on_until_it_is_cancelled() {
    let (bed, recorder) = (endless().await, Recorder::default());
    let call = bed.call();
    tokio::select! {
        ended = bed.provider.run(&call, &recorder) => panic!("it takes a minute: {ended:?}"),
        () = async {
            bed.until("it runs", |stats| stats.running == 1).await;
            // It runs before its id is told.
            eventually("the run is known", || !recorder.runs().is_empty()).await;
        } => {}
    }
    assert_eq!(bed.simulator.stats().running, 1);
    let run = recorder.runs().remove(0);
    assert_eq!(bed.provider.cancel(&run).await, Ok(()));
    bed.until("it is stopped", |stats| stats.running == 0 && stats.aborted == 1).await;
    assert_eq!(bed.provider.cancel(&run).await, Ok(()), "once more changes nothing");
    assert_eq!(bed.provider.cancel("fc-unknown").await, Ok(()), "what is unknown does not run");
    // Its bill can still be read, and is exact.
    let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
    assert_eq!(failure(&ended).class, C::ProviderDown);
    assert!(!ended.estimated);
    assert_eq!(bed.cost(&ended.used), bed.charged());
}

#[tokio::test]
async fn polls_that_fail_now_and_then_lose_nothing() {
    let mut wish = Wish::default();
    wish.model.service_ms_p50 = 200;
    let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
    let call = bed.call();
    let (ended, ()) = tokio::join!(bed.provider.run(&call, &recorder), async {
        eventually("the run is known", || !recorder.runs().is_empty()).await;
        let kind = FaultKind::Status { code: 502, body: None, retry_after_s: None };
        bed.simulator.set_fault(Some(Fault::times(kind, 3)));
    });
    success(&ended);
    assert_eq!(bed.simulator.stats().started, 1);
    assert_eq!(bed.cost(&ended.used), bed.charged());
}

#[tokio::test]
async fn polls_that_only_fail_end_the_call_with_an_estimate() {
    let (bed, recorder) = (endless().await, Recorder::default());
    let call = bed.call();
    let (ended, ()) = tokio::join!(bed.provider.run(&call, &recorder), async {
        bed.until("it runs", |stats| stats.running == 1).await;
        bed.fault(FaultKind::Status { code: 500, body: None, retry_after_s: None });
    });
    assert_eq!(failure(&ended).class, C::ProviderDown);
    assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn a_container_that_dies_leaves_an_estimate() {
    let bed = ADAPTER.bed().await;
    bed.fault(FaultKind::ContainerDies);
    let ended = bed.fails(C::ProviderDown).await;
    assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn a_submission_that_is_never_understood_is_given_up() {
    let bed = ADAPTER.bed().await;
    bed.fault(FaultKind::GarbageJson);
    bed.fails(C::ProviderDown).await;
    assert_eq!(bed.simulator.stats().started, 1, "three submissions of one job are one run");
}
