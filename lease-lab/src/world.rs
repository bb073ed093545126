//! The simulated world: one agenda of events over processes, network, server and providers.
//!
//! ```text
//!  agenda ─▶ World::play ─┬─ a message arrives ─▶ server, or a process
//!                         ├─ a process wakes ───▶ its machine ─▶ Desk ─▶ network, providers
//!                         ├─ a provider answers ─▶ a process
//!                         └─ a fault ───────────▶ whatever it breaks, and a later event that mends it
//! ```
//!
//! A process sees the world through its [`Desk`].

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
    time::Duration,
};

use schemas::Micros;

use crate::{
    agenda::Agenda,
    audit::Audit,
    chance::{Chance, Purpose},
    clock::Clock,
    desk::Desk,
    history::History,
    mutation::Mutation,
    net::{Host, LINES, Line, Net, Subscription},
    plan::{BEGIN, Kind, POOLS, Plan},
    process::{Process, boot},
    provider::{Mood, Provider, RunId},
    server::{Out, Server, Session, Task},
    setup,
    wire::{MAX_PAYLOAD, Message},
};

/// How long after the last fault everything must have ended.
const PATIENCE: Duration = Duration::from_secs(1_200);
/// How often it is looked whether everything has ended.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Events after which a world that does not end is given up: many times what the largest world needs.
const EVENTS_MAX: u64 = 4_000_000;

/// What is on the agenda.
#[derive(Debug)]
pub(crate) enum Next {
    /// A message arrives at the server.
    ToServer(Session, Message),
    /// A message arrives at a subscription of a session's client.
    ToHost(Session, u32, Message),
    /// The server goes on with something.
    Server(Task),
    /// The server notices that a session is over.
    ServerNotices(Session),
    /// A client notices that its session is over.
    ClientNotices(Session),
    /// A client tries to connect.
    Connect(Host, Line, u32),
    /// A process wanted to be woken.
    Wake(Host, u32),
    /// A provider answers a call.
    Answer(Host, u32, CallNews),
    /// A fault begins, by its place in the plan.
    Fault(usize),
    /// A stopped process goes on.
    Resume(Host),
    /// A process starts.
    Boot(Host),
    /// The server starts.
    StartServer,
    /// A stream takes messages again.
    Drained(&'static str),
    /// A clock that has jumped is put right.
    RightClock(Host, Duration, bool),
    /// A provider is itself again.
    GoodMood(usize),
    /// Whether everything has ended.
    Look,
}

/// What a provider says about a call, which its caller has numbered.
#[derive(Clone, Debug)]
pub(crate) enum CallNews {
    /// A detached run was started.
    Started(u64, RunId),
    /// The run has ended.
    Ended(u64, RunId),
    /// What was asked for by name.
    Named(u64, Option<RunId>),
}

/// Everything but the processes.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) agenda: Agenda<Next>,
    pub(crate) net: Net,
    pub(crate) server: Server,
    pub(crate) providers: Vec<Provider>,
    pub(crate) hosts: Vec<HostState>,
    pub(crate) history: History,
    pub(crate) audit: Audit,
    /// Jobs that are surely published, by their place in the plan: on the producer's disk.
    pub(crate) published: BTreeSet<usize>,
    pub(crate) plan: Rc<Plan>,
    /// A bug that was put back.
    pub(crate) mutation: Option<Mutation>,
}

/// A host, and the process on it.
#[derive(Debug)]
pub(crate) struct HostState {
    /// What it is called.
    pub(crate) name: String,
    /// Which process it is, counted from 1.
    pub(crate) life: u32,
    /// Its clock.
    pub(crate) clock: Clock,
    mode: Mode,
    /// The earliest wake that is on the agenda.
    wake: Option<Micros>,
    /// It dies after so many more steps; then it stays away for so long.
    pub(crate) crash: Option<(u64, Duration)>,
    /// What came while it was stopped, in order by where it came from.
    backlog: BTreeMap<(u8, u32), Vec<Arrival>>,
}

#[derive(Debug)]
enum Arrival {
    Message(Line, u32, Message),
    Answer(CallNews),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Runs,
    Stopped(Micros),
    Dead,
}

/// A world at work.
pub(crate) struct World {
    pub(crate) core: Core,
    pub(crate) processes: Vec<Option<Box<dyn Process>>>,
    /// Order of what came while a process was stopped, and when a cut is noticed.
    pub(crate) chance: Chance,
}

