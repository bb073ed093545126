//! Who of those that wait is next, and where to: the line's order, the picker's choice, and what both are charged with.
//!
//! ```text
//!  line ─▶ next ─┬─ expired, taken back ─▶ end
//!                ├─ its run goes on ─────▶ offer to where that is
//!                ├─ a pool ─▶ retry budget ─▶ reserve ─▶ offer
//!                └─ none ─▶ the one behind it
//! ```

use routing::{
    cold::Bin,
    fair,
    pick::{Ask, Choice},
    retry::{self, Verdict},
};
use schemas::{
    Micros, PoolId, UsdNanos, decision::Decision, failure::Failure, handover::Handover, reply::Status,
    state::Event, time::Clock as _,
};
use tokio::time::Instant;
use tracing::debug;
use transport::SystemClock;

use super::Dispatcher;
use crate::{
    flight::Flight,
    held::{Held, lease_outlasts_offer, moved, reattach},
    metrics, nats,
    runs::{Offer, Spend},
};

/// Jobs of one line placed before the next line is looked at.
const IN_A_ROW: usize = 256;

/// What becomes of the next job in a line.
enum Next {
    /// Its time is up, or it was taken back.
    End(Status, Failure),
    /// Its run of an earlier attempt goes on there.
    Reattach(PoolId, u16, Decision),
    /// A pool takes it.
    Place(Choice),
    /// Only pools that failed it are left, so it rests for a while.
    Rest,
    /// Those that refused it a moment ago may be asked again.
    Forgive,
}

impl Dispatcher {
    /// Places as many of those that wait as can be placed.
    pub(super) async fn place_waiting(&mut self) {
        for group in 0..self.state.waiting.groups().len() {
            for _ in 0..IN_A_ROW {
                if !self.place_next(group).await {
                    break;
                }
            }
        }
    }

    /// Places the next of a line. False when nobody in it can be placed now.
    async fn place_next(&mut self, group: usize) -> bool {
        if self.state.waiting.groups()[group].line.is_empty() {
            return false;
        }
        let now = SystemClock.now();
        let Some((entry, next)) = self.next_in(group, now) else { return false };
        let (seat, mut flight) = (entry.seat, entry.item);
        let state = &mut self.state;
        let line = &mut state.waiting.groups_mut()[group].line;
        match next {
            Next::End(status, failure) => self.end_waiting(*flight, status, failure, now),
            Next::Rest => {
                let pause = retry::backoff(flight.journal.counted(), &mut state.rng);
                flight.not_before = Some(Instant::now() + pause);
                line.put_back(fair::Entry { seat, item: flight });
            }
            Next::Forgive => {
                flight.avoid.clear();
                line.put_back(fair::Entry { seat, item: flight });
            }
            Next::Reattach(pool, attempt, decision) => {
                flight.not_before = None;
                self.offer(*flight, pool, attempt, decision, Spend::default(), None, now).await;
            }
            Next::Place(choice) => {
                flight.not_before = None;
                let decision = state.picker.tell(state.pools.as_slice(), Some(choice));
                let pool = state.pools.at(choice.index).id.clone();
                let subject = &flight.job.subject;
                state.picker.placed(&subject.region, &choice);
                state.warmth.sent(&pool, &subject.model, subject.lane, now);
                // What costs nothing to speak of still takes a turn.
                let charge = choice.expected.cost.max(UsdNanos::new(1));
                line.started(&seat, charge);
                let reserve = choice.expected.reserve;
                let reservation = state.reserve(&subject.tenant, &pool.provider, reserve, now);
                if let Some(retries) = state.retries.get_mut(&subject.region) {
                    if flight.journal.entries.is_empty() {
                        retries.first(now);
                    } else {
                        retries.try_retry(now);
                    }
                }
                state.hedges.job(now);
                let attempt = flight.attempts().saturating_add(1);
                let spend = Spend { reservation, charged: Some((seat, charge)) };
                self.offer(*flight, pool, attempt, decision, spend, None, now).await;
            }
        }
        true
    }

