//! Carries what a machine's life asks for: control calls and probes, each a task whose answer is an event.

use std::{future::Future, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use schemas::{MachineId, time::Clock as _};
use tokio::{
    sync::{Semaphore, mpsc, oneshot},
    time::timeout,
};
use tracing::debug;
use transport::SystemClock;

use super::{desk::Desk, hold::Leash};
use crate::{
    landlord::{CallError, Order, Steps},
    machine::Event,
    metrics,
    probe::Question,
    row::{Life, Row},
    tap::Step,
};

/// A control call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Call {
    Order,
    End,
    Park,
    Wake,
}

impl Call {
    const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::End => "end",
            Self::Park => "park",
            Self::Wake => "wake",
        }
    }

    /// Whether the row still asks for it, after another call has ended.
    pub(super) fn fits(self, row: &Row) -> bool {
        match self {
            Self::End => matches!(row.life, Life::Stopping { park: false, .. }),
            Self::Park => matches!(row.life, Life::Stopping { park: true, .. }),
            Self::Order => matches!(row.life, Life::Ordered { .. }),
            Self::Wake => matches!(row.life, Life::Starting { .. }),
        }
    }
}

/// A task has ended.
#[derive(Debug)]
pub(super) struct Done {
    pub(super) machine: MachineId,
    /// `None` for probes and cordons, which run beside calls.
    pub(super) call: Option<Call>,
    pub(super) event: Option<Event>,
}

/// A landlord asks for something to be stored.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) machine: MachineId,
    pub(super) event: Event,
    pub(super) answer: oneshot::Sender<bool>,
}

/// Stores what a landlord notes, through the keeper's loop.
struct Scribe {
    machine: MachineId,
    steps: mpsc::Sender<Asked>,
}

impl Scribe {
    async fn ask(&self, event: Event) -> bool {
        let (answer, stored) = oneshot::channel();
        let asked = Asked { machine: self.machine.clone(), event, answer };
        self.steps.send(asked).await.is_ok() && stored.await.unwrap_or(false)
    }
}

impl Steps for Scribe {
    fn note<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(self.ask(Event::Noted(name.to_owned(), value.to_owned())))
    }

    fn id<'a>(&'a self, id: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(self.ask(Event::Identified(id.to_owned())))
    }
}

/// A control call about the machine of `row`, as it is stored. It ends where it stands when the lease ends: its answer would not be
/// stored, and the next keeper looks for what it did.
pub(super) fn call(
    desk: &Desk,
    leash: Leash,
    row: &Row,
    call: Call,
    steps: mpsc::Sender<Asked>,
) -> impl Future<Output = Done> + Send + 'static {
    let (landlord, tap, rules) =
        (Arc::clone(desk.account.landlord()), Arc::clone(&desk.tap), desk.account.rules());
    let (known, machine) = (row.known(), row.specs.machine.clone());
    let order = Order {
        machine: machine.clone(),
        pool: row.specs.pool.clone(),
        sku: row.specs.sku.clone(),
        place: row.specs.place.clone(),
        server_key: desk.settings.secret.as_ref().map(|secret| secret.of_machine(&machine)),
        ordered_at: row.ordered_us.unwrap_or_else(|| SystemClock.now()),
        usd_per_hour_max: row.specs.usd_per_hour_max,
        notes: row.notes.clone(),
    };
    let scribe = Scribe { machine: machine.clone(), steps };
    async move {
        let pass = |done| tap.pass(Step { what: call.name(), done, machine: Some(machine.clone()) });
        pass(false).await;
        metrics::called(&known.pool, call.name());
        let within = rules.start_within;
        let carried = async {
            match call {
                Call::Order => Event::Answered(in_time(within, landlord.order(&order, &scribe)).await),
                Call::End => Event::Ended(in_time(within, landlord.end(&known, &scribe)).await),
                Call::Park => Event::ParkAnswered(in_time(within, landlord.park(&known)).await),
                Call::Wake => Event::Woken(in_time(within, landlord.wake(&known, &scribe)).await),
            }
        };
        let event = leash.keep(carried).await;
        if let Some(error) = event.as_ref().and_then(Event::refusal) {
            metrics::failed(&known.pool, call.name(), error);
        }
        pass(true).await;
        Done { machine, call: Some(call), event }
    }
}

/// A call that is not answered in time may have been carried out all the same.
async fn in_time<T>(
    within: Duration,
    call: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let late = |_| Err(CallError::Unclear(format!("no answer within {} s", within.as_secs())));
    timeout(within, call).await.unwrap_or_else(late)
}

/// Takes a machine out of the provider's own routing. Best effort.
pub(super) fn cordon(desk: &Desk, leash: Leash, row: &Row) -> impl Future<Output = Done> + Send + 'static {
    let (landlord, known) = (Arc::clone(desk.account.landlord()), row.known());
    async move {
        if let Some(Err(error)) = leash.keep(landlord.cordon(&known)).await {
            debug!(machine = %known.machine, %error, "not cordoned; the workers give it nothing new anyway");
        }
        Done { machine: known.machine, call: None, event: None }
    }
}

/// Probes the machine of `row` at `address`.
pub(super) fn probe(
    desk: &Desk,
    row: &Row,
    address: String,
    permits: Arc<Semaphore>,
) -> impl Future<Output = Done> + Send + 'static {
    let (prober, machine) = (Arc::clone(&desk.prober), row.specs.machine.clone());
    let question = Question {
        address,
        key: desk.settings.secret.as_ref().map(|secret| secret.of_machine(&machine)),
        model: desk.settings.model.clone(),
        health_path: desk.settings.health_path.clone(),
    };
    async move {
        let permit = permits.acquire_owned().await;
        let outcome = prober.probe(&question).await;
        drop(permit);
        Done { machine, call: None, event: Some(Event::Probed(outcome)) }
    }
}
