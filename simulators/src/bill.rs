//! The simulator's own bill: the exact charges of this provider, line by line.
//!
//! | kind | one line for | amount in nano-dollars |
//! |---|---|---|
//! | `golem` | each inference admitted to a slot, finished or not | the price per inference |
//! | `openai` | each request, from admission to its end or abort | per second, rounded up |
//! | `modal`, startup | each container start, with the run that caused it | per second, rounded up |
//! | `modal`, warm start | each GPU, all starts that no run waited for together | per second of the sum, rounded up |
//! | `modal`, run | each input a container began, to its end or abort | per second, rounded up |
//! | `modal`, idle | each GPU, all closed idle spans together | per second of the sum, rounded up |
//! | `runpod`, startup and idle | each worker start, and all closed idle spans together | per second, rounded up |
//! | `runpod`, run | each execution, in whole milliseconds as the job tells it | per second, rounded up |
//! | `replicate` by predict time | each prediction that ran, canceled and failed ones as far as they ran | per second, rounded up |
//! | `replicate` by tokens | each prediction that succeeded, or was canceled after some output | `ceil(read × price / 10⁶) + ceil(written × price / 10⁶)` |
//! | `replicate` standing, startup | each boot of an instance, with the prediction that caused it | per second, rounded up |
//! | `replicate` standing, run | each prediction that ran | per second, rounded up |
//! | `replicate` standing, idle | each SKU, all closed idle spans together | per second of the sum, rounded up |
//!
//! Time is whole microseconds and an amount is `ceil(price_per_second_nanos × micros / 1,000,000)`, line by line.
//! A request that was refused, or whose caller left before admission, has no line. An answer's status 200 is sent
//! at admission, with nothing in between, so a caller who saw a 200 has been billed. A caller who left at that very
//! moment may have been billed without seeing it, as with any network.
//!
//! Replicate charges nothing for a prediction that never ran, nor for one that the platform itself interrupted. The
//! time of a run is `metrics.predict_time` on the wire; with standing instances a caller sees no more than that.
//!
//! A line of kind `golem` stands from admission, with `billed_micros` 0 until the request ends; the other lines stand
//! from the end of what they bill. An idle span closes when its container takes the next input or scales down;
//! until then it is not billed, except that a span which a floor of `PUT /v1/warm` holds open is billed up to now. `completed` tells a run that ended well from a run that broke. A caller on
//! Modal learns the cost of a broken run only from a job's result, and after a cut connection not at all.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

/// All that has been charged so far.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bill {
    /// In order of entry. Starts ahead and idle time, which no run caused, come last.
    pub lines: Vec<BillLine>,
    /// The sum of all lines, in nano-dollars.
    pub total_nanos: u64,
}

/// One charge.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BillLine {
    /// The caller's name for the run: its `X-Request-Id`, or the `id` of a Modal job; for Replicate the id of the
    /// prediction. Absent for idle time and starts ahead.
    pub run: Option<String>,
    /// The SKU.
    pub sku: String,
    /// The use that is charged.
    pub kind: BillKind,
    /// For how long, in microseconds.
    pub billed_micros: u64,
    /// The charge, in nano-dollars.
    pub amount_nanos: u64,
    /// True if the run ended well.
    pub completed: bool,
}

/// The use that a line charges for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BillKind {
    /// Executing a request.
    Run,
    /// Starting a container.
    Startup,
    /// Starting a container ahead of its first input.
    WarmStart,
    /// A container that waits for its next input.
    Idle,
}

/// How a run is priced, in nano-dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Price {
    /// Once, at admission.
    PerInference(u64),
    /// By the second, rounded up to a nano-dollar for each line.
    PerSecond(u64),
}

/// The billed use of the containers of one GPU in microseconds, as `GET /billing` reports it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuUsage {
    /// The SKU.
    pub gpu: String,
    /// Starting containers for inputs that waited.
    pub startup_us: u64,
    /// Starting containers ahead of any input.
    pub warm_start_us: u64,
    /// Executing inputs.
    pub execution_us: u64,
    /// Waiting for inputs.
    pub idle_us: u64,
    /// The number of waits. A wait that is billed in parts counts once for each part.
    pub idle_spans: u64,
}

/// The charge for `micros` microseconds, rounded up.
pub(crate) fn amount_for(price_per_second_nanos: u64, micros: u64) -> u64 {
    let nanos = (u128::from(price_per_second_nanos) * u128::from(micros)).div_ceil(1_000_000);
    u64::try_from(nanos).expect("prices are checked to be below $1000 a second: this would be years")
}

/// Which line of the book a run that is going on will complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LineId(usize);

/// The bill while it is being written. Lines are appended and at most completed, never removed.
#[derive(Debug, Default)]
pub(crate) struct Book(Mutex<Pages>);

#[derive(Debug, Default)]
struct Pages {
    lines: Vec<BillLine>,
    /// By GPU; only time-priced use of Modal enters here.
    gpus: BTreeMap<String, Gpu>,
}

#[derive(Debug, Default)]
struct Gpu {
    price_per_second_nanos: u64,
    startup_us: u64,
    warm_start_us: u64,
    execution_us: u64,
    idle_us: u64,
    idle_spans: u64,
}

impl Book {
    /// Charges an inference at its admission; [`Book::complete`] adds how long it took and how it ended.
    pub(crate) fn admit(&self, run: Option<String>, sku: &str, amount_nanos: u64) -> LineId {
        let mut pages = self.pages();
        pages.lines.push(BillLine {
            run,
            sku: sku.to_owned(),
            kind: BillKind::Run,
            billed_micros: 0,
            amount_nanos,
            completed: false,
        });
        LineId(pages.lines.len() - 1)
    }

