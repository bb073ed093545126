//! The machines of a pool as one worker uses them: which takes the next job, which is spared, what each has done. Pure.

use std::{collections::BTreeMap, time::Duration};

use schemas::{
    MachineId, Micros, UsdNanos,
    failure::FailureClass,
    heartbeat::MachineLoad,
    machine::{Machine, MachineState},
    prefix::Prefix,
    time::micros,
};

use super::{
    affinity::{Affinity, Candidate, Done, Life, Pace, Prediction, home},
    shares::Want,
};
use crate::{adapters::load::ServerLoad, clock::Now};

/// How long a machine is spared after its first failure; twice as long after each further one.
const SPARED: Duration = Duration::from_millis(500);
/// ... and at most so long: a machine that has recovered is found within this.
const SPARED_MAX: Duration = Duration::from_secs(60);

/// What a worker may run now, and at what price.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capacity {
    /// Slots that are this worker's and that it uses or may use.
    pub slots: u32,
    /// What an hour of one of these slots costs, dollars; the last known while there are none.
    pub hour_usd: UsdNanos,
}

/// How a job left its machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The machine did its work.
    Good,
    /// It failed, by a fault of its own.
    Fault(FailureClass),
    /// Nothing is known of the machine by it: the job was dropped, or no machine could have done it.
    Silent,
}

/// One machine.
#[derive(Clone, Debug)]
struct Seat {
    /// Its row; `None` when it has none any more and only its last jobs are waited for.
    row: Option<Machine>,
    /// Whether this reading of the bucket has named it.
    named: bool,
    share: u32,
    running: u32,
    /// When `running` changed last.
    touched: Duration,
    /// Slot-time used before that.
    busy: Duration,
    last_token: Option<Micros>,
    failures: u32,
    failed: Option<FailureClass>,
    /// Failures in a row of jobs that began after the machine was spared last: what a whole machine full of jobs fails with at
    /// once is one.
    strikes: u32,
    spared_until: Duration,
    /// It among those that have prompts cached, ...
    life: Life,
    /// ... among homes, ...
    home: u64,
    /// ... and its type among paces.
    kind: u16,
    /// Requests that wait at its server, by its own word.
    queued: u32,
    /// Tokens that its server has read since it started, by its own word.
    read: Option<u64>,
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Seats {
    machines: BTreeMap<MachineId, Seat>,
    /// When the shares lapse.
    sure_until: Duration,
    last_price: UsdNanos,
    draining: bool,
    affinity: Affinity,
}

/// What is asked for when a slot is taken.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The model, by its name at the servers.
    pub model: &'a str,
    /// The beginning of the input; `None` where it does not count.
    pub prefix: Option<&'a Prefix>,
    /// Machines that are left out.
    pub avoid: &'a [MachineId],
}

/// A slot that was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// On which machine.
    pub machine: MachineId,
    /// The provider's name for its type.
    pub sku: String,
    /// What an hour of the slot costs, dollars.
    pub hour_usd: UsdNanos,
    /// When.
    pub at: Duration,
    /// What it is expected to have of the prompt, and why it was chosen.
    pub prediction: Prediction,
    /// Jobs that run there, this one included.
    pub beside: u32,
    life: Life,
    kind: u16,
    model: u16,
}

/// What a job that ended well said of its machine's cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measured {
    /// Tokens that the machine was thought to have.
    pub predicted: u64,
    /// Whether it turned out to have lost what it had.
    pub flushed: bool,
    /// The time that its cached tokens saved, as far as both are known.
    pub saved: Option<Duration>,
}

impl Seat {
    fn new(row: &Machine, now: Duration, affinity: &mut Affinity) -> Self {
        Self {
            row: None,
            named: true,
            share: 0,
            running: 0,
            touched: now,
            busy: Duration::ZERO,
            last_token: None,
            failures: 0,
            failed: None,
            strikes: 0,
            spared_until: Duration::ZERO,
            life: affinity.holders.join(),
            home: home::of_name(row.machine.as_str()),
            kind: affinity.paces.sku(&row.sku),
            queued: 0,
            read: None,
        }
    }

