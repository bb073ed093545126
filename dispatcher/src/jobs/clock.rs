//! What follows from time alone: offers lapse, leases are kept or let go, workers vanish, jobs expire, look-ups begin.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use routing::{
    pick::Ask,
    retry::{self, Verdict},
    track::Ours,
};
use schemas::{
    Mailbox, Micros, Tenant,
    decision::Refusal,
    failure::{Failure, FailureClass},
    handover::Order,
    lease,
    reply::Status,
};
use tracing::{debug, warn};

use super::{Course, Effect, JobKey, Jobs, Stage, link::LATE, place};
use crate::metrics;

/// How often leases in hand are looked at: several times between two extensions of the shortest lease that makes sense.
const KEEP_EVERY: Duration = Duration::from_millis(50);
/// How often is done what need not be done with each job.
const SWEEP_EVERY: Duration = Duration::from_secs(1);
/// A worker that was silent for so many times the usual limit has vanished, and so have its attempts. Not before its leases may have
/// run out, though: until then it may be alive, and finish them.
const VANISHED_AFTER: u32 = 3;
/// An attempt that a worker does not name in its roll calls, one each second, for so long has ended.
const UNNAMED_AFTER: Duration = Duration::from_secs(10);
/// A job that is held longer is counted under the gate that holds it, for a person to see.
const HELD_LONG: Duration = Duration::from_secs(30);
/// Jobs that are held for long, looked at in one sweep for a gate that never opens.
const HOPELESS_MAX: usize = 500;
/// Jobs in one look-up: one scan of a mailbox answers for all of them, and each costs a read of its journal.
const LOOK_UP_MAX: usize = 1_000;

impl Jobs {
    /// Time has passed.
    pub(super) fn tick(&mut self, now: Micros, out: &mut Vec<Effect>) {
        self.link.tick(now);
        if let Some(asked) = self.feeds.iter_mut().filter_map(|feed| feed.forget_lost(now)).min() {
            self.link.lost_pull(asked, now);
        }
        self.lapse(now, out);
        self.hedge(now, out);
        if now.since(self.kept) >= KEEP_EVERY {
            self.kept = now;
            self.keep_leases(now, out);
        }
        self.begin_look_ups(out);
        if now.since(self.swept) >= SWEEP_EVERY {
            self.swept = now;
            self.sweep(now, out);
        }
        self.stirred |= self.lines.groups().iter().any(|group| !group.line.is_empty());
    }

    /// Sees whether the clock was set back, or this process was frozen: ticks come many times a second.
    pub(super) fn look_at_clock(&mut self, now: Micros) {
        if now < self.awake {
            self.clock_was_set_back(self.awake.since(now));
        }
        if self.awake == Micros::default() {
            self.link.begins(now);
        } else if now.since(self.awake) > LATE {
            self.link.was_frozen(self.awake, now);
        }
        self.awake = now;
    }

    /// What was noted by a clock that is set back now would lie ahead: a lease would look fresh, an attempt just named, and a worker
    /// just heard, for as long as the clock was ahead. So it moves back with the clock.
    fn clock_was_set_back(&mut self, by: Duration) {
        self.pools.clock_was_set_back(by);
        self.link.clock_was_set_back(by);
        self.feeds.iter_mut().for_each(|feed| feed.clock_was_set_back(by));
        self.retries.values_mut().for_each(|retries| retries.clock_was_set_back(by));
        self.lapses.iter_mut().for_each(|(at, _)| *at = *at - by);
        self.hedges_at = self.hedges_at.iter().map(|(at, offer)| (*at - by, *offer)).collect();
        for record in self.records.values_mut() {
            record.leased = record.leased - by;
            record.held_since = record.held_since - by;
            for at in [&mut record.asked, &mut record.not_before, &mut record.forgive_at] {
                *at = at.map(|at| at - by);
            }
            for attempt in &mut record.open {
                match &mut attempt.course {
                    Course::Offered { accept_by } => *accept_by = *accept_by - by,
                    Course::Running { named, .. } => *named = *named - by,
                }
            }
        }
        self.kept = self.kept - by;
        self.swept = self.swept - by;
    }

    /// Takes back offers that nobody answered, once the worker must have dropped them too.
    fn lapse(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let margin = self.config.offers.margin;
        while let Some((accept_by, offer)) = self.lapses.front().copied() {
            if accept_by + margin >= now {
                return;
            }
            self.lapses.pop_front();
            let open = |a: &super::Attempt| a.offer == offer && matches!(a.course, Course::Offered { .. });
            let record = self.offers.get(&offer).and_then(|key| self.records.get(key));
            if record.is_some_and(|record| record.open.iter().any(open)) {
                self.lapsed(offer, now, out);
            }
        }
    }

