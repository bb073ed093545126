//! The seam to a provider: one small trait, implemented by each file under `adapters/`.
//!
//! An adapter speaks one provider's API and classifies its failures. It knows nothing of NATS, leases, journals or prices:
//! it reports the use, and the pool turns use into money.

use std::time::Duration;

use futures_util::future::BoxFuture;
use schemas::{
    AttemptKey, JobId, MachineId, Micros, Tenant, UsdNanos,
    check::Checked,
    failure::Failure,
    job::{Input, Params},
    prices::Used,
    quoted::Quoted,
    reply::{Output, Usage},
};

use crate::{
    adapters::load::ServerLoad,
    check::{self, Asked},
};

/// One attempt, as an adapter sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    /// The job; with `attempt` and `key` it makes the provider's request id.
    pub job: JobId,
    /// Which attempt, from 1.
    pub attempt: u16,
    /// Names the attempt among all attempts of all jobs: two tenants may use one job id.
    pub key: AttemptKey,
    /// The model's name at this provider.
    pub model: String,
    /// The pool's name for the machine. An adapter repeats it where the provider names no machine itself.
    pub sku: String,
    /// Whose job it is.
    pub tenant: Tenant,
    /// The model's input.
    pub input: Input,
    /// Sampling parameters.
    pub params: Params,
    /// The whole call, cold start included, may take this long.
    pub timeout: Duration,
    /// W3C trace context to pass on.
    pub traceparent: Option<String>,
    /// True if the output is wanted while it is being written.
    pub live: bool,
}

impl Call {
    /// `<job>-<attempt>-<key>`: the call's name at the provider, in its logs and its bill, and to find the call again. Whoever goes on
    /// with an attempt of an earlier worker has its key from the journal.
    pub fn request_id(&self) -> String {
        format!("{}-{}-{}", self.job, self.attempt, self.key)
    }
}

/// One thing that was used and will be on the provider's bill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UsedItem {
    /// The provider's name for it: `T4`.
    pub sku: String,
    /// `execution`, `cold_start`, `inference`, `tokens`; as standing cost `idle`, `warm_start`.
    pub item: &'static str,
    /// How much.
    pub used: Used,
    /// What it costs, where no price book says so: a slot of a rented machine, by the hour.
    pub rate: Option<Rate>,
}

/// The price of a slot of a rented machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The machine; `None` when a usual one is meant, before one was chosen.
    pub machine: Option<MachineId>,
    /// What an hour of one slot costs, dollars.
    pub hour_usd: UsdNanos,
}

/// How a call ended, good or bad, and what it used.
#[derive(Clone, Debug, PartialEq)]
pub struct Ended {
    /// The model's output, or the failure.
    pub outcome: Result<Success, Failure>,
    /// The use that the provider will bill; empty when nothing ran.
    pub used: Vec<UsedItem>,
    /// True when the provider did not say and `used` is our own measurement.
    pub estimated: bool,
    /// The part of the call that was a cold start, where it can be told.
    pub cold_start: Duration,
    /// From sending the request to the first token; zero where it does not stream.
    pub first_token: Duration,
}

/// The result of a good call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Success {
    /// The text.
    pub output: Output,
    /// The tokens.
    pub usage: Usage,
}

impl Ended {
    /// A failure that used nothing that is billed.
    pub fn unbilled(failure: Failure) -> Self {
        Self {
            outcome: Err(failure),
            used: Vec::new(),
            estimated: false,
            cold_start: Duration::ZERO,
            first_token: Duration::ZERO,
        }
    }
}

/// The news that an adapter reports while a call goes on.
pub trait Progress: Send + Sync {
    /// The provider is about to be asked for a run that outlives its connection. Awaited before the request is sent: when it
    /// returns, the journal says so, and after a crash the next worker knows that something may be running.
    fn submitting(&self) -> BoxFuture<'_, ()>;

    /// The provider gave the run an id by which it can be found again. Awaited before the first poll: when it
    /// returns, the id is in the journal.
    fn started<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()>;

    /// A piece of output came.
    fn token(&self, text: &str);

    /// The call occupies a slot from now on; `slot` has no time used yet. It is told before the machine is asked, so that a call
    /// that is dropped is booked at the price of its machine. A call that goes on to another machine tells it again.
    fn placed(&self, slot: &UsedItem) {
        let _ = slot;
    }

    /// Returns, with the reason, when the job is cancelled: a run that outlives its connection is then stopped, and its bill
    /// is read. A call that ends with its connection need not listen; it is dropped. Cancel-safe.
    fn taken_back(&self) -> BoxFuture<'_, Failure> {
        Box::pin(std::future::pending())
    }
}

