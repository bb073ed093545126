//! What workers say: which offers they took, how attempts ended, which attempts they run, how they are.
//!
//! A worker's acceptances come in the order in which it sent them, so a roll call is newer than every acceptance before it: an
//! attempt that was accepted and is not named any more has ended, and the news of that was lost.

use std::time::Duration;

use routing::track::Outcome;
use schemas::{
    Micros, PoolId, UsdNanos, WorkerId,
    failure::{Failure, FailureClass},
    handover::{Acceptances, EndedAttempt, OfferKey, Order, RefusedBecause},
    heartbeat::Heartbeat,
    journal::Entry,
};
use tracing::{debug, warn};

use super::{Attempt, Course, Effect, JobKey, Jobs, Lost, Stage};
use crate::metrics;

/// How long whoever did not answer is left alone after a job's second offer in a row; twice as long each time, up to a minute.
const VAIN_FIRST: Duration = Duration::from_secs(1);
/// What an attempt left that failed beside another.
const BESIDE: &str = "one of two attempts at once";

impl Jobs {
    /// A worker says what it took, refused and ended, or calls the roll.
    pub(super) fn answered(&mut self, news: &Acceptances, now: Micros, out: &mut Vec<Effect>) {
        self.pools.load(news, now);
        metrics::accepted(news.accepted.len());
        metrics::refused(news.refused.len());
        for offer in &news.accepted {
            self.accepted(*offer, news, now, out);
        }
        for ended in &news.ended {
            self.ended(*ended, now, out);
        }
        for (offer, because) in &news.refused {
            self.refused(*offer, *because, now, out);
        }
        if let Some(open) = &news.open {
            self.roll_called(news, open, now, out);
        }
        self.stirred = true;
    }

    fn accepted(&mut self, offer: u64, news: &Acceptances, now: Micros, out: &mut Vec<Effect>) {
        let Some(key) = self.offers.get(&offer).copied() else {
            // It lapsed, and nobody knows any more what it was: the attempt runs without us, and its worker finishes it.
            return;
        };
        let Some(record) = self.records.get_mut(&key) else { return };
        let Some(attempt) = record.open.iter_mut().find(|a| a.offer == offer) else { return };
        if !matches!(attempt.course, Course::Offered { .. }) {
            return;
        }
        self.pools.answered(&attempt.pool, &record.head.subject.model, true);
        attempt.course =
            Course::Running { worker: news.worker.clone(), life: news.started_us, since: now, named: now };
        let tell = attempt.tell.take();
        let (current, hedge_after) = (attempt.current, attempt.hedge_after);
        record.attempts = record.attempts.max(attempt.number);
        (record.tried, record.vain, record.forgive_at) = (true, 0, None);
        match record.stage {
            // The job has ended by its other attempt meanwhile.
            Stage::Over | Stage::Ending => self.order_stop(key, offer, out),
            Stage::Away if current => {
                if let Some(after) = hedge_after {
                    self.hedges_at.insert((now + after, offer));
                }
                // From here on the lease and the text are the worker's.
                self.keep_text(key, None);
                if tell.is_some() {
                    self.tell_alone(offer, tell.map(|entry| *entry), out);
                }
            }
            Stage::Away | Stage::LookUp { .. } | Stage::Waiting { .. } => {}
        }
    }

    fn refused(&mut self, offer: u64, because: RefusedBecause, now: Micros, out: &mut Vec<Effect>) {
        let Some((key, attempt)) = self.untaken(offer, now) else { return };
        let pool = attempt.pool.clone();
        match because {
            RefusedBecause::Running => {
                let Some(record) = self.records.get(&key) else { return };
                debug!(job = %record.head.id, "runs there already under an older delivery; left to it");
                if record.stage == Stage::Away && record.current().next().is_none() {
                    self.over(key);
                }
            }
            RefusedBecause::Busy | RefusedBecause::Draining | RefusedBecause::Model => {
                self.not_taken(key, &attempt, now, out, |jobs, now, out| {
                    if let Some(record) = jobs.records.get_mut(&key) {
                        record.avoid.push(pool);
                    }
                    jobs.wait(key, now, out);
                });
            }
        }
    }

