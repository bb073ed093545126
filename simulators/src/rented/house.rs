//! A simulated account of any provider that rents machines, as a configuration file says it.

use std::{io, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    account::Account,
    fly::{Fly, FlyConfig},
    golem::{Golem, GolemBill, GolemConfig, GolemNode},
    lambda::{Lambda, LambdaConfig},
    life::Life,
    log::Act,
    meter::InvoiceLine,
    railway::{Railway, RailwayConfig},
    render::{Render, RenderConfig},
};
use crate::{config::SimulatedModel, fault::Fault};

/// A simulated account, as a file says it. All durations are whole milliseconds. Prices are those of each provider's page:
/// `gpu_1x_a10` at $1.29 an hour, `performance-4x` at $0.17, `pro_plus` at $0.243055556, and at Railway half a vCPU and 3 GB.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccountConfig {
    /// Its name, by which a landlord finds it.
    pub name: String,
    /// Whose account it is.
    pub kind: AccountKind,
    /// From an order until the machine is up.
    #[serde(default = "boot_default")]
    pub boot_ms: u64,
    /// From up until its server listens: the model loads.
    #[serde(default = "load_default")]
    pub load_ms: u64,
    /// From an accepted end until the machine is gone.
    #[serde(default = "end_default")]
    pub end_ms: u64,
    /// What each machine serves. What they cost stands in the machine's price, so theirs should be zero.
    pub models: Vec<SimulatedModel>,
    /// The providers of a Golem market.
    #[serde(default)]
    pub nodes: Vec<NodeConfig>,
    /// What a GLM is worth on the bill, in nano-dollars; for Golem.
    #[serde(default)]
    pub usd_per_glm_nanos: u64,
}

/// A provider in a Golem market.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeConfig {
    /// Its node id.
    pub id: String,
    /// The region that it is billed under.
    pub region: String,
    /// GLM for a second, as a decimal.
    pub glm_per_second: String,
}

/// Whose account it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AccountKind {
    /// yagna, with a market around it.
    Golem,
    /// Fly.io's Machines API.
    Fly,
    /// Lambda's cloud API.
    Lambda,
    /// Railway's GraphQL API.
    Railway,
    /// Render's REST API.
    Render,
}

/// Why an account cannot be simulated so.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum AccountError {
    /// Machines would serve nothing.
    #[error("simulated account {0}: models is empty")]
    NoModels(String),
    /// A market of nobody.
    #[error("simulated account {0}: nodes and usd_per_glm_nanos must be given for kind golem")]
    NoNodes(String),
    /// Nodes where there is no market.
    #[error("simulated account {0}: nodes and usd_per_glm_nanos are for kind golem")]
    NotGolem(String),
}

/// An account that runs.
#[derive(Clone, Debug)]
pub struct House {
    config: AccountConfig,
    provider: Provider,
}

#[derive(Clone, Debug)]
enum Provider {
    Golem(Golem),
    Fly(Fly),
    Lambda(Lambda),
    Railway(Railway),
    Render(Render),
}

fn boot_default() -> u64 {
    1_500
}

fn load_default() -> u64 {
    300
}

fn end_default() -> u64 {
    100
}

impl AccountConfig {
    /// Refuses a configuration that cannot work, naming the key.
    pub fn check(&self) -> Result<(), AccountError> {
        let golem = self.kind == AccountKind::Golem;
        let (some, all) = (
            !self.nodes.is_empty() || self.usd_per_glm_nanos > 0,
            !self.nodes.is_empty() && self.usd_per_glm_nanos > 0,
        );
        match (self.models.is_empty(), golem) {
            (true, _) => Err(AccountError::NoModels(self.name.clone())),
            (false, true) if !all => Err(AccountError::NoNodes(self.name.clone())),
            (false, false) if some => Err(AccountError::NotGolem(self.name.clone())),
            (false, _) => Ok(()),
        }
    }

    fn life(&self) -> Life {
        let ms = Duration::from_millis;
        Life {
            boot: Some(ms(self.boot_ms)),
            listens_after: Some(ms(self.load_ms)),
            end: Some(ms(self.end_ms)),
            models: self.models.clone(),
            ..Life::default()
        }
    }
}

impl House {
    /// Starts the control API; it answers when this returns.
    pub async fn start(config: AccountConfig, shutdown: CancellationToken) -> io::Result<Self> {
        let provider = match config.kind {
            AccountKind::Golem => Provider::Golem(Golem::start(golem(&config), shutdown).await?),
            AccountKind::Fly => Provider::Fly(Fly::start(FlyConfig::default(), shutdown).await?),
            AccountKind::Lambda => Provider::Lambda(Lambda::start(LambdaConfig::default(), shutdown).await?),
            AccountKind::Railway => {
                let regions =
                    ["us-east4-eqdc4a", "europe-west4-drams3a", "asia-southeast1-eqsg3a", "us-west2"];
                let regions = regions.map(|region| (region.to_owned(), None)).to_vec();
                let config = RailwayConfig { regions, ..RailwayConfig::default() };
                Provider::Railway(Railway::start(config, shutdown).await?)
            }
            AccountKind::Render => Provider::Render(Render::start(RenderConfig::default(), shutdown).await?),
        };
        let house = Self { config, provider };
        house.account().set_life(house.config.life());
        Ok(house)
    }

