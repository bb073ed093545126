//! The way to a machine, and what keeps one from coming.

use std::time::Duration;

use keepers::{
    landlord::{CallError, Ending, Landlord as _, Phase},
    secret::Secret,
};
use simulators::rented::{Canned, ControlFault, GolemConfig, GolemNode, Manner};

use crate::desk::{Keeper, Market, PRICE, Row, completion, config, now, pool_id};

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_rented_server_answers_through_the_tunnel_and_asks_for_its_machines_key() {
    let market = Market::usual().await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    let url = keeper.rent(&row).await;
    assert!(url.starts_with("http://127.0.0.1:"), "{url}");
    assert_eq!(completion(&url, &row.machine).await, 200);
    assert_eq!(completion(&url, &"0192f3a5".parse().unwrap()).await, 401, "the key of another machine");

    let seen = keeper.look(&row).await.unwrap();
    assert_eq!(seen.usd_per_hour, Some("0.08442".parse().unwrap()));
    assert_eq!((seen.sku.as_deref(), seen.place.as_deref()), (Some("gpu"), Some("us-east")));
    let left = seen.expires_at.unwrap().since(now());
    assert!(left > Duration::from_secs(3_300) && left <= Duration::from_secs(3_600), "{left:?}");
    assert_eq!(row.notes()["usd_per_glm"], "0.2345");

    assert_eq!(keeper.end(&row).await, Ok(Ending::Accepted));
    let gone = keeper.until_gone(&row).await;
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());
    let bill = market.only_bill();
    assert_eq!((bill.invoices, bill.alive, bill.ended.as_deref()), ((1, 1), 0, Some("Success")));
    assert_eq!((market.sim.allocations(), market.sim.networks()), (vec![], 0));
    assert_eq!(market.sim.broken_rules(), Vec::<String>::new());
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_many_connections_go_through_one_tunnel_at_the_same_time() {
    let market = Market::usual().await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    let url = keeper.rent(&row).await;
    let calls = (0..16).map(|_| completion(&url, &row.machine));
    let statuses = futures_util::future::join_all(calls).await;
    assert_eq!(statuses, vec![200; 16]);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_the_cheapest_usable_offer_is_taken_whatever_the_order_of_its_counters() {
    let turned = GolemNode {
        counters: vec!["cpu_sec".into(), "duration_sec".into()],
        // By position this one looks cheaper than it is: four threads at 0.0001, and nearly nothing for time.
        prices: vec!["0.0001".into(), "0.000001".into(), "0".into()],
        ..GolemNode::new("0xa1", PRICE)
    };
    let elsewhere = GolemNode::new("0xb1", "0.0000001");
    let market =
        Market::start(GolemConfig::new(vec![elsewhere, turned, GolemNode::new("0xa2", "0.0002")])).await;
    let mut config = config(&market);
    config.pace.gather = Duration::from_secs(1);
    let keeper = Keeper::start(config);
    let row = Row::new("0192f3a4");
    keeper.order(&row).await.unwrap();
    assert_eq!(market.only_bill().provider, "0xa2");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_price_above_the_orders_is_told_and_nothing_is_bought() {
    let market = Market::usual().await;
    let mut config = config(&market);
    config.pace.negotiate_within = Duration::from_secs(2);
    let keeper = Keeper::start(config);
    let mut row = Row::new("0192f3a4");
    row.usd_per_hour_max = "0.08".parse().unwrap();
    let refused = keeper.order(&row).await;
    let (now, max) = ("0.08442".parse().unwrap(), "0.08".parse().unwrap());
    assert_eq!(refused, Err(CallError::Price { now, max }));
    assert_eq!((market.sim.bills().len(), market.sim.allocations().len()), (0, 0));
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_no_offers_end_an_order_for_want_of_capacity_and_free_its_money() {
    let market = Market::usual().await;
    market.sim.set_offers(false);
    let mut config = config(&market);
    config.pace.negotiate_within = Duration::from_secs(2);
    let keeper = Keeper::start(config.clone());
    let row = Row::new("0192f3a4");
    assert!(matches!(keeper.order(&row).await, Err(CallError::Capacity(_))));
    assert_eq!(market.sim.allocations(), vec![]);
    let quotes = keeper.golem.quote(&pool_id()).await.unwrap();
    assert_eq!((quotes.len(), quotes[0].available), (1, Some(false)));
    market.sim.set_offers(true);
    let quotes = keeper.golem.quote(&pool_id()).await.unwrap();
    assert_eq!((quotes[0].usd_per_hour, quotes[0].available), ("0.08442".parse().unwrap(), Some(true)));
    // The same order, with the notes of the first try.
    assert!(keeper.order(&row).await.is_ok());
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_provider_that_says_no_or_nothing_is_followed_by_the_next() {
    for manner in [Manner::Rejects, Manner::Silent] {
        let bad = GolemNode::new("0xa1", "0.00001").that(manner.clone());
        let market = Market::start(GolemConfig::new(vec![bad, GolemNode::new("0xa2", PRICE)])).await;
        let mut config = config(&market);
        config.pace.approve_within = Duration::from_secs(1);
        let keeper = Keeper::start(config);
        let row = Row::new("0192f3a4");
        let ordered = keeper.order(&row).await.unwrap();
        let bills = market.sim.bills();
        let states: Vec<_> = bills.iter().map(|bill| (bill.provider.as_str(), bill.state.as_str())).collect();
        let first = if manner == Manner::Rejects { "Rejected" } else { "Cancelled" };
        assert_eq!(states, [("0xa1", first), ("0xa2", "Approved")]);
        assert_eq!(ordered.id, bills[1].agreement);
        keeper.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_machine_that_cannot_start_is_broken_and_its_provider_is_avoided() {
    for manner in [Manner::DeployFails("image is too large".into()), Manner::NoActivity] {
        let bad = GolemNode::new("0xa1", "0.00001").that(manner);
        let market = Market::start(GolemConfig::new(vec![bad, GolemNode::new("0xa2", PRICE)])).await;
        let keeper = Keeper::start(config(&market));
        let row = Row::new("0192f3a4");
        keeper.order(&row).await.unwrap();
        keeper.until(&row, "broken", |phase| matches!(phase, Phase::Broken(_))).await;
        assert_eq!(keeper.end(&row).await, Ok(Ending::Accepted));
        let gone = keeper.until_gone(&row).await;
        assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());

        let next = Row::new("0192f3a5");
        keeper.order(&next).await.unwrap();
        let providers: Vec<_> = market.sim.bills().into_iter().map(|bill| bill.provider).collect();
        assert_eq!(providers, ["0xa1", "0xa2"]);
        keeper.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_what_a_person_must_mend_is_said_before_anything_is_asked_for() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let mut wrong = config(&market);
    wrong.app_key = Secret::new("wrong");
    let refused = Keeper::idle(wrong).order(&row).await;
    assert!(matches!(refused, Err(CallError::Authentication(_))), "{refused:?}");

    let mut testnet = config(&market);
    testnet.platform = "erc20-holesky-tglm".into();
    let refused = Keeper::idle(testnet).order(&row).await;
    assert!(
        matches!(&refused, Err(CallError::Misconfigured(text)) if text.contains("holesky")),
        "{refused:?}"
    );

    market.sim.trouble("InsufficientGas");
    let refused = Keeper::idle(config(&market)).order(&row).await;
    assert!(
        matches!(&refused, Err(CallError::Misconfigured(text)) if text.contains("InsufficientGas")),
        "{refused:?}"
    );

    let poor = Market::start(GolemConfig { funds: "0.5".into(), ..GolemConfig::new(vec![]) }).await;
    let refused = Keeper::idle(config(&poor)).order(&row).await;
    assert!(
        matches!(&refused, Err(CallError::Misconfigured(text)) if text.contains("insufficient-account-funds")),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_daemon_that_is_down_before_the_agreement_means_that_nothing_was_done() {
    let market = Market::usual().await;
    let keeper = Keeper::idle(config(&market));
    for call in ["me", "allocate", "demand", "agree"] {
        market.sim.account().fault(call, ControlFault::Refused(Canned::text(500, "no")), 1);
        let row = Row::new("0192f3a4");
        let refused = keeper.order(&row).await;
        assert!(matches!(refused, Err(CallError::Unreachable(_))), "{call}: {refused:?}");
    }
    assert_eq!((market.sim.bills().len(), market.sim.allocations().len()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_unresponsive_activity_is_broken_and_may_come_back() {
    let market = Market::usual().await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    market.sim.set_unresponsive(true);
    keeper.until(&row, "broken", |phase| matches!(phase, Phase::Broken(_))).await;
    market.sim.set_unresponsive(false);
    keeper.until_up(&row).await;
    keeper.stop().await;
}