impl World {
    /// The world that a plan means. `written` says whether its history will be read.
    pub(crate) fn new(plan: Plan, mutation: Option<Mutation>, written: bool) -> Self {
        let seed = plan.seed;
        let of = |purpose| Chance::of(seed, purpose);
        let mut agenda = Agenda::new(BEGIN);
        for host in 0..plan.hosts.len() {
            agenda.push(BEGIN, Next::Boot(host));
        }
        for (index, (at, _)) in plan.faults.iter().enumerate() {
            agenda.push(*at, Next::Fault(index));
        }
        agenda.push(plan.calm_at, Next::Look);
        let core = Core {
            net: Net::new(plan.hosts.len(), of(Purpose::Net)),
            server: setup::server(&plan, of(Purpose::Server)),
            providers: setup::providers(&plan, of(Purpose::Provider)),
            history: History::new(written, BEGIN),
            audit: Audit::new(&plan),
            hosts: hosts(&plan, &mut of(Purpose::Machines)),
            published: BTreeSet::new(),
            agenda,
            plan: Rc::new(plan),
            mutation,
        };
        let processes = core.hosts.iter().map(|_| None).collect();
        Self { core, processes, chance: of(Purpose::Machines) }
    }

    /// Plays the world to its end, or to the first rule that is broken.
    pub(crate) fn play(&mut self) -> Result<(), Violation> {
        while let Some(next) = self.core.agenda.pop() {
            let over = self.one(next)?;
            if let Some(violation) = self.core.audit.violation() {
                return Err(violation);
            }
            if over {
                return Ok(());
            }
            if self.core.agenda.count() > EVENTS_MAX {
                return Err(Violation::new("the world ends", "it goes on and on".to_owned()));
            }
        }
        Ok(())
    }

    /// One event. True once everything has ended.
    fn one(&mut self, next: Next) -> Result<bool, Violation> {
        let now = self.core.agenda.now();
        match next {
            Next::ToServer(session, message) => {
                if self.core.server.is_up() && self.core.net.reaches_server(session, now) {
                    self.core.server.publish(message, now);
                    self.core.pump();
                }
            }
            Next::Server(task) => {
                self.core.server.run(task, now);
                self.core.pump();
            }
            Next::ToHost(session, number, message) => {
                if let Some(line) = self.core.net.reaches_host(session, now) {
                    let host = self.core.net.host_of(session);
                    self.arrive(host, (line as u8, number), Arrival::Message(line, number, message));
                }
            }
            Next::Answer(host, life, news) => {
                if self.core.hosts[host].life == life {
                    self.arrive(host, (u8::MAX, 0), Arrival::Answer(news));
                }
            }
            Next::Wake(host, life) => {
                let state = &mut self.core.hosts[host];
                if state.life == life {
                    state.wake = None;
                    if state.mode == Mode::Runs {
                        self.on(host, |process, desk| process.woken(desk));
                    }
                }
            }
            Next::ServerNotices(session) => self.core.server.close(session),
            Next::ClientNotices(session) => {
                if self.core.net.notice(session) {
                    let host = self.core.net.host_of(session);
                    self.core.connect_soon(host);
                }
            }
            Next::Connect(host, line, life) => self.connect(host, line, life),
            Next::Fault(index) => self.fault(index),
            Next::Resume(host) => self.resume(host),
            Next::Boot(host) => self.boot(host),
            Next::StartServer => {
                self.core.note("server", None, || "starts".to_owned());
                self.core.server.start();
            }
            Next::Drained(stream) => self.core.server.limit(stream, Some(usize::MAX)),
            Next::RightClock(host, by, back) => self.core.hosts[host].clock.jump(by, back),
            Next::GoodMood(pool) => self.core.providers[pool].set(Mood::GOOD),
            Next::Look => return self.look(now),
        }
        Ok(false)
    }

    /// Something arrives at a process, now or once it runs again.
    fn arrive(&mut self, host: Host, from: (u8, u32), arrival: Arrival) {
        match self.core.hosts[host].mode {
            Mode::Runs => self.take(host, arrival),
            Mode::Stopped(_) => self.core.hosts[host].backlog.entry(from).or_default().push(arrival),
            Mode::Dead => {}
        }
    }

    fn take(&mut self, host: Host, arrival: Arrival) {
        self.on(host, |process, desk| match arrival {
            Arrival::Message(line, number, message) => process.heard(line, number, &message, desk),
            Arrival::Answer(news) => process.answered(&news, desk),
        });
    }

