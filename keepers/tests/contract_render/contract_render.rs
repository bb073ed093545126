//! The life of machines: ordered, listed, parked, woken, paid for, ended.

use std::{collections::BTreeMap, time::Duration};

use keepers::{
    landlord::{Billed, CallError, Ending, Landlord as _, Order, Parking, Phase},
    landlords::render::{Render, RenderConfig, RenderPool},
    secret::Secret,
};
use schemas::UsdNanos;
use simulators::rented::{Life, Stage};

use crate::{
    Bed, ours, row,
    services::{complete, eventually, usd},
};

#[tokio::test]
async fn an_order_becomes_a_service_that_completes_with_its_own_key_and_ends() {
    let bed = Bed::new().await;
    bed.simulator.add_foreign("website");
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    assert_eq!(bed.count("POST", "/services"), 1);
    let made = bed.simulator.made_with(&ordered.id).unwrap();
    let details = &made["serviceDetails"];
    assert_eq!((&details["region"], &details["plan"]), (&"virginia".into(), &"pro_plus".into()));
    assert_eq!((&details["numInstances"], &details["maxShutdownDelaySeconds"]), (&1.into(), &300.into()));
    assert!(!made.to_string().contains("null"), "{made}");

    let url = row.up(&bed.landlord).await;
    assert_eq!(complete(&url, &row).await, 200);
    assert_eq!(complete(&url, &crate::row()).await, 401, "a key of another machine");

    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Gone), "204, and 404 right after");
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Gone), "repeated");
    row.until(&bed.landlord, "it is gone", |phase| *phase == Phase::Gone).await;
    assert_eq!(bed.simulator.services(), []);
    assert_eq!(bed.simulator.account().touched(), []);
}

#[tokio::test]
async fn one_list_shows_all_our_machines_and_nobody_elses_over_pages() {
    let bed = Bed::new().await;
    for number in 0..230 {
        bed.simulator.add_foreign(&format!("service-{number}"));
    }
    let rows = [row(), row()];
    for row in &rows {
        row.ordered(&bed.landlord).await.unwrap();
    }
    let census = bed.landlord.list(&[]).await.unwrap();
    let mut found: Vec<_> = census.sightings.iter().map(|sighting| sighting.machine.clone()).collect();
    found.sort();
    assert_eq!(found, rows.each_ref().map(|row| row.machine.clone()));
    assert!(census.whole && census.unanswered.is_empty());
    for sighting in &census.sightings {
        assert_eq!(sighting.pool, "render@us-east".parse().unwrap());
        assert_eq!(
            (sighting.sku.as_deref(), sighting.place.as_deref()),
            (Some("pro_plus"), Some("virginia"))
        );
        assert_eq!(sighting.usd_per_hour, Some(usd("0.243055556")));
        assert!(sighting.ordered_at.is_some());
    }
}

#[tokio::test]
async fn a_live_machine_costs_no_call_of_its_own_but_an_inspection_in_turns() {
    let bed = Bed::new().await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    let before = bed.count("GET", "/deploys");
    for _ in 0..3 {
        row.up(&bed.landlord).await;
    }
    assert_eq!(bed.count("GET", "/deploys"), before);
    assert_eq!(bed.count("GET", "/instances"), 3);
}

#[tokio::test]
async fn a_machine_without_an_instance_is_broken() {
    let bed = Bed::new().await;
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    // It stands, and nothing runs in it.
    bed.simulator.stop_instances(&ordered.id);
    row.until(&bed.landlord, "it is broken", |phase| matches!(phase, Phase::Broken(_))).await;
}

#[tokio::test]
async fn a_parked_machine_is_up_again_with_a_newer_deploy_only() {
    for resume_deploys in [true, false] {
        let bed = Bed::with(|sim| sim.resume_deploys = resume_deploys).await;
        assert_eq!(bed.landlord.rules().parking, Parking::Offered);
        let row = row();
        let ordered = row.ordered(&bed.landlord).await.unwrap();
        row.up(&bed.landlord).await;
        bed.landlord.park(&row.known()).await.unwrap();
        row.until(&bed.landlord, "it is parked", |phase| *phase == Phase::Parked).await;
        eventually("its server stopped", || bed.simulator.account().alive()[0].stage == Stage::Parked).await;
        bed.landlord.park(&row.known()).await.unwrap();
        let parked = bed.simulator.account().invoice().total_nanos;

        bed.landlord.wake(&row.known(), &row).await.unwrap();
        let url = row.up(&bed.landlord).await;
        assert_eq!(complete(&url, &row).await, 200);
        let deploys = bed.simulator.deploys(&ordered.id);
        assert_eq!(deploys.len(), 2, "resume makes one: {resume_deploys}; {deploys:?}");
        assert_eq!(row.notes()["deploy"], deploys[1].0);
        assert!(bed.simulator.account().invoice().total_nanos > parked, "a new span is billed");
    }
}

