//! Providers that leave, daemons that die.

use keepers::landlord::{CallError, Ending, Landlord as _, Phase};
use simulators::rented::{ControlFault, GolemConfig, GolemNode};

use crate::desk::{Keeper, Market, PRICE, Row, completion, config, ms, wait};

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_13_a_provider_that_left_is_gone_paid_and_avoided() {
    let nodes = vec![GolemNode::new("0xa1", "0.00001"), GolemNode::new("0xa2", PRICE)];
    let market = Market::start(GolemConfig::new(nodes)).await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    market.sim.leave("0xa1", "Shutdown");
    let seen = keeper.until(&row, "over", |phase| matches!(phase, Phase::Ending | Phase::Gone)).await;
    assert_ne!(seen.phase, Phase::Starting);
    // Our own call gets a 410.
    assert!(matches!(keeper.end(&row).await, Ok(Ending::Accepted | Ending::Gone)));
    keeper.until_gone(&row).await;
    let bill = market.only_bill();
    assert_eq!((bill.invoices, bill.ended.as_deref()), ((1, 1), Some("Shutdown")));

    // It is the cheaper one, and a restart does not forget.
    keeper.stop().await;
    let again = Keeper::start(config(&market));
    let next = Row::new("0192f3a5");
    again.order(&next).await.unwrap();
    assert_eq!(market.sim.bills()[1].provider, "0xa2");
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_14_a_daemon_that_dies_after_the_activity_leaves_no_agreement_in_force() {
    let market = Market::usual().await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    // The activity is destroyed, and then the daemon answers nobody.
    market.sim.account().fault("terminate", ControlFault::Cut, 1);
    let ended = keeper.end(&row).await;
    assert!(matches!(ended, Err(CallError::Unclear(_) | CallError::Unreachable(_))), "{ended:?}");
    market.sim.account().fault_always("*", ControlFault::Cut);
    let listed = keeper.golem.list(&[row.known()]).await;
    assert!(listed.is_err(), "no observation is no absence");
    keeper.kill().await;
    market.sim.account().clear_faults();
    market.sim.restart();

    let next = Keeper::start(config(&market));
    assert!(matches!(next.end(&row).await, Ok(Ending::Accepted)));
    next.until_gone(&row).await;
    let bill = market.only_bill();
    assert_eq!((bill.state.as_str(), bill.alive), ("Terminated", 0));
    assert_eq!((&bill.by_notes, &bill.paid), (&bill.owed, &bill.owed));
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_notes_that_nobody_accepts_lose_the_machine_but_not_its_bill() {
    let mut strict = GolemConfig::new(vec![GolemNode::new("0xa1", PRICE)]);
    strict.accept_within = ms(200);
    let market = Market::start(strict).await;
    // It does not attend.
    let keeper = Keeper::idle(config(&market));
    let row = Row::new("0192f3a4");
    keeper.order(&row).await.unwrap();
    wait("the provider ends it", async || market.only_bill().state == "Terminated").await;
    assert_eq!(market.only_bill().ended.as_deref(), Some("DebitNotesDeadline"));
    keeper.kill().await;
    let next = Keeper::start(config(&market));
    let gone = next.until_gone(&row).await;
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_tunnel_that_breaks_carries_the_next_connection() {
    let market = Market::usual().await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    let url = keeper.rent(&row).await;
    market.sim.account().fault("tunnel", ControlFault::Cut, 1);
    let client = keepers::landlords::http::client().unwrap();
    assert!(keepers::landlords::http::call(client.get(format!("{url}/health"))).await.is_err());
    assert_eq!(completion(&url, &row.machine).await, 200);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_agreement_that_nobody_uses_ends_without_a_bill() {
    let mut short = GolemConfig::new(vec![GolemNode::new("0xa1", PRICE)]);
    short.idle = ms(100);
    let market = Market::start(short).await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::start(config(&market));
    market.sim.account().fault_always("activity", ControlFault::Cut);
    market.sim.account().fault_always("activities", ControlFault::Cut);
    keeper.order(&row).await.unwrap();
    wait("the provider ends it", async || market.only_bill().state == "Terminated").await;
    market.sim.account().clear_faults();
    let gone = keeper.until_gone(&row).await;
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), 0);
    assert_eq!(market.only_bill().ended.as_deref(), Some("NoActivity"));
    keeper.stop().await;
}
