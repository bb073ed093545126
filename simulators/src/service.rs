//! One simulator behind its wire: what it serves, its books, its chances and its clock.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bill::{Bill, Book},
    board::Board,
    calls::Calls,
    config::{Kind, SimulatedModel, SimulatorConfig},
    fault::{FaultBox, FaultKind},
    replicate,
    room::Room,
    runpod,
    tape::Tape,
};

/// One simulator, as its handlers see it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: SimulatorConfig,
    pub(crate) book: Arc<Book>,
    pub(crate) board: Arc<Board>,
    pub(crate) faults: FaultBox,
    pub(crate) calls: Calls,
    pub(crate) runpod: runpod::State,
    pub(crate) replicate: replicate::State,
    pub(crate) tape: Tape,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    rooms: Vec<Arc<Room>>,
    chance: Mutex<StdRng>,
    started: Instant,
    /// The wall clock at the start, in microseconds, for the times on the wire.
    started_unix_us: u64,
    requests: AtomicU64,
}

impl Service {
    pub(crate) fn new(
        config: SimulatorConfig,
        started_unix_us: u64,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let book = Arc::new(Book::default());
        let board = Board::new(config.models.len());
        let rooms = config.models.iter().enumerate();
        let rooms = rooms.map(|(index, model)| Room::new(index, model, &config, &book, &board)).collect();
        Arc::new(Self {
            rooms,
            book,
            board,
            faults: FaultBox::default(),
            calls: Calls::default(),
            runpod: runpod::State::new(&config),
            replicate: replicate::State::new(&config),
            tape: Tape::new(config.record),
            tasks: TaskTracker::new(),
            shutdown,
            chance: Mutex::new(StdRng::seed_from_u64(config.seed)),
            started: Instant::now(),
            started_unix_us,
            requests: AtomicU64::new(0),
            config,
        })
    }

    pub(crate) fn rooms(&self) -> &[Arc<Room>] {
        &self.rooms
    }

    /// The room of a model, by its wire name.
    pub(crate) fn room(&self, model: &str) -> Option<&Arc<Room>> {
        self.rooms.iter().find(|room| room.model.name == model)
    }

    /// The bill, with every idle span closed that is due.
    pub(crate) fn bill(&self) -> Bill {
        for containers in self.rooms.iter().filter_map(|room| room.containers()) {
            containers.reap_due();
        }
        match self.config.kind {
            Kind::OpenAi | Kind::Golem | Kind::Modal | Kind::RunPod => {}
            Kind::Replicate => replicate::close_due(self),
        }
        self.book.bill()
    }

    /// Decides whether a request that is about to run is hit by the fault in force.
    pub(crate) fn strike(&self) -> Option<FaultKind> {
        self.faults.draw(|_| true, || self.roll())
    }

    /// The same for a request that runs nothing: only what strikes at the edge can hit it.
    pub(crate) fn strike_at_the_edge(&self) -> Option<FaultKind> {
        self.faults.draw(FaultKind::is_at_the_edge, || self.roll())
    }

    /// How long the next run of this model takes, multiplied by `slowdown`.
    pub(crate) fn service_time(&self, model: &SimulatedModel, slowdown: f64) -> Duration {
        let usual = if model.service_sigma == 0.0 {
            Duration::from_millis(model.service_ms_p50)
        } else {
            let mut chance = self.chance.lock().unwrap_or_else(PoisonError::into_inner);
            lognormal(model.service_ms_p50, model.service_sigma, &mut *chance)
        };
        usual.mul_f64(slowdown).min(SERVICE_TIME_MAX)
    }

    /// Unix seconds, from a clock that pauses when tokio's does.
    pub(crate) fn unix_s(&self) -> u64 {
        self.unix_us(Instant::now()) / 1_000_000
    }

    /// The same clock in microseconds, at a moment since the start.
    pub(crate) fn unix_us(&self, at: Instant) -> u64 {
        self.started_unix_us + micros(at.saturating_duration_since(self.started))
    }

    /// A number no other request of this simulator has.
    pub(crate) fn next_number(&self) -> u64 {
        self.requests.fetch_add(1, Ordering::Relaxed)
    }

    fn roll(&self) -> f64 {
        self.chance.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}

/// A draw from the far tail, or a slow fault on top, stays within a day.
const SERVICE_TIME_MAX: Duration = Duration::from_secs(86_400);

/// A lognormal service time with the median `p50_ms`, by the Box–Muller transform.
fn lognormal(p50_ms: u64, sigma: f64, rng: &mut impl RngExt) -> Duration {
    let (radius, turn): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
    let normal = (-2.0 * radius.ln()).sqrt() * (std::f64::consts::TAU * turn).cos();
    let seconds = p50_ms as f64 / 1000.0 * (sigma * normal).exp();
    Duration::try_from_secs_f64(seconds).unwrap_or(SERVICE_TIME_MAX).min(SERVICE_TIME_MAX)
}

/// Whole microseconds, rounded down.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).expect("half a million years fit")
}

/// Returns at once, without asking the timer, when the time has come.
pub(crate) async fn sleep_until(at: Instant) {
    if at > Instant::now() {
        time::sleep_until(at).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_of_all_lognormal_times_lie_below_the_median() {
        let mut rng = StdRng::seed_from_u64(7);
        let below =
            (0..10_000).filter(|_| lognormal(200, 0.5, &mut rng) < Duration::from_millis(200)).count();
        assert!((4_800..5_200).contains(&below), "{below}");
    }
}
