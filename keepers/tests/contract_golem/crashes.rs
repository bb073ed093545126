//! A keeper that dies at every step, and one that comes after it.

use keepers::landlord::{Ending, Landlord as _, Phase};
use simulators::rented::{ControlFault, GolemConfig, GolemNode};

use crate::desk::{Keeper, Market, PRICE, Row, completion, config, pool_id, wait};

/// The life after the crash: lists first, as the keeper does; an order that no list shows is sent again.
async fn goes_on(market: &Market, row: &Row) -> Keeper {
    let next = Keeper::start(config(market));
    if next.look(row).await.is_none() {
        next.order(row).await.unwrap();
    }
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_killed_at_every_note_of_an_order_rents_one_machine() {
    let mut deaths = 0;
    for writes in 0.. {
        let market = Market::usual().await;
        let row = Row::new("0192f3a4");
        row.dies_after(Some(writes));
        let keeper = Keeper::start(config(&market));
        let died = {
            let order = row.order();
            tokio::select! {
                ordered = keeper.golem.order(&order, &row) => {
                    ordered.unwrap();
                    false
                }
                // The write that never comes back is the last thing that it does.
                () = wait("it hangs in a write", async || row.is_stuck()) => true,
            }
        };
        keeper.kill().await;
        row.dies_after(None);
        let next = goes_on(&market, &row).await;
        let url = next.until_up(&row).await;
        assert_eq!(completion(&url, &row.machine).await, 200, "after {writes} writes");
        let bills = market.sim.bills();
        let marks: Vec<_> = bills.iter().map(|bill| (bill.mark.as_deref(), bill.state.as_str())).collect();
        assert_eq!(marks, [(Some("0192f3a4"), "Approved")], "after {writes} writes");

        assert_eq!(next.end(&row).await, Ok(Ending::Accepted));
        let gone = next.until_gone(&row).await;
        assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());
        assert_eq!(market.only_bill().invoices, (1, 1));
        assert_eq!(market.sim.broken_rules(), Vec::<String>::new());
        next.stop().await;
        if !died {
            break;
        }
        deaths += 1;
    }
    assert!(deaths >= 10, "only {deaths} steps");
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_killed_at_every_call_of_a_start_goes_on_to_one_activity() {
    for call in ["activity", "activities", "net", "state", "exec", "batch"] {
        for fault in [ControlFault::Hang, ControlFault::DoneLate(std::time::Duration::from_secs(3_600))] {
            let market = Market::usual().await;
            let row = Row::new("0192f3a4");
            let keeper = Keeper::start(config(&market));
            market.sim.account().fault(call, fault.clone(), 1);
            keeper.order(&row).await.unwrap();
            wait("the call hangs", async || !market.sim.account().is_armed(call)).await;
            keeper.kill().await;
            let next = Keeper::start(config(&market));
            let url = next.until_up(&row).await;
            assert_eq!(completion(&url, &row.machine).await, 200, "{call} {fault:?}");
            let bill = market.only_bill();
            assert_eq!((bill.state.as_str(), bill.alive), ("Approved", 1), "{call} {fault:?}");
            assert_eq!(market.sim.broken_rules(), Vec::<String>::new(), "{call} {fault:?}");
            next.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_start_that_forgot_the_key_of_its_server_starts_no_open_server() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::start(config(&market));
    market.sim.account().fault("activity", ControlFault::Hang, 1);
    keeper.order(&row).await.unwrap();
    wait("the call hangs", async || !market.sim.account().is_armed("activity")).await;
    keeper.kill().await;
    let mut forgetful = config(&market);
    forgetful.pools.values_mut().for_each(|pool| pool.server_secret = None);
    let next = Keeper::start(forgetful);
    let seen = next.until(&row, "broken", |phase| matches!(phase, Phase::Broken(_))).await;
    assert!(matches!(&seen.phase, Phase::Broken(why) if why.contains("key")), "{seen:?}");
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_agreement_whose_confirmation_was_not_answered_is_found_by_its_session() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::start(config(&market));
    market.sim.account().fault("confirm", ControlFault::DoneThenCut, 1);
    let unclear = keeper.order(&row).await;
    assert!(unclear.as_ref().is_err_and(keepers::landlord::CallError::is_unclear), "{unclear:?}");
    keeper.kill().await;
    wait("the provider approves", async || market.only_bill().state == "Approved").await;

    // The row is lost, too: the agreement says whose it is.
    let next = Keeper::start(config(&market));
    let census = next.golem.list(&[]).await.unwrap();
    assert!(census.whole);
    let seen = &census.sightings[0];
    assert_eq!((seen.machine.as_str(), &seen.id), ("0192f3a4", &market.only_bill().agreement));
    assert_eq!((seen.sku.as_deref(), seen.place.as_deref()), (Some("gpu"), Some("us-east")));
    assert!(seen.ordered_at.is_some());
    let url = next.until_up(&row).await;
    assert_eq!(completion(&url, &row.machine).await, 200);
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_machine_that_served_is_adopted_at_its_old_address_and_its_notes_come_first() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::start(config(&market));
    let url = keeper.rent(&row).await;
    keeper.look(&row).await.unwrap();
    keeper.kill().await;
    let before = market.only_bill().notes;
    wait("notes pile up", async || market.only_bill().notes.0 > before.0 + 2).await;

    let next = Keeper::start(config(&market));
    let seen = next.look(&row).await.unwrap();
    assert_eq!(seen.phase, Phase::Up(url.clone()), "by its first list");
    assert_eq!(completion(&url, &row.machine).await, 200);
    let piled = market.only_bill().notes.0;
    wait("all of them are accepted", async || market.only_bill().notes.1 >= piled).await;
    assert_eq!((market.only_bill().state.as_str(), market.only_bill().alive), ("Approved", 1));
    next.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_ending_call_without_an_answer_is_repeated() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::start(config(&market));
    keeper.rent(&row).await;
    market.sim.account().fault("terminate", ControlFault::DoneThenCut, 1);
    assert!(keeper.end(&row).await.is_err());
    assert_eq!(keeper.end(&row).await, Ok(Ending::Accepted), "410 is done");
    keeper.until_gone(&row).await;
    assert_eq!(keeper.end(&row).await, Ok(Ending::Accepted), "and again");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_order_that_asked_nobody_ends_at_once() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::idle(config(&market));
    row.dies_after(Some(4));
    let order = row.order();
    tokio::select! {
        ordered = keeper.golem.order(&order, &row) => panic!("{ordered:?}"),
        () = wait("it hangs in a write", async || row.is_stuck()) => {}
    }
    row.dies_after(None);
    assert!(keeper.look(&row).await.is_none());
    assert_eq!(keeper.end(&row).await, Ok(Ending::Gone));
    assert_eq!(market.sim.bills().len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_agreements_of_others_are_left_alone() {
    let nodes = vec![GolemNode::new("0xa1", PRICE), GolemNode::new("0xa2", PRICE)];
    let market = Market::start(GolemConfig::new(nodes)).await;
    let mut other = config(&market);
    other.session = "somebody".into();
    let stranger = Keeper::start(other);
    let theirs = Row::new("0192f3a9");
    stranger.order(&theirs).await.unwrap();

    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    let url = keeper.rent(&row).await;
    let census = keeper.golem.list(&[row.known()]).await.unwrap();
    assert_eq!(census.sightings.len(), 1);
    keeper.end(&row).await.unwrap();
    keeper.until_gone(&row).await;
    assert_eq!(market.sim.bills()[0].state, "Approved");
    assert!(url.starts_with("http://"));
    stranger.stop().await;
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_a_machine_whose_pool_left_the_configuration_is_ended_and_paid() {
    let market = Market::usual().await;
    let row = Row::new("0192f3a4");
    let keeper = Keeper::start(config(&market));
    keeper.rent(&row).await;
    keeper.stop().await;
    let mut without = config(&market);
    let settings = without.pools.remove(&pool_id()).unwrap();
    without.pools.insert("spare@us-east".parse().unwrap(), settings);
    let next = Keeper::start(without);
    next.look(&row).await;
    assert_eq!(next.end(&row).await, Ok(Ending::Accepted));
    let gone = next.until_gone(&row).await;
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());
    assert_eq!(market.only_bill().invoices, (1, 1));
    next.stop().await;
}