    /// Extends leases of jobs in hand, and lets go of those that may be somebody else's by now.
    fn keep_leases(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let ack_wait = self.config.topology.ack_wait;
        let limit = ack_wait.saturating_sub(lease::margin(ack_wait));
        let mut lost = Vec::new();
        for (key, record) in &mut self.records {
            // A lease that was somebody else's is extended by the look-up, which tells when.
            let unsure = matches!(record.stage, Stage::LookUp { confirm: true, .. });
            if !record.in_hand() || unsure {
                continue;
            }
            let age = record.age(now);
            if age >= limit {
                lost.push(*key);
                continue;
            }
            // One request at a time: a second only follows if the first was not answered for long.
            let asked = record.asked.is_some_and(|at| now.since(at) < ack_wait / 4);
            if age > ack_wait / 4 && !asked {
                record.asked = Some(now);
                out.push(Effect::Extend { job: *key, lease: record.lease.clone() });
            }
        }
        for key in lost {
            metrics::lease_lost();
            if let Some(record) = self.records.get(&key) {
                warn!(job = %record.head.id, "lease lost while the job was in hand; the job comes again");
            }
            self.over(key);
        }
    }

    /// Has jobs looked up, those of one mailbox together.
    fn begin_look_ups(&mut self, out: &mut Vec<Effect>) {
        if self.suspects.is_empty() {
            return;
        }
        let mut by_mailbox: BTreeMap<(Tenant, Mailbox), Vec<JobKey>> = BTreeMap::new();
        for key in self.unasked() {
            let Some(record) = self.records.get(&key) else { continue };
            let address = (record.head.subject.tenant.clone(), record.head.mailbox.clone());
            by_mailbox.entry(address).or_default().push(key);
        }
        for keys in by_mailbox.into_values() {
            for keys in keys.chunks(LOOK_UP_MAX) {
                let asked = keys.iter().filter_map(|key| {
                    let record = self.records.get_mut(key)?;
                    let Stage::LookUp { asked, confirm } = &mut record.stage else { return None };
                    *asked = true;
                    let confirm = *confirm;
                    Some(record.suspect(*key, confirm))
                });
                let asked = asked.collect();
                out.push(Effect::LookUp(asked));
            }
        }
    }

    /// What need not be done with each job.
    fn sweep(&mut self, now: Micros, out: &mut Vec<Effect>) {
        if self.link.is_clear() {
            let silent =
                (self.config.policy.silent_after * VANISHED_AFTER).max(self.config.topology.ack_wait);
            self.forget_silent(silent, now, out);
            self.close_unnamed(UNNAMED_AFTER, now, out);
        }
        self.pools.forget_silent(now);
        self.end_those_in_vain(now, out);
        self.count_open_at_pools();
        self.report(now);
        self.want_warm(now, out);
    }

    /// Closes the attempts of workers that have said nothing for `silent`.
    fn forget_silent(&mut self, silent: Duration, now: Micros, out: &mut Vec<Effect>) {
        let heard: std::collections::HashSet<_> = self
            .pools
            .iter()
            .flat_map(|pool| pool.workers().map(move |worker| (pool, worker)))
            .filter(|(pool, worker)| pool.heard_of(worker, silent, now))
            .map(|(pool, worker)| (pool.id.clone(), worker.clone()))
            .collect();
        self.forget_attempts(|pool, worker, _| !heard.contains(&(pool.clone(), worker.clone())), now, out);
        // A life is only forgotten with its worker: a worker of the same name that comes later is another process anyway.
        self.lives.retain(|who, _| heard.contains(who));
        self.ahead.retain(|who, _| heard.contains(who));
    }

    /// Ends jobs whose time is up, that were taken back, or that no pool can ever take, wherever they stand in their line.
    fn end_those_in_vain(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let (mut ended, mut looked_at) = (Vec::new(), 0);
        for (key, record) in &self.records {
            if !matches!(record.stage, Stage::Waiting { .. }) {
                continue;
            }
            // What no pool can take is seen when it comes; here it is about what became dear meanwhile.
            if looked_at < HOPELESS_MAX && now.since(record.held_since) > HELD_LONG {
                looked_at += 1;
                if let Some(hopeless) = self.hopeless(*key, now) {
                    let failure = Failure::new(FailureClass::NoPool, hopeless.message());
                    ended.push((*key, Status::Failed, failure));
                    continue;
                }
            }
            if let Some(Verdict::End(status, failure)) = retry::expired(&record.head, now) {
                ended.push((*key, status, failure));
            } else if let Some(failure) = (self.taken_back)(&record.head, record.lease.stored_at)
                && place::reattach(&self.pools, record, &self.config, now).is_none()
            {
                ended.push((*key, Status::Cancelled, failure));
            }
        }
        for (key, status, failure) in ended {
            self.end_waiting(key, status, failure, now, out);
        }
    }

