//! The rules that an operator gives: who may spend how much, where, in which period.

use std::fmt;

use chrono::{Datelike as _, Months, NaiveTime};
use schemas::{Micros, ProviderId, Tenant, UsdNanos, subjects};
use serde::Deserialize;

/// The most rules of one installation. Each has a counter of its own and is looked at fifty times a second. An installation with
/// more tenants than this gives budgets to groups of them.
pub const RULES_MAX: usize = 10_000;

/// The most rules that can match one attempt: its tenant or all, its provider or all, in each of three periods.
pub(super) const MATCHES_MAX: usize = 2 * 2 * 3;

/// A period of the calendar in UTC. A budget is whole again in the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// From one full hour to the next.
    Hour,
    /// From midnight to midnight.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

impl Period {
    /// The start of the period that contains `now`.
    pub fn start(self, now: Micros) -> Micros {
        const HOUR: u64 = 3_600_000_000;
        match self {
            Self::Hour => Micros::new(now.get() - now.get() % HOUR),
            Self::Day => Micros::new(now.get() - now.get() % (24 * HOUR)),
            Self::Month => {
                let day = now.to_datetime().date_naive();
                let first = day.with_day(1).expect("every month has a first day");
                first.and_time(NaiveTime::MIN).and_utc().into()
            }
        }
    }

    /// The start of the next period.
    pub fn next(self, now: Micros) -> Micros {
        let start = self.start(now);
        match self {
            Self::Hour => start + std::time::Duration::from_secs(3_600),
            Self::Day => start + std::time::Duration::from_secs(86_400),
            Self::Month => {
                // Beyond chrono's range there is no next month, so the last one does not end.
                start
                    .to_datetime()
                    .checked_add_months(Months::new(1))
                    .map_or(Micros::new(u64::MAX), Micros::from)
            }
        }
    }

    /// The name of the period that contains `now`, as in the subject of a counter: `2026-11-26T13`, `2026-11-26`, `2026-11`.
    pub fn key(self, now: Micros) -> String {
        let format = match self {
            Self::Hour => "%Y-%m-%dT%H",
            Self::Day => "%Y-%m-%d",
            Self::Month => "%Y-%m",
        };
        now.to_datetime().format(format).to_string()
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        })
    }
}

/// What happens when a budget is used up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// No attempt starts until the next period.
    #[default]
    Hard,
    /// Attempts go on, and an alarm is raised.
    Soft,
}

/// One budget.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The tenant; all tenants together if missing.
    pub tenant: Option<Tenant>,
    /// The provider; all providers together if missing.
    pub provider: Option<ProviderId>,
    /// The period.
    pub period: Period,
    /// The limit in each period.
    pub limit: UsdNanos,
    /// What happens when it is used up.
    pub mode: Mode,
}

impl Rule {
    /// The subject of its counter for the period that contains `now`.
    pub fn subject(&self, now: Micros) -> String {
        subjects::budget(self.tenant.as_ref(), self.provider.as_ref(), &self.period.key(now))
    }
}

impl fmt::Display for Rule {
    /// `$5 per day for tenant acme at golem`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "${} per {}", self.limit, self.period)?;
        match &self.tenant {
            Some(tenant) => write!(f, " for tenant {tenant}")?,
            None => f.write_str(" for all tenants")?,
        }
        match &self.provider {
            Some(provider) => write!(f, " at {provider}"),
            None => Ok(()),
        }
    }
}

/// Rules of which no two count the same money in the same period.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules(Vec<Rule>);

/// Why a list of rules is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RulesError {
    /// The rule at this index repeats an earlier one.
    #[error("there is already a budget with this tenant, provider and period")]
    Twice(usize),
    /// More than [`RULES_MAX`].
    #[error("`{0}` budgets are more than {RULES_MAX}")]
    TooMany(usize),
}

impl Rules {
    /// Checks that no two rules are about the same tenant, provider and period.
    pub fn new(rules: Vec<Rule>) -> Result<Self, RulesError> {
        if rules.len() > RULES_MAX {
            return Err(RulesError::TooMany(rules.len()));
        }
        let mut seen = std::collections::HashSet::new();
        for (index, rule) in rules.iter().enumerate() {
            if !seen.insert((&rule.tenant, &rule.provider, rule.period)) {
                return Err(RulesError::Twice(index));
            }
        }
        Ok(Self(rules))
    }

    /// The rules in the order they were given.
    pub fn into_vec(self) -> Vec<Rule> {
        self.0
    }

    /// The rules in the order they were given, borrowed.
    pub fn as_slice(&self) -> &[Rule] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> Micros {
        text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().into()
    }

    #[test]
    fn a_period_has_a_start_an_end_and_a_name() {
        let check = |period: Period, now: &str, start: &str, next: &str, key: &str| {
            let now = at(now);
            assert_eq!((period.start(now), period.next(now)), (at(start), at(next)));
            assert_eq!(period.key(now), key);
        };
        let now = "2026-11-26T13:59:59.999999Z";
        check(Period::Hour, now, "2026-11-26T13:00:00Z", "2026-11-26T14:00:00Z", "2026-11-26T13");
        check(Period::Day, now, "2026-11-26T00:00:00Z", "2026-11-27T00:00:00Z", "2026-11-26");
        check(Period::Month, now, "2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z", "2026-11");
        let leap = "2028-02-29T23:00:00Z";
        check(Period::Month, leap, "2028-02-01T00:00:00Z", "2028-03-01T00:00:00Z", "2028-02");
    }

    #[test]
    fn two_budgets_for_the_same_money_are_refused() {
        let rule = |tenant: &str, period| Rule {
            tenant: Some(tenant.parse().unwrap()),
            provider: None,
            period,
            limit: UsdNanos::new(1),
            mode: Mode::Hard,
        };
        let rules = vec![rule("a", Period::Day), rule("a", Period::Hour), rule("b", Period::Day)];
        assert!(Rules::new(rules.clone()).is_ok());
        let twice = [rules, vec![rule("a", Period::Hour)]].concat();
        assert_eq!(Rules::new(twice), Err(RulesError::Twice(3)));
    }

    proptest! {
        #[test]
        fn periods_meet_without_gap_or_overlap(now in 0..4_000_000_000_000_000u64) {
            let now = Micros::new(now);
            for period in [Period::Hour, Period::Day, Period::Month] {
                let (start, next) = (period.start(now), period.next(now));
                prop_assert!(start <= now && now < next);
                prop_assert_eq!(period.start(next), next);
                prop_assert_eq!(period.start(start), start);
                prop_assert_ne!(period.key(next), period.key(now));
                prop_assert_eq!(period.key(start), period.key(now));
            }
        }
    }
}
