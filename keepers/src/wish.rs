//! What an operator asks of a pool's machines, and what a keeper says of them. Both are values in the bucket.

use std::collections::BTreeSet;

use schemas::{MachineId, Micros, PoolId, UsdNanos};
use serde::{Deserialize, Serialize};

use crate::policy::Peer;

/// What an operator asks; the newest holds until it is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wish {
    /// So many machines, whatever the policy says; `None` follows the policy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<u32>,
    /// No machine at all, and none is ordered.
    #[serde(default)]
    pub stopped: bool,
    /// Machines to drain and end.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub drain: BTreeSet<MachineId>,
    /// Who asked, for the log.
    #[serde(default)]
    pub by: String,
    /// When.
    pub at_us: Micros,
}

impl Wish {
    /// The key of a pool's wish.
    pub fn key(pool: &PoolId) -> String {
        format!("wish.{}.{}", pool.region, pool.provider)
    }
}

/// What a keeper says of a pool it keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Which keeper.
    pub keeper: String,
    /// Which pool; missing in words of earlier versions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<PoolId>,
    /// When it said so.
    pub at_us: Micros,
    /// Machines wanted.
    pub want: u32,
    /// Why so many, in words.
    pub reason: String,
    /// Dollars an hour of everything that was ordered and is not gone.
    pub usd_per_hour: UsdNanos,
    /// What an hour of one more machine costs, by place, as last told by the provider.
    #[serde(default)]
    pub quotes: Vec<Quoted>,
    /// Why nothing is ordered until a person acts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub closed: Option<String>,
    /// Places where nothing is ordered for a while, and why.
    #[serde(default)]
    pub cooling: Vec<Cooling>,
    /// What all machines of the pool cost since its books were begun.
    pub cost_usd: UsdNanos,
    /// Of that, what jobs booked.
    pub jobs_usd: UsdNanos,
    /// Of that, what was booked as standing cost.
    pub standing_usd: UsdNanos,
    /// What is wrong and what to do, a line each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
    /// Whether renting beats serverless pools, and by what sums, in words.
    #[serde(default)]
    pub compared: String,
    /// Which wish the keeper follows: when that was asked.
    #[serde(default)]
    pub wish_us: Micros,
    /// What other pools of the region plan with.
    #[serde(default)]
    pub peer: Peer,
}

/// What a keeper says of an account: machines there that nobody keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notices {
    /// Which keeper.
    pub keeper: String,
    /// When it said so; it repeats itself each few seconds while there is something to say.
    pub at_us: Micros,
    /// What is wrong and what to do, a line each.
    pub lines: Vec<String>,
}

impl Notices {
    /// The key of an account's notices.
    pub fn key(account: &str) -> String {
        let plain = |letter: char| if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' };
        format!("notices.{}", account.chars().map(plain).collect::<String>())
    }
}

/// A price that a provider told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quoted {
    /// The provider's name for the place.
    pub place: String,
    /// The provider's name for the type.
    pub sku: String,
    /// Dollars an hour.
    pub usd_per_hour: UsdNanos,
    /// Whether one could be had, where the provider says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub available: Option<bool>,
}

/// A place at which nothing is ordered for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cooling {
    /// The provider's name for the place.
    pub place: String,
    /// Until when.
    pub until_us: Micros,
    /// Why.
    pub because: String,
}

impl Status {
    /// The key of a pool's status.
    pub fn key(pool: &PoolId) -> String {
        format!("status.{}.{}", pool.region, pool.provider)
    }

    /// Whether this says what `before` said, but for the time and for what machines cost meanwhile.
    pub fn says_what(&self, before: &Self) -> bool {
        let aside = Self { at_us: before.at_us, cost_usd: before.cost_usd, ..self.clone() };
        aside == *before
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn time_and_the_cost_of_what_stands_are_no_news() {
        let before = Status { want: 2, ..Status::default() };
        let later = Micros::default() + Duration::from_secs(1);
        let costly = Status { at_us: later, cost_usd: UsdNanos::new(7), ..before.clone() };
        assert!(costly.says_what(&before));
        assert!(!Status { want: 3, ..before.clone() }.says_what(&before));
        assert!(!Status { standing_usd: UsdNanos::new(7), ..before.clone() }.says_what(&before));
    }
}
