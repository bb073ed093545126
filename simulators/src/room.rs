//! One model and the way through it: queue, seat, start, admission, end, and a line on the bill.
//!
//! A [`Visit`] is one request's way: it waits for a seat, waits until what it sits in is warm, is admitted, and
//! ends. Dropping it at any point leaves the queue or aborts the run, and bills what has been used.

use std::{sync::Arc, time::Duration};

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use tokio::time::Instant;

use crate::{
    bill::{BillKind, Book, LineId, Price},
    board::{Board, Queued, Running},
    config::{Kind, SimulatedModel, SimulatorConfig},
    container::{Containers, Lease, Sort},
    runpod,
    service::{micros, sleep_until},
    slots::{Slot, Slots},
};

/// One model: its settings and its seats.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) model: SimulatedModel,
    index: usize,
    region: String,
    price: Price,
    /// What a run is rounded up to: RunPod tells, and bills, whole milliseconds.
    tick_micros: u64,
    seats: Seats,
    book: Arc<Book>,
    board: Arc<Board>,
}

#[derive(Debug)]
enum Seats {
    Slots(Arc<Slots>),
    Containers(Arc<Containers>),
}

impl Room {
    pub(crate) fn new(
        index: usize,
        model: &SimulatedModel,
        config: &SimulatorConfig,
        book: &Arc<Book>,
        board: &Arc<Board>,
    ) -> Arc<Self> {
        let seats = match config.kind {
            // Replicate keeps a fleet of its own.
            Kind::OpenAi | Kind::Golem | Kind::Replicate => Seats::Slots(Slots::new(model)),
            Kind::Modal | Kind::RunPod => {
                let window = match config.kind {
                    Kind::RunPod => runpod::idle_timeout(&config.runpod),
                    _ => Duration::from_millis(config.modal.scaledown_window_ms),
                };
                let sort = Sort {
                    most: usize::try_from(model.slots).expect("checked to be at most 100000"),
                    window,
                    cold_start: Duration::from_millis(model.cold_start_ms),
                    sku: model.sku.clone(),
                    price_per_second_nanos: model.price_per_second_nanos,
                };
                Seats::Containers(Containers::new(sort, Arc::clone(book)))
            }
        };
        let price = match config.kind {
            Kind::Golem => Price::PerInference(model.price_per_inference_nanos),
            Kind::OpenAi | Kind::Modal | Kind::RunPod | Kind::Replicate => {
                Price::PerSecond(model.price_per_second_nanos)
            }
        };
        Arc::new(Self {
            model: model.clone(),
            index,
            region: config.region.clone(),
            price,
            tick_micros: if config.kind == Kind::RunPod { 1_000 } else { 1 },
            seats,
            book: Arc::clone(book),
            board: Arc::clone(board),
        })
    }

    pub(crate) fn index(&self) -> usize {
        self.index
    }

    /// The containers of a model on Modal; `None` for a rented server.
    pub(crate) fn containers(&self) -> Option<&Arc<Containers>> {
        match &self.seats {
            Seats::Containers(containers) => Some(containers),
            Seats::Slots(_) => None,
        }
    }

    /// Waits in the queue for a seat. Cancel-safe: whoever gives up leaves the queue.
    pub(crate) async fn visit(self: &Arc<Self>, run: Option<String>) -> Visit {
        let queued = self.board.queue(self.index);
        let seat = match &self.seats {
            Seats::Slots(slots) => Seat::Slot(slots.sit().await),
            Seats::Containers(containers) => Seat::Container(containers.lease().await),
        };
        Visit {
            room: Arc::clone(self),
            run,
            cold_micros: None,
            stage: Stage::Waiting { queued, starting: None },
            seat,
        }
    }
}

#[derive(Debug)]
enum Seat {
    Slot(Slot),
    Container(Lease),
}

/// One request's way through a room. Dropping it aborts it.
#[derive(Debug)]
pub(crate) struct Visit {
    room: Arc<Room>,
    run: Option<String>,
    /// Set on the first input of a container that was started for it.
    cold_micros: Option<u64>,
    stage: Stage,
    /// The last field, so that the seat is free only after the bill is written.
    seat: Seat,
}

#[derive(Debug)]
enum Stage {
    /// Seated, and perhaps waiting for the container to start since then.
    Waiting { queued: Queued, starting: Option<Instant> },
    /// Admitted. The line exists already when the price is per inference.
    Admitted { running: Running, since: Instant, line: Option<LineId> },
    /// Billed.
    Over,
}

impl Visit {
    /// Waits for a cold start, then is admitted: from here on the run is billed. Nothing is awaited after that.
    pub(crate) async fn admit(&mut self, prompt_tokens: u32) {
        match &mut self.seat {
            Seat::Slot(slot) => sleep_until(slot.ready_at).await,
            Seat::Container(lease) if lease.cold => {
                let now = Instant::now();
                if let Stage::Waiting { starting, .. } = &mut self.stage {
                    *starting = Some(now);
                }
                sleep_until(now + Duration::from_millis(self.room.model.cold_start_ms)).await;
                self.charge_startup(micros(now.elapsed()), true);
            }
            Seat::Container(lease) => lease.up().await,
        }
        let Stage::Waiting { queued, .. } = std::mem::replace(&mut self.stage, Stage::Over) else {
            unreachable!("a visit is admitted once, by the one who made it");
        };
        let line = match self.room.price {
            Price::PerInference(nanos) => {
                Some(self.room.book.admit(self.run.clone(), &self.room.model.sku, nanos))
            }
            Price::PerSecond(_) => None,
        };
        let running = queued.admit(prompt_tokens);
        self.stage = Stage::Admitted { running, since: Instant::now(), line };
    }

