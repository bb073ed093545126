//! A simulated account at each provider, and a landlord with one pool in it.

use std::{collections::BTreeMap, sync::Arc};

use chrono::NaiveDate;
use keepers::{
    landlord::Landlord,
    landlords::{
        fly::{Fly, FlyConfig, FlyPlace, FlyPool, Guest, Park},
        golem::{Decimal, Golem, GolemConfig, GolemPlace, GolemPool},
        lambda::{Lambda, LambdaConfig, LambdaPlace, LambdaPool},
        railway::{Railway, RailwayConfig, RailwayPool, RailwayPrices, RailwayToken},
        render::{Render, RenderConfig, RenderPool},
    },
    secret::Secret,
};
use schemas::{PoolId, UsdNanos};
use simulators::rented::{self, Account};
use std::time::Duration;
use tokio_util::sync::{CancellationToken, DropGuard};
use transport::SystemClock;

pub(crate) const NAMES: [&str; 5] = ["lambda", "fly", "golem", "railway", "render"];

enum Simulated {
    Lambda(rented::Lambda),
    Fly(rented::Fly),
    Golem(rented::Golem),
    Railway(rented::Railway),
    Render(rented::Render),
}

pub(crate) struct Bed {
    pub(crate) name: &'static str,
    pub(crate) key: &'static str,
    pub(crate) pool: PoolId,
    pub(crate) landlord: Arc<dyn Landlord>,
    simulated: Simulated,
    _stop: DropGuard,
}

/// What a test wants to be different.
#[derive(Default)]
struct Wish {
    key: Option<&'static str>,
    place: Option<&'static str>,
    app: Option<&'static str>,
}

/// What a landlord is made of.
struct Plan {
    wish: Wish,
    pool: PoolId,
    image: String,
    stop: CancellationToken,
}

impl Plan {
    fn of(&self, key: &'static str, place: &'static str) -> (&'static str, &'static str) {
        (self.wish.key.unwrap_or(key), self.wish.place.unwrap_or(place))
    }
}

