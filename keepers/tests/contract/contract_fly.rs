//! Fly.io Machines. Numbers in comments are those of the failures that others reported.

use std::time::Duration;

use chrono::NaiveDate;
use keepers::{
    landlord::{CallError, Ending, Known, Landlord, Order, Parking, Phase, Sighting},
    landlords::fly::{Fly, FlyConfig, FlyPlace, FlyPool, Guest, Park},
    probe::{HttpProber, Prober, Question},
    secret::Secret,
};
use schemas::{PoolId, UsdNanos};
use serde_json::json;
use simulators::rented::{self, Act, Canned, ControlFault, Life, Stage};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    bed::{Notebook, assert_untouched, known, order, secret, seen, serving, until},
    described::assert_described,
    description::Description,
};

const SKU: &str = "performance-4x";
const HOME: &str = "iad";

struct Bed {
    fly: rented::Fly,
    landlord: Fly,
    _stop: DropGuard,
}

fn pool() -> PoolId {
    "fly@us-east".parse().unwrap()
}

fn landlord(fly: &rented::Fly, change: impl FnOnce(&mut FlyConfig)) -> Fly {
    let place = |region: &str| FlyPlace {
        region: region.to_owned(),
        usd_per_hour: UsdNanos::new(170_000_000),
        parked_usd_per_hour: UsdNanos::new(1_666_667),
        priced_on: NaiveDate::from_ymd_opt(2026, 11, 23).unwrap(),
    };
    let settings = FlyPool {
        app: "beacon-llama".to_owned(),
        guest: Guest { cpu_kind: "performance".to_owned(), cpus: 4, memory_mb: 8_192 },
        places: ["iad", "ewr", "ams"].map(place).to_vec(),
        image: "ghcr.io/ggml-org/llama.cpp@sha256:0".to_owned(),
        args: ["--parallel", "2"].map(str::to_owned).to_vec(),
        env: [("LLAMA_ARG_N_PARALLEL".to_owned(), "2".to_owned())].into(),
        key_env: "LLAMA_API_KEY".to_owned(),
        port: fly.account().port(),
        address: None,
        stop_timeout: Duration::from_secs(30),
        park: Park::Stop,
        start_within: Duration::from_secs(600),
    };
    let mut config = FlyConfig::new(Secret::new("fly-token"));
    (config.base_url, config.org) = (fly.url(), Some("personal".to_owned()));
    config.pace = Duration::ZERO;
    config.pools.insert(pool(), settings);
    change(&mut config);
    Fly::new(config).unwrap()
}

async fn bed_with(change: impl FnOnce(&mut rented::FlyConfig)) -> Bed {
    let mut config = rented::FlyConfig::default();
    change(&mut config);
    let stop = CancellationToken::new();
    let fly = rented::Fly::start(config, stop.clone()).await.unwrap();
    let landlord = landlord(&fly, |_| {});
    Bed { fly, landlord, _stop: stop.drop_guard() }
}

async fn bed() -> Bed {
    bed_with(|_| {}).await
}

fn an_order(n: u32) -> Order {
    order(n, &pool(), SKU, HOME)
}

fn is_up(seen: &Sighting) -> bool {
    matches!(seen.phase, Phase::Up(_))
}

fn error(text: &str) -> String {
    json!({ "error": text, "status": "unknown" }).to_string()
}

/// What the machine cost by the provider's word, nano-dollars.
fn charged(seen: &Sighting) -> u64 {
    seen.told.as_ref().and_then(|told| told.charged_usd).unwrap().get()
}

impl Bed {
    /// A machine that is up, and its row.
    async fn up(&self, n: u32) -> Known {
        let order = an_order(n);
        let ordered = self.landlord.order(&order, &Notebook::default()).await.unwrap();
        let mut row = known(&order, Some(&ordered.id));
        seen(&self.landlord, &mut row, "it is up", is_up).await;
        row
    }

    /// Ends a machine as a keeper does: again and again, with lists in between.
    async fn ends(&self, row: &mut Known) -> Sighting {
        assert_eq!(self.landlord.end(row, &Notebook::default()).await, Ok(Ending::NotNow));
        seen(&self.landlord, row, "it is stopped", |seen| seen.phase == Phase::Parked).await;
        assert_eq!(self.landlord.end(row, &Notebook::default()).await, Ok(Ending::Accepted));
        seen(&self.landlord, row, "it is gone", |seen| seen.phase == Phase::Gone).await
    }