    /// The run ended well after generating so many tokens. What was measured is for Modal's callers.
    pub(crate) fn finish(mut self, generated_tokens: u32) -> Option<Billing> {
        self.settle(Some(generated_tokens))
    }

    /// The run ended otherwise.
    pub(crate) fn abort(mut self) -> Option<Billing> {
        self.settle(None)
    }

    /// The run ended because its container died.
    pub(crate) fn die(mut self) -> Option<Billing> {
        if let Seat::Container(lease) = &mut self.seat {
            lease.kill();
        }
        self.settle(None)
    }

    /// The id of the container it sits in.
    pub(crate) fn container(&self) -> Option<&str> {
        match &self.seat {
            Seat::Container(lease) => Some(&lease.id),
            Seat::Slot(_) => None,
        }
    }

    /// Writes the bill, once. `generated` tells that the run ended well.
    fn settle(&mut self, generated: Option<u32>) -> Option<Billing> {
        let execution_micros = match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Over => return None,
            Stage::Waiting { starting, .. } => {
                // Nobody wants it any more: a container that is not up stops where it is in its start.
                if let Seat::Container(lease) = &mut self.seat
                    && lease.cold
                {
                    lease.kill();
                }
                if let Some(since) = starting {
                    self.charge_startup(micros(since.elapsed()), false);
                }
                0
            }
            Stage::Admitted { running, since, line } => {
                let spent = micros(since.elapsed()).next_multiple_of(self.room.tick_micros);
                self.charge_run(line, spent, generated.is_some());
                if let Some(tokens) = generated {
                    running.finish(tokens);
                }
                spent
            }
        };
        match &self.seat {
            Seat::Slot(_) => None,
            Seat::Container(lease) => Some(Billing {
                gpu: self.room.model.sku.clone(),
                execution_s: Seconds(execution_micros),
                cold_start_s: self.cold_micros.map(Seconds),
                container_id: lease.id.clone(),
                region: self.room.region.clone(),
            }),
        }
    }

    fn charge_startup(&mut self, spent: u64, completed: bool) {
        if let Price::PerSecond(price) = self.room.price {
            let (run, sku) = (self.run.clone(), &self.room.model.sku);
            self.room.book.charge(run, sku, BillKind::Startup, price, spent, completed);
            self.cold_micros = Some(spent);
        }
    }

    fn charge_run(&self, line: Option<LineId>, spent: u64, completed: bool) {
        match (line, self.room.price) {
            (Some(line), Price::PerInference(_)) => self.room.book.complete(line, spent, completed),
            (_, Price::PerSecond(price)) => {
                let (run, sku) = (self.run.clone(), &self.room.model.sku);
                self.room.book.charge(run, sku, BillKind::Run, price, spent, completed);
            }
            (None, Price::PerInference(_)) => unreachable!("admission enters the line"),
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.settle(None);
    }
}

/// What Beacon's app on Modal measures of one run, as it goes over the wire.
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

/// Microseconds that are written as seconds with exactly six decimals, so that `round(seconds × 10⁶)` is exact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) u64);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = format!("{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000);
        let number = RawValue::from_string(text).expect("digits, a point and digits are a JSON number");
        number.serialize(serializer)
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

    #[test]
    fn seconds_have_six_decimals_whatever_they_are() {
        for (micros, text) in [(0, "0.000000"), (834_510, "0.834510"), (12_000_001, "12.000001")] {
            assert_eq!(serde_json::to_string(&Seconds(micros)).unwrap(), text);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn golem_bills_at_admission_and_not_before() {
        let model =
            SimulatedModel { slots: 1, price_per_inference_nanos: 100_000, ..SimulatedModel::new("m") };
        let service = service(Kind::Golem, model);
        let room = service.room("m").unwrap();
        let mut first = room.visit(Some("a".to_owned())).await;
        assert_eq!(service.book.bill().total_nanos, 0);
        first.admit(1).await;
        assert_eq!(service.book.bill().total_nanos, 100_000);
        let left = time::timeout(Duration::from_secs(1), room.visit(None)).await;
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
        let room = service.room("m").unwrap();
        for (run, cold) in [("a", Some(Seconds(4_200_000))), ("b", None)] {
            let mut visit = room.visit(Some(run.to_owned())).await;
            visit.admit(1).await;
            time::advance(Duration::from_micros(834_512)).await;
            let billing = visit.finish(8).unwrap();
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
        let room = service.room("m").unwrap();
        drop(room.visit(None).await);
        assert!(service.bill().lines.is_empty(), "nothing had begun");
        let mut visit = room.visit(Some("a".to_owned())).await;
        assert!(time::timeout(Duration::from_secs(1), visit.admit(1)).await.is_err());
        let billing = visit.abort().unwrap();
        assert_eq!((billing.execution_s, billing.cold_start_s), (Seconds(0), Some(Seconds(1_000_000))));
        let bill = service.bill();
        assert_eq!((bill.lines.len(), bill.lines[0].kind, bill.total_nanos), (1, BillKind::Startup, 164_000));
        assert_eq!(room.containers().unwrap().count(), 0);
    }

    fn modal_model() -> SimulatedModel {
        SimulatedModel { sku: "T4".to_owned(), price_per_second_nanos: 164_000, ..SimulatedModel::new("m") }
    }
}