    /// Nobody answered an offer. The worker may have begun, written that down, and died before it answered, so the job is looked
    /// up before it goes on. That is done once the worker must have dropped the offer too.
    pub(super) fn lapsed(&mut self, offer: u64, now: Micros, out: &mut Vec<Effect>) {
        let Some((key, attempt)) = self.untaken(offer, now) else { return };
        metrics::lapsed();
        let pool = attempt.pool.clone();
        if let Some(record) = self.records.get(&key) {
            let ahead = self.ahead.iter().filter(|((at, _), _)| *at == pool).map(|(_, by)| *by).max();
            let clock_ahead_ms = ahead.map(|by| by.as_millis());
            warn!(job = %record.head.id, %pool, in_vain = record.vain + 1, clock_ahead_ms, "nobody answered an offer");
        }
        self.not_taken(key, &attempt, now, out, |jobs, now, out| {
            if let Some(record) = jobs.records.get_mut(&key) {
                record.avoid.push(pool);
                (record.tried, record.vain) = (true, record.vain + 1);
                // The first may be chance: another pool, or the same one, is asked at once.
                let pause = VAIN_FIRST * 2_u32.saturating_pow(record.vain.saturating_sub(2)).min(60);
                record.forgive_at = (record.vain > 1).then(|| now + pause);
            }
            jobs.look_up(key, false, now, out);
        });
    }

    /// Closes an offer that nobody took: nothing was spent, and its tenant is charged nothing.
    fn untaken(&mut self, offer: u64, now: Micros) -> Option<(JobKey, Attempt)> {
        let (key, head, mut attempt) = self.close(offer)?;
        self.pools.answered(&attempt.pool, &head.subject.model, false);
        if attempt.hedge {
            self.hedges.settled(attempt.reserve, UsdNanos::ZERO);
        }
        if let Some(reservation) = attempt.reservation.take() {
            self.budgets.release(reservation, now);
        }
        if let Some((seat, expected)) = attempt.charged.take() {
            let line = &mut self.lines.group(&head.subject.region, &head.subject.model).line;
            line.correct(&seat, expected, UsdNanos::ZERO);
        }
        Some((key, attempt))
    }

    /// What follows for a job whose offer was not taken: `go_on`, if the job is in nobody's hands now.
    fn not_taken(
        &mut self,
        key: JobKey,
        attempt: &Attempt,
        now: Micros,
        out: &mut Vec<Effect>,
        go_on: impl FnOnce(&mut Self, Micros, &mut Vec<Effect>),
    ) {
        let Some(record) = self.records.get(&key) else { return };
        let stage = record.stage;
        let beside = record.current().next().map(|beside| beside.offer);
        match stage {
            Stage::Over | Stage::Ending | Stage::LookUp { .. } | Stage::Waiting { .. } => {}
            Stage::Away if !attempt.current => {}
            Stage::Away => match beside {
                Some(beside) => self.tell_alone(beside, None, out),
                // The first attempt has failed meanwhile and did not give the job back: its worker kept the lease until then.
                None if attempt.hedge => self.look_up(key, true, now, out),
                None => go_on(self, now, out),
            },
        }
    }

    /// An attempt of ours has ended.
    fn ended(&mut self, news: EndedAttempt, now: Micros, out: &mut Vec<Effect>) {
        if news.lost {
            self.lost_at_worker(news.offer, now, out);
            return;
        }
        let Some((key, head, mut attempt)) = self.close(news.offer) else { return };
        if matches!(attempt.course, Course::Offered { .. }) {
            // The acceptance was lost; the end says as much.
            self.pools.answered(&attempt.pool, &head.subject.model, true);
            if let Some(record) = self.records.get_mut(&key) {
                record.attempts = record.attempts.max(attempt.number);
            }
        }
        if attempt.hedge {
            self.hedges.settled(attempt.reserve, news.cost_usd);
        }
        self.settle_spend(&head, &mut attempt, Some(news.cost_usd), now);
        self.learn(&head.subject.model, &attempt, &news, now, out);
        match news.failed {
            None => self.succeeded(key, &attempt, out),
            Some(class) => self.failed(key, &attempt, class, &news, now, out),
        }
    }

    /// An attempt that began has ended, and its worker cannot say how: it panicked, or was abandoned at the end.
    fn lost_at_worker(&mut self, offer: u64, now: Micros, out: &mut Vec<Effect>) {
        let Some(record) = self.offers.get(&offer).and_then(|key| self.records.get(key)) else { return };
        let offered = |a: &&Attempt| a.offer == offer && matches!(a.course, Course::Offered { .. });
        if let Some(attempt) = record.open.iter().find(offered) {
            // The acceptance was lost; the end says as much.
            self.pools.answered(&attempt.pool, &record.head.subject.model, true);
        }
        metrics::vanished();
        self.lost_sight(offer, true, now, out);
    }

