//! Jobs that come into our hands: delivered by the server, given back by a worker, or looked up.

use std::sync::Arc;

use routing::retry::{self, Verdict};
use schemas::{
    Lane, Micros,
    failure::{Failure, FailureClass},
    journal::Journal,
    reply::Status,
};
use tracing::{debug, info, warn};

use super::{Delivered, Effect, Fate, Finding, JobKey, Jobs, Record, Returned, Stage};
use crate::metrics;

/// Offers that nobody answered after which a job ends. With pauses up to a minute that is a quarter of an hour, in which a pool
/// whose workers are gone falls silent and is offered nothing: these speak, and take nothing.
const VAIN_MAX: u32 = 20;

impl Jobs {
    /// The server delivered a job.
    pub(super) fn delivered(&mut self, delivered: Delivered, now: Micros, out: &mut Vec<Effect>) {
        let Delivered { head, parcel, lease } = delivered;
        let index = self.feed_of.get(lease.stream()).and_then(|of| of.get(lease.consumer())).copied();
        let (Some(index), Some(key)) = (index, self.key(&lease)) else { return };
        let feed = &mut self.feeds[index];
        feed.delivered(&lease);
        self.usual_bytes = (self.usual_bytes * 7 + parcel.bytes()) / 8;
        let again = lease.delivered > 1;
        // The lease runs since the server sent it, which may be longer ago than it seems.
        let leased = self.link.sent_after(now);
        metrics::delivered(again);
        let (seen, remade) = (lease.stream_seq <= feed.seen, lease.stream_seq <= feed.recreated_at);
        feed.seen = feed.seen.max(lease.stream_seq);
        let lane = feed.lane;
        self.displace(key, &lease, now, out);
        if let Some(record) = self.records.get_mut(&key) {
            let next = lease.delivered == record.lease.delivered + 1;
            match record.stage {
                // A server that was killed forgets deliveries. The holder of the first lease still has it: acks name the
                // message, not the delivery.
                Stage::Away | Stage::Over if !again => {
                    metrics::forgotten_delivery();
                    return;
                }
                Stage::Ending => return,
                _ => {}
            }
            (record.lease, record.leased, record.asked, record.tried) = (lease, leased, None, false);
            match record.stage {
                // Nobody had it in between: its place in the line stays.
                Stage::Waiting { .. } if next || !again => return,
                Stage::LookUp { asked: false, .. } => return,
                Stage::Waiting { .. } | Stage::LookUp { .. } | Stage::Away | Stage::Over | Stage::Ending => {}
            }
            debug!(job = %record.head.id, open = record.open.len(), "delivered again while attempts are open or a look-up is on its way");
            record.open.iter_mut().for_each(|attempt| attempt.current = false);
            self.keep_text(key, Some(parcel));
            self.look_up(key, false, now, out);
            return;
        }
        if !again && seen && !remade {
            // Forgotten by a server that was killed, and held by somebody else. If nobody holds it, it comes again after
            // `ack_wait`, as number 2.
            metrics::forgotten_delivery();
            debug!(job = %head.id, seq = key.seq, "delivered before and forgotten by the server; left to its holder");
            return;
        }
        // A backfill says nothing about what comes next.
        self.feeds[index].arrivals += u64::from(!again && !remade && lane != Lane::Low);
        // How many attempts there were before, the look-up says.
        self.insert(key, Arc::new(head), lease, leased, Journal::default(), 0);
        self.keep_text(key, Some(parcel));
        if again || remade {
            self.look_up(key, false, now, out);
        } else {
            self.wait(key, now, out);
        }
    }

    fn insert(
        &mut self,
        key: JobKey,
        head: Arc<schemas::job::Head>,
        lease: schemas::lease::Lease,
        leased: Micros,
        journal: Journal,
        attempts: u16,
    ) {
        let record = Record {
            head,
            parcel: None,
            lease,
            leased,
            asked: None,
            journal,
            attempts,
            untried: 0,
            tried: false,
            stage: Stage::Over,
            open: Vec::new(),
            larger_than: None,
            avoid: Vec::new(),
            vain: 0,
            forgive_at: None,
            decision: None,
            held_since: leased,
            not_before: None,
        };
        self.records.insert(key, Box::new(record));
    }

