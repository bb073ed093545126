//! What a plan is made from: everything that a keeper knows of its pool now.

use std::time::Duration;

use schemas::{MachineId, Micros, UsdNanos, machine::MachineState};

use crate::demand::Load;

/// How long a word about running jobs holds. A worker speaks each second; one that died while it was busy is not believed for ever.
pub const REPORT_HOLDS: Duration = Duration::from_secs(10);

/// All that is known of a pool.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// What waits and runs; `None` while no dispatcher speaks.
    pub load: Option<Load>,
    /// The pool's machines that are not gone.
    pub machines: Vec<Standing>,
    /// What a machine would cost, the operator's favourite place first.
    pub offers: Vec<Offer>,
    /// What pools can do that take money only for work; `None` where no such pool serves the model or none is open.
    pub serverless: Option<Serverless>,
    /// Slots of other pools that rent for the same models and are filled before this one ([`super::ahead`]).
    pub ahead_slots: u32,
    /// What the operator asked for.
    pub wish: Wish,
    /// Bills round up to whole units of this; zero where they do not.
    pub unit: Duration,
    /// The least time that a machine is paid for.
    pub minimum: Duration,
    /// Whether machines can be parked.
    pub parks: bool,
}

/// One machine.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its name.
    pub machine: MachineId,
    /// Where it stands in its life.
    pub state: MachineState,
    /// Since when.
    pub since: Micros,
    /// Its type.
    pub sku: String,
    /// Where it is.
    pub place: String,
    /// Jobs it runs at a time.
    pub slots: u32,
    /// What an hour of it costs.
    pub usd_per_hour: UsdNanos,
    /// What an hour of it costs while it is parked.
    pub parked_usd_per_hour: UsdNanos,
    /// When it was ordered, or woken.
    pub ordered_at: Micros,
    /// When it first gave a real completion after that.
    pub ready_at: Option<Micros>,
    /// Until when it is paid for, where bills have units.
    pub paid_until: Option<Micros>,
    /// The jobs it was last said to run, and when that was said.
    pub running: Option<(u32, Micros)>,
    /// Tokens in its prefix cache, as far as anybody knows.
    pub cached_tokens: u64,
    /// It is to be replaced: its agreement ends, or the pool rents something else now.
    pub replace: bool,
    /// The operator wants it gone.
    pub unwanted: bool,
}

impl Standing {
    /// The jobs it runs, if anybody said so lately.
    pub fn jobs(&self, now: Micros) -> Option<u32> {
        self.running.filter(|(_, said)| now.since(*said) <= REPORT_HOLDS).map(|(jobs, _)| jobs)
    }

    /// Whether a cap counts it: it was ordered, or will be.
    pub const fn is_capped(&self) -> bool {
        self.state.counts() || matches!(self.state, MachineState::Wanted)
    }

    /// Whether it works, or is going to.
    pub const fn is_serving(&self) -> bool {
        match self.state {
            MachineState::Wanted
            | MachineState::Ordered
            | MachineState::Starting
            | MachineState::Probing
            | MachineState::Ready => !self.unwanted,
            MachineState::Draining
            | MachineState::Stopping
            | MachineState::Parked
            | MachineState::Lost
            | MachineState::Gone => false,
        }
    }

    /// Whether jobs are handed to it.
    pub const fn is_ready(&self) -> bool {
        matches!(self.state, MachineState::Ready) && !self.unwanted
    }
}

/// A machine that could be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its type.
    pub sku: String,
    /// Where it would be.
    pub place: String,
    /// Jobs it would run at a time.
    pub slots: u32,
    /// What an hour of it costs.
    pub usd_per_hour: UsdNanos,
    /// Whether one can be had now; `None` where the provider does not say.
    pub available: Option<bool>,
}

/// Pools that take money only for work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serverless {
    /// What a second of one job costs at the cheapest of them.
    pub usd_per_second: UsdNanos,
    /// Slots that are free there.
    pub free_slots: u32,
}

/// What the operator asked for. It holds until it is taken back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: the policy decides.
    #[default]
    None,
    /// At least one machine.
    Start,
    /// So many machines, within the caps.
    Scale(u32),
    /// No machine; jobs that still run at the drain limit are cut off.
    Stop,
    /// No machine; every job may end.
    Drain,
}