    /// The job has a stored result: other attempts are stopped, and a delivery of it in our hands is finished.
    fn succeeded(&mut self, key: JobKey, attempt: &Attempt, out: &mut Vec<Effect>) {
        let Some(record) = self.records.get(&key) else { return };
        let beside: Vec<u64> = record.open.iter().map(|other| other.offer).collect();
        if !beside.is_empty() {
            metrics::race(attempt.hedge, true);
        }
        if record.in_hand() {
            debug!(job = %record.head.id, "an attempt of an earlier delivery gave its result");
            out.push(Effect::Ack(record.lease.clone()));
        }
        if record.stage != Stage::Ending {
            self.over(key);
        }
        for offer in beside {
            self.order_stop(key, offer, out);
        }
    }

    fn failed(
        &mut self,
        key: JobKey,
        attempt: &Attempt,
        class: FailureClass,
        news: &EndedAttempt,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let Some(record) = self.records.get_mut(&key) else { return };
        if record.stage != Stage::Away || !attempt.current {
            return;
        }
        let beside = record.current().next().map(|other| other.offer);
        match (beside, news.kept) {
            (Some(beside), _) => {
                metrics::race(attempt.hedge, false);
                let failure = Failure::new(class, BESIDE);
                let entry = record.failed_beside(attempt, failure, news.cost_usd, now);
                self.tell_alone(beside, Some(entry), out);
            }
            // Both attempts have failed, and the last had not heard that it was alone: nobody gave the job back. Its worker kept the
            // lease until then, so the lease must be made sure of.
            (None, true) => {
                record.failed_beside(attempt, Failure::new(class, BESIDE), news.cost_usd, now);
                self.look_up(key, true, now, out);
            }
            // It is given back by a message of its own, perhaps to another dispatcher; or its lease is lost.
            (None, false) => self.over(key),
        }
    }

    /// What there is to learn from an attempt that has ended.
    fn learn(
        &mut self,
        model: &schemas::ModelToken,
        attempt: &Attempt,
        news: &EndedAttempt,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let outcome = Outcome {
            failed: news.failed,
            service: Duration::from_micros(news.service_us),
            cold: Duration::from_micros(news.cold_us),
            retry_after: news.retry_after_us.map(Duration::from_micros),
        };
        let (pool, breaker) = (&attempt.pool, &self.config.breaker);
        let change = self.pools.ended(pool, model, &outcome, attempt.bin, breaker, now, &mut self.rng);
        if change != routing::pool::Change::None {
            out.push(Effect::Tell { pool: pool.clone(), model: model.clone(), change, class: news.failed });
        }
    }

    /// A worker names all attempts of ours that it runs.
    fn roll_called(&mut self, news: &Acceptances, open: &[u64], now: Micros, out: &mut Vec<Effect>) {
        for offer in open {
            let record = self.offers.get(offer).and_then(|key| self.records.get_mut(key));
            let attempt = record.and_then(|record| record.attempt(*offer));
            if let Some(Course::Running { named, .. }) = attempt.map(|attempt| &mut attempt.course) {
                *named = now;
            }
        }
        let open: rustc_hash::FxHashSet<u64> = open.iter().copied().collect();
        let unheard = |attempt: &Attempt| match &attempt.course {
            Course::Running { worker, life, .. } => {
                *worker == news.worker
                    && *life == news.started_us
                    && attempt.pool == news.pool
                    && !open.contains(&attempt.offer)
            }
            Course::Offered { .. } => false,
        };
        let gone: Vec<u64> =
            self.records.values().flat_map(|r| &r.open).filter(|a| unheard(a)).map(|a| a.offer).collect();
        for offer in gone {
            metrics::unheard();
            debug!(offer, worker = %news.worker, "an attempt has ended, and the news of that was lost");
            // The worker has booked it, and finished the job or given it back.
            self.lost_sight(offer, false, now, out);
        }
    }

    /// A worker says how it is.
    pub(super) fn heard(&mut self, beat: Heartbeat, now: Micros, out: &mut Vec<Effect>) {
        let (pool, worker, life) = (beat.pool.clone(), beat.worker.clone(), beat.started_us);
        let said = beat.at_us;
        let model = beat.models.first().map(|served| served.model.clone());
        if self.pools.heartbeat(beat, now)
            && let Some(model) = model
        {
            let change = routing::pool::Change::Suspect;
            out.push(Effect::Tell { pool: pool.clone(), model, change, class: None });
        }
        self.note_clock(&pool, &worker, said, now);
        // Most heartbeats are of a process that is known; attempts are only looked through for another one.
        if self.lives.insert((pool.clone(), worker.clone()), life) != Some(life) {
            self.forget_attempts(|at, of, since| *at == pool && *of == worker && since != life, now, out);
        }
        self.stirred = true;
    }

