//! The provider that does nothing.

use std::time::Duration;

use schemas::{failure::FailureClass, prices::Used};
use workers::{
    adapters::Noop,
    provider::{Health, Provider as _},
};

use crate::bed::{Recorder, call, failure, success};

#[tokio::test]
async fn it_answers_at_once_and_counts_one_inference() {
    let (noop, recorder) = (Noop::default(), Recorder::default());
    let ended = noop.run(&call(0), &recorder).await;
    assert_eq!(success(&ended).output.text, recorder.text());
    assert_eq!((ended.used[0].sku.as_str(), ended.used[0].used), ("T4", Used::Inferences(1)));
    assert_eq!(noop.health().await, Health::Up);
    assert_eq!(noop.cancel("x").await, Ok(()));
    assert_eq!(noop.reattach(&call(0), "x", Duration::ZERO, &recorder).await, None);
    assert_eq!(noop.standing().await, None);
}

#[tokio::test(start_paused = true)]
async fn a_delay_longer_than_the_limit_is_a_timeout() {
    let recorder = Recorder::default();
    let mut call = call(0);
    call.timeout = Duration::from_secs(1);
    success(&Noop::new(Duration::from_millis(500)).run(&call, &recorder).await);
    let ended = Noop::new(Duration::from_secs(2)).run(&call, &recorder).await;
    assert_eq!(failure(&ended).class, FailureClass::Timeout);
}
