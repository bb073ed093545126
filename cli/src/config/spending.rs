//! `[[budgets]]`, `[[tenants]]` and `[retries]`: budgets in dollars, fair shares, and the share of repeated attempts.

use std::collections::HashMap;

use routing::{
    budget::{self, Mode, Period, Rules},
    retry_budget::RetryConfig,
};
use schemas::{ProviderId, Tenant, UsdNanos};
use serde::Deserialize;

use super::{
    pools::Pool,
    rule::{Rule, positive},
};

/// `[[budgets]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBudget {
    tenant: Option<Tenant>,
    provider: Option<ProviderId>,
    period: Period,
    limit_usd: UsdNanos,
    #[serde(default)]
    mode: Mode,
}

/// Checks all budgets, each and together.
pub(super) fn budgets(raw: Vec<RawBudget>, pools: &[Pool]) -> Result<Rules, Rule> {
    let mut rules = Vec::with_capacity(raw.len());
    for (index, RawBudget { tenant, provider, period, limit_usd: limit, mode }) in raw.into_iter().enumerate()
    {
        let key = |field: &str| format!("budgets[{index}].{field}");
        // A misspelt provider would make a budget that limits nothing.
        if let Some(name) = provider.as_ref().filter(|p| !pools.iter().any(|pool| pool.id.provider == **p)) {
            return Err(Rule::new(key("provider"), format!("provider `{name}` has no pool")));
        }
        if limit == UsdNanos::ZERO {
            let rule = "`0` must be more than 0; to keep a tenant out, give it no permission to publish";
            return Err(Rule::new(key("limit_usd"), rule));
        }
        rules.push(budget::Rule { tenant, provider, period, limit, mode });
    }
    Rules::new(rules).map_err(|error| {
        let key = match &error {
            budget::RulesError::Twice(index) => format!("budgets[{index}]"),
            budget::RulesError::TooMany(_) => "budgets".to_owned(),
        };
        Rule::new(key, error.to_string())
    })
}

/// `[[tenants]]`
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTenant {
    name: Tenant,
    weight: Option<u32>,
}

/// The weights that were given.
pub(super) fn weights(raw: Vec<RawTenant>) -> Result<HashMap<Tenant, u32>, Rule> {
    let mut weights = HashMap::with_capacity(raw.len());
    for (index, RawTenant { name, weight }) in raw.into_iter().enumerate() {
        let key = |field: &str| format!("tenants[{index}].{field}");
        let weight = positive(&key("weight"), weight.unwrap_or(1))?;
        if weights.contains_key(&name) {
            return Err(Rule::new(key("name"), format!("`{name}` is named twice")));
        }
        weights.insert(name, weight);
    }
    Ok(weights)
}

/// `[retries]`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RawRetries {
    ratio: Option<f64>,
    per_second: Option<u32>,
}

impl RawRetries {
    pub(super) fn check(self) -> Result<RetryConfig, Rule> {
        let plan = RetryConfig::default();
        let ratio = self.ratio.unwrap_or(plan.ratio);
        if !(0.0..=1.0).contains(&ratio) {
            return Err(Rule::new("retries.ratio", format!("`{ratio}` must be 0 to 1")));
        }
        Ok(RetryConfig { ratio, per_second: self.per_second.unwrap_or(plan.per_second), ..plan })
    }
}