    /// Its configuration.
    pub fn config(&self) -> &AccountConfig {
        &self.config
    }

    /// What all rented accounts have: machines, faults, log.
    pub fn account(&self) -> &Arc<Account> {
        match &self.provider {
            Provider::Golem(one) => one.account(),
            Provider::Fly(one) => one.account(),
            Provider::Lambda(one) => one.account(),
            Provider::Railway(one) => one.account(),
            Provider::Render(one) => one.account(),
        }
    }

    /// The base URL of its control API.
    pub fn url(&self) -> String {
        match &self.provider {
            Provider::Golem(one) => one.url(),
            Provider::Fly(one) => one.url(),
            Provider::Lambda(one) => one.url(),
            Provider::Railway(one) => one.url(),
            Provider::Render(one) => one.url(),
        }
    }

    /// The key that its control API asks for.
    pub fn key(&self) -> String {
        match &self.provider {
            Provider::Golem(_) => golem(&self.config).key,
            Provider::Fly(_) => FlyConfig::default().token,
            Provider::Lambda(_) => LambdaConfig::default().key,
            Provider::Railway(_) => RailwayConfig::default().account_token,
            Provider::Render(_) => RenderConfig::default().key,
        }
    }

    /// What it bills for our machines so far, in nano-dollars; at Golem for those of one region, else of any.
    pub fn billed_nanos(&self, region: &str) -> u64 {
        let ours = |lines: &[InvoiceLine]| {
            lines.iter().filter(|line| line.mark.is_some()).map(|line| line.amount_nanos).sum()
        };
        match &self.provider {
            Provider::Golem(golem) => {
                // What was paid: by the invoice, or by debit notes until it comes.
                let usd = |glm: &str| Golem::usd_nanos(glm, self.config.usd_per_glm_nanos);
                let bills = self.bills_in(golem, region);
                bills.iter().map(|bill| usd(&bill.paid).max(usd(&bill.by_notes))).sum()
            }
            Provider::Railway(railway) => ours(&railway.invoice().lines),
            Provider::Fly(_) | Provider::Lambda(_) | Provider::Render(_) => {
                ours(&self.account().invoice().lines)
            }
        }
    }

    /// By how much a bill may differ from one that is reckoned outside, in nano-dollars: Lambda and Render tell no times, so a
    /// machine's first and last unit are anybody's to judge.
    pub fn judged_nanos(&self, region: &str) -> u64 {
        let lines = self.account().invoice().lines;
        let dearest = lines.iter().map(|line| line.price_per_hour_nanos).max().unwrap_or(0);
        let unit = match &self.provider {
            Provider::Lambda(_) => dearest.div_ceil(60),
            Provider::Render(_) => dearest.div_ceil(3_600),
            Provider::Golem(_) | Provider::Fly(_) | Provider::Railway(_) => 0,
        };
        unit * self.started(region) as u64
    }

    /// How many machines were started for us; at Golem in one region, else anywhere.
    pub fn started(&self, region: &str) -> usize {
        match &self.provider {
            // A provider that never gave a machine is owed nothing.
            Provider::Golem(golem) => {
                let bills = self.bills_in(golem, region);
                bills
                    .iter()
                    .filter(|bill| Golem::usd_nanos(&bill.owed, self.config.usd_per_glm_nanos) > 0)
                    .count()
            }
            Provider::Fly(_) | Provider::Lambda(_) | Provider::Railway(_) | Provider::Render(_) => {
                let log = self.account().log();
                log.iter().filter(|action| action.act == Act::Ordered).count()
            }
        }
    }

    /// Servers of a Golem region that listen now fail so, or work again.
    pub fn set_fault(&self, region: &str, fault: Option<&Fault>) {
        if let Provider::Golem(golem) = &self.provider {
            golem.set_fault(&self.nodes_in(region), fault);
        }
    }

    fn nodes_in(&self, region: &str) -> Vec<&str> {
        let here = self.config.nodes.iter().filter(|node| node.region == region);
        here.map(|node| node.id.as_str()).collect()
    }

    fn bills_in(&self, golem: &Golem, region: &str) -> Vec<GolemBill> {
        let nodes = self.nodes_in(region);
        golem.bills().into_iter().filter(|bill| nodes.contains(&bill.provider.as_str())).collect()
    }
}

/// A market that is as quick as the account's machines.
fn golem(config: &AccountConfig) -> GolemConfig {
    let nodes = config.nodes.iter().map(|node| GolemNode::new(&node.id, &node.glm_per_second));
    let ms = Duration::from_millis;
    GolemConfig {
        init: ms(config.boot_ms / 3),
        deploy: ms(config.boot_ms - config.boot_ms / 3),
        run: ms(config.load_ms),
        note_every: Duration::from_secs(2),
        last_note_after: ms(config.end_ms),
        invoice_after: ms(config.end_ms),
        life: config.life(),
        ..GolemConfig::new(nodes.collect())
    }
}