    fn ready(&self) -> Option<&Machine> {
        self.row.as_ref().filter(|row| row.state == MachineState::Ready && row.address.is_some())
    }

    /// Jobs it may run now. One that failed is tried with one job at a time.
    fn allowed(&self, now: Duration) -> u32 {
        match self.ready() {
            Some(_) if now < self.spared_until => 0,
            Some(_) if self.strikes > 0 => self.share.min(1),
            Some(_) => self.share,
            None => 0,
        }
    }

    fn used(&self, now: Duration) -> Duration {
        self.busy + now.saturating_sub(self.touched) * self.running
    }

    fn candidate(&self, nth: usize, slots: u32) -> Candidate {
        Candidate {
            nth,
            sku: self.kind,
            life: self.life,
            name: self.home,
            size: self.row.as_ref().map_or(slots, |row| row.slots),
            slots,
            running: self.running,
            queued: self.queued,
            touched: self.touched,
            ..Candidate::default()
        }
    }

    fn run(&mut self, running: u32, now: Duration) {
        (self.busy, self.running, self.touched) = (self.used(now), running, now);
    }
}

impl Seats {
    /// A reading of the rows begins.
    pub fn begins(&mut self) {
        for seat in self.machines.values_mut() {
            seat.named = false;
        }
    }

    /// A row was read.
    pub fn row(&mut self, row: Machine, now: Duration) {
        let Self { machines, affinity, .. } = self;
        let seat = machines.entry(row.machine.clone()).or_insert_with(|| Seat::new(&row, now, affinity));
        seat.named = true;
        if seat.row.as_ref().is_some_and(|old| is_another(old, &row)) {
            affinity.holders.renew(seat.life);
            (seat.queued, seat.read, seat.kind) = (0, None, affinity.paces.sku(&row.sku));
        }
        if seat.row.as_ref().is_some_and(|old| old.address != row.address) {
            // Another server stands there: what the old one did says nothing about it.
            (seat.failures, seat.failed, seat.strikes, seat.spared_until) = (0, None, 0, Duration::ZERO);
        }
        seat.row = Some(row);
    }

    /// A row is gone.
    pub fn gone(&mut self, machine: &MachineId) {
        if let Some(seat) = self.machines.get_mut(machine) {
            seat.row = None;
            self.affinity.holders.renew(seat.life);
        }
        self.sweep();
    }

    /// All rows were read: those that were not named are gone.
    pub fn whole(&mut self) {
        for seat in self.machines.values_mut().filter(|seat| !seat.named) {
            seat.row = None;
            self.affinity.holders.renew(seat.life);
        }
        self.sweep();
    }

