//! Lambda's instances. Numbers in comments are those of the failures that others reported.

use std::time::Duration;

use keepers::{
    landlord::{CallError, Ending, Landlord, Order, Phase},
    landlords::lambda::{Lambda, LambdaConfig, LambdaPlace, LambdaPool},
    probe::{HttpProber, ProbeError, Prober, Question},
    secret::Secret,
};
use schemas::{PoolId, UsdNanos};
use serde_json::json;
use simulators::rented::{self, Act, Canned, ControlFault, Life, Serves, Stage};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    bed::{Notebook, assert_untouched, known, machine, order, secret, seen, serving, until},
    described::assert_described,
    description::Description,
};

const SKU: &str = "gpu_1x_a10";
const HOME: &str = "us-east-1";
const SSH_KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBeacon us@here";

/// Longer than any test takes.
const LONG: Duration = Duration::from_secs(3_600);

struct Bed {
    lambda: rented::Lambda,
    landlord: Lambda,
    _stop: DropGuard,
}

fn pool() -> PoolId {
    "lambda@us-east".parse().unwrap()
}

/// A landlord of this account, as one more keeper has it.
fn landlord(lambda: &rented::Lambda, change: impl FnOnce(&mut LambdaConfig)) -> Lambda {
    let place = |region: &str| LambdaPlace { region: region.to_owned(), firewall_ruleset: None };
    let settings = LambdaPool {
        sku: SKU.to_owned(),
        places: ["us-east-1", "us-midwest-1", "europe-central-1"].map(place).to_vec(),
        image_family: Some("lambda-stack-22-04".to_owned()),
        image: "vllm/vllm-openai@sha256:0".to_owned(),
        args: vec!["--model".to_owned(), "m".to_owned()],
        env: [("HF_HOME".to_owned(), "/models".to_owned())].into(),
        port: lambda.account().port(),
        start_within: None,
    };
    let mut config = LambdaConfig::new(Secret::new("lambda-key"), SSH_KEY);
    config.base_url = lambda.url();
    (config.pace, config.launch_pace) = (Duration::ZERO, Duration::ZERO);
    config.pools.insert(pool(), settings);
    change(&mut config);
    Lambda::new(config).unwrap()
}

async fn bed_with(change: impl FnOnce(&mut rented::LambdaConfig)) -> Bed {
    let mut config = rented::LambdaConfig::default();
    change(&mut config);
    let stop = CancellationToken::new();
    let lambda = rented::Lambda::start(config, stop.clone()).await.unwrap();
    let landlord = landlord(&lambda, |_| {});
    Bed { lambda, landlord, _stop: stop.drop_guard() }
}

async fn bed() -> Bed {
    bed_with(|_| {}).await
}

fn an_order(n: u32) -> Order {
    order(n, &pool(), SKU, HOME)
}

impl Bed {
    async fn orders(&self, n: u32) -> (Order, String) {
        let order = an_order(n);
        let ordered = self.landlord.order(&order, &Notebook::default()).await.unwrap();
        (order, ordered.id)
    }

    /// A launch whose end nobody knows; the order, and what was said.
    async fn loses(&self, n: u32, fault: ControlFault) -> (Order, String) {
        let (order, notebook) = (an_order(n), Notebook::default());
        self.lambda.account().fault("launch", fault, 1);
        let error = self.landlord.order(&order, &notebook).await.unwrap_err();
        assert!(error.is_unclear(), "{error:?}");
        assert_eq!(notebook.id(), None);
        (order, error.to_string())
    }

    async fn fails(&self, call: &str, canned: Canned) -> CallError {
        self.lambda.account().fault(call, ControlFault::Refused(canned), 1);
        self.landlord.order(&an_order(99), &Notebook::default()).await.unwrap_err()
    }
}

fn error(code: &str) -> String {
    json!({ "error": { "code": code, "message": "m", "suggestion": "s" } }).to_string()
}

fn is_up(phase: &Phase) -> bool {
    matches!(phase, Phase::Up(_))
}

