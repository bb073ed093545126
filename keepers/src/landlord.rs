//! The seam to a provider of machines: one small trait, a file each under `landlords/`.
//!
//! A landlord speaks one control API and says what its answers mean. It decides nothing: what is ordered, ended or believed
//! is decided by [`crate::machine`] and [`crate::policy`]. It keeps no state that a restart would miss: what must survive is
//! written down through [`Steps`] before the next call is made.
//!
//! One landlord is one account at one provider, whatever number of pools rent there, so that the account's rate limits are
//! kept in one place. It sees only machines that bear our mark and the name of one of our pools.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use schemas::{MachineId, Micros, PoolId, UsdNanos};
use tokio_util::sync::CancellationToken;

pub use crate::call_error::CallError;
use crate::{secret::Secret, survey::Survey};

/// What a landlord wrote down about a machine, by names of its own: the id of a deployment, an activity, an allocation. It is
/// kept in the machine's row and never shown with secrets in it.
pub type Notes = BTreeMap<String, String>;

/// A machine that is to be ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Our name for it. It travels in a field of the provider, by which the machine is found again.
    pub machine: MachineId,
    /// The pool it works for. It travels, too.
    pub pool: PoolId,
    /// The provider's name for its type.
    pub sku: String,
    /// The provider's name for where it is to stand.
    pub place: String,
    /// The key that its server is to ask for.
    pub server_key: Option<Secret>,
    /// When the order was decided.
    pub ordered_at: Micros,
    /// The most that an hour may cost, dollars: an order at a higher price is refused with [`CallError::Price`].
    pub usd_per_hour_max: UsdNanos,
    /// What an earlier, broken-off call for this very order wrote down. Empty at first.
    pub notes: Notes,
}

/// A machine that was ordered before, as its row knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Our name for it.
    pub machine: MachineId,
    /// The pool it works for.
    pub pool: PoolId,
    /// The provider's id of it, if it ever told one.
    pub id: Option<String>,
    /// Where it stands.
    pub place: String,
    /// What was written down about it.
    pub notes: Notes,
}

/// Where a landlord writes down what it must know again after a crash.
pub trait Steps: Send + Sync {
    /// Stores a note in the machine's row. When this returns, the note is stored. `false` when it could not be: the row belongs
    /// to another keeper now, so the caller stops and answers [`CallError::Unclear`].
    fn note<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, bool>;

    /// Stores the provider's id of the machine, as soon as it is known. As [`Steps::note`].
    fn id<'a>(&'a self, id: &'a str) -> BoxFuture<'a, bool>;
}

/// Where a machine stands, in the provider's eyes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It exists and is not usable yet.
    Starting,
    /// It runs, and its server is expected at this URL (no `/v1` at its end). Whether it serves is for the probe to say.
    Up(String),
    /// It is stopped and kept; only storage is paid for.
    Parked,
    /// Its end is under way.
    Ending,
    /// The provider's explicit, final word: it does not exist and never will again.
    Gone,
    /// The provider says that it will not serve as it is: `unhealthy`, `CRASHED`, host unreachable, suspended by somebody else.
    Broken(String),
    /// A word that we do not know: neither usable nor gone.
    Unknown(String),
}

impl Phase {
    /// Where its server is expected, if it runs.
    pub fn url(self) -> Option<String> {
        match self {
            Self::Up(url) => Some(url),
            Self::Starting
            | Self::Parked
            | Self::Ending
            | Self::Gone
            | Self::Broken(_)
            | Self::Unknown(_) => None,
        }
    }
}

/// A machine of ours, as one list call shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sighting {
    /// Our name for it, read from the field of the provider in which it travels.
    pub machine: MachineId,
    /// The pool it was ordered for, read from there.
    pub pool: PoolId,
    /// The provider's id. Two machines of one order have two ids.
    pub id: String,
    /// Where it stands.
    pub phase: Phase,
    /// The type and the place, as far as the list says: for machines that no row knows.
    pub sku: Option<String>,
    /// As `sku`.
    pub place: Option<String>,
    /// What an hour of it costs, where the list or a mark on the machine says so; dollars.
    pub usd_per_hour: Option<UsdNanos>,
    /// When we ordered it, where a mark on the machine says so.
    pub ordered_at: Option<Micros>,
    /// The provider's own account of it, where it gives one.
    pub told: Option<Told>,
    /// When it ends by itself, where that is agreed: a successor is ordered in time.
    pub expires_at: Option<Micros>,
    /// New notes for its row; merged over those that are there.
    pub notes: Notes,
}

impl Sighting {
    /// A machine of which nothing more is told.
    pub fn bare(machine: MachineId, pool: PoolId, id: String, phase: Phase) -> Self {
        Self {
            machine,
            pool,
            id,
            phase,
            sku: None,
            place: None,
            usd_per_hour: None,
            ordered_at: None,
            told: None,
            expires_at: None,
            notes: Notes::new(),
        }
    }
}

/// What a provider says about the cost of a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// Since when it is billed.
    pub from: Option<Micros>,
    /// When billing ended.
    pub until: Option<Micros>,
    /// What it cost so far, where the provider bills by its own measurement; dollars, never falling.
    pub charged_usd: Option<UsdNanos>,
}

/// A machine that bears our mark and the name of a pool that this account is not configured for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stray {
    /// The provider's id.
    pub id: String,
    /// The pool that it names, where the mark can be read without knowing the pool.
    pub pool: Option<PoolId>,
}

