//! `[[landlords]]`: the accounts in which machines are rented, and `[pools.rent.machine]`: what a pool's machines are there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    sync::Arc,
};

use keepers::{
    account::Account,
    landlord::{CallError, Landlord},
    landlords::{
        golem::{Decimal, Golem, GolemConfig, GolemPlace, GolemPool},
        lambda::{Lambda, LambdaConfig, LambdaPlace, LambdaPool},
        railway::{Railway, RailwayConfig, RailwayPool, RailwayPrices, RailwayToken, UsageUnit},
        render::{Render, RenderConfig, RenderPool},
    },
    secret::Secret as Hidden,
};
use schemas::{PoolId, UsdNanos};
use serde::{Deserialize, de::DeserializeOwned};
use transport::SystemClock;

use super::{rent::Rent, rule::Rule, secret::Secret, span::Span};
use crate::environment;

/// `[[landlords]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLandlord {
    kind: Kind,
    name: Option<String>,
    base_url: Option<String>,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    // Lambda
    ssh_public_key: Option<String>,
    // Golem
    usd_per_glm: Option<String>,
    platform: Option<String>,
    subnet: Option<String>,
    session: Option<String>,
    listen: Option<IpAddr>,
    // Railway
    project: Option<String>,
    environment: Option<String>,
    project_token: Option<bool>,
    vcpu_month_usd: Option<UsdNanos>,
    gb_month_usd: Option<UsdNanos>,
    egress_gb_usd: Option<UsdNanos>,
    usage_unit: Option<RawUsageUnit>,
    sleep: Option<bool>,
    // Render
    owner: Option<String>,
    plans: Option<BTreeMap<String, UsdNanos>>,
}

/// Which provider's account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Golem,
    Lambda,
    Railway,
    Render,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Golem => "golem",
            Self::Lambda => "lambda",
            Self::Railway => "railway",
            Self::Render => "render",
        }
    }
}

/// In what Railway's `usage` counts.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RawUsageUnit {
    Second,
    Minute,
    Hour,
}

/// A checked account; its key is not read yet.
#[derive(Clone, Debug)]
pub(crate) struct LandlordConfig {
    /// Its name in pools and messages.
    pub(crate) name: String,
    /// Its place in the file.
    key: String,
    secret: Secret,
    base_url: Option<String>,
    terms: Terms,
}

/// What an account needs beside its key.
#[derive(Clone, Debug)]
enum Terms {
    Golem {
        usd_per_glm: Decimal,
        platform: Option<String>,
        subnet: Option<String>,
        session: Option<String>,
        listen: IpAddr,
    },
    Lambda {
        ssh_public_key: String,
    },
    Railway {
        project: String,
        environment: String,
        project_token: bool,
        prices: RailwayPrices,
        usage_unit: UsageUnit,
        sleep: bool,
    },
    Render {
        owner: String,
        plans: BTreeMap<String, UsdNanos>,
    },
}

/// What a pool's machines are, as a provider wants to hear it.
#[derive(Clone, Debug)]
pub(super) enum Machine {
    Golem(Box<RawGolem>),
    Lambda(RawLambda),
    Railway(RawHosted),
    Render(RawHosted),
}

/// `[pools.rent.machine]` at Golem.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGolem {
    runtime: String,
    #[serde(default)]
    capabilities: Vec<String>,
    gpu: Option<String>,
    mem_gib: u32,
    storage_gib: u32,
    image: String,
    serve: String,
    port: u16,
    rent_for: Span,
    glm_per_hour_max: String,
    glm_start_max: String,
    /// The node ids of each place.
    nodes: BTreeMap<String, Vec<String>>,
}

/// `[pools.rent.machine]` at Lambda.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLambda {
    image: String,
    image_family: Option<String>,
    #[serde(default)]
    args: Vec<String>,
    #[serde(default)]
    env: BTreeMap<String, String>,
    port: u16,
    /// The firewall ruleset of each place.
    #[serde(default)]
    firewall: BTreeMap<String, String>,
    start_within: Option<Span>,
}

/// `[pools.rent.machine]` at Railway and Render: an image that somebody else keeps running.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHosted {
    image: String,
    start_command: Option<String>,
    registry_credential: Option<String>,
    port: u16,
    #[serde(default)]
    env: BTreeMap<String, String>,
}

