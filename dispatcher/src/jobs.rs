//! The one owner of every job that a dispatcher knows, from its delivery to the last news of its last attempt. Pure: news come in
//! as [`Event`]s, and what is to be done goes out as [`Effect`]s, the same way live, at the stop, and in the simulation test.
//!
//! ```text
//!               delivered again,          ┌────────── refused, given back ◀───────────┐
//!               offered in vain           ▼                                            │
//!  delivered ──────────────▶ LookUp ──▶ Waiting ──▶ Away (offered, running) ──▶ failed ┤
//!      │                        │         ▲ │           │        │                     │
//!      └────────────────────────┼─────────┘ │           │        └─▶ its result is stored ─▶ Over
//!                  has a result │           └─▶ Ending ◀┘ no attempt may follow        │
//!                               ▼                 └─▶ stored ─▶ Over ◀─────────────────┘
//!                              Over                         gone when no attempt is open
//! ```
//!
//! The lease is in our hands in the stages `LookUp` and `Waiting`, and nowhere else. A job may have several open attempts: two at
//! once, or one of an earlier lease whose end was not heard. What is counted (jobs and bytes in hand, attempts at a pool) is
//! counted from the records, in one place each, so that it cannot go wrong by itself.

pub mod event;
pub mod lines;
pub mod record;

mod arrive;
mod clock;
mod hedge;
mod link;
mod news;
mod place;
mod pull;
mod remade;

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use rand::rngs::StdRng;
use routing::{
    budget::Budgets,
    hedge::Hedges,
    never::{Hopeless, hopeless},
    pick::{Ask, Picker},
    pool::Pools,
    retry_budget::RetryBudget,
    warm::Warmth,
};
use rustc_hash::{FxHashMap, FxHashSet};
use schemas::{
    Micros, ModelToken, PoolId, Region, UsdNanos, WorkerId,
    failure::{Failure, FailureClass},
    job::Head,
    lease::{self, Lease},
    reply::Status,
};
use tracing::info;

pub use self::event::{Delivered, Effect, Event, Fate, Finding, JobKey, Lost, PullEnd, Returned, Suspect};
use self::{
    lines::Lines,
    link::Link,
    record::{Attempt, Course, Record, Stage},
};
use crate::{config::DispatcherConfig, ending::Ending, feed::Feed};

/// Says whether a job, stored at a time, was taken back, and with which words it ends then.
pub type TakenBack = Box<dyn Fn(&Head, Micros) -> Option<Failure> + Send>;

/// All jobs, and all that is decided with.
pub struct Jobs {
    config: Arc<DispatcherConfig>,
    /// Where workers answer offers.
    accept: String,
    taken_back: TakenBack,
    rng: StdRng,
    /// The next number for an offer or a pull.
    next: u64,
    records: FxHashMap<JobKey, Box<Record>>,
    /// The job of each open attempt.
    offers: FxHashMap<u64, JobKey>,
    /// Open offers by when they lapse, soonest first; all offers have the same time.
    lapses: VecDeque<(Micros, u64)>,
    /// Attempts that may get a second one beside them, by when.
    hedges_at: BTreeSet<(Micros, u64)>,
    /// Jobs to be looked up, soonest first.
    suspects: VecDeque<JobKey>,
    /// Bytes of text in hand, and jobs under look-up: the sums over all records, changed with them in one place each.
    bytes: usize,
    looked_up: usize,
    /// What the texts of the last jobs took on average.
    usual_bytes: usize,
    feeds: Vec<Feed>,
    feed_of: HashMap<String, HashMap<String, usize>>,
    lines: Lines,
    pools: Pools,
    picker: Picker,
    hedges: Hedges,
    warmth: Warmth,
    budgets: Budgets,
    retries: HashMap<Region, RetryBudget>,
    /// When the job stream of a region was made anew, by the region's index; none while it is the one that was found.
    born: FxHashMap<u16, Micros>,
    /// The models that the pools of the configuration serve.
    listed: FxHashSet<ModelToken>,
    /// When each worker's process started.
    lives: HashMap<(PoolId, WorkerId), Micros>,
    /// Workers whose clocks are so far ahead of ours that they drop our offers, and by how much.
    ahead: HashMap<(PoolId, WorkerId), Duration>,
    /// The period in which a person was told of each budget that is used up, by the budget's place in the configuration.
    told: FxHashMap<usize, Micros>,
    /// Something changed that may give a waiting job a place.
    stirred: bool,
    stopping: bool,
    /// When leases were last looked at, and when what is rarely looked at was.
    kept: Micros,
    swept: Micros,
    /// When anything happened last, a tick included.
    awake: Micros,
    /// Whether what is heard is new, and the silence of workers means something.
    link: Link,
}

