//! The event loop: jobs arrive, routers send them, workers take or refuse them, calls end, and news travels.
//!
//! ```text
//!  arrive ─▶ line ─▶ choose ─▶ reach (delay) ─┬─ refused ─▶ heard (delay) ─▶ line
//!                                             └─ taken ───▶ heard (delay)
//!                                                  └─▶ finish ─▶ ended heard (delay) ─┬─ done
//!                                                                                     └─ verdict ─▶ line
//! ```
//!
//! `placing` brings jobs into their lines and out to pools, `attempts` follows attempts, `bank` keeps the counters of budgets.
//! Time is virtual, and events of one moment come in the order in which they were made, so a play depends on scenario, policy and
//! seed alone. A job ends once: `end_job` takes it out of the table.

mod attempts;
mod bank;
mod placing;

use std::{cmp::Reverse, collections::BinaryHeap, time::Duration};

use routing::track::Ours;
use schemas::{
    Lane, Micros, PoolId,
    failure::FailureClass,
    job::{Job, JobHeaders},
    journal::Journal,
    subjects::JobSubject,
};

use self::{attempts::Attempt, bank::Bank};
use super::{
    arrivals::{Arrival, Arrivals},
    ledger::{End, For, Ledger},
    router::{Line, Router},
    scenario::{FaultKind, Scenario},
    slab::{Key, Slab},
    trace::Trace,
    world::World,
};

/// When virtual time begins.
const START: Micros = Micros::new(1_795_000_000_000_000);
/// How often workers send a heartbeat.
const BEAT: Duration = Duration::from_secs(1);
/// How often waiting jobs are looked at even if nothing happens: breakers and rate limits open by time alone.
const POLL: Duration = Duration::from_millis(100);
/// Jobs that are left so long after the last arrival end as failed: no pool will ever take them.
const LINGER: Duration = Duration::from_secs(3_600);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Arrive,
    Reach(Key),
    Answer(Key, bool),
    Finish(Key),
    Ended(Key),
    Lapse(Key),
    Lost(Key),
    Hedge(Key),
    Stop(Key),
    Beat { pool: u16, region: u16 },
    Second(u16),
    Poll(u16),
    Draw(u16),
    Count(Key),
    Drawn(Key),
    Strike(u16),
    Calm(u16),
}

/// A job that has not ended.
struct Live<S> {
    arrival: Arrival,
    subject: usize,
    arrived: Micros,
    deadline: Micros,
    journal: Journal,
    avoid: Vec<PoolId>,
    /// When it came into its line for this attempt.
    waits_since: Micros,
    not_before: Micros,
    /// It goes back to a pool that failed it no sooner than this.
    rests_until: Micros,
    attempts: u16,
    seat: Option<S>,
    /// Attempts that run or are offered: the first, and a second beside it.
    open: [Option<Key>; 2],
}

/// The dispatcher of a region.
struct Desk<R: Router> {
    router: R,
    /// By model.
    lines: Vec<R::Line>,
    waiting: usize,
    polling: bool,
    turn: usize,
}

pub(super) struct Engine<'a, R: Router> {
    scenario: &'a Scenario,
    now: Micros,
    sequence: u64,
    agenda: BinaryHeap<Reverse<(Micros, u64, What)>>,
    arrivals: Arrivals<'a>,
    next: Option<Arrival>,
    arriving: bool,
    jobs: Slab<Live<<R::Line as Line>::Seat>>,
    attempts: Slab<Attempt>,
    desks: Vec<Desk<R>>,
    world: World<'a>,
    ledger: Ledger<'a>,
    /// One job of each region, model, lane and tenant, to ask routers with.
    templates: Vec<Job>,
    baseline: Vec<bool>,
    orders: Vec<(usize, usize, u32)>,
    open: Vec<(usize, usize, Ours)>,
    bank: Bank,
}

