//! One model as the simulator serves it: its settings, its capacity (slots or containers), its queue and its price.
//!
//! A [`Run`] is one request at the model. It waits for a slot or a container, waits until that is warm, is admitted, and
//! ends with a line on the bill. Dropping a run leaves the queue or aborts the run, and bills what it has used.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Serialize;
use tokio::time::Instant;

use crate::{
    bill::{BillKind, Book, LineId, Price},
    board::{Board, Queued, Running},
    clock::{Seconds, micros, sleep_until},
    config::{Kind, SimulatedModel, SimulatorConfig},
    containers::{Container, Containers, Sort},
    prefixes::Prefixes,
    slots::{Slot, Slots},
};

/// One model as the simulator serves it.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) settings: SimulatedModel,
    index: usize,
    region: String,
    price: Price,
    /// A run's time is rounded up to this: RunPod tells and bills whole milliseconds.
    tick_micros: u64,
    capacity: Capacity,
    prefixes: Mutex<Prefixes>,
    book: Arc<Book>,
    board: Arc<Board>,
}

/// The capacity of a model: how many requests run at a time, and on which kind of place.
#[derive(Debug)]
enum Capacity {
    /// A rented server.
    Slots(Arc<Slots>),
    /// Serverless.
    Containers(Arc<Containers>),
}

impl Model {
    pub(crate) fn new(
        index: usize,
        settings: &SimulatedModel,
        config: &SimulatorConfig,
        book: &Arc<Book>,
        board: &Arc<Board>,
    ) -> Arc<Self> {
        let capacity = match config.kind {
            // Predictions run on a fleet of instances and leave these slots empty.
            Kind::OpenAi | Kind::Golem | Kind::Replicate => Capacity::Slots(Slots::new(settings)),
            Kind::Modal | Kind::RunPod => {
                let window = match config.kind {
                    Kind::RunPod => config.runpod.idle_timeout(),
                    _ => Duration::from_millis(config.modal.scaledown_window_ms),
                };
                let sort = Sort {
                    most: usize::try_from(settings.slots).expect("checked to be at most 100000"),
                    window,
                    cold_start: Duration::from_millis(settings.cold_start_ms),
                    sku: settings.sku.clone(),
                    price_per_second_nanos: settings.price_per_second_nanos,
                };
                Capacity::Containers(Containers::new(sort, Arc::clone(book)))
            }
        };
        let price = match config.kind {
            Kind::Golem => Price::PerInference(settings.price_per_inference_nanos),
            Kind::OpenAi | Kind::Modal | Kind::RunPod | Kind::Replicate => {
                Price::PerSecond(settings.price_per_second_nanos)
            }
        };
        Arc::new(Self {
            settings: settings.clone(),
            index,
            region: config.region.clone(),
            price,
            tick_micros: if config.kind == Kind::RunPod { 1_000 } else { 1 },
            capacity,
            prefixes: Mutex::new(Prefixes::new(settings.prefix_cache_tokens)),
            book: Arc::clone(book),
            board: Arc::clone(board),
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// How many tokens of a prompt are in its prefix cache, where the whole prompt is from now on.
    pub(crate) fn read_prefix(&self, prompt: &str) -> Option<u32> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner).read(prompt)
    }

    /// The containers of a serverless model; `None` for a rented server.
    pub(crate) fn containers(&self) -> Option<&Arc<Containers>> {
        match &self.capacity {
            Capacity::Containers(containers) => Some(containers),
            Capacity::Slots(_) => None,
        }
    }

    /// Whether the model of a rented server is in its memory.
    pub(crate) fn is_loaded(&self) -> bool {
        match &self.capacity {
            Capacity::Slots(slots) => slots.is_loaded(),
            Capacity::Containers(_) => true,
        }
    }

    /// Waits in the queue for a slot or a container. `name` is the run's name on the bill. Cancel-safe: a caller that gives
    /// up leaves the queue.
    pub(crate) async fn queue(self: &Arc<Self>, name: Option<String>) -> Run {
        let queued = self.board.queue(self.index);
        let place = match &self.capacity {
            Capacity::Slots(slots) => Place::Slot(slots.take().await),
            Capacity::Containers(containers) => Place::Container(containers.take().await),
        };
        Run {
            model: Arc::clone(self),
            name,
            cold_micros: None,
            stage: Stage::Waiting { queued, starting: None },
            place,
        }
    }
}

/// The place of a run.
#[derive(Debug)]
enum Place {
    Slot(Slot),
    Container(Container),
}

/// One request at a model. Dropping it aborts it.
#[derive(Debug)]
pub(crate) struct Run {
    model: Arc<Model>,
    name: Option<String>,
    /// Set on the first input of a container that was started for it.
    cold_micros: Option<u64>,
    stage: Stage,
    /// The last field, so that the place is free only after the bill is written.
    place: Place,
}

#[derive(Debug)]
enum Stage {
    /// In the queue, or waiting for the container to start since then.
    Waiting { queued: Queued, starting: Option<Instant> },
    /// Admitted. The line exists already when the price is per inference.
    Admitted { running: Running, since: Instant, line: Option<LineId> },
    /// Billed.
    Over,
}

impl Run {
    /// Waits for a cold start, then is admitted: from here on the run is billed. Nothing is awaited after that.
    pub(crate) async fn admit(&mut self, prompt_tokens: u32) {
        match &mut self.place {
            Place::Slot(slot) => sleep_until(slot.ready_at).await,
            Place::Container(container) if container.cold => {
                let now = Instant::now();
                if let Stage::Waiting { starting, .. } = &mut self.stage {
                    *starting = Some(now);
                }
                sleep_until(now + Duration::from_millis(self.model.settings.cold_start_ms)).await;
                self.charge_startup(micros(now.elapsed()), true);
            }
            Place::Container(container) => container.up().await,
        }
        let Stage::Waiting { queued, .. } = std::mem::replace(&mut self.stage, Stage::Over) else {
            unreachable!("a run is admitted once, by the task that queued it");
        };
        let line = match self.model.price {
            Price::PerInference(nanos) => {
                Some(self.model.book.admit(self.name.clone(), &self.model.settings.sku, nanos))
            }
            Price::PerSecond(_) => None,
        };
        let running = queued.admit(prompt_tokens);
        self.stage = Stage::Admitted { running, since: Instant::now(), line };
    }

