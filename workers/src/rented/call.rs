//! A call at a rented machine: which machine, on which slot, and what its end says of the machine and of the pool.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use schemas::{
    MachineId,
    failure::{Failure, FailureClass},
    prefix::{Prefix, Scope},
    prices::Used,
    time::Clock as _,
};
use tokio::time::{Instant, timeout_at};
use tracing::{debug, info, warn};
use transport::SystemClock;

use super::{
    ITEM, Isolation, MACHINES, Rented, Server,
    affinity::Done,
    seats::{Ask, Taken, Verdict},
    watched::{Watched, silent_for, speaks_against, wait_of},
};
use crate::{
    adapters::OpenAi,
    metrics,
    provider::{Call, Ended, Progress, Provider as _, Rate, UsedItem},
};

impl Rented {
    /// The beginning of the input, where that decides.
    fn prefix(&self, call: &Call) -> Option<Box<Prefix>> {
        if !self.config.affinity {
            return None;
        }
        let tenant = match self.config.isolation {
            Isolation::Tenant => Some(&call.tenant),
            Isolation::None => None,
        };
        Prefix::of(Scope { model: &call.model, adapter: None, tenant }, &call.input).map(Box::new)
    }

    /// Takes a slot of the machine that is best for the call.
    fn sit(
        &self,
        call: &Call,
        prefix: Option<&Prefix>,
        avoid: &[MachineId],
    ) -> Option<(Slot<'_>, Arc<OpenAi>)> {
        let mut avoid = avoid.to_vec();
        let mut state = self.lock();
        loop {
            let ask = Ask { model: &call.model, prefix, avoid: &avoid };
            let taken = state.seats.take(ask, self.clock.steady())?;
            let server = state.servers.get(&taken.machine).cloned();
            if let Some(Server { adapter: Some(adapter), last_token, .. }) = server {
                let fullest = state.seats.fullest();
                drop(state);
                if let Some(caches) = self.caches.get() {
                    caches.placed(taken.prediction.reason.as_str(), fullest);
                }
                let slot = Slot { rented: self, taken, last_token, left: false };
                return Some((slot, adapter));
            }
            // It has been said already that it cannot be called.
            state.seats.left(&taken, Verdict::Fault(FailureClass::Misconfigured), self.clock.steady());
            avoid.push(taken.machine);
        }
    }

    /// Makes the call, at another machine where one fails at once by its own fault.
    pub(super) async fn attempt(&self, call: &Call, progress: &dyn Progress) -> Ended {
        let end = Instant::now() + call.timeout;
        let (mut used, mut faulty) = (Vec::new(), Vec::new());
        let mut last: Option<Failure> = None;
        let prefix = self.prefix(call);
        while faulty.len() < MACHINES && Instant::now() < end {
            let Some((slot, adapter)) = self.sit(call, prefix.as_deref(), &faulty) else { break };
            let machine = slot.taken.machine.clone();
            progress.placed(&slot.used(Duration::ZERO));
            let told = AtomicU64::new(0);
            let watched = Watched { inner: progress, last_token: &slot.last_token, told: &told };
            let called = timeout_at(end, adapter.run(call, &watched)).await;
            let ended = called.unwrap_or_else(|_| {
                Ended::unbilled(Failure::new(FailureClass::Timeout, "not done within the call's time limit"))
            });
            let silent = silent_for(told.load(Ordering::Relaxed), self.now().wall);
            let idle = self.config.server.idle_timeout;
            let fault = match &ended.outcome {
                Err(failure) if speaks_against(failure.class, silent, idle) => Some(failure.clone()),
                Ok(_) | Err(_) => None,
            };
            let class = fault.as_ref().map(|failure| failure.class);
            used.push(slot.leave(&ended, class));
            let Some(failure) = fault else {
                return Ended { used, estimated: false, ..ended };
            };
            let (class, message) = (failure.class, &failure.message);
            metrics::machine_failed(class);
            if self.lock().seats.has_failed_again(&machine) {
                debug!(%machine, %class, message, "a machine failed again, it is spared for longer");
            } else {
                warn!(%machine, %class, message, "a machine failed a job, it is spared for a while");
            }
            last =
                Some(Failure::new(class, format!("machine {machine}: {message}")).after(wait_of(&failure)));
            faulty.push(machine);
            let begun = told.load(Ordering::Relaxed) > 0;
            // Output that somebody follows does not begin anew in the middle of an attempt, and a job that has waited for long
            // is for its dispatcher to place.
            if begun || class == FailureClass::Timeout {
                break;
            }
        }
        // It was accepted for a slot that is gone: as if the provider had taken the machine away.
        let gone =
            || Failure::new(FailureClass::Preempted, "no machine of the pool has a free slot any more");
        let failure = self.of_the_pool(last.unwrap_or_else(gone), &faulty);
        Ended { used, ..Ended::unbilled(failure) }
    }

