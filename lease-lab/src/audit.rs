//! The auditor: knows what really happened and says which rule was broken.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use dispatcher::{config::OfferConfig, jobs::Count};
use schemas::{
    AttemptKey, JobId, Micros, Tenant, UsdNanos,
    cost::{CostEvent, Purpose},
    failure::{Failure, FailureClass},
    journal::{Entry, Trace},
    lease::Lease,
    reply::{JobResult, Status},
    subjects::JobSubject,
    topology::{LEDGER, REPLIES},
};
use workers::config::JournalMode;

use crate::{
    history::History,
    net::Host,
    plan::{Fault, POOLS, Plan},
    server::{Seen, Server},
    tally::Tally,
    wire::{Ack, Body, Message},
    world::{Core, Violation},
};

/// Everything that the auditor saw.
#[derive(Debug, Default)]
pub(crate) struct Audit {
    /// Accepted jobs by their place in the log.
    jobs: BTreeMap<u64, Accepted>,
    /// Results of jobs, under the one name that a job's result has.
    results: BTreeMap<(Tenant, JobId), Rc<JobResult>>,
    /// Results that tell that an id was taken, by the second job's place.
    taken: BTreeMap<u64, Rc<JobResult>>,
    /// Cost events as they are stored.
    costs: Vec<Rc<CostEvent>>,
    violation: Option<Violation>,
    /// What a world came to, for whoever adds many up.
    pub(crate) tally: Tally,
    /// When each process started and died.
    lives: Vec<(Host, Micros, Option<Micros>)>,
    /// Hosts whose clocks jumped.
    jumps: BTreeSet<Host>,
    /// Whether the server was killed, and forgot.
    forgetful: bool,
    /// Whether nobody dies, is stopped or is cut off in this world.
    gentle: bool,
    /// Jobs that were given back and not delivered since.
    given_back: BTreeSet<u64>,
    /// Who offered each attempt, and whether it heard of the attempt since.
    offered: BTreeMap<AttemptKey, Offered>,
    /// Jobs of which a worker took an offer after its dispatcher had given it up, by a clock that is wrong: two hold them.
    late: BTreeSet<u64>,
    /// Attempts whose cost could not be stored before their worker had to stop.
    withheld: BTreeSet<AttemptKey>,
    /// Who booked each attempt as possibly wasted.
    guessed: BTreeMap<AttemptKey, BTreeSet<Host>>,
}

/// An offered attempt.
#[derive(Clone, Copy, Debug)]
struct Offered {
    by: (Host, u32),
    at: Micros,
    heard: bool,
}

/// An accepted job.
#[derive(Clone, Debug)]
struct Accepted {
    tenant: Tenant,
    id: JobId,
}

