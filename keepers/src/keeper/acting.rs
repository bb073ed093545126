//! The loop of a keeper that holds a pool's lease: every event goes through [`Acting::happen`], which stores the row before
//! anything is done.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schemas::{MachineId, Micros, time::Clock as _};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};
use transport::SystemClock;

use super::{
    carry::{self, Asked, Call, Done},
    desk::Desk,
    hold::Hold,
    money::Money,
    plan::Planner,
};
use crate::{
    account::Listed,
    fleet,
    landlord::Known,
    lease::{Lease, RENEW_EVERY},
    machine::{self, Effect, Event, Site},
    metrics,
    row::{Life, Row},
    store::StoreError,
    tap::Step,
};

/// Nothing waits longer than this for a look at what is due.
const LOOK_AT_LEAST: Duration = Duration::from_secs(5);
/// Notes of landlords that may wait to be stored. A landlord waits for each.
const STEPS_WAIT: usize = 64;

/// A row and what goes on around it.
struct Held {
    row: Row,
    /// The row as it is stored.
    stored: Row,
    revision: u64,
    /// The control call under way.
    call: Option<Call>,
    /// The call that waits for it to end.
    next: Option<Call>,
    probing: bool,
}

impl Held {
    fn of(row: Row, revision: u64) -> Self {
        Self { stored: row.clone(), row, revision, call: None, next: None, probing: false }
    }

    fn is_news(&self) -> bool {
        self.row.is_news_to(&self.stored)
    }
}

/// A keeper that acts for a pool.
pub(super) struct Acting<'a> {
    desk: &'a Desk,
    hold: Hold,
    held: BTreeMap<MachineId, Held>,
    planner: Planner,
    money: Money,
    calls: JoinSet<Done>,
    steps: (mpsc::Sender<Asked>, mpsc::Receiver<Asked>),
    listed: watch::Receiver<Option<Arc<Listed>>>,
    prober: Arc<tokio::sync::Semaphore>,
    /// Rows have changed since the account was told of them: it is told once a turn of the loop, not once a row.
    untold: bool,
}

/// Probes at a time: each waits for one completion.
const PROBES: usize = 64;

impl<'a> Acting<'a> {
    /// Reads what there is.
    pub(super) async fn begin(desk: &'a Desk, hold: Hold) -> Result<Self, StoreError> {
        let rows = desk.store.rows(&desk.settings.pool).await?;
        let held =
            rows.into_iter().map(|(machine, (row, revision))| (machine, Held::of(row, revision))).collect();
        let mut acting = Self {
            desk,
            hold,
            held,
            planner: Planner::begin(desk).await?,
            money: Money::begin(desk).await?,
            calls: JoinSet::new(),
            steps: mpsc::channel(STEPS_WAIT),
            listed: desk.account.listed(),
            prober: Arc::new(tokio::sync::Semaphore::new(PROBES)),
            untold: true,
        };
        // What was listed before the rows were read may be older than they are.
        acting.listed.mark_unchanged();
        let machines: Vec<MachineId> = acting.held.keys().cloned().collect();
        for machine in machines {
            acting.happen(&machine, Event::TakenOver).await?;
        }
        Ok(acting)
    }

