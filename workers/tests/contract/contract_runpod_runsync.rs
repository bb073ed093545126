//! A queue-based endpoint on RunPod, held until the job is over.

use std::time::Duration;

use workers::adapters::RunPodMode;

use crate::{
    bed::{Adapter, Recorder, Wish, success},
    suite::{all_promises, promises},
};

const ADAPTER: Adapter = Adapter::RunPod(RunPodMode::RunSync);

all_promises!(ADAPTER);

promises! {
    ADAPTER;
    a_key_that_is_closed_is_left_alone
    a_submission_whose_answer_was_lost_is_found_in_the_list
}

#[tokio::test]
async fn a_job_that_outlasts_the_wait_is_polled() {
    let mut wish = Wish::default();
    // The longest wait is 300 s: here 300 ms, and ours of 60 s is over after 60 ms.
    wish.runpod.time_scale = 0.001;
    wish.model.service_ms_p50 = 200;
    let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
    let mut call = bed.call();
    call.timeout = Duration::from_secs(3_600);
    let ended = bed.provider.run(&call, &recorder).await;
    success(&ended);
    assert_eq!(recorder.runs().len(), 1);
    assert_eq!(bed.cost(&ended.used), bed.charged());
}
