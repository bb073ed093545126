//! Each provider of machines, simulated, with an account of somebody else's machine in it where the provider has such a thing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use chrono::NaiveDate;
use futures_util::future::BoxFuture;
use keepers::{
    config::PoolSettings,
    landlord::Landlord,
    landlords::{
        fly::{self, Guest, Park},
        golem::{self, Decimal, GolemPace},
        lambda, railway, render,
    },
    secret::Secret,
};
use schemas::UsdNanos;
use serde_json::json;
use simulators::rented::{self, Invoice};
use tests::rent;
use tokio_util::sync::CancellationToken;
use transport::SystemClock;

/// A public key as ssh-keygen writes it; of no private key that anybody has.
const SSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDd4ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm beacon";

/// Dollars for a GLM, in nano-dollars.
const GLM_NANOS: u64 = 234_500_000;

/// A simulated provider, and how it is rented from.
pub(crate) struct Provider {
    pub(crate) account: Arc<rented::Account>,
    /// A new life of the landlord, which remembers nothing of an earlier one.
    pub(crate) landlord: Box<dyn Fn() -> Arc<dyn Landlord> + Send + Sync>,
    pub(crate) pool: PoolSettings,
    pub(crate) shutdown: CancellationToken,
    /// What the provider bills for machines of ours.
    pub(crate) invoice: Box<dyn Fn() -> UsdNanos + Send + Sync>,
    /// What one begun unit costs where the provider tells no times, so that a machine's first and last unit are ours to judge.
    pub(crate) judged: UsdNanos,
    /// How many machines were ever made for us.
    pub(crate) made: Box<dyn Fn() -> usize + Send + Sync>,
    /// Somebody else suspends a machine; only at Render.
    pub(crate) suspend: Box<dyn Fn(&str) + Send + Sync>,
}

/// Where nobody can.
fn nobody(_: &str) {
    unreachable!("only Render suspends");
}

/// Starts a provider whose pool has this name.
pub(crate) type Start = fn(String) -> BoxFuture<'static, Provider>;

/// How many machines an account made for us.
fn made(account: &Arc<rented::Account>) -> Box<dyn Fn() -> usize + Send + Sync> {
    let account = Arc::clone(account);
    Box::new(move || account.log().iter().filter(|action| action.act == rented::Act::Ordered).count())
}

/// What lines of machines of ours come to.
fn ours(invoice: Invoice) -> UsdNanos {
    let ours = invoice.lines.into_iter().filter(|line| line.mark.is_some());
    UsdNanos::new(ours.map(|line| line.amount_nanos).sum())
}

fn usd(text: &str) -> UsdNanos {
    text.parse().unwrap()
}

pub(crate) fn lambda(pool: String) -> BoxFuture<'static, Provider> {
    Box::pin(async move {
        let shutdown = CancellationToken::new();
        let (sku, place) = ("gpu_1x_a10", "us-east-1");
        let simulated = rented::LambdaConfig { limited: false, ..rented::LambdaConfig::default() };
        let key = simulated.key.clone();
        let simulator = rented::Lambda::start(simulated, shutdown.clone()).await.unwrap();
        simulator.account().add_foreign("somebody-elses", sku, place, json!({}));
        let settings = rent::pool(&pool, "lambda", sku, &[place], 1);
        let rents = lambda::LambdaPool {
            sku: sku.into(),
            places: vec![lambda::LambdaPlace { region: place.into(), firewall_ruleset: None }],
            image_family: None,
            image: "vllm/vllm-openai@sha256:0".into(),
            args: vec!["--model".into(), "m".into()],
            env: BTreeMap::new(),
            port: simulator.account().port(),
            start_within: None,
        };
        let config = lambda::LambdaConfig {
            base_url: simulator.url(),
            pace: Duration::ZERO,
            launch_pace: Duration::ZERO,
            pools: [(settings.pool.clone(), rents)].into(),
            ..lambda::LambdaConfig::new(Secret::new(key), SSH_KEY)
        };
        Provider {
            account: Arc::clone(simulator.account()),
            landlord: Box::new(move || Arc::new(lambda::Lambda::new(config.clone()).unwrap())),
            pool: settings,
            shutdown,
            judged: usd("1.29").per(60).unwrap_or_default(),
            made: made(simulator.account()),
            suspend: Box::new(nobody),
            invoice: Box::new(move || ours(simulator.account().invoice())),
        }
    })
}