impl Audit {
    /// Saw nothing yet.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self { gentle: plan.is_gentle(), ..Self::default() }
    }

    /// The first rule that was broken.
    pub(crate) fn violation(&mut self) -> Option<Violation> {
        self.violation.take()
    }

    fn broken(&mut self, violation: Violation) {
        self.violation.get_or_insert(violation);
    }

    /// The server did something.
    pub(crate) fn see(&mut self, seen: &Seen, _server: &Server, now: Micros, history: &mut History) {
        match seen {
            Seen::Stored { stream, seq, duplicate, message } => {
                self.stored(stream, *seq, *duplicate, message, now, history);
            }
            Seen::Delivered { lease } => self.delivered(lease),
            Seen::Acked { lease, ack, newest } => self.acked(lease, *ack, *newest, now, history),
        }
    }

    fn stored(
        &mut self,
        stream: &str,
        seq: u64,
        duplicate: bool,
        message: &Message,
        now: Micros,
        history: &mut History,
    ) {
        match &message.body {
            Body::Job(_) if !duplicate => {
                let subject: JobSubject =
                    message.subject.parse().expect("jobs are published on job subjects");
                let id = message.id.as_deref().and_then(|id| id.split(':').next()?.parse().ok());
                let id = id.expect("jobs are published with their ids");
                history.note(now, "server", Some(seq), || format!("stores job {id} of {}", subject.tenant));
                self.jobs.insert(seq, Accepted { tenant: subject.tenant, id });
            }
            Body::Result(result) => {
                let place = result.log.as_ref().map(|log| log.seq);
                let again = if duplicate { "has a result already, not" } else { "stores" };
                history.note(now, "server", place, || {
                    let (status, key) = (result.status.as_str(), key(result.attempt_key));
                    format!("{again} {status} of attempt {key} at {seq} of {stream}")
                });
                if !duplicate && stream == REPLIES {
                    self.ended(message, result);
                }
            }
            Body::Cost(event) => {
                let again = if duplicate { "knows already" } else { "stores" };
                history.note(now, "server", self.place(event), || {
                    let (purpose, key, amount) = (event.purpose, key(event.attempt_key), event.amount_usd);
                    format!("{again} {purpose:?} cost of attempt {key}, {amount}")
                });
                if !duplicate && stream == LEDGER {
                    self.costs.push(event.clone());
                }
            }
            Body::Journal(journal) => {
                let id = message.subject.rsplit('.').next().and_then(|id| id.parse::<JobId>().ok());
                let place = self.jobs.iter().rev().find(|(_, job)| Some(job.id) == id).map(|(seq, _)| *seq);
                history.note(now, "server", place, || {
                    let entry = |e: &Entry| {
                        let trace = match &e.trace {
                            Trace::Started { .. } => "started".to_owned(),
                            Trace::Running { run, .. } => run.clone(),
                            Trace::Failed { failure, cost_usd } => {
                                format!("{} for {cost_usd}", failure.class)
                            }
                        };
                        format!("{} at {} {trace}", key(e.key), e.pool)
                    };
                    let entries: Vec<String> = journal.entries.iter().map(entry).collect();
                    format!("stores journal: {}", entries.join("; "))
                });
            }
            _ => {}
        }
    }

    /// Where nobody dies, is stopped or is cut off, no lease runs out: a job that comes again was given back.
    fn delivered(&mut self, lease: &str) {
        let Ok(lease) = lease.parse::<Lease>() else { return };
        let given_back = self.given_back.remove(&lease.stream_seq);
        if self.gentle && lease.delivered > 1 && !given_back {
            let what = format!("delivery {} came because a lease ran out", lease.delivered);
            let rule = "where nobody dies or is cut off, no lease runs out";
            self.broken(Violation::new(rule, what).about(lease.stream_seq));
        }
    }

    /// The place in the log of a cost event's job: the last with its id.
    fn place(&self, event: &CostEvent) -> Option<u64> {
        let of = |job: &Accepted| Some(job.id) == event.job && job.tenant == event.tenant;
        self.jobs.iter().rev().find(|(_, job)| of(job)).map(|(seq, _)| *seq)
    }

    fn ended(&mut self, message: &Message, result: &Rc<JobResult>) {
        let Some(place) = result.log.as_ref().map(|log| log.seq) else {
            self.broken(Violation::new("a result says which job it is of", format!("{result:?}")));
            return;
        };
        let Some(job) = self.jobs.get(&place).cloned() else {
            self.broken(Violation::new("a result is of an accepted job", format!("{result:?}")));
            return;
        };
        // No world breaks for so long that a whole series of offers is lost.
        let unheard = |error: &&Failure| {
            error.class == FailureClass::Poison && error.message.contains("no worker answered")
        };
        if let Some(error) = result.error.as_ref().filter(unheard) {
            self.broken(Violation::new("offers are answered", error.message.clone()).about(place));
        }
        let name = message.id.as_deref().unwrap_or_default();
        let before = if name == job.id.taken_message(&job.tenant, place) {
            self.taken.insert(place, result.clone())
        } else {
            self.results.insert((job.tenant, job.id), result.clone())
        };
        if before.is_some() {
            self.broken(
                Violation::new("a job has one result", format!("a second one: {result:?}")).about(place),
            );
        }
    }

    /// The results of the job at a place.
    fn results_of(&self, place: u64) -> usize {
        let Some(job) = self.jobs.get(&place) else { return 0 };
        let own = self.results.get(&(job.tenant.clone(), job.id)).filter(|result| is_at(result, place));
        usize::from(own.is_some()) + usize::from(self.taken.contains_key(&place))
    }

    fn acked(&mut self, lease: &Lease, ack: Ack, newest: Option<u64>, now: Micros, history: &mut History) {
        let seq = lease.stream_seq;
        match ack {
            Ack::Done => {
                if newest.is_some() {
                    history.note(now, "server", Some(seq), || {
                        format!("is told by delivery {} that it is done", lease.delivered)
                    });
                }
                if self.results_of(seq) == 0 {
                    let what = "finished without a result".to_owned();
                    self.broken(
                        Violation::new("a lease is finished after its result is stored", what).about(seq),
                    );
                }
            }
            Ack::Nak(_) => {
                let stale = newest.is_some_and(|newest| newest != lease.consumer_seq);
                self.tally.stale_naks += u64::from(stale);
                self.given_back.insert(seq);
                history.note(now, "server", Some(seq), || {
                    let stale = if stale { ", which is not the newest" } else { "" };
                    format!("takes back delivery {}{stale}", lease.delivered)
                });
            }
            Ack::Progress => {}
        }
    }

    /// A process sends a message: what it gives back must be its own. Hosts whose clocks jump, and a server that forgets its
    /// deliveries, are left out.
    pub(crate) fn sent(&mut self, host: Host, message: &Message, server: &Server) {
        if let Body::Cost(event) = &message.body
            && let Some(key) = event.attempt_key.filter(|_| event.estimated)
        {
            self.guessed.entry(key).or_default().insert(host);
        }
        let Body::Ack(Ack::Nak(_)) = message.body else { return };
        let Ok(lease) = message.subject.parse::<Lease>() else { return };
        let consumer = server.consumers().find(|consumer| &**consumer.name() == lease.consumer());
        let newest = consumer.and_then(|consumer| consumer.newest_delivery(lease.stream_seq));
        let stale = newest.is_some_and(|newest| newest != lease.consumer_seq);
        if stale && !self.forgetful && !self.jumps.contains(&host) {
            let what = format!("delivery {} is given back, {newest:?} is the newest", lease.consumer_seq);
            let rule = "a lease is given back only by who holds it";
            self.broken(Violation::new(rule, what).about(lease.stream_seq));
        }
    }

    /// A dispatcher holds so many jobs.
    pub(crate) fn holds(&mut self, count: &Count) {
        let most = self.jobs.len();
        let held = count.waiting + count.looked_up + count.away + count.ending + count.over;
        if held > most {
            let what = format!("{held} jobs are held, {most} were accepted");
            self.broken(Violation::new("memory is bounded", what));
        }
    }

    /// A process starts.
    pub(crate) fn born(&mut self, host: Host, now: Micros) {
        self.lives.push((host, now, None));
    }

    /// A process dies.
    pub(crate) fn died(&mut self, host: Host, now: Micros) {
        if let Some((_, _, died)) = self.lives.iter_mut().rev().find(|(of, ..)| *of == host) {
            *died = Some(now);
        }
    }

    /// A clock jumps.
    pub(crate) fn jumped(&mut self, host: Host) {
        self.jumps.insert(host);
    }

    /// The server is killed.
    pub(crate) fn server_killed(&mut self) {
        self.forgetful = true;
    }

    /// What has not ended; nothing once everything has.
    pub(crate) fn unfinished(&self, core: &Core) -> Option<String> {
        let now = core.agenda.now();
        if let Some(seq) = self.jobs.keys().find(|seq| self.results_of(**seq) == 0) {
            return Some(format!("job {seq} has no result"));
        }
        for consumer in core.server.consumers() {
            if let Some(seq) = consumer.out().next() {
                return Some(format!("job {seq} is not finished at the server"));
            }
        }
        for (index, provider) in core.providers.iter().enumerate() {
            if let Some(run) = provider.runs().iter().find(|run| run.ends > now) {
                return Some(format!("a run of job {} goes on at {}", run.of.seq, POOLS[index].0));
            }
        }
        None
    }

    /// The rules that hold once everything has ended.
    pub(crate) fn check(&mut self, core: &Core) -> Result<(), Violation> {
        self.tally.worlds = 1;
        self.tally.jobs = self.jobs.len() as u64;
        self.tally.events = core.agenda.count();
        self.tally.seconds = core.agenda.now().since(crate::plan::BEGIN).as_secs();
        for seq in self.jobs.keys() {
            let results = self.results_of(*seq);
            if results != 1 {
                return Err(Violation::new("a job has one result", format!("it has {results}")).about(*seq));
            }
        }
        self.check_useful()?;
        self.check_bills(core)
    }

    /// A success has one useful cost, and it is of the attempt whose result is stored.
    fn check_useful(&mut self) -> Result<(), Violation> {
        let rule = "a success has one useful cost, by the attempt whose result is stored";
        let mut useful: BTreeMap<(Tenant, JobId), Vec<&CostEvent>> = BTreeMap::new();
        for event in self.costs.iter().filter(|event| event.purpose == Purpose::Useful) {
            let job = event.job.expect("no standing cost here");
            useful.entry((event.tenant.clone(), job)).or_default().push(event);
        }
        for ((tenant, id), result) in &self.results {
            let events = useful.remove(&(tenant.clone(), *id)).unwrap_or_default();
            let place = result.log.as_ref().map_or(0, |log| log.seq);
            let broken = |what: String| Err(Violation::new(rule, what).about(place));
            match (result.status, &events[..]) {
                (Status::Succeeded, [event]) => {
                    self.tally.succeeded += 1;
                    let paid = result.bill.as_ref().map(|bill| bill.amount_usd);
                    if event.attempt_key != result.attempt_key || Some(event.amount_usd) != paid {
                        return broken(format!("the cost is {event:?}, the result {result:?}"));
                    }
                }
                (Status::Succeeded, events) => {
                    return broken(format!("{} useful costs: {events:?}", events.len()));
                }
                (Status::Failed | Status::Expired | Status::Cancelled, []) => {}
                (Status::Failed | Status::Expired | Status::Cancelled, events) => {
                    return broken(format!("{} and {} useful costs", result.status.as_str(), events.len()));
                }
            }
        }
        match useful.into_iter().next() {
            None => Ok(()),
            Some(((tenant, id), _)) => {
                Err(Violation::new(rule, format!("useful without a result: {id} of {tenant}")))
            }
        }
    }

    /// What providers billed is known to the ledger, once; within the bounds that are stated where each is checked.
    fn check_bills(&mut self, core: &Core) -> Result<(), Violation> {
        let mut events: BTreeMap<(JobId, Option<AttemptKey>), Vec<Rc<CostEvent>>> = BTreeMap::new();
        for event in &self.costs {
            let job = event.job.expect("no standing cost here");
            events.entry((job, event.attempt_key)).or_default().push(event.clone());
        }
        for ((job, key), bill) in bills(core) {
            self.tally.runs += bill.runs;
            self.tally.billed += bill.sum;
            let known = events.remove(&(job, Some(key))).unwrap_or_default();
            let about = |rule, what: String| {
                Err(Violation::new(rule, format!("attempt {key}: {what}")).about(bill.seq))
            };
            match &known[..] {
                [] if self.may_be_unknown(core, key, &bill) => {
                    self.tally.unknown += 1;
                    self.tally.unknown_usd += bill.sum;
                }
                [] => {
                    let what =
                        format!("{} runs at {}, {} nano-dollars", bill.runs, POOLS[bill.pool].0, bill.sum);
                    return about("no attempt is billed that no cost event knows", what);
                }
                [event] if !event.estimated && bill.runs == 1 && event.amount_usd.get() != bill.sum => {
                    let what = format!("{} booked, {} billed", event.amount_usd, bill.sum);
                    return about("a cost event says what the provider billed", what);
                }
                [_] => {}
                events if may_be_twice(self, core, events, key, &bill) => self.tally.twice += 1,
                events => {
                    let booked: Vec<_> =
                        events.iter().map(|e| (e.purpose, e.estimated, e.amount_usd)).collect();
                    return about("an attempt is booked once", format!("{booked:?}"));
                }
            }
        }
        self.tally.imagined += events.len() as u64;
        if core.plan.faults.is_empty() && !events.is_empty() {
            let what = format!("{events:?}");
            return Err(Violation::new("nothing is booked that was not billed, where nothing broke", what));
        }
        Ok(())
    }

    /// Whether an attempt that was billed may be unknown to the ledger: where its worker died, and nobody who could book it knew of it
    /// and lived. Each case is a row in `ARCHITECTURE.md`; that they stay rare is checked over all worlds.
    fn may_be_unknown(&self, core: &Core, key: AttemptKey, bill: &Bill) -> bool {
        // It leaves the cost in the journal, unless the job is another's by then.
        if self.withheld.contains(&key) {
            return true;
        }
        let died = self.death(bill.caller);
        let journalled = POOLS[bill.pool].1 || core.plan.journal == JournalMode::Always;
        if journalled {
            // The next holder finds it in the journal. There is none once another attempt has ended the job.
            let ended_by_another = self
                .jobs
                .get(&bill.seq)
                .is_some_and(|job| self.result(job).is_some_and(|r| r.attempt_key != Some(key)));
            return ended_by_another && (died.is_some() || troubled(core, bill.caller.0, bill));
        }
        let (Some(died), Some(offered)) = (died, self.offered.get(&key)) else { return false };
        // A dispatcher hears of a restart at the first heartbeat, believes silence after a lease, and asks until the server answers.
        let booked_within = core.plan.ack_wait.max(SILENT_LEAST) + ASKS_FOR;
        let both = self.death(offered.by).is_some_and(|at| at.since(died) < booked_within);
        // The acceptance had left the worker before its call, so it is only unheard where it was held up on its way.
        let held_up = [bill.caller.0, offered.by.0]
            .into_iter()
            .any(|host| troubled(core, host, bill) || broke(core, host, bill));
        !offered.heard && held_up || both
    }

    /// The result of a job under its id, which another job may have.
    fn result(&self, job: &Accepted) -> Option<&Rc<JobResult>> {
        self.results.get(&(job.tenant.clone(), job.id))
    }

    /// When a process died.
    fn death(&self, (host, life): (Host, u32)) -> Option<Micros> {
        let lives = self.lives.iter().filter(|(of, ..)| *of == host);
        lives.map(|(_, _, died)| *died).nth(usize::try_from(life).ok()?.checked_sub(1)?)?
    }

    /// A dispatcher offers an attempt.
    pub(crate) fn offers(&mut self, by: (Host, u32), key: AttemptKey, now: Micros) {
        self.offered.entry(key).or_insert(Offered { by, at: now, heard: false });
    }

    /// A worker must stop before it could store what an attempt cost.
    pub(crate) fn withholds(&mut self, key: AttemptKey) {
        self.withheld.insert(key);
    }

    /// A worker takes an offer.
    pub(crate) fn takes(&mut self, key: AttemptKey, seq: u64, now: Micros) {
        let offers = OfferConfig::default();
        if self
            .offered
            .get(&key)
            .is_some_and(|offered| now.since(offered.at) > offers.accept_within + offers.margin)
        {
            self.late.insert(seq);
        }
    }

    /// A dispatcher hears that an attempt began, or has ended.
    pub(crate) fn hears_of(&mut self, key: AttemptKey) {
        if let Some(offered) = self.offered.get_mut(&key) {
            offered.heard = true;
        }
    }
}