    /// A worker gives a job back after an attempt that failed.
    pub(super) fn returned(&mut self, returned: Returned, now: Micros, out: &mut Vec<Effect>) {
        let Returned { back, head, parcel } = returned;
        let Some(key) = self.key(&back.lease) else { return };
        if self.is_of_old_stream(key, &back.lease) {
            warn!(job = %head.id, "came back, and the stream it lay in is gone; it is lost");
            return;
        }
        self.displace(key, &back.lease, now, out);
        metrics::returned(back.failure.class);
        debug!(job = %head.id, attempt = back.attempt, pool = %back.pool, class = %back.failure.class, "job came back");
        let size =
            back.journal.entries.last().and_then(|entry| self.size_of(&entry.pool, &head.subject.model));
        // Whoever takes a job books what others have left before it begins. What is left open now is of somebody who held the job at the
        // same time, and may have ended it.
        let key_of_attempt = back.offer.as_ref().map(schemas::handover::OfferKey::attempt);
        let held_by_two = back.journal.abandoned(key_of_attempt).next().is_some();
        let own = back.offer.as_ref().filter(|offer| offer.accept == self.accept).map(|offer| offer.offer);
        // The first of two attempts may give the job back after the second has failed: then the second was the newest.
        let attempts = back.attempt.max(back.journal.last_attempt());
        if let Some(record) = self.records.get_mut(&key) {
            record.journal.merge(&back.journal);
            // The job is not its own any more, and the news of its end, still to come, says nothing about what follows.
            if let Some(attempt) = own.and_then(|own| record.attempt(own)) {
                attempt.current = false;
            }
            record.attempts = record.attempts.max(attempts);
            record.tried = false;
            let newer = record.lease.delivered > back.lease.delivered;
            match record.stage {
                // The job was delivered again meanwhile, or ends: the newer holder goes on, with what is known now.
                Stage::LookUp { .. } | Stage::Waiting { .. } | Stage::Ending => return,
                Stage::Away if newer => return,
                // It was left to this attempt, or it is done: the server knows whether the lease still stands.
                Stage::Over if newer => {
                    (record.lease, record.leased, record.asked) = (back.lease, back.leased_us, None);
                    self.keep_text(key, Some(parcel));
                    self.look_up(key, true, now, out);
                    return;
                }
                Stage::Away | Stage::Over => {}
            }
            // A second attempt is open: the job is its own, and it must know so.
            let beside = record.open.iter().find(|a| a.current && Some(a.offer) != own).map(|a| a.offer);
            if let Some(beside) = beside {
                let entry = back.journal.entries.last().cloned();
                self.tell_alone(beside, entry, out);
                return;
            }
            let record = self.records.get_mut(&key).expect("it was there a moment ago");
            (record.lease, record.leased, record.asked) = (back.lease, back.leased_us, None);
        } else {
            self.insert(key, Arc::new(head), back.lease, back.leased_us, back.journal, attempts);
        }
        self.keep_text(key, Some(parcel));
        let Some(record) = self.records.get_mut(&key) else { return };
        record.decision = back.decision;
        if held_by_two {
            self.look_up(key, true, now, out);
            return;
        }
        self.go_on(key, &back.failure, size, now, out);
    }

    /// Ends a job whose attempt failed, or lets it wait for another. `size` is that of the SKU it failed on, where that is known.
    pub(super) fn go_on(
        &mut self,
        key: JobKey,
        failure: &Failure,
        size: Option<u16>,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let Some(record) = self.records.get_mut(&key) else { return };
        match retry::verdict(&record.head, &record.journal, failure, now) {
            Verdict::End(status, failure) => self.end(key, status, failure, out),
            Verdict::Again { larger } => {
                record.larger_than = size.filter(|_| larger);
                record.not_before = retry::rest(&record.journal, &mut self.rng).map(|pause| now + pause);
                self.wait(key, now, out);
            }
        }
    }

    /// A look-up has ended.
    pub(super) fn found(&mut self, found: Finding, now: Micros, out: &mut Vec<Effect>) {
        let Finding { job: key, delivery, fate, leased, untried } = found;
        let Some(record) = self.records.get_mut(&key) else { return };
        if !matches!(record.stage, Stage::LookUp { asked: true, .. }) || record.lease.consumer_seq != delivery
        {
            return;
        }
        if let Some(leased) = leased {
            record.leased = record.leased.max(leased);
        }
        record.untried = record.untried.max(untried);
        match fate {
            Fate::Unknown => {
                warn!(job = %record.head.id, "not looked up; its lease runs out and it comes again");
                self.over(key);
            }
            Fate::Done => {
                metrics::found_done();
                info!(job = %record.head.id, "has a result already; finished");
                out.push(Effect::Ack(record.lease.clone()));
                self.over(key);
            }
            Fate::IdTaken(failure) => self.end(key, Status::Failed, failure, out),
            Fate::Again(journal) => {
                record.journal.merge(&journal);
                self.resume(key, now, out);
            }
        }
    }

    /// Goes on with a job that has no result, delivered again or offered in vain.
    fn resume(&mut self, key: JobKey, now: Micros, out: &mut Vec<Effect>) {
        let poison_after = self.config.offers.poison_after;
        let Some(record) = self.records.get_mut(&key) else { return };
        // A job that a stopping dispatcher gave back has harmed nobody: only the other deliveries count, this one among them.
        let delivered = record.lease.delivered.saturating_sub(record.untried);
        if delivered > poison_after {
            let text = format!("delivered {delivered} times without an outcome");
            self.end(key, Status::Failed, Failure::new(FailureClass::Poison, text), out);
            return;
        }
        if record.vain >= VAIN_MAX {
            let text = format!(
                "offered {VAIN_MAX} times, and no worker answered: do their clocks and the dispatcher's differ?"
            );
            self.end(key, Status::Failed, Failure::new(FailureClass::Poison, text), out);
            return;
        }
        info!(job = %record.head.id, delivered, attempts = record.journal.entries.len(), "looked up, going on");
        let before = u16::try_from(delivered.saturating_sub(1)).unwrap_or(u16::MAX);
        record.attempts = record.attempts.max(record.journal.last_attempt()).max(before);
        if record.journal.unfinished().is_some() {
            // The pool that did not answer is the one to ask what became of its run.
            record.avoid.clear();
        } else if let Some(failure) = record.journal.last_failure().cloned() {
            let size = None;
            self.go_on(key, &failure, size, now, out);
            return;
        }
        self.wait(key, now, out);
    }

    /// The server said that it extended a lease.
    pub(super) fn extended(&mut self, key: JobKey, delivery: u64, asked: Micros) {
        if let Some(record) = self.records.get_mut(&key)
            && record.lease.consumer_seq == delivery
        {
            record.leased = record.leased.max(asked);
            record.asked = None;
        }
    }

    /// The size of what a pool runs a model on.
    pub(super) fn size_of(&self, pool: &schemas::PoolId, model: &schemas::ModelToken) -> Option<u16> {
        self.pools.iter().find(|p| p.id == *pool)?.track(model).map(|track| track.served.size)
    }
}
