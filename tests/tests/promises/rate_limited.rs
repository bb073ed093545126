//! Promise: a provider that says "slow down" is not asked for ever: what it billed counts as an attempt, and the job ends.

use std::time::Duration;

use schemas::{
    failure::{Failure, FailureClass},
    reply::Status,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
};

const ACK_WAIT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_limit_that_was_billed_counts_as_an_attempt_and_ends_the_job() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    // As when a stream begins, and breaks off with "engine queue full".
    let busy =
        Failure::new(FailureClass::RateLimited, "engine queue full").after(Some(Duration::from_millis(1)));
    let provider = Scripted::new(Script::FailBilled(busy));
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let mut request = roles::job("hello");
    request.body.max_attempts = Some(1);
    let job = producer.submit(&request).await.unwrap().job;
    let audit = Audit::all_ended(&mut producer, &[job]).await;
    let result = &audit.results[&job][0];
    let class = result.error.as_ref().map(|error| error.class);
    assert_eq!((result.status, class), (Status::Failed, Some(FailureClass::RateLimited)));
    assert_eq!((provider.begun(), audit.costs.len()), (1, 1));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