    /// What the failure of one machine means for its pool. A key that one machine refuses, or a model that one machine does not
    /// have, would close the whole pool at the dispatcher until somebody acts; that is right only if it is so everywhere.
    fn of_the_pool(&self, failure: Failure, faulty: &[MachineId]) -> Failure {
        let whole_pool = matches!(failure.class, FailureClass::Authentication | FailureClass::Misconfigured);
        if whole_pool && self.lock().seats.any_but(faulty) {
            return Failure { class: FailureClass::ProviderDown, ..failure };
        }
        failure
    }
}

/// A slot that a call uses. Dropped with its call, it is free again.
struct Slot<'a> {
    rented: &'a Rented,
    taken: Taken,
    last_token: Arc<AtomicU64>,
    left: bool,
}

impl Slot<'_> {
    /// What so much time on it is.
    fn used(&self, span: Duration) -> UsedItem {
        let rate = Rate { machine: Some(self.taken.machine.clone()), hour_usd: self.taken.hour_usd };
        UsedItem { sku: self.taken.sku.clone(), item: ITEM, used: Used::Time(span), rate: Some(rate) }
    }

    /// The call has ended, by the machine's fault or not. Gives the time that it used.
    fn leave(mut self, ended: &Ended, fault: Option<FailureClass>) -> UsedItem {
        let verdict = match (fault, &ended.outcome) {
            (Some(class), _) => Verdict::Fault(class),
            (None, Ok(_)) => Verdict::Good,
            (None, Err(_)) => Verdict::Silent,
        };
        if verdict == Verdict::Good {
            // An answer in one piece is a token, too.
            self.last_token.fetch_max(SystemClock.now().get(), Ordering::Relaxed);
        }
        let until = self.free(verdict);
        self.learn(ended, until.saturating_sub(self.taken.at));
        self.used(until.saturating_sub(self.taken.at))
    }

    /// What the answer tells of the machine's cache and pace.
    fn learn(&self, ended: &Ended, took: Duration) {
        let Ok(success) = &ended.outcome else { return };
        let usage = success.usage;
        let done = Done {
            took,
            first_token: ended.first_token,
            prompt: usage.prompt_tokens,
            cached: usage.cached_tokens,
            written: usage.completion_tokens,
            beside: self.taken.beside,
        };
        let measured = self.rented.lock().seats.learn(&self.taken, &done);
        if measured.flushed {
            info!(machine = %self.taken.machine, "its server has not cached what it was given; that is forgotten");
        }
        if let Some(caches) = self.rented.caches.get() {
            let saved = measured.saved.and_then(|span| self.taken.hour_usd.for_hours_down(span));
            caches.answered(&done, &measured, saved.unwrap_or_default());
        }
    }

    /// Frees the slot and says when.
    fn free(&mut self, verdict: Verdict) -> Duration {
        let mut state = self.rented.lock();
        // Read under the lock, so that what is booked is what a heartbeat says.
        let now = self.rented.clock.steady();
        if std::mem::replace(&mut self.left, true) {
            return now;
        }
        state.seats.left(&self.taken, verdict, now);
        drop(state);
        self.rented.publish();
        if matches!(verdict, Verdict::Fault(_)) {
            self.rented.paused.notify_one();
        }
        now
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.free(Verdict::Silent);
        }
    }
}