    /// Lets a process do something, and sees to what follows: its death, its next waking.
    fn on(&mut self, host: Host, what: impl FnOnce(&mut dyn Process, &mut Desk<'_>)) {
        let Some(process) = self.processes[host].as_mut() else { return };
        let mut desk = Desk { core: &mut self.core, host, dead: false };
        what(process.as_mut(), &mut desk);
        let dead = desk.dead;
        let (wake, ended) = (process.wake_at(), process.has_ended());
        if dead {
            self.crash(host);
        } else if ended {
            self.core.note(&self.core.hosts[host].name.clone(), None, || "ends".to_owned());
            self.leave(host, true, Duration::from_millis(300));
        } else if let Some(at) = wake {
            self.core.wake(host, at);
        }
    }

    fn boot(&mut self, host: Host) {
        let now = self.core.agenda.now();
        let state = &mut self.core.hosts[host];
        state.life += 1;
        state.mode = Mode::Runs;
        state.crash = None;
        let (name, life) = (state.name.clone(), state.life);
        self.core.note(&name, None, || format!("starts, life {life}"));
        self.core.audit.born(host, now);
        let kind = self.core.plan.hosts[host];
        let mut desk = Desk { core: &mut self.core, host, dead: false };
        let process = boot(kind, &mut desk);
        let wake = process.wake_at();
        self.processes[host] = Some(process);
        self.core.connect_soon(host);
        if let Some(at) = wake {
            self.core.wake(host, at);
        }
    }

    /// A process dies: nothing of it is left but what it had sent.
    fn crash(&mut self, host: Host) {
        let away = self.core.hosts[host].crash.map_or(Duration::from_millis(500), |(_, away)| away);
        self.core.note(&self.core.hosts[host].name.clone(), None, || format!("dies, away for {away:?}"));
        self.leave(host, false, away);
    }

    /// The process is gone; `flushed` when it has waited for what it sent.
    fn leave(&mut self, host: Host, flushed: bool, away: Duration) {
        let now = self.core.agenda.now();
        self.processes[host] = None;
        self.core.audit.died(host, now);
        let state = &mut self.core.hosts[host];
        state.mode = Mode::Dead;
        state.backlog.clear();
        state.wake = None;
        let life = state.life;
        for provider in &mut self.core.providers {
            provider.callers_gone(host, life, now);
        }
        for (session, at) in self.core.net.forget(host, flushed, now) {
            self.core.agenda.push(at, Next::ServerNotices(session));
        }
        self.core.agenda.push(now + away, Next::Boot(host));
    }

    fn connect(&mut self, host: Host, line: Line, life: u32) {
        let now = self.core.agenda.now();
        let state = &self.core.hosts[host];
        if state.life != life || state.mode == Mode::Dead || !self.core.net.is_open(host, line) {
            return;
        }
        if !self.core.server.is_up() || !self.core.net.may_connect(host, line, now) {
            let at = self.core.net.retry_at(host, line, now);
            self.core.agenda.push(at, Next::Connect(host, line, life));
            return;
        }
        let (session, subscriptions, waiting) = self.core.net.connect(host, line, now);
        for Subscription { number, filter, group } in subscriptions {
            self.core.server.subscribe(session, number, filter, group);
        }
        for message in waiting {
            self.core.send(host, line, message);
        }
        self.on(host, |process, desk| process.connected(line, desk));
    }

    /// A stopped process goes on: timers and messages that came meanwhile are handled in any order, but those of one
    /// subscription in theirs.
    fn resume(&mut self, host: Host) {
        let now = self.core.agenda.now();
        let state = &mut self.core.hosts[host];
        if !matches!(state.mode, Mode::Stopped(until) if until <= now) {
            return;
        }
        state.mode = Mode::Runs;
        let life = state.life;
        let mut backlog: Vec<_> =
            std::mem::take(&mut state.backlog).into_values().map(Vec::into_iter).collect();
        self.core.note(&self.core.hosts[host].name.clone(), None, || "goes on".to_owned());
        let mut woken = false;
        while !backlog.is_empty() || !woken {
            if self.core.hosts[host].life != life || self.core.hosts[host].mode != Mode::Runs {
                return;
            }
            let index = self.chance.index(backlog.len() + 1);
            match backlog.get_mut(index).map(Iterator::next) {
                Some(Some(arrival)) => self.take(host, arrival),
                Some(None) => drop(backlog.swap_remove(index)),
                None => {
                    woken = true;
                    self.on(host, |process, desk| process.woken(desk));
                }
            }
        }
    }

    fn look(&mut self, now: Micros) -> Result<bool, Violation> {
        let busy = self.processes.iter().zip(&self.core.hosts).find_map(|(process, state)| match process {
            Some(process) => process.busy().map(|what| format!("{}: {what}", state.name)),
            None => Some(format!("{} is away", state.name)),
        });
        let unfinished = busy.or_else(|| self.core.audit.unfinished(&self.core));
        match unfinished {
            None => {
                let mut audit = std::mem::take(&mut self.core.audit);
                let checked = audit.check(&self.core);
                self.core.audit = audit;
                checked.map(|()| true)
            }
            Some(what) if now.since(self.core.plan.calm_at) > PATIENCE => {
                Err(Violation::new("everything ends when the faults do", what))
            }
            Some(_) => {
                self.core.agenda.push(now + LOOK_EVERY, Next::Look);
                Ok(false)
            }
        }
    }

    /// Lets a process die after so many more steps.
    pub(crate) fn crash_after(&mut self, host: Host, steps: u64, away: Duration) {
        let state = &mut self.core.hosts[host];
        match state.mode {
            Mode::Runs => state.crash = Some((steps, away)),
            // It does not take another step.
            Mode::Stopped(_) => {
                state.crash = Some((0, away));
                self.crash(host);
            }
            Mode::Dead => {}
        }
    }

    /// Stops a process for a while.
    pub(crate) fn stop(&mut self, host: Host, until: Micros) {
        let state = &mut self.core.hosts[host];
        match state.mode {
            Mode::Runs => state.mode = Mode::Stopped(until),
            Mode::Stopped(before) => state.mode = Mode::Stopped(before.max(until)),
            Mode::Dead => return,
        }
        self.core.agenda.push(until, Next::Resume(host));
    }

    /// Asks a process to end.
    pub(crate) fn end(&mut self, host: Host) {
        if self.core.hosts[host].mode == Mode::Runs {
            self.on(host, |process, desk| process.end(desk));
        }
    }
}

fn hosts(plan: &Plan, chance: &mut Chance) -> Vec<HostState> {
    let mut numbers = BTreeMap::new();
    let host = |kind: &Kind| {
        let what = match kind {
            Kind::Dispatcher => "dispatch",
            Kind::Worker(pool) => POOLS[*pool].0.split('@').next().unwrap_or_default(),
            Kind::Producer => "producer",
        };
        let number = numbers.entry(what).and_modify(|n| *n += 1).or_insert(1);
        let ahead = i64::try_from(chance.below(300_000)).unwrap_or(0) - 150_000;
        HostState {
            name: format!("{what}-{number}"),
            life: 0,
            clock: Clock::ahead_by(ahead),
            mode: Mode::Dead,
            wake: None,
            crash: None,
            backlog: BTreeMap::new(),
        }
    };
    plan.hosts.iter().map(host).collect()
}

impl Core {
    /// Writes a line of history.
    pub(crate) fn note(&mut self, who: &str, job: Option<u64>, what: impl FnOnce() -> String) {
        self.history.note(self.agenda.now(), who, job, what);
    }