    /// Acts until `shutdown`, or until another keeper has the pool.
    pub(super) async fn run(mut self, shutdown: &CancellationToken) -> Result<(), StoreError> {
        let mut renew = interval(RENEW_EVERY);
        renew.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let outcome = loop {
            self.tell_account();
            let due = self.due_in();
            let step = tokio::select! {
                biased;
                () = shutdown.cancelled() => break Ok(()),
                () = tokio::time::sleep_until(self.hold.until()) => {
                    warn!(pool = %self.desk.settings.pool, "the lease could not be renewed in time");
                    break Ok(());
                }
                _ = renew.tick() => match self.hold.renew(self.desk).await {
                    Ok(true) => Ok(()),
                    Ok(false) => {
                        warn!(pool = %self.desk.settings.pool, "another keeper has taken the lease");
                        break Ok(());
                    }
                    Err(error) => Err(error),
                },
                Some(asked) = self.steps.1.recv() => self.note(asked).await,
                Some(done) = self.calls.join_next() => match done {
                    Ok(done) => self.done(done).await,
                    Err(error) => {
                        error!(%error, "a call of the keeper broke down");
                        break Ok(());
                    }
                },
                Ok(()) = self.listed.changed() => self.list().await,
                () = self.money.changed() => self.money.settle(self.desk, self.held.values().map(|held| &held.row)).await,
                () = self.planner.changed() => self.plan().await,
                () = sleep(due) => self.tick().await,
            };
            if let Err(error) = step {
                match error {
                    // Nothing was decided that is not stored: what is not done now is due again.
                    StoreError::Read(_) | StoreError::Write(_) | StoreError::Scan(_) if self.hold.holds() => {
                        warn!(pool = %self.desk.settings.pool, %error, "the bucket of machines does not answer");
                        break Err(error);
                    }
                    StoreError::Read(_)
                    | StoreError::Write(_)
                    | StoreError::Scan(_)
                    | StoreError::Value { .. }
                    | StoreError::Ledger(_)
                    | StoreError::Replaced(_) => break Err(error),
                }
            }
        };
        self.stop(shutdown).await;
        outcome
    }

    /// Calls under way are waited for within the grace period, so that their answers are stored.
    async fn stop(mut self, shutdown: &CancellationToken) {
        if shutdown.is_cancelled() && tokio::time::timeout(self.desk.grace, self.finish()).await.is_err() {
            let pool = &self.desk.settings.pool;
            warn!(%pool, "calls were under way when the keeper stopped; the next keeper looks for what they did");
        }
        self.calls.shutdown().await;
        if self.hold.holds() {
            self.planner.store(self.desk).await;
            self.hold.give_up(self.desk).await;
        }
    }

    /// Takes the answers of what is under way, and begins nothing.
    async fn finish(&mut self) {
        while !self.calls.is_empty() && self.hold.holds() {
            let step = tokio::select! {
                Some(asked) = self.steps.1.recv() => self.note(asked).await,
                Some(done) = self.calls.join_next() => match done {
                    Ok(done) => self.answer(done).await.map(drop),
                    Err(_) => return,
                },
                () = tokio::time::sleep_until(self.hold.until()) => return,
            };
            if let Err(error) = step {
                debug!(%error, "an answer was not stored");
                return;
            }
        }
    }

    fn site(&self, now: Micros) -> Site {
        Site { rules: self.desk.account.rules(), drain_limit: self.desk.settings.policy.drain_limit, now }
    }

    /// How long until a row or the plan has something to do.
    fn due_in(&self) -> Duration {
        let (now, rules) = (SystemClock.now(), self.desk.account.rules());
        let rows = self.held.values().filter(|held| held.call.is_none());
        let rows = rows.filter_map(|held| machine::due_at(&held.row, &rules));
        let due = rows.min();
        due.map_or(LOOK_AT_LEAST, |at| at.since(now)).min(LOOK_AT_LEAST).max(Duration::from_millis(1))
    }

    /// Time has passed.
    async fn tick(&mut self) -> Result<(), StoreError> {
        let (now, rules) = (SystemClock.now(), self.desk.account.rules());
        let is_due = |held: &&Held| {
            held.call.is_none() && machine::due_at(&held.row, &rules).is_some_and(|at| at <= now)
        };
        let due: Vec<MachineId> =
            self.held.values().filter(is_due).map(|held| held.row.specs.machine.clone()).collect();
        for machine in due {
            self.happen(&machine, Event::Tick).await?;
        }
        Ok(())
    }

