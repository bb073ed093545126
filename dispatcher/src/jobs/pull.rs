//! How many jobs to ask for: as many as can be placed, and never more than may be held, in jobs and in bytes.

use routing::credit::{self, Want};
use schemas::{Lane, Micros, subjects::JobSubject};
use tracing::debug;

use super::{Effect, Jobs, PullEnd, Stage};

/// Jobs of one line that may be in hand; beyond it no more of that model is asked for. Only jobs that no pool may take, small
/// change from idle pulls, and what fairness looks ahead to ever stay. As many as the server lets out of one consumer by
/// default, so that a tenant without money does not stop the others any sooner than that.
const IN_HAND_MAX: usize = 20_000;
/// Bytes of text that may be in hand, all lines together; beyond it nothing is asked for. What open pulls may still bring comes
/// on top: about [`PULL_BYTES`] for each consumer.
const BYTES_MAX: usize = 64 << 20;
/// Bytes that one pull is to bring at most, by what jobs took lately. (The server's own limit on a pull costs a message each time.)
const PULL_BYTES: usize = 8 << 20;
/// What a job is taken to take before any was seen.
pub(super) const BYTES_AT_FIRST: usize = 64 << 10;
/// Jobs of one line looked at ahead of their turn while several tenants compete. A tenant whose jobs lie further behind
/// another's gets there no sooner than the stream does.
const LOOK_AHEAD: usize = 2_000;

impl Jobs {
    /// A pull has ended, filled or not.
    pub(super) fn pull_ended(
        &mut self,
        feed: usize,
        number: u64,
        end: PullEnd,
        now: Micros,
        out: &mut Vec<Effect>,
    ) {
        let Some(feed) = self.feeds.get_mut(feed) else { return };
        feed.ended(number);
        match end {
            PullEnd::Empty => feed.waits_behind(0),
            PullEnd::Full => {}
            PullEnd::Unserved => feed.pause(now),
            PullEnd::Gone => {
                feed.pause(now);
                out.push(Effect::Repair);
            }
        }
    }

    /// Asks for as many jobs as can be placed.
    pub(super) fn plan_pulls(&mut self, now: Micros, out: &mut Vec<Effect>) {
        if self.bytes >= BYTES_MAX {
            return;
        }
        let (mut wants, mut asks) = (Vec::new(), Vec::new());
        let mut start = 0;
        // Feeds of one (region, model) stand together, one per lane.
        while start < self.feeds.len() {
            let end = start + Lane::ALL.len();
            let open = self.may_bring(start, now);
            wants.clear();
            wants.extend(self.feeds[start..end].iter().map(|feed| Want {
                lane: feed.lane,
                outstanding: feed.outstanding(),
                backlog: feed.backlog,
            }));
            credit::plan(open, self.config.offers.pull_batch, &wants, &mut asks);
            let most = u32::try_from(PULL_BYTES / self.usual_bytes.max(1)).unwrap_or(u32::MAX).max(1);
            let asks = asks.iter().map(|batch| (*batch).min(most));
            for (offset, batch) in asks.enumerate().filter(|(_, batch)| *batch > 0) {
                let feed = &mut self.feeds[start + offset];
                if feed.is_paused(now) {
                    continue;
                }
                self.next += 1;
                feed.asked(self.next, batch, now);
                out.push(Effect::Pull { feed: start + offset, number: self.next, batch });
            }
            start = end;
        }
    }

    /// How many jobs of the model whose feeds begin at `start` may be in hand or on their way.
    fn may_bring(&mut self, start: usize, now: Micros) -> u32 {
        let (policy, breaker) = (&self.config.policy, &self.config.breaker);
        let (region, model) = (&self.feeds[start].region, &self.feeds[start].model);
        let free = self.pools.free_slots(region, model, policy.silent_after, breaker, now);
        // Jobs of a model that nobody serves come to be told so.
        let free = if self.is_unserved(model) { credit::IDLE_PULL } else { free };
        let group = self.lines.group(region, model);
        // Jobs that are looked up come on top of those in the line: a crash brings back many at once.
        let in_hand = group.line.len() + self.looked_up;
        let free = if in_hand >= IN_HAND_MAX { 0 } else { free };
        // While several tenants compete, the next in the stream is not the next in fairness.
        let backlog = self.feeds[start..start + Lane::ALL.len()].iter().any(|f| f.backlog > 0);
        let beyond = match (group.contested(now), backlog) {
            (true, true) => LOOK_AHEAD.saturating_sub(in_hand),
            // Small change, so that whoever comes is seen while all slots are taken.
            (true, false) => credit::IDLE_PULL as usize,
            // What is seen of those that wait tells a keeper by when they need a machine.
            (false, _) if free == 0 => (self.config.offers.look_ahead as usize).saturating_sub(in_hand),
            (false, _) => 0,
        };
        free.saturating_add(u32::try_from(beyond).unwrap_or(0))
    }

    /// Learns whose jobs wait in the streams: those whose newest lies behind what was delivered.
    pub fn waiting_behind(&mut self, newest: Vec<(JobSubject, u64)>, now: Micros) {
        for (subject, seq) in newest {
            let behind = |f: &crate::feed::Feed| {
                f.region == subject.region
                    && f.model == subject.model
                    && f.lane == subject.lane
                    && seq > f.seen
            };
            if self.feeds.iter().any(behind) {
                debug!(%subject, seq, "waits behind what is being read");
                self.lines.group(&subject.region, &subject.model).expect(&subject.tenant, now);
            }
        }
    }

    /// The consumers without an open pull, so that nothing tells what comes there.
    pub fn unheard(&self) -> impl Iterator<Item = (usize, &crate::feed::Feed)> {
        self.feeds.iter().enumerate().filter(|(_, feed)| feed.outstanding() == 0)
    }

    /// The server says how many jobs wait at consumers. Those that have a pull open by now know better.
    pub fn pending(&mut self, told: Vec<(usize, u64)>) {
        for (index, pending) in told {
            if let Some(feed) = self.feeds.get_mut(index).filter(|feed| feed.outstanding() == 0) {
                feed.waits_behind(pending);
            }
        }
    }

    /// Jobs in hand that wait for a look-up to begin.
    pub(super) fn unasked(&mut self) -> Vec<super::JobKey> {
        let records = &self.records;
        let is_unasked = |key: &super::JobKey| {
            records.get(key).is_some_and(|r| matches!(r.stage, Stage::LookUp { asked: false, .. }))
        };
        let mut keys: Vec<_> = self.suspects.drain(..).filter(is_unasked).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}
