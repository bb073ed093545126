//! Promise: a keeper's work does not grow with what stands still. Counted, not timed: the calls to a provider per look, what is
//! stored and read while nothing changes, the calls between pressure and an order, and those of an adoption.

use std::{collections::BTreeMap, sync::Arc};

use async_nats::{Client, HeaderMap, Subscriber};
use futures_util::StreamExt as _;
use keepers::{
    account::Account,
    config::KeeperConfig,
    policy::{Bounds, Policy},
};
use schemas::{
    Lane, UsdNanos,
    cost::{Bill, CostEvent, Purpose},
    demand::{Demand, Due, LaneDemand, ModelDemand},
    machine::MachineState,
    subjects,
    time::Clock as _,
};
use tests::{
    nats_server::NatsServer,
    rent::{self, KillAt, Office, Running},
    wait,
};
use transport::SystemClock;

use crate::providers::{self, Provider};

/// Machines that stand.
const MACHINES: u32 = 24;
/// Looks that are counted.
const LOOKS: usize = 30;

fn hasty(provider: &Provider) -> Arc<Account> {
    Account::new("lambda", rent::hasty((provider.landlord)()))
}

/// The calls of an account by their paths' last parts, from the `from`th on.
fn calls(provider: &Provider, from: usize) -> BTreeMap<String, usize> {
    let mut calls = BTreeMap::new();
    for seen in provider.account.exchanges().into_iter().skip(from) {
        let name = seen.path.rsplit('/').next().unwrap_or_default().to_owned();
        *calls.entry(format!("{} {name}", seen.method)).or_default() += 1;
    }
    calls
}

fn looks(provider: &Provider, from: usize) -> usize {
    calls(provider, from).remove("GET instances").unwrap_or(0)
}

/// Every subject that was published to below `subject`, until [`Heard::end`].
struct Heard(Subscriber, Client);

impl Heard {
    async fn begin(client: &Client, subject: &str) -> Self {
        let heard = Self(client.subscribe(subject.to_owned()).await.unwrap(), client.clone());
        client.flush().await.unwrap();
        heard
    }

    async fn next(&mut self) {
        let next = tokio::time::timeout(wait::DEADLINE, self.0.next()).await;
        assert!(next.is_ok_and(|message| message.is_some()), "nothing more is stored");
    }

    async fn end(mut self) -> Vec<String> {
        self.1.flush().await.unwrap();
        self.0.unsubscribe().await.unwrap();
        let mut subjects = Vec::new();
        while let Some(message) = self.0.next().await {
            subjects.push(message.subject.to_string());
        }
        subjects
    }
}

