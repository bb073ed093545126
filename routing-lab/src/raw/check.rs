//! The rules of a scenario: each part of what a file says becomes a part that is always usable, or is refused by its key.

use std::{collections::BTreeMap, time::Duration};

use schemas::{ModelToken, PoolId, ProviderId, Region, Tenant};

use super::{
    super::scenario::{
        Arrivals, Burst, Day, Fault, FaultKind, LaneSpec, ModelSpec, PoolSpec, Price, RegionSpec, Scenario,
        Serverless, Targets, TenantSpec,
    },
    Raw, RawArrivals, RawBudget, RawBurst, RawDelays, RawFault, RawKind, RawLanes, RawModel, RawProvider,
    RawRegion, RawTenant, ScenarioError, Shape, Span, refuse,
};
use routing::budget::{Rule, Rules, RulesError};

/// Longer than this is no scenario but a mistake: a year of jobs would run for days.
const DURATION_MAX: Duration = Duration::from_secs(30 * 86_400);
/// More than this a second is a mistake, too.
const RATE_MAX: f64 = 1e6;
/// Slots of one pool, at most.
const SLOTS_MAX: u32 = 1_000_000;
/// How far shares may miss 1: what a person writes has a few decimals.
const SHARES_OFF: f64 = 1e-6;

impl Raw {
    pub(super) fn check(self) -> Result<Scenario, ScenarioError> {
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
            budgets,
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
        let budgets = check_budgets(budgets, &tenants, &pools)?;
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
            budgets,
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

fn check_budgets(
    raw: Vec<RawBudget>,
    tenants: &[TenantSpec],
    pools: &[PoolSpec],
) -> Result<Rules, ScenarioError> {
    let check = |(index, raw): (usize, RawBudget)| {
        let RawBudget { tenant, provider, period, limit, mode } = raw;
        if let Some(name) = tenant.as_ref().filter(|name| !tenants.iter().any(|t| t.name == **name)) {
            return refuse(format!("budgets[{index}].tenant"), format!("`{name}` is no tenant"));
        }
        if let Some(name) = provider.as_ref().filter(|name| !pools.iter().any(|p| p.id.provider == **name)) {
            return refuse(format!("budgets[{index}].provider"), format!("provider `{name}` has no pool"));
        }
        Ok(Rule { tenant, provider, period, limit, mode })
    };
    let rules = raw.into_iter().enumerate().map(check).collect::<Result<Vec<_>, _>>()?;
    Rules::new(rules).or_else(|error| match error {
        RulesError::Twice(index) => refuse(format!("budgets[{index}]"), error.to_string()),
        RulesError::TooMany(_) => refuse("budgets", error.to_string()),
    })
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
