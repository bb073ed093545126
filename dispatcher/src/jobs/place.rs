//! Who of those that wait is next, and where to: the line's order, the picker's choice, and what both are charged with.
//!
//! ```text
//!  line ─▶ next ─┬─ expired, taken back ─▶ end
//!                ├─ its run goes on ─────▶ offer to where that is
//!                ├─ a pool ─▶ retry budget ─▶ reserve ─▶ offer
//!                └─ none ─▶ the one behind it
//! ```

use std::time::Duration;

use routing::{
    budget::Reservation,
    cold::Bin,
    fair::{self, Seat},
    pick::{Ask, Choice},
    pool::Pools,
    retry::{self, Verdict},
};
use schemas::{
    AttemptKey, Micros, PoolId, ProviderId, Tenant, UsdNanos,
    decision::{Decision, Reason},
    failure::Failure,
    handover::Handover,
    lease,
    reply::Status,
};

use super::{Attempt, Course, Effect, JobKey, Jobs, Record, Stage};
use crate::{config::DispatcherConfig, metrics};

/// Jobs of one line placed before the next line is looked at.
const IN_A_ROW: usize = 256;

/// What an attempt is counted with while it is open.
#[derive(Debug, Default)]
pub(super) struct Spend {
    /// What was set aside for it, where budgets count it.
    pub(super) reservation: Option<Reservation>,
    /// Its place in the line, and what its tenant was charged for the start.
    pub(super) charged: Option<(Seat, UsdNanos)>,
}

/// What becomes of the next job in a line.
enum Next {
    /// Nothing: the job has left the line by another way.
    Leftover,
    /// Its time is up, or it was taken back.
    End(Status, Failure),
    /// Its run of an earlier attempt goes on there.
    Reattach(PoolId, u16, Decision),
    /// A pool takes it.
    Place(Choice),
    /// Those that refused it a moment ago may be asked again.
    Forgive,
}

impl Jobs {
    /// Places as many of those that wait as can be placed.
    pub(super) fn place_waiting(&mut self, now: Micros, out: &mut Vec<Effect>) {
        for group in 0..self.lines.groups().len() {
            for _ in 0..IN_A_ROW {
                if !self.place_next(group, now, out) {
                    break;
                }
            }
        }
    }

    /// Places the next of a line. False when nobody in it can be placed now.
    fn place_next(&mut self, group: usize, now: Micros, out: &mut Vec<Effect>) -> bool {
        if self.lines.groups()[group].line.is_empty() {
            return false;
        }
        let Some((entry, next)) = self.next_in(group, now) else { return false };
        let key = entry.item;
        let line = &mut self.lines.groups_mut()[group].line;
        let Some(record) = self.records.get_mut(&key) else { return true };
        match next {
            Next::Leftover => {}
            Next::End(status, failure) => self.end_waiting(key, status, failure, now, out),
            Next::Forgive => {
                record.avoid.clear();
                line.put_back(entry);
            }
            Next::Reattach(pool, attempt, decision) => {
                record.not_before = None;
                self.offer(key, &pool, attempt, decision, Spend::default(), false, now, out);
            }
            Next::Place(choice) => {
                let seat = entry.seat;
                self.place(key, seat, choice, group, now, out);
            }
        }
        true
    }

    /// A pool takes a job.
    fn place(
        &mut self,
        key: JobKey,
        seat: Seat,
        choice: Choice,
        group: usize,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let Some(record) = self.records.get_mut(&key) else { return };
        record.not_before = None;
        let (head, first) = (record.head.clone(), record.journal.entries.is_empty());
        let number = record.attempts.saturating_add(1);
        let subject = &head.subject;
        let decision = self.picker.tell(self.pools.as_slice(), Some(choice));
        let pool = self.pools.at(choice.index).id.clone();
        self.picker.placed(&subject.region, &choice);
        self.warmth.sent(&pool, &subject.model, subject.lane, now);
        // What costs nothing to speak of still takes a turn.
        let charge = choice.expected.cost.max(UsdNanos::new(1));
        self.lines.groups_mut()[group].line.started(&seat, charge);
        let reservation = self.reserve(&subject.tenant, &pool.provider, choice.expected.reserve, now);
        if let Some(retries) = self.retries.get_mut(&subject.region) {
            if first {
                retries.first(now);
            } else {
                retries.try_retry(now);
            }
        }
        self.hedges.job(now);
        let spend = Spend { reservation, charged: Some((seat, charge)) };
        self.offer(key, &pool, number, decision, spend, false, now, out);
    }