#[tokio::test]
async fn an_order_becomes_a_machine_with_its_own_key_and_the_invoice_says_what_it_cost() {
    let bed = bed().await;
    let (order, id) = bed.orders(1).await;
    let mut row = known(&order, Some(&id));
    let sighting = seen(&bed.landlord, &mut row, "it is up", |seen| is_up(&seen.phase)).await;
    assert_eq!((sighting.pool, sighting.id), (pool(), id.clone()));
    assert_eq!((sighting.sku.as_deref(), sighting.place.as_deref()), (Some(SKU), Some(HOME)));
    assert_eq!(sighting.usd_per_hour, Some(UsdNanos::new(1_290_000_000)));
    assert_eq!(sighting.ordered_at, Some(order.ordered_at));
    let Phase::Up(address) = sighting.phase else { panic!("it was up") };

    serving(bed.lambda.account(), &id).await;
    let prober = HttpProber::new().unwrap();
    let question = |key: Secret| Question {
        address: address.clone(),
        key: Some(key),
        model: "m".to_owned(),
        health_path: "/health".to_owned(),
    };
    assert_eq!(prober.probe(&question(secret().of_machine(&order.machine))).await, Ok(()));
    let other = prober.probe(&question(secret().of_machine(&machine(2)))).await;
    assert!(matches!(other, Err(ProbeError::Foreign(_))), "{other:?}");

    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    until("it is gone", || bed.lambda.account().alive().is_empty()).await;
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Gone));
    // One begun minute at $1.29 an hour.
    assert_eq!(bed.lambda.account().invoice().total_nanos, 21_500_000);
}

/// 1.
#[tokio::test]
async fn a_429_on_the_list_after_a_launch_says_nothing_about_the_machine() {
    let bed = bed().await;
    for canned in [Canned::text(429, "Too Many Requests"), Canned::html(429), Canned::json(429, "{}")] {
        bed.lambda.account().fault("list", ControlFault::Refused(canned), 1);
    }
    let (order, id) = bed.orders(1).await;
    let mut row = known(&order, Some(&id));
    for _ in 0..3 {
        // The pace of the account is widened by a refusal, and nothing is asked for before.
        let again = landlord(&bed.lambda, |_| {});
        let error = again.list(std::slice::from_ref(&row)).await.unwrap_err();
        assert!(matches!(error, CallError::RateLimited(..)), "{error:?}");
    }
    seen(&bed.landlord, &mut row, "it is up", |seen| is_up(&seen.phase)).await;
    let orders = bed.lambda.account().log().into_iter().filter(|action| action.act == Act::Ordered);
    assert_eq!(orders.count(), 1);
}