    /// An event of one machine: the row moves on, is stored, and what follows is begun.
    async fn happen(&mut self, machine: &MachineId, event: Event) -> Result<(), StoreError> {
        let now = SystemClock.now();
        let site = self.site(now);
        let Some(held) = self.held.get_mut(machine) else { return Ok(()) };
        let before = held.row.life.state();
        let effects = machine::apply(&mut held.row, event, &site);
        let after = held.row.life.state();
        if held.is_news() {
            let (row, revision) = (held.row.clone(), held.revision);
            let revision = put(self.desk, &self.hold, &row, revision).await?;
            if let Some(held) = self.held.get_mut(machine) {
                (held.revision, held.stored) = (revision, row.clone());
            }
            if before != after {
                info!(
                    machine = %machine, pool = %row.specs.pool, from = before.name(), to = after.name(),
                    because = row.because.as_deref().unwrap_or("-"), id = row.id.as_deref().unwrap_or("-"),
                    "a machine moves on"
                );
                self.planner.urge();
            }
            self.untold = true;
        }
        for effect in effects {
            self.carry(machine, effect).await?;
        }
        if after == schemas::machine::MachineState::Gone {
            self.bury(machine).await?;
        }
        Ok(())
    }

    /// A machine that is gone: its cost is kept, then its row is deleted.
    async fn bury(&mut self, machine: &MachineId) -> Result<(), StoreError> {
        // The answer of a call under way may still show that it exists after all.
        let Some(held) = self.held.get(machine).filter(|held| held.call.is_none()) else { return Ok(()) };
        let (row, revision) = (held.row.clone(), held.revision);
        self.money.close(self.desk, &row).await?;
        self.desk.tap.pass(step("delete", false, machine)).await;
        self.desk.store.delete_row(&row, revision).await?;
        self.desk.tap.pass(step("delete", true, machine)).await;
        self.money.forget(machine);
        self.held.remove(machine);
        self.untold = true;
        // The plan may want another, and what no job used of this one is booked.
        self.money.urge();
        self.planner.urge();
        Ok(())
    }

    async fn carry(&mut self, machine: &MachineId, effect: Effect) -> Result<(), StoreError> {
        let pool = &self.desk.settings.pool;
        match effect {
            Effect::Order => self.call(machine, Call::Order),
            Effect::End => self.call(machine, Call::End),
            Effect::Park => self.call(machine, Call::Park),
            Effect::Wake => self.call(machine, Call::Wake),
            Effect::Cordon => self.cordon(machine),
            Effect::Probe(address) => self.probe(machine, address),
            Effect::Alarm(text) => error!(%pool, %machine, "{text}"),
            Effect::Cool(because) => {
                let Some(specs) = self.held.get(machine).map(|held| held.row.specs.clone()) else {
                    return Ok(());
                };
                warn!(%pool, place = specs.place, sku = specs.sku, because, "nothing is ordered there for a while");
                self.planner.cool(&specs, SystemClock.now());
            }
            Effect::Close(because) => {
                // The next look tells it.
                self.planner.close(because);
            }
            Effect::Duplicate(id) => {
                let now = SystemClock.now();
                let second = self.held.get(machine).and_then(|held| fleet::second(&held.row, &id, now));
                if let Some(second) = second {
                    self.adopt(second).await?;
                }
            }
        }
        Ok(())
    }

    /// A machine without a row gets one.
    async fn adopt(&mut self, row: Row) -> Result<(), StoreError> {
        let machine = row.specs.machine.clone();
        if self.held.contains_key(&machine) {
            return Ok(());
        }
        warn!(
            pool = %row.specs.pool, %machine, id = row.id.as_deref().unwrap_or("-"),
            because = row.because.as_deref().unwrap_or("-"), "a machine without a row is taken over"
        );
        self.insert(row).await
    }

    async fn insert(&mut self, row: Row) -> Result<(), StoreError> {
        let machine = row.specs.machine.clone();
        let revision = put(self.desk, &self.hold, &row, 0).await?;
        self.held.insert(machine, Held::of(row, revision));
        self.untold = true;
        Ok(())
    }

    /// A list came.
    async fn list(&mut self) -> Result<(), StoreError> {
        let listed = self.listed.borrow_and_update().clone();
        let Some(listed) = listed else { return Ok(()) };
        let Ok(census) = &listed.answer else { return Ok(()) };
        let now = SystemClock.now();
        let rows: BTreeMap<MachineId, Row> =
            self.held.iter().map(|(machine, held)| (machine.clone(), held.row.clone())).collect();
        let usual = self.desk.usual();
        let found = fleet::compare(&self.desk.settings.pool, &rows, census, &usual, (listed.asked_at, now));
        for row in found.strangers.into_iter().chain(found.duplicates) {
            self.adopt(row).await?;
        }
        for (machine, event) in found.events {
            self.happen(&machine, event).await?;
        }
        self.planner.urge();
        Ok(())
    }

