//! What the file says, section by section, with the defaults; each section checks itself where it stands alone.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use dispatcher::config::{OfferConfig, TrimConfig};
use routing::config::{BreakerConfig, HedgeConfig, PolicyConfig, WarmConfig};
use schemas::{ProviderId, Region, UsdNanos, catalog::Catalog};
use serde::Deserialize;
use simulators::SimulatorConfig;
use transport::{Address, LinkConfig};
use workers::{adapters::http::BaseUrl, config::JournalMode};

use super::{
    ACCEPT_WITHIN_MIN, Embedded, Nats, ReceiveWebhooks, Rule, Workers, at_least, longer,
    pools::{Pool, RawPool},
    positive,
    span::Span,
    spending::{RawBudget, RawRetries, RawTenant},
};

/// A smaller stream would be full after a handful of large jobs.
pub(super) const JOBS_BYTES_MIN: u64 = 1 << 20;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawConfig {
    pub(super) nats: RawNats,
    pub(super) beacon: RawBeacon,
    pub(super) lease: RawLease,
    pub(super) routing: RawRouting,
    pub(super) breaker: RawBreaker,
    pub(super) offers: RawOffers,
    pub(super) trim: RawTrim,
    pub(super) dispatcher: RawDispatcher,
    pub(super) workers: RawWorkers,
    pub(super) metrics: RawMetrics,
    pub(super) log: RawLog,
    pub(super) retries: RawRetries,
    pub(super) budgets: Vec<RawBudget>,
    pub(super) tenants: Vec<RawTenant>,
    pub(super) pools: Vec<RawPool>,
    pub(super) simulators: Vec<SimulatorConfig>,
}

/// `[nats]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawNats {
    url: Option<String>,
    urls: Vec<String>,
    credentials: Option<PathBuf>,
    root_certificates: Option<PathBuf>,
    server: Option<PathBuf>,
    data: Option<PathBuf>,
    port: Option<u16>,
}

impl RawNats {
    pub(super) fn check(self, folder: &Path) -> Result<Nats, Rule> {
        let Self { url, urls, credentials, root_certificates, server, data, port } = self;
        if url.is_some() && !urls.is_empty() {
            return Err(Rule::new("nats.urls", "only one of nats.url and nats.urls may be given"));
        }
        let urls: Vec<String> = url.into_iter().chain(urls).collect();
        if let Some(bad) = urls.iter().find(|url| !is_address(url)) {
            return Err(Rule::new(
                "nats.url",
                format!("`{}` must be nats://host:port or tls://host:port", Address::from(bad)),
            ));
        }
        let beneath = |path: Option<PathBuf>| path.map(|p| folder.join(p));
        if urls.is_empty() {
            for (key, given) in [
                ("nats.credentials", credentials.is_some()),
                ("nats.root_certificates", root_certificates.is_some()),
            ] {
                if given {
                    return Err(Rule::new(key, "is for a server of yours; give its nats.url, too"));
                }
            }
            let (server, data) = (beneath(server), beneath(data));
            return Ok(Nats::Embedded(Embedded { server, data, port }));
        }
        for (key, given) in
            [("nats.server", server.is_some()), ("nats.data", data.is_some()), ("nats.port", port.is_some())]
        {
            if given {
                return Err(Rule::new(
                    key,
                    "is for the embedded server, which is not started when nats.url is given",
                ));
            }
        }
        let link = LinkConfig {
            urls: urls.into_iter().map(Address::from).collect(),
            credentials: beneath(credentials),
            root_certificates: beneath(root_certificates),
        };
        link.check().map_err(|error| Rule::new("nats", error.to_string()))?;
        Ok(Nats::Remote(link))
    }
}

/// Whether a text is an address that the NATS client takes.
pub(crate) fn is_address(url: &str) -> bool {
    let Some((scheme, rest)) = url.split_once("://") else {
        return false;
    };
    ["nats", "tls", "ws", "wss"].contains(&scheme) && !rest.is_empty() && !rest.contains(char::is_whitespace)
}

/// `[beacon]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBeacon {
    pub(super) regions: Vec<Region>,
    pub(super) models: Catalog,
    pub(super) replicas: u8,
    pub(super) jobs_max_bytes: u64,
    pub(super) prices: Option<PathBuf>,
}

