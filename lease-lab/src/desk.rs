//! What a process sees of the world and does there. Each thing that it does is a step, and it may die between any two.

use std::rc::Rc;

use schemas::Micros;

use crate::{
    audit::Audit,
    mutation::Mutation,
    net::{Host, Line, Subscription},
    plan::{POOLS, Plan},
    provider::{CallOf, Provider, RunId},
    wire::Message,
    world::{CallNews, Core, Next},
};

/// What a process sees of the world, and does there.
pub(crate) struct Desk<'a> {
    pub(crate) core: &'a mut Core,
    pub(crate) host: Host,
    pub(crate) dead: bool,
}

impl Desk<'_> {
    /// A clock that never jumps: true time.
    pub(crate) fn now(&self) -> Micros {
        self.core.agenda.now()
    }

    /// What the host's clock shows.
    pub(crate) fn wall(&self) -> Micros {
        self.core.hosts[self.host].clock.wall(self.now())
    }

    /// What the world is like.
    pub(crate) fn plan(&self) -> Rc<Plan> {
        self.core.plan.clone()
    }

    /// Whether a bug was put back.
    pub(crate) fn has(&self, mutation: Mutation) -> bool {
        self.core.mutation == Some(mutation)
    }

    /// The host's name.
    pub(crate) fn name(&self) -> &str {
        &self.core.hosts[self.host].name
    }

    /// Which process this is: its host, and how many there were before on it, itself included.
    pub(crate) fn process(&self) -> (Host, u32) {
        (self.host, self.core.hosts[self.host].life)
    }

    /// A name for this process that no other process ever has.
    pub(crate) fn life_name(&self) -> String {
        let state = &self.core.hosts[self.host];
        format!("{}.{}", state.name, state.life)
    }

    /// One more step; false once the process is dead.
    fn step(&mut self) -> bool {
        if let Some((steps, _)) = &mut self.core.hosts[self.host].crash {
            if *steps == 0 {
                self.dead = true;
            }
            *steps = steps.saturating_sub(1);
        }
        !self.dead
    }

    /// Sends a message.
    pub(crate) fn send(&mut self, line: Line, message: Message) {
        if self.step() {
            self.core.audit.sent(self.host, &message, &self.core.server);
            self.core.send(self.host, line, message);
        }
    }

    /// Has all that was sent on a line leave the process. False while there is no connection.
    pub(crate) fn flush(&mut self, line: Line) -> bool {
        self.core.net.flush(self.host, line)
    }

    /// Subscribes, now and with each new session.
    pub(crate) fn subscribe(&mut self, line: Line, subscription: Subscription) {
        let Subscription { number, filter, group } = subscription.clone();
        if let Some(session) = self.core.net.subscribe(self.host, line, subscription) {
            self.core.server.subscribe(session, number, filter, group);
        }
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(&mut self, line: Line, number: u32) {
        if let Some(session) = self.core.net.unsubscribe(self.host, line, number) {
            self.core.server.unsubscribe(session, number);
        }
    }

    /// Starts a run at a provider; it is told when it has ended, and for a detached provider when it was started.
    pub(crate) fn start_run(&mut self, pool: usize, call: u64, of: CallOf) {
        if !self.step() {
            return;
        }
        let (host, life, now) = (self.host, self.core.hosts[self.host].life, self.now());
        let provider = &mut self.core.providers[pool];
        let (way, back) = (provider.way(), provider.way());
        let (seq, attempt) = (of.seq, of.attempt);
        let run = provider.start(of, (host, life, call), now + way);
        let detached = provider.config.detached;
        let ends = provider.run(run).ends;
        if detached {
            self.core.agenda.push(now + way + back, Next::Answer(host, life, CallNews::Started(call, run)));
        } else {
            self.core.agenda.push(ends + back, Next::Answer(host, life, CallNews::Ended(call, run)));
        }
        self.note(Some(seq), || {
            format!("calls {} for attempt {attempt}, run-{run} until {ends}", POOLS[pool].0)
        });
    }

    /// Waits for the end of a detached run.
    pub(crate) fn await_run(&mut self, pool: usize, call: u64, run: RunId) {
        if !self.step() {
            return;
        }
        let (host, life, now) = (self.host, self.core.hosts[self.host].life, self.now());
        let back = self.core.providers[pool].way();
        let ends = self.core.providers[pool].run(run).ends.max(now) + back;
        self.core.agenda.push(ends, Next::Answer(host, life, CallNews::Ended(call, run)));
    }

    /// Looks for a run by the caller's own name for it.
    pub(crate) fn find_run(&mut self, pool: usize, call: u64, of: &CallOf) {
        if !self.step() {
            return;
        }
        let (host, life, now) = (self.host, self.core.hosts[self.host].life, self.now());
        let back = self.core.providers[pool].way() + self.core.providers[pool].way();
        let found = self.core.providers[pool].find(of.key);
        self.core.agenda.push(now + back, Next::Answer(host, life, CallNews::Named(call, found)));
    }

    /// Stops a run.
    pub(crate) fn stop_run(&mut self, pool: usize, run: RunId) {
        if self.step() {
            let now = self.now();
            self.core.providers[pool].stop(run, now);
        }
    }

    /// The connection of a call is closed.
    pub(crate) fn hang_up(&mut self, pool: usize, call: u64) {
        if self.step() {
            let (now, caller) = (self.now(), (self.host, self.core.hosts[self.host].life, call));
            self.core.providers[pool].hang_up(caller, now);
        }
    }

    /// Whether a job of the plan is surely published.
    pub(crate) fn is_published(&self, job: usize) -> bool {
        self.core.published.contains(&job)
    }

    /// Writes down that a job of the plan is surely published.
    pub(crate) fn published(&mut self, job: usize) {
        if self.step() {
            self.core.published.insert(job);
        }
    }

    /// A provider.
    pub(crate) fn provider(&self, pool: usize) -> &Provider {
        &self.core.providers[pool]
    }

    /// Tells the auditor something.
    pub(crate) fn audit(&mut self) -> &mut Audit {
        &mut self.core.audit
    }

    /// Writes a line of history, about a job's place in the log or about none.
    pub(crate) fn note(&mut self, job: Option<u64>, what: impl FnOnce() -> String) {
        let Core { history, hosts, agenda, .. } = &mut *self.core;
        history.note(agenda.now(), &hosts[self.host].name, job, what);
    }
}