/// Silence that a dispatcher believes to be a worker's death, where leases are shorter.
const SILENT_LEAST: Duration = Duration::from_secs(12);
/// A question that is lost with its connection is asked again after half a minute, and a stream may be full for as long.
const ASKS_FOR: Duration = Duration::from_secs(45);
/// A worker that was silenced is believed again so long after it speaks, at worst.
const SILENCED_AFTER: Duration = Duration::from_secs(30);

/// What an attempt came to at a provider.
#[derive(Clone, Copy, Debug)]
struct Bill {
    pool: usize,
    runs: u64,
    sum: u64,
    seq: u64,
    began: Micros,
    /// Who asked for the last of its runs.
    caller: (Host, u32),
}

fn bills(core: &Core) -> BTreeMap<(JobId, AttemptKey), Bill> {
    let mut bills: BTreeMap<(JobId, AttemptKey), Bill> = BTreeMap::new();
    for (pool, provider) in core.providers.iter().enumerate() {
        for (id, run) in provider.runs().iter().enumerate() {
            let (amount, caller) = (provider.bill(id), (run.caller.0, run.caller.1));
            if amount > UsdNanos::ZERO {
                let new = Bill { pool, runs: 0, sum: 0, seq: run.of.seq, began: run.began, caller };
                let bill = bills.entry((run.of.job, run.of.key)).or_insert(new);
                (bill.runs, bill.sum, bill.caller) = (bill.runs + 1, bill.sum + amount.get(), caller);
            }
        }
    }
    bills
}