    /// Reports how budgets, shares and lines stand, and tells once a period of a budget that is used up.
    fn report(&mut self, now: Micros) {
        for (index, state) in self.budgets.states(now).enumerate() {
            metrics::budget(state.rule, state.taken, state.rule.limit);
            if !(state.exhausted || state.alarm) || self.told.insert(index, state.start) == Some(state.start)
            {
                continue;
            }
            let (rule, taken, until) = (state.rule, state.taken, state.until);
            if state.exhausted {
                warn!(%rule, %taken, limit = %rule.limit, %until, "a budget is used up; its jobs wait for the next period");
            } else {
                warn!(%rule, %taken, limit = %rule.limit, %until, "a soft budget is passed; its jobs go on");
            }
        }
        for region in &self.config.regions {
            metrics::share_deficit(region, self.picker.deficit(region));
        }
        metrics::holding(&self.count());
        self.report_held(now);
    }

    /// Counts jobs that are held for long under the gate that holds the oldest of their line.
    fn report_held(&mut self, now: Micros) {
        let mut oldest: HashMap<(&schemas::Region, &schemas::ModelToken), (Micros, JobKey, u32)> =
            HashMap::new();
        for (key, record) in &self.records {
            if !record.in_hand() || now.since(record.held_since) < HELD_LONG {
                continue;
            }
            let subject = &record.head.subject;
            let line =
                oldest.entry((&subject.region, &subject.model)).or_insert((record.held_since, *key, 0));
            line.2 += 1;
            if record.held_since < line.0 {
                (line.0, line.1) = (record.held_since, *key);
            }
        }
        let mut held: BTreeMap<&'static str, u32> = BTreeMap::new();
        for (_, key, count) in oldest.into_values() {
            let Some(record) = self.records.get(&key) else { continue };
            let gate = if matches!(record.stage, Stage::LookUp { .. }) {
                "look_up"
            } else {
                let ask = Ask::of(&record.head, &record.journal);
                self.picker.explain(self.pools.as_slice(), ask, now, &mut self.rng);
                softest(self.picker.seen().iter().filter_map(|seen| seen.refused))
            };
            *held.entry(gate).or_default() += count;
        }
        metrics::held_long(&held);
    }

    /// Sets what pools are believed to have open of ours to what the records say, so that no count beside them can go wrong for long.
    fn count_open_at_pools(&mut self) {
        let open = self.records.values().flat_map(|record| {
            let model = &record.head.subject.model;
            record.open.iter().map(move |attempt| {
                let ours = match attempt.course {
                    Course::Offered { .. } => Ours::OFFERED,
                    Course::Running { .. } => Ours::RUNNING,
                };
                (&attempt.pool, model, ours)
            })
        });
        self.pools.set_ours(open);
    }

    /// Says what should be warm.
    fn want_warm(&mut self, now: Micros, out: &mut Vec<Effect>) {
        let plan = self.warmth.plan(self.pools.as_slice(), &self.config.policy, now);
        for wanted in plan {
            let pool = self.pools.iter().find(|pool| pool.id == wanted.pool);
            // Workers of a pool share their provider: one of them is enough.
            let Some(worker) = pool.and_then(|pool| pool.workers().next().cloned()) else { continue };
            debug!(pool = %wanted.pool, model = %wanted.model, containers = wanted.containers, "wanted warm");
            let order = Order::Warm {
                from: self.config.id.clone(),
                model: wanted.model,
                containers: wanted.containers,
            };
            out.push(Effect::Order { pool: wanted.pool, worker, order });
        }
    }

    /// The dispatcher stops: what is in hand is given back.
    pub(super) fn stop(&mut self, now: Micros, out: &mut Vec<Effect>) {
        self.stopping = true;
        let in_hand: Vec<JobKey> =
            self.records.iter().filter(|(_, r)| r.in_hand()).map(|(key, _)| *key).collect();
        for key in in_hand {
            self.give_back(key, now, out);
        }
    }
}

/// Of the gates that hold a job from each pool, the one that is likeliest to open.
fn softest(gates: impl Iterator<Item = Refusal>) -> &'static str {
    const ORDER: [Refusal; 15] = [
        Refusal::Full,
        Refusal::Limit,
        Refusal::Tried,
        Refusal::Throttled,
        Refusal::Suspect,
        Refusal::RateLimit,
        Refusal::Breaker,
        Refusal::Budget,
        Refusal::Draining,
        Refusal::Silent,
        Refusal::Deadline,
        Refusal::MaxCost,
        Refusal::Size,
        Refusal::Region,
        Refusal::Provider,
    ];
    let rank = |gate: Refusal| ORDER.iter().position(|known| *known == gate).unwrap_or(ORDER.len());
    gates.min_by_key(|gate| rank(*gate)).map_or("open", Refusal::as_str)
}
