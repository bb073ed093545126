//! Beacon's app on Modal, streamed.

use schemas::failure::FailureClass as C;
use simulators::FaultKind;
use workers::adapters::ModalMode;

use crate::{
    bed::{Adapter, eventually, failure, success},
    suite::{all_promises, promises},
};

const ADAPTER: Adapter = Adapter::Modal(ModalMode::OpenAi);

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
async fn a_container_that_dies_leaves_an_estimate() {
    let bed = ADAPTER.bed().await;
    bed.fault(FaultKind::ContainerDies);
    let ended = bed.fails(C::ProviderDown).await;
    assert!(failure(&ended).message.contains("modal-http:"), "{ended:?}");
    assert!(ended.estimated && bed.cost(&ended.used) >= bed.charged(), "{ended:?}");
}

#[tokio::test]
async fn idle_time_is_standing_cost_to_the_nano_dollar() {
    let bed = ADAPTER.bed().await;
    let ended = bed.run().await;
    success(&ended);
    eventually("the container scaled down", || bed.simulator.bill().lines.len() == 2).await;
    let standing = bed.provider.standing().await.unwrap();
    let all = bed.cost(&ended.used).checked_add(bed.cost(&standing)).unwrap();
    assert_eq!(all.get(), bed.simulator.bill().total_nanos);
}
