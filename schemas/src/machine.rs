//! A rented machine, as its keeper tells everyone: where it is, whether it takes jobs, what it costs.
//!
//! A keeper stores one value per machine in the bucket [`crate::topology::MACHINES_BUCKET`], under [`Machine::key`]. Workers
//! follow the bucket and hand jobs to the machines of their pool that are `ready`. A keeper's own notes stand in the same
//! value, in fields that are not of this type.

use serde::{Deserialize, Serialize};

use crate::{MachineId, Micros, PoolId, UsdNanos};

/// Where a machine stands in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MachineState {
    /// It is to be ordered; nothing was asked yet.
    Wanted,
    /// The ordering call was sent. Without an answer the order is unknown: the machine may exist.
    Ordered,
    /// The provider named an id; the machine is not usable yet.
    Starting,
    /// It has an address; it has not given a real completion yet.
    Probing,
    /// Jobs may be handed to it.
    Ready,
    /// It takes no new jobs; those that run may end.
    Draining,
    /// The ending call was sent and is not confirmed.
    Stopping,
    /// It is stopped at the provider and kept for later. Only its storage is paid for.
    Parked,
    /// It was seen before and is silent or absent now. It is assumed to cost.
    Lost,
    /// Its absence is confirmed.
    Gone,
}

impl MachineState {
    /// All states, in the order of a life.
    pub const ALL: [Self; 10] = [
        Self::Wanted,
        Self::Ordered,
        Self::Starting,
        Self::Probing,
        Self::Ready,
        Self::Draining,
        Self::Stopping,
        Self::Parked,
        Self::Lost,
        Self::Gone,
    ];

    /// Whether a cap on machines and on dollars per hour counts it: everything that was ordered and is not gone.
    pub const fn counts(self) -> bool {
        match self {
            Self::Ordered
            | Self::Starting
            | Self::Probing
            | Self::Ready
            | Self::Draining
            | Self::Stopping
            | Self::Lost => true,
            Self::Wanted | Self::Parked | Self::Gone => false,
        }
    }

    /// The word that stands in logs, tables and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Wanted => "wanted",
            Self::Ordered => "ordered",
            Self::Starting => "starting",
            Self::Probing => "probing",
            Self::Ready => "ready",
            Self::Draining => "draining",
            Self::Stopping => "stopping",
            Self::Parked => "parked",
            Self::Lost => "lost",
            Self::Gone => "gone",
        }
    }
}

/// A machine, as everyone may know it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Our name for it.
    pub machine: MachineId,
    /// The pool it works for.
    pub pool: PoolId,
    /// Where it stands.
    pub state: MachineState,
    /// Since when.
    pub since_us: Micros,
    /// The URL of its OpenAI-compatible server, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Jobs it runs at a time.
    pub slots: u32,
    /// The provider's name for its type.
    pub sku: String,
    /// The provider's name for where it stands.
    pub place: String,
    /// What an hour of it costs, as seen when it was ordered; dollars.
    pub usd_per_hour: UsdNanos,
    /// The provider's id of it, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_id: Option<String>,
    /// Why it stands where it stands, for people: the last failure, or who asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
}

impl Machine {
    /// Its key in the bucket: `machine.<region>.<provider>.<machine>`.
    pub fn key(&self) -> String {
        format!("{}.{}", pool_prefix(&self.pool), self.machine)
    }
}

/// The first part of the keys of a pool's machines: `machine.<region>.<provider>`.
pub fn pool_prefix(pool: &PoolId) -> String {
    format!("machine.{}.{}", pool.region, pool.provider)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_reads_beside_its_keepers_own_notes() {
        let text = r#"{"machine":"0192f3a4","pool":{"region":"us-east","provider":"lambda"},"state":"ready","since_us":7,"slots":4,
            "sku":"gpu_1x_a10","place":"us-east-1","usd_per_hour":"1.29","meter":{"spans":[]},"notes":{"x":"y"}}"#;
        let machine: Machine = serde_json::from_str(text).unwrap();
        assert_eq!((machine.state, machine.slots), (MachineState::Ready, 4));
        assert_eq!(machine.key(), "machine.us-east.lambda.0192f3a4");
    }

    #[test]
    fn the_word_of_a_state_is_its_wire_form() {
        for state in MachineState::ALL {
            assert_eq!(serde_json::to_string(&state).unwrap(), format!("\"{}\"", state.name()));
        }
    }
}