    async fn fails(&self, canned: Canned) -> CallError {
        self.fly.account().fault("create", ControlFault::Refused(canned), 1);
        self.landlord.order(&an_order(99), &Notebook::default()).await.unwrap_err()
    }
}

#[tokio::test]
async fn an_order_becomes_a_machine_with_its_own_key_and_the_invoice_says_what_it_cost() {
    let bed = bed().await;
    let mut row = bed.up(1).await;
    let order = an_order(1);
    let id = row.id.clone().unwrap();
    let sighting = seen(&bed.landlord, &mut row, "it is up", is_up).await;
    assert_eq!((sighting.pool, sighting.usd_per_hour), (pool(), Some(UsdNanos::new(170_000_000))));
    assert_eq!((sighting.sku.as_deref(), sighting.place.as_deref()), (Some(SKU), Some(HOME)));
    assert_eq!(sighting.ordered_at, Some(order.ordered_at));
    let Phase::Up(address) = sighting.phase else { panic!("it was up") };
    serving(bed.fly.account(), &id).await;
    let key = Some(secret().of_machine(&order.machine));
    let question = Question { address, key, model: "m".to_owned(), health_path: "/health".to_owned() };
    assert_eq!(HttpProber::new().unwrap().probe(&question).await, Ok(()));

    let last = bed.ends(&mut row).await;
    assert!(bed.fly.account().alive().is_empty());
    // A begun second at $0.17 an hour, and one of storage while it was stopped.
    let invoice = bed.fly.account().invoice();
    assert_eq!(charged(&last), invoice.total_nanos, "{invoice:?}");
    assert!(invoice.total_nanos >= 47_223 + 463);
}