/// How many jobs are where, counted from the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// In their lines.
    pub waiting: usize,
    /// Being looked up.
    pub looked_up: usize,
    /// Offered or running.
    pub away: usize,
    /// Whose terminal results are on their way.
    pub ending: usize,
    /// Ended, with attempts whose end was not heard.
    pub over: usize,
    /// Attempts that are offered.
    pub offered: usize,
    /// Attempts that run.
    pub running: usize,
    /// Bytes of text in hand.
    pub bytes: usize,
}

impl Jobs {
    /// Knows no job yet. `accept` is the inbox where workers answer, `feeds` are the consumers to read.
    pub fn new(
        config: Arc<DispatcherConfig>,
        accept: String,
        feeds: Vec<Feed>,
        taken_back: TakenBack,
        rng: StdRng,
    ) -> Self {
        let mut feed_of: HashMap<String, HashMap<String, usize>> = HashMap::new();
        for (index, feed) in feeds.iter().enumerate() {
            feed_of.entry(feed.stream.clone()).or_default().insert(feed.consumer.clone(), index);
        }
        let retries =
            config.regions.iter().map(|r| (r.clone(), RetryBudget::new(config.retries.clone()))).collect();
        Self {
            accept,
            taken_back,
            rng,
            next: 0,
            records: FxHashMap::default(),
            offers: FxHashMap::default(),
            lapses: VecDeque::new(),
            hedges_at: BTreeSet::new(),
            suspects: VecDeque::new(),
            bytes: 0,
            looked_up: 0,
            usual_bytes: pull::BYTES_AT_FIRST,
            feed_of,
            feeds,
            lines: Lines::new(config.weights.clone()),
            pools: Pools::default(),
            picker: Picker::new(config.policy.clone(), config.breaker.clone()),
            hedges: Hedges::new(config.policy.hedge.clone()),
            warmth: Warmth::new(config.policy.warm.clone()),
            budgets: Budgets::new(config.budgets.clone()),
            retries,
            born: FxHashMap::default(),
            listed: config
                .pools
                .iter()
                .flat_map(|pool| &pool.models)
                .map(|served| served.model.clone())
                .collect(),
            lives: HashMap::new(),
            ahead: HashMap::new(),
            told: FxHashMap::default(),
            stirred: false,
            stopping: false,
            kept: Micros::default(),
            swept: Micros::default(),
            awake: Micros::default(),
            link: Link::default(),
            config,
        }
    }

    /// Takes in news at `now` and adds what is to be done to `out`.
    pub fn apply(&mut self, event: Event, now: Micros, out: &mut Vec<Effect>) {
        // Before anything is noted by the clock as it shows now.
        self.look_at_clock(now);
        if event.comes_from_outside() {
            self.link.hears(now);
        }
        match event {
            Event::Delivered(delivered) => self.delivered(*delivered, now, out),
            Event::PullEnded { feed, number, end } => self.pull_ended(feed, number, end, now, out),
            Event::Remade { region, born } => self.remade(region, born),
            Event::Reconnected => self.feeds.iter_mut().for_each(Feed::forget_all),
            Event::Answered(news) => self.answered(&news, now, out),
            Event::Heard(beat) => self.heard(beat, now, out),
            Event::Returned(returned) => self.returned(*returned, now, out),
            Event::Found(findings) => findings.into_iter().for_each(|found| self.found(found, now, out)),
            Event::Extended { job, delivery, asked } => self.extended(job, delivery, asked),
            Event::Concluded(job) => self.concluded(job),
            Event::Stirred => self.stirred = true,
            Event::Tick => self.tick(now, out),
            Event::Stop => self.stop(now, out),
        }
    }

    /// Places those that wait, if anything changed that may give one of them a place, and asks for more where slots are free.
    /// Called after each burst of events.
    pub fn settle(&mut self, now: Micros, out: &mut Vec<Effect>) {
        if self.stopping {
            return;
        }
        if std::mem::take(&mut self.stirred) {
            self.place_waiting(now, out);
        }
        self.plan_pulls(now, out);
    }

    /// True once nothing is left that a stopping dispatcher waits for: open offers, and terminal results on their way.
    pub fn is_settled(&self) -> bool {
        let waited_for = |record: &Record| {
            record.stage == Stage::Ending
                || record.open.iter().any(|a| matches!(a.course, Course::Offered { .. }))
        };
        !self.records.values().any(|record| waited_for(record))
    }

