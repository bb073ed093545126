//! What a scenario file says, for one call: laid over what is assumed, then checked. A refusal names the key and the rule.

use std::{collections::BTreeMap, time::Duration};

use schemas::{ModelToken, PoolId, ProviderId, Region, Tenant, UsdNanos};
use serde::{Deserialize, Deserializer, de};

use super::scenario::{
    Arrivals, Burst, Day, Fault, FaultKind, LaneSpec, ModelSpec, PoolSpec, Price, RegionSpec, Scenario,
    Serverless, Targets, TenantSpec,
};

/// What a scenario leaves out.
const ASSUMED: &str = include_str!("assumed.toml");
/// Longer than this is no scenario but a mistake: a year of jobs would run for days.
const DURATION_MAX: Duration = Duration::from_secs(30 * 86_400);
/// More than this a second is a mistake, too.
const RATE_MAX: f64 = 1e6;
/// Slots of one pool, at most.
const SLOTS_MAX: u32 = 1_000_000;
/// How far shares may miss 1: what a person writes has a few decimals.
const SHARES_OFF: f64 = 1e-6;

/// Why a scenario is refused: one line, with the key where there is one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScenarioError {
    /// No TOML.
    #[error("line {line}: {what}")]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong there.
        what: String,
    },
    /// A key breaks its rule.
    #[error("{key}: {rule}")]
    Rule {
        /// Which, dotted.
        key: String,
        /// The rule, with the value where that helps.
        rule: String,
    },
}

fn refuse<T>(key: impl Into<String>, rule: impl Into<String>) -> Result<T, ScenarioError> {
    Err(ScenarioError::Rule { key: key.into(), rule: rule.into() })
}