impl<'a, R: Router> Engine<'a, R> {
    pub(super) fn new(
        scenario: &'a Scenario,
        trace: Option<&Trace>,
        seed: u64,
        router: impl Fn(usize) -> R,
    ) -> Self {
        let desk = |region| Desk {
            router: router(region),
            lines: scenario.models.iter().map(|_| R::Line::default()).collect(),
            waiting: 0,
            polling: false,
            turn: 0,
        };
        let baseline = scenario.pools.iter().map(|pool| scenario.baseline.contains(&pool.id.provider));
        let mut engine = Self {
            scenario,
            now: START,
            sequence: 0,
            agenda: BinaryHeap::new(),
            arrivals: Arrivals::new(scenario, trace, seed),
            next: None,
            arriving: true,
            jobs: Slab::default(),
            attempts: Slab::default(),
            desks: (0..scenario.regions.len()).map(desk).collect(),
            world: World::new(scenario, seed),
            ledger: Ledger::new(scenario, START),
            templates: templates(scenario),
            baseline: baseline.collect(),
            orders: Vec::new(),
            open: Vec::new(),
            bank: Bank::default(),
        };
        engine.open();
        engine
    }

    /// Each worker is heard once, then time begins.
    fn open(&mut self) {
        for region in 0..self.desks.len() {
            for pool in 0..self.scenario.pools.len() {
                self.hear(pool, region);
                // Workers did not start in the same moment.
                let first = Duration::from_millis(50 + 37 * pool as u64 % 1_000);
                self.at(START + first, What::Beat { pool: small(pool), region: small(region) });
            }
            self.at(START + BEAT, What::Second(small(region)));
            if !self.scenario.budgets.as_slice().is_empty() {
                self.at(START, What::Draw(small(region)));
            }
        }
        for (index, fault) in self.scenario.faults.iter().enumerate() {
            self.at(START + fault.from, What::Strike(small(index)));
            self.at(START + fault.until, What::Calm(small(index)));
        }
        self.await_arrival();
    }

    fn at(&mut self, time: Micros, what: What) {
        self.sequence += 1;
        self.agenda.push(Reverse((time, self.sequence, what)));
    }

    fn after(&mut self, span: Duration, what: What) {
        self.at(self.now + span, what);
    }

    fn delay(&self, region: usize, pool: usize) -> Duration {
        self.scenario.delays[region][self.scenario.pools[pool].region]
    }

