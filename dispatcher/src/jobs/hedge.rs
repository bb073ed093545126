//! Second attempts: begun beside one that takes longer than usual, and the slower of the two stopped.
//!
//! ```text
//!  overdue ─▶ "hedged" to the first ─▶ offer to another pool ─┬─▶ one succeeds ─▶ "stop" to the other, booked as lost race
//!                                                            └─▶ one fails ────▶ "alone" to the other, with what it left
//! ```
//!
//! Both hold the lease, and the one that stores its result under the job's one message id first is the useful one. While two
//! run, neither gives the job back: that is what the orders are for. An order that is lost costs an attempt; a dispatcher that
//! dies meanwhile leaves two attempts that end by themselves, and should both fail, the lease runs out and the job comes again.

use routing::pick::Ask;
use schemas::{
    Micros, PoolId, ProviderId, UsdNanos,
    decision::Decision,
    handover::{OfferKey, Order},
};
use tracing::debug;

use super::{Effect, JobKey, Jobs, Stage, place::Spend};
use crate::metrics;

impl Jobs {
    /// Gives jobs that take longer than usual a second attempt elsewhere.
    pub(super) fn hedge(&mut self, now: Micros, out: &mut Vec<Effect>) {
        while let Some((at, offer)) = self.hedges_at.first().copied() {
            if at > now {
                return;
            }
            self.hedges_at.pop_first();
            if !self.stopping
                && let Some(key) = self.offers.get(&offer).copied()
            {
                self.hedge_one(key, offer, now, out);
            }
        }
    }

    fn hedge_one(&mut self, key: JobKey, offer: u64, now: Micros, out: &mut Vec<Effect>) {
        let Some((pool, decision, reserve)) = self.second_pool(key, offer, now) else { return };
        let Some(record) = self.records.get_mut(&key) else { return };
        let (head, number) = (record.head.clone(), record.attempts.saturating_add(1));
        let Some(first) = record.attempt(offer) else { return };
        let (at, worker) = (first.pool.clone(), first.worker().cloned());
        self.hedges.begun(reserve, now);
        metrics::hedged();
        debug!(job = %head.id, first = %at, second = %pool, "takes longer than usual, tried elsewhere too");
        // First of all the first attempt hears of it: should it fail, it must not give the job back.
        if let Some(worker) = worker {
            let order = Order::Hedged(OfferKey { accept: self.accept.clone(), offer });
            out.push(Effect::Order { pool: at, worker, order });
        }
        let reservation = self.reserve(&head.subject.tenant, &pool.provider, reserve, now);
        let spend = Spend { reservation, charged: None };
        // The text is the first worker's by now; the second one reads it from the log.
        self.offer(key, &pool, number, decision, spend, true, now, out);
    }

    /// Where a second attempt beside `offer` would go, why, and what it may cost; none if there is to be none.
    fn second_pool(&mut self, key: JobKey, offer: u64, now: Micros) -> Option<(PoolId, Decision, UsdNanos)> {
        let record = self.records.get_mut(&key)?;
        let only = record.open.len() == 1 && record.stage == Stage::Away;
        let first = record.attempt(offer).filter(|a| only && a.current && !a.hedge)?;
        let here = [first.pool.clone()];
        // The lease is kept by the first worker by now; the second one must know it to be fresh.
        let fresh = super::place::outlasts_offer(record.age(now), &self.config);
        let (tenant, budgets) = (&record.head.subject.tenant, &self.budgets);
        let affordable =
            |provider: &ProviderId, amount: UsdNanos| budgets.admits(tenant, provider, amount, now).is_ok();
        let ask = Ask { avoid: &here, affordable: &affordable, ..Ask::of(&record.head, &record.journal) };
        let choice = self.picker.hedge(self.pools.as_slice(), ask, now, &mut self.rng)?;
        if !fresh || !self.hedges.may(choice.expected.reserve, now) {
            return None;
        }
        let decision = self.picker.tell(self.pools.as_slice(), Some(choice));
        Some((self.pools.at(choice.index).id.clone(), decision, choice.expected.reserve))
    }
}
