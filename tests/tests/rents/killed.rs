//! Promise: a keeper may be killed at any step. Afterwards no machine is rented twice, none is left running, nothing of anybody
//! else's was touched, and the ledger equals the invoice.
//!
//! A first run counts the steps: before and after each write and each control call. Then, for each step, a keeper is killed
//! exactly there, and another one takes over.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use keepers::{account::Account, wish::Wish};
use schemas::machine::MachineState;
use simulators::rented;
use tests::{
    nats_server::NatsServer,
    rent::{self, KillAt, Office, Running},
    wait,
};
use tokio::time::Instant;

use crate::providers::{self, Start};

/// Kills at a time: each mostly waits.
const AT_ONCE: usize = 24;

/// What a life with a kill came to.
struct Life {
    steps: usize,
    account: Arc<rented::Account>,
    made: usize,
}

/// One machine is wanted, comes up, takes jobs, is not wanted any more, and goes. A keeper is killed at step `at`.
async fn live(url: &str, office: &Office, start: Start, name: &str, at: Option<usize>) -> Life {
    let provider =
        start(format!("{name}-{}@us-east", at.map_or_else(|| "all".into(), |at| at.to_string()))).await;
    let pool = provider.pool.pool.clone();
    let tap = KillAt::step(at);
    let config = |tap| {
        let account = Account::new(provider.pool.account.clone(), rent::hasty((provider.landlord)()));
        keepers::config::KeeperConfig { tap, ..rent::config(url, "k1", account, vec![provider.pool.clone()]) }
    };
    let first = Running::start(config(tap.clone())).await;
    let told = std::sync::Mutex::new(String::new());
    let story = async {
        office.until(&pool, MachineState::Ready, 1).await;
        office.wish(&pool, &Wish { stopped: true, ..Wish::default() }).await;
        office.until_empty(&pool).await;
        // The last of the money is booked after the machine is gone; a keeper may be killed there, too.
        let end = Instant::now() + wait::DEADLINE;
        loop {
            let (ledger, invoice) = (office.ledger(&pool).await, (provider.invoice)());
            *told.lock().unwrap() = format!("ledger ${ledger}, invoice ${invoice}");
            let paid = ledger.get().abs_diff(invoice.get()) <= provider.judged.get();
            if paid || Instant::now() > end {
                break paid;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let mut story = Box::pin(story);
    let (keeper, paid, killed) = tokio::select! {
        paid = &mut story => (first, paid, false),
        () = tap.reached() => {
            first.kill().await;
            let second = Running::start(config(Arc::new(keepers::tap::Open))).await;
            (second, story.await, true)
        }
    };
    let killed_at = at.and_then(|at| tap.passed().get(at).map(ToString::to_string));
    assert!(paid, "{pool}, killed {}: {}", killed_at.unwrap_or_default(), told.lock().unwrap());
    if at.is_some() && !killed {
        // All was paid before it came to its step, where it would stand for ever.
        keeper.kill().await;
    } else {
        keeper.stop().await;
    }
    provider.shutdown.cancel();
    Life { steps: tap.passed().len(), made: (provider.made)(), account: provider.account }
}

/// Kills a keeper at each of its steps.
async fn kill_at_every_step(name: &str, start: Start) {
    let nats = NatsServer::start().await;
    let url = nats.url();
    let office = Office::open(&url).await;
    let whole = live(&url, &office, start, name, None).await;
    assert!(whole.steps >= 20, "so few steps: {}", whole.steps);
    let lives = stream::iter(0..whole.steps).map(|at| live(&url, &office, start, name, Some(at)));
    let lives: Vec<Life> = lives.buffered(AT_ONCE).collect().await;
    for (at, life) in lives.iter().enumerate() {
        // One that ends has had its call; the provider says 404 of it already.
        let stays = |seen: &rented::Seen| !seen.foreign && seen.stage != rented::Stage::Ending;
        let left: Vec<_> = life.account.alive().into_iter().filter(stays).collect();
        assert!(left.is_empty(), "killed at step {at}, it is left: {left:?}");
        assert_eq!(life.account.touched(), [], "killed at step {at}");
        assert_eq!(life.made, 1, "killed at step {at}, so many machines were made");
    }
    office.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_lambda_may_be_killed_at_every_step() {
    kill_at_every_step("lambda", providers::lambda).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_fly_may_be_killed_at_every_step() {
    kill_at_every_step("fly", providers::fly).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_railway_may_be_killed_at_every_step() {
    kill_at_every_step("railway", providers::railway).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_render_may_be_killed_at_every_step() {
    kill_at_every_step("render", providers::render).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_of_golem_may_be_killed_at_every_step() {
    kill_at_every_step("golem", providers::golem).await;
}
