//! The life of machines: ordered, listed, asleep, awake, paid for, ended.

use std::{collections::BTreeMap, time::Duration};

use keepers::{
    landlord::{Billed, CallError, Ending, Landlord as _, Parking, Phase},
    landlords::railway::{Railway, RailwayConfig, RailwayPool, RailwayToken, UsageUnit},
    secret::Secret,
};
use schemas::UsdNanos;
use simulators::rented::{Life, Stage};

use crate::{
    Bed, PLACE, row,
    services::{complete, eventually, usd},
};

#[tokio::test]
async fn an_order_becomes_a_service_that_completes_with_its_own_key_and_ends() {
    let bed = Bed::new().await;
    bed.simulator.add_foreign("Postgres");
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    assert_eq!(bed.calls(), ["Create", "Update", "Limits", "Domain", "Deploy"]);
    let (settings, limits, variables) = bed.simulator.settings(&ordered.id).unwrap();
    assert_eq!((&settings["region"], &settings["numReplicas"]), (&PLACE.into(), &1.into()));
    assert_eq!((&limits["vCPUs"], &limits["memoryGB"]), (&4.into(), &8.into()));
    assert_eq!(variables["BEACON_MACHINE"], row.machine.as_str());
    assert_eq!(settings["sleepApplication"], false);

    let url = row.up(&bed.landlord).await;
    assert_eq!(complete(&url, &row).await, 200);
    assert_eq!(complete(&url, &crate::row()).await, 401, "a key of another machine");

    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Accepted));
    row.until(&bed.landlord, "it is gone", |phase| *phase == Phase::Gone).await;
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Gone));
    assert_eq!(bed.simulator.services(), []);
    assert_eq!(bed.simulator.account().touched(), []);
}

#[tokio::test]
async fn one_list_shows_all_our_machines_and_nobody_elses_over_pages() {
    let bed = Bed::new().await;
    for number in 0..120 {
        bed.simulator.add_foreign(&format!("service-{number}"));
    }
    let rows = [row(), row()];
    for row in &rows {
        row.ordered(&bed.landlord).await.unwrap();
    }
    // A keeper that lost its rows finds them again.
    let census = bed.landlord.list(&[]).await.unwrap();
    let mut found: Vec<_> = census.sightings.iter().map(|sighting| sighting.machine.clone()).collect();
    found.sort();
    assert_eq!(found, rows.each_ref().map(|row| row.machine.clone()));
    assert!(census.whole && census.unanswered.is_empty());
    for sighting in &census.sightings {
        assert_eq!(sighting.pool, "railway@us-east".parse().unwrap());
        assert!(sighting.ordered_at.is_some());
    }
}

#[tokio::test]
async fn a_service_that_a_person_renamed_is_still_that_machine() {
    let bed = Bed::new().await;
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    bed.simulator.rename(&ordered.id, "our model");
    row.up(&bed.landlord).await;
}

#[tokio::test]
async fn a_sleeping_machine_answers_502_wakes_and_serves_again() {
    let sleeps_after = Duration::from_millis(60);
    let bed = Bed::with(|sim| sim.sleeps_after = sleeps_after, |ours| ours.sleep = true).await;
    assert_eq!(bed.landlord.rules().parking, Parking::Offered);
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    let url = row.up(&bed.landlord).await;
    bed.landlord.park(&row.known()).await.unwrap();
    row.until(&bed.landlord, "it sleeps", |phase| *phase == Phase::Parked).await;

    bed.simulator.account().set_life(Life { boot: Some(Duration::from_millis(50)), ..Life::default() });
    bed.landlord.wake(&row.known(), &row).await.unwrap();
    let woken = || bed.simulator.account().machines()[0].stage != Stage::Parked;
    eventually("it woke", woken).await;
    let mut statuses = vec![complete(&url, &row).await];
    while statuses.last() != Some(&200) {
        assert!(statuses.iter().all(|status| *status == 502), "{statuses:?}");
        tokio::time::sleep(Duration::from_millis(2)).await;
        statuses.push(complete(&url, &row).await);
    }
}

#[tokio::test]
async fn a_pool_that_never_sleeps_cannot_be_parked() {
    let bed = Bed::new().await;
    assert_eq!(bed.landlord.rules().parking, Parking::NotOffered);
    assert!(matches!(bed.landlord.park(&row().known()).await, Err(CallError::Misconfigured(_))));
}

#[tokio::test]
async fn what_railway_measured_is_what_the_invoice_says() {
    let bed = Bed::new().await;
    assert_eq!(bed.landlord.rules().billed, Billed::AsTold);
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    let url = row.up(&bed.landlord).await;
    complete(&url, &row).await;
    let mut charged = UsdNanos::ZERO;
    for _ in 0..5 {
        let told = row.look(&bed.landlord).await.unwrap().1[0].told.clone().unwrap();
        let now = told.charged_usd.unwrap();
        assert!(now >= charged, "{now} after {charged}");
        charged = now;
    }
    assert!(charged > UsdNanos::ZERO);
    bed.landlord.end(&row.known(), &row).await.unwrap();
    eventually("its deployment is gone", || bed.simulator.account().alive().is_empty()).await;
    let gone = row.until(&bed.landlord, "it is gone", |phase| *phase == Phase::Gone).await;
    let told = gone.told.unwrap().charged_usd.unwrap();
    assert_eq!(told, UsdNanos::new(bed.simulator.invoice().total_nanos));
}

