//! The settings of the simulated Modal platform.

use serde::{Deserialize, Serialize};

use super::rules::{AT_MOST_A_YEAR, Broken, YEAR_MS, first_broken};

/// How the simulated Modal platform behaves around its containers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModalSettings {
    /// How long one HTTP request is held before it is answered with a redirect. Modal: 150 s.
    pub hold_limit_ms: u64,
    /// How long an idle container stays, and is billed.
    pub scaledown_window_ms: u64,
    /// How long a result can be fetched. Modal: 7 days.
    pub result_ttl_ms: u64,
    /// How long a job's id finds the same call again. Beacon's app: 24 hours.
    pub id_ttl_ms: u64,
    /// How long an order to keep containers warm holds when it is not repeated. Beacon's app: 60 s.
    pub warm_lease_ms: u64,
    /// Whether a `wait` call stops when its caller leaves before the first redirect. A blocking handler does not.
    pub cancel_on_disconnect: bool,
    /// The version of the contract that the app names in `GET /health`; none in an app that is older than contracts.
    pub contract: Option<u32>,
}

impl ModalSettings {
    /// The first time that is too long.
    pub(super) fn out_of_range(&self) -> Option<Broken> {
        first_broken(
            [
                (self.hold_limit_ms, "hold_limit_ms"),
                (self.scaledown_window_ms, "scaledown_window_ms"),
                (self.result_ttl_ms, "result_ttl_ms"),
                (self.id_ttl_ms, "id_ttl_ms"),
                (self.warm_lease_ms, "warm_lease_ms"),
            ]
            .map(|(millis, key)| (millis <= YEAR_MS, key, AT_MOST_A_YEAR)),
        )
    }
}

impl Default for ModalSettings {
    fn default() -> Self {
        Self {
            hold_limit_ms: 150_000,
            scaledown_window_ms: 60_000,
            result_ttl_ms: 7 * 86_400_000,
            id_ttl_ms: 86_400_000,
            warm_lease_ms: 60_000,
            cancel_on_disconnect: false,
            contract: Some(1),
        }
    }
}
