//! A simulator, an adapter that points at it, and what a test needs to watch both.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use schemas::{
    JobId, UsdNanos,
    failure::{Failure, FailureClass},
    job::{Input, Message, Params},
    prices::PriceBook,
};
use simulators::{BillKind, Fault, FaultKind, Kind, SimulatedModel, SimulatorConfig, Stats};
use tokio::time;
use tokio_util::sync::{CancellationToken, DropGuard};
use workers::{
    adapters::{
        Billing, Modal, ModalConfig, ModalMode, OpenAi, OpenAiConfig, Replicate, ReplicateConfig, RunPod,
        RunPodConfig, RunPodMode, Secret, hints::Callback, replicate::Target,
    },
    provider::{Call, Ended, Progress, Provider, Success, UsedItem},
};

use crate::{
    app::{self, App},
    world::World,
};

/// The adapters that have a simulator, and Modal's against our own app, which is no simulator.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Adapter {
    OpenAi,
    Golem,
    Modal(ModalMode),
    /// The same adapter, and behind it the app that a person deploys (see [`crate::app`]).
    ModalApp(ModalMode),
    RunPod(RunPodMode),
    Replicate,
}

/// Longer than any test takes; a test that waits for it has failed.
const LONG: Duration = Duration::from_secs(60);

/// How long a condition may take to come true.
const SOON: Duration = Duration::from_secs(20);

/// Between two questions about a run, the shortest and the longest pause.
const POLLS: (Duration, Duration) = (Duration::from_millis(2), Duration::from_millis(20));

/// One simulator and one adapter.
pub(crate) struct Bed {
    pub(crate) adapter: Adapter,
    pub(crate) simulator: World,
    pub(crate) provider: Arc<dyn Provider>,
    jobs: AtomicUsize,
    _stop: DropGuard,
}

/// What a test wants to be different.
#[derive(Clone, Debug)]
pub(crate) struct Wish {
    pub(crate) model: SimulatedModel,
    pub(crate) hold_limit_ms: u64,
    pub(crate) warm_lease_ms: u64,
    pub(crate) right_key: bool,
    pub(crate) stream: bool,
    pub(crate) first_byte_timeout: Duration,
    pub(crate) idle_timeout: Duration,
    /// How long Replicate holds a submission.
    pub(crate) wait: Duration,
    pub(crate) billing: Billing,
    /// What the models' names mean at Replicate.
    pub(crate) target: Target,
    pub(crate) callback: Option<Callback>,
    /// Between two questions about a run, the shortest and the longest pause.
    pub(crate) polls: (Duration, Duration),
    pub(crate) runpod: simulators::RunPodSettings,
    pub(crate) replicate: simulators::ReplicateSettings,
}

impl Default for Wish {
    fn default() -> Self {
        let model = SimulatedModel {
            service_ms_p50: 20,
            sku: "T4".to_owned(),
            price_per_second_nanos: 164_000,
            price_per_inference_nanos: 100_000,
            price_per_million_input_tokens_nanos: 50_000_000,
            price_per_million_output_tokens_nanos: 250_000_000,
            ..SimulatedModel::new("m")
        };
        let long = LONG;
        Self {
            model,
            hold_limit_ms: 150_000,
            warm_lease_ms: 60_000,
            right_key: true,
            stream: true,
            first_byte_timeout: long,
            idle_timeout: long,
            wait: Duration::from_secs(10),
            billing: Billing::PerSecond,
            target: Target::default(),
            callback: None,
            polls: POLLS,
            runpod: simulators::RunPodSettings::default(),
            replicate: simulators::ReplicateSettings::default(),
        }
    }
}

impl Adapter {
    pub(crate) async fn bed(self) -> Bed {
        self.bed_with(Wish::default()).await
    }

    /// False, with a word why, where its other side cannot run on this machine.
    pub(crate) fn is_there(self) -> bool {
        match self {
            Self::ModalApp(_) => app::python().is_some(),
            Self::OpenAi | Self::Golem | Self::Modal(_) | Self::RunPod(_) | Self::Replicate => true,
        }
    }

    pub(crate) async fn bed_with(self, wish: Wish) -> Bed {
        let stop = CancellationToken::new();
        let simulator = self.world(&wish, &stop).await;
        let provider = self.provider(&simulator.url(), &wish);
        Bed { adapter: self, simulator, provider, jobs: AtomicUsize::new(0), _stop: stop.drop_guard() }
    }

    async fn world(self, wish: &Wish, stop: &CancellationToken) -> World {
        let kind = match self {
            Self::ModalApp(_) => {
                let nanos_per_second = wish.model.price_per_second_nanos;
                return World::App { app: App::start(wish), nanos_per_second };
            }
            Self::OpenAi => Kind::OpenAi,
            Self::Golem => Kind::Golem,
            Self::Modal(_) => Kind::Modal,
            Self::RunPod(_) => Kind::RunPod,
            Self::Replicate => Kind::Replicate,
        };
        let model = SimulatedModel { name: self.model().to_owned(), ..wish.model.clone() };
        let mut config = SimulatorConfig::new("contract", kind, vec![model]);
        config.runpod = wish.runpod.clone();
        config.replicate = wish.replicate.clone();
        config.api_key = Some("key-1:secret-1".to_owned());
        config.modal.hold_limit_ms = wish.hold_limit_ms;
        config.modal.scaledown_window_ms = 200;
        config.modal.warm_lease_ms = wish.warm_lease_ms;
        World::Simulator(simulators::start(config, stop.clone()).await.unwrap())
    }

