//! `[routing]` and `[breaker]`: which pool gets a job, and when a pool is left alone.

use routing::config::{BreakerConfig, HedgeConfig, PolicyConfig, WarmConfig};
use schemas::{ProviderId, UsdNanos};
use serde::Deserialize;

use super::{
    pools::Pool,
    rule::{Rule, at_least, part, positive},
    span::Span,
};

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

impl RawRouting {
    pub(super) fn check(self, pools: &[Pool]) -> Result<PolicyConfig, Rule> {
        let Self { baseline, share, silent_after, hedge, warm } = self;
        let plan = PolicyConfig::default();
        // A misspelt provider would get no share, and nothing would show it. The default may well have no pool here.
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
