//! An account at a provider: its machines, what happens to them, and what they cost.

use std::{
    collections::VecDeque,
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde_json::Value;
use tokio::time::{self, Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use super::{
    fault::{ControlFault, Faults},
    life::Life,
    log::{Act, Action, Log},
    machine::{self, Machine, Stage},
    meter::{BilledFrom, BilledUntil, Invoice, Meter, Tariff},
};
use crate::{
    clock::{Clock, micros},
    server::Simulator,
    tape::{Exchange, Tape},
};

/// An account: steered by tests, and read by them.
pub struct Account {
    /// Where the control API listens. Machines listen at the same port of addresses of their own.
    address: SocketAddr,
    tariff: Tariff,
    clock: Clock,
    pub(super) faults: Faults,
    pub(super) tape: Arc<Tape>,
    pub(super) tasks: TaskTracker,
    pub(super) shutdown: CancellationToken,
    meter: Meter,
    log: Log,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    machines: Vec<Machine>,
    life: Life,
    next_lives: VecDeque<Life>,
    addresses: u16,
    /// Addresses of machines that are gone; taken again only if the test says so.
    freed: VecDeque<Ipv4Addr>,
    reuse_addresses: bool,
}

/// A machine as it stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Seen {
    /// The provider's id.
    pub id: String,
    /// The order's name that it bears, if it bears one.
    pub mark: Option<String>,
    /// The provider's name for its type.
    pub sku: String,
    /// The provider's name for where it stands.
    pub place: String,
    /// Whether it is somebody else's.
    pub foreign: bool,
    /// Where it stands in its life.
    pub stage: Stage,
    /// Every stage it was in, and since when in microseconds since the Unix epoch.
    pub history: Vec<(Stage, u64)>,
    /// Where its server listens, once it does.
    pub address: SocketAddr,
    /// Whether lists show it yet.
    pub listed: bool,
    /// What the provider keeps about it.
    pub papers: Value,
}

/// An order, as a provider's file understood it.
pub(super) struct NewMachine {
    pub(super) id: String,
    pub(super) mark: Option<String>,
    pub(super) sku: String,
    pub(super) place: String,
    /// The key that its server asks for.
    pub(super) key: Option<String>,
    pub(super) price_per_hour_nanos: u64,
    pub(super) parked_per_hour_nanos: u64,
    pub(super) papers: Value,
}

/// What a machine does next by itself.
#[derive(Clone, Copy, Debug)]
enum Due {
    Up,
    Listen,
    Parked,
    Gone,
}

impl fmt::Debug for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Account").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Account {
    pub(super) fn new(address: SocketAddr, tariff: Tariff, shutdown: CancellationToken) -> Arc<Self> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros);
        Arc::new(Self {
            address,
            tariff,
            clock: Clock::new(now),
            faults: Faults::default(),
            tape: Arc::new(Tape::new(true)),
            tasks: TaskTracker::new(),
            shutdown,
            meter: Meter::new(tariff.unit),
            log: Log::default(),
            state: Mutex::default(),
        })
    }

    /// The base URL of the control API, without a path and a trailing slash.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The port at which all machines' servers listen.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The life of machines that are ordered, or woken, from now on.
    pub fn set_life(&self, life: Life) {
        self.state().life = life;
    }

    /// The life of one machine more: that of the next order for which none was said yet.
    pub fn next_life(&self, life: Life) {
        self.state().next_lives.push_back(life);
    }

    /// Lists lag no longer behind the orders made so far.
    pub fn list_all(&self) {
        self.state().machines.iter_mut().for_each(|machine| machine.life.listed_after = Duration::ZERO);
    }

    /// A machine that boots is up now, for lives without an end of their boot.
    pub fn boot_now(self: &Arc<Self>, id: &str) {
        self.change(id, |machine, _| {
            if machine.stage == Stage::Booting {
                self.later(machine, Some(Duration::ZERO), Due::Up);
            }
        });
    }

    /// From now on a new machine gets the address of one that is gone.
    pub fn reuse_addresses(&self) {
        self.state().reuse_addresses = true;
    }

    /// The next `count` calls of this name fail so. Each provider's file says its calls' names; `*` is any.
    pub fn fault(&self, call: &str, fault: ControlFault, count: u64) {
        self.faults.set(call, fault, Some(count));
    }

    /// All calls of this name fail so, until [`Account::clear_faults`].
    pub fn fault_always(&self, call: &str, fault: ControlFault) {
        self.faults.set(call, fault, None);
    }

    /// Whether a fault of this call is still to strike.
    pub fn is_armed(&self, call: &str) -> bool {
        self.faults.is_armed(call)
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        self.faults.clear();
    }

    /// Every request that was answered so far, and its answer.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.tape.exchanges()
    }

    /// What was done in the account.
    pub fn log(&self) -> Vec<Action> {
        self.log.all()
    }

    /// The calls that changed machines of somebody else; there should be none.
    pub fn touched(&self) -> Vec<Action> {
        let is_touch = |action: &Action| matches!(action.act, Act::Touched(_));
        self.log.all().into_iter().filter(is_touch).collect()
    }

    /// What the account owes so far. Machines of somebody else are not on it.
    pub fn invoice(&self) -> Invoice {
        self.meter.invoice(self.now_us())
    }

    /// All machines that ever were, in the order in which they were ordered.
    pub fn machines(&self) -> Vec<Seen> {
        let state = self.state();
        state.machines.iter().map(|machine| self.seen(machine)).collect()
    }

    /// Our machines that are not gone.
    pub fn alive(&self) -> Vec<Seen> {
        let is_ours = |seen: &Seen| !seen.foreign && seen.stage != Stage::Gone;
        self.machines().into_iter().filter(is_ours).collect()
    }

    /// A machine by its id.
    pub fn machine(&self, id: &str) -> Option<Seen> {
        self.state().machines.iter().find(|machine| machine.id == id).map(|machine| self.seen(machine))
    }

    /// The server behind a machine, while it listens; its faults can be set.
    pub fn server(&self, id: &str) -> Option<Arc<Simulator>> {
        let state = self.state();
        let machine = state.machines.iter().find(|machine| machine.id == id)?;
        machine.server.as_ref().map(|running| Arc::clone(&running.simulator))
    }

    /// The provider puts a machine into a state of its own, for instance `unhealthy`. Its server serves on, and it is billed:
    /// from now on, if it only booted so far.
    pub fn fail(&self, id: &str, word: &str) {
        self.change(id, |machine, at| {
            machine.enter(Stage::Broken(word.to_owned()), at);
            self.bill(machine, "machine", machine.price_per_hour_nanos, at);
        });
    }

    /// The same for a state in which the machine does not run: its server is gone, and it is billed no longer.
    pub fn crash(&self, id: &str, word: &str) {
        self.change(id, |machine, at| self.over(machine, Stage::Broken(word.to_owned()), at));
    }

    /// A machine is gone at once, by nobody's order.
    pub fn vanish(&self, id: &str) {
        self.change(id, |machine, at| self.over(machine, Stage::Gone, at));
    }

    /// Puts a machine of somebody else into the account; it is up, and nothing listens.
    pub fn add_foreign(&self, id: &str, sku: &str, place: &str, papers: Value) {
        let (mut state, at) = (self.state(), self.now_us());
        let address = self.address_in(&mut state);
        state.machines.push(Machine {
            id: id.to_owned(),
            mark: None,
            sku: sku.to_owned(),
            place: place.to_owned(),
            foreign: true,
            key: None,
            address,
            price_per_hour_nanos: 0,
            parked_per_hour_nanos: 0,
            life: Life::default(),
            stage: Stage::Up,
            history: vec![(Stage::Up, at)],
            papers,
            generation: 0,
            server: None,
        });
    }

    /// Now, in microseconds since the Unix epoch.
    pub(super) fn now_us(&self) -> u64 {
        self.clock.unix_us(Instant::now())
    }

    /// Sets what an item of a machine cost so far, by the provider's own measurement.
    pub fn tell(&self, id: &str, item: &str, nanos: u64) {
        let mark = self.machine(id).and_then(|seen| seen.mark);
        self.meter.tell(id, mark.as_deref(), item, nanos);
    }

    /// Carries out an order.
    pub(super) fn order(self: &Arc<Self>, new: NewMachine) -> Seen {
        let (mut state, at) = (self.state(), self.now_us());
        let life = state.next_lives.pop_front().unwrap_or_else(|| state.life.clone());
        let address = self.address_in(&mut state);
        let mut machine = Machine {
            id: new.id,
            mark: new.mark,
            sku: new.sku,
            place: new.place,
            foreign: false,
            key: new.key,
            address,
            price_per_hour_nanos: new.price_per_hour_nanos,
            parked_per_hour_nanos: new.parked_per_hour_nanos,
            life,
            stage: Stage::Booting,
            history: Vec::new(),
            papers: new.papers,
            generation: 0,
            server: None,
        };
        self.enter(&machine, Act::Ordered, at);
        self.boot(&mut machine, at);
        let seen = self.seen(&machine);
        state.machines.push(machine);
        seen
    }

    /// Accepts the end of a machine; nothing happens if that was done before. `None` if there is none of this id.
    pub(super) fn end(self: &Arc<Self>, id: &str, call: &str) -> Option<Seen> {
        self.touch(id, call, Some(Act::Ended))?;
        self.change(id, |machine, at| {
            if !matches!(machine.stage, Stage::Ending | Stage::Gone) {
                machine.stop_serving();
                machine.enter(Stage::Ending, at);
                self.bill_until_asked(machine, at);
                self.later(machine, machine.life.end, Due::Gone);
            }
        })
    }

    /// Accepts that a machine is stopped and kept. `None` if there is none of this id.
    pub(super) fn park(self: &Arc<Self>, id: &str, call: &str) -> Option<Seen> {
        self.touch(id, call, Some(Act::Parked))?;
        self.change(id, |machine, at| {
            if !matches!(machine.stage, Stage::Parking | Stage::Parked | Stage::Ending | Stage::Gone) {
                machine.stop_serving();
                machine.enter(Stage::Parking, at);
                self.bill_until_asked(machine, at);
                self.later(machine, machine.life.end, Due::Parked);
            }
        })
    }

    /// Starts a parked machine. `None` if there is none of this id.
    pub(super) fn wake(self: &Arc<Self>, id: &str, call: &str) -> Option<Seen> {
        self.touch(id, call, Some(Act::Woken))?;
        self.change(id, |machine, at| {
            if machine.stage == Stage::Parked {
                self.meter.close(&machine.id, at);
                self.boot(machine, at);
            }
        })
    }

    /// Changes what the provider keeps about a machine. `None` if there is none of this id.
    pub(super) fn amend(&self, id: &str, call: &str, change: impl FnOnce(&mut Value)) -> Option<Seen> {
        self.touch(id, call, None)?;
        self.change(id, |machine, _| change(&mut machine.papers))
    }

    /// The same by the provider itself, so that it stands in no log.
    pub(super) fn note(&self, id: &str, change: impl FnOnce(&mut Value)) {
        self.change(id, |machine, _| change(&mut machine.papers));
    }

    /// Enters a change of somebody else's machine, or `act` of one of ours. `None` if there is none of this id.
    fn touch(&self, id: &str, call: &str, act: Option<Act>) -> Option<()> {
        let (state, at) = (self.state(), self.now_us());
        let machine = state.machines.iter().find(|machine| machine.id == id)?;
        let act = if machine.foreign { Some(Act::Touched(call.to_owned())) } else { act };
        if let Some(act) = act {
            self.enter(machine, act, at);
        }
        Some(())
    }

    fn enter(&self, machine: &Machine, act: Act, at_us: u64) {
        self.log.enter(Action { at_us, id: machine.id.clone(), mark: machine.mark.clone(), act });
    }

    fn change(&self, id: &str, change: impl FnOnce(&mut Machine, u64)) -> Option<Seen> {
        let (mut state, at) = (self.state(), self.now_us());
        let place = state.machines.iter().position(|machine| machine.id == id)?;
        let before = state.machines[place].stage.clone();
        change(&mut state.machines[place], at);
        let machine = &state.machines[place];
        let seen = self.seen(machine);
        let ended = before != Stage::Gone && machine.stage == Stage::Gone;
        if let (true, IpAddr::V4(address)) = (ended, machine.address.ip()) {
            state.freed.push_back(address);
        }
        Some(seen)
    }

    fn boot(self: &Arc<Self>, machine: &mut Machine, at: u64) {
        machine.enter(Stage::Booting, at);
        if self.tariff.from == BilledFrom::Order {
            self.bill(machine, "machine", machine.price_per_hour_nanos, at);
        }
        self.later(machine, machine.life.boot, Due::Up);
    }

    fn bill(&self, machine: &Machine, item: &'static str, price: u64, at: u64) {
        if !machine.foreign && self.tariff.from != BilledFrom::Never {
            self.meter.open(&machine.id, machine.mark.as_deref(), item, price, at);
        }
    }

    fn bill_until_asked(&self, machine: &Machine, at: u64) {
        if self.tariff.until == BilledUntil::Asked {
            self.meter.close(&machine.id, at);
        }
    }

    /// A machine is gone or parked.
    fn over(&self, machine: &mut Machine, stage: Stage, at: u64) {
        machine.stop_serving();
        machine.enter(stage, at);
        self.meter.close(&machine.id, at);
        if machine.stage == Stage::Parked && machine.parked_per_hour_nanos > 0 {
            self.bill(machine, "parked", machine.parked_per_hour_nanos, at);
        }
    }

    /// Does something with a machine after a while, unless its stage changes before.
    fn later(self: &Arc<Self>, machine: &Machine, after: Option<Duration>, due: Due) {
        let Some(after) = after else { return };
        let (account, id, generation) = (Arc::clone(self), machine.id.clone(), machine.generation);
        self.tasks.spawn(async move {
            tokio::select! {
                () = account.shutdown.cancelled() => return,
                () = time::sleep(after) => {}
            }
            match due {
                Due::Up => account.due(&id, generation, |machine, at| {
                    machine.enter(Stage::Up, at);
                    if account.tariff.from == BilledFrom::Up {
                        account.bill(machine, "machine", machine.price_per_hour_nanos, at);
                    }
                    account.later(machine, machine.life.listens_after, Due::Listen);
                }),
                Due::Parked => account.due(&id, generation, |m, at| account.over(m, Stage::Parked, at)),
                Due::Gone => account.due(&id, generation, |m, at| account.over(m, Stage::Gone, at)),
                Due::Listen => account.listen(&id, generation).await,
            }
        });
    }

    fn due(&self, id: &str, generation: u64, change: impl FnOnce(&mut Machine, u64)) {
        self.change(id, |machine, at| {
            if machine.generation == generation {
                change(machine, at);
            }
        });
    }

    async fn listen(&self, id: &str, generation: u64) {
        let of = |state: &State| {
            let machine = state.machines.iter().find(|machine| machine.id == id)?;
            let current = machine.generation == generation;
            current.then(|| (machine.address, machine.key.clone(), machine.life.clone()))
        };
        let Some((address, key, life)) = of(&self.state()) else { return };
        match machine::serve(address, key, &life, self.shutdown.child_token()).await {
            Ok(running) => {
                let mut server = Some(running);
                self.due(id, generation, |machine, _| machine.server = server.take());
                // Its stage changed meanwhile.
                if let Some(running) = server {
                    running.shutdown.cancel();
                }
            }
            Err(error) => warn!(machine = id, %address, %error, "a machine's server cannot listen"),
        }
    }

    fn address_in(&self, state: &mut State) -> SocketAddr {
        let reused = if state.reuse_addresses { state.freed.pop_front() } else { None };
        let address = reused.unwrap_or_else(|| {
            state.addresses =
                state.addresses.checked_add(1).expect("a test orders fewer than 65536 machines");
            let [high, low] = state.addresses.to_be_bytes();
            Ipv4Addr::new(127, 77, high, low)
        });
        SocketAddr::from((address, self.address.port()))
    }

    fn seen(&self, machine: &Machine) -> Seen {
        let ordered_us = machine.history.first().map_or(0, |(_, at)| *at);
        Seen {
            id: machine.id.clone(),
            mark: machine.mark.clone(),
            sku: machine.sku.clone(),
            place: machine.place.clone(),
            foreign: machine.foreign,
            stage: machine.stage.clone(),
            history: machine.history.clone(),
            address: machine.address,
            listed: self.now_us() >= ordered_us + micros(machine.life.listed_after) || machine.foreign,
            papers: machine.papers.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
