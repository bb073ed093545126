//! Beacon's app on Modal, one held request for each job.

use std::time::Duration;

use schemas::failure::FailureClass as C;
use simulators::FaultKind;
use workers::adapters::{Modal, ModalConfig, ModalMode};
use workers::provider::Provider as _;

use crate::{
    bed::{Adapter, Bed, Recorder, Wish, call, eventually, failure, success},
    raw::{RawServer, Reply},
    suite::{all_promises, goes_on_elsewhere, promises},
};

const ADAPTER: Adapter = Adapter::Modal(ModalMode::Wait);

all_promises!(ADAPTER);

promises! { ADAPTER; a_run_that_takes_too_long_is_stopped_and_its_bill_is_exact }

/// A job that takes several times as long as a request is held.
async fn redirected() -> Bed {
    let mut wish = Wish { hold_limit_ms: 30, ..Wish::default() };
    wish.model.service_ms_p50 = 200;
    ADAPTER.bed_with(wish).await
}

#[tokio::test]
async fn a_redirect_tells_the_run_and_leads_to_its_result() {
    let (bed, recorder) = (redirected().await, Recorder::default());
    let ended = bed.provider.run(&bed.call(), &recorder).await;
    success(&ended);
    assert_eq!(recorder.runs().len(), 1);
    assert_eq!(bed.simulator.stats().started, 1);
    assert_eq!(bed.cost(&ended.used), bed.charged());
}

#[tokio::test]
async fn another_worker_goes_on_with_a_run_whose_first_one_is_gone() {
    let bed = redirected().await;
    let call = goes_on_elsewhere(&bed).await;
    let unknown = bed.provider.reattach(&call, "fc-unknown", Duration::ZERO, &Recorder::default()).await;
    assert_eq!(unknown, None);
}

#[tokio::test]
async fn a_broken_poll_is_not_a_broken_run() {
    let (bed, recorder) = (redirected().await, Recorder::default());
    let call = bed.call();
    let (ended, ()) = tokio::join!(bed.provider.run(&call, &recorder), async {
        eventually("the run is known", || !recorder.runs().is_empty()).await;
        bed.fault_once(FaultKind::Refuse);
    });
    success(&ended);
    assert_eq!(bed.simulator.stats().started, 1);
}

#[tokio::test]
async fn answers_that_cannot_be_read_leave_an_estimate() {
    let bed = ADAPTER.bed().await;
    for (kind, class) in [
        (FaultKind::TruncatedBody, C::Connection),
        (FaultKind::ResetMidStream { after_tokens: 1 }, C::Connection),
        (FaultKind::GarbageJson, C::ProviderDown),
        (FaultKind::SilentEnd { after_tokens: 1 }, C::ProviderDown),
        (FaultKind::ContainerDies, C::ProviderDown),
    ] {
        bed.fault(kind);
        let ended = bed.fails(class).await;
        assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
    }
}

async fn redirect_to(location: &str) -> (workers::provider::Ended, Recorder, usize) {
    let redirect =
        Reply::text(&format!("HTTP/1.1 303 See Other\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n"));
    let server = RawServer::start(vec![redirect]).await;
    let modal = Modal::new(ModalConfig::new(server.url(), ModalMode::Wait)).unwrap();
    let recorder = Recorder::default();
    let ended = modal.run(&call(0), &recorder).await;
    (ended, recorder, server.requests().len())
}

#[tokio::test]
async fn a_redirect_to_another_host_is_not_followed() {
    let (ended, recorder, requests) =
        redirect_to("http://127.0.0.1:9/v1/run?__modal_function_call_id=fc-1").await;
    assert_eq!(failure(&ended).class, C::Misconfigured);
    assert!(ended.estimated && !ended.used.is_empty(), "a run has begun all the same");
    assert!(recorder.runs().is_empty());
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn a_redirect_without_a_run_is_no_redirect_of_modal() {
    let (ended, recorder, requests) = redirect_to("/v1/run").await;
    assert_eq!(failure(&ended).class, C::ProviderDown);
    assert!(recorder.runs().is_empty());
    assert_eq!(requests, 1);
}

#[tokio::test]
async fn an_app_that_counts_no_idle_time_has_no_standing_cost() {
    let server = RawServer::start(vec![Reply::json("404 Not Found", r#"{"detail":"Not Found"}"#)]).await;
    let modal = Modal::new(ModalConfig::new(server.url(), ModalMode::Wait)).unwrap();
    assert_eq!(modal.standing().await, None);
}