impl RawLandlord {
    pub(super) fn check(self, index: usize, folder: &Path) -> Result<LandlordConfig, Rule> {
        let key = format!("landlords[{index}]");
        let secret =
            Secret::named(&key, "api_key", self.api_key_env.clone(), self.api_key_file.clone(), folder)?;
        let secret = secret.ok_or_else(|| {
            Rule::new(format!("{key}.api_key_env"), "must be given: the variable that holds the account's key")
        })?;
        self.only_its_own(&key)?;
        let need = |field: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| Rule::new(format!("{key}.{field}"), "must be given"))
        };
        let price = |field: &str, value: Option<UsdNanos>| {
            value.ok_or_else(|| Rule::new(format!("{key}.{field}"), "must be given: no price is ever guessed"))
        };
        let terms = match self.kind {
            Kind::Golem => Terms::Golem {
                usd_per_glm: decimal(&format!("{key}.usd_per_glm"), &need("usd_per_glm", &self.usd_per_glm)?)?,
                platform: self.platform.clone(),
                subnet: self.subnet.clone(),
                session: self.session.clone(),
                listen: self.listen.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            },
            Kind::Lambda => Terms::Lambda { ssh_public_key: need("ssh_public_key", &self.ssh_public_key)? },
            Kind::Railway => Terms::Railway {
                project: need("project", &self.project)?,
                environment: need("environment", &self.environment)?,
                project_token: self.project_token.unwrap_or(false),
                prices: RailwayPrices {
                    vcpu_month: price("vcpu_month_usd", self.vcpu_month_usd)?,
                    gb_month: price("gb_month_usd", self.gb_month_usd)?,
                    egress_gb: price("egress_gb_usd", self.egress_gb_usd)?,
                },
                usage_unit: match self.usage_unit {
                    None => UsageUnit::default(),
                    Some(RawUsageUnit::Second) => UsageUnit::Second,
                    Some(RawUsageUnit::Minute) => UsageUnit::Minute,
                    Some(RawUsageUnit::Hour) => UsageUnit::Hour,
                },
                sleep: self.sleep.unwrap_or(false),
            },
            Kind::Render => Terms::Render {
                owner: need("owner", &self.owner)?,
                plans: self.plans.clone().filter(|plans| !plans.is_empty()).ok_or_else(|| {
                    Rule::new(format!("{key}.plans"), "must be given: what an hour of each plan costs")
                })?,
            },
        };
        let name = self.name.unwrap_or_else(|| self.kind.name().to_owned());
        Ok(LandlordConfig { name, key, secret, base_url: self.base_url, terms })
    }

    /// Refuses keys of another provider.
    fn only_its_own(&self, key: &str) -> Result<(), Rule> {
        let given = [
            ("ssh_public_key", self.ssh_public_key.is_some(), Kind::Lambda),
            ("usd_per_glm", self.usd_per_glm.is_some(), Kind::Golem),
            ("platform", self.platform.is_some(), Kind::Golem),
            ("subnet", self.subnet.is_some(), Kind::Golem),
            ("session", self.session.is_some(), Kind::Golem),
            ("listen", self.listen.is_some(), Kind::Golem),
            ("project", self.project.is_some(), Kind::Railway),
            ("environment", self.environment.is_some(), Kind::Railway),
            ("project_token", self.project_token.is_some(), Kind::Railway),
            ("vcpu_month_usd", self.vcpu_month_usd.is_some(), Kind::Railway),
            ("gb_month_usd", self.gb_month_usd.is_some(), Kind::Railway),
            ("egress_gb_usd", self.egress_gb_usd.is_some(), Kind::Railway),
            ("usage_unit", self.usage_unit.is_some(), Kind::Railway),
            ("sleep", self.sleep.is_some(), Kind::Railway),
            ("owner", self.owner.is_some(), Kind::Render),
            ("plans", self.plans.is_some(), Kind::Render),
        ];
        match given.into_iter().find(|(_, is_given, kind)| *is_given && *kind != self.kind) {
            Some((field, _, kind)) => Err(Rule::new(
                format!("{key}.{field}"),
                format!("is for kind `{}`, and this is `{}`", kind.name(), self.kind.name()),
            )),
            None => Ok(()),
        }
    }
}

fn decimal(key: &str, text: &str) -> Result<Decimal, Rule> {
    text.parse().map_err(|_| Rule::new(key, format!("`{text}` must be a decimal number such as \"0.25\"")))
}

impl LandlordConfig {
    /// Reads what a pool's machines are, as this account wants to hear it.
    pub(super) fn machine(&self, key: &str, table: toml::Table) -> Result<Machine, Rule> {
        fn read<T: DeserializeOwned>(key: &str, table: toml::Table) -> Result<T, Rule> {
            table.try_into().map_err(|error: toml::de::Error| Rule::new(key, error.message().to_owned()))
        }
        Ok(match &self.terms {
            Terms::Golem { .. } => {
                let machine: RawGolem = read(key, table)?;
                decimal(&format!("{key}.glm_per_hour_max"), &machine.glm_per_hour_max)?;
                decimal(&format!("{key}.glm_start_max"), &machine.glm_start_max)?;
                Machine::Golem(Box::new(machine))
            }
            Terms::Lambda { .. } => Machine::Lambda(read(key, table)?),
            Terms::Railway { .. } => Machine::Railway(read(key, table)?),
            Terms::Render { .. } => Machine::Render(read(key, table)?),
        })
    }

    /// Checks that the key is there.
    pub(super) fn check_secrets(&self) -> Result<(), Rule> {
        self.secret.read(environment::variable).map(drop)
    }