    /// Plays to the end of the last job.
    pub(super) fn run(mut self) -> Ended<'a> {
        let end = START + self.scenario.duration;
        while let Some(Reverse((time, _, what))) = self.agenda.pop() {
            self.now = time;
            self.happen(what);
            let idle = !self.arriving && self.jobs.len() == 0 && self.attempts.len() == 0;
            if (idle && self.now >= end) || self.now > end + LINGER {
                break;
            }
        }
        self.give_up();
        self.world.settle(self.now);
        Ended { ledger: self.ledger, bill: self.world.bill, standing: self.world.standing }
    }

    fn happen(&mut self, what: What) {
        match what {
            What::Arrive => self.arrive(),
            What::Reach(key) => self.reach(key),
            What::Answer(key, taken) => self.answer(key, taken),
            What::Finish(key) => {
                if let Some(call) = self.attempts.get(key).filter(|a| a.over.is_none()).and_then(|a| a.call) {
                    self.finish(key, call.failed);
                }
            }
            What::Ended(key) => self.ended(key),
            What::Lapse(key) => self.lapse(key),
            What::Lost(key) => self.lost(key),
            What::Hedge(key) => self.hedge(key),
            What::Stop(key) => {
                if self.attempts.get(key).is_some_and(|a| a.over.is_none() && a.call.is_some()) {
                    self.finish(key, Some(FailureClass::Cancelled));
                }
            }
            What::Beat { pool, region } => {
                self.hear(pool.into(), region.into());
                self.drain(region.into());
                self.after(BEAT, What::Beat { pool, region });
            }
            What::Second(region) => {
                self.second(region.into());
                self.after(BEAT, What::Second(region));
            }
            What::Poll(region) => {
                self.desks[usize::from(region)].polling = false;
                self.drain(region.into());
            }
            What::Draw(region) => self.draw(region.into()),
            What::Count(key) => self.count(key),
            What::Drawn(key) => self.drawn(key),
            What::Strike(index) => self.strike(index.into()),
            What::Calm(index) => self.world.calm(&self.scenario.faults[usize::from(index)]),
        }
    }

    fn await_arrival(&mut self) {
        self.next = self.arrivals.next();
        match self.next {
            Some(arrival) => self.at(START + Duration::from_micros(arrival.at_us), What::Arrive),
            None => self.arriving = false,
        }
    }

    fn hear(&mut self, pool: usize, region: usize) {
        if self.world.is_cut(pool) {
            return;
        }
        let (delay, attempts) = (self.delay(region, pool), &self.attempts);
        let alive = |key| attempts.get(key).is_some_and(|attempt| attempt.over.is_none());
        let beat = self.world.heartbeat(pool, delay, alive, self.now);
        self.desks[region].router.heard(pool, &beat, self.now);
    }

    fn second(&mut self, region: usize) {
        let mut open = std::mem::take(&mut self.open);
        // A router forgets an offer that lapsed, even if a worker took it.
        let known = self.attempts.iter().filter(|attempt| attempt.region == region && !attempt.lapsed);
        open.extend(known.map(|attempt| {
            let ours = if attempt.taken { Ours::RUNNING } else { Ours::OFFERED };
            (attempt.sent.pool, attempt.sent.model, ours)
        }));
        self.desks[region].router.ours(&open);
        open.clear();
        self.open = open;
        let mut orders = std::mem::take(&mut self.orders);
        self.desks[region].router.second(self.now, &mut orders);
        for (pool, model, containers) in orders.drain(..) {
            self.world.order(pool, model, containers, self.now);
        }
        self.orders = orders;
    }

    fn strike(&mut self, index: usize) {
        let fault = &self.scenario.faults[index];
        self.world.strike(fault, START, self.now);
        if fault.kind != FaultKind::Down {
            return;
        }
        // Connections break.
        for &pool in &fault.pools {
            for key in self.world.calls(pool) {
                if self
                    .attempts
                    .get(key)
                    .is_some_and(|attempt| attempt.over.is_none() && attempt.call.is_some())
                {
                    self.finish(key, Some(FailureClass::Connection));
                }
            }
        }
    }

    /// Ends the jobs that are left as failed, and stops their attempts.
    fn give_up(&mut self) {
        for key in self.jobs.keys() {
            self.end_job(key, End::Failed);
        }
        for key in self.attempts.keys() {
            if self.attempts.get(key).is_some_and(|a| a.call.is_some() && a.over.is_none()) {
                self.finish(key, Some(FailureClass::Cancelled));
            }
            let Some(attempt) = self.attempts.take(key) else { continue };
            if let Some(over) = attempt.over {
                self.ledger.paid(over.cost, For::Failure, attempt.payer(self.scenario), self.now);
            }
        }
    }
}

/// The end of a play.
pub(super) struct Ended<'a> {
    pub(super) ledger: Ledger<'a>,
    /// What providers charged, counted apart from the ledger.
    pub(super) bill: u64,
    pub(super) standing: u64,
}

/// Regions, pools and faults are few, so their indices are short.
fn small(index: usize) -> u16 {
    u16::try_from(index).unwrap_or(u16::MAX)
}

fn templates(scenario: &Scenario) -> Vec<Job> {
    let mut all = Vec::new();
    for region in &scenario.regions {
        for model in &scenario.models {
            for lane in Lane::ALL {
                for tenant in &scenario.tenants {
                    let (region, model, tenant) =
                        (region.name.clone(), model.name.clone(), tenant.name.clone());
                    let subject = JobSubject { region, model, lane, tenant };
                    let body = br#"{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x"}"#;
                    let job = Job::read(subject, JobHeaders::default(), body, START);
                    all.push(job.expect("a job of a prompt and nothing else reads"));
                }
            }
        }
    }
    all
}
