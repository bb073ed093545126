//! The rules of what happens during a scenario: budgets that run out, bursts and faults.

use std::time::Duration;

use routing::budget::{Rule, Rules, RulesError};

use super::{
    super::{RawBudget, RawBurst, RawFault, RawKind, ScenarioError, Span, refuse},
    part,
};
use crate::scenario::{Burst, Fault, FaultKind, PoolSpec, RegionSpec, TenantSpec};

pub(super) fn check_budgets(
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

/// Checks a window of time, which must lie within the scenario.
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
    pub(super) fn check(
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
    pub(super) fn check(
        self,
        index: usize,
        duration: Duration,
        pools: &[PoolSpec],
    ) -> Result<Fault, ScenarioError> {
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

    /// The kind of fault, with exactly the figures that belong to it.
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

/// Refuses two faults of one kind at one pool at the same time: two prices, or two speeds, make no sense.
pub(super) fn check_overlaps(faults: &[Fault], pools: &[PoolSpec]) -> Result<(), ScenarioError> {
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