    /// Opens the account for the pools that rent in it.
    pub(super) fn open(&self, rents: &[(&PoolId, &Rent)]) -> Result<Arc<Account>, Rule> {
        let refuse = |error: CallError| Rule::new(self.key.clone(), error.to_string());
        let key = Hidden::new(self.secret.read(environment::variable)?);
        let own = rents.iter().filter(|(_, rent)| rent.landlord == self.name);
        let landlord: Arc<dyn Landlord> = match &self.terms {
            Terms::Golem { usd_per_glm, platform, subnet, session, listen } => {
                let pools = own.filter_map(|(id, rent)| Some(((*id).clone(), rent.golem()?))).collect();
                let mut config = GolemConfig::new(key, *usd_per_glm, pools);
                config.url = self.base_url.clone().unwrap_or(config.url);
                config.platform = platform.clone().unwrap_or(config.platform);
                config.subnet = subnet.clone().unwrap_or(config.subnet);
                config.session = session.clone().unwrap_or(config.session);
                config.listen = *listen;
                Arc::new(Golem::new(config, Arc::new(SystemClock)).map_err(refuse)?)
            }
            Terms::Lambda { ssh_public_key } => {
                let mut config = LambdaConfig::new(key, ssh_public_key);
                config.base_url = self.base_url.clone().unwrap_or(config.base_url);
                config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), rent.lambda()?))).collect();
                Arc::new(Lambda::new(config).map_err(refuse)?)
            }
            Terms::Railway { project, environment, project_token, prices, usage_unit, sleep } => {
                let token = if *project_token { RailwayToken::Project(key) } else { RailwayToken::Account(key) };
                let mut config = RailwayConfig::new(token, project, environment, *prices);
                config.api = self.base_url.clone().unwrap_or(config.api);
                (config.usage_unit, config.sleep) = (*usage_unit, *sleep);
                config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), rent.railway()?))).collect();
                Arc::new(Railway::new(config).map_err(refuse)?)
            }
            Terms::Render { owner, plans } => {
                let mut config = RenderConfig::new(key, owner);
                config.api = self.base_url.clone().unwrap_or(config.api);
                config.usd_per_hour = plans.clone();
                config.pools = own.filter_map(|(id, rent)| Some(((*id).clone(), rent.render()?))).collect();
                Arc::new(Render::new(config).map_err(refuse)?)
            }
        };
        Ok(Account::new(self.name.clone(), landlord))
    }
}

impl Rent {
    fn golem(&self) -> Option<GolemPool> {
        let Machine::Golem(machine) = &self.machine else { return None };
        let RawGolem {
            runtime,
            capabilities,
            gpu,
            mem_gib,
            storage_gib,
            image,
            serve,
            port,
            rent_for,
            glm_per_hour_max,
            glm_start_max,
            nodes,
        } = machine.as_ref().clone();
        let place = |name: &String| GolemPlace {
            name: name.clone(),
            providers: nodes.get(name).cloned().unwrap_or_default(),
        };
        Some(GolemPool {
            sku: self.sku.clone(),
            runtime,
            capabilities,
            gpu,
            mem_gib,
            storage_gib,
            image,
            serve,
            port,
            server_secret: self.secret().ok().flatten(),
            rent_for: rent_for.get(),
            glm_per_hour_max: glm_per_hour_max.parse().ok()?,
            glm_start_max: glm_start_max.parse().ok()?,
            places: self.places.iter().map(place).collect(),
        })
    }

    fn lambda(&self) -> Option<LambdaPool> {
        let Machine::Lambda(machine) = &self.machine else { return None };
        let RawLambda { image, image_family, args, env, port, firewall, start_within } = machine.clone();
        let place = |region: &String| LambdaPlace {
            region: region.clone(),
            firewall_ruleset: firewall.get(region).cloned(),
        };
        Some(LambdaPool {
            sku: self.sku.clone(),
            places: self.places.iter().map(place).collect(),
            image_family,
            image,
            args,
            env,
            port,
            start_within: start_within.map(Span::get),
        })
    }

    fn railway(&self) -> Option<RailwayPool> {
        let Machine::Railway(RawHosted { image, start_command, port, env, .. }) = self.machine.clone() else {
            return None;
        };
        let plan = RailwayPool::new("", self.sku.clone(), image);
        let health_path = self.health_path.clone();
        Some(RailwayPool { places: self.places.clone(), start_command, port, variables: env, health_path, ..plan })
    }

    fn render(&self) -> Option<RenderPool> {
        let Machine::Render(RawHosted { image, start_command, registry_credential, port, env }) =
            self.machine.clone()
        else {
            return None;
        };
        let plan = RenderPool::new("", self.sku.clone(), image);
        Some(RenderPool {
            places: self.places.clone(),
            registry_credential,
            start_command,
            port,
            variables: env,
            health_path: self.health_path.clone(),
            ..plan
        })
    }
}