impl Default for RawBeacon {
    /// The report's regions and models.
    fn default() -> Self {
        let region = |name: &str| name.parse().expect("a region of the report is a token");
        let models = ["llama-3.2-1b", "mistral-7b", "qwen-2.5-1.5b"].map(str::to_owned).to_vec();
        Self {
            regions: ["us-east", "eu-west", "asia-pacific"].map(region).to_vec(),
            models: Catalog::new(models).expect("the report's models have a token each"),
            replicas: 1,
            // Reserved on the disk for each region when the stream is made; about a million ordinary jobs.
            jobs_max_bytes: 1 << 30,
            prices: None,
        }
    }
}

/// `[lease]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLease {
    pub(super) ack_wait: Span,
    pub(super) jobs_window: Span,
    pub(super) replies_window: Span,
    pub(super) max_ack_pending: u32,
}

impl Default for RawLease {
    fn default() -> Self {
        Self {
            ack_wait: Span::secs(60),
            jobs_window: Span::secs(120),
            replies_window: Span::secs(600),
            max_ack_pending: 20_000,
        }
    }
}

/// `[routing]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRouting {
    baseline: Option<Vec<ProviderId>>,
    share: Option<f64>,
    silent_after: Option<Span>,
    hedge: RawHedge,
    warm: RawWarm,
}

/// `[routing.hedge]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawHedge {
    share: Option<f64>,
    usd_per_hour: Option<UsdNanos>,
    after: Option<f64>,
    least: Option<Span>,
}

impl RawHedge {
    fn check(self) -> Result<HedgeConfig, Rule> {
        let plan = HedgeConfig::default();
        let share = part("routing.hedge.share", self.share.unwrap_or(plan.share))?;
        Ok(HedgeConfig {
            share,
            after: match self.after {
                Some(times) if times.is_nan() || times < 1.0 => {
                    return Err(Rule::new("routing.hedge.after", format!("`{times}` must be at least 1")));
                }
                times => times.unwrap_or(plan.after),
            },
            budget_per_hour: self.usd_per_hour.unwrap_or(plan.budget_per_hour),
            least: self.least.map_or(plan.least, Span::get),
        })
    }
}

/// `[routing.warm]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RawWarm {
    usd_per_hour: Option<UsdNanos>,
    second_worth_usd: Option<UsdNanos>,
}

/// A part of a whole.
fn part(key: &str, value: f64) -> Result<f64, Rule> {
    if (0.0..=1.0).contains(&value) {
        Ok(value)
    } else {
        Err(Rule::new(key, format!("`{value}` must be 0 to 1")))
    }
}

impl RawRouting {
    pub(super) fn check(self, pools: &[Pool]) -> Result<PolicyConfig, Rule> {
        let Self { baseline, share, silent_after, hedge, warm } = self;
        let plan = PolicyConfig::default();
        // A misspelt provider would get no share and nobody would notice. The default may well have no pool here.
        if let Some(i) =
            baseline.iter().flatten().position(|p| !pools.iter().any(|pool| pool.id.provider == *p))
        {
            let name = &baseline.as_ref().map_or_else(String::new, |b| b[i].to_string());
            if !pools.is_empty() {
                return Err(Rule::new(
                    format!("routing.baseline[{i}]"),
                    format!("provider `{name}` has no pool"),
                ));
            }
        }
        let share = part("routing.share", share.unwrap_or(plan.baseline_share))?;
        let silent_after = match silent_after {
            // Heartbeats come each second.
            Some(span) => {
                at_least("routing.silent_after", span, Span::secs(2), ": heartbeats come each second")?
            }
            None => plan.silent_after,
        };
        Ok(PolicyConfig {
            baseline: baseline.unwrap_or(plan.baseline),
            baseline_share: share,
            silent_after,
            hedge: hedge.check()?,
            warm: WarmConfig {
                most_usd_per_hour: warm.usd_per_hour.unwrap_or(plan.warm.most_usd_per_hour),
                second_worth: warm.second_worth_usd.unwrap_or(plan.warm.second_worth),
            },
        })
    }
}

/// `[breaker]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawBreaker {
    consecutive_failures: Option<u32>,
    open_for: Option<Span>,
    open_max: Option<Span>,
    probes: Option<u32>,
}

