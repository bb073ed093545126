//! Second attempts: begun beside one that takes longer than usual, and the slower of the two stopped.
//!
//! ```text
//!  overdue ─▶ "hedged" to the first ─▶ offer to another pool ─┬─▶ one succeeds ─▶ "stop" to the other, booked as lost race
//!                                                            └─▶ one fails ────▶ "alone" to the other, with what it left
//! ```
//!
//! Both hold the lease, and whoever is first stores the result under the job's one message id. While two run, neither gives
//! the job back: that is what the orders are for. An order that is lost costs an attempt; a dispatcher that dies meanwhile
//! leaves two attempts that end by themselves, and should both fail, the lease runs out and the job comes again.

use std::sync::atomic::Ordering;

use routing::pick::Ask;
use schemas::{
    Micros, ProviderId, UsdNanos,
    failure::{Failure, FailureClass},
    handover::{EndedAttempt, OfferKey, Order},
    journal::{Entry, Trace},
    state::State,
};
use tracing::debug;

use super::Dispatcher;
use crate::{
    ending,
    held::lease_outlasts_offer,
    metrics, nats,
    runs::{Run, Spend},
};

impl Dispatcher {
    /// One of two attempts has ended: the other is stopped, or has the job to itself.
    pub(super) async fn race_decided(&mut self, run: &mut Run, twin: u64, news: EndedAttempt) {
        let state = &mut self.state;
        let key = OfferKey { accept: state.accept.clone(), offer: twin };
        let order = match news.failed {
            None => Order::Stop(key),
            Some(class) => {
                let entry = entry(run, class, news.cost_usd);
                state.runs.inherit(twin, run.flight.take(), entry.clone());
                Order::Alone(key, Some(Box::new(entry)))
            }
        };
        metrics::race(run.hedge, news.failed.is_none());
        if let Some(other) = state.runs.get(twin) {
            nats::order(&self.control, &other.pool, &other.worker, &order).await;
        }
    }

    /// Both attempts have failed, and the last had not heard yet that it was alone: nobody gave the job back.
    pub(super) async fn take_up(&mut self, run: Run, class: FailureClass, cost: UsdNanos, now: Micros) {
        let last = entry(&run, class, cost);
        let Some(mut flight) = run.flight else { return };
        // The lease is as fresh as its last holder kept it. If it is not ours any more, the job comes again.
        if !ending::extend(&self.control, &flight.lease).await {
            return;
        }
        flight.leased.store(now.get(), Ordering::Relaxed);
        run.left.into_iter().chain([last]).for_each(|entry| flight.journal.record(entry));
        flight.state = State::Waiting { attempts: flight.journal.last_attempt() };
        let failure = flight.journal.last_failure().cloned().unwrap_or_else(|| Failure::new(class, ""));
        self.judge(*flight, &failure, None, now);
    }

    /// Gives jobs that take longer than usual a second attempt elsewhere.
    pub(super) async fn hedge(&mut self, now: Micros) {
        while let Some(number) = self.state.runs.overdue(now) {
            let Some(flight) = self.state.runs.take_flight(number) else { continue };
            let state = &mut self.state;
            let Some(run) = state.runs.get(number) else { continue };
            let here = [run.pool.clone()];
            let tenant = &flight.job.subject.tenant;
            let affordable = |provider: &ProviderId, amount: UsdNanos| {
                state.budgets.admits(tenant, provider, amount, now).is_ok()
            };
            let ask = Ask { avoid: &here, affordable: &affordable, ..Ask::of(&flight.job, &flight.journal) };
            // The lease is kept by the first worker by now; whoever joins must know it to be fresh.
            let fresh = lease_outlasts_offer(&flight, &self.config, now);
            let Some(choice) = state.picker.hedge(state.pools.as_slice(), ask, now, &mut state.rng) else {
                continue;
            };
            if !fresh || !state.hedges.may(choice.expected.reserve, now) {
                continue;
            }
            state.hedges.begun(choice.expected.reserve, now);
            let (attempt, worker) = (run.attempt.saturating_add(1), run.worker.clone());
            let key = OfferKey { accept: state.accept.clone(), offer: number };
            // First of all the first attempt hears of it: should it fail, it must not give the job back.
            nats::order(&self.control, &here[0], &worker, &Order::Hedged(key)).await;
            let decision = state.picker.tell(state.pools.as_slice(), Some(choice));
            let pool = state.pools.at(choice.index).id.clone();
            debug!(job = %flight.job.id, first = %here[0], second = %pool, "takes longer than usual, tried elsewhere too");
            let mut flight = *flight;
            flight.state = State::Waiting { attempts: attempt - 1 };
            metrics::hedged();
            let subject = &flight.job.subject;
            let reserve = choice.expected.reserve;
            let reservation = self.state.reserve(&subject.tenant, &pool.provider, reserve, now);
            let spend = Spend { reservation, charged: None };
            self.offer(flight, pool, attempt, decision, spend, Some(number), now).await;
        }
    }

    /// The other attempt of this one's job was not taken, or its worker is gone: the job is its own again.
    pub(super) async fn left_alone(&mut self, number: u64) {
        let Some(run) = self.state.runs.get(number) else { return };
        let key = OfferKey { accept: self.state.accept.clone(), offer: number };
        nats::order(&self.control, &run.pool, &run.worker, &Order::Alone(key, None)).await;
    }
}

/// What an attempt that failed beside another leaves.
fn entry(run: &Run, class: FailureClass, cost_usd: UsdNanos) -> Entry {
    let failure = Failure::new(class, "one of two attempts at once");
    Entry {
        attempt: run.attempt,
        key: None,
        pool: run.pool.clone(),
        started_us: run.since,
        trace: Trace::Failed { failure, cost_usd },
    }
}