    pub(crate) fn provider(self, url: &str, wish: &Wish) -> Arc<dyn Provider> {
        match self {
            Self::OpenAi | Self::Golem => {
                let key = if wish.right_key { "key-1:secret-1" } else { "wrong-key" };
                let mut config = OpenAiConfig::new(url);
                config.api_key = Some(Secret::new(key));
                config.stream = wish.stream;
                config.first_byte_timeout = wish.first_byte_timeout;
                config.idle_timeout = wish.idle_timeout;
                config.billing = if self == Self::Golem { Billing::PerInference } else { Billing::PerSecond };
                Arc::new(OpenAi::new(config).unwrap())
            }
            Self::Modal(mode) | Self::ModalApp(mode) => {
                let mut config = ModalConfig::new(url, mode);
                config.key = Some(Secret::new("key-1"));
                config.secret = Some(Secret::new(if wish.right_key { "secret-1" } else { "wrong" }));
                config.first_byte_timeout = wish.first_byte_timeout;
                config.idle_timeout = wish.idle_timeout;
                config.poll_min = Duration::from_millis(2);
                config.poll_max = Duration::from_millis(20);
                Arc::new(Modal::new(config).unwrap())
            }
            Self::RunPod(mode) => {
                let mut config = RunPodConfig::new(format!("{url}/v2/ep-sim"));
                config.api_key =
                    Some(Secret::new(if wish.right_key { "key-1:secret-1" } else { "wrong-key" }));
                config.mode = mode;
                config.callback.clone_from(&wish.callback);
                (config.poll_min, config.poll_max) = wish.polls;
                config.queue_timeout = Duration::from_millis(100);
                Arc::new(RunPod::new(config).unwrap())
            }
            Self::Replicate => {
                let mut config = ReplicateConfig::new(format!("{url}/v1"));
                config.api_key =
                    Some(Secret::new(if wish.right_key { "key-1:secret-1" } else { "wrong-key" }));
                config.wait = wish.wait;
                (config.billing, config.target) = (wish.billing, wish.target);
                config.callback.clone_from(&wish.callback);
                (config.poll_min, config.poll_max) = wish.polls;
                Arc::new(Replicate::new(config).unwrap())
            }
        }
    }

    /// The model's name on its wire.
    pub(crate) fn model(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Golem | Self::Modal(_) | Self::ModalApp(_) | Self::RunPod(_) => "m",
            Self::Replicate => "acme/m",
        }
    }

    /// How many run ids a call has that ends before it must be polled.
    pub(crate) fn names_its_runs(self) -> bool {
        match self {
            Self::Modal(ModalMode::Spawn)
            | Self::ModalApp(ModalMode::Spawn)
            | Self::RunPod(RunPodMode::Run) => true,
            // Streamed, or held until the end, which tells the id too late to matter.
            Self::OpenAi
            | Self::Golem
            | Self::Modal(ModalMode::OpenAi | ModalMode::Wait)
            | Self::ModalApp(ModalMode::OpenAi | ModalMode::Wait)
            | Self::RunPod(RunPodMode::RunSync)
            | Self::Replicate => false,
        }
    }

    /// Whether it says when the first token came.
    pub(crate) fn times_the_first_token(self) -> bool {
        self.is_streamed() || self == Self::Replicate
    }

    /// Whether the answer comes on the connection that carried the question.
    pub(crate) fn is_streamed(self) -> bool {
        match self {
            Self::OpenAi
            | Self::Golem
            | Self::Modal(ModalMode::OpenAi)
            | Self::ModalApp(ModalMode::OpenAi) => true,
            Self::Modal(ModalMode::Wait | ModalMode::Spawn)
            | Self::ModalApp(ModalMode::Wait | ModalMode::Spawn)
            | Self::RunPod(_)
            | Self::Replicate => false,
        }
    }
}

impl Bed {
    pub(crate) fn call(&self) -> Call {
        let model = self.adapter.model().to_owned();
        Call { model, ..call(self.jobs.fetch_add(1, Ordering::Relaxed)) }
    }

    pub(crate) fn fault(&self, kind: FaultKind) {
        self.simulator.set_fault(Some(Fault::always(kind)));
    }

    pub(crate) fn fault_once(&self, kind: FaultKind) {
        self.simulator.set_fault(Some(Fault::times(kind, 1)));
    }

    pub(crate) async fn run(&self) -> Ended {
        self.run_call(&self.call()).await
    }