    /// The run ended well and generated so many tokens. Gives the measurements that Modal tells its callers.
    pub(crate) fn finish(mut self, generated_tokens: u32) -> Option<Billing> {
        self.settle(Some(generated_tokens))
    }

    /// The run ended otherwise.
    pub(crate) fn abort(mut self) -> Option<Billing> {
        self.settle(None)
    }

    /// The run ended because its container died.
    pub(crate) fn die(mut self) -> Option<Billing> {
        if let Place::Container(container) = &mut self.place {
            container.kill();
        }
        self.settle(None)
    }

    /// The id of the container it sits in.
    pub(crate) fn container(&self) -> Option<&str> {
        match &self.place {
            Place::Container(container) => Some(&container.id),
            Place::Slot(_) => None,
        }
    }

    /// Writes the bill, once. `generated` tells that the run ended well.
    fn settle(&mut self, generated: Option<u32>) -> Option<Billing> {
        let execution_micros = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Over => return None,
            Stage::Waiting { starting, .. } => {
                // Nobody wants it any more: a container that is not up stops where it is in its start.
                if let Place::Container(container) = &mut self.place
                    && container.cold
                {
                    container.kill();
                }
                if let Some(since) = starting {
                    self.charge_startup(micros(since.elapsed()), false);
                }
                0
            }
            Stage::Admitted { running, since, line } => {
                let spent = micros(since.elapsed()).next_multiple_of(self.model.tick_micros);
                self.charge_run(line, spent, generated.is_some());
                if let Some(tokens) = generated {
                    running.finish(tokens);
                }
                spent
            }
        };
        match &self.place {
            Place::Slot(_) => None,
            Place::Container(container) => Some(Billing {
                gpu: self.model.settings.sku.clone(),
                execution_s: Seconds(execution_micros),
                cold_start_s: self.cold_micros.map(Seconds),
                container_id: container.id.clone(),
                region: self.model.region.clone(),
            }),
        }
    }

    fn charge_startup(&mut self, spent: u64, completed: bool) {
        if let Price::PerSecond(price) = self.model.price {
            let (name, sku) = (self.name.clone(), &self.model.settings.sku);
            self.model.book.charge(name, sku, BillKind::Startup, price, spent, completed);
            self.cold_micros = Some(spent);
        }
    }

