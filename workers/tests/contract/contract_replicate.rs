//! Replicate's predictions.

use std::time::Duration;

use schemas::failure::FailureClass as C;
use simulators::{Fault, FaultKind, ReplicateBilling};
use workers::{
    adapters::{Billing, replicate::Target},
    provider::Trail,
};

use crate::{
    bed::{Adapter, Bed, Recorder, Wish, eventually, failure, success},
    suite::{all_promises, promises},
};

const ADAPTER: Adapter = Adapter::Replicate;

all_promises!(ADAPTER);

promises! {
    ADAPTER;
    a_run_is_stopped_when_it_takes_too_long
    another_worker_goes_on_with_a_run
    a_run_is_cancelled_before_and_after_its_start
    questions_that_fail_now_and_then_lose_nothing
    questions_that_only_fail_end_with_an_estimate
    a_key_that_is_closed_is_left_alone
    a_webhook_wakes_whoever_waits
    a_submission_whose_answer_was_lost_is_found_in_the_list
}

/// A prediction that is not held, so that it must be polled.
fn polled() -> Wish {
    Wish { wait: Duration::ZERO, ..Wish::default() }
}

async fn endless() -> Bed {
    let mut wish = polled();
    wish.model.service_ms_p50 = 60_000;
    ADAPTER.bed_with(wish).await
}

#[tokio::test]
async fn a_lost_workers_run_is_found_and_one_that_never_began_is_known_not_to() {
    let (bed, recorder) = (endless().await, Recorder::default());
    let call = bed.call();
    assert_eq!(bed.provider.find(&call, Duration::ZERO).await, Trail::Clean);
    tokio::select! {
        ended = bed.provider.run(&call, &recorder) => panic!("it takes a minute: {ended:?}"),
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    let run = recorder.runs().remove(0);
    assert_eq!(bed.provider.find(&call, Duration::ZERO).await, Trail::Run(run.clone()));
    let other = bed.call();
    assert_eq!(bed.provider.find(&other, Duration::ZERO).await, Trail::Clean);
    // The same question twice: nobody can tell whose it is.
    let again = Recorder::default();
    tokio::select! {
        ended = bed.provider.run(&call, &again) => panic!("it takes a minute: {ended:?}"),
        () = eventually("the second run is known", || !again.runs().is_empty()) => {}
    }
    assert_eq!(bed.provider.find(&call, Duration::ZERO).await, Trail::Lost);
}

#[tokio::test]
async fn an_output_that_was_removed_is_a_failure_and_its_bill_is_kept() {
    let mut wish = polled();
    wish.replicate.data_ttl_ms = 1;
    wish.model.service_ms_p50 = 30;
    let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
    let call = bed.call();
    tokio::select! {
        _ = bed.provider.run(&call, &recorder) => {}
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    let run = recorder.runs().remove(0);
    bed.until("it has ended", |stats| stats.finished == 1).await;
    let mut ended = bed.provider.reattach(&call, &run, Duration::from_secs(7_200), &recorder).await.unwrap();
    // It is removed a millisecond after its end; until then it can be fetched.
    while ended.outcome.is_ok() {
        ended = bed.provider.reattach(&call, &run, Duration::from_secs(7_200), &recorder).await.unwrap();
    }
    assert_eq!(failure(&ended).class, C::ProviderDown);
    assert_eq!(bed.cost(&ended.used), bed.charged());
    assert_eq!(bed.provider.reattach(&call, "unknown", Duration::from_secs(60), &recorder).await, None);
}

#[tokio::test]
async fn what_the_platform_interrupts_is_not_billed_and_counts_for_nothing() {
    let bed = ADAPTER.bed().await;
    bed.fault(FaultKind::ContainerDies);
    let ended = bed.fails(C::Preempted).await;
    assert!(ended.used.is_empty() && !ended.estimated, "{ended:?}");
    assert_eq!(bed.charged().get(), 0);
}

#[tokio::test]
async fn without_credit_the_pool_is_closed() {
    let mut wish = Wish::default();
    wish.replicate.no_credit = true;
    let bed = ADAPTER.bed_with(wish).await;
    let ended = bed.fails(C::Authentication).await;
    assert!(ended.used.is_empty());
}

#[tokio::test]
async fn the_wait_that_stands_only_in_the_sentence_is_kept() {
    let bed = ADAPTER.bed().await;
    let body = r#"{"detail":"Request was throttled. Your rate limit resets in ~30s."}"#.to_owned();
    bed.simulator.set_fault(Some(Fault::times(
        FaultKind::Status { code: 429, body: Some(body), retry_after_s: None },
        1,
    )));
    let ended = bed.fails(C::RateLimited).await;
    assert_eq!(failure(&ended).retry_after_us, Some(30_000_000));
}

#[tokio::test]
async fn tokens_are_billed_as_the_provider_counts_them() {
    let mut wish = Wish { billing: Billing::PerToken, ..Wish::default() };
    wish.replicate.billing = ReplicateBilling::Tokens;
    wish.model.service_sigma = 0.5;
    let bed = ADAPTER.bed_with(wish).await;
    let mut used = Vec::new();
    for round in 0..8 {
        if round == 3 {
            bed.fault_once(FaultKind::ErrorFrame { after_tokens: 2 });
        }
        let ended = bed.run().await;
        assert!(!ended.estimated, "{ended:?}");
        used.extend(ended.used);
    }
    assert_eq!(used.len(), 7, "a failed one is free");
    assert_eq!(bed.cost(&used), bed.charged());
}

#[tokio::test]
async fn a_watched_job_is_told_piece_by_piece_even_when_its_stream_is_cut() {
    for cut in [None, Some(3)] {
        let mut wish = Wish::default();
        wish.replicate.stream_cut_after = cut;
        wish.model.service_ms_p50 = 200;
        let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
        let mut call = bed.call();
        call.live = true;
        let ended = bed.provider.run(&call, &recorder).await;
        assert_eq!(recorder.text(), success(&ended).output.text, "{cut:?}");
        assert!(recorder.pieces() > 1, "{cut:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged());
    }
}

#[tokio::test]
async fn a_deployment_is_booked_by_its_predictions_as_an_estimate() {
    let mut wish = Wish { target: Target::Deployment, ..Wish::default() };
    // Time that is no prediction's, and that must not be booked on one.
    wish.model.cold_start_ms = 150;
    let bed = ADAPTER.bed_with(wish).await;
    let ended = bed.run().await;
    success(&ended);
    assert!(ended.estimated, "{ended:?}");
    // The simulator charges predictions here, so that what they tell can be held against it.
    assert_eq!(bed.cost(&ended.used), bed.charged());
}
