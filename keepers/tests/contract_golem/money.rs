//! Debit notes, invoices, allocations.

use std::time::Duration;

use keepers::landlord::{Ending, Phase};
use simulators::rented::{Canned, ControlFault, Golem, GolemConfig, GolemNode, Manner};

use crate::desk::{Keeper, Market, PRICE, RATE_NANOS, Row, config, ms, wait};

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_12_debit_notes_are_accepted_in_time_while_a_batch_blocks() {
    let mut slow = GolemConfig::new(vec![GolemNode::new("0xa1", PRICE)]);
    // The image takes longer to arrive than two notes may wait.
    (slow.deploy, slow.accept_within, slow.note_every) =
        (Duration::from_secs(7), Duration::from_secs(3), ms(50));
    let market = Market::start(slow).await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    let bill = market.only_bill();
    assert_eq!(bill.state, "Approved", "{bill:?}");
    assert!(bill.notes.1 >= 10, "{bill:?}");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_acceptance_that_the_provider_does_not_notice_is_repeated() {
    let market = Market::usual().await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    let account = market.sim.account();
    account.fault("accept_note", ControlFault::DoneBut(Canned::json(504, r#"{"message":null}"#)), 2);
    account.fault("accept_note", ControlFault::Refused(Canned::json(504, r#"{"message":null}"#)), 2);
    account.fault("note_events", ControlFault::Cut, 2);
    account.fault("note", ControlFault::Refused(Canned::text(500, "")), 2);
    let before = market.only_bill().notes.0;
    wait("all notes so far are accepted", async || {
        let bill = market.only_bill();
        bill.notes.0 > before + 3 && bill.notes.1 + 1 >= bill.notes.0
    })
    .await;
    assert_eq!(market.only_bill().state, "Approved");
    assert_eq!(market.sim.broken_rules(), Vec::<String>::new());
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_late_and_final_debit_notes_are_accepted_and_the_bill_is_met_to_the_nano_dollar() {
    let mut late = GolemConfig::new(vec![GolemNode {
        prices: vec!["0.000069444444444444".into(), "0.0000123".into(), "0.01".into()],
        ..GolemNode::new("0xa1", PRICE)
    }]);
    // No note comes before the end.
    (late.note_every, late.last_note_after) = (Duration::from_secs(3_600), ms(150));
    let market = Market::start(late).await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    keeper.end(&row).await.unwrap();
    let gone = keeper.until_gone(&row).await;
    let bill = market.only_bill();
    assert_eq!((bill.notes, bill.invoices), ((1, 1), (1, 1)));
    assert_eq!((&bill.owed, &bill.owed), (&bill.by_notes, &bill.paid));
    let charged = gone.told.unwrap().charged_usd.unwrap().get();
    assert_eq!(charged, Golem::usd_nanos(&bill.paid, RATE_NANOS));
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_what_is_not_owed_is_not_accepted_and_ends_the_agreement() {
    let greedy = GolemNode::new("0xa1", PRICE).that(Manner::Overcharges(1_000_000));
    let market = Market::start(GolemConfig::new(vec![greedy])).await;
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.order(&row).await.unwrap();
    wait("the agreement is ended", async || market.only_bill().state == "Terminated").await;
    wait("the invoice is refused", async || market.only_bill().invoices.0 == 1).await;
    let bill = market.only_bill();
    assert_eq!((bill.by_notes.as_str(), bill.paid.as_str()), ("0", "0"), "{bill:?}");
    assert_eq!(bill.ended.as_deref(), Some("BadProvider"));
    let gone = keeper.until_gone(&row).await;
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), 0);
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_allocation_is_extended_before_it_lapses() {
    let market = Market::usual().await;
    let mut config = config(&market);
    config.pace.allocate_for = Duration::from_secs(4);
    let keeper = Keeper::start(config);
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    let first = market.sim.allocations();
    wait("it was extended again and again", async || {
        let calls = market.sim.account().exchanges();
        calls.iter().filter(|call| call.method == "PUT" && call.status == 200).count() >= 3
    })
    .await;
    let now = market.sim.allocations();
    assert_eq!((first.len(), now.len(), &first[0].0), (1, 1, &now[0].0));
    assert_eq!(market.only_bill().state, "Approved");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_an_allocation_that_runs_dry_is_topped_up_before_the_notes_deadline() {
    // The start price is most of what was set aside.
    let dear =
        GolemNode { prices: vec!["0.01".into(), "0".into(), "70".into()], ..GolemNode::new("0xa1", PRICE) };
    let market = Market::start(GolemConfig::new(vec![dear])).await;
    let mut config = config(&market);
    let pool = config.pools.values_mut().next().unwrap();
    (pool.glm_per_hour_max, pool.glm_start_max) = ("36".parse().unwrap(), "70".parse().unwrap());
    config.pace.upkeep = Duration::from_secs(3_600);
    config.pace.allocate_for = Duration::from_secs(3);
    let keeper = Keeper::start(config);
    let mut row = Row::new("0192f3a4");
    row.usd_per_hour_max = "100".parse().unwrap();
    keeper.order(&row).await.unwrap();
    // Nothing extends it now but the refusal of a note, once its three seconds are over.
    wait("it is replaced", async || market.only_bill().notes.1 >= 40).await;
    let bill = market.only_bill();
    assert_eq!(bill.state, "Approved", "{bill:?}");
    keeper.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_15_a_second_invoice_is_never_paid() {
    let market = Market::usual().await;
    market.sim.second_invoices(2);
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    assert_eq!(keeper.end(&row).await, Ok(Ending::Accepted));
    let gone = keeper.until_gone(&row).await;
    wait("all three invoices came", async || market.only_bill().invoices.0 == 3).await;
    // Whoever reads them again knows no more than yagna does.
    keeper.stop().await;
    let again = Keeper::start(config(&market));
    wait("all events are read again", async || {
        let calls = market.sim.account().exchanges();
        calls.iter().filter(|call| call.path.ends_with("/reject?timeout=10.000")).count() >= 2
    })
    .await;
    let bill = market.only_bill();
    assert_eq!((bill.invoices, &bill.paid), ((3, 1), &bill.owed));
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn contract_golem_15_an_invoice_that_comes_after_the_shutdown_is_paid_by_the_next_keeper() {
    let market = Market::usual().await;
    market.sim.hold_invoices(true);
    let keeper = Keeper::start(config(&market));
    let row = Row::new("0192f3a4");
    keeper.rent(&row).await;
    keeper.end(&row).await.unwrap();
    let seen = keeper.look(&row).await.unwrap();
    assert_eq!(seen.phase, Phase::Ending, "it is not gone while its invoice is open");
    keeper.stop().await;
    market.sim.hold_invoices(false);
    wait("the invoice is out", async || market.only_bill().invoices.0 == 1).await;

    let next = Keeper::start(config(&market));
    let gone = next.until_gone(&row).await;
    let bill = market.only_bill();
    assert_eq!((bill.invoices, &bill.paid), ((1, 1), &bill.owed));
    assert_eq!(gone.told.unwrap().charged_usd.unwrap().get(), market.usd());
    assert_eq!(market.sim.allocations(), vec![], "it is released once the invoice is paid");
    next.stop().await;
}