/// Whether an attempt may be booked twice: by somebody who gave it up for lost, as an estimate, and by its worker. Either one of
/// those who know of it was silenced for so long that it looked dead, and was not, or that the job was given to another before
/// it wrote down what it had booked; or two held the job, since one took an offer that had lapsed.
fn may_be_twice(audit: &Audit, core: &Core, events: &[Rc<CostEvent>], key: AttemptKey, bill: &Bill) -> bool {
    let guess = |event: &&Rc<CostEvent>| event.estimated && event.purpose == Purpose::WastedFailure;
    let one_guess = events.len() == 2 && events.iter().filter(guess).count() == 1;
    let dispatcher = audit.offered.get(&key).map(|offered| offered.by.0);
    let guessers = audit.guessed.get(&key).into_iter().flatten().copied();
    let silenced = guessers.chain(dispatcher).chain([bill.caller.0]).any(|host| troubled(core, host, bill));
    one_guess && (silenced || audit.late.contains(&bill.seq))
}

/// Whether a host was frozen, held up or cut off about the time of an attempt.
fn troubled(core: &Core, host: Host, bill: &Bill) -> bool {
    core.plan.faults.iter().any(|(at, fault)| {
        let (of, span) = match fault {
            Fault::Stop { host, span } | Fault::Hold { host, span } | Fault::CutOff { host, span } => {
                (Some(*host), *span)
            }
            Fault::KillServer { away } => (None, *away),
            Fault::Elect { span, .. } => (None, *span),
            _ => return false,
        };
        let ends = *at + span + SILENCED_AFTER;
        of.is_none_or(|of| of == host) && bill.began < ends && *at < bill.began + core.plan.ack_wait * 3
    })
}

/// Whether a connection of a host broke about the time of an attempt: what is on its way then is lost.
fn broke(core: &Core, host: Host, bill: &Bill) -> bool {
    let close = |at: Micros| at.since(bill.began).max(bill.began.since(at)) < Duration::from_secs(1);
    let breaks = |fault: &Fault| matches!(fault, Fault::Break { host: of, .. } if *of == host);
    core.plan.faults.iter().any(|(at, fault)| breaks(fault) && close(*at))
}

fn key(key: Option<AttemptKey>) -> String {
    key.map_or_else(|| "none".to_owned(), |key| key.to_string())
}

fn is_at(result: &JobResult, place: u64) -> bool {
    result.log.as_ref().is_some_and(|log| log.seq == place)
}
