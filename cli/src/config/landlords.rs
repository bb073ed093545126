//! `[[landlords]]`: the accounts in which machines are rented, and `[pools.rent.machine]`: what a pool's machines are there.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
};

use chrono::NaiveDate;
use keepers::landlords::{
    fly::Guest,
    golem::Decimal,
    railway::{RailwayPrices, UsageUnit},
};
use schemas::UsdNanos;
use serde::{Deserialize, de::DeserializeOwned};
use simulators::rented::{AccountConfig, AccountKind};

use super::{rule::Rule, secret::Secret, span::Span};
use crate::environment;

/// `[[landlords]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLandlord {
    kind: Kind,
    name: Option<String>,
    base_url: Option<String>,
    simulator: Option<String>,
    api_key_env: Option<String>,
    api_key_file: Option<PathBuf>,
    // Fly.io
    org: Option<String>,
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
    Fly,
    Golem,
    Lambda,
    Railway,
    Render,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Fly => "fly",
            Self::Golem => "golem",
            Self::Lambda => "lambda",
            Self::Railway => "railway",
            Self::Render => "render",
        }
    }
}

impl From<AccountKind> for Kind {
    fn from(kind: AccountKind) -> Self {
        match kind {
            AccountKind::Fly => Self::Fly,
            AccountKind::Golem => Self::Golem,
            AccountKind::Lambda => Self::Lambda,
            AccountKind::Railway => Self::Railway,
            AccountKind::Render => Self::Render,
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
    pub(super) key: String,
    pub(super) at: At,
    pub(super) terms: Terms,
}

/// Where an account is.
#[derive(Clone, Debug)]
pub(super) enum At {
    /// At its provider, or at another address with the same API.
    Provider { secret: Secret, base_url: Option<String> },
    /// Simulated in the same process, by this name.
    Simulated(String),
}

/// What an account needs beside its key.
#[derive(Clone, Debug)]
pub(super) enum Terms {
    Fly {
        org: Option<String>,
    },
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
    Fly(Box<RawFly>),
    Golem(Box<RawGolem>),
    Lambda(RawLambda),
    Railway(RawHosted),
    Render(RawHosted),
}

/// `[pools.rent.machine]` at Fly.io.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFly {
    pub(super) app: String,
    pub(super) cpu_kind: String,
    pub(super) cpus: u32,
    pub(super) memory_mb: u32,
    pub(super) image: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) key_env: Option<String>,
    pub(super) port: u16,
    pub(super) address: Option<String>,
    pub(super) stop_timeout: Option<Span>,
    pub(super) start_within: Option<Span>,
    #[serde(default)]
    pub(super) suspend: bool,
    /// What an hour costs, dollars: there is no API for it.
    pub(super) usd_per_hour: UsdNanos,
    pub(super) parked_usd_per_hour: UsdNanos,
    /// The day on which these prices were read.
    pub(super) priced_on: NaiveDate,
}

/// `[pools.rent.machine]` at Golem.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGolem {
    pub(super) runtime: String,
    #[serde(default)]
    pub(super) capabilities: Vec<String>,
    pub(super) gpu: Option<String>,
    pub(super) mem_gib: u32,
    pub(super) storage_gib: u32,
    pub(super) image: String,
    pub(super) serve: String,
    pub(super) port: u16,
    pub(super) rent_for: Span,
    pub(super) glm_per_hour_max: String,
    pub(super) glm_start_max: String,
    /// The node ids of each place.
    pub(super) nodes: BTreeMap<String, Vec<String>>,
}

/// `[pools.rent.machine]` at Lambda.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLambda {
    pub(super) image: String,
    pub(super) image_family: Option<String>,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
    pub(super) port: u16,
    /// The firewall ruleset of each place.
    #[serde(default)]
    pub(super) firewall: BTreeMap<String, String>,
    pub(super) start_within: Option<Span>,
}