    /// Notes how far a worker's clock is ahead, where that makes it drop all our offers. (One that seems behind may have been held up.)
    fn note_clock(&mut self, pool: &PoolId, worker: &WorkerId, said: Micros, now: Micros) {
        let by = said.since(now);
        let who = (pool.clone(), worker.clone());
        if by <= self.config.offers.accept_within {
            self.ahead.remove(&who);
        } else if self.ahead.insert(who, by).is_none() {
            let ahead_ms = by.as_millis();
            warn!(%pool, %worker, ahead_ms, "its clock is so far ahead of ours that it drops our offers");
        }
    }

    /// Closes the attempts at workers that have vanished: `gone` says of a pool, a worker and the start of its process whether it has.
    pub(super) fn forget_attempts(
        &mut self,
        gone: impl Fn(&PoolId, &WorkerId, Micros) -> bool,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let vanished = |attempt: &Attempt| match &attempt.course {
            Course::Running { worker, life, .. } => gone(&attempt.pool, worker, *life),
            Course::Offered { .. } => false,
        };
        let offers: Vec<u64> =
            self.records.values().flat_map(|r| &r.open).filter(|a| vanished(a)).map(|a| a.offer).collect();
        for offer in offers {
            metrics::vanished();
            self.lost_sight(offer, true, now, out);
        }
    }

    /// Closes attempts that their workers have not named for so long that they must have ended, although the workers speak: the news
    /// and the last roll call were lost together.
    pub(super) fn close_unnamed(&mut self, late: Duration, now: Micros, out: &mut Vec<Effect>) {
        let unnamed = |attempt: &Attempt| match &attempt.course {
            Course::Running { worker, named, .. } => {
                let pool = self.pools.iter().find(|pool| pool.id == attempt.pool);
                now.since(*named) > late && pool.is_some_and(|pool| pool.heard_of(worker, late / 2, now))
            }
            Course::Offered { .. } => false,
        };
        let gone: Vec<u64> =
            self.records.values().flat_map(|r| &r.open).filter(|a| unnamed(a)).map(|a| a.offer).collect();
        for offer in gone {
            metrics::unheard();
            self.lost_sight(offer, false, now, out);
        }
    }

    /// Closes an attempt of which nothing more will be heard. `vanished` when its worker is gone, so that nobody may have booked it.
    pub(super) fn lost_sight(&mut self, offer: u64, vanished: bool, now: Micros, out: &mut Vec<Effect>) {
        let lease = self.offers.get(&offer).and_then(|key| self.records.get(key)).map(|r| r.lease.clone());
        let Some((lease, (key, head, mut attempt))) = lease.zip(self.close(offer)) else { return };
        self.pools.vanished(&attempt.pool, &head.subject.model);
        // Nobody can tell what it cost; as much as was set aside is the careful guess.
        self.settle_spend(&head, &mut attempt, None, now);
        if vanished {
            let (sku, expected) = attempt.expected.clone();
            let (number, key, pool) = (attempt.number, attempt.key, attempt.pool.clone());
            warn!(job = %head.id, attempt = number, %pool, "the worker of an attempt has vanished");
            out.push(Effect::BookLost(Box::new(Lost {
                head,
                lease,
                attempt: number,
                key,
                pool,
                sku,
                expected,
            })));
        }
        let Some(record) = self.records.get(&key) else { return };
        let beside = record.current().next().map(|beside| beside.offer);
        match (record.stage, beside) {
            (Stage::Away, Some(beside)) if attempt.current => self.tell_alone(beside, None, out),
            // If it was not finished, its lease runs out and it comes again.
            (Stage::Away, None) => self.over(key),
            _ => {}
        }
    }

    /// Tells an attempt that the job is its own again, and what the other one left. One that is only offered hears of it once it runs.
    pub(super) fn tell_alone(&mut self, offer: u64, entry: Option<Entry>, out: &mut Vec<Effect>) {
        let accept = self.accept.clone();
        let Some(record) = self.offers.get(&offer).and_then(|key| self.records.get_mut(key)) else { return };
        let Some(attempt) = record.attempt(offer) else { return };
        match attempt.worker().cloned() {
            Some(worker) => {
                let order = Order::Alone(OfferKey { accept, offer }, entry.map(Box::new));
                out.push(Effect::Order { pool: attempt.pool.clone(), worker, order });
            }
            // A second attempt was offered as such, whatever the first one left.
            None => attempt.tell = entry.map(Box::new).or(attempt.tell.take()),
        }
    }

    fn order_stop(&mut self, key: JobKey, offer: u64, out: &mut Vec<Effect>) {
        let accept = self.accept.clone();
        let Some(attempt) = self.records.get_mut(&key).and_then(|record| record.attempt(offer)) else {
            return;
        };
        if let Some(worker) = attempt.worker().cloned() {
            let order = Order::Stop(OfferKey { accept, offer });
            out.push(Effect::Order { pool: attempt.pool.clone(), worker, order });
        }
    }
}