/// The trace of a call whose worker was lost between asking for a run and writing down the run's id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trail {
    /// The run was found; it goes on, or has ended, under this id.
    Run(String),
    /// The call can be made: nothing was started, or the provider knows the call by our own id and does not start it twice.
    Clean,
    /// Unknown. Something may have run and been billed.
    Lost,
}

/// Whether the provider could take work now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// It answered that it can.
    Up,
    /// It answered that it cannot, or did not answer.
    Down(Failure),
}

/// What health checks found last.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sight {
    /// Whether it could take work; `None` before the first check, and where there is none.
    pub up: Option<bool>,
    /// How long a small request takes there and back, where that was measured.
    pub round_trip: Option<Duration>,
    /// How busy it is; `None` where it does not say.
    pub load: Option<ServerLoad>,
    /// Which check said so, counted from 0.
    pub check: Option<u64>,
}

/// Models that a pool asks for and that its provider does not list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// The models.
    pub models: Vec<String>,
    /// What it lists.
    pub listed: Vec<String>,
}

/// A provider. Dropping the future of `run` or `reattach` ends the call as far as the provider lets us.
pub trait Provider: Send + Sync + 'static {
    /// Runs a job to its end. Never longer than `call.timeout`.
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended>;

    /// Goes on with a run that was started `age` ago. `None` when the provider no longer knows the run, and, by default, for
    /// a provider whose runs end with their connection.
    fn reattach<'a>(
        &'a self,
        call: &'a Call,
        run: &'a str,
        age: Duration,
        progress: &'a dyn Progress,
    ) -> BoxFuture<'a, Option<Ended>> {
        let _ = (call, run, age, progress);
        Box::pin(async { None })
    }

    /// Looks for the run of this very call (same job, same attempt), which a lost worker was about to start `age` ago.
    fn find<'a>(&'a self, call: &'a Call, age: Duration) -> BoxFuture<'a, Trail> {
        let _ = (call, age);
        Box::pin(async { Trail::Lost })
    }

    /// Asks the provider to stop a run. Best effort. By default nothing is left to do: closing the connection stops the run.
    fn cancel<'a>(&'a self, run: &'a str) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = run;
        Box::pin(async { Ok(()) })
    }

    /// True if a run outlives its connection, so that the journal must lead to it.
    fn detached(&self) -> bool {
        false
    }

    /// Whether [`Provider::warm`] does anything.
    fn warmable(&self) -> bool {
        false
    }

    /// Keeps so many containers of a model (its name at the provider) ready, running containers included. Best effort. Their
    /// cost comes with [`Provider::standing`].
    fn warm<'a>(&'a self, model: &'a str, containers: u32) -> BoxFuture<'a, Result<(), Failure>> {
        let _ = (model, containers);
        Box::pin(async { Ok(()) })
    }

    /// A cheap check that starts no machine.
    fn health(&self) -> BoxFuture<'_, Health>;

    /// Asks the live service whether the pool's jobs could run, and spends nothing: no container, worker or run is started by it.
    /// Bounded: each of its few requests is.
    fn check<'a>(&'a self, asked: &'a Asked) -> BoxFuture<'a, Checked> {
        let _ = asked;
        Box::pin(async { check::nothing_to_ask() })
    }

    /// What the provider's API says of its prices now. By default there is none.
    fn prices(&self) -> BoxFuture<'_, Quoted> {
        Box::pin(async { Quoted::Untold { page: "the provider's price page" } })
    }

    /// How long one small request takes from here to where jobs go, on an open connection. `None`, the default, where nobody answers.
    fn round_trip(&self) -> BoxFuture<'_, Option<Duration>> {
        Box::pin(async { None })
    }

    /// How busy it is, others' work included, as the last health check found it; `None`, the default, where it does not say.
    fn load(&self) -> Option<ServerLoad> {
        None
    }

    /// Which of these models, by their names at the provider, it does not list; `None`, the default, when it lists all of them, or has
    /// no list that decides.
    fn missing<'a>(&'a self, models: &'a [String]) -> BoxFuture<'a, Option<Missing>> {
        let _ = models;
        Box::pin(async { None })
    }

    /// Capacity that was paid for and that no job used, in total since the provider began to count. The pool books the
    /// difference to the total that it booked before. `None`, the default, for a provider that bills no such capacity.
    fn standing(&self) -> BoxFuture<'_, Option<Vec<UsedItem>>> {
        Box::pin(async { None })
    }

    /// Whether the provider tells its whole bill, by [`Provider::billed`]; the pool then books what its jobs did not.
    fn tells_bill(&self) -> bool {
        false
    }

    /// What the provider billed this pool since `since`, jobs included, as far as that is final at `now`; dollars. `None` when it
    /// does not say now.
    fn billed(&self, since: Micros, now: Micros) -> BoxFuture<'_, Option<UsdNanos>> {
        let _ = (since, now);
        Box::pin(async { None })
    }
}