/// 16.
#[tokio::test]
async fn a_create_that_answers_408_although_committed_makes_one_machine() {
    let bed = bed().await;
    for (n, fault) in (1_u32..).zip([
        ControlFault::DoneBut(Canned::json(408, error("timeout"))),
        ControlFault::DoneBut(Canned::html(502)),
        ControlFault::DoneThenCut,
        ControlFault::DoneBut(Canned::json(200, r#"{"state":"created"}"#)),
    ]) {
        let (order, notebook) = (an_order(n), Notebook::default());
        bed.fly.account().fault("create", fault, 1);
        let error = bed.landlord.order(&order, &notebook).await.unwrap_err();
        assert!(error.is_unclear(), "{error:?}");
        // Look: it is listed under its order.
        let listed = seen(&bed.landlord, &mut known(&order, None), "it is listed", |_| true).await;
        // Whoever orders again all the same gets the same one.
        let again = bed.landlord.order(&order, &notebook).await.unwrap();
        assert_eq!(
            (again.id.as_str(), notebook.id().as_deref()),
            (listed.id.as_str(), Some(listed.id.as_str()))
        );
    }
    assert_eq!(bed.fly.account().machines().len(), 4);
}

/// 17.
#[tokio::test]
async fn a_quota_of_a_region_is_capacity_and_the_key_is_as_good_as_before() {
    let bed = bed().await;
    let quota = "You are over the allowed quota for memory in iad";
    for refusal in [
        Canned::json(403, error(quota)),
        Canned::json(403, json!({ "message": quota }).to_string()),
        Canned::text(403, quota),
    ] {
        let error = bed.fails(refusal).await;
        assert!(matches!(error, CallError::Capacity(_)) && !error.needs_a_person(), "{error:?}");
    }
    let next = order(1, &pool(), SKU, "ewr");
    assert!(bed.landlord.order(&next, &Notebook::default()).await.is_ok());
}

/// 17.
#[tokio::test]
async fn a_name_that_is_taken_by_our_own_machine_is_adopted_and_by_another_one_is_not() {
    let bed = bed().await;
    let row = bed.up(1).await;
    let (order, notebook) = (an_order(1), Notebook::default());
    let again = bed.landlord.order(&order, &notebook).await.unwrap();
    assert_eq!((Some(again.id.as_str()), notebook.id()), (row.id.as_deref(), row.id.clone()));
    let stranger = an_order(2);
    let papers = json!({ "name": format!("beacon-{}", stranger.machine), "config": { "metadata": {} } });
    bed.fly.account().add_foreign("3287a", SKU, HOME, papers);
    let error = bed.landlord.order(&stranger, &notebook).await.unwrap_err();
    assert!(matches!(&error, CallError::Misconfigured(text) if text.contains("3287a")), "{error:?}");
    assert_eq!(bed.fly.account().alive().len(), 1);
    assert_untouched(bed.fly.account());
}

/// 18.
#[tokio::test]
async fn a_machine_on_a_lost_host_answers_to_nothing_and_is_destroyed_by_force() {
    let bed = bed().await;
    let hasty = landlord(&bed.fly, |config| config.change_within = Duration::from_millis(50));
    let mut row = bed.up(1).await;
    let id = row.id.clone().unwrap();
    bed.fly.lose_host(&id);
    let broken = seen(&bed.landlord, &mut row, "its host is lost", |seen| !is_up(seen)).await;
    assert_eq!(broken.phase, Phase::Broken("host unreachable".into()));
    // Best effort, and bounded: a drain does not hang on it.
    assert!(hasty.cordon(&row).await.unwrap_err().is_unclear());
    assert!(hasty.park(&row).await.unwrap_err().is_unclear());
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    let last = seen(&bed.landlord, &mut row, "it is gone", |seen| seen.phase == Phase::Gone).await;
    assert_eq!(charged(&last), bed.fly.account().invoice().total_nanos);
    // It is replaced under another name.
    assert!(bed.landlord.order(&an_order(2), &Notebook::default()).await.is_ok());
}

/// 18: the host may be lost between the look and the stop.
#[tokio::test]
async fn a_stop_that_never_answers_or_fails_is_followed_by_force() {
    let bed = bed().await;
    let hasty = landlord(&bed.fly, |config| config.change_within = Duration::from_millis(50));
    let faults = [
        ControlFault::Hang,
        ControlFault::Cut,
        ControlFault::Refused(Canned::json(412, error("failed_precondition"))),
        ControlFault::Refused(Canned::html(504)),
    ];
    for (n, fault) in (1_u32..).zip(faults) {
        let row = bed.up(n).await;
        bed.fly.account().fault("stop", fault, 1);
        assert_eq!(hasty.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    }
    until("all are gone", || bed.fly.account().alive().is_empty()).await;
}

#[tokio::test]
async fn a_machine_is_parked_woken_and_billed_by_its_events_also_when_some_are_forgotten() {
    let bed = bed().await;
    assert_eq!(bed.landlord.rules().parking, Parking::Offered);
    let mut row = bed.up(1).await;
    for _ in 0..2 {
        bed.landlord.park(&row).await.unwrap();
        let parked = seen(&bed.landlord, &mut row, "it is parked", |seen| seen.phase == Phase::Parked).await;
        assert!(parked.told.is_some());
        bed.landlord.wake(&row, &Notebook::default()).await.unwrap();
        seen(&bed.landlord, &mut row, "it is up", is_up).await;
    }
    let last = bed.ends(&mut row).await;
    let invoice = bed.fly.account().invoice();
    assert_eq!(invoice.lines.len(), 6, "{invoice:?}");
    assert_eq!(charged(&last), invoice.total_nanos);
    let acts: Vec<Act> = bed.fly.account().log().into_iter().map(|action| action.act).collect();
    let twice = [Act::Parked, Act::Woken, Act::Parked, Act::Woken];
    assert_eq!(acts[1..5], twice);
}

#[tokio::test]
async fn a_small_machine_is_suspended() {
    let bed = bed().await;
    let small = landlord(&bed.fly, |config| {
        let settings = config.pools.get_mut(&pool()).unwrap();
        settings.guest = Guest { cpu_kind: "shared".to_owned(), cpus: 1, memory_mb: 1_024 };
        settings.park = Park::Suspend;
    });
    let order = order(1, &pool(), "shared-cpu-1x", HOME);
    let id = small.order(&order, &Notebook::default()).await.unwrap().id;
    let mut row = known(&order, Some(&id));
    seen(&small, &mut row, "it is up", is_up).await;
    small.park(&row).await.unwrap();
    seen(&small, &mut row, "it is parked", |seen| seen.phase == Phase::Parked).await;
    assert_eq!(bed.fly.account().machine(&id).unwrap().papers["parking"], "suspend");
}

#[tokio::test]
async fn a_lease_of_another_controller_is_waited_for() {
    let bed = bed().await;
    let row = bed.up(1).await;
    bed.fly.lease(row.id.as_deref().unwrap(), Duration::from_secs(3_600));
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::NotNow));
    for error in [bed.landlord.park(&row).await, bed.landlord.cordon(&row).await] {
        assert!(matches!(error, Err(CallError::RateLimited(..))), "{error:?}");
    }
    assert_eq!(bed.fly.account().alive()[0].stage, Stage::Up);
    bed.fly.lease(row.id.as_deref().unwrap(), Duration::ZERO);
    bed.landlord.cordon(&row).await.unwrap();
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::NotNow));
    until("it stops", || bed.fly.account().alive()[0].stage == Stage::Parked).await;
}