    /// Completes the line of an admitted inference with its time and its outcome.
    pub(crate) fn complete(&self, line: LineId, micros: u64, completed: bool) {
        let mut pages = self.pages();
        let line = &mut pages.lines[line.0];
        line.billed_micros = micros;
        line.completed = completed;
    }

    /// Charges time that has passed.
    pub(crate) fn charge(
        &self,
        run: Option<String>,
        sku: &str,
        kind: BillKind,
        price_per_second_nanos: u64,
        micros: u64,
        completed: bool,
    ) {
        let mut pages = self.pages();
        let gpu = pages.gpu(sku, price_per_second_nanos);
        match kind {
            BillKind::Run => gpu.execution_us += micros,
            BillKind::Startup => gpu.startup_us += micros,
            // One cumulative line per GPU, written when the bill is read.
            BillKind::WarmStart => {
                gpu.warm_start_us += micros;
                return;
            }
            BillKind::Idle => {
                gpu.idle_us += micros;
                gpu.idle_spans += 1;
                return;
            }
        }
        pages.lines.push(BillLine {
            run,
            sku: sku.to_owned(),
            kind,
            billed_micros: micros,
            amount_nanos: amount_for(price_per_second_nanos, micros),
            completed,
        });
    }

    /// Charges an amount that was reckoned elsewhere, and says for how long something ran.
    pub(crate) fn charge_amount(&self, line: BillLine) {
        self.pages().lines.push(line);
    }

    /// The bill as it stands.
    pub(crate) fn bill(&self) -> Bill {
        let pages = self.pages();
        let mut lines = pages.lines.clone();
        for (sku, gpu) in &pages.gpus {
            let warm = (gpu.warm_start_us > 0).then_some((BillKind::WarmStart, gpu.warm_start_us));
            let idle = (gpu.idle_spans > 0).then_some((BillKind::Idle, gpu.idle_us));
            lines.extend(warm.into_iter().chain(idle).map(|(kind, billed_micros)| BillLine {
                run: None,
                sku: sku.clone(),
                kind,
                billed_micros,
                amount_nanos: amount_for(gpu.price_per_second_nanos, billed_micros),
                completed: true,
            }));
        }
        drop(pages);
        let total_nanos = lines.iter().map(|line| line.amount_nanos).sum();
        Bill { lines, total_nanos }
    }

    /// The use of the containers so far, by GPU.
    pub(crate) fn usage(&self) -> Vec<GpuUsage> {
        let pages = self.pages();
        let usage = pages.gpus.iter().map(|(gpu, used)| GpuUsage {
            gpu: gpu.clone(),
            startup_us: used.startup_us,
            warm_start_us: used.warm_start_us,
            execution_us: used.execution_us,
            idle_us: used.idle_us,
            idle_spans: used.idle_spans,
        });
        usage.collect()
    }

    fn pages(&self) -> std::sync::MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn gpu(&mut self, sku: &str, price_per_second_nanos: u64) -> &mut Gpu {
        if !self.gpus.contains_key(sku) {
            self.gpus.insert(sku.to_owned(), Gpu::default());
        }
        let gpu = self.gpus.get_mut(sku).expect("inserted just above when it was missing");
        gpu.price_per_second_nanos = price_per_second_nanos;
        gpu
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_amount_is_rounded_up_to_the_next_nano_dollar() {
        assert_eq!(amount_for(164_000, 0), 0);
        assert_eq!(amount_for(164_000, 1), 1); // 0.164 nano-dollars
        assert_eq!(amount_for(164_000, 1_000_000), 164_000);
        assert_eq!(amount_for(164_000, 834_512), 136_860); // 136,859.968
        assert_eq!(amount_for(1_000_000_000_000, 86_400_000_000), 86_400_000_000_000_000);
    }

    #[test]
    fn an_admitted_inference_is_charged_before_it_ends_and_only_once() {
        let book = Book::default();
        let line = book.admit(Some("j-1".to_owned()), "standard", 100_000);
        assert_eq!(book.bill().total_nanos, 100_000);
        book.complete(line, 42, true);
        let bill = book.bill();
        assert_eq!((bill.total_nanos, bill.lines.len()), (100_000, 1));
        assert_eq!((bill.lines[0].billed_micros, bill.lines[0].completed), (42, true));
    }

    #[test]
    fn idle_spans_of_one_gpu_are_rounded_once_together() {
        let book = Book::default();
        for _ in 0..3 {
            book.charge(None, "T4", BillKind::Idle, 164_000, 1, true);
        }
        let bill = book.bill();
        assert_eq!(bill.lines.len(), 1);
        assert_eq!(bill.total_nanos, 1); // 0.492, where three lines of their own would make 3
        assert_eq!((book.usage()[0].idle_us, book.usage()[0].idle_spans), (3, 3));
    }

    #[test]
    fn startup_and_execution_are_rounded_apart() {
        let book = Book::default();
        book.charge(Some("j".to_owned()), "T4", BillKind::Startup, 164_000, 1, true);
        book.charge(Some("j".to_owned()), "T4", BillKind::Run, 164_000, 1, true);
        assert_eq!(book.bill().total_nanos, 2);
    }

    #[test]
    fn a_bill_survives_a_round_trip_as_json() {
        let book = Book::default();
        book.charge(None, "T4", BillKind::Idle, 164_000, 7, true);
        let bill = book.bill();
        assert_eq!(serde_json::from_str::<Bill>(&serde_json::to_string(&bill).unwrap()).unwrap(), bill);
    }
}