    /// Runs a call; one that never ends fails the test.
    pub(crate) async fn run_call(&self, call: &Call) -> Ended {
        let recorder = Recorder::default();
        let ended = time::timeout(LONG * 2, self.provider.run(call, &recorder));
        ended.await.expect("a call keeps to its own time limit")
    }

    pub(crate) async fn fails(&self, class: FailureClass) -> Ended {
        let ended = self.run().await;
        assert_eq!(failure(&ended).class, class, "{:?}: {ended:?}", self.adapter);
        ended
    }

    /// Waits until the simulator's counts are as the test wants them.
    pub(crate) async fn until(&self, what: &str, condition: impl Fn(Stats) -> bool) {
        eventually(what, || condition(self.simulator.stats())).await;
    }

    /// What the simulator charged so far for what runs tell of themselves.
    pub(crate) fn charged(&self) -> UsdNanos {
        let lines = self.simulator.bill().lines;
        let told = |kind| match self.adapter {
            // Starting a worker is on no job.
            Adapter::RunPod(_) => kind == BillKind::Run,
            _ => matches!(kind, BillKind::Run | BillKind::Startup),
        };
        let runs = lines.iter().filter(|line| told(line.kind));
        UsdNanos::new(runs.map(|line| line.amount_nanos).sum())
    }

    /// What these items cost by the price book.
    pub(crate) fn cost(&self, used: &[UsedItem]) -> UsdNanos {
        let provider = match self.adapter {
            Adapter::OpenAi => "host",
            Adapter::Golem => "golem",
            Adapter::Modal(_) | Adapter::ModalApp(_) => "modal",
            Adapter::RunPod(_) => "runpod",
            Adapter::Replicate => "replicate",
        };
        let (book, provider) = (prices(), provider.parse().unwrap());
        let lines = used
            .iter()
            .flat_map(|u| book.bill(&provider, &u.sku, u.item, u.used, schemas::Micros::default()).unwrap());
        schemas::money::total(lines.map(|line| line.amount_usd)).unwrap()
    }
}

/// The prices of [`Wish::default`] as an operator would write them.
fn prices() -> PriceBook {
    let price = |provider: &str, unit: &str, usd: &str| {
        format!("[[price]]\nprovider = \"{provider}\"\nsku = \"T4\"\nunit = \"{unit}\"\nusd = \"{usd}\"\n")
    };
    let head = "version = \"t1\"\nas_of = \"2025-09-05\"\nsource = \"test\"\n";
    let prices = [
        price("host", "second", "0.000164"),
        price("modal", "second", "0.000164"),
        price("golem", "inference", "0.0001"),
        price("runpod", "second", "0.000164"),
        price("replicate", "second", "0.000164"),
        price("replicate", "million_input_tokens", "0.05"),
        price("replicate", "million_output_tokens", "0.25"),
    ];
    PriceBook::from_toml(&(head.to_owned() + &prices.concat())).unwrap()
}

/// A call of its own job.
pub(crate) fn call(number: usize) -> Call {
    let content = format!("Why is the sky blue on day {number}?");
    Call {
        job: format!("0198c0de-0000-7000-8000-{number:012x}").parse::<JobId>().unwrap(),
        attempt: 1,
        key: schemas::AttemptKey::of("contract", number as u64),
        model: "m".to_owned(),
        sku: "T4".to_owned(),
        tenant: schemas::Tenant::default(),
        input: Input::Messages(vec![Message { role: "user".to_owned(), content }]),
        params: Params { max_tokens: Some(24), ..Params::default() },
        timeout: LONG,
        traceparent: None,
        live: false,
    }
}

pub(crate) fn success(ended: &Ended) -> &Success {
    ended.outcome.as_ref().unwrap_or_else(|failure| panic!("expected a success, got {failure:?}"))
}

pub(crate) fn failure(ended: &Ended) -> &Failure {
    ended.outcome.as_ref().expect_err("expected a failure")
}

/// Waits until a condition holds, looking again and again; fails the test when it does not come.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let look = async {
        while !condition() {
            time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(time::timeout(SOON, look).await.is_ok(), "it never came true that {what}");
}

/// Remembers what an adapter told while it ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Told>>);

#[derive(Debug, Default)]
struct Told {
    text: String,
    pieces: usize,
    runs: Vec<String>,
    submitting: usize,
}

impl Recorder {
    pub(crate) fn text(&self) -> String {
        self.0.lock().unwrap().text.clone()
    }

    pub(crate) fn pieces(&self) -> usize {
        self.0.lock().unwrap().pieces
    }

    /// How often it said that something may begin to run.
    pub(crate) fn submissions(&self) -> usize {
        self.0.lock().unwrap().submitting
    }

    pub(crate) fn runs(&self) -> Vec<String> {
        self.0.lock().unwrap().runs.clone()
    }
}

impl Progress for Recorder {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        Box::pin(async move { self.0.lock().unwrap().submitting += 1 })
    }

    fn started<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.0.lock().unwrap().runs.push(run.to_owned()) })
    }

    fn token(&self, text: &str) {
        let mut told = self.0.lock().unwrap();
        told.text.push_str(text);
        told.pieces += 1;
    }
}