/// 3.
#[tokio::test]
async fn a_launch_that_was_carried_out_without_an_answer_is_found_by_its_tag() {
    let bed = bed().await;
    bed.lambda.account().add_foreign("theirs", SKU, HOME, json!({ "ssh_key_names": ["theirs"] }));
    let moved = Canned { location: Some("https://cloud.lambda.ai/".into()), ..Canned::text(301, "") };
    let faults = [
        ControlFault::DoneThenCut,
        ControlFault::DoneBut(Canned::json(500, error("global/internal-error"))),
        ControlFault::DoneBut(Canned::html(502)),
        ControlFault::DoneBut(moved),
        ControlFault::DoneBut(Canned::json(200, r#"{"data":{"instance_ids":[]}}"#)),
        ControlFault::DoneBut(Canned::json(200, "not JSON")),
    ];
    for (n, fault) in (1_u32..).zip(faults) {
        let (order, _) = bed.loses(n, fault).await;
        let mut row = known(&order, None);
        let sighting = seen(&bed.landlord, &mut row, "it is listed", |_| true).await;
        // It can be ended without ever having known its id.
        let notebook = Notebook::default();
        assert_eq!(bed.landlord.end(&row, &notebook).await, Ok(Ending::Accepted));
        assert_eq!(notebook.id(), Some(sighting.id));
    }
    until("all are gone", || bed.lambda.account().alive().is_empty()).await;
    let census = bed.landlord.list(&[]).await.unwrap();
    assert!(census.whole && census.sightings.is_empty(), "{census:?}");
    assert_untouched(bed.lambda.account());
}

#[tokio::test]
async fn a_launch_that_never_arrived_leaves_nothing_and_says_so() {
    let bed = bed().await;
    bed.loses(1, ControlFault::Cut).await;
    assert!(bed.lambda.account().alive().is_empty());
    let gone = landlord(&bed.lambda, |config| config.base_url = "http://127.0.0.1:1/api/v1".to_owned());
    let error = gone.order(&an_order(2), &Notebook::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error:?}");
    // What goes wrong before the launch has ordered nothing, whatever it was.
    let other = landlord(&bed.lambda, |_| {});
    bed.lambda.account().fault("types", ControlFault::Cut, 1);
    let error = other.order(&an_order(3), &Notebook::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Unreachable(_)), "{error:?}");
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

/// 9.
#[tokio::test]
async fn four_keepers_add_the_ssh_key_at_once_and_one_key_is_left() {
    let bed = bed_with(|config| config.key_race = Duration::from_millis(60)).await;
    bed.lambda.add_key("theirs", "ssh-rsa AAAAB3 theirs");
    let keepers: Vec<Lambda> = (0..4).map(|_| landlord(&bed.lambda, |_| {})).collect();
    let orders: Vec<Order> = (0..4).map(an_order).collect();
    let notebook = Notebook::default();
    let [a, b, c, d] = [0, 1, 2, 3].map(|n| keepers[n].order(&orders[n], &notebook));
    let answers: [Result<_, CallError>; 4] = tokio::join!(a, b, c, d).into();
    for (keeper, (order, answer)) in keepers.iter().zip(orders.iter().zip(answers)) {
        // Who launched while the name was there twice does not know, looks, and orders again.
        if let Err(error) = answer {
            assert!(error.is_unclear(), "{error:?}");
            let census = keeper.list(&[]).await.unwrap();
            assert!(!census.sightings.iter().any(|seen| seen.machine == order.machine));
            keeper.order(order, &notebook).await.unwrap();
        }
    }
    let keys = bed.lambda.keys();
    assert_eq!(keys.len(), 2, "{keys:?}");
    assert_eq!(keys.iter().filter(|(_, key)| key == SSH_KEY).count(), 1);
    assert_eq!(bed.lambda.account().alive().len(), 4);
}

#[tokio::test]
async fn a_key_that_is_there_already_is_used_whatever_its_name_and_a_name_is_never_taken_over() {
    let bed = bed().await;
    bed.lambda.add_key("laptop", "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBeacon somebody@laptop");
    bed.orders(1).await;
    assert_eq!(bed.lambda.keys().len(), 1);
    let [seen] = bed.lambda.account().alive().try_into().unwrap();
    assert_eq!(seen.papers["ssh_key_names"], json!(["laptop"]));
}

/// 9.
#[tokio::test]
async fn a_second_terminate_answers_global_unknown_and_counts_as_done() {
    let bed = bed().await;
    let slow = Life { end: Some(LONG), ..Life::default() };
    bed.lambda.account().set_life(slow);
    let (order, id) = bed.orders(1).await;
    let row = known(&order, Some(&id));
    for _ in 0..3 {
        assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    }
    let ends = bed.lambda.account().log().into_iter().filter(|action| action.act == Act::Ended).count();
    assert_eq!(ends, 1, "the account was asked, and did nothing twice");
    // The same answer for a machine that is not ending is no success.
    let (order, id) = bed.orders(2).await;
    let unknown = Canned::json(500, error("global/unknown"));
    bed.lambda.account().fault("terminate", ControlFault::Refused(unknown), 1);
    let error = bed.landlord.end(&known(&order, Some(&id)), &Notebook::default()).await.unwrap_err();
    assert!(error.is_unclear(), "{error:?}");
}

#[tokio::test]
async fn an_empty_terminate_is_no_success_and_one_that_lost_its_answer_is_repeated() {
    let bed = bed().await;
    let (order, id) = bed.orders(1).await;
    let row = known(&order, Some(&id));
    for body in [r#"{"data":{"terminated_instances":[]}}"#, r#"{"data":{"terminated_instances":null}}"#, "{}"]
    {
        bed.lambda.account().fault("terminate", ControlFault::Refused(Canned::json(200, body)), 1);
        assert!(bed.landlord.end(&row, &Notebook::default()).await.unwrap_err().is_unclear(), "{body}");
    }
    bed.lambda.account().fault("terminate", ControlFault::DoneThenCut, 1);
    assert!(bed.landlord.end(&row, &Notebook::default()).await.unwrap_err().is_unclear());
    until("it is gone", || bed.lambda.account().alive().is_empty()).await;
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Gone));
}

/// 10: what the simulator shows is what a keeper must not believe.
#[tokio::test]
async fn a_machine_without_a_gpu_is_active_and_healthy_and_gives_no_completion() {
    let bed = bed().await;
    bed.lambda.account().set_life(Life { serves: Serves::HealthOnly, ..Life::default() });
    let (order, id) = bed.orders(1).await;
    let mut row = known(&order, Some(&id));
    let sighting = seen(&bed.landlord, &mut row, "it is up", |seen| is_up(&seen.phase)).await;
    let Phase::Up(address) = sighting.phase else { panic!("it was up") };
    serving(bed.lambda.account(), &id).await;
    let key = Some(secret().of_machine(&order.machine));
    let question = Question { address, key, model: "m".to_owned(), health_path: "/health".to_owned() };
    let answer = HttpProber::new().unwrap().probe(&question).await;
    assert!(
        matches!(&answer, Err(ProbeError::Useless(text)) if text.contains("CUDA error 802")),
        "{answer:?}"
    );
}

/// 11, as far as it is the landlord's: the budget goes by the type.
#[tokio::test]
async fn a_machine_with_eight_gpus_may_take_longer_and_boots_all_the_while() {
    let bed = bed().await;
    let small = bed.landlord.rules().start_within;
    let large = landlord(&bed.lambda, |config| {
        config.pools.get_mut(&pool()).unwrap().sku = "gpu_8x_h100_sxm5".to_owned();
    });
    assert!(large.rules().start_within > Duration::from_secs(25 * 60) && small < large.rules().start_within);
    bed.lambda.account().set_life(Life { boot: None, ..Life::default() });
    let (order, id) = bed.orders(1).await;
    let sighting = seen(&bed.landlord, &mut known(&order, Some(&id)), "it is listed", |_| true).await;
    assert_eq!(sighting.phase, Phase::Starting);
    // Booting costs nothing.
    assert_eq!(bed.lambda.account().invoice().total_nanos, 0);
}

#[tokio::test]
async fn capacity_is_told_by_region_and_the_list_is_only_a_hint() {
    let bed = bed().await;
    bed.lambda.set_capacity(SKU, "us-east-1", true, Some(0));
    bed.lambda.set_capacity(SKU, "us-midwest-1", false, None);
    let quotes = bed.landlord.quote(&pool()).await.unwrap();
    let told: Vec<_> = quotes.iter().map(|quote| (quote.place.as_str(), quote.available)).collect();
    assert_eq!(
        told,
        [("us-east-1", Some(true)), ("us-midwest-1", Some(false)), ("europe-central-1", Some(false))]
    );
    let refused = |place: &'static str| {
        let landlord = &bed.landlord;
        async move { landlord.order(&order(1, &pool(), SKU, place), &Notebook::default()).await }
    };
    assert!(matches!(refused("us-east-1").await, Err(CallError::Capacity(_))));
    assert!(matches!(refused("europe-central-1").await, Err(CallError::Capacity(_))));
    assert!(refused("us-midwest-1").await.is_ok());
    let text =
        r#"{"error":{"code":"global/invalid-parameters","message":"Region us-east-1 does not exist."}}"#;
    let error = bed.fails("launch", Canned::json(400, text)).await;
    assert!(matches!(error, CallError::Capacity(_)), "{error:?}");
}