    /// Takes no more jobs from now on, and gives up slots that nothing uses.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    fn sweep(&mut self) {
        let Self { machines, affinity, .. } = self;
        machines.retain(|_, seat| {
            let stays = seat.row.is_some() || seat.running > 0;
            if !stays {
                affinity.holders.leave(seat.life);
            }
            stays
        });
    }

    /// What this worker has to divide with others.
    pub fn wants(&self) -> Vec<Want> {
        let want = |(machine, seat): (&MachineId, &Seat)| Want {
            machine: machine.clone(),
            slots: seat.row.as_ref().map_or(0, |row| row.slots),
            open: !self.draining && seat.ready().is_some(),
            running: seat.running,
        };
        self.machines.iter().map(want).filter(|want| want.open || want.running > 0).collect()
    }

    /// Whether the machine is known, or a job still runs there.
    pub fn knows(&self, machine: &MachineId) -> bool {
        self.machines.contains_key(machine)
    }

    /// Sets the slots of each machine that are this worker's, and until when they are.
    pub fn share(&mut self, held: impl Fn(&MachineId) -> u32, sure_until: Duration) {
        self.sure_until = sure_until;
        for (machine, seat) in &mut self.machines {
            seat.share = held(machine);
        }
        if let Some(price) = self.price() {
            self.last_price = price;
        }
    }

    /// Takes a slot, of the machine that has the input's beginning if that is worth it, else of the least loaded; `None` when none is
    /// free.
    pub fn take(&mut self, ask: Ask<'_>, now: Duration) -> Option<Taken> {
        if now >= self.sure_until {
            return None;
        }
        let Self { machines, affinity, .. } = self;
        let model = affinity.paces.model(ask.model);
        let candidates = machines.iter().enumerate().filter_map(|(nth, (machine, seat))| {
            let slots = seat.allowed(now);
            (slots > 0 && !ask.avoid.contains(machine)).then(|| seat.candidate(nth, slots))
        });
        let placed = affinity.choose(ask.prefix, model, candidates, now)?;
        let (machine, seat) = machines.iter_mut().nth(placed.nth)?;
        let row = seat.ready()?;
        let (sku, hour_usd) = (row.sku.clone(), slot_hour(row));
        seat.run(seat.running + 1, now);
        if let Some(prefix) = ask.prefix {
            affinity.holders.hand_over(prefix, seat.life, placed.blocks, now);
        }
        let (prediction, beside) = (placed.prediction, seat.running);
        let (life, kind) = (seat.life, seat.kind);
        Some(Taken {
            machine: machine.clone(),
            sku,
            hour_usd,
            at: now,
            prediction,
            beside,
            life,
            kind,
            model,
        })
    }

    /// A job ended well: what it tells of its machine.
    pub fn learn(&mut self, taken: &Taken, done: &Done) -> Measured {
        let Affinity { holders, paces, .. } = &mut self.affinity;
        paces.learn(taken.kind, taken.model, done);
        let predicted = taken.prediction.tokens(done.prompt);
        // Another machine may have its number by now.
        let same = self.machines.get(&taken.machine).is_some_and(|seat| seat.life == taken.life);
        let measured = done.cached.filter(|_| same && taken.prediction.settled && predicted > 0);
        let flushed = measured.is_some_and(|cached| holders.measured(taken.life, predicted, cached));
        let rate = paces.of(taken.kind, taken.model).and_then(Pace::prefill);
        let saved = rate.zip(done.cached).map(|(rate, cached)| cached as f64 / rate);
        Measured { predicted, flushed, saved: saved.and_then(|it| Duration::try_from_secs_f64(it).ok()) }
    }

    /// A machine's server said how busy it is; `None` where it does not say, which counts as nothing that waits. One that has read fewer
    /// tokens than before has been started anew, and has nothing.
    pub fn told(&mut self, machine: &MachineId, load: Option<&ServerLoad>) {
        let Some(seat) = self.machines.get_mut(machine) else { return };
        seat.queued = load.and_then(|load| load.waiting).unwrap_or(0);
        let read = load.and_then(|load| load.tokens_in.or(load.prefix_queries));
        if read.zip(seat.read).is_some_and(|(now, before)| now < before) {
            self.affinity.holders.renew(seat.life);
        }
        seat.read = read.or(seat.read);
    }

    /// How full the fullest machine is against all together, by slots; `None` while nothing runs.
    pub fn fullest(&self) -> Option<f64> {
        let open = || self.machines.values().filter(|seat| seat.share > 0);
        let (running, slots) =
            open().fold((0, 0), |(running, slots), it| (running + it.running, slots + it.share));
        let most = open().map(|it| f64::from(it.running) / f64::from(it.share)).max_by(f64::total_cmp)?;
        (running > 0).then(|| most * f64::from(slots) / f64::from(running))
    }

    /// A slot is free again.
    pub fn left(&mut self, taken: &Taken, verdict: Verdict, now: Duration) {
        let Some(seat) = self.machines.get_mut(&taken.machine) else { return };
        seat.run(seat.running.saturating_sub(1), now);
        match verdict {
            Verdict::Good => {
                (seat.failures, seat.failed, seat.strikes) = (0, None, 0);
                seat.spared_until = Duration::ZERO;
            }
            Verdict::Fault(class) => {
                (seat.failures, seat.failed) = (seat.failures.saturating_add(1), Some(class));
                if taken.at >= seat.spared_until {
                    let pause = SPARED * 2u32.saturating_pow(seat.strikes.min(16));
                    (seat.strikes, seat.spared_until) = (seat.strikes + 1, now + pause.min(SPARED_MAX));
                }
            }
            Verdict::Silent => {}
        }
        self.sweep();
    }

    /// A machine gave a piece of output.
    pub fn token(&mut self, machine: &MachineId, at: Micros) {
        if let Some(seat) = self.machines.get_mut(machine) {
            seat.last_token = seat.last_token.max(Some(at));
        }
    }

    /// What may run now: free slots, and slots on which jobs run, also those of a machine that takes no more.
    pub fn capacity(&self, now: Duration) -> Capacity {
        let sure = now < self.sure_until;
        let each = self.machines.values();
        let slots =
            each.map(|seat| if sure { seat.allowed(now).max(seat.running) } else { seat.running }).sum();
        Capacity { slots, hour_usd: self.last_price }
    }

    /// When a pause ends next, or the shares lapse.
    pub fn next_change(&self, now: Duration) -> Option<Duration> {
        let pauses = self.machines.values().map(|seat| seat.spared_until);
        pauses.chain([self.sure_until]).filter(|until| *until > now).min()
    }

    /// Machines that take jobs, and how many of them are spared now.
    pub fn spared(&self, now: Duration) -> (usize, usize) {
        let ready = || self.machines.values().filter(|seat| seat.ready().is_some());
        (ready().count(), ready().filter(|seat| now < seat.spared_until).count())
    }

    /// Whether a machine has failed more than once since it last did its work.
    pub fn has_failed_again(&self, machine: &MachineId) -> bool {
        self.machines.get(machine).is_some_and(|seat| seat.failures > 1)
    }

    /// Whether any machine takes jobs that is not one of these and has not failed.
    pub fn any_but(&self, faulty: &[MachineId]) -> bool {
        self.machines
            .iter()
            .any(|(machine, seat)| seat.ready().is_some() && seat.failures == 0 && !faulty.contains(machine))
    }

    /// What is told of each machine.
    pub fn loads(&self, now: Now) -> Vec<MachineLoad> {
        let used = self.machines.iter().filter(|(_, seat)| seat.ready().is_some() || seat.running > 0);
        used.map(|(machine, seat)| MachineLoad {
            machine: machine.clone(),
            slots: seat.share,
            running: seat.running,
            last_token_us: seat.last_token,
            failures: seat.failures,
            failed: seat.failed,
            busy_us: micros(seat.used(now.steady)),
        })
        .collect()
    }

    /// What an hour of a slot costs on average, rounded up; `None` without a slot.
    fn price(&self) -> Option<UsdNanos> {
        let priced =
            || self.machines.values().filter(|seat| seat.share > 0).filter_map(Seat::ready_and_share);
        let slots: u64 = priced().map(|(_, share)| u64::from(share)).sum();
        let sum: u128 =
            priced().map(|(row, share)| u128::from(slot_hour(row).get()) * u128::from(share)).sum();
        let mean = sum.checked_add(u128::from(slots.checked_sub(1)?))?.checked_div(u128::from(slots))?;
        u64::try_from(mean).ok().map(UsdNanos::new)
    }
}

impl Seat {
    fn ready_and_share(&self) -> Option<(&Machine, u32)> {
        self.ready().map(|row| (row, self.share))
    }
}

/// Whether the server behind a row may have lost what it had: another one stands there, or it has left those that take jobs.
fn is_another(old: &Machine, new: &Machine) -> bool {
    let ready = |row: &Machine| row.state == MachineState::Ready;
    old.address != new.address || old.provider_id != new.provider_id || (ready(old) && !ready(new))
}

/// What an hour of one slot of a machine costs: a machine's slots never cost more than the machine.
pub fn slot_hour(row: &Machine) -> UsdNanos {
    row.usd_per_hour.part(u64::from(row.slots)).unwrap_or_default()
}

#[cfg(test)]
mod tests;