    /// Removes the first job in the line that can be placed, ended or resumed now, and says which.
    fn next_in(&mut self, group: usize, now: Micros) -> Option<(fair::Entry<JobKey>, Next)> {
        let Self { lines, records, picker, pools, budgets, retries, rng, feeds, config, taken_back, .. } =
            self;
        let group = &mut lines.groups_mut()[group];
        let (region, model) = (&group.region, &group.model);
        let behind: u64 =
            feeds.iter().filter(|f| f.region == *region && f.model == *model).map(|f| f.backlog).sum();
        let ahead = u32::try_from(group.line.len() as u64 - 1 + behind).unwrap_or(u32::MAX);
        let retry = retries.get(region).is_none_or(|budget| budget.left(now) > 0);
        let full = pools.free_slots(region, model, config.policy.silent_after, &config.breaker, now) == 0;
        let mut next = None;
        let entry = group.line.scan(|seat, key| {
            let record = records.get(key).filter(|r| r.stage == Stage::Waiting { ticket: seat.ticket() });
            let Some(record) = record else {
                next = Some(Next::Leftover);
                return fair::Look::Take;
            };
            let head = &record.head;
            if let Some(Verdict::End(status, failure)) = retry::expired(head, now) {
                next = Some(Next::End(status, failure));
                return fair::Look::Take;
            }
            let found = reattach(pools, record, config, now);
            // Where its run goes on at a provider, the worker that finds it stops it there.
            if found.is_none()
                && let Some(failure) = taken_back(head, record.lease.stored_at)
            {
                next = Some(Next::End(Status::Cancelled, failure));
                return fair::Look::Take;
            }
            if !outlasts_offer(record.age(now), config) {
                return fair::Look::Skip;
            }
            // Those that did not answer are asked again after a pause.
            let spares = record.forgive_at.is_some_and(|at| at > now);
            if spares && found.is_some() {
                return fair::Look::Skip;
            }
            if let Some((pool, attempt, decision)) = found {
                next = Some(Next::Reattach(pool, attempt, decision));
                return fair::Look::Take;
            }
            // A failure must not multiply load: beyond the retry budget a job waits.
            if full || (!record.journal.entries.is_empty() && !retry) {
                return fair::Look::Skip;
            }
            let tenant = &head.subject.tenant;
            let affordable = |provider: &ProviderId, amount: UsdNanos| {
                budgets.admits(tenant, provider, amount, now).is_ok()
            };
            let ask = Ask {
                larger_than: record.larger_than,
                avoid: &record.avoid,
                ahead,
                held_for: now.since(record.held_since),
                rests: record.not_before.is_some_and(|at| at > now),
                affordable: &affordable,
                ..Ask::of(head, &record.journal)
            };
            next = match picker.pick(pools.as_slice(), ask, now, rng) {
                Some(choice) => Some(Next::Place(choice)),
                None if record.avoid.is_empty() || spares => return fair::Look::Skip,
                None => Some(Next::Forgive),
            };
            fair::Look::Take
        })?;
        Some((entry, next?))
    }

    /// Ends a job that waited, with what kept it from each pool.
    pub(super) fn end_waiting(
        &mut self,
        key: JobKey,
        status: Status,
        failure: Failure,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let Some(record) = self.records.get_mut(&key) else { return };
        let ask = Ask::of(&record.head, &record.journal);
        record.decision = Some(self.picker.explain(self.pools.as_slice(), ask, now, &mut self.rng));
        self.end(key, status, failure, out);
    }