/// The machines that one list call shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// All machines with our mark.
    pub sightings: Vec<Sighting>,
    /// True if the answer was whole, so that a machine that is not in it was surely not listed. A machine that is not listed is
    /// not gone yet: lists lag.
    pub whole: bool,
    /// Known machines about which this call can say nothing, although it was whole otherwise; for lists that take a call per
    /// machine.
    pub unanswered: Vec<MachineId>,
    /// Machines with our mark that belong to a pool of nobody here, and are in no row. They are named, and left alone: another
    /// Beacon may share the account. Golem's are not: an agreement ends within minutes when nobody accepts its debit notes.
    pub strays: Vec<Stray>,
}

/// The answer to an order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ordered {
    /// The provider's id of the machine.
    pub id: String,
    /// Notes for the row.
    pub notes: Notes,
}

/// The answer to an ending call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The provider will end the machine. Its absence is to be seen yet.
    Accepted,
    /// The provider's explicit, final word: the machine does not exist any more.
    Gone,
    /// The machine cannot be ended now, for instance while it boots. To be repeated.
    NotNow,
}

/// Whether the provider can stop a machine and keep it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parking {
    /// It can. What it keeps costs [`Quote::parked_usd_per_hour`].
    Offered,
    /// It cannot: to stop is to end.
    NotOffered,
}

/// From when to when a machine is billed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Billed {
    /// From the first sighting in which the machine is not [`Phase::Starting`], until its end is asked for.
    FromUp,
    /// From the order's answer, until its end or parking is confirmed.
    FromOrder,
    /// As the provider tells ([`Told::charged_usd`]).
    AsTold,
}

/// How a provider is dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Its name in messages.
    pub provider: &'static str,
    /// Between two list calls, when nothing is urgent.
    pub list_every: Duration,
    /// Lists without a machine before an unknown order counts as never made: at least three.
    pub looks: u32,
    /// ... and the least time that they must span.
    pub looks_span: Duration,
    /// How long a machine may take from the order to its first real completion.
    pub start_within: Duration,
    /// How long a machine that the provider calls broken may stay so before it is ended.
    pub broken_for: Duration,
    /// When a machine is billed.
    pub billed: Billed,
    /// Bills round up to whole units of this; zero for microseconds.
    pub unit: Duration,
    /// Whether machines can be parked.
    pub parking: Parking,
}

/// What a machine would cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quote {
    /// The provider's name for the place.
    pub place: String,
    /// The provider's name for the type.
    pub sku: String,
    /// Dollars an hour.
    pub usd_per_hour: UsdNanos,
    /// Dollars an hour while parked.
    pub parked_usd_per_hour: UsdNanos,
    /// Whether one could be had now: a hint. `None` where the provider does not say.
    pub available: Option<bool>,
}

/// An account at a provider of machines.
pub trait Landlord: Send + Sync + 'static {
    /// How it is dealt with.
    fn rules(&self) -> Rules;

    /// Checks a pool's settings against the live service: key, type, places, price. Spends nothing. One quote per place in the
    /// pool's order of preference.
    fn quote<'a>(&'a self, pool: &'a PoolId) -> BoxFuture<'a, Result<Vec<Quote>, CallError>>;

    /// Looks at the account for a person, and changes nothing there: the key, places, prices, room, and what stands. Bounded: each of
    /// its few questions is.
    fn survey(&self) -> BoxFuture<'_, Survey> {
        Box::pin(async { Survey::nobody() })
    }

    /// Orders a machine. May take minutes. After a crash it is called again with the notes that it wrote, and goes on at the step
    /// that failed.
    fn order<'a>(
        &'a self,
        order: &'a Order,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ordered, CallError>>;

    /// Lists every machine with our mark. `known` is what the rows know, for providers without one list of all.
    fn list<'a>(&'a self, known: &'a [Known]) -> BoxFuture<'a, Result<Census, CallError>>;

    /// Ends a machine for good. Repeating it does no harm.
    fn end<'a>(
        &'a self,
        machine: &'a Known,
        steps: &'a dyn Steps,
    ) -> BoxFuture<'a, Result<Ending, CallError>>;

    /// Asks the provider to send no new traffic to a machine, where it routes traffic itself. Best effort.
    fn cordon<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        let _ = machine;
        Box::pin(async { Ok(()) })
    }

    /// Stops a machine and keeps it. Only where [`Rules::parking`] offers it.
    fn park<'a>(&'a self, machine: &'a Known) -> BoxFuture<'a, Result<(), CallError>> {
        let _ = machine;
        Box::pin(async { Err(CallError::Misconfigured("this provider cannot park machines".into())) })
    }

    /// Starts a parked machine.
    fn wake<'a>(&'a self, machine: &'a Known, steps: &'a dyn Steps) -> BoxFuture<'a, Result<(), CallError>> {
        let _ = (machine, steps);
        Box::pin(async { Err(CallError::Misconfigured("this provider cannot park machines".into())) })
    }

    /// What must go on whatever else happens, until `shutdown`: Golem's debit notes are answered here. Most have nothing to do.
    fn attend(self: Arc<Self>, shutdown: CancellationToken) -> BoxFuture<'static, ()> {
        Box::pin(async move { shutdown.cancelled().await })
    }
}