    /// Takes the first out of a line of whom something becomes now.
    fn next_in(&mut self, group: usize, now: Micros) -> Option<(fair::Entry<Box<Flight>>, Next)> {
        let (config, cancels, instant) = (&self.config, &self.cancels, Instant::now());
        let Held { waiting, picker, pools, budgets, retries, rng, feeds, .. } = &mut self.state;
        let group = &mut waiting.groups_mut()[group];
        let (region, model) = (&group.region, &group.model);
        let behind: u64 =
            feeds.iter().filter(|f| f.region == *region && f.model == *model).map(|f| f.backlog).sum();
        let ahead = u32::try_from(group.line.len() as u64 - 1 + behind).unwrap_or(u32::MAX);
        let retry = retries.get(region).is_none_or(|budget| budget.left(now) > 0);
        let full = pools.free_slots(region, model, config.policy.silent_after, &config.breaker, now) == 0;
        let mut next = None;
        let entry = group.line.scan(|_, flight| {
            if let Some(Verdict::End(status, failure)) = retry::expired(&flight.job, now) {
                next = Some(Next::End(status, failure));
                return fair::Look::Take;
            }
            let found = reattach(pools, flight, config, now);
            // Where its run goes on at a provider, the worker that finds it stops it there.
            if found.is_none()
                && let Some(order) = cancels.of(&flight.job, flight.lease.stored_at)
            {
                next = Some(Next::End(Status::Cancelled, order.failure()));
                return fair::Look::Take;
            }
            let rests = flight.not_before.is_some_and(|at| at > instant);
            if rests || !lease_outlasts_offer(flight, config, now) {
                return fair::Look::Skip;
            }
            if let Some((pool, attempt, decision)) = found {
                next = Some(Next::Reattach(pool, attempt, decision));
                return fair::Look::Take;
            }
            // A failure must not multiply load: beyond the retry budget a job waits.
            if full || (!flight.journal.entries.is_empty() && !retry) {
                return fair::Look::Skip;
            }
            let subject = &flight.job.subject;
            let affordable = |provider: &schemas::ProviderId, amount: UsdNanos| {
                budgets.admits(&subject.tenant, provider, amount, now).is_ok()
            };
            let ask = Ask {
                larger_than: flight.larger_than,
                avoid: &flight.avoid,
                ahead,
                affordable: &affordable,
                ..Ask::of(&flight.job, &flight.journal)
            };
            next = match picker.pick(pools.as_slice(), ask, now, rng) {
                Some(choice) if choice.again && flight.not_before.is_none() => Some(Next::Rest),
                Some(choice) => Some(Next::Place(choice)),
                None if flight.avoid.is_empty() => return fair::Look::Skip,
                None => Some(Next::Forgive),
            };
            fair::Look::Take
        })?;
        Some((entry, next?))
    }

    /// Offers a job to a pool. Whatever comes of it is heard as an answer, or it lapses.
    #[expect(clippy::too_many_arguments, reason = "all that an offer is made of")]
    pub(super) async fn offer(
        &mut self,
        mut flight: Flight,
        pool: PoolId,
        attempt: u16,
        decision: Decision,
        spend: Spend,
        hedge_of: Option<u64>,
        now: Micros,
    ) {
        let state = &mut self.state;
        state.next += 1;
        let number = state.next;
        let accept_by = now + self.config.offers.accept_within;
        let handover = Handover {
            offer: number,
            lease: flight.lease.clone(),
            leased_us: flight.leased(),
            accept_by_us: accept_by,
            attempt,
            subject: flight.job.subject.clone(),
            journal: flight.journal.clone(),
            decision: Some(decision),
            hedge: hedge_of.is_some(),
            in_log: false,
        };
        let event = Event::Offered { offer: number, pool: pool.clone(), accept_by };
        flight.state = moved(flight.state, event);
        let subject = &flight.job.subject;
        let (mut bin, mut reserve, mut hedge_after) = (Bin::default(), UsdNanos::ZERO, None);
        let index = state.pools.iter().position(|p| p.id == pool);
        if let Some(index) = index {
            if let Some(track) = state.pools.at(index).track(&subject.model) {
                reserve = track.expect(now).reserve;
                hedge_after = state.hedges.after(subject.lane, track, now).filter(|_| hedge_of.is_none());
            }
            bin = state.pools.sent(index, &subject.model, &self.config.breaker, now);
        }
        metrics::offered();
        let sent = nats::offer(
            &self.client,
            &pool,
            &state.accept,
            &handover,
            &flight.headers,
            flight.payload.clone(),
        )
        .await;
        if let Err(error) = sent {
            // It lapses like one that nobody heard.
            debug!(%error, "offer not sent");
        }
        state
            .offered
            .insert(number, Offer { flight, pool, attempt, bin, reserve, spend, hedge_after, hedge_of });
    }
}