#[tokio::test]
async fn each_refusal_has_its_class_and_none_of_them_orders_anything() {
    let bed = bed().await;
    bed.landlord.quote(&pool()).await.unwrap();
    let code = |status: u16, code: &str| Canned::json(status, error(code));
    for refusal in [
        code(400, "global/quota-exceeded"),
        code(400, "global/invalid-parameters"),
        code(404, "global/object-does-not-exist"),
        code(403, "global/account-inactive"),
        code(403, "global/invalid-address"),
        code(400, "instance-operations/launch/file-system-in-wrong-region"),
    ] {
        let error = bed.fails("launch", refusal).await;
        assert!(matches!(error, CallError::Misconfigured(_)) && error.needs_a_person(), "{error:?}");
    }
    for refusal in [code(401, "global/invalid-api-key"), code(403, "global/forbidden"), Canned::html(403)] {
        let error = bed.fails("launch", refusal).await;
        assert!(matches!(error, CallError::Authentication(_)), "{error:?}");
    }
    for refusal in [code(409, "global/conflict"), code(400, "global/unknown"), code(500, "provider/x")] {
        let error = bed.fails("launch", refusal).await;
        assert!(error.is_unclear(), "{error:?}");
    }
    bed.lambda.set_quota(0);
    let error = bed.landlord.order(&an_order(1), &Notebook::default()).await.unwrap_err();
    assert!(matches!(error, CallError::Misconfigured(_)), "{error:?}");
    assert!(bed.lambda.account().machines().is_empty());
}

