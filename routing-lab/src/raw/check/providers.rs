//! The rules of providers and their pools.

use std::{collections::BTreeMap, time::Duration};

use schemas::{PoolId, ProviderId};

use super::super::{RawProvider, ScenarioError, Span, refuse};
use crate::scenario::{ModelSpec, PoolSpec, Price, RegionSpec, Serverless};

/// The most slots of one pool.
const SLOTS_MAX: u32 = 1_000_000;

pub(super) fn check_providers(
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