#[tokio::test]
async fn a_region_without_room_is_capacity_and_quotes_say_where_there_is_some() {
    let bed = bed().await;
    bed.fly.set_capacity("iad", Some(0));
    let quotes = bed.landlord.quote(&pool()).await.unwrap();
    let told: Vec<_> = quotes.iter().map(|quote| (quote.place.as_str(), quote.available)).collect();
    assert_eq!(told, [("iad", Some(false)), ("ewr", Some(true)), ("ams", Some(true))]);
    assert_eq!(quotes[0].parked_usd_per_hour, UsdNanos::new(1_666_667));
    let error = bed.landlord.order(&an_order(1), &Notebook::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Capacity(_)), "{error:?}");
    let without = landlord(&bed.fly, |config| config.org = None);
    assert_eq!(without.quote(&pool()).await.unwrap()[0].available, None);
}

#[tokio::test]
async fn each_refusal_has_its_class_and_none_of_them_orders_anything() {
    let bed = bed().await;
    for status in [400, 404, 422] {
        let error = bed.fails(Canned::json(status, error("invalid config"))).await;
        assert!(matches!(error, CallError::Misconfigured(_)), "{error:?}");
    }
    for refusal in [Canned::json(401, error("Authenticate: token validation error")), Canned::html(403)] {
        let error = bed.fails(refusal).await;
        assert!(matches!(error, CallError::Authentication(_)), "{error:?}");
    }
    for refusal in [
        Canned::html(500),
        Canned::text(503, ""),
        Canned::json(409, error("already_exists")),
        Canned::text(301, ""),
    ] {
        let error = bed.fails(refusal).await;
        assert!(error.is_unclear(), "{error:?}");
    }
    let capped = Order { usd_per_hour_max: UsdNanos::new(1), ..an_order(1) };
    let error = bed.landlord.order(&capped, &Notebook::default()).await.unwrap_err();
    assert_eq!(error, CallError::Price { now: UsdNanos::new(170_000_000), max: UsdNanos::new(1) });
    assert!(bed.fly.account().machines().is_empty());
}

#[tokio::test]
async fn a_429_is_a_429_with_and_without_a_wait() {
    let bed = bed().await;
    for (canned, wait) in [(Canned::text(429, "slow down").retry_after("7"), 7), (Canned::html(429), 1)] {
        bed.fly.account().fault("list", ControlFault::Refused(canned), 1);
        let error = landlord(&bed.fly, |_| {}).list(&[]).await.unwrap_err();
        assert!(
            matches!(error, CallError::RateLimited(_, Some(told)) if told.as_secs() == wait),
            "{error:?}"
        );
    }
    let limited = bed_with(|config| config.limited = true).await;
    // More than three calls in a row.
    while limited.landlord.list(&[]).await.is_ok() {}
}

