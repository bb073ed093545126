//! The parts that all providers share, with a control API of two routes.

use std::{io, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    http::{Method, StatusCode, Uri},
    routing::post,
};
use serde_json::json;
use tokio::time::{Instant, sleep};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    Account, Act, BilledFrom, BilledUntil, Canned, ControlFault, Life, Serves, Stage, Tariff,
    account::NewMachine, door,
};

async fn account() -> io::Result<(Arc<Account>, DropGuard)> {
    let stop = CancellationToken::new();
    let tariff = Tariff { unit: Duration::from_secs(60), from: BilledFrom::Up, until: BilledUntil::Asked };
    let (account, listener) = door::open(tariff, stop.clone()).await?;
    let routes = Router::new()
        .route("/order/{mark}", post(order))
        .route("/end/{id}", post(end))
        .with_state(Arc::clone(&account));
    let name = |_: &Method, uri: &Uri, _: &[u8]| uri.path().split('/').nth(1).unwrap_or_default().to_owned();
    door::serve(&account, listener, routes, name);
    Ok((account, stop.drop_guard()))
}

async fn order(State(account): State<Arc<Account>>, Path(mark): Path<String>) -> String {
    let id = format!("i-{}", account.machines().len());
    let key = Some("secret".to_owned());
    let new = NewMachine {
        id,
        mark: Some(mark),
        sku: "cpu".to_owned(),
        place: "here".to_owned(),
        key,
        price_per_hour_nanos: 1_290_000_000,
        parked_per_hour_nanos: 0,
        papers: json!({}),
    };
    account.order(new).id
}

async fn end(State(account): State<Arc<Account>>, Path(id): Path<String>) -> StatusCode {
    account.end(&id, "end").map_or(StatusCode::NOT_FOUND, |_| StatusCode::OK)
}

fn client() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy().build().unwrap()
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

async fn complete(account: &Account, id: &str, key: &str) -> u16 {
    let address = account.machine(id).unwrap().address;
    let body = json!({ "model": "m", "prompt": "hi", "max_tokens": 8 }).to_string();
    let request = client().post(format!("http://{address}/v1/completions"));
    let request = request.bearer_auth(key).header("content-type", "application/json").body(body);
    request.send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_machine_boots_serves_with_its_own_key_ends_and_is_on_the_invoice() {
    let (account, _stop) = account().await.unwrap();
    let id = client().post(format!("{}/order/a", account.url())).send().await.unwrap().text().await.unwrap();
    until("it serves", || account.server(&id).is_some()).await;
    assert_eq!(complete(&account, &id, "secret").await, 200);
    assert_eq!(complete(&account, &id, "other").await, 401);
    client().post(format!("{}/end/{id}", account.url())).send().await.unwrap();
    until("it is gone", || account.alive().is_empty()).await;
    let stages: Vec<Stage> =
        account.machine(&id).unwrap().history.into_iter().map(|(stage, _)| stage).collect();
    assert_eq!(stages, [Stage::Booting, Stage::Up, Stage::Ending, Stage::Gone]);
    assert_eq!(account.invoice().total_nanos, 21_500_000);
    let acts: Vec<Act> = account.log().into_iter().map(|action| action.act).collect();
    assert_eq!(acts, [Act::Ordered, Act::Ended]);
    assert_eq!(account.exchanges().len(), 2);
}

#[tokio::test]
async fn a_call_that_is_carried_out_can_lose_its_answer() {
    let (account, _stop) = account().await.unwrap();
    account.fault("order", ControlFault::DoneThenCut, 1);
    account.fault("order", ControlFault::DoneBut(Canned::html(502)), 1);
    account.fault("order", ControlFault::Refused(Canned::text(429, "slow down").retry_after("1")), 1);
    account.fault("order", ControlFault::Cut, 1);
    let mut statuses = Vec::new();
    for _ in 0..4 {
        let sent = client().post(format!("{}/order/a", account.url())).send().await;
        statuses.push(sent.ok().map(|answer| answer.status().as_u16()));
    }
    assert_eq!(statuses, [None, Some(502), Some(429), None]);
    assert_eq!(account.alive().len(), 2);
}

#[tokio::test]
async fn a_machine_can_be_up_without_a_gpu_and_another_without_a_server() {
    let (account, _stop) = account().await.unwrap();
    account.next_life(Life { serves: Serves::HealthOnly, ..Life::default() });
    account.next_life(Life { listens_after: None, ..Life::default() });
    for mark in ["a", "b"] {
        client().post(format!("{}/order/{mark}", account.url())).send().await.unwrap();
    }
    until("it listens", || account.server("i-0").is_some()).await;
    let health = format!("http://{}/health", account.machine("i-0").unwrap().address);
    assert_eq!(client().get(health).send().await.unwrap().status(), 200);
    assert_eq!(complete(&account, "i-0", "secret").await, 500);
    until("the other is up", || account.machine("i-1").unwrap().stage == Stage::Up).await;
    let health = format!("http://{}/health", account.machine("i-1").unwrap().address);
    assert!(client().get(health).send().await.unwrap_err().is_connect());
}

#[tokio::test]
async fn what_touches_a_machine_of_somebody_else_is_told_and_an_address_can_be_used_again() {
    let (account, _stop) = account().await.unwrap();
    account.reuse_addresses();
    account.add_foreign("theirs", "cpu", "here", json!({}));
    let theirs = account.machine("theirs").unwrap().address;
    assert_eq!(account.touched(), []);
    client().post(format!("{}/end/theirs", account.url())).send().await.unwrap();
    assert_eq!(account.touched()[0].act, Act::Touched("end".to_owned()));
    until("it is gone", || account.machine("theirs").unwrap().stage == Stage::Gone).await;
    client().post(format!("{}/order/a", account.url())).send().await.unwrap();
    assert_eq!(account.alive()[0].address, theirs);
    assert!(account.invoice().lines.iter().all(|line| line.id != "theirs"));
}
