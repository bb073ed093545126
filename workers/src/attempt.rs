//! One attempt: an accepted offer, the pure [`course`] that decides, and what carries out its effects.
//!
//! ```text
//!  Attempt::run:  course ──effects──▶ carry out (drive, call, journal) ──answer──▶ course … until it settles
//!                   ▲
//!                   └── news: orders (Ears), the lease (Keeper), cancellations, the stop of the worker
//! ```

mod call;
pub mod course;
mod drive;
mod ears;
mod journal;
mod report;
mod settled;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use async_nats::Message;
use schemas::{
    Micros,
    cost::CostLine,
    handover::{Handover, OfferKey},
    job::{Input, Job},
};
use tracing::error;

use self::{
    course::{Course, Effect, Event, Terms},
    journal::Pages,
};
pub use self::{ears::Ears, settled::Settled};
use crate::{
    booking,
    clock::Now,
    config::{JournalMode, PoolConfig, PoolModel},
    keeper::{Hold, Keeper},
    kit::Kit,
};

/// An accepted offer.
pub struct Attempt {
    kit: Arc<Kit>,
    message: Message,
    model: PoolModel,
    keeper: Arc<Keeper>,
    ears: Arc<Ears>,
    /// Changed by this attempt's own task alone; a lock since the provider's progress is reported through a shared reference.
    course: Mutex<Course>,
    pages: Pages,
    job: OnceLock<Arc<Job>>,
    input: OnceLock<Input>,
}

impl Attempt {
    /// Takes an offer on that came in this message, with `accept` as its reply subject.
    pub fn new(
        kit: Arc<Kit>,
        handover: Handover,
        accept: String,
        message: Message,
        model: PoolModel,
        now: Now,
    ) -> Self {
        let config = &kit.config;
        let hold = Hold::new(config.ack_wait, now.steady_at(handover.leased_us));
        let keeper = Keeper::new(kit.control.clone(), kit.clock, handover.lease.clone(), hold);
        let pages = Pages::new(handover.journal.entries.is_empty());
        // Only these write a journal before the call.
        let journals = config.journal == JournalMode::Always || config.provider.detached();
        let expected = if journals { expected(config, &model, now.wall) } else { Vec::new() };
        let offer = OfferKey { accept, offer: handover.offer };
        let course =
            Course::new(Terms { site: kit.site.clone(), offer, handover, received: now.wall, expected });
        Self {
            kit,
            message,
            model,
            keeper: Arc::new(keeper),
            ears: Arc::default(),
            course: Mutex::new(course),
            pages,
            job: OnceLock::new(),
            input: OnceLock::new(),
        }
    }

    /// Through which its dispatcher's orders reach it.
    pub fn ears(&self) -> Arc<Ears> {
        self.ears.clone()
    }

    /// Its lease, to be extended while it runs.
    pub fn keeper(&self) -> Arc<Keeper> {
        self.keeper.clone()
    }

    /// Which attempt of its job it is, from 1.
    pub(crate) fn number(&self) -> u16 {
        self.course().terms().handover.attempt
    }

    /// What every attempt of the worker uses.
    pub(crate) fn kit(&self) -> &Kit {
        &self.kit
    }

    /// Tells the course what happens now.
    fn apply(&self, event: Event) -> Vec<Effect> {
        self.course().apply(self.keeper.moment(), event)
    }

    fn course(&self) -> std::sync::MutexGuard<'_, Course> {
        // A panic while holding it ends the attempt: its task is gone.
        self.course.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn job(&self) -> &Arc<Job> {
        self.job.get().expect("the course needs the job only after it was read")
    }
}

/// What an attempt at a model is expected to cost.
fn expected(config: &PoolConfig, model: &PoolModel, at: Micros) -> Vec<CostLine> {
    let used = config.expect(model, at);
    booking::bill(&config.prices, &config.price_name, &used, at).map_or_else(
        |error| {
            error!(pool = %config.pool, %error, "what an attempt may cost is unknown");
            Vec::new()
        },
        |(lines, _)| lines,
    )
}
