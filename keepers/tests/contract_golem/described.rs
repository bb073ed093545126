//! Everything that is said between landlord and daemon, held against the published descriptions.

use std::collections::BTreeSet;

use keepers::landlord::Landlord as _;
use simulators::{
    Exchange,
    rented::{GolemConfig, GolemNode, Manner},
};

use crate::{
    description::Descriptions,
    desk::{Keeper, Market, PRICE, Row, config, pool_id, wait},
};

/// What the implementation has and the descriptions have not, on purpose.
const UNDESCRIBED: [&str; 3] = [
    "GET /healthcheck: is not described",
    "GET /activity-api/v1/activity: is not described",
    "GET /net/{networkId}/tcp/{ip}/{port}, response 400: is not described",
];

/// A whole life, with all that can be said in it.
async fn life(by_the_pages: bool) -> Vec<Exchange> {
    let nodes = vec![
        GolemNode::new("0xa1", "0.00001").that(Manner::Rejects),
        GolemNode::new("0xa2", PRICE),
        GolemNode::new("0xb1", PRICE),
    ];
    let market = Market::start(GolemConfig { by_the_pages, ..GolemConfig::new(nodes) }).await;
    market.sim.second_invoices(1);
    let mut config = config(&market);
    config.pace.allocate_for = std::time::Duration::from_secs(20);
    let keeper = Keeper::start(config.clone());
    keeper.golem.quote(&pool_id()).await.unwrap();
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    wait("notes are accepted", async || market.sim.bills().iter().any(|bill| bill.notes.1 > 2)).await;
    keeper.stop().await;
    let next = Keeper::start(config);
    next.until_up(&row).await;
    next.end(&row).await.unwrap();
    next.end(&row).await.unwrap();
    next.until_gone(&row).await;
    wait("the second invoice came", async || {
        market.sim.account().exchanges().iter().any(|call| call.path.contains("/reject?timeout"))
    })
    .await;
    next.stop().await;
    market.sim.account().exchanges()
}

fn drifts(descriptions: &Descriptions, exchanges: &[Exchange]) -> BTreeSet<String> {
    exchanges.iter().flat_map(|exchange| descriptions.drifts(exchange)).collect()
}

/// Known differences between what yagna's implementation says and its descriptions, in both modes.
fn is_known(drift: &str) -> bool {
    UNDESCRIBED.contains(&drift)
        // An array of numbers; described as an object.
        || drift.contains("/usageCounterVector")
        // `null` where nothing is to be said.
        || drift.contains("/activity/{activityId}/state, response 200: /reason")
        || drift.contains("/activity/{activityId}/state, response 200: /errorMessage")
        // One of two forms, of which the description lets any value be the other.
        || drift.contains("/paymentPlatform \"erc20-polygon-glm\" is valid under more than one")
        // Left out of an answer's properties in what a caller sends: yagna makes them itself.
        || (drift.contains("POST /allocations, request") && drift.contains("is a required property"))
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_all_that_is_said_agrees_with_the_published_descriptions() {
    let Some(descriptions) = Descriptions::load() else { return };
    let exchanges = life(true).await;
    let unknown: Vec<String> =
        drifts(&descriptions, &exchanges).into_iter().filter(|drift| !is_known(drift)).collect();
    assert!(unknown.is_empty(), "{}", unknown.join("\n"));
    let calls: BTreeSet<&str> =
        exchanges.iter().map(|one| one.path.split('/').nth(1).unwrap_or("")).collect();
    assert!(calls.contains("market-api") && calls.contains("payment-api") && calls.contains("activity-api"));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_the_implementations_own_statuses_do_as_well() {
    let Some(descriptions) = Descriptions::load() else { return };
    let exchanges = life(false).await;
    let unknown: Vec<String> =
        drifts(&descriptions, &exchanges).into_iter().filter(|drift| !is_known(drift)).collect();
    let statuses = [
        "POST /activity, response 200: is not described",
        "POST /agreements, response 200: is not described",
        "POST /agreements/{agreementId}/terminate, response 200: is not described",
        "POST /demands/{subscriptionId}/proposals/{proposalId}, response 200: is not described",
    ];
    assert_eq!(unknown, statuses);
}
