//! What is written down about one machine: its place in life, what its landlord noted, what it cost.
//!
//! A row is stored before each control call, as the intent, and after it, as the fact; always in place of the very row that was
//! read, so that two keepers never act on one machine. A stored row is also what workers read ([`schemas::machine::Machine`]).

use std::time::Duration;

use bytes::Bytes;
use schemas::{
    MachineId, Micros, PoolId, UsdNanos,
    machine::{Machine, MachineState},
};
use serde::{Deserialize, Serialize};

use crate::{
    landlord::{Known, Notes},
    meter::Meter,
};

/// A row that only shows a newer sighting is stored this often.
const SIGHT_STORED_EVERY: Duration = Duration::from_secs(60);

/// Lists in a row that did not show a machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Absence {
    /// How many.
    pub lists: u32,
    /// When the first of them was.
    pub first_us: Micros,
}

impl Absence {
    /// One more list without the machine.
    #[must_use]
    pub fn again(self, now: Micros) -> Self {
        let first_us = if self.lists == 0 { now } else { self.first_us };
        Self { lists: self.lists.saturating_add(1), first_us }
    }

    /// Whether so many lists, over so long a time, did not show it.
    pub fn is_sure(self, lists: u32, span: Duration, now: Micros) -> bool {
        self.lists >= lists && now.since(self.first_us) >= span
    }
}

/// Where a machine stands, with what is known only there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Life {
    /// Nothing was asked yet, or what was asked was surely not done.
    Wanted {
        /// Not ordered before this.
        not_before_us: Micros,
        /// How often the order was refused for a while.
        refused: u32,
    },
    /// The order was sent and its answer is awaited.
    Ordered {
        /// How often it was refused for a while before.
        refused: u32,
    },
    /// The order was sent and nobody knows whether it was carried out: lists will tell.
    Unknown {
        /// Lists without it.
        absent: Absence,
    },
    /// It has an id at the provider.
    Starting {
        /// Ended when it is not ready by then.
        ready_by_us: Micros,
        /// Lists without it.
        absent: Absence,
    },
    /// It has an address.
    Probing {
        /// Ended when it is not ready by then.
        ready_by_us: Micros,
        /// Where its server is expected.
        address: String,
        /// The next probe is not before this.
        not_before_us: Micros,
        /// Probes that failed.
        failed: u32,
        /// Of the last of them, in a row, how many were answered by a server that is up and gives no completion.
        useless: u32,
        /// Lists without it.
        absent: Absence,
    },
    /// It takes jobs.
    Ready {
        /// Its server.
        address: String,
        /// Probes in a row that failed since.
        failed: u32,
        /// The next probe is not before this.
        not_before_us: Micros,
        /// Lists without it.
        absent: Absence,
    },
    /// It takes no more jobs.
    Draining {
        /// Its server.
        address: String,
        /// Ended then, whatever runs.
        until_us: Micros,
        /// Whether it is then parked, not ended.
        park: bool,
        /// Lists without it.
        absent: Absence,
    },
    /// It is to be ended, or parked.
    Stopping {
        /// Whether it is parked, not ended.
        park: bool,
        /// Calls that failed in a row.
        failed: u32,
        /// The next call is not before this.
        not_before_us: Micros,
        /// Whether the provider has accepted a call.
        accepted: bool,
        /// Lists without it since.
        absent: Absence,
    },
    /// It is stopped and kept.
    Parked {
        /// Lists without it.
        absent: Absence,
    },
    /// It was seen before and does not show, or does not work.
    Lost {
        /// Lists without it.
        absent: Absence,
    },
    /// Its absence is confirmed. The row stays until its cost is in the pool's account.
    Gone,
}

impl Life {
    /// Its word.
    pub fn state(&self) -> MachineState {
        match self {
            Self::Wanted { .. } => MachineState::Wanted,
            Self::Ordered { .. } | Self::Unknown { .. } => MachineState::Ordered,
            Self::Starting { .. } => MachineState::Starting,
            Self::Probing { .. } => MachineState::Probing,
            Self::Ready { .. } => MachineState::Ready,
            Self::Draining { .. } => MachineState::Draining,
            Self::Stopping { .. } => MachineState::Stopping,
            Self::Parked { .. } => MachineState::Parked,
            Self::Lost { .. } => MachineState::Lost,
            Self::Gone => MachineState::Gone,
        }
    }

    /// Its server's address, where jobs may still run.
    pub fn address(&self) -> Option<&str> {
        match self {
            Self::Probing { address, .. } | Self::Ready { address, .. } | Self::Draining { address, .. } => {
                Some(address)
            }
            Self::Wanted { .. }
            | Self::Ordered { .. }
            | Self::Unknown { .. }
            | Self::Starting { .. }
            | Self::Stopping { .. }
            | Self::Parked { .. }
            | Self::Lost { .. }
            | Self::Gone => None,
        }
    }
}

