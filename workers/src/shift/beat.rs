//! What a worker says about itself.

use std::time::Duration;

use schemas::{
    heartbeat::{Heartbeat, ServedModel},
    time::micros,
};

use super::Shift;
use crate::{booking, clock::Now, config::PoolModel};

/// A job that runs so many times longer than 95 of 100 may never end.
const OVERDUE: u32 = 3;
/// Less is no hang, however fast jobs usually are.
const OVERDUE_LEAST: Duration = Duration::from_secs(1);

impl Shift {
    pub(super) fn heartbeat(&self, now: Now) -> Heartbeat {
        Heartbeat {
            pool: self.post.pool.clone(),
            worker: self.post.worker.clone(),
            started_us: self.post.started,
            at_us: now.wall,
            slots: self.room(),
            running: number(self.running.len()),
            draining: self.draining,
            healthy: self.healthy,
            round_trip_us: self.round_trip.map(micros),
            succeeded: self.succeeded,
            failed: self.failed,
            models: self.post.models.iter().map(|m| self.served(m, now)).collect(),
            machines: None,
        }
    }

    fn served(&self, model: &PoolModel, now: Now) -> ServedModel {
        let post = &self.post;
        let recent = self.recent.get(&model.model).map(|recent| recent.quantiles(model.expected));
        let (p50, p95) = recent.unwrap_or((model.expected, model.expected * 2));
        let late = (p95 * OVERDUE).max(OVERDUE_LEAST);
        let here = || self.running.values().filter(|running| running.model == model.model);
        let overdue = here().filter(|running| now.steady.saturating_sub(running.since) > late);
        let (prices, name) = (&post.prices, &post.price_name);
        // A slot of a rented machine costs what the machine's keeper says; the price book may know nothing of it.
        let (second_usd, expected_cost_usd) = match self.slot_hour {
            Some(hour) => {
                [Duration::from_secs(1), p50].map(|span| hour.for_hours(span).unwrap_or_default()).into()
            }
            None => (
                booking::second(prices, name, &model.sku, now.wall),
                booking::expected_cost(prices, name, &model.sku, p50, now.wall),
            ),
        };
        ServedModel {
            running: number(here().count()),
            overdue: number(overdue.count()),
            second_usd,
            idle_us: micros(post.idle),
            rented: post.rented,
            detached: post.detached,
            warmable: self.warmable,
            model: model.model.clone(),
            sku: model.sku.clone(),
            size: model.size,
            expected_cost_usd,
            p50_us: micros(p50),
            p95_us: micros(p95),
        }
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