#[tokio::test]
async fn the_unit_of_use_is_a_setting() {
    let bed = Bed::with(|sim| sim.usage_unit_s = 1, |ours| ours.usage_unit = UsageUnit::Second).await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    bed.landlord.end(&row.known(), &row).await.unwrap();
    eventually("its deployment is gone", || bed.simulator.account().alive().is_empty()).await;
    let gone = row.until(&bed.landlord, "it is gone", |phase| *phase == Phase::Gone).await;
    let told = gone.told.unwrap().charged_usd.unwrap();
    assert_eq!(told, UsdNanos::new(bed.simulator.invoice().total_nanos));
}

#[tokio::test]
async fn a_quote_checks_key_scope_and_places_and_spends_nothing() {
    let pool = "railway@us-east".parse().unwrap();
    let old = |sim: &mut simulators::rented::RailwayConfig| {
        sim.regions.push(("us-east1".to_owned(), Some("us-east4-eqdc4a".to_owned())));
    };
    let quoted = Bed::with(old, |_| {}).await.landlord.quote(&pool).await.unwrap();
    assert_eq!((quoted[0].place.as_str(), quoted[0].usd_per_hour), (PLACE, usd("0.222222223")));
    assert_eq!((quoted[0].parked_usd_per_hour, quoted[0].available), (UsdNanos::ZERO, None));

    let fails = async |change: fn(&mut RailwayConfig)| {
        let bed = Bed::with(old, change).await;
        let error = bed.landlord.quote(&pool).await.unwrap_err();
        assert_eq!(bed.simulator.services(), []);
        error
    };
    let nowhere = fails(|config| places_of(config, "atlantis")).await;
    assert!(nowhere.to_string().contains("us-west2"), "{nowhere}");
    let deprecated = fails(|config| places_of(config, "us-east1")).await;
    assert!(deprecated.to_string().contains(PLACE), "{deprecated}");
    let scope = fails(|config| config.project = "project-2".to_owned()).await;
    assert!(matches!(scope, CallError::Misconfigured(_)), "{scope}");
    let key = fails(|config| config.token = RailwayToken::Project(Secret::new("wrong"))).await;
    assert!(matches!(key, CallError::Authentication(_)), "{key}");
}

fn places_of(config: &mut RailwayConfig, place: &str) {
    for pool in config.pools.values_mut() {
        pool.places = vec![place.to_owned()];
    }
}

#[tokio::test]
async fn both_kinds_of_tokens_travel_in_their_own_headers() {
    let account = |token: &str| RailwayToken::Account(Secret::new(token));
    let bed = Bed::with(|_| {}, |ours| ours.token = account("account-token")).await;
    assert!(bed.landlord.list(&[]).await.is_ok());
    let swapped = Bed::with(|_| {}, |ours| ours.token = account("project-token")).await;
    let error = swapped.landlord.list(&[]).await.unwrap_err();
    assert!(matches!(error, CallError::Authentication(_)), "{error}");
}

#[tokio::test]
async fn an_order_above_its_price_asks_nobody() {
    let bed = Bed::new().await;
    let row = row();
    let order = keepers::landlord::Order { usd_per_hour_max: usd("0.2"), ..row.order() };
    let error = bed.landlord.order(&order, &row).await.unwrap_err();
    assert_eq!(error, CallError::Price { now: usd("0.222222223"), max: usd("0.2") });
    assert_eq!(bed.calls(), [""; 0]);
}

#[test]
fn settings_that_cannot_work_are_refused_at_once() {
    let prices = keepers::landlords::railway::RailwayPrices {
        vcpu_month: usd("20"),
        gb_month: usd("10"),
        egress_gb: usd("0.05"),
    };
    let token = RailwayToken::Project(Secret::new("t"));
    let base = RailwayConfig::new(token, "p", "e", prices);
    let with = |pool: RailwayPool| {
        let pools = BTreeMap::from([("railway@us-east".parse().unwrap(), pool)]);
        Railway::new(RailwayConfig { pools, ..base.clone() }).map(|_| ())
    };
    assert_eq!(with(RailwayPool::new(PLACE, "4x8", "i")), Ok(()));
    assert!(matches!(with(RailwayPool::new(PLACE, "large", "i")), Err(CallError::Misconfigured(_))));
    let nowhere = RailwayPool { places: Vec::new(), ..RailwayPool::new(PLACE, "4x8", "i") };
    assert!(matches!(with(nowhere), Err(CallError::Misconfigured(_))));
}