    /// Carries what the server wants done, and tells the auditor what it saw.
    pub(crate) fn pump(&mut self) {
        let now = self.agenda.now();
        for out in self.server.take_out() {
            match out {
                Out::Send(session, number, message) => {
                    let (at, _) = self.net.deliver(session, now);
                    self.agenda.push(at, Next::ToHost(session, number, message));
                }
                Out::Later(at, task) => self.agenda.push(at, Next::Server(task)),
            }
        }
        for seen in self.server.take_seen() {
            self.audit.see(&seen, &self.server, now, &mut self.history);
        }
    }

    pub(crate) fn send(&mut self, host: Host, line: Line, message: Message) {
        // The client refuses what the server would.
        if message.bytes > MAX_PAYLOAD {
            return;
        }
        let now = self.agenda.now();
        if let Some((at, session, message)) = self.net.send(host, line, message, now) {
            self.agenda.push(at, Next::ToServer(session, message));
        }
    }

    /// Puts a process's wish to be woken on the agenda, unless it is woken before.
    fn wake(&mut self, host: Host, at: Micros) {
        let state = &mut self.hosts[host];
        if state.wake.is_none_or(|wake| at < wake) {
            state.wake = Some(at);
            self.agenda.push(at, Next::Wake(host, state.life));
        }
    }

    /// Has a host's clients connect that are not connected.
    pub(crate) fn connect_soon(&mut self, host: Host) {
        let (now, life) = (self.agenda.now(), self.hosts[host].life);
        for line in LINES {
            let at = self.net.retry_at(host, line, now);
            self.agenda.push(at, Next::Connect(host, line, life));
        }
    }
}

/// A rule that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Which rule.
    pub rule: &'static str,
    /// How.
    pub what: String,
    /// The place in the log of the job that it is about.
    pub job: Option<u64>,
}

impl Violation {
    /// A rule was broken, about no single job.
    pub(crate) fn new(rule: &'static str, what: String) -> Self {
        Self { rule, what, job: None }
    }

    /// The same, about a job.
    pub(crate) fn about(self, job: u64) -> Self {
        Self { job: Some(job), ..self }
    }
}
