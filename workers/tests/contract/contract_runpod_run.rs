//! A queue-based endpoint on RunPod, started and polled.

use std::time::Duration;

use schemas::failure::FailureClass as C;
use simulators::{Fault, FaultKind, WorkerAge};
use workers::{
    adapters::RunPodMode,
    provider::{Health, Trail},
};

use crate::{
    bed::{Adapter, Recorder, Wish, eventually, success},
    suite::{all_promises, promises},
};

const ADAPTER: Adapter = Adapter::RunPod(RunPodMode::Run);

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

#[tokio::test]
async fn a_submission_that_nobody_lists_is_possibly_wasted() {
    let mut wish = Wish::default();
    wish.runpod.list_requests = false;
    let bed = ADAPTER.bed_with(wish).await;
    bed.fault_once(FaultKind::TruncatedBody);
    let ended = bed.fails(C::Connection).await;
    assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn a_lost_workers_run_is_found_by_its_mark() {
    let mut wish = Wish::default();
    wish.model.service_ms_p50 = 60_000;
    let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
    let call = bed.call();
    assert_eq!(bed.provider.find(&call, Duration::ZERO).await, Trail::Lost, "the list is not trusted");
    tokio::select! {
        ended = bed.provider.run(&call, &recorder) => panic!("it takes a minute: {ended:?}"),
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    assert_eq!(bed.provider.find(&call, Duration::ZERO).await, Trail::Run(recorder.runs().remove(0)));
}

#[tokio::test]
async fn a_result_that_expired_is_known_to_be_gone() {
    let mut wish = Wish::default();
    wish.runpod.result_ttl_ms = 1;
    wish.model.service_ms_p50 = 30;
    let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
    let call = bed.call();
    tokio::select! {
        _ = bed.provider.run(&call, &recorder) => {}
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    let run = recorder.runs().remove(0);
    bed.until("it has ended", |stats| stats.finished == 1).await;
    // It expires a millisecond after its end; until then it can be fetched.
    while bed.provider.reattach(&call, &run, Duration::from_secs(3_600), &recorder).await.is_some() {}
}

#[tokio::test]
async fn workers_of_every_age_are_understood() {
    for age in [WorkerAge::Openai, WorkerAge::Old, WorkerAge::Oldest] {
        let mut wish = Wish::default();
        wish.runpod.output = age;
        wish.runpod.running_alias = true;
        wish.runpod.progress_output = true;
        let bed = ADAPTER.bed_with(wish).await;
        let ended = bed.run().await;
        assert!(success(&ended).output.text.starts_with("[simulated]"), "{age:?}");
        assert_eq!(success(&ended).usage.completion_tokens, bed.simulator.stats().generated_tokens);
    }
}

#[tokio::test]
async fn a_completed_job_without_an_answer_is_a_failure_that_is_billed() {
    for lose in [true, false] {
        let mut wish = Wish::default();
        (wish.runpod.lose_output, wish.runpod.inner_error) = (lose, !lose);
        let bed = ADAPTER.bed_with(wish).await;
        let ended = bed.fails(C::ProviderDown).await;
        assert_eq!(bed.cost(&ended.used), bed.charged());
        assert!(bed.charged().get() > 0);
    }
}

#[tokio::test]
async fn a_job_survives_the_death_of_its_worker_and_pays_for_both() {
    let bed = ADAPTER.bed().await;
    bed.fault(FaultKind::ContainerDies);
    let ended = bed.fails(C::ProviderDown).await;
    assert_eq!(bed.simulator.stats().started, 3, "RunPod tries again by itself");
    assert!(!ended.used.is_empty(), "{ended:?}");
}

#[tokio::test]
async fn a_queue_that_nobody_will_serve_is_left_and_says_why() {
    for (throttled, class) in [(true, C::Capacity), (false, C::ProviderDown)] {
        let mut wish = Wish::default();
        (wish.runpod.throttled, wish.runpod.unhealthy) = (throttled, !throttled);
        let bed = ADAPTER.bed_with(wish).await;
        let Health::Down(down) = bed.provider.health().await else { panic!("nobody can serve") };
        assert_eq!(down.class, class);
        let ended = bed.fails(class).await;
        assert!(ended.used.is_empty(), "{ended:?}");
        bed.until("it left the queue", |stats| stats.queued == 0).await;
    }
}

#[tokio::test]
async fn an_endpoint_that_shows_little_of_itself_is_healthy() {
    let mut wish = Wish::default();
    wish.runpod.short_health = true;
    assert_eq!(ADAPTER.bed_with(wish).await.provider.health().await, Health::Up);
}

#[tokio::test]
async fn an_edge_that_loses_the_answer_leaves_it_open_what_was_billed() {
    let bed = ADAPTER.bed().await;
    bed.simulator
        .set_fault(Some(Fault::times(FaultKind::Status { code: 504, body: None, retry_after_s: None }, 1)));
    let ended = bed.fails(C::ProviderDown).await;
    assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
}