    /// A landlord notes something in the middle of a call.
    async fn note(&mut self, asked: Asked) -> Result<(), StoreError> {
        let Asked { machine, event, answer } = asked;
        let outcome = self.happen(&machine, event).await;
        // A landlord that has gone does not wait.
        let _ = answer.send(outcome.is_ok());
        outcome
    }

    /// A call or a probe has ended.
    async fn done(&mut self, done: Done) -> Result<(), StoreError> {
        let machine = self.answer(done).await?;
        let next = self.held.get_mut(&machine).and_then(|held| held.next.take());
        if let Some(next) =
            next.filter(|next| self.held.get(&machine).is_some_and(|held| next.fits(&held.row)))
        {
            self.call(&machine, next);
        }
        Ok(())
    }

    async fn answer(&mut self, done: Done) -> Result<MachineId, StoreError> {
        let Done { machine, call, event } = done;
        if let Some(held) = self.held.get_mut(&machine) {
            match call {
                Some(_) => held.call = None,
                None => held.probing = false,
            }
        }
        if let Some(event) = event {
            self.happen(&machine, event).await?;
        }
        Ok(machine)
    }

    fn call(&mut self, machine: &MachineId, call: Call) {
        let Some(held) = self.held.get_mut(machine) else { return };
        if held.call.is_some() {
            held.next = Some(call);
            return;
        }
        held.call = Some(call);
        let future = carry::call(self.desk, self.hold.leash(), &held.row, call, self.steps.0.clone());
        self.calls.spawn(future);
    }

    fn cordon(&mut self, machine: &MachineId) {
        let Some(held) = self.held.get(machine) else { return };
        self.calls.spawn(carry::cordon(self.desk, self.hold.leash(), &held.row));
    }

    fn probe(&mut self, machine: &MachineId, address: String) {
        let Some(held) = self.held.get_mut(machine).filter(|held| !held.probing) else { return };
        held.probing = true;
        self.calls.spawn(carry::probe(self.desk, &held.row, address, Arc::clone(&self.prober)));
    }

    /// What the plan says is done.
    async fn plan(&mut self) -> Result<(), StoreError> {
        let now = SystemClock.now();
        let rows: Vec<&Row> = self.held.values().map(|held| &held.row).collect();
        let decided = self.planner.decide(self.desk, &rows, self.money.figures(&rows, now), now).await;
        for (machine, event) in decided.events {
            self.happen(&machine, event).await?;
        }
        for row in decided.orders {
            let machine = row.specs.machine.clone();
            self.insert(row).await?;
            self.happen(&machine, Event::Tick).await?;
            if let Some(span) = self.planner.take_pressure() {
                metrics::pressed(&self.desk.settings.pool, span);
            }
        }
        Ok(())
    }

    fn tell_account(&mut self) {
        if !std::mem::take(&mut self.untold) {
            return;
        }
        let known = self.held.values().filter(|held| held.row.life != Life::Gone);
        let known: Vec<Known> = known.map(|held| held.row.known()).collect();
        self.desk.account.tell(&self.desk.settings.pool, Some(known));
    }
}

/// Stores a row, between two taps. Whoever was frozen in the midst of a turn decides nothing more once its lease has ended.
async fn put(desk: &Desk, hold: &Hold, row: &Row, revision: u64) -> Result<u64, StoreError> {
    let machine = &row.specs.machine;
    if !hold.holds() {
        return Err(StoreError::Replaced(Lease::key(&desk.settings.pool)));
    }
    desk.tap.pass(step("row", false, machine)).await;
    let revision = desk.store.put_row(row, revision).await?;
    desk.tap.pass(step("row", true, machine)).await;
    Ok(revision)
}

fn step(what: &'static str, done: bool, machine: &MachineId) -> Step {
    Step { what, done, machine: Some(machine.clone()) }
}