    fn charge_run(&self, line: Option<LineId>, spent: u64, completed: bool) {
        match (line, self.model.price) {
            (Some(line), Price::PerInference(_)) => self.model.book.complete(line, spent, completed),
            (_, Price::PerSecond(price)) => {
                let (name, sku) = (self.name.clone(), &self.model.settings.sku);
                self.model.book.charge(name, sku, BillKind::Run, price, spent, completed);
            }
            (None, Price::PerInference(_)) => unreachable!("admission enters the line"),
        }
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        self.settle(None);
    }
}

/// The measurements of one run, as Beacon's app on Modal sends them.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Billing {
    pub(crate) gpu: String,
    pub(crate) execution_s: Seconds,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) cold_start_s: Option<Seconds>,
    pub(crate) container_id: String,
    pub(crate) region: String,
}

impl Billing {
    /// Execution in whole milliseconds.
    pub(crate) fn execution_millis(&self) -> u64 {
        self.execution_s.0 / 1_000
    }
}

#[cfg(test)]
mod tests {
    use tokio::time;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::service::Service;

    fn service(kind: Kind, model: SimulatedModel) -> Arc<Service> {
        Service::new(SimulatorConfig::new("s", kind, vec![model]), 0, CancellationToken::new())
    }

    #[tokio::test(start_paused = true)]
    async fn golem_bills_at_admission_and_not_before() {
        let model =
            SimulatedModel { slots: 1, price_per_inference_nanos: 100_000, ..SimulatedModel::new("m") };
        let service = service(Kind::Golem, model);
        let model = service.model("m").unwrap();
        let mut first = model.queue(Some("a".to_owned())).await;
        assert_eq!(service.book.bill().total_nanos, 0);
        first.admit(1).await;
        assert_eq!(service.book.bill().total_nanos, 100_000);
        let left = time::timeout(Duration::from_secs(1), model.queue(None)).await;
        assert!(left.is_err(), "the only slot is taken");
        drop(first);
        let (bill, stats) = (service.book.bill(), service.board.total());
        assert_eq!((bill.total_nanos, bill.lines[0].completed), (100_000, false));
        assert_eq!((stats.aborted, stats.left_queue, stats.queued, stats.running), (1, 1, 0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn modal_bills_the_start_to_the_run_that_caused_it() {
        let model = SimulatedModel { cold_start_ms: 4_200, ..modal_model() };
        let service = service(Kind::Modal, model);
        let model = service.model("m").unwrap();
        for (name, cold) in [("a", Some(Seconds(4_200_000))), ("b", None)] {
            let mut run = model.queue(Some(name.to_owned())).await;
            run.admit(1).await;
            time::advance(Duration::from_micros(834_512)).await;
            let billing = run.finish(8).unwrap();
            assert_eq!((billing.execution_s, billing.cold_start_s), (Seconds(834_512), cold));
        }
        let bill = service.book.bill();
        let lines: Vec<_> = bill.lines.iter().map(|l| (l.run.as_deref(), l.kind, l.amount_nanos)).collect();
        let expected = [
            (Some("a"), BillKind::Startup, 688_800),
            (Some("a"), BillKind::Run, 136_860),
            (Some("b"), BillKind::Run, 136_860),
            (None, BillKind::Idle, 0),
        ];
        assert_eq!(lines, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_that_nobody_waits_for_is_billed_as_far_as_it_came() {
        let model = SimulatedModel { cold_start_ms: 4_000, ..modal_model() };
        let service = service(Kind::Modal, model);
        let model = service.model("m").unwrap();
        drop(model.queue(None).await);
        assert!(service.bill().lines.is_empty(), "nothing had begun");
        let mut run = model.queue(Some("a".to_owned())).await;
        assert!(time::timeout(Duration::from_secs(1), run.admit(1)).await.is_err());
        let billing = run.abort().unwrap();
        assert_eq!((billing.execution_s, billing.cold_start_s), (Seconds(0), Some(Seconds(1_000_000))));
        let bill = service.bill();
        assert_eq!((bill.lines.len(), bill.lines[0].kind, bill.total_nanos), (1, BillKind::Startup, 164_000));
        assert_eq!(model.containers().unwrap().count(), 0);
    }

    fn modal_model() -> SimulatedModel {
        SimulatedModel { sku: "T4".to_owned(), price_per_second_nanos: 164_000, ..SimulatedModel::new("m") }
    }
}