    /// Sets aside what an attempt may cost, where there are budgets.
    pub(super) fn reserve(
        &mut self,
        tenant: &Tenant,
        provider: &ProviderId,
        amount: UsdNanos,
        now: Micros,
    ) -> Option<Reservation> {
        (!self.budgets.is_empty()).then(|| self.budgets.reserve(tenant, provider, amount, now))
    }

    /// Offers a job to a pool. Whatever comes of it is heard as an answer, or it lapses.
    #[expect(clippy::too_many_arguments, reason = "all that an offer is made of")]
    pub(super) fn offer(
        &mut self,
        key: JobKey,
        pool: &PoolId,
        number: u16,
        decision: Decision,
        spend: Spend,
        hedge: bool,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        self.next += 1;
        let offer = self.next;
        let Some(record) = self.records.get_mut(&key) else { return };
        let head = record.head.clone();
        let subject = &head.subject;
        let accept_by = now + self.config.offers.accept_within;
        let mut attempt = Attempt {
            offer,
            key: AttemptKey::of(&self.accept, offer),
            number,
            pool: pool.clone(),
            course: Course::Offered { accept_by },
            current: true,
            hedge,
            hedge_after: None,
            bin: Bin::default(),
            reserve: UsdNanos::ZERO,
            expected: (String::new(), UsdNanos::ZERO),
            reservation: spend.reservation,
            charged: spend.charged,
            tell: None,
        };
        let index = self.pools.iter().position(|p| p.id == *pool);
        if let Some(index) = index {
            if let Some(track) = self.pools.at(index).track(&subject.model) {
                attempt.reserve = track.expect(now).reserve;
                attempt.hedge_after = self.hedges.after(subject.lane, track, now).filter(|_| !hedge);
                attempt.expected = (track.served.sku.clone(), track.served.expected_cost_usd);
            }
            attempt.bin = self.pools.sent(index, &subject.model, &self.config.breaker, now);
        }
        metrics::offered();
        let handover = Handover {
            offer,
            lease: record.lease.clone(),
            leased_us: record.leased,
            accept_by_us: accept_by,
            attempt: number,
            subject: subject.clone(),
            journal: record.journal.clone(),
            decision: Some(decision),
            hedge,
            in_log: record.parcel.is_none(),
        };
        record.open.push(attempt);
        record.enter(Stage::Away, &mut self.looked_up);
        self.offers.insert(offer, key);
        self.lapses.push_back((accept_by, offer));
        let parcel = record.parcel.clone();
        out.push(Effect::Offer { pool: pool.clone(), handover: Box::new(handover), parcel });
    }
}

/// Whether a lease that has been running down for `age` outlasts an offer that would hand it over.
pub(super) fn outlasts_offer(age: Duration, config: &DispatcherConfig) -> bool {
    let ack_wait = config.topology.ack_wait;
    age + config.offers.accept_within + lease::margin(ack_wait) < ack_wait
}

/// Where a run of an earlier attempt still is, if that pool can be asked.
pub(super) fn reattach(
    pools: &Pools,
    record: &Record,
    config: &DispatcherConfig,
    now: Micros,
) -> Option<(PoolId, u16, Decision)> {
    let entry = record.journal.unfinished()?;
    let pool = pools.iter().find(|p| p.id == entry.pool)?;
    let subject = &record.head.subject;
    let admits =
        pool.track(&subject.model).is_some_and(|t| t.breaker.admits(&config.breaker, subject.lane, now));
    let closed = pool.closed(config.policy.silent_after, now).is_some() || !admits;
    if closed || record.avoid.contains(&pool.id) {
        return None;
    }
    let decision =
        Decision { chosen: Some(pool.id.clone()), reason: Reason::Reattach, candidates: Vec::new() };
    Some((pool.id.clone(), entry.attempt, decision))
}