/// What a machine is, from the moment it is wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Specs {
    /// Our name for it.
    pub machine: MachineId,
    /// The pool it works for.
    pub pool: PoolId,
    /// The account it is rented in, by the name of its provider.
    pub landlord: String,
    /// Its type.
    pub sku: String,
    /// Where it stands.
    pub place: String,
    /// Jobs it runs at a time.
    pub slots: u32,
    /// Dollars an hour, as seen when it was ordered.
    pub usd_per_hour: UsdNanos,
    /// The most that its order may cost an hour, dollars: prices move between a quote and an order.
    pub usd_per_hour_max: UsdNanos,
    /// Dollars an hour while it is parked.
    pub parked_usd_per_hour: UsdNanos,
    /// What jobs are charged for an hour of the whole machine, dollars; `None` for its price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_usd_per_hour: Option<UsdNanos>,
}

impl Specs {
    /// What jobs are charged for an hour of the whole machine, dollars.
    pub fn job_price(&self) -> UsdNanos {
        self.job_usd_per_hour.unwrap_or(self.usd_per_hour)
    }
}

/// A machine's row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// What it is.
    pub specs: Specs,
    /// Where it stands.
    pub life: Life,
    /// Since when.
    pub since_us: Micros,
    /// When it was ordered last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ordered_us: Option<Micros>,
    /// When it was ready first; its start-up time is the span from the order to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_us: Option<Micros>,
    /// When a list showed it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seen_us: Option<Micros>,
    /// Its id at the provider.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// When it ends by itself, where that is agreed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_us: Option<Micros>,
    /// Why it is not wanted any more, if it is not: it is ended as soon as it can be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doomed: Option<String>,
    /// Why it stands where it stands.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// What its landlord wrote down.
    #[serde(default, skip_serializing_if = "Notes::is_empty")]
    pub notes: Notes,
    /// What it cost.
    pub meter: Meter,
}

/// A row as it is stored: what everyone may know, and the keeper's own part.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    #[serde(flatten)]
    machine: Machine,
    keeper: std::borrow::Cow<'a, Row>,
}

impl Row {
    /// A machine that is to be ordered at once.
    pub fn wanted(specs: Specs, unit: Duration, because: String, now: Micros) -> Self {
        Self {
            specs,
            life: Life::Wanted { not_before_us: now, refused: 0 },
            since_us: now,
            ordered_us: None,
            ready_us: None,
            seen_us: None,
            id: None,
            expires_us: None,
            doomed: None,
            because: Some(because),
            notes: Notes::new(),
            meter: Meter::new(unit),
        }
    }

    /// Whether it says something that a successor must know and `stored` does not say. When it is probed next is nothing of that:
    /// a successor probes at once. A row that shows only a newer sighting is stored each [`SIGHT_STORED_EVERY`].
    pub fn is_news_to(&self, stored: &Self) -> bool {
        if self == stored {
            return false;
        }
        let mut aside = Self { seen_us: stored.seen_us, ..self.clone() };
        if let (
            Life::Ready { not_before_us, .. } | Life::Probing { not_before_us, .. },
            Life::Ready { not_before_us: then, .. } | Life::Probing { not_before_us: then, .. },
        ) = (&mut aside.life, &stored.life)
        {
            *not_before_us = *then;
        }
        let seen = self.seen_us.unwrap_or_default().since(stored.seen_us.unwrap_or_default());
        aside != *stored || seen >= SIGHT_STORED_EVERY
    }

    /// What everyone may know.
    pub fn machine(&self) -> Machine {
        Machine {
            machine: self.specs.machine.clone(),
            pool: self.specs.pool.clone(),
            state: self.life.state(),
            since_us: self.since_us,
            address: self.life.address().map(str::to_owned),
            slots: self.specs.slots,
            sku: self.specs.sku.clone(),
            place: self.specs.place.clone(),
            usd_per_hour: self.specs.job_price(),
            provider_id: self.id.clone(),
            because: self.because.clone(),
        }
    }

    /// What its landlord is told of it.
    pub fn known(&self) -> Known {
        Known {
            machine: self.specs.machine.clone(),
            pool: self.specs.pool.clone(),
            id: self.id.clone(),
            place: self.specs.place.clone(),
            notes: self.notes.clone(),
        }
    }

    /// The stored form, JSON.
    pub fn encode(&self) -> Bytes {
        let stored = Stored { machine: self.machine(), keeper: std::borrow::Cow::Borrowed(self) };
        Bytes::from(serde_json::to_vec(&stored).expect("a row has only string keys and no failing parts"))
    }

    /// Reads a stored row.
    pub fn decode(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        let stored: Stored<'static> = serde_json::from_slice(bytes)?;
        Ok(stored.keeper.into_owned())
    }
}
