//! One model at one pool: what runs there, and what its worker says about it.

use std::{collections::VecDeque, time::Duration};

use routing::quantiles::Quantiles;
use schemas::{Micros, UsdNanos, heartbeat::ServedModel, time::micros};

use crate::{
    containers::Containers,
    scenario::{ModelSpec, PoolSpec, Price},
    slab::Key,
};

/// How many jobs it takes until a worker uses its own figures.
const OWN_ENOUGH: u64 = 20;
/// A job is overdue after this many times the 95th percentile, as real workers say it.
const OVERDUE: u64 = 3;

#[derive(Default)]
pub(super) struct Served {
    pub(super) running: u32,
    /// The worker's own figures.
    pub(super) service: Quantiles,
    /// Calls in the order in which they began; some have ended.
    pub(super) calls: VecDeque<(Micros, Key)>,
    pub(super) containers: Containers,
}

impl Served {
    /// What the worker says about it. `alive` tells whether a call still runs.
    pub(super) fn told(
        &mut self,
        model: &ModelSpec,
        spec: &PoolSpec,
        price: Price,
        alive: &impl Fn(Key) -> bool,
        now: Micros,
    ) -> ServedModel {
        self.service.turn(now);
        let (p50, p95) = if self.service.count() >= OWN_ENOUGH {
            (self.service.p50(), self.service.p95())
        } else {
            let (low, high) = (model.service.0.as_secs_f64(), model.service.1.as_secs_f64());
            (
                Duration::from_secs_f64((low * high).sqrt() / spec.speed),
                Duration::from_secs_f64(high / spec.speed),
            )
        };
        while self.calls.front().is_some_and(|(_, key)| !alive(*key)) {
            self.calls.pop_front();
        }
        let late = |began: Micros| micros(now.since(began)) > OVERDUE * micros(p95);
        let old = self.calls.iter().take_while(|(began, _)| late(*began));
        let overdue = u32::try_from(old.filter(|(_, key)| alive(*key)).count()).unwrap_or(u32::MAX);
        let (expected, second) = match price {
            Price::Inference(usd) => (usd, UsdNanos::ZERO),
            Price::Second(usd) => (usd.for_seconds(p50).unwrap_or_default(), usd),
        };
        ServedModel {
            model: model.name.clone(),
            sku: String::new(),
            size: 1,
            expected_cost_usd: expected,
            p50_us: micros(p50),
            p95_us: micros(p95),
            running: self.running,
            overdue,
            second_usd: second,
            idle_us: spec.serverless.filter(|s| s.bills_idle).map_or(0, |s| micros(s.idle_timeout)),
            rented: false,
            detached: false,
            warmable: spec.serverless.is_some_and(|s| s.warmable),
        }
    }
}