    /// Counts the jobs.
    pub fn count(&self) -> Count {
        let mut count = Count::default();
        for record in self.records.values() {
            match record.stage {
                Stage::LookUp { .. } => count.looked_up += 1,
                Stage::Waiting { .. } => count.waiting += 1,
                Stage::Away => count.away += 1,
                Stage::Ending => count.ending += 1,
                Stage::Over => count.over += 1,
            }
            count.bytes += record.bytes();
            for attempt in &record.open {
                match attempt.course {
                    Course::Offered { .. } => count.offered += 1,
                    Course::Running { .. } => count.running += 1,
                }
            }
        }
        count
    }

    /// The records, for whoever explains or checks them.
    pub fn records(&self) -> impl Iterator<Item = (JobKey, &Record)> {
        self.records.iter().map(|(key, record)| (*key, record.as_ref()))
    }

    /// The budgets, for whoever asks their counters.
    pub fn budgets_mut(&mut self) -> &mut Budgets {
        &mut self.budgets
    }

    /// The consumers that are read.
    pub fn feeds(&self) -> &[Feed] {
        &self.feeds
    }

    /// The lines in which jobs wait.
    pub(crate) const fn lines(&self) -> &Lines {
        &self.lines
    }

    /// What is known of all pools.
    pub(crate) const fn pools(&self) -> &Pools {
        &self.pools
    }

