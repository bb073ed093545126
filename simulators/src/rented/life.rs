//! How long the stages of a simulated machine's life take, and how its server behaves.

use std::time::Duration;

use crate::config::SimulatedModel;

/// The life of a machine that is ordered. Tests use a few milliseconds for each stage.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    /// From the order, or from waking, until it is up. `None`: never.
    pub boot: Option<Duration>,
    /// From up until its server listens. `None`: never.
    pub listens_after: Option<Duration>,
    /// From the accepted ending until it is gone; also from the accepted parking until it is parked. `None`: never.
    pub end: Option<Duration>,
    /// From the order until lists show it.
    pub listed_after: Duration,
    /// What its server does once it listens.
    pub serves: Serves,
    /// The models that it serves. The price stands in the order, so those in here should be zero.
    pub models: Vec<SimulatedModel>,
}

/// What a machine's server does. `/health` says 200 whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Serves {
    /// Completions.
    Well,
    /// Every completion fails with a CUDA error.
    HealthOnly,
    /// Completions stop after so many tokens, and the connection stays open.
    Stalls {
        /// Tokens sent before.
        after_tokens: u32,
    },
}

impl Default for Life {
    /// Everything takes 5 ms, and the server works well.
    fn default() -> Self {
        let soon = Duration::from_millis(5);
        let model = SimulatedModel { service_ms_p50: 5, ..SimulatedModel::new("m") };
        Self {
            boot: Some(soon),
            listens_after: Some(soon),
            end: Some(soon),
            listed_after: Duration::ZERO,
            serves: Serves::Well,
            models: vec![model],
        }
    }
}
