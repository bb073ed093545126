//! Promise: acks that are lost at a consumer leader change, in a cluster of three, are sent again.
//!
//! An election may lose deliveries too; those come again after `ack_wait`, and that is all right. What must not happen
//! is that a job which was acked comes again. So the test listens to the acks themselves: no job may be acked both
//! under its first delivery and under a later one.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt, stream};
use schemas::{JobId, lease::Lease};
use serde_json::Value;
use tests::{
    audit::Audit,
    nats_server::NatsCluster,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::api;

#[tokio::test(flavor = "multi_thread")]
async fn acks_lost_at_a_leader_change_are_sent_again_in_a_cluster() {
    let cluster = NatsCluster::start().await;
    let urls = cluster.urls();
    let ack_wait = Duration::from_secs(10);
    let mut settings = roles::settings(ack_wait);
    settings.replicas = 3;
    let dispatcher = Role::dispatcher(roles::dispatcher_config(&urls, "d1", settings)).await;
    let provider = Scripted::new(Script::Succeed);
    let worker =
        Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 256, ack_wait, provider.clone())).await;
    let mut producer = roles::producer(&urls).await;
    let ids: Vec<JobId> = (0..3_000).map(|_| producer::request::new_job_id()).collect();
    let client = producer.client().clone();
    let mut acks = client.subscribe("$JS.ACK.JOBS_us-east.>").await.unwrap();
    let consumer = "JOBS_us-east.d-llama-3-2-1b-normal";
    let submitting = async {
        let sent = stream::iter(&ids).map(|id| {
            let mut job = roles::job("through an election");
            job.body.id = Some(id.to_string());
            let producer = &producer;
            async move { producer.submit(&job).await.unwrap() }
        });
        sent.buffer_unordered(100).for_each(|_| async {}).await;
    };
    let deposing = async {
        for round in 1..=3u64 {
            wait::until("jobs to run", || async { (provider.begun() > round * 600).then_some(()) }).await;
            let subject = format!("CONSUMER.LEADER.STEPDOWN.{consumer}");
            // Refused while there is no leader; the next round tries again.
            let _ = api::ask(&client, &subject, &Value::Null).await;
        }
    };
    tokio::join!(submitting, deposing);
    let audit = Audit::all_ended(&mut producer, &ids).await;
    assert_eq!(audit.results.len(), ids.len());
    wait::until("every ack to arrive", || async {
        let info = api::ask(&client, &format!("CONSUMER.INFO.{consumer}"), &Value::Null).await.ok()?;
        let (out, pending) = (api::number(&info, "num_ack_pending")?, api::number(&info, "num_pending")?);
        (out == 0 && pending == 0).then_some(())
    })
    .await;
    worker.stop().await;
    dispatcher.stop().await;
    let (mut first, mut later) = (BTreeSet::new(), BTreeSet::new());
    // All have been sent by now; the end of the stream is a silence.
    while let Ok(Some(ack)) = tokio::time::timeout(Duration::from_secs(1), acks.next()).await {
        let lease: Lease = ack.subject.as_str().parse().unwrap();
        if ack.payload.as_ref() == b"+ACK" {
            if lease.delivered == 1 { &mut first } else { &mut later }.insert(lease.stream_seq);
        }
    }
    assert!(first.len() > ids.len() / 2, "the acks were not seen");
    let twice: Vec<_> = first.intersection(&later).collect();
    assert!(twice.is_empty(), "acked, and yet delivered again: {twice:?}");
    producer.close().await;
}
