//! Promise: however many dispatchers spend a budget at once, together they spend no more than it, and its counter says so.

use std::time::Duration;

use async_nats::Client;
use dispatcher::banker::Banker;
use futures_util::future::join_all;
use routing::budget::{Budgets, Mode, Period, Rule, Rules};
use schemas::{ProviderId, Tenant, UsdNanos, time::Clock as _, topology::Topology};
use tests::{nats_server::NatsServer, roles};
use transport::{Link, LinkConfig, SystemClock, counters, topology};

const SUBJECT: &str = "beacon.budget.acme.ALL.2026-11-26";

async fn client(server: &NatsServer, name: &str) -> Client {
    let client = Link::connect(&LinkConfig::to(server.url()), name).await.unwrap().client;
    // Each of them, as every role does at its start: the second finds nothing to change.
    topology::ensure(&client, &Topology::new(&roles::settings(Duration::from_secs(10)))).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn two_takers_add_up_and_a_repeated_message_counts_once() {
    let server = NatsServer::start().await;
    let takers = [client(&server, "a").await, client(&server, "b").await];
    assert_eq!(counters::read(&takers[0], SUBJECT).await.unwrap(), 0);
    let adds = (0..200).map(|n| {
        let (client, delta) = (&takers[n % 2], if n % 5 == 4 { -3 } else { 10 });
        async move { counters::add(client, SUBJECT, delta, &format!("add:{n}")).await.unwrap() }
    });
    let totals = join_all(adds).await;
    let sum = 160 * 10 - 40 * 3;
    assert!(totals.contains(&sum), "whoever came last saw all of it");
    for _ in 0..3 {
        assert_eq!(counters::add(&takers[0], SUBJECT, 10, "add:0").await.unwrap(), sum);
    }
    assert_eq!(
        counters::add(&takers[1], SUBJECT, 5_000_000_000, "large").await.unwrap(),
        sum + 5_000_000_000
    );
    assert_eq!(counters::read(&takers[0], SUBJECT).await.unwrap(), sum + 5_000_000_000);
}

/// Spends as a dispatcher would until the budget holds it for good; gives what it spent.
async fn spend(client: Client, rules: Rules, cost: UsdNanos) -> u64 {
    let (tenant, provider): (Tenant, ProviderId) = ("acme".parse().unwrap(), "golem".parse().unwrap());
    let (mut budgets, mut banker) = (Budgets::new(rules), Banker::new(client));
    let mut spent = 0;
    loop {
        let now = SystemClock.now();
        match budgets.admits(&tenant, &provider, cost, now) {
            Ok(()) => {
                let reserved = budgets.reserve(&tenant, &provider, cost, now);
                // Every second one costs half of what was feared.
                let actual = UsdNanos::new(if spent % 2 == 0 { cost.get() } else { cost.get() / 2 });
                budgets.settle(reserved, actual, now);
                spent += actual.get();
            }
            Err(held) if held.wait == routing::budget::Wait::Chunk => {
                for draw in budgets.draws(now) {
                    banker.ask(draw);
                }
                let heard = banker.next().await.unwrap();
                banker.tell(&mut budgets, heard, &SystemClock);
            }
            Err(_) => break,
        }
    }
    banker.close(&mut budgets, &SystemClock, Duration::from_secs(5)).await;
    spent
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_that_spend_at_once_stay_within_the_limit_and_the_counter_tells_what_was_spent() {
    let server = NatsServer::start().await;
    let rule = |tenant: Option<&str>, limit| Rule {
        tenant: tenant.map(|t| t.parse().unwrap()),
        provider: None,
        // The longest, so that the test does not run into the next one.
        period: Period::Month,
        limit: UsdNanos::new(limit),
        mode: Mode::Hard,
    };
    let rules = vec![rule(Some("acme"), 1_000_003), rule(None, 5_000_000)];
    let counted: Vec<String> = rules.iter().map(|rule| rule.subject(SystemClock.now())).collect();
    let rules = Rules::new(rules).unwrap();
    let observer = client(&server, "observer").await;
    let mut spenders = Vec::new();
    for name in ["a", "b", "c"] {
        spenders.push(spend(client(&server, name).await, rules.clone(), UsdNanos::new(101)));
    }
    let spent: u64 = join_all(spenders).await.into_iter().sum();
    assert!(spent <= 1_000_003, "{spent}");
    // Less than one job for each of them is left when the last has given up.
    assert!(spent > 900_000, "{spent}");
    for subject in counted {
        assert_eq!(counters::read(&observer, &subject).await.unwrap(), spent, "{subject}");
    }
}