pub(crate) fn fly(pool: String) -> BoxFuture<'static, Provider> {
    Box::pin(async move {
        let shutdown = CancellationToken::new();
        let (sku, place) = ("performance-4x", "iad");
        let simulator = rented::Fly::start(rented::FlyConfig::default(), shutdown.clone()).await.unwrap();
        let settings = rent::pool(&pool, "fly", sku, &[place], 1);
        let rents = fly::FlyPool {
            app: "beacon-llama".to_owned(),
            guest: Guest { cpu_kind: "performance".to_owned(), cpus: 4, memory_mb: 8_192 },
            places: vec![fly::FlyPlace {
                region: place.to_owned(),
                usd_per_hour: UsdNanos::new(170_000_000),
                parked_usd_per_hour: UsdNanos::new(1_666_667),
                priced_on: NaiveDate::from_ymd_opt(2026, 11, 23).unwrap(),
            }],
            image: "ghcr.io/ggml-org/llama.cpp@sha256:0".to_owned(),
            args: Vec::new(),
            env: BTreeMap::new(),
            key_env: "LLAMA_API_KEY".to_owned(),
            port: simulator.account().port(),
            address: None,
            stop_timeout: Duration::from_secs(30),
            park: Park::Stop,
            start_within: Duration::from_secs(600),
        };
        let mut config = fly::FlyConfig::new(Secret::new("fly-token"));
        (config.base_url, config.org) = (simulator.url(), Some("personal".to_owned()));
        (config.pace, config.change_within) = (Duration::ZERO, Duration::from_millis(200));
        config.pools.insert(settings.pool.clone(), rents);
        Provider {
            account: Arc::clone(simulator.account()),
            landlord: Box::new(move || Arc::new(fly::Fly::new(config.clone()).unwrap())),
            pool: settings,
            shutdown,
            judged: UsdNanos::ZERO,
            made: made(simulator.account()),
            suspend: Box::new(nobody),
            invoice: Box::new(move || ours(simulator.account().invoice())),
        }
    })
}

pub(crate) fn railway(pool: String) -> BoxFuture<'static, Provider> {
    Box::pin(async move {
        let shutdown = CancellationToken::new();
        let (sku, place) = ("4x8", "us-east4-eqdc4a");
        let simulated = rented::RailwayConfig::default();
        let (project, environment) = (simulated.project.clone(), simulated.environment.clone());
        let simulator = rented::Railway::start(simulated, shutdown.clone()).await.unwrap();
        simulator.add_foreign("Postgres");
        let settings = rent::pool(&pool, "railway", sku, &[place], 1);
        let prices =
            railway::RailwayPrices { vcpu_month: usd("20"), gb_month: usd("10"), egress_gb: usd("0.05") };
        let token = railway::RailwayToken::Project(Secret::new("project-token"));
        let mut config = railway::RailwayConfig::new(token, project, environment, prices);
        (config.api, config.edge_scheme) = (simulator.url(), "http".to_owned());
        config.pools.insert(settings.pool.clone(), railway::RailwayPool::new(place, sku, "ghcr.io/a/b"));
        Provider {
            account: Arc::clone(simulator.account()),
            landlord: Box::new(move || Arc::new(railway::Railway::new(config.clone()).unwrap())),
            pool: settings,
            shutdown,
            judged: UsdNanos::ZERO,
            made: made(simulator.account()),
            suspend: Box::new(nobody),
            invoice: Box::new(move || ours(simulator.invoice())),
        }
    })
}

