//! Thousands of requests: nothing is lost, nothing is billed twice, whatever becomes of each.
#![allow(clippy::unwrap_used, reason = "what fails here is the test")]

mod support;

use std::collections::HashSet;

use futures_util::{StreamExt, stream};
use serde_json::json;
use simulators::{Kind, SimulatedModel};
use support::{listen, model, serve};

#[tokio::test]
async fn golem_bills_exactly_those_who_saw_a_200() {
    let rig = serve(Kind::Golem, SimulatedModel { slots: 16, tokens_per_chunk: 8, ..model() }).await;
    rig.set_fault(json!({ "kind": "status", "code": 503, "rate": 0.3 })).await;
    let rig = &rig;
    let asks = (0..3_000).map(|n| async move {
        let id = format!("job-{n}");
        let response = rig.chat(true).header("x-request-id", &id).send().await.unwrap();
        if response.status() != 200 {
            return None;
        }
        let heard = listen(response).await;
        assert!(heard.done && heard.finish.is_some());
        Some(id)
    });
    let seen: Vec<_> = stream::iter(asks).buffer_unordered(64).collect().await;
    let seen: HashSet<_> = seen.into_iter().flatten().collect();
    let bill = rig.simulator.bill();
    let billed: HashSet<_> = bill.lines.iter().filter_map(|line| line.run.clone()).collect();
    assert_eq!((bill.lines.len(), &billed), (billed.len(), &seen));
    assert_eq!(bill.total_nanos, 100_000 * u64::try_from(seen.len()).unwrap());
    assert!((1_900..2_300).contains(&seen.len()), "seven in ten of 3000, give or take: {}", seen.len());
    let stats = rig.simulator.stats();
    assert_eq!((stats.running, stats.queued, stats.peak_running), (0, 0, 16));
}