#[tokio::test]
async fn a_price_above_the_cap_orders_nothing_and_a_new_price_shows_in_the_next_quote() {
    let bed = bed().await;
    assert_eq!(bed.landlord.quote(&pool()).await.unwrap()[0].usd_per_hour, UsdNanos::new(1_290_000_000));
    bed.lambda.set_price(SKU, 199);
    assert_eq!(bed.landlord.quote(&pool()).await.unwrap()[0].usd_per_hour, UsdNanos::new(1_990_000_000));
    let capped = Order { usd_per_hour_max: UsdNanos::new(1_500_000_000), ..an_order(1) };
    let error = bed.landlord.order(&capped, &Notebook::default()).await.unwrap_err();
    let (now, max) = (UsdNanos::new(1_990_000_000), UsdNanos::new(1_500_000_000));
    assert_eq!(error, CallError::Price { now, max });
    assert!(bed.lambda.account().machines().is_empty());
}

#[tokio::test]
async fn a_wrong_type_region_or_key_is_one_line_that_names_it() {
    let bed = bed().await;
    let with = |change: fn(&mut LambdaConfig)| landlord(&bed.lambda, change);
    let sku = with(|config| config.pools.get_mut(&pool()).unwrap().sku = "gpu_1x_h200".to_owned());
    let region = with(|config| config.pools.get_mut(&pool()).unwrap().places[1].region = "mars-1".to_owned());
    let key = with(|config| config.api_key = Secret::new("stolen"));
    let quotes = [sku.quote(&pool()).await, region.quote(&pool()).await, key.quote(&pool()).await];
    let texts = quotes.map(|quote| quote.unwrap_err()).map(|error| {
        assert!(error.needs_a_person(), "{error:?}");
        error.to_string()
    });
    assert!(texts[0].contains("gpu_1x_h200") && texts[0].contains(SKU), "{}", texts[0]);
    assert!(texts[1].contains("mars-1") && texts[1].contains("europe-central-1"), "{}", texts[1]);
    assert!(texts[2].contains("global/invalid-api-key") && !texts[2].contains("stolen"), "{}", texts[2]);
    let nobody = bed.landlord.quote(&"lambda@nowhere".parse().unwrap()).await.unwrap_err();
    assert!(matches!(nobody, CallError::Misconfigured(_)));
}