    /// What a question about a waiting job is answered with.
    pub(crate) fn desk(&mut self) -> Desk<'_> {
        let Self { records, lines, pools, picker, budgets, retries, ahead, rng, .. } = self;
        Desk { records, lines, pools, picker, budgets, retries, ahead, rng }
    }

    /// The key of the job that a lease is about; none for a stream that is not ours.
    pub fn key(&self, lease: &Lease) -> Option<JobKey> {
        let stream = lease.stream();
        let feed = *self.feed_of.get(stream)?.values().next()?;
        let region = self.config.regions.iter().position(|r| *r == self.feeds[feed].region)?;
        Some(JobKey { region: u16::try_from(region).ok()?, seq: lease.stream_seq })
    }

    /// Counts a delivery that is no job against the pull that brought it, and gives its consumer.
    pub fn counted(&mut self, lease: &Lease) -> Option<&Feed> {
        let index = self.feed_of.get(lease.stream())?.get(lease.consumer()).copied()?;
        let feed = &mut self.feeds[index];
        feed.delivered(lease);
        feed.seen = feed.seen.max(lease.stream_seq);
        Some(feed)
    }

    /// Changes a job's text in hand, counting its bytes.
    fn keep_text(&mut self, key: JobKey, text: Option<crate::nats::Parcel>) {
        let Some(record) = self.records.get_mut(&key) else { return };
        self.bytes -= record.bytes();
        record.parcel = text;
        self.bytes += record.bytes();
    }

    /// Puts a job into its line, or gives it back while the dispatcher stops.
    fn wait(&mut self, key: JobKey, now: Micros, out: &mut Vec<Effect>) {
        if self.stopping {
            self.give_back(key, now, out);
            return;
        }
        if let Some(hopeless) = self.hopeless(key, now) {
            let failure = Failure::new(FailureClass::NoPool, hopeless.message());
            self.end_waiting(key, Status::Failed, failure, now, out);
            return;
        }
        let Some(record) = self.records.get_mut(&key) else { return };
        let ticket = self.lines.push(key, record, now);
        if !record.in_hand() {
            record.held_since = now;
        }
        record.enter(Stage::Waiting { ticket }, &mut self.looked_up);
        self.stirred = true;
    }

    /// Whether pools are listed, none of them serves the model, and none that does was heard of although this process has listened for
    /// long enough.
    fn is_unserved(&self, model: &ModelToken) -> bool {
        !self.config.pools.is_empty()
            && self.link.is_clear()
            && !self.listed.contains(model)
            && !self.pools.iter().any(|pool| pool.track(model).is_some())
    }

    /// The gate that keeps a job from every pool there could be, if there is one. Most jobs rule nothing out and are not looked at.
    fn hopeless(&self, key: JobKey, now: Micros) -> Option<Hopeless> {
        let record = self.records.get(&key)?;
        let (head, routing) = (&record.head, &record.head.routing);
        let model = &head.subject.model;
        if self.is_unserved(model) {
            return Some(Hopeless::Model(model.clone()));
        }
        let rules_out = head.max_cost.is_some()
            || record.larger_than.is_some()
            || !routing.allow_providers.is_empty()
            || !routing.deny_providers.is_empty()
            || !routing.allow_regions.is_empty();
        if !rules_out {
            return None;
        }
        let ask = Ask {
            larger_than: record.larger_than,
            held_for: now.since(record.held_since),
            ..Ask::of(head, &record.journal)
        };
        // That nobody serves the model is not said before those that might were heard of.
        hopeless(&self.config.pools, self.pools.as_slice(), ask, now)
            .filter(|hopeless| !matches!(hopeless, Hopeless::Model(_)))
    }

    /// Has a job looked up before it goes on.
    fn look_up(&mut self, key: JobKey, confirm: bool, now: Micros, out: &mut Vec<Effect>) {
        if self.stopping {
            self.give_back(key, now, out);
            return;
        }
        let Some(record) = self.records.get_mut(&key) else { return };
        if !record.in_hand() {
            record.held_since = now;
        }
        record.enter(Stage::LookUp { asked: false, confirm }, &mut self.looked_up);
        self.suspects.push_back(key);
    }

    /// Gives a job's lease back, if it is surely ours.
    fn give_back(&mut self, key: JobKey, now: Micros, out: &mut Vec<Effect>) {
        let Some(record) = self.records.get(&key) else { return };
        let ack_wait = self.config.topology.ack_wait;
        if record.age(now) + lease::margin(ack_wait) < ack_wait {
            let untried = (!record.tried).then(|| record.head.clone());
            out.push(Effect::GiveBack { lease: record.lease.clone(), untried });
        }
        self.over(key);
    }

    /// Lets a job go: it has ended, or is somebody else's. It stays known until its last attempt was heard to end.
    fn over(&mut self, key: JobKey) {
        self.keep_text(key, None);
        let Some(record) = self.records.get_mut(&key) else { return };
        record.enter(Stage::Over, &mut self.looked_up);
        if record.open.is_empty() {
            self.records.remove(&key);
        }
    }

    /// Ends a job that no worker will.
    fn end(&mut self, key: JobKey, status: Status, failure: Failure, out: &mut Vec<Effect>) {
        let Some(record) = self.records.get_mut(&key) else { return };
        info!(job = %record.head.id, status = status.as_str(), class = %failure.class, "job ended without a worker");
        record.enter(Stage::Ending, &mut self.looked_up);
        let ending = Ending::of(key, record, status, failure);
        self.keep_text(key, None);
        out.push(Effect::End(Box::new(ending)));
    }

    /// The terminal result of a job is stored, or was given up: the lease runs out then and the job comes again.
    fn concluded(&mut self, key: JobKey) {
        if self.records.get(&key).is_some_and(|record| record.stage == Stage::Ending) {
            self.over(key);
        }
    }

    /// Takes out an attempt that has ended, was not taken, or will not be heard of again. A job that is over is forgotten with its last
    /// attempt, so its head goes along.
    fn close(&mut self, offer: u64) -> Option<(JobKey, Arc<Head>, Attempt)> {
        let key = self.offers.remove(&offer)?;
        let record = self.records.get_mut(&key)?;
        let at = record.open.iter().position(|attempt| attempt.offer == offer)?;
        let (head, attempt) = (record.head.clone(), record.open.swap_remove(at));
        if record.stage == Stage::Over && record.open.is_empty() {
            self.records.remove(&key);
        }
        Some((key, head, attempt))
    }

    /// Settles what an attempt is counted with. `actual` is what it cost, as far as anybody knows.
    fn settle_spend(&mut self, head: &Head, attempt: &mut Attempt, actual: Option<UsdNanos>, now: Micros) {
        if let Some(reservation) = attempt.reservation.take() {
            let actual = actual.unwrap_or(reservation.amount());
            self.budgets.settle(reservation, actual, now);
        }
        if let (Some((seat, expected)), Some(actual)) = (attempt.charged.take(), actual) {
            let line = &mut self.lines.group(&head.subject.region, &head.subject.model).line;
            line.correct(&seat, expected, actual);
        }
    }
}

/// The parts of [`Jobs`] that a question is answered from.
pub(crate) struct Desk<'a> {
    pub(crate) records: &'a FxHashMap<JobKey, Box<Record>>,
    pub(crate) lines: &'a mut Lines,
    pub(crate) pools: &'a Pools,
    pub(crate) picker: &'a mut Picker,
    pub(crate) budgets: &'a Budgets,
    pub(crate) retries: &'a HashMap<Region, RetryBudget>,
    pub(crate) ahead: &'a HashMap<(PoolId, WorkerId), Duration>,
    pub(crate) rng: &'a mut StdRng,
}

#[cfg(test)]
mod tests;
