//! A rented server in vLLM's dialect, billed by the second.

use crate::{
    bed::{Adapter, Wish, failure, success},
    suite::{all_promises, promises},
};
use schemas::failure::FailureClass as C;
use simulators::FaultKind;

const ADAPTER: Adapter = Adapter::OpenAi;

all_promises!(ADAPTER);

promises! {
    ADAPTER;
    a_stream_that_breaks_is_a_connection_lost
    garbage_in_a_stream_is_the_providers_fault
    a_stream_that_stops_ends_by_the_idle_limit
    no_answer_in_time_is_a_matter_of_capacity
    dropping_the_call_stops_the_run
}

#[tokio::test]
async fn without_streaming_the_answer_is_the_same() {
    let streamed = ADAPTER.bed().await.run().await;
    let bed = ADAPTER.bed_with(Wish { stream: false, ..Wish::default() }).await;
    let whole = bed.run().await;
    assert_eq!(success(&whole), success(&streamed));
    assert!(whole.first_token.is_zero());
    for (kind, class) in [
        (FaultKind::TruncatedBody, C::Connection),
        (FaultKind::ResetMidStream { after_tokens: 1 }, C::Connection),
        (FaultKind::GarbageJson, C::ProviderDown),
        (FaultKind::ErrorFrame { after_tokens: 1 }, C::ProviderDown),
    ] {
        bed.fault(kind);
        bed.fails(class).await;
    }
}

#[tokio::test]
async fn a_server_that_says_it_is_loading_lacks_capacity() {
    let bed = ADAPTER.bed().await;
    let body = r#"{"error":{"code":503,"message":"Loading model","type":"unavailable_error"}}"#.to_owned();
    bed.fault(FaultKind::Status { code: 503, body: Some(body), retry_after_s: None });
    bed.fails(C::Capacity).await;
    bed.fault(FaultKind::Status { code: 503, body: None, retry_after_s: Some(3) });
    let ended = bed.fails(C::RateLimited).await;
    assert_eq!(failure(&ended).retry_after_us, Some(3_000_000));
}