#[tokio::test]
async fn a_list_that_lags_says_nothing_about_an_order() {
    let bed = bed().await;
    bed.lambda.account().set_life(Life { listed_after: LONG, ..Life::default() });
    let (order, id) = bed.orders(1).await;
    let census = bed.landlord.list(&[]).await.unwrap();
    assert!(census.whole && census.sightings.is_empty(), "absent once is not gone: {census:?}");
    // Ending what is not listed and has no id is to be repeated, not done.
    assert_eq!(bed.landlord.end(&known(&order, None), &Notebook::default()).await, Ok(Ending::NotNow));
    bed.lambda.account().list_all();
    seen(&bed.landlord, &mut known(&order, Some(&id)), "it is up", |seen| is_up(&seen.phase)).await;
}

#[tokio::test]
async fn a_machine_that_is_active_without_an_address_still_starts() {
    let bed = bed_with(|config| config.ip_after = LONG).await;
    let (order, id) = bed.orders(1).await;
    until("it is active", || bed.lambda.account().machine(&id).unwrap().stage == Stage::Up).await;
    let sighting = seen(&bed.landlord, &mut known(&order, Some(&id)), "it is listed", |_| true).await;
    assert_eq!(sighting.phase, Phase::Starting);
}

#[tokio::test]
async fn a_machine_that_boots_cannot_be_ended_now() {
    let bed = bed_with(|config| config.terminates_booting = false).await;
    bed.lambda.account().set_life(Life { boot: None, ..Life::default() });
    let (order, id) = bed.orders(1).await;
    let row = known(&order, Some(&id));
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::NotNow));
    bed.lambda.account().boot_now(&id);
    until("it is active", || bed.lambda.account().machine(&id).unwrap().stage == Stage::Up).await;
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
}

#[tokio::test]
async fn every_status_has_its_meaning_and_an_unknown_one_is_neither_usable_nor_gone() {
    let bed = bed_with(|config| config.terminated_listed = LONG).await;
    let (order, id) = bed.orders(1).await;
    let mut row = known(&order, Some(&id));
    seen(&bed.landlord, &mut row, "it is up", |seen| is_up(&seen.phase)).await;
    for (word, phase) in [
        ("unhealthy", Phase::Broken("unhealthy".into())),
        ("preempted", Phase::Broken("preempted".into())),
        ("migrating", Phase::Unknown("migrating".into())),
    ] {
        bed.lambda.account().fail(&id, word);
        let sighting = seen(&bed.landlord, &mut row, word, |_| true).await;
        assert_eq!(sighting.phase, phase);
    }
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    seen(&bed.landlord, &mut row, "terminated", |seen| seen.phase == Phase::Gone).await;
    assert_eq!(bed.landlord.end(&row, &Notebook::default()).await, Ok(Ending::Gone));
}

#[tokio::test]
async fn machines_of_somebody_else_are_not_shown_and_our_own_are_known_without_their_tags() {
    let bed = bed().await;
    let tags = json!([{ "key": "beacon-pool", "value": "lambda@elsewhere" }, { "key": "beacon-order", "value": "x" }]);
    bed.lambda.account().add_foreign("theirs", SKU, HOME, json!({ "ssh_key_names": [] }));
    bed.lambda.account().add_foreign("other-pool", SKU, HOME, json!({ "ssh_key_names": [], "tags": tags }));
    let bare = json!({ "ssh_key_names": [], "tags": null });
    bed.lambda.account().add_foreign("tagless", SKU, HOME, bare);
    let (order, id) = bed.orders(1).await;
    let row = known(&an_order(2), Some("tagless"));
    let census = bed.landlord.list(std::slice::from_ref(&row)).await.unwrap();
    let mut ids: Vec<_> =
        census.sightings.iter().map(|seen| (seen.machine.clone(), seen.id.clone())).collect();
    ids.sort();
    assert_eq!(ids, [(order.machine, id), (row.machine, "tagless".to_owned())]);
    assert_untouched(bed.lambda.account());
}