impl Scenario {
    /// Reads and checks a text.
    pub fn parse(text: &str) -> Result<Self, ScenarioError> {
        let table = |text: &str| {
            text.parse::<toml::Table>().map_err(|error| ScenarioError::Syntax {
                line: error
                    .span()
                    .map_or(1, |span| 1 + text[..span.start.min(text.len())].matches('\n').count()),
                what: one_line(error.message()),
            })
        };
        let mut all = table(ASSUMED)?;
        lay_over(&mut all, table(text)?);
        let raw: Raw = serde_path_to_error::deserialize(toml::Value::Table(all)).map_err(|error| {
            ScenarioError::Rule { key: error.path().to_string(), rule: one_line(error.inner().message()) }
        })?;
        raw.check()
    }
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Tables are joined, everything else is replaced.
fn lay_over(below: &mut toml::Table, above: toml::Table) {
    for (key, value) in above {
        match (below.get_mut(&key), value) {
            (Some(toml::Value::Table(below)), toml::Value::Table(above)) => lay_over(below, above),
            (_, value) => {
                below.insert(key, value);
            }
        }
    }
}

/// A span as a person writes it, for instance `250ms`.
#[derive(Clone, Copy, Debug)]
struct Span(Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const UNITS: [(&str, u64); 5] =
            [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
        let text = String::deserialize(deserializer)?;
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let millis = number.parse::<u64>().ok().zip(factor).and_then(|(n, factor)| n.checked_mul(factor));
        millis
            .filter(|millis| Duration::from_millis(*millis) <= 365 * Duration::from_secs(86_400))
            .map_or_else(
                || {
                    Err(de::Error::custom(format!(
                        "`{}` must be a whole number and one of ms, s, m, h and d, for instance 60s",
                        text.chars().take(40).collect::<String>()
                    )))
                },
                |millis| Ok(Self(Duration::from_millis(millis))),
            )
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    name: String,
    about: String,
    duration: Span,
    arrivals: RawArrivals,
    regions: BTreeMap<Region, RawRegion>,
    delays: RawDelays,
    models: BTreeMap<ModelToken, RawModel>,
    lanes: RawLanes,
    tenants: BTreeMap<Tenant, RawTenant>,
    providers: BTreeMap<ProviderId, RawProvider>,
    baseline: RawBaseline,
    calls: RawCalls,
    targets: RawTargets,
    #[serde(default)]
    bursts: Vec<RawBurst>,
    #[serde(default)]
    faults: Vec<RawFault>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawArrivals {
    rate: f64,
    shape: Shape,
    period: Span,
    swing: f64,
    trace: String,
    copies: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Shape {
    Steady,
    Diurnal,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRegion {
    share: f64,
    #[serde(default)]
    phase: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDelays {
    local: Span,
    between: BTreeMap<String, Span>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawModel {
    share: f64,
    service: [Span; 2],
    prefill: f64,
    decode: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLanes {
    high: RawLane,
    normal: RawLane,
    low: RawLane,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLane {
    share: f64,
    deadline: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTenant {
    share: f64,
    #[serde(default = "one")]
    weight: u32,
}

const fn one() -> u32 {
    1
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawProvider {
    slots: BTreeMap<Region, u32>,
    #[serde(default = "speed_one")]
    speed: f64,
    #[serde(default)]
    per_inference: BTreeMap<ModelToken, UsdNanos>,
    #[serde(default)]
    per_second: BTreeMap<ModelToken, UsdNanos>,
    health_every: Option<Span>,
    cold_start: Option<[Span; 2]>,
    idle_timeout: Option<Span>,
    #[serde(default)]
    bills_idle: bool,
    #[serde(default)]
    warmable: bool,
}

const fn speed_one() -> f64 {
    1.0
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBaseline {
    providers: Vec<ProviderId>,
    share: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCalls {
    timeout: Span,
    lease: Span,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTargets {
    p95: Span,
    availability: f64,
    cost: UsdNanos,
    share_within: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawBurst {
    tenant: Option<Tenant>,
    region: Option<Region>,
    from: Span,
    r#for: Span,
    factor: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFault {
    kind: RawKind,
    provider: Option<ProviderId>,
    region: Option<Region>,
    from: Span,
    r#for: Span,
    factor: Option<f64>,
    part: Option<f64>,
    retry_after: Option<Span>,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum RawKind {
    Down,
    Slow,
    Hang,
    RateLimit,
    CutOff,
    Price,
    ColdStarts,
    Garbage,
    Capacity,
}

impl Raw {
    fn check(self) -> Result<Scenario, ScenarioError> {
        // Every part by name, so that a new one cannot be overlooked.
        let Self {
            name,
            about,
            duration: Span(duration),
            arrivals,
            regions,
            delays,
            models,
            lanes,
            tenants,
            providers,
            baseline,
            calls,
            targets,
            bursts,
            faults,
        } = self;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        {
            return refuse(
                "name",
                format!("`{name}` must be lower case letters, digits and dashes: it names files"),
            );
        }
        if duration < Duration::from_secs(1) || duration > DURATION_MAX {
            return refuse("duration", "must be one second to 30 days");
        }
        let arrivals = arrivals.check()?;
        let regions = check_regions(regions)?;
        let delays = delays.check(&regions)?;
        let models = check_models(models)?;
        let lanes = lanes.check()?;
        let tenants = check_tenants(tenants)?;
        let pools = check_providers(providers, &regions, &models)?;
        let bursts = bursts.into_iter().enumerate();
        let bursts =
            bursts.map(|(i, b)| b.check(i, duration, &tenants, &regions)).collect::<Result<Vec<_>, _>>()?;
        let faults = faults.into_iter().enumerate();
        let faults = faults.map(|(i, f)| f.check(i, duration, &pools)).collect::<Result<Vec<_>, _>>()?;
        check_overlaps(&faults, &pools)?;
        if let Some((i, name)) = baseline
            .providers
            .iter()
            .enumerate()
            .find(|(_, name)| !pools.iter().any(|p| p.id.provider == **name))
        {
            return refuse(format!("baseline.providers[{i}]"), format!("provider `{name}` has no pool"));
        }
        if calls.timeout.0.is_zero() {
            return refuse("calls.timeout", "must be more than nothing");
        }
        if calls.lease.0.is_zero() {
            return refuse("calls.lease", "must be more than nothing");
        }
        Ok(Scenario {
            name,
            about,
            duration,
            arrivals,
            regions,
            delays,
            models,
            lanes,
            tenants,
            pools,
            baseline_share: part("baseline.share", baseline.share)?,
            baseline: baseline.providers,
            timeout: calls.timeout.0,
            lease: calls.lease.0,
            bursts,
            faults,
            targets: Targets {
                p95: targets.p95.0,
                availability: part("targets.availability", targets.availability)?,
                cost: targets.cost,
                share_within: part("targets.share_within", targets.share_within)?,
            },
        })
    }
}

impl RawArrivals {
    fn check(self) -> Result<Arrivals, ScenarioError> {
        if !(self.rate > 0.0 && self.rate <= RATE_MAX) {
            return refuse(
                "arrivals.rate",
                format!("`{}` must be more than 0 and at most {RATE_MAX}", self.rate),
            );
        }
        if !(1.0..=1e6).contains(&self.swing) {
            return refuse(
                "arrivals.swing",
                format!("`{}` must be at least 1: the peak over the trough", self.swing),
            );
        }
        if self.period.0 < Duration::from_secs(1) {
            return refuse("arrivals.period", "must be at least 1s");
        }
        if !(1..=10_000).contains(&self.copies) {
            return refuse("arrivals.copies", format!("`{}` must be 1 to 10000", self.copies));
        }
        if !self.trace.is_empty() {
            if self.trace.contains(['/', '\\']) {
                return refuse(
                    "arrivals.trace",
                    format!("`{}` must be a file's name without a folder", self.trace),
                );
            }
            return Ok(Arrivals::Trace { file: self.trace, copies: self.copies });
        }
        let day = match self.shape {
            Shape::Steady => None,
            Shape::Diurnal => Some(Day { period: self.period.0, swing: self.swing }),
        };
        Ok(Arrivals::Drawn { rate: self.rate, day })
    }
}

fn part(key: impl Into<String>, value: f64) -> Result<f64, ScenarioError> {
    if (0.0..=1.0).contains(&value) { Ok(value) } else { refuse(key, format!("`{value}` must be 0 to 1")) }
}

/// Shares of a whole, each named by its key.
fn whole<'a>(section: &str, shares: impl Iterator<Item = (&'a str, f64)>) -> Result<(), ScenarioError> {
    let mut sum = 0.0;
    for (name, share) in shares {
        sum += part(format!("{section}.{name}.share"), share)?;
    }
    if (sum - 1.0).abs() > SHARES_OFF {
        return refuse(
            section,
            format!("shares add up to {} and must add up to 1", (sum * 1e6).round() / 1e6),
        );
    }
    Ok(())
}

fn check_regions(raw: BTreeMap<Region, RawRegion>) -> Result<Vec<RegionSpec>, ScenarioError> {
    whole("regions", raw.iter().map(|(name, region)| (name.as_str(), region.share)))?;
    let check = |(name, region): (Region, RawRegion)| {
        let phase = part(format!("regions.{name}.phase"), region.phase)?;
        Ok(RegionSpec { name, share: region.share, phase })
    };
    raw.into_iter().map(check).collect()
}

impl RawDelays {
    fn check(self, regions: &[RegionSpec]) -> Result<Vec<Vec<Duration>>, ScenarioError> {
        let mut delays = vec![vec![None; regions.len()]; regions.len()];
        for (at, row) in delays.iter_mut().enumerate() {
            row[at] = Some(self.local.0);
        }
        for (pair, span) in &self.between {
            let key = || format!("delays.between.\"{pair}\"");
            let index = |name: &str| regions.iter().position(|region| region.name.as_str() == name);
            let Some((a, b)) = pair.split_once('/').and_then(|(a, b)| Some((index(a)?, index(b)?))) else {
                return refuse(key(), "must be two regions, for instance \"us-east/eu-west\"");
            };
            if delays[a][b].is_some() {
                return refuse(key(), "is given already, or is within one region");
            }
            (delays[a][b], delays[b][a]) = (Some(span.0), Some(span.0));
        }
        let mut full = Vec::new();
        for (a, row) in delays.into_iter().enumerate() {
            let mut spans = Vec::new();
            for (b, span) in row.into_iter().enumerate() {
                let Some(span) = span else {
                    let pair = format!("{}/{}", regions[a].name, regions[b].name);
                    return refuse("delays.between", format!("\"{pair}\" is missing"));
                };
                spans.push(span);
            }
            full.push(spans);
        }
        Ok(full)
    }
}

fn check_models(raw: BTreeMap<ModelToken, RawModel>) -> Result<Vec<ModelSpec>, ScenarioError> {
    whole("models", raw.iter().map(|(name, model)| (name.as_str(), model.share)))?;
    let check = |(name, model): (ModelToken, RawModel)| {
        let [Span(low), Span(high)] = model.service;
        if low.is_zero() || high < low {
            return refuse(
                format!("models.{name}.service"),
                "must be two spans, the shorter first, more than nothing",
            );
        }
        for (key, rate) in [("prefill", model.prefill), ("decode", model.decode)] {
            if !(rate > 0.0 && rate.is_finite()) {
                return refuse(format!("models.{name}.{key}"), format!("`{rate}` must be more than 0"));
            }
        }
        let RawModel { share, prefill, decode, .. } = model;
        Ok(ModelSpec { name, share, service: (low, high), prefill, decode })
    };
    raw.into_iter().map(check).collect()
}

impl RawLanes {
    fn check(self) -> Result<[LaneSpec; 3], ScenarioError> {
        let lanes = [("high", self.high), ("normal", self.normal), ("low", self.low)];
        whole("lanes", lanes.iter().map(|(name, lane)| (*name, lane.share)))?;
        if let Some((name, _)) = lanes.iter().find(|(_, lane)| lane.deadline.0.is_zero()) {
            return refuse(format!("lanes.{name}.deadline"), "must be more than nothing");
        }
        Ok(lanes.map(|(_, lane)| LaneSpec { share: lane.share, deadline: lane.deadline.0 }))
    }
}

fn check_tenants(raw: BTreeMap<Tenant, RawTenant>) -> Result<Vec<TenantSpec>, ScenarioError> {
    whole("tenants", raw.iter().map(|(name, tenant)| (name.as_str(), tenant.share)))?;
    let check = |(name, tenant): (Tenant, RawTenant)| {
        if !(1..=1_000).contains(&tenant.weight) {
            return refuse(
                format!("tenants.{name}.weight"),
                format!("`{}` must be 1 to 1000", tenant.weight),
            );
        }
        Ok(TenantSpec { name, share: tenant.share, weight: tenant.weight })
    };
    raw.into_iter().map(check).collect()
}

fn check_providers(
    raw: BTreeMap<ProviderId, RawProvider>,
    regions: &[RegionSpec],
    models: &[ModelSpec],
) -> Result<Vec<PoolSpec>, ScenarioError> {
    let mut pools = Vec::new();
    for (provider, raw) in raw {
        let key = |field: &str| format!("providers.{provider}.{field}");
        let prices = raw.prices(models, key)?;
        let serverless = raw.serverless(key)?;
        if !(0.01..=100.0).contains(&raw.speed) {
            return refuse(key("speed"), format!("`{}` must be 0.01 to 100", raw.speed));
        }
        if raw.health_every.is_some_and(|span| span.0.is_zero()) {
            return refuse(key("health_every"), "must be more than nothing, or left out");
        }
        for (region, slots) in raw.slots {
            let Some(index) = regions.iter().position(|r| r.name == region) else {
                return refuse(key(&format!("slots.{region}")), "is no region");
            };
            if !(1..=SLOTS_MAX).contains(&slots) {
                return refuse(
                    key(&format!("slots.{region}")),
                    format!("`{slots}` must be 1 to {SLOTS_MAX}"),
                );
            }
            pools.push(PoolSpec {
                id: PoolId { region, provider: provider.clone() },
                region: index,
                slots,
                speed: raw.speed,
                prices: prices.clone(),
                health_every: raw.health_every.map(|span| span.0),
                serverless,
            });
        }
    }
    for model in models.iter().enumerate().filter(|(_, model)| model.share > 0.0) {
        if !pools.iter().any(|pool| pool.prices[model.0].is_some()) {
            return refuse(format!("models.{}", model.1.name), "has no provider with a price for it");
        }
    }
    Ok(pools)
}

impl RawProvider {
    fn prices(
        &self,
        models: &[ModelSpec],
        key: impl Fn(&str) -> String,
    ) -> Result<Vec<Option<Price>>, ScenarioError> {
        let mut prices = vec![None; models.len()];
        let inference =
            self.per_inference.iter().map(|(m, usd)| ("per_inference", m, Price::Inference(*usd)));
        let second = self.per_second.iter().map(|(m, usd)| ("per_second", m, Price::Second(*usd)));
        for (field, name, price) in inference.chain(second) {
            let Some(index) = models.iter().position(|model| model.name == *name) else {
                return refuse(key(&format!("{field}.{name}")), "is no model");
            };
            if prices[index].replace(price).is_some() {
                return refuse(key(&format!("{field}.{name}")), "has a price per inference already");
            }
        }
        Ok(prices)
    }

    fn serverless(&self, key: impl Fn(&str) -> String) -> Result<Option<Serverless>, ScenarioError> {
        let Some([Span(p50), Span(p95)]) = self.cold_start else {
            for (field, given) in [
                ("idle_timeout", self.idle_timeout.is_some()),
                ("bills_idle", self.bills_idle),
                ("warmable", self.warmable),
            ] {
                if given {
                    return refuse(key(field), "is for providers with a cold_start");
                }
            }
            return Ok(None);
        };
        if p50.is_zero() || p95 < p50 {
            return refuse(key("cold_start"), "must be two spans, the median first, more than nothing");
        }
        let idle_timeout = self.idle_timeout.map_or(Duration::from_secs(10), |span| span.0);
        let (bills_idle, warmable) = (self.bills_idle, self.warmable);
        Ok(Some(Serverless { cold_start: (p50, p95), idle_timeout, bills_idle, warmable }))
    }
}

/// A window of the time line, within it.
fn window(
    key: &str,
    from: Span,
    span: Span,
    duration: Duration,
) -> Result<(Duration, Duration), ScenarioError> {
    if span.0.is_zero() {
        return refuse(format!("{key}.for"), "must be more than nothing");
    }
    let until = from.0 + span.0;
    if until > duration {
        return refuse(
            if from.0 >= duration { format!("{key}.from") } else { format!("{key}.for") },
            format!("ends {until:?} after the start, and the scenario lasts {duration:?}"),
        );
    }
    Ok((from.0, until))
}

impl RawBurst {
    fn check(
        self,
        index: usize,
        duration: Duration,
        tenants: &[TenantSpec],
        regions: &[RegionSpec],
    ) -> Result<Burst, ScenarioError> {
        let key = format!("bursts[{index}]");
        let (from, until) = window(&key, self.from, self.r#for, duration)?;
        if !(0.0..=10_000.0).contains(&self.factor) {
            return refuse(format!("{key}.factor"), format!("`{}` must be 0 to 10000", self.factor));
        }
        let tenant = match &self.tenant {
            None => None,
            Some(name) => match tenants.iter().position(|tenant| tenant.name == *name) {
                None => return refuse(format!("{key}.tenant"), format!("`{name}` is no tenant")),
                found => found,
            },
        };
        let region = match &self.region {
            None => None,
            Some(name) => match regions.iter().position(|region| region.name == *name) {
                None => return refuse(format!("{key}.region"), format!("`{name}` is no region")),
                found => found,
            },
        };
        Ok(Burst { tenant, region, from, until, factor: self.factor })
    }
}

impl RawFault {
    fn check(self, index: usize, duration: Duration, pools: &[PoolSpec]) -> Result<Fault, ScenarioError> {
        let key = format!("faults[{index}]");
        let (from, until) = window(&key, self.from, self.r#for, duration)?;
        let struck = |pool: &PoolSpec| {
            self.provider.as_ref().is_none_or(|name| pool.id.provider == *name)
                && self.region.as_ref().is_none_or(|name| pool.id.region == *name)
        };
        let at: Vec<usize> = (0..pools.len()).filter(|i| struck(&pools[*i])).collect();
        if at.is_empty() {
            let field = if self.provider.is_some() { "provider" } else { "region" };
            return refuse(format!("{key}.{field}"), "has no pool that this could strike");
        }
        let whom = match (&self.provider, &self.region) {
            (Some(provider), Some(region)) => format!("{provider}@{region}"),
            (Some(provider), None) => provider.to_string(),
            (None, Some(region)) => region.to_string(),
            (None, None) => "all".to_owned(),
        };
        Ok(Fault { kind: self.kind(&key)?, pools: at, whom, from, until })
    }

    /// What it is, with exactly the figures that belong to it.
    fn kind(&self, key: &str) -> Result<FaultKind, ScenarioError> {
        use RawKind as K;
        let (factor, share, wait) = match self.kind {
            K::Down | K::Hang | K::CutOff => (false, false, false),
            K::Slow | K::Price | K::ColdStarts => (true, false, false),
            K::Garbage | K::Capacity => (false, true, false),
            K::RateLimit => (false, true, true),
        };
        for (field, wanted, given) in [
            ("factor", factor, self.factor.is_some()),
            ("part", share, self.part.is_some()),
            ("retry_after", wait, self.retry_after.is_some()),
        ] {
            if wanted != given {
                let rule = if wanted { "is missing" } else { "does not belong to this kind of fault" };
                return refuse(format!("{key}.{field}"), rule);
            }
        }
        let factor = self.factor.unwrap_or(1.0);
        if !(factor > 0.0 && factor <= 10_000.0) {
            return refuse(
                format!("{key}.factor"),
                format!("`{factor}` must be more than 0 and at most 10000"),
            );
        }
        let part = part(format!("{key}.part"), self.part.unwrap_or(0.0))?;
        let retry_after = self.retry_after.map_or(Duration::ZERO, |span| span.0);
        Ok(match self.kind {
            K::Down => FaultKind::Down,
            K::Hang => FaultKind::Hang,
            K::CutOff => FaultKind::CutOff,
            K::Slow => FaultKind::Slow(factor),
            K::Price => FaultKind::Price(factor),
            K::ColdStarts => FaultKind::ColdStarts(factor),
            K::Garbage => FaultKind::Garbage(part),
            K::Capacity => FaultKind::Capacity(part),
            K::RateLimit => FaultKind::RateLimit { part, retry_after },
        })
    }
}

/// Two prices, or two speeds, at one time make no sense.
fn check_overlaps(faults: &[Fault], pools: &[PoolSpec]) -> Result<(), ScenarioError> {
    for (i, fault) in faults.iter().enumerate() {
        for (j, other) in faults[..i].iter().enumerate() {
            let both = fault.pools.iter().find(|pool| other.pools.contains(pool));
            if let Some(pool) = both
                && fault.kind.as_str() == other.kind.as_str()
                && fault.from < other.until
                && other.from < fault.until
            {
                return refuse(
                    format!("faults[{i}].from"),
                    format!("`{}` at {} overlaps with faults[{j}]", fault.kind.as_str(), pools[*pool].id),
                );
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_enough() {
        let scenario = Scenario::parse(r#"name = "x""#).unwrap();
        assert_eq!((scenario.pools.len(), scenario.tenants.len(), scenario.models.len()), (9, 4, 3));
    }

    #[test]
    fn a_refusal_names_the_key_and_the_rule() {
        for (text, says) in [
            ("", "name: `` must be"),
            ("name = ", "line 1: "),
            ("nonsense = 1", "nonsense: unknown field `nonsense`"),
            ("[arrivals]\nrate = -1.0", "arrivals.rate: `-1` must be more than 0"),
            ("[lanes.high]\nshare = 0.3", "lanes: shares add up to 1.1 and must add up to 1"),
            ("[regions.us-east]\nshare = 0.5", "regions: shares add up to 1.1"),
            ("[models.mistral-7b]\nshare = -0.3", "models.mistral-7b.share: `-0.3` must be 0 to 1"),
            (
                "[providers.golem.per_inference]\nmistral-7b = \"-0.1\"",
                "providers.golem.per_inference.mistral-7b: amount `-0.1` must be dollars",
            ),
            ("[providers.golem]\nspeed = 0.0", "providers.golem.speed: `0` must be 0.01 to 100"),
            (
                "[providers.golem]\nwarmable = true",
                "providers.golem.warmable: is for providers with a cold_start",
            ),
            ("duration = \"10\"", "duration: `10` must be a whole number and one of ms"),
            ("[[faults]]\nkind = \"down\"\nfrom = \"40m\"\nfor = \"1m\"", "faults[0].from: ends"),
            ("[[faults]]\nkind = \"down\"\nfrom = \"29m\"\nfor = \"2m\"", "faults[0].for: ends"),
            ("[[faults]]\nkind = \"slow\"\nfrom = \"1m\"\nfor = \"2m\"", "faults[0].factor: is missing"),
            (
                "[[faults]]\nkind = \"down\"\nfactor = 2.0\nfrom = \"1m\"\nfor = \"2m\"",
                "faults[0].factor: does not belong to this kind",
            ),
            (
                "[[faults]]\nkind = \"down\"\nprovider = \"x\"\nfrom = \"1m\"\nfor = \"2m\"",
                "faults[0].provider: has no pool",
            ),
            (
                "[[faults]]\nkind = \"price\"\nfactor = 2.0\nfrom = \"1m\"\nfor = \"9m\"\n[[faults]]\nkind = \"price\"\n\
                 factor = 3.0\nprovider = \"modal\"\nfrom = \"5m\"\nfor = \"2m\"",
                "faults[1].from: `price` at modal@asia-pacific overlaps with faults[0]",
            ),
            (
                "[[bursts]]\ntenant = \"nobody\"\nfrom = \"1m\"\nfor = \"1m\"\nfactor = 2.0",
                "bursts[0].tenant: `nobody`",
            ),
        ] {
            let text = if text.starts_with("name") || text.is_empty() {
                text.to_owned()
            } else {
                format!("name = \"x\"\n{text}")
            };
            let error = Scenario::parse(&text).unwrap_err().to_string();
            assert!(error.starts_with(says), "{text}\n{error}");
            assert!(!error.contains('\n'), "{error}");
        }
    }
}
