//! One prediction: its input, its stage and its end.
//!
//! ```text
//! starting ─▶ processing ─▶ succeeded │ failed │ canceled (by its creator, or at its deadline)
//!    └─ canceled (by its creator) │ aborted (at its deadline)
//! ```

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde_json::{Map, Value};
use tokio::{
    sync::watch,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;

use super::hook::Hook;
use crate::{clock::micros, model::Model, service::Service, text::Answer};

/// One prediction. Its number is as unique as its id.
#[derive(Debug)]
pub(crate) struct Prediction {
    pub(crate) number: usize,
    pub(crate) id: String,
    pub(crate) model: Arc<Model>,
    pub(crate) origin: Origin,
    /// Where the caller reaches this simulator, for the URLs.
    pub(crate) base: String,
    pub(crate) input: Map<String, Value>,
    pub(crate) hook: Option<Hook>,
    pub(crate) answer: Answer,
    /// The answer in the pieces of its output, some tokens each.
    pub(crate) pieces: Vec<String>,
    pub(crate) created: Instant,
    pub(crate) deadline: Option<Instant>,
    cancel: CancellationToken,
    cancel_asked: AtomicBool,
    stage: watch::Sender<Stage>,
}

/// By which route it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// An official model, whose version is hidden.
    Official,
    /// A version of a model.
    Version,
    /// A deployment, which is called as its model is.
    Deployment,
}

/// The parts of a prediction that its creator decides.
#[derive(Debug)]
pub(crate) struct Draft {
    pub(crate) model: Arc<Model>,
    pub(crate) origin: Origin,
    pub(crate) base: String,
    pub(crate) input: Map<String, Value>,
    pub(crate) hook: Option<Hook>,
    pub(crate) answer: Answer,
    pub(crate) cancel_after: Option<Duration>,
}

/// The stage of a prediction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// In the queue, or waiting for a boot.
    Starting,
    /// In `predict()`.
    Processing(Work),
    /// It has ended.
    Over(End),
}

/// A run and its output so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Work {
    pub(crate) since: Instant,
    /// When the first piece came.
    pub(crate) first: Option<Instant>,
    pub(crate) pieces: usize,
}

/// How and when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) at: Instant,
    /// `None` when it never ran.
    pub(crate) work: Option<Work>,
    pub(crate) outcome: Outcome,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Failed(Failure),
    Canceled,
    Aborted,
}

/// Why it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The model's own error.
    Engine,
    /// The accelerator's memory was full.
    Memory,
    /// The platform lost the instance; not charged.
    Interrupted,
}

impl Prediction {
    pub(crate) fn new(number: usize, id: String, draft: Draft, now: Instant) -> Self {
        let chunk = usize::try_from(draft.model.settings.tokens_per_chunk).unwrap_or(usize::MAX);
        let pieces = draft.answer.tokens.chunks(chunk).map(<[String]>::concat).collect();
        Self {
            number,
            id,
            model: draft.model,
            origin: draft.origin,
            base: draft.base,
            input: draft.input,
            hook: draft.hook,
            answer: draft.answer,
            pieces,
            created: now,
            deadline: draft.cancel_after.map(|after| now + after),
            cancel: CancellationToken::new(),
            cancel_asked: AtomicBool::new(false),
            stage: watch::Sender::new(Stage::Starting),
        }
    }

    /// The stage now.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.borrow().clone()
    }

    /// Tells of every change from here on; changes that follow each other closely may be told as one.
    pub(crate) fn watch(&self) -> watch::Receiver<Stage> {
        self.stage.subscribe()
    }

    /// Only the run that carries it moves it.
    pub(crate) fn move_to(&self, stage: Stage) {
        self.stage.send_replace(stage);
    }

    /// Waits for the end. Cancel-safe.
    pub(crate) async fn ended(&self) {
        let mut stage = self.watch();
        let over = stage.wait_for(|stage| matches!(stage, Stage::Over(_))).await;
        over.expect("the prediction itself holds the sender");
    }

    /// Asks for its cancel, which takes effect after a while, if it has not ended by then.
    pub(crate) fn cancel(self: &Arc<Self>, service: &Arc<Service>) {
        let over = matches!(*self.stage.borrow(), Stage::Over(_));
        if over || self.cancel_asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let delay = Duration::from_millis(service.config.replicate.cancel_delay_ms);
        if delay.is_zero() {
            self.cancel.cancel();
            return;
        }
        let (prediction, shutdown) = (Arc::clone(self), service.shutdown.clone());
        service.tasks.spawn(async move {
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = time::sleep(delay) => prediction.cancel.cancel(),
            }
        });
    }

    /// Waits for the cancel to take effect. Cancel-safe.
    pub(crate) async fn canceled(&self) {
        self.cancel.cancelled().await;
    }

    /// How many tokens the first `pieces` pieces are.
    pub(crate) fn tokens_in(&self, pieces: usize) -> u32 {
        let tokens = u32::try_from(pieces).unwrap_or(u32::MAX);
        tokens.saturating_mul(self.model.settings.tokens_per_chunk).min(self.answer.token_count())
    }

    /// Whether its input and output have been removed by `now`.
    pub(crate) fn data_removed(&self, service: &Service, now: Instant) -> bool {
        let ttl = service.config.replicate.data_ttl();
        matches!(&*self.stage.borrow(), Stage::Over(end) if now.saturating_duration_since(end.at) >= ttl)
    }
}

impl Stage {
    /// The run, if it has begun.
    pub(crate) fn work(&self) -> Option<Work> {
        match self {
            Self::Starting => None,
            Self::Processing(work) => Some(*work),
            Self::Over(end) => end.work,
        }
    }

    /// Its name on the wire.
    pub(crate) fn status(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Processing(_) => "processing",
            Self::Over(end) => match end.outcome {
                Outcome::Succeeded => "succeeded",
                Outcome::Failed(_) => "failed",
                Outcome::Canceled => "canceled",
                Outcome::Aborted => "aborted",
            },
        }
    }
}

impl End {
    /// `predict_time` in microseconds: the time in `predict()`, which is billed.
    pub(crate) fn predict_micros(&self) -> u64 {
        self.work.map_or(0, |work| micros(self.at.duration_since(work.since)))
    }
}

impl Failure {
    /// The text on the wire.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Engine => "Prediction failed: EngineCore encountered an issue.",
            Self::Memory => {
                "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 14.58 GiB of which \
                 1.02 GiB is free."
            }
            Self::Interrupted => "Prediction interrupted; please retry (code: PA)",
        }
    }

    /// Whether the platform is to blame, which charges nothing then.
    pub(crate) const fn is_the_platforms(self) -> bool {
        match self {
            Self::Engine | Self::Memory => false,
            Self::Interrupted => true,
        }
    }
}