#[tokio::test]
async fn the_rates_of_the_account_are_kept_in_one_place() {
    let bed = bed_with(|config| config.limited = true).await;
    let landlord = landlord(&bed.lambda, |config| config.pace = LONG);
    landlord.list(&[]).await.unwrap();
    let asked = bed.lambda.account().exchanges().len();
    // The next turn is an hour away, which is longer than any caller waits; the provider is not asked.
    for _ in 0..3 {
        let error = landlord.list(&[]).await.unwrap_err();
        assert!(matches!(error, CallError::RateLimited(_, Some(_))), "{error:?}");
    }
    assert_eq!(bed.lambda.account().exchanges().len(), asked);
    // A refusal by the provider itself: more than one call in a second.
    let refusal = loop {
        if let Err(error) = bed.landlord.list(&[]).await {
            break error;
        }
    };
    assert!(matches!(refusal, CallError::RateLimited(_, Some(_))), "{refusal:?}");
}

#[tokio::test]
async fn bodies_are_as_lambda_describes_them() {
    let Some(description) = Description::load("lambda", "lambda.json") else { return };
    let bed = bed_with(|config| config.terminated_listed = LONG).await;
    bed.landlord.quote(&pool()).await.unwrap();
    let (order, id) = bed.orders(1).await;
    let mut row = known(&order, Some(&id));
    seen(&bed.landlord, &mut row, "it is up", |seen| is_up(&seen.phase)).await;
    bed.landlord.end(&row, &Notebook::default()).await.unwrap();
    bed.landlord.end(&row, &Notebook::default()).await.unwrap();
    seen(&bed.landlord, &mut row, "it is gone", |seen| seen.phase == Phase::Gone).await;
    bed.landlord.end(&known(&order, Some("unknown")), &Notebook::default()).await.unwrap();
    bed.lambda.set_capacity(SKU, HOME, true, Some(0));
    bed.landlord.order(&order, &Notebook::default()).await.unwrap_err();
    bed.lambda.set_quota(0);
    bed.landlord.order(&order, &Notebook::default()).await.unwrap_err();
    let stolen = landlord(&bed.lambda, |config| config.api_key = Secret::new("stolen"));
    stolen.list(&[]).await.unwrap_err();
    assert_described(&description, &bed.lambda.account().exchanges(), |exchange, _| {
        // `global/unknown` and its status are reported, and described nowhere.
        exchange.status >= 500
    });
}

#[tokio::test]
async fn an_instance_of_a_pool_that_nobody_here_knows_is_a_stray_unless_a_row_knows_it() {
    let bed = bed().await;
    bed.lambda.account().add_foreign("somebody-elses", SKU, HOME, json!({}));
    let (order, id) = bed.orders(1).await;
    let other = landlord(&bed.lambda, |config| {
        let settings = config.pools.remove(&pool()).unwrap();
        config.pools.insert("spare@us-east".parse().unwrap(), settings);
    });
    let census = other.list(&[]).await.unwrap();
    let strays: Vec<_> = census.strays.iter().map(|stray| (stray.id.clone(), stray.pool.clone())).collect();
    assert_eq!((census.sightings, strays), (Vec::new(), vec![(id.clone(), Some(pool()))]));
    // A row's machine is followed and ended whatever the configuration says.
    let row = known(&order, Some(&id));
    let census = other.list(std::slice::from_ref(&row)).await.unwrap();
    assert_eq!((census.sightings.len(), census.strays.len()), (1, 0), "{census:?}");
    until("it is up", || bed.lambda.account().machine(&id).is_some_and(|seen| seen.stage == Stage::Up)).await;
    assert_eq!(other.end(&row, &Notebook::default()).await, Ok(Ending::Accepted));
    until("it is gone", || bed.lambda.account().alive().is_empty()).await;
}