/// The account's key, its landlord, and the account itself.
type Opened = (&'static str, Arc<dyn Landlord>, Simulated);

fn usd(text: &str) -> UsdNanos {
    text.parse().unwrap()
}

impl Bed {
    pub(crate) async fn open(name: &'static str) -> Self {
        Self::wished(name, Wish::default()).await
    }

    pub(crate) async fn with_key(name: &'static str, key: &'static str) -> Self {
        Self::wished(name, Wish { key: Some(key), ..Wish::default() }).await
    }

    pub(crate) async fn at(name: &'static str, place: &'static str) -> Self {
        Self::wished(name, Wish { place: Some(place), ..Wish::default() }).await
    }

    pub(crate) async fn with_app(app: &'static str) -> Self {
        Self::wished("fly", Wish { app: Some(app), ..Wish::default() }).await
    }

    async fn wished(name: &'static str, wish: Wish) -> Self {
        let plan = Plan {
            wish,
            pool: format!("{name}@us-east").parse().unwrap(),
            image: format!("ghcr.io/acme/server@sha256:{}", "a".repeat(64)),
            stop: CancellationToken::new(),
        };
        let (key, landlord, simulated) = match name {
            "lambda" => lambda(&plan).await,
            "fly" => fly(&plan).await,
            "golem" => golem(&plan).await,
            "railway" => railway(&plan).await,
            _ => render(&plan).await,
        };
        Self { name, key, pool: plan.pool, landlord, simulated, _stop: plan.stop.drop_guard() }
    }

    pub(crate) fn account(&self) -> &Arc<Account> {
        match &self.simulated {
            Simulated::Lambda(one) => one.account(),
            Simulated::Fly(one) => one.account(),
            Simulated::Golem(one) => one.account(),
            Simulated::Railway(one) => one.account(),
            Simulated::Render(one) => one.account(),
        }
    }

    pub(crate) fn add_foreign(&self, service: &str) {
        match &self.simulated {
            Simulated::Railway(one) => one.add_foreign(service),
            Simulated::Render(one) => one.add_foreign(service),
            Simulated::Lambda(_) | Simulated::Fly(_) | Simulated::Golem(_) => {
                panic!("its account takes papers")
            }
        }
    }

    pub(crate) fn lambda(&self) -> &rented::Lambda {
        match &self.simulated {
            Simulated::Lambda(one) => one,
            Simulated::Fly(_) | Simulated::Golem(_) | Simulated::Railway(_) | Simulated::Render(_) => {
                panic!("it is no Lambda")
            }
        }
    }

    pub(crate) fn fly(&self) -> &rented::Fly {
        match &self.simulated {
            Simulated::Fly(one) => one,
            Simulated::Lambda(_) | Simulated::Golem(_) | Simulated::Railway(_) | Simulated::Render(_) => {
                panic!("it is no Fly.io")
            }
        }
    }
}

async fn lambda(plan: &Plan) -> Opened {
    let simulated = rented::Lambda::start(rented::LambdaConfig::default(), plan.stop.clone()).await.unwrap();
    let (key, place) = plan.of("lambda-key", "us-east-1");
    let mut config =
        LambdaConfig::new(Secret::new(key), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBeacon us@here");
    config.base_url = simulated.url();
    (config.pace, config.launch_pace) = (Duration::ZERO, Duration::ZERO);
    config.pools.insert(
        plan.pool.clone(),
        LambdaPool {
            sku: "gpu_1x_a10".into(),
            places: vec![LambdaPlace { region: place.into(), firewall_ruleset: None }],
            image_family: None,
            image: plan.image.clone(),
            args: Vec::new(),
            env: BTreeMap::new(),
            port: simulated.account().port(),
            start_within: None,
        },
    );
    (key, Arc::new(Lambda::new(config).unwrap()), Simulated::Lambda(simulated))
}

async fn fly(plan: &Plan) -> Opened {
    let simulated = rented::Fly::start(rented::FlyConfig::default(), plan.stop.clone()).await.unwrap();
    let (key, place) = plan.of("fly-token", "iad");
    let mut config = FlyConfig::new(Secret::new(key));
    (config.base_url, config.org, config.pace) = (simulated.url(), Some("personal".into()), Duration::ZERO);
    config.pools.insert(
        plan.pool.clone(),
        FlyPool {
            app: plan.wish.app.unwrap_or("beacon-llama").into(),
            guest: Guest { cpu_kind: "performance".into(), cpus: 4, memory_mb: 8_192 },
            places: vec![FlyPlace {
                region: place.into(),
                usd_per_hour: usd("0.17"),
                parked_usd_per_hour: UsdNanos::ZERO,
                priced_on: NaiveDate::from_ymd_opt(2026, 11, 23).unwrap(),
            }],
            image: plan.image.clone(),
            args: Vec::new(),
            env: BTreeMap::new(),
            key_env: "LLAMA_API_KEY".into(),
            port: simulated.account().port(),
            address: None,
            stop_timeout: Duration::from_secs(30),
            park: Park::Stop,
            start_within: Duration::from_secs(600),
        },
    );
    (key, Arc::new(Fly::new(config).unwrap()), Simulated::Fly(simulated))
}

async fn golem(plan: &Plan) -> Opened {
    let market = rented::GolemConfig::new(vec![rented::GolemNode::new("0xa1", "0.0001")]);
    let simulated = rented::Golem::start(market, plan.stop.clone()).await.unwrap();
    let (key, place) = plan.of("yagna-key", "us-east");
    let settings = GolemPool {
        sku: "gpu".into(),
        runtime: "vm-nvidia".into(),
        capabilities: vec!["!exp:gpu".into()],
        gpu: None,
        mem_gib: 8,
        storage_gib: 20,
        image: "hash:sha3:00:http://images.invalid/00".into(),
        serve: "vllm serve 'm'".into(),
        port: 8_000,
        server_secret: None,
        rent_for: Duration::from_secs(3_600),
        glm_per_hour_max: Decimal::whole(2),
        glm_start_max: Decimal::whole(1),
        places: vec![GolemPlace { name: place.into(), providers: vec!["0xa1".into()] }],
    };
    let rate = Decimal::nanos(234_500_000);
    let mut config = GolemConfig::new(Secret::new(key), rate, [(plan.pool.clone(), settings)].into());
    config.url = simulated.url();
    config.pace.gather = Duration::from_millis(40);
    (key, Arc::new(Golem::new(config, Arc::new(SystemClock)).unwrap()), Simulated::Golem(simulated))
}

async fn railway(plan: &Plan) -> Opened {
    let config = rented::RailwayConfig::default();
    let (project, environment) = (config.project.clone(), config.environment.clone());
    let simulated = rented::Railway::start(config, plan.stop.clone()).await.unwrap();
    let prices = RailwayPrices { vcpu_month: usd("20"), gb_month: usd("10"), egress_gb: usd("0.05") };
    let (key, place) = plan.of("project-token", "us-east4-eqdc4a");
    let token = RailwayToken::Project(Secret::new(key));
    let mut config = RailwayConfig::new(token, project, environment, prices);
    (config.api, config.edge_scheme) = (simulated.url(), "http".into());
    config.pools.insert(plan.pool.clone(), RailwayPool::new(place, "4x8", plan.image.clone()));
    (key, Arc::new(Railway::new(config).unwrap()), Simulated::Railway(simulated))
}

async fn render(plan: &Plan) -> Opened {
    let simulated = rented::Render::start(rented::RenderConfig::default(), plan.stop.clone()).await.unwrap();
    let (key, place) = plan.of("rnd_key", "virginia");
    let mut config = RenderConfig::new(Secret::new(key), "tea-1");
    config.api = simulated.url();
    config.usd_per_hour.insert("pro_plus".into(), usd("0.243055556"));
    config.pools.insert(plan.pool.clone(), RenderPool::new(place, "pro_plus", plan.image.clone()));
    (key, Arc::new(Render::new(config).unwrap()), Simulated::Render(simulated))
}
