//! The event loop: jobs arrive, routers send them, workers take or refuse them, providers end or break, news travels.
//!
//! ```text
//!  arrive ─▶ line ─▶ choose ─▶ reach (delay) ─┬─ refused ─▶ heard (delay) ─▶ line
//!                                             └─ taken ───▶ heard (delay)
//!                                                  └─▶ finish ─▶ ended heard (delay) ─┬─ done
//!                                                                                     └─ verdict ─▶ line
//! ```
//!
//! Attempts are in `attempts`, the counters of budgets in `bank`. Time is virtual; events of one moment come in the order they
//! were made, so a run depends on scenario, policy and seed alone. A job ends once: `end_job` takes it out of the table.

mod attempts;
mod bank;

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
    router::{Line, Look, Router, Sending, Step, Want},
    scenario::{FaultKind, Scenario, lane_index},
    slab::{Key, Slab},
    trace::Trace,
    world::{Task, World},
};

/// When virtual time begins: some morning.
const START: Micros = Micros::new(1_795_000_000_000_000);
/// Workers say how they are so often.
const BEAT: Duration = Duration::from_secs(1);
/// Waiting jobs are looked at so often even if nothing happens: breakers and limits open by time alone.
const POLL: Duration = Duration::from_millis(100);
/// Jobs still there so long after the last arrival end as failed: nobody will ever take them.
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
    /// When it came into its line, for its first attempt or its next.
    waits_since: Micros,
    not_before: Micros,
    /// It goes back to a pool that failed it no sooner.
    rests_until: Micros,
    attempts: u16,
    seat: Option<S>,
    /// Attempts that run, or are offered.
    runs: [Option<Key>; 2],
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
    /// One job of each region, model, lane and tenant: what routing is asked with.
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

    /// Everybody is heard once, then life begins.
    fn open(&mut self) {
        for region in 0..self.desks.len() {
            for pool in 0..self.scenario.pools.len() {
                self.hear(pool, region);
                // Workers were not started in the same moment.
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

    /// Runs to the end of the last job.
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

    fn arrive(&mut self) {
        let Some(arrival) = self.next.take() else { return };
        self.await_arrival();
        let Arrival { region, model, tenant, lane, .. } = arrival;
        let scenario = self.scenario;
        let models = scenario.models.len();
        let subject = ((region * models + model) * 3 + lane_index(lane)) * scenario.tenants.len() + tenant;
        let deadline = self.now + scenario.deadline(lane);
        let key = self.jobs.add(Live {
            arrival,
            subject,
            arrived: self.now,
            deadline,
            journal: Journal::default(),
            avoid: Vec::new(),
            waits_since: self.now,
            not_before: START,
            rests_until: START,
            attempts: 0,
            seat: None,
            runs: [None, None],
        });
        self.ledger.accepted(tenant, self.now);
        let desk = &mut self.desks[region];
        desk.router.arrived(&self.templates[subject], self.now);
        let spec = &scenario.tenants[tenant];
        let waited = desk.lines[model].len() > 0;
        desk.lines[model].push(lane, &spec.name, spec.weight, deadline, self.now, key);
        desk.waiting += 1;
        // Where others wait already, nothing has changed that would give this one a place, unless they wait for money of
        // their own; a poll is on its way.
        if !waited || lane == Lane::High || !scenario.budgets.as_slice().is_empty() {
            self.drain_line(region, model);
            self.poll(region);
        }
    }

    /// Gives places to jobs of a region that wait, as long as there are any.
    fn drain(&mut self, region: usize) {
        let models = self.scenario.models.len();
        let turn = self.desks[region].turn;
        self.desks[region].turn = (turn + 1) % models;
        for step in 0..models {
            if self.desks[region].waiting == 0 {
                return;
            }
            self.drain_line(region, (turn + step) % models);
        }
        self.poll(region);
    }

    fn poll(&mut self, region: usize) {
        let desk = &mut self.desks[region];
        if desk.waiting > 0 && !desk.polling {
            desk.polling = true;
            self.after(POLL, What::Poll(small(region)));
        }
    }

    fn drain_line(&mut self, region: usize, model: usize) {
        while self.place_next(region, model) {}
    }

    /// Takes one job out of a line and sends it, or ends it. False when none can go now.
    fn place_next(&mut self, region: usize, model: usize) -> bool {
        let Self { desks, jobs, templates, ledger, now, .. } = self;
        let now = *now;
        let Desk { router, lines, .. } = &mut desks[region];
        let line = &mut lines[model];
        let ahead = u32::try_from(line.len().saturating_sub(1)).unwrap_or(u32::MAX);
        let mut sending = None;
        let found = line.scan(|key| {
            let Some(job) = jobs.get_mut(key) else { return Look::Take };
            if now > job.deadline {
                return Look::Take;
            }
            if job.not_before > now {
                return Look::Skip;
            }
            let template = &mut templates[job.subject];
            template.head.deadline = Some(job.deadline);
            let want = Want {
                job: template,
                model,
                journal: &job.journal,
                avoid: &job.avoid,
                ahead,
                held_for: now.since(job.waits_since),
                rests: now < job.rests_until,
            };
            match router.choose(&want, now) {
                Step::Send(found) => {
                    sending = Some(found);
                    Look::Take
                }
                Step::Pause(span) => {
                    job.not_before = now + span;
                    Look::Skip
                }
                Step::WaitTenant(held) => {
                    ledger.held(held, now);
                    Look::SkipTenant
                }
                Step::Wait if job.journal.entries.is_empty() && job.avoid.is_empty() => Look::Stop,
                Step::Wait => {
                    // Refusals of a moment ago have had their say.
                    job.avoid.clear();
                    Look::Skip
                }
            }
        });
        let Some((seat, key)) = found else { return false };
        self.desks[region].waiting -= 1;
        let Some(job) = self.jobs.get_mut(key) else { return true };
        match sending {
            Some(sent) => {
                self.desks[region].lines[model].started(&seat, sent.expected);
                job.seat = Some(seat);
                self.send(key, region, sent);
            }
            None => self.end_job(key, End::Expired),
        }
        true
    }

    fn send(&mut self, key: Key, region: usize, sent: Sending) {
        let Some(job) = self.jobs.get_mut(key) else { return };
        job.attempts += 1;
        let Arrival { number, model, tokens, .. } = job.arrival;
        let task = Task { number, attempt: job.attempts, model, tokens };
        let subject = job.subject;
        let attempt = Attempt {
            job: Some(key),
            region,
            subject,
            task,
            sent,
            call: None,
            over: None,
            taken: false,
            lapsed: false,
            sent_at: self.now,
        };
        let run = self.attempts.add(attempt);
        job.runs[usize::from(sent.hedge)] = Some(run);
        self.ledger.attempts += 1;
        self.ledger.hedges += u64::from(sent.hedge);
        self.after(self.delay(region, sent.pool), What::Reach(run));
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
        // A router forgets an offer that lapsed, even if somebody took it.
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

    /// Whoever is left will not be served.
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

/// What is left of a run.
pub(super) struct Ended<'a> {
    pub(super) ledger: Ledger<'a>,
    /// What providers charged, counted apart from what jobs and containers add up to.
    pub(super) bill: u64,
    pub(super) standing: u64,
}

/// Regions, pools and faults are few.
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