#[tokio::test]
async fn a_keeper_killed_while_it_wakes_a_machine_ends_with_one_that_serves() {
    for name in ["before", "live", "deploy"] {
        let bed = Bed::new().await;
        let row = row();
        row.ordered(&bed.landlord).await.unwrap();
        row.up(&bed.landlord).await;
        bed.landlord.park(&row.known()).await.unwrap();
        eventually("it is parked", || bed.simulator.account().alive()[0].stage == Stage::Parked).await;
        row.die_at(name);
        bed.landlord.wake(&row.known(), &row).await.unwrap_err();
        bed.landlord.wake(&row.known(), &row).await.unwrap();
        let url = row.up(&bed.landlord).await;
        assert_eq!(complete(&url, &row).await, 200, "{name}");
    }
}

#[tokio::test]
async fn a_quote_checks_key_and_workspace_and_spends_nothing() {
    let bed = Bed::new().await;
    let pool = "render@us-east".parse().unwrap();
    let quoted = bed.landlord.quote(&pool).await.unwrap();
    assert_eq!((quoted[0].place.as_str(), quoted[0].usd_per_hour), ("virginia", usd("0.243055556")));
    assert_eq!(quoted[0].parked_usd_per_hour, UsdNanos::ZERO);
    let with = async |change: fn(&mut RenderConfig)| {
        let mut config = ours(&bed.simulator.url());
        change(&mut config);
        Render::new(config).unwrap().quote(&pool).await.unwrap_err()
    };
    let key = with(|config| config.key = Secret::new("wrong")).await;
    assert!(matches!(key, CallError::Authentication(_)), "{key}");
    let owner = with(|config| config.owner = "tea-2".to_owned()).await;
    assert!(matches!(owner, CallError::Misconfigured(_)), "{owner}");
    assert_eq!(bed.simulator.services(), []);
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
    let with = |place: &str, plan: &str| {
        let pools = BTreeMap::from([("render@us-east".parse().unwrap(), RenderPool::new(place, plan, "i"))]);
        Render::new(RenderConfig { pools, ..ours("http://127.0.0.1:1") })
            .map(|_| ())
            .map_err(|error| error.to_string())
    };
    assert_eq!(with("virginia", "pro_plus"), Ok(()));
    assert!(with("atlantis", "pro_plus").unwrap_err().contains("singapore"));
    assert!(with("virginia", "huge").unwrap_err().contains("no price"));
}

#[tokio::test]
async fn an_order_above_its_price_asks_nobody() {
    let bed = Bed::new().await;
    let row = row();
    let order = Order { usd_per_hour_max: usd("0.2"), ..row.order() };
    let error = bed.landlord.order(&order, &row).await.unwrap_err();
    assert_eq!(error, CallError::Price { now: usd("0.243055556"), max: usd("0.2") });
    assert_eq!(bed.simulator.account().exchanges(), []);
}

#[tokio::test]
async fn a_machine_is_billed_by_the_second_at_the_price_of_its_quote() {
    let bed = Bed::new().await;
    let rules = bed.landlord.rules();
    assert_eq!((rules.billed, rules.unit), (Billed::FromOrder, Duration::from_secs(1)));
    bed.simulator.account().set_life(Life { boot: None, ..Life::default() });
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    bed.landlord.end(&row.known(), &row).await.unwrap();
    let second = usd("0.243055556").for_hours(Duration::from_secs(1)).unwrap();
    let invoice = bed.simulator.account().invoice();
    let seconds = invoice.lines[0].billed_us / 1_000_000;
    assert_eq!(invoice.lines.len(), 1, "also a machine that never became ready");
    let span = usd("0.243055556").for_hours(Duration::from_secs(seconds)).unwrap();
    assert_eq!(UsdNanos::new(invoice.total_nanos), span);
    assert!(second <= span);
}