pub(crate) fn render(pool: String) -> BoxFuture<'static, Provider> {
    Box::pin(async move {
        let shutdown = CancellationToken::new();
        let (sku, place) = ("pro_plus", "virginia");
        let budgets = [(100_000, Duration::from_secs(60)); 4];
        let simulated = rented::RenderConfig { budgets, ..rented::RenderConfig::default() };
        let simulator = rented::Render::start(simulated, shutdown.clone()).await.unwrap();
        simulator.add_foreign("website");
        let settings = rent::pool(&pool, "render", sku, &[place], 1);
        let mut config = render::RenderConfig::new(Secret::new("rnd_key"), "tea-1");
        config.api = simulator.url();
        config.resume_shows_within = Duration::from_millis(200);
        config.usd_per_hour.insert(sku.to_owned(), usd("0.243055556"));
        config.pools.insert(settings.pool.clone(), render::RenderPool::new(place, sku, "ghcr.io/a/b"));
        Provider {
            account: Arc::clone(simulator.account()),
            landlord: Box::new(move || Arc::new(render::Render::new(config.clone()).unwrap())),
            pool: settings,
            shutdown,
            judged: usd("0.243055556").per(3_600).unwrap_or_default(),
            made: made(simulator.account()),
            suspend: {
                let simulator = simulator.clone();
                Box::new(move |id| simulator.suspend_by(id, "user"))
            },
            invoice: Box::new(move || ours(simulator.account().invoice())),
        }
    })
}

pub(crate) fn golem(pool: String) -> BoxFuture<'static, Provider> {
    Box::pin(async move {
        let shutdown = CancellationToken::new();
        let (sku, place) = ("gpu", "us-east");
        let ms = Duration::from_millis;
        let simulated = rented::GolemConfig::new(vec![rented::GolemNode::new("0xa1", "0.0001")]);
        let simulator = rented::Golem::start(simulated, shutdown.clone()).await.unwrap();
        let settings = rent::pool(&pool, "golem", sku, &[place], 1);
        let rents = golem::GolemPool {
            sku: sku.into(),
            runtime: "vm-nvidia".into(),
            capabilities: vec!["!exp:gpu".into()],
            gpu: None,
            mem_gib: 8,
            storage_gib: 20,
            image: "hash:sha3:00:http://images.invalid/00".into(),
            serve: "vllm serve 'm'".into(),
            port: 8_000,
            server_secret: settings.secret.clone(),
            rent_for: Duration::from_secs(48 * 3_600),
            glm_per_hour_max: Decimal::whole(2),
            glm_start_max: Decimal::whole(1),
            places: vec![golem::GolemPlace { name: place.into(), providers: vec!["0xa1".into()] }],
        };
        let pools = [(settings.pool.clone(), rents)].into();
        let mut config = golem::GolemConfig::new(Secret::new("yagna-key"), Decimal::nanos(GLM_NANOS), pools);
        config.url = simulator.url();
        config.pace = GolemPace {
            poll: ms(300),
            again: ms(20),
            gather: ms(40),
            negotiate_within: Duration::from_secs(10),
            approve_within: Duration::from_secs(5),
            activity_within: ms(200),
            deploy_within: Duration::from_secs(30),
            upkeep: ms(20),
            list_every: ms(20),
            ..GolemPace::default()
        };
        Provider {
            account: Arc::clone(simulator.account()),
            landlord: Box::new(move || {
                Arc::new(golem::Golem::new(config.clone(), Arc::new(SystemClock)).unwrap())
            }),
            pool: settings,
            shutdown,
            judged: UsdNanos::ZERO,
            suspend: Box::new(nobody),
            made: {
                let simulator = simulator.clone();
                Box::new(move || simulator.bills().len())
            },
            invoice: Box::new(move || {
                let most = |bill: &rented::GolemBill| {
                    let usd = |glm: &str| rented::Golem::usd_nanos(glm, GLM_NANOS);
                    usd(&bill.paid).max(usd(&bill.by_notes))
                };
                UsdNanos::new(simulator.bills().iter().map(most).sum())
            }),
        }
    })
}