/// `[pools.rent.machine]` at Railway and Render: an image that somebody else keeps running.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHosted {
    pub(super) image: String,
    pub(super) start_command: Option<String>,
    pub(super) registry_credential: Option<String>,
    pub(super) port: u16,
    #[serde(default)]
    pub(super) env: BTreeMap<String, String>,
}

impl RawLandlord {
    pub(super) fn check(
        self,
        index: usize,
        folder: &Path,
        accounts: &[AccountConfig],
    ) -> Result<LandlordConfig, Rule> {
        let key = format!("landlords[{index}]");
        let at = self.at(&key, folder, accounts)?;
        self.only_its_own(&key)?;
        let need = |field: &str, value: &Option<String>| {
            value.clone().ok_or_else(|| Rule::new(format!("{key}.{field}"), "must be given"))
        };
        let price = |field: &str, value: Option<UsdNanos>| {
            value
                .ok_or_else(|| Rule::new(format!("{key}.{field}"), "must be given: no price is ever guessed"))
        };
        let terms = match self.kind {
            Kind::Fly => Terms::Fly { org: self.org.clone() },
            Kind::Golem => Terms::Golem {
                usd_per_glm: decimal(
                    &format!("{key}.usd_per_glm"),
                    &need("usd_per_glm", &self.usd_per_glm)?,
                )?,
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
        Ok(LandlordConfig { name, key, at, terms })
    }

    fn at(&self, key: &str, folder: &Path, accounts: &[AccountConfig]) -> Result<At, Rule> {
        let secret =
            Secret::named(key, "api_key", self.api_key_env.clone(), self.api_key_file.clone(), folder)?;
        let Some(name) = &self.simulator else {
            let secret = secret.ok_or_else(|| {
                Rule::new(
                    format!("{key}.api_key_env"),
                    "must be given: the variable that holds the account's key",
                )
            })?;
            return Ok(At::Provider { secret, base_url: self.base_url.clone() });
        };
        let refuse = |rule: String| Err(Rule::new(format!("{key}.simulator"), rule));
        if secret.is_some() || self.base_url.is_some() {
            return refuse("stands in place of base_url and api_key_…".to_owned());
        }
        match accounts.iter().find(|account| account.name == *name) {
            None => refuse(format!("`{name}` has no [[simulated_accounts]] entry")),
            Some(account) if Kind::from(account.kind) != self.kind => {
                let (theirs, ours) = (Kind::from(account.kind).name(), self.kind.name());
                refuse(format!("`{name}` is of kind `{theirs}`, and this is `{ours}`"))
            }
            Some(_) => Ok(At::Simulated(name.clone())),
        }
    }

    /// Refuses keys of another provider.
    fn only_its_own(&self, key: &str) -> Result<(), Rule> {
        let given = [
            ("org", self.org.is_some(), Kind::Fly),
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

impl Machine {
    /// The provider's name for the type, where the machine's own keys make it.
    pub(super) fn sku(&self) -> Option<String> {
        match self {
            Self::Fly(raw) => {
                let cpu_kind = raw.cpu_kind.clone();
                Some(Guest { cpu_kind, cpus: raw.cpus, memory_mb: raw.memory_mb }.sku())
            }
            Self::Golem(_) | Self::Lambda(_) | Self::Railway(_) | Self::Render(_) => None,
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
            Terms::Fly { .. } => Machine::Fly(Box::new(read(key, table)?)),
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

    /// The simulated account in its place, by name.
    pub(super) fn simulator(&self) -> Option<&str> {
        match &self.at {
            At::Simulated(name) => Some(name),
            At::Provider { .. } => None,
        }
    }

    /// Checks that the key is there.
    pub(super) fn check_secrets(&self) -> Result<(), Rule> {
        match &self.at {
            At::Provider { secret, .. } => secret.read(environment::variable).map(drop),
            At::Simulated(_) => Ok(()),
        }
    }
}
