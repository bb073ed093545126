//! Every number this crate reports.

use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use schemas::{PoolId, UsdNanos, cost::Purpose, failure::FailureClass, handover::RefusedBecause};

use crate::rented::{affinity::Done, seats::Measured};

/// A pool's own metrics, made once: a handle costs nothing to use, a label made of text does.
pub struct PoolMetrics {
    pool: PoolId,
    running: Gauge,
    seconds: Histogram,
    useful: Counter,
    waiting: Gauge,
    at_server: Gauge,
}

impl PoolMetrics {
    /// The metrics of one pool.
    pub fn new(pool: &PoolId) -> Self {
        let name = pool.to_string();
        Self {
            running: gauge!("workers_jobs_running", "pool" => name.clone()),
            seconds: histogram!("workers_call_seconds", "pool" => name.clone()),
            useful: counter!("workers_cost_nanodollars_total", "pool" => name.clone(), "purpose" => "useful"),
            at_server: gauge!("workers_server_requests_waiting", "pool" => name),
            waiting: gauge!("workers_attempts_waiting"),
            pool: pool.clone(),
        }
    }

    /// One more job runs, until the guard is dropped.
    pub fn begin(&self) -> Running {
        self.running.increment(1.0);
        Running(self.running.clone())
    }

    /// One more attempt waits because what it paid for cannot be stored now, until the guard is dropped.
    pub fn waits(&self) -> Running {
        self.waiting.increment(1.0);
        Running(self.waiting.clone())
    }

    /// So many requests wait at the provider's server, others' included, as far as it says.
    pub fn waits_at_server(&self, requests: u32) {
        self.at_server.set(f64::from(requests));
    }

    /// A call to the provider ended well.
    pub fn succeeded(&self, seconds: f64) {
        self.seconds.record(seconds);
    }

    /// A call to the provider failed.
    pub fn failed(&self, class: FailureClass) {
        let labels = [("pool", self.pool.to_string()), ("class", class.as_str().to_owned())];
        counter!("workers_calls_failed_total", &labels).increment(1);
    }

    /// Money was booked.
    pub fn booked(&self, purpose: Purpose, amount: UsdNanos) {
        let purpose = match purpose {
            Purpose::Useful => return self.useful.increment(amount.get()),
            Purpose::WastedFailure => "wasted_failure",
            Purpose::WastedRace => "wasted_race",
            Purpose::Cancelled => "cancelled",
            Purpose::Standing => "standing",
        };
        let labels = [("pool", self.pool.to_string()), ("purpose", purpose.to_owned())];
        counter!("workers_cost_nanodollars_total", &labels).increment(amount.get());
    }
}

/// What a pool of rented machines saves by prompts that begin alike; made once.
pub struct CacheMetrics {
    pool: String,
    fullest: Gauge,
    prompt: Counter,
    predicted: Counter,
    cached: Counter,
    unmeasured: Counter,
    flushed: Counter,
    saved: Counter,
}

impl CacheMetrics {
    /// The metrics of one pool.
    pub fn new(pool: &PoolId) -> Self {
        let pool = pool.to_string();
        Self {
            fullest: gauge!("workers_machine_fullest_over_mean", "pool" => pool.clone()),
            prompt: counter!("workers_prompt_tokens_total", "pool" => pool.clone()),
            predicted: counter!("workers_prompt_tokens_predicted_total", "pool" => pool.clone()),
            cached: counter!("workers_prompt_tokens_cached_total", "pool" => pool.clone()),
            unmeasured: counter!("workers_prompts_unmeasured_total", "pool" => pool.clone()),
            flushed: counter!("workers_caches_flushed_total", "pool" => pool.clone()),
            saved: counter!("workers_prefill_saved_nanodollars_total", "pool" => pool.clone()),
            pool,
        }
    }

    /// A job was given to a machine, and the fullest then is so many times as full as all together.
    pub fn placed(&self, reason: &'static str, fullest: Option<f64>) {
        counter!("workers_placements_total", "pool" => self.pool.clone(), "reason" => reason).increment(1);
        if let Some(fullest) = fullest {
            self.fullest.set(fullest);
        }
    }

    /// A job ended well. `saved` is what its cached tokens would have cost, dollars.
    pub fn answered(&self, done: &Done, measured: &Measured, saved: UsdNanos) {
        self.prompt.increment(done.prompt);
        self.predicted.increment(measured.predicted);
        match done.cached {
            Some(cached) => self.cached.increment(cached),
            None => self.unmeasured.increment(1),
        }
        self.flushed.increment(u64::from(measured.flushed));
        self.saved.increment(saved.get());
        if !done.first_token.is_zero() {
            let share = done.share_cached();
            let labels = [("pool", self.pool.clone()), ("cached", share.to_owned())];
            histogram!("workers_first_token_seconds", &labels).record(done.first_token.as_secs_f64());
        }
    }
}

/// Balances a gauge by its own life.
pub struct Running(Gauge);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.decrement(1.0);
    }
}

/// A provider sent a webhook.
pub fn webhook(provider: &'static str, outcome: &'static str) {
    counter!("workers_webhooks_total", "provider" => provider, "outcome" => outcome).increment(1);
}

/// A call of a lost worker was booked though nobody knows whether it was billed.
pub fn possibly_wasted() {
    counter!("workers_calls_possibly_wasted_total").increment(1);
}

/// A result was fetched with less than a minute left before its provider removes it.
pub fn result_nearly_lost(provider: &'static str) {
    counter!("workers_results_nearly_lost_total", "provider" => provider).increment(1);
}

/// A rented machine failed a job by a fault of its own.
pub fn machine_failed(class: FailureClass) {
    counter!("workers_machine_failures_total", "class" => class.as_str()).increment(1);
}

/// An offer was refused.
pub fn refused(because: RefusedBecause) {
    let because = match because {
        RefusedBecause::Busy => "busy",
        RefusedBecause::Draining => "draining",
        RefusedBecause::Model => "model",
        RefusedBecause::Running => "running",
    };
    counter!("workers_offers_refused_total", "because" => because).increment(1);
}

/// An offer came too late and was dropped.
pub fn offer_late() {
    counter!("workers_offers_late_total").increment(1);
}

/// A job ended because it was taken back.
pub fn cancelled() {
    counter!("workers_jobs_cancelled_total").increment(1);
}

/// Something that was paid for was refused by the server: a result, a cost, an output.
pub fn withheld(what: &'static str) {
    counter!("workers_stores_refused_total", "what" => what).increment(1);
}

/// A lease may be somebody else's by now.
pub fn lease_lost() {
    counter!("workers_leases_lost_total").increment(1);
}
