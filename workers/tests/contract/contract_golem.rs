//! A rented server on Golem: the same wire, billed once for each call that was admitted.

use schemas::prices::Used;
use simulators::FaultKind;

use crate::{
    bed::Adapter,
    suite::{all_promises, promises},
};

const ADAPTER: Adapter = Adapter::Golem;

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
async fn each_admitted_call_is_one_inference_however_it_ends() {
    let bed = ADAPTER.bed().await;
    let mut used = Vec::new();
    for (kind, admitted) in [
        (FaultKind::ResetMidStream { after_tokens: 0 }, true),
        (FaultKind::SilentEnd { after_tokens: 1 }, true),
        (FaultKind::ErrorFrame { after_tokens: 1 }, true),
        (FaultKind::GarbageJson, true),
        (FaultKind::ContainerDies, true),
        (FaultKind::Status { code: 500, body: None, retry_after_s: None }, false),
        (FaultKind::Oom, false),
        (FaultKind::Refuse, false),
    ] {
        bed.fault(kind);
        let ended = bed.run().await;
        assert_eq!(ended.used.len(), usize::from(admitted), "{ended:?}");
        assert!(ended.outcome.is_err() && !ended.estimated);
        assert!(ended.used.iter().all(|u| u.used == Used::Inferences(1)));
        used.extend(ended.used);
    }
    assert_eq!(bed.cost(&used), bed.charged());
}
