//! The state that every part of one simulator shares: its models, its books, its faults, its chances and its clock.
//!
//! The providers stand above it: each keeps its own calls, jobs or predictions.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    bill::{Bill, Book},
    board::Board,
    clock::Clock,
    config::{Kind, MetricsPage, Server, SimulatedModel, SimulatorConfig},
    fault::{FaultBox, FaultKind},
    fleet::Fleet,
    model::Model,
    rented::fault::Faults,
    request::{BadRequest, Inference},
    tape::Tape,
    text::{self, Answer},
};

/// One simulator, as its handlers see it.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) config: SimulatorConfig,
    pub(crate) book: Arc<Book>,
    pub(crate) board: Arc<Board>,
    pub(crate) faults: FaultBox,
    /// Faults of single routes, by their paths.
    pub(crate) control: Faults,
    pub(crate) tape: Arc<Tape>,
    pub(crate) tasks: TaskTracker,
    pub(crate) shutdown: CancellationToken,
    pub(crate) clock: Clock,
    pub(crate) models: Vec<Arc<Model>>,
    /// The instances of each model, in the order of the models. Empty unless the simulator is a Replicate.
    pub(crate) fleets: Vec<Arc<Fleet>>,
    chance: Mutex<StdRng>,
    requests: AtomicU64,
    metrics_page: Mutex<MetricsPage>,
    engine_steps: AtomicU64,
}

impl Service {
    pub(crate) fn new(
        config: SimulatorConfig,
        started_unix_us: u64,
        shutdown: CancellationToken,
    ) -> Arc<Self> {
        let book = Arc::new(Book::default());
        let board = Board::new(config.models.len());
        let tasks = TaskTracker::new();
        let models = config.models.iter().enumerate();
        let models = models.map(|(index, model)| Model::new(index, model, &config, &book, &board)).collect();
        let fleet = |model| Fleet::new(model, &config.replicate, &book, (&tasks, &shutdown));
        let fleets = match config.kind {
            Kind::OpenAi | Kind::Golem | Kind::Modal | Kind::RunPod => Vec::new(),
            Kind::Replicate => config.models.iter().map(fleet).collect(),
        };
        Arc::new(Self {
            models,
            fleets,
            book,
            board,
            faults: FaultBox::default(),
            control: Faults::default(),
            tape: Arc::new(Tape::new(config.record)),
            tasks,
            shutdown,
            clock: Clock::new(started_unix_us),
            chance: Mutex::new(StdRng::seed_from_u64(config.seed)),
            requests: AtomicU64::new(0),
            metrics_page: Mutex::new(config.openai.metrics),
            engine_steps: AtomicU64::new(1),
            config,
        })
    }

    /// The software that the server runs.
    pub(crate) fn server(&self) -> Server {
        match self.config.kind {
            Kind::OpenAi => self.config.openai.server,
            Kind::Golem | Kind::Modal | Kind::RunPod | Kind::Replicate => Server::Vllm,
        }
    }

    /// What its pages of metrics are like now.
    pub(crate) fn metrics_page(&self) -> MetricsPage {
        *self.metrics_page.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what its pages of metrics are like.
    pub(crate) fn set_metrics_page(&self, page: MetricsPage) {
        *self.metrics_page.lock().unwrap_or_else(PoisonError::into_inner) = page;
    }

    /// The steps of its engine, one more at each look while it moves.
    pub(crate) fn engine_steps(&self, moves: bool) -> u64 {
        self.engine_steps.fetch_add(u64::from(moves), Ordering::Relaxed)
    }

    /// A model by its wire name.
    pub(crate) fn model(&self, name: &str) -> Option<&Arc<Model>> {
        self.models.iter().find(|model| model.settings.name == name)
    }

    /// The text that a model answers, if prompt and answer fit its context.
    pub(crate) fn answer(&self, model: &Model, request: &Inference) -> Result<Answer, BadRequest> {
        let limit = request.fit(model.settings.context_tokens)?;
        Ok(text::compose(self.config.seed, &model.settings, &request.prompt, limit, &request.stop))
    }

    /// Runs the tasks that scale containers and instances down, until the simulator stops.
    pub(crate) fn start_reapers(&self) {
        for containers in self.models.iter().filter_map(|model| model.containers()) {
            self.tasks.spawn(Arc::clone(containers).run_reaper(self.shutdown.clone()));
        }
        for fleet in &self.fleets {
            self.tasks.spawn(Arc::clone(fleet).run_reaper());
        }
    }

    /// The bill, with every idle span closed that is due.
    pub(crate) fn bill(&self) -> Bill {
        self.models
            .iter()
            .filter_map(|model| model.containers())
            .for_each(|containers| containers.reap_due());
        self.fleets.iter().for_each(|fleet| fleet.reap_due());
        self.book.bill()
    }

    /// Decides whether a request that is about to run is hit by the fault in force.
    pub(crate) fn strike(&self) -> Option<FaultKind> {
        self.faults.draw(|_| true, || self.roll())
    }

    /// The same for a request that runs nothing: only a fault that strikes at the edge can hit it.
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
