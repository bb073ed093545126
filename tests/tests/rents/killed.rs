//! Promise: a keeper may be killed at any step. Afterwards no machine is rented twice, none is left running, nothing of anybody
//! else's was touched, and the ledger equals the invoice.
//!
//! A first run counts the steps: before and after each write and each control call. Then, for each step, a keeper is killed
//! exactly there, and another one takes over.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, future::BoxFuture, stream};
use keepers::{account::Account, config::PoolSettings, landlord::Landlord, secret::Secret, wish::Wish};
use schemas::{UsdNanos, machine::MachineState};
use serde_json::json;
use simulators::rented::{self, Act};
use tests::{
    nats_server::NatsServer,
    rent::{self, Hasty, KillAt, Office, Running},
    wait,
};
use tokio_util::sync::CancellationToken;

/// Kills at a time: each mostly waits.
const AT_ONCE: usize = 12;

/// A simulated provider, and how it is rented from.
struct Provider {
    account: Arc<rented::Account>,
    landlord: Arc<dyn Landlord>,
    pool: PoolSettings,
    shutdown: CancellationToken,
    /// Ends with the provider.
    _simulator: Box<dyn Send + Sync>,
}

/// Starts a provider whose pool has this name.
type Start = fn(String) -> BoxFuture<'static, Provider>;

/// What a life with a kill came to.
struct Life {
    steps: usize,
    account: Arc<rented::Account>,
}

/// One machine is wanted, comes up, takes jobs, is not wanted any more, and goes. A keeper is killed at step `at`.
async fn live(url: &str, office: &Office, start: Start, name: &str, at: Option<usize>) -> Life {
    let provider =
        start(format!("{name}-{}@us-east", at.map_or_else(|| "all".into(), |at| at.to_string()))).await;
    let pool = provider.pool.pool.clone();
    provider.account.add_foreign("somebody-elses", &provider.pool.sku, &provider.pool.places[0], json!({}));
    let tap = KillAt::step(at);
    let config = |tap| {
        let account =
            Account::new(provider.pool.account.clone(), Arc::new(Hasty(Arc::clone(&provider.landlord))));
        keepers::config::KeeperConfig { tap, ..rent::config(url, "k1", account, vec![provider.pool.clone()]) }
    };
    let first = Running::start(config(tap.clone())).await;
    let story = async {
        office.until(&pool, MachineState::Ready, 1).await;
        office.wish(&pool, &Wish { stopped: true, ..Wish::default() }).await;
        office.until_empty(&pool).await;
    };
    let mut story = Box::pin(story);
    let keeper = tokio::select! {
        () = &mut story => first,
        () = tap.reached() => {
            first.kill().await;
            let second = Running::start(config(Arc::new(keepers::tap::Open))).await;
            story.await;
            second
        }
    };
    let what = format!("{pool}: the ledger to equal the invoice");
    wait::until(&what, || async { (office.ledger(&pool).await == invoice(&provider.account)).then_some(()) })
        .await;
    keeper.stop().await;
    provider.shutdown.cancel();
    Life { steps: tap.passed().len(), account: provider.account }
}

/// What the provider bills for machines of ours.
fn invoice(account: &rented::Account) -> UsdNanos {
    let ours = account.invoice().lines.into_iter().filter(|line| line.mark.is_some());
    UsdNanos::new(ours.map(|line| line.amount_nanos).sum())
}

/// Kills a keeper at each of its steps.
async fn kill_at_every_step(name: &str, start: Start) {
    let nats = NatsServer::start().await;
    let url = nats.url();
    let office = Office::open(&url).await;
    let whole = live(&url, &office, start, name, None).await;
    assert!(whole.steps >= 20, "so few steps: {}", whole.steps);
    let lives = stream::iter(0..whole.steps).map(|at| live(&url, &office, start, name, Some(at)));
    let lives: Vec<Life> = lives.buffer_unordered(AT_ONCE).collect().await;
    for (at, life) in lives.iter().enumerate() {
        let left: Vec<_> = life.account.alive().into_iter().filter(|seen| !seen.foreign).collect();
        assert!(left.is_empty(), "killed at step {at}, it is left: {left:?}");
        assert_eq!(life.account.touched(), [], "killed at step {at}");
        let ordered = life.account.log().iter().filter(|action| action.act == Act::Ordered).count();
        assert_eq!(ordered, 1, "killed at step {at}, so many machines were made");
    }
    office.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lambda_at_every_step() {
    kill_at_every_step("lambda", |pool| Box::pin(lambda(pool))).await;
}

async fn lambda(pool: String) -> Provider {
    use keepers::landlords::lambda::{Lambda, LambdaConfig, LambdaPlace, LambdaPool};
    let shutdown = CancellationToken::new();
    let (sku, place) = ("gpu_1x_a10", "us-east-1");
    let simulated = rented::LambdaConfig { limited: false, ..rented::LambdaConfig::default() };
    let key = simulated.key.clone();
    let simulator = rented::Lambda::start(simulated, shutdown.clone()).await.unwrap();
    let settings = rent::pool(&pool, "lambda", sku, &[place], 1);
    let rents = LambdaPool {
        sku: sku.into(),
        places: vec![LambdaPlace { region: place.into(), firewall_ruleset: None }],
        image_family: None,
        image: "vllm/vllm-openai@sha256:0".into(),
        args: vec!["--model".into(), "m".into()],
        env: BTreeMap::new(),
        port: simulator.account().port(),
        start_within: None,
    };
    let config = LambdaConfig {
        base_url: simulator.url(),
        pace: Duration::ZERO,
        launch_pace: Duration::ZERO,
        pools: [(settings.pool.clone(), rents)].into(),
        ..LambdaConfig::new(Secret::new(key), SSH_KEY)
    };
    Provider {
        account: Arc::clone(simulator.account()),
        landlord: Arc::new(Lambda::new(config).unwrap()),
        pool: settings,
        shutdown,
        _simulator: Box::new(simulator),
    }
}

/// A public key as ssh-keygen writes it; of no private key that anybody has.
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDd4ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm beacon";
