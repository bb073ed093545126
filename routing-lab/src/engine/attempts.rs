//! Follows an attempt from its offer to its end, and decides what becomes of its job.

use std::time::Duration;

use routing::{retry::Verdict, track::Outcome};
use schemas::{
    Micros, UsdNanos,
    failure::{Failure, FailureClass},
    journal::{Entry, Trace},
    reply::Status,
};

use super::{
    super::{
        arrivals::Arrival,
        ledger::{End, For, Payer},
        router::{Line, Router, Sending, Want},
        scenario::{FaultKind, Scenario},
        slab::Key,
        world::{Call, Task},
    },
    Engine, START, What,
};

/// An offer without an answer goes to another pool after this time.
const LAPSE: Duration = Duration::from_millis(1_500);

/// An attempt that has not ended, or whose end was not heard.
pub(super) struct Attempt {
    /// Its job; `None` once the job went on without it.
    pub(super) job: Option<Key>,
    pub(super) region: usize,
    pub(super) subject: usize,
    pub(super) task: Task,
    pub(super) sent: Sending,
    pub(super) call: Option<Call>,
    pub(super) over: Option<Over>,
    /// Whether its router has heard that it was taken.
    pub(super) taken: bool,
    /// Whether its router has given up its offer, and no longer knows of it.
    pub(super) lapsed: bool,
    pub(super) sent_at: Micros,
}

impl Attempt {
    pub(super) fn payer(&self, scenario: &Scenario) -> Payer {
        // Subjects are numbered with their tenants last.
        Payer { tenant: self.subject % scenario.tenants.len(), pool: self.sent.pool, sent: self.sent_at }
    }
}

#[derive(Clone, Copy)]
pub(super) struct Over {
    pub(super) failed: Option<FailureClass>,
    pub(super) cost: UsdNanos,
    pub(super) service: Duration,
}