impl RawBreaker {
    pub(super) fn check(self) -> Result<BreakerConfig, Rule> {
        let plan = BreakerConfig::default();
        let open_for = self.open_for.map_or(plan.open_for, Span::get);
        let open_max = self.open_max.map_or(plan.open_max, Span::get);
        if open_for.is_zero() {
            return Err(Rule::new("breaker.open_for", "`0s` must be more than nothing"));
        }
        if open_max < open_for {
            return Err(Rule::new(
                "breaker.open_max",
                format!("`{open_max:?}` must not be shorter than breaker.open_for (`{open_for:?}`)"),
            ));
        }
        Ok(BreakerConfig {
            consecutive_failures: positive(
                "breaker.consecutive_failures",
                self.consecutive_failures.unwrap_or(plan.consecutive_failures),
            )?,
            open_for,
            open_max,
            probes: positive("breaker.probes", self.probes.unwrap_or(plan.probes))?,
        })
    }
}

/// `[offers]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawOffers {
    accept_within: Option<Span>,
    margin: Option<Span>,
    poison_after: Option<u64>,
    pull_batch: Option<u32>,
}

impl RawOffers {
    pub(super) fn check(self, ack_wait: Duration) -> Result<OfferConfig, Rule> {
        let plan = OfferConfig::default();
        let accept_within = match self.accept_within {
            Some(span) => at_least("offers.accept_within", span, ACCEPT_WITHIN_MIN, "")?,
            None => plan.accept_within.min(ack_wait / 4),
        };
        let margin = self.margin.map_or(plan.margin.min(ack_wait / 8), Span::get);
        // A lease must outlive its offer, or it would be handed out twice.
        if accept_within + margin > ack_wait / 2 {
            return Err(Rule::new(
                "offers.accept_within",
                format!(
                    "`{accept_within:?}` and offers.margin (`{margin:?}`) together must not be longer than half of \
                     lease.ack_wait (`{ack_wait:?}`)"
                ),
            ));
        }
        Ok(OfferConfig {
            accept_within,
            margin,
            poison_after: positive("offers.poison_after", self.poison_after.unwrap_or(plan.poison_after))?,
            pull_batch: positive("offers.pull_batch", self.pull_batch.unwrap_or(plan.pull_batch))?,
        })
    }
}

/// `[trim]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawTrim {
    horizon: Option<Span>,
    every: Option<Span>,
}

impl RawTrim {
    pub(super) fn check(self, jobs_window: Duration) -> Result<TrimConfig, Rule> {
        let plan = TrimConfig::default();
        if let Some(horizon) = self.horizon {
            let window = Span::millis(u64::try_from(jobs_window.as_millis()).unwrap_or(u64::MAX));
            // Message ids of trimmed jobs are forgotten when the server restarts.
            longer(("trim.horizon", horizon), ("lease.jobs_window", window))?;
        }
        let every = match self.every {
            Some(span) => at_least("trim.every", span, Span::millis(100), "")?,
            None => plan.every,
        };
        Ok(TrimConfig { horizon: self.horizon.map_or(plan.horizon, Span::get), every })
    }
}

/// `[dispatcher]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawDispatcher {
    pub(super) grace: Span,
}

impl Default for RawDispatcher {
    fn default() -> Self {
        Self { grace: Span::secs(10) }
    }
}

/// `[workers]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawWorkers {
    journal: JournalMode,
    standing_every: Span,
    grace: Span,
    webhooks: Option<RawWebhooks>,
}

/// `[workers.webhooks]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWebhooks {
    listen: SocketAddr,
    public_url: String,
}

impl Default for RawWorkers {
    fn default() -> Self {
        Self {
            journal: JournalMode::default(),
            standing_every: Span::secs(60),
            grace: Span::secs(30),
            webhooks: None,
        }
    }
}

impl RawWorkers {
    pub(super) fn check(self) -> Result<Workers, Rule> {
        let Self { journal, standing_every, grace, webhooks } = self;
        let webhooks = webhooks.map(|RawWebhooks { listen, public_url }| match BaseUrl::parse(&public_url) {
            Ok(_) => Ok(ReceiveWebhooks { listen, public_url }),
            Err(error) => Err(Rule::new(
                "workers.webhooks.public_url",
                error.to_string().trim_start_matches("base_url "),
            )),
        });
        Ok(Workers {
            webhooks: webhooks.transpose()?,
            journal,
            standing_every: at_least("workers.standing_every", standing_every, Span::millis(100), "")?,
            grace: grace.get(),
        })
    }
}

/// `[metrics]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawMetrics {
    pub(super) listen: Option<SocketAddr>,
}

/// `[log]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawLog {
    pub(super) filter: Option<String>,
    pub(super) json: bool,
}