fn of_kind(subjects: &[String], kind: &str) -> usize {
    subjects.iter().filter(|subject| subject.contains(&format!(".{kind}."))).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_and_serves_costs_one_call_a_look_and_nothing_is_stored_or_read() {
    let nats = NatsServer::start().await;
    let url = nats.url();
    let office = Office::open(&url).await;
    let provider = providers::lambda("lambda@us-east".into()).await;
    let mut settings = provider.pool.clone();
    settings.policy = Policy { bounds: Bounds::keep(MACHINES), machines_max: MACHINES, ..settings.policy };
    let pool = settings.pool.clone();
    let config = KeeperConfig {
        standing_every: std::time::Duration::from_secs(3_600),
        ..rent::config(&url, "k1", hasty(&provider), vec![settings.clone()])
    };
    let mut books = Heard::begin(&office.client, "$KV.beacon-machines.books.>").await;
    let keeper = Running::start(config.clone()).await;
    office.until(&pool, MachineState::Ready, MACHINES as usize).await;
    // Once when they are begun, once when they are settled first: two seconds later.
    for _ in 0..2 {
        books.next().await;
    }
    drop(books);

    let stored = Heard::begin(&office.client, "$KV.beacon-machines.>").await;
    let read = Heard::begin(&office.client, "$JS.API.>").await;
    let from = provider.account.exchanges().len();
    wait::until("some looks", || async { (looks(&provider, from) >= LOOKS).then_some(()) }).await;
    let (stored, mut read) = (stored.end().await, read.end().await);
    // Whoever follows a bucket asks each two seconds whether it is still the same.
    read.retain(|subject| subject != "$JS.API.STREAM.INFO.KV_beacon-machines");
    let calls_made = calls(&provider, from);
    assert_eq!(calls_made.len(), 1, "lists alone are asked for: {calls_made:?}");
    assert_eq!(of_kind(&stored, "machine"), 0, "no row is stored: {stored:?}");
    assert_eq!(of_kind(&stored, "books"), 0, "nothing is booked: {stored:?}");
    // Each look is followed by a plan. What is told is the same, but for the clock.
    assert!(of_kind(&stored, "status") <= 2, "the same is not told again: {stored:?}");
    assert_eq!(read, Vec::<String>::new(), "nothing is read");

    // The next keeper adopts them: one list, one look at prices, one probe each; nothing is stored of a row.
    keeper.kill().await;
    let from = provider.account.exchanges().len();
    let probed = || -> Vec<u64> {
        let machines = provider.account.machines().into_iter().filter(|seen| !seen.foreign);
        machines.map(|seen| provider.account.server(&seen.id).map_or(0, |s| s.stats().finished)).collect()
    };
    let before = probed();
    let tap = KillAt::step(None);
    // At the provider's own pace: the first list is the only one for ten seconds.
    let accounts = vec![Account::new("lambda", (provider.landlord)())];
    let adopting = KeeperConfig { tap: tap.clone(), accounts, ..config };
    let keeper = Running::start(adopting).await;
    wait::until("all machines to be probed", || async {
        let again = probed().iter().zip(&before).filter(|(now, before)| now > before).count();
        (again == MACHINES as usize && looks(&provider, from) >= 1).then_some(())
    })
    .await;
    wait::until("a look at prices", || async {
        calls(&provider, from).contains_key("GET ssh-keys").then_some(())
    })
    .await;
    let adopted = calls(&provider, from);
    let once: Vec<(&str, usize)> = adopted.iter().map(|(name, count)| (name.as_str(), *count)).collect();
    let expected =
        ["GET instance-types", "GET instances", "GET regions", "GET ssh-keys"].map(|name| (name, 1));
    assert_eq!(once, expected);
    let rows = tap.passed().into_iter().filter(|step| step.what == "row").count();
    assert_eq!(rows, 0, "rows of machines that serve on are as they were");
    let again: Vec<u64> = probed().iter().zip(&before).map(|(now, before)| now - before).collect();
    assert!(again.iter().all(|probes| *probes == 1), "each is probed once: {again:?}");
    keeper.kill().await;
    provider.shutdown.cancel();
    office.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn between_pressure_and_the_order_there_is_no_other_call_and_the_ledger_of_before_is_not_counted() {
    let nats = NatsServer::start().await;
    let url = nats.url();
    let office = Office::open(&url).await;
    let provider = providers::lambda("lambda@us-east".into()).await;
    let mut settings = provider.pool.clone();
    settings.policy = Policy { bounds: Bounds::between(0, 1), machines_max: 1, ..settings.policy };
    let (pool, model) = (settings.pool.clone(), settings.models[0].clone());
    // The pool had other workers once, and they cost something.
    let earlier = CostEvent {
        purpose: Purpose::Useful,
        ..CostEvent::standing(&pool, bill(UsdNanos::new(7_000_000_000)), SystemClock.now())
    };
    book(&office.client, &earlier).await;
    let keeper = Running::start(rent::config(&url, "k1", hasty(&provider), vec![settings])).await;
    wait::until("prices", || async { (!office.status(&pool).await?.quotes.is_empty()).then_some(()) }).await;

    let from = provider.account.exchanges().len();
    let told = Demand {
        dispatcher: "d1".parse().unwrap(),
        started_us: SystemClock.now(),
        region: pool.region.clone(),
        at_us: SystemClock.now(),
        models: vec![ModelDemand { model, lanes: vec![lane(3)], service: Vec::new() }],
    };
    let payload = serde_json::to_vec(&told).unwrap();
    let demand = || office.client.publish(subjects::demand(&pool.region), payload.clone().into());
    wait::until("an order", || async {
        demand().await.unwrap();
        ((provider.made)() == 1).then_some(())
    })
    .await;
    let mut calls_made = calls(&provider, from);
    calls_made.remove("GET instances");
    let launch = BTreeMap::from([("POST launch".to_owned(), 1)]);
    assert_eq!(calls_made, launch, "what an order needs is known before");

    office.until(&pool, MachineState::Ready, 1).await;
    office.wish(&pool, &keepers::wish::Wish { stopped: true, ..keepers::wish::Wish::default() }).await;
    office.until_empty(&pool).await;
    let invoice = || (provider.invoice)().checked_add(earlier.amount_usd).unwrap();
    wait::until("the ledger to equal the invoice and what was before", || async {
        (office.ledger(&pool).await == invoice()).then_some(())
    })
    .await;
    keeper.stop().await;
    provider.shutdown.cancel();
    office.close().await;
}

fn lane(jobs: u32) -> LaneDemand {
    LaneDemand {
        lane: Lane::High,
        in_hand: jobs,
        behind: Some(0),
        running: 0,
        arrivals: u64::from(jobs),
        slot_us: 0,
        due: vec![Due { by_us: None, jobs, slot_us: u64::from(jobs) * 1_000_000 }],
    }
}

fn bill(amount_usd: UsdNanos) -> Bill {
    Bill { lines: Vec::new(), amount_usd, estimated: false, price_book: "test.1".into() }
}

/// Stores a cost event, as a worker does.
async fn book(client: &Client, event: &CostEvent) {
    let mut headers = HeaderMap::new();
    headers.insert("Content-Type", "application/json");
    let subject = subjects::cost(&"acme".parse().unwrap(), &"inbox".parse().unwrap());
    let body = serde_json::to_vec(event).unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    jetstream.publish_with_headers(subject, headers, body.into()).await.unwrap().await.unwrap();
}