#[tokio::test]
async fn a_wrong_app_region_size_or_token_is_one_line_that_names_it() {
    let bed = bed().await;
    let with = |change: fn(&mut FlyConfig)| landlord(&bed.fly, change);
    let app = with(|config| config.pools.get_mut(&pool()).unwrap().app = "nobodys-app".to_owned());
    let region = with(|config| config.pools.get_mut(&pool()).unwrap().places[1].region = "xxx".to_owned());
    let token = with(|config| config.token = Secret::new("stolen"));
    let quotes = [app.quote(&pool()).await, region.quote(&pool()).await, token.quote(&pool()).await];
    let texts = quotes.map(|quote| quote.unwrap_err()).map(|error| {
        assert!(error.needs_a_person(), "{error:?}");
        error.to_string()
    });
    assert!(texts[0].contains("nobodys-app"), "{}", texts[0]);
    assert!(texts[1].contains("xxx") && texts[1].contains("ams"), "{}", texts[1]);
    assert!(!texts[2].contains("stolen"), "{}", texts[2]);
    let order = order(1, &pool(), "performance-16x", HOME);
    let error = bed.landlord.order(&order, &Notebook::default()).await.unwrap_err();
    assert!(
        matches!(&error, CallError::Misconfigured(text) if text.contains("performance-16x")),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_gpu_is_refused_before_anything_is_asked() {
    let bed = bed().await;
    let mut config = FlyConfig::new(Secret::new("fly-token"));
    config.base_url = bed.fly.url();
    let settings = FlyPool {
        app: "beacon-llama".to_owned(),
        guest: Guest { cpu_kind: "a10".to_owned(), cpus: 4, memory_mb: 8_192 },
        places: Vec::new(),
        image: "llama".to_owned(),
        args: Vec::new(),
        env: [].into(),
        key_env: "LLAMA_API_KEY".to_owned(),
        port: 8_080,
        address: None,
        stop_timeout: Duration::from_secs(30),
        park: Park::Stop,
        start_within: Duration::from_secs(600),
    };
    config.pools.insert(pool(), settings);
    let error = Fly::new(config).unwrap_err();
    assert!(error.to_string().contains("GPUs ended on 2026-08-01"), "{error}");
    assert!(bed.fly.account().exchanges().is_empty());
}

#[tokio::test]
async fn a_machine_that_vanished_tells_its_last_cost_and_a_failed_one_is_removed() {
    let bed = bed().await;
    let mut row = bed.up(1).await;
    bed.fly.account().vanish(row.id.as_deref().unwrap());
    let last = seen(&bed.landlord, &mut row, "it is gone", |seen| seen.phase == Phase::Gone).await;
    let first = charged(&last);
    assert_eq!(first, bed.fly.account().invoice().total_nanos);
    let mut row = bed.up(2).await;
    bed.fly.account().crash(row.id.as_deref().unwrap(), "failed");
    let broken = seen(&bed.landlord, &mut row, "it has failed", |seen| !is_up(seen)).await;
    assert_eq!(broken.phase, Phase::Broken("failed".into()));
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    let last = seen(&bed.landlord, &mut row, "it is gone", |seen| seen.phase == Phase::Gone).await;
    assert_eq!(first + charged(&last), bed.fly.account().invoice().total_nanos);
    // Nothing is left of it after a while.
    let unknown = Known { id: Some("0000".to_owned()), ..row };
    assert_eq!(bed.landlord.end(&unknown, &Notebook::default()).await, Ok(Ending::Gone));
}

#[tokio::test]
async fn machines_of_somebody_else_are_not_shown_and_lists_lag() {
    let bed = bed().await;
    let config = json!({ "metadata": { "beacon_pool": "fly@elsewhere", "beacon_order": "x" } });
    bed.fly.account().add_foreign("3287a", SKU, HOME, json!({ "name": "x", "config": config }));
    bed.fly.account().add_foreign("3287b", SKU, HOME, json!({ "name": "y", "config": {} }));
    bed.fly.account().set_life(Life { listed_after: Duration::from_secs(3_600), ..Life::default() });
    let order = an_order(1);
    bed.fly.account().fault("create", ControlFault::DoneThenCut, 1);
    bed.landlord.order(&order, &Notebook::default()).await.unwrap_err();
    let census = bed.landlord.list(&[]).await.unwrap();
    assert!(census.whole && census.sightings.is_empty(), "{census:?}");
    let mut row = known(&order, None);
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::NotNow));
    bed.fly.account().list_all();
    seen(&bed.landlord, &mut row, "it is up", is_up).await;
    let notebook = Notebook::default();
    assert_eq!(bed.landlord.end(&row, &notebook).await, Ok(Ending::NotNow));
    assert_eq!(notebook.id(), Some(bed.fly.account().alive()[0].id.clone()));
    assert_untouched(bed.fly.account());
}

