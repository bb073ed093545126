//! The rules of a scenario: each part of a file becomes a checked part, or is refused by its key.

use std::{collections::BTreeMap, time::Duration};

use schemas::{ModelToken, Region, Tenant};

mod events;
mod providers;

use self::{
    events::{check_budgets, check_overlaps},
    providers::check_providers,
};
use super::{
    Raw, RawArrivals, RawDelays, RawLanes, RawModel, RawRegion, RawTenant, ScenarioError, Shape, Span, refuse,
};
use crate::scenario::{Arrivals, Day, LaneSpec, ModelSpec, RegionSpec, Scenario, Targets, TenantSpec};

/// The longest scenario. More is a mistake: a year of jobs would take days to play.
const DURATION_MAX: Duration = Duration::from_secs(30 * 86_400);
/// The highest rate, jobs a second. More is a mistake, too.
const RATE_MAX: f64 = 1e6;
/// How far the sum of shares may be off 1: what a person writes has a few decimals.
const SHARES_OFF: f64 = 1e-6;

impl Raw {
    pub(super) fn check(self) -> Result<Scenario, ScenarioError> {
        // Each part is named, so that a new one cannot be overlooked.
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

/// Checks shares of a whole, each named by its key.
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