impl<R: Router> Engine<'_, R> {
    /// An offer reaches a worker.
    pub(super) fn reach(&mut self, key: Key) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        let (pool, region, task) = (attempt.sent.pool, attempt.region, attempt.task);
        if self.world.is_cut(pool) {
            self.after(LAPSE, What::Lapse(key));
            return;
        }
        let call = self.world.offer(pool, key, task, self.now);
        attempt.call = call;
        let full = self.world.running(pool) >= self.scenario.pools[pool].slots;
        if self.baseline[pool] && full {
            self.ledger.saturated(self.scenario.pools[pool].region, self.now);
        }
        self.after(self.delay(region, pool), What::Answer(key, call.is_some()));
        if let Some(call) = call {
            self.after(call.span, What::Finish(key));
        }
    }

    /// The answer of a worker is heard.
    pub(super) fn answer(&mut self, key: Key, taken: bool) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        let (sent, region) = (attempt.sent, attempt.region);
        if self.world.is_cut(sent.pool) {
            self.after(LAPSE, What::Lapse(key));
            return;
        }
        attempt.taken = taken;
        let router = &mut self.desks[region].router;
        router.load(sent.pool, self.world.news(sent.pool), self.now);
        router.answered(&sent, taken, self.now);
        if taken {
            if let Some(span) = sent.hedge_after {
                self.after(span, What::Hedge(key));
            }
            return;
        }
        self.ledger.refused += 1;
        self.unsent(key);
    }

    /// An offer was not taken: the job goes on elsewhere, unless another attempt of it runs.
    fn unsent(&mut self, key: Key) {
        let Some(attempt) = self.attempts.take(key) else { return };
        let Some(job) = attempt.job else { return };
        self.leave(job, key);
        if let Some(live) = self.jobs.get_mut(job) {
            live.avoid.push(self.scenario.pools[attempt.sent.pool].id.clone());
            if live.open == [None, None] {
                self.requeue(job, attempt.sent.expected, UsdNanos::ZERO);
            }
        }
        self.drain(attempt.region);
    }

    /// Takes an attempt out of its job's open attempts.
    fn leave(&mut self, job: Key, attempt: Key) {
        if let Some(live) = self.jobs.get_mut(job) {
            for slot in live.open.iter_mut().filter(|slot| **slot == Some(attempt)) {
                *slot = None;
            }
        }
    }

    /// Puts a job back into its line, at its old place.
    fn requeue(&mut self, key: Key, expected: UsdNanos, actual: UsdNanos) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        let Arrival { region, model, .. } = job.arrival;
        let Some(seat) = job.seat.take() else { return };
        job.waits_since = self.now;
        let desk = &mut self.desks[region];
        desk.lines[model].corrected(&seat, expected, actual);
        desk.lines[model].put_back(seat, key);
        desk.waiting += 1;
    }

    /// An offer got no answer. A worker that took it all the same works in vain.
    pub(super) fn lapse(&mut self, key: Key) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        let (sent, region, runs) = (attempt.sent, attempt.region, attempt.call.is_some());
        self.desks[region].router.answered(&sent, false, self.now);
        if !runs {
            self.unsent(key);
            return;
        }
        attempt.lapsed = true;
        let job = attempt.job.take();
        if let Some(job) = job {
            self.leave(job, key);
            if let Some(live) = self.jobs.get_mut(job) {
                live.avoid.push(self.scenario.pools[sent.pool].id.clone());
                if live.open == [None, None] {
                    self.requeue(job, sent.expected, UsdNanos::ZERO);
                }
            }
            self.drain(region);
        }
    }

    /// A call ends at its worker, by itself or because it was stopped.
    pub(super) fn finish(&mut self, key: Key, failed: Option<FailureClass>) {
        let Some(attempt) = self.attempts.get_mut(key) else { return };
        let Some(call) = attempt.call else { return };
        let (pool, region) = (attempt.sent.pool, attempt.region);
        let cost = self.world.end(pool, &call, failed, self.now);
        let service = self.now.since(call.began).saturating_sub(call.cold);
        attempt.over = Some(Over { failed, cost, service });
        let delay = self.delay(region, pool);
        let Some(until) = self.world.cut_until(pool) else {
            self.after(delay, What::Ended(key));
            return;
        };
        // It is heard once messages pass again, unless the lease has run out: it was last extended before the cut.
        let cut = self
            .scenario
            .faults
            .iter()
            .find(|f| f.kind == FaultKind::CutOff && f.pools.contains(&pool) && START + f.until == until);
        let gone = cut.map_or(until, |fault| START + fault.from + self.scenario.lease);
        if until + delay < gone {
            self.at(until + delay, What::Ended(key));
        } else {
            self.at(gone.max(self.now), What::Lost(key));
        }
    }

    /// The lease of a job has run out while its worker was cut off: the job comes back.
    pub(super) fn lost(&mut self, key: Key) {
        let Some(attempt) = self.attempts.take(key) else { return };
        let cost = attempt.over.map_or(UsdNanos::ZERO, |over| over.cost);
        let payer = attempt.payer(self.scenario);
        self.ledger.paid(cost, For::Failure, payer, self.now);
        if !attempt.lapsed {
            self.desks[attempt.region].router.vanished(&attempt.sent, self.now);
        }
        if let Some(job) = attempt.job {
            self.leave(job, key);
            self.failed(job, &attempt, FailureClass::WorkerLost, cost, None);
        }
    }

    /// The end of a call is heard.
    pub(super) fn ended(&mut self, key: Key) {
        let Some(attempt) = self.attempts.take(key) else { return };
        let payer = attempt.payer(self.scenario);
        let Attempt { job, region, sent, call: Some(call), over: Some(over), .. } = attempt else { return };
        let outcome = Outcome {
            failed: over.failed,
            service: over.service,
            cold: call.cold,
            retry_after: call.retry_after,
        };
        let tenant = &self.templates[attempt.subject].subject.tenant;
        let router = &mut self.desks[region].router;
        if !self.world.is_cut(sent.pool) {
            router.load(sent.pool, self.world.news(sent.pool), self.now);
        }
        if !attempt.lapsed {
            router.ended(&sent, tenant, &outcome, over.cost, self.now);
        }
        let what = match over.failed {
            None if job.is_some() => For::Useful,
            None | Some(FailureClass::Cancelled) => For::Hedge,
            Some(_) => For::Failure,
        };
        self.ledger.paid(over.cost, what, payer, self.now);
        if let Some(job) = job {
            self.leave(job, key);
            match over.failed {
                None => self.succeeded(job, &sent, over.cost),
                Some(class) => self.failed(job, &attempt, class, over.cost, call.retry_after),
            }
        }
        self.drain(region);
    }

    fn succeeded(&mut self, key: Key, sent: &Sending, cost: UsdNanos) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        if let Some(seat) = job.seat.take() {
            let Arrival { region, model, .. } = job.arrival;
            self.desks[region].lines[model].corrected(&seat, sent.expected, cost);
        }
        self.end_job(key, End::Succeeded { baseline: self.baseline[sent.pool] });
    }

    fn failed(
        &mut self,
        key: Key,
        attempt: &Attempt,
        class: FailureClass,
        cost: UsdNanos,
        wait: Option<Duration>,
    ) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        let failure = Failure::new(class, "").after(wait);
        job.journal.record(Entry {
            attempt: attempt.task.attempt,
            key: None,
            pool: self.scenario.pools[attempt.sent.pool].id.clone(),
            started_us: self.now,
            trace: Trace::Failed { failure: failure.clone(), cost_usd: cost },
        });
        if job.open != [None, None] {
            return;
        }
        let template = &mut self.templates[job.subject];
        template.head.deadline = Some(job.deadline);
        let want = Want {
            job: template,
            model: job.arrival.model,
            journal: &job.journal,
            avoid: &[],
            ahead: 0,
            held_for: Duration::ZERO,
            rests: false,
        };
        let router = &mut self.desks[attempt.region].router;
        match router.verdict(&want, &failure, self.now) {
            Verdict::Again { .. } => {
                job.rests_until = self.now + router.rest(&job.journal);
                self.requeue(key, attempt.sent.expected, cost);
            }
            Verdict::End(Status::Expired, _) => self.end_job(key, End::Expired),
            Verdict::End(Status::Succeeded | Status::Failed | Status::Cancelled, _) => {
                self.end_job(key, End::Failed);
            }
        }
    }

    /// Ends a job. Its attempts that still run are stopped.
    pub(super) fn end_job(&mut self, key: Key, end: End) {
        let Some(job) = self.jobs.take(key) else { return };
        let Arrival { region, tenant, .. } = job.arrival;
        let waiting = self.desks[region].waiting;
        self.ledger.ended((region, tenant), job.arrived, job.deadline, end, waiting, self.now);
        for key in job.open.into_iter().flatten() {
            if let Some(attempt) = self.attempts.get_mut(key) {
                attempt.job = None;
                let pool = attempt.sent.pool;
                self.after(self.delay(region, pool), What::Stop(key));
            }
        }
    }

    /// An attempt takes longer than usual: asks the router for a second one.
    pub(super) fn hedge(&mut self, key: Key) {
        let Some(attempt) = self.attempts.get(key) else { return };
        let (Some(job_key), None) = (attempt.job, attempt.over) else { return };
        let (region, pool) = (attempt.region, attempt.sent.pool);
        let Some(job) = self.jobs.get_mut(job_key) else { return };
        if job.open[1].is_some() {
            return;
        }
        let template = &mut self.templates[job.subject];
        template.head.deadline = Some(job.deadline);
        let avoid = [self.scenario.pools[pool].id.clone()];
        let want = Want {
            job: template,
            model: job.arrival.model,
            journal: &job.journal,
            avoid: &avoid,
            ahead: 0,
            held_for: Duration::ZERO,
            rests: false,
        };
        if let Some(sent) = self.desks[region].router.hedge(&want, self.now) {
            self.send(job_key, region, sent);
        }
    }
}