/// 4, as far as it is the landlord's.
#[tokio::test]
async fn an_id_that_cannot_be_stored_leaves_the_order_unknown_and_its_machine_listed() {
    let bed = bed().await;
    let (order, notebook) = (an_order(1), Notebook::default());
    notebook.lose();
    assert!(bed.landlord.order(&order, &notebook).await.unwrap_err().is_unclear());
    seen(&bed.landlord, &mut known(&order, None), "it is listed", |_| true).await;
}

#[tokio::test]
async fn bodies_are_as_fly_describes_them() {
    let Some(description) = Description::load("fly", "fly.json") else { return };
    let bed = bed().await;
    bed.landlord.quote(&pool()).await.unwrap();
    let mut row = bed.up(1).await;
    bed.landlord.cordon(&row).await.unwrap();
    bed.landlord.park(&row).await.unwrap();
    seen(&bed.landlord, &mut row, "it is parked", |seen| seen.phase == Phase::Parked).await;
    bed.landlord.wake(&row, &Notebook::default()).await.unwrap();
    seen(&bed.landlord, &mut row, "it is up", is_up).await;
    bed.ends(&mut row).await;
    // Errors are in the description for few calls; what a landlord makes of them is above.
    let exchanges = bed.fly.account().exchanges();
    assert_described(&description, &exchanges, |exchange, _| exchange.status >= 400);
}

/// The same account for a keeper whose configuration has another pool in place of ours, in an app of that name.
fn without_the_pool(fly: &rented::Fly, app: &str) -> Fly {
    landlord(fly, |config| {
        let settings = config.pools.remove(&pool()).unwrap();
        let settings = FlyPool { app: app.to_owned(), ..settings };
        config.pools.insert("spare@us-east".parse().unwrap(), settings);
    })
}

#[tokio::test]
async fn a_machine_whose_pool_left_the_configuration_with_its_app_is_still_seen_and_ended() {
    let bed = bed().await;
    let mut row = bed.up(1).await;
    assert_eq!(row.notes.get("app").map(String::as_str), Some("beacon-llama"), "the row remembers the app");
    let other = without_the_pool(&bed.fly, "another-app");
    // Its own app does not answer, and that of the machine does.
    let census = other.list(std::slice::from_ref(&row)).await.unwrap();
    assert!(census.sightings.iter().any(|sighting| sighting.machine == row.machine), "{census:?}");
    assert_eq!(other.end(&row, &Notebook::default()).await, Ok(Ending::NotNow));
    seen(&other, &mut row, "it is stopped", |seen| seen.phase == Phase::Parked).await;
    assert_eq!(other.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    until("it is gone", || bed.fly.account().alive().is_empty()).await;
}

#[tokio::test]
async fn a_machine_of_a_pool_that_nobody_here_knows_is_a_stray_and_one_of_somebody_else_is_not() {
    let bed = bed().await;
    bed.fly.account().add_foreign("somebody-elses", SKU, HOME, json!({}));
    let row = bed.up(1).await;
    let census = without_the_pool(&bed.fly, "beacon-llama").list(&[]).await.unwrap();
    assert_eq!(census.sightings, []);
    let strays: Vec<_> = census.strays.iter().map(|stray| (Some(&stray.id), stray.pool.clone())).collect();
    assert_eq!(strays, [(row.id.as_ref(), Some(pool()))]);
    assert_untouched(bed.fly.account());
}

#[tokio::test]
async fn a_machine_that_a_list_does_not_show_and_whose_page_does_not_answer_is_not_said_to_be_absent() {
    let bed = bed().await;
    let mut row = bed.up(1).await;
    bed.ends(&mut row).await;
    bed.fly.account().fault("get", ControlFault::Refused(Canned::json(500, error("internal"))), 1);
    let census = bed.landlord.list(std::slice::from_ref(&row)).await.unwrap();
    assert_eq!(census.unanswered, [row.machine]);
}
