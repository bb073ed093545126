//! The machines of a pool as one worker uses them: which takes the next job, which is spared, what each has done. Pure.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use schemas::{
    MachineId, Micros, UsdNanos,
    failure::FailureClass,
    heartbeat::MachineLoad,
    machine::{Machine, MachineState},
    time::micros,
};

use super::shares::Want;
use crate::clock::Now;

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
}

/// All of them.
#[derive(Clone, Debug, Default)]
pub struct Seats {
    machines: BTreeMap<MachineId, Seat>,
    /// When the shares lapse.
    sure_until: Duration,
    last_price: UsdNanos,
    draining: bool,
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
}

impl Seat {
    fn new(now: Duration) -> Self {
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

    fn run(&mut self, running: u32, now: Duration) {
        (self.busy, self.running, self.touched) = (self.used(now), running, now);
    }

    /// Fuller machines are greater; of two that are equally full, the one that was given or finished a job last.
    fn by_load(&self, other: &Self) -> Ordering {
        let load = |a: &Self, b: &Self| u64::from(a.running) * u64::from(b.share);
        load(self, other).cmp(&load(other, self)).then(self.touched.cmp(&other.touched))
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
        let seat = self.machines.entry(row.machine.clone()).or_insert_with(|| Seat::new(now));
        seat.named = true;
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
        }
        self.sweep();
    }

    /// All rows were read: those that were not named are gone.
    pub fn whole(&mut self) {
        for seat in self.machines.values_mut().filter(|seat| !seat.named) {
            seat.row = None;
        }
        self.sweep();
    }

    /// Takes no more jobs from now on, and gives up slots that nothing uses.
    pub fn drain(&mut self) {
        self.draining = true;
    }

    fn sweep(&mut self) {
        self.machines.retain(|_, seat| seat.row.is_some() || seat.running > 0);
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

    /// Takes a slot of the machine that is least loaded, leaving out `avoid`; `None` when none is free.
    pub fn take(&mut self, avoid: &[MachineId], now: Duration) -> Option<Taken> {
        if now >= self.sure_until {
            return None;
        }
        let free = self
            .machines
            .iter_mut()
            .filter(|(machine, seat)| seat.running < seat.allowed(now) && !avoid.contains(machine));
        let (machine, seat) = free.min_by(|(_, a), (_, b)| a.by_load(b))?;
        let row = seat.ready()?;
        let (sku, hour_usd) = (row.sku.clone(), slot_hour(row));
        seat.run(seat.running + 1, now);
        Some(Taken { machine: machine.clone(), sku, hour_usd, at: now })
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

/// What an hour of one slot of a machine costs: a machine's slots never cost more than the machine.
pub fn slot_hour(row: &Machine) -> UsdNanos {
    row.usd_per_hour.part(u64::from(row.slots)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAR: Duration = Duration::from_secs(1_000_000);

    fn at(millis: u64) -> Duration {
        Duration::from_secs(1_000) + Duration::from_millis(millis)
    }

    fn row(machine: &str, slots: u32, state: MachineState) -> Machine {
        Machine {
            machine: machine.parse().unwrap(),
            pool: "lambda@us-east".parse().unwrap(),
            state,
            since_us: Micros::new(1),
            address: Some(format!("http://{machine}")),
            slots,
            sku: "a10".into(),
            place: "here".into(),
            usd_per_hour: UsdNanos::new(1_000_000_001),
            provider_id: None,
            because: None,
        }
    }

    /// Two machines, of two and of four slots, all of them ours.
    fn seats() -> Seats {
        let mut seats = Seats::default();
        seats.row(row("a", 2, MachineState::Ready), at(0));
        seats.row(row("b", 4, MachineState::Ready), at(0));
        seats.share(|machine| if machine.as_str() == "a" { 2 } else { 4 }, FAR);
        seats
    }

    fn take(seats: &mut Seats, now: Duration) -> Option<Taken> {
        seats.take(&[], now)
    }

    fn name(taken: Option<Taken>) -> Option<String> {
        taken.map(|taken| taken.machine.to_string())
    }

    #[test]
    fn the_emptiest_machine_for_its_slots_is_next_and_then_the_one_that_rested_longest() {
        let mut seats = seats();
        let order: Vec<_> = (1..=7).map(|millis| name(take(&mut seats, at(millis)))).collect();
        let order: Vec<_> = order.iter().map(|machine| machine.as_deref().unwrap_or("none")).collect();
        assert_eq!(order, ["a", "b", "b", "a", "b", "b", "none"]);
    }

    #[test]
    fn a_machine_that_drains_gets_nothing_and_is_kept_until_its_last_job_has_ended() {
        let mut seats = seats();
        let job = take(&mut seats, at(1)).unwrap();
        seats.row(row("a", 2, MachineState::Draining), at(2));
        assert_eq!(seats.capacity(at(2)).slots, 5, "one is used");
        assert_eq!(name(take(&mut seats, at(2))).as_deref(), Some("b"));
        assert!(seats.wants().contains(&Want {
            machine: job.machine.clone(),
            slots: 2,
            open: false,
            running: 1
        }));
        seats.gone(&job.machine);
        assert_eq!(seats.loads(Now { wall: Micros::new(9), steady: at(5) })[0].busy_us, 4_000);
        seats.left(&job, Verdict::Good, at(6));
        assert_eq!((seats.wants().len(), seats.capacity(at(6)).slots), (1, 4), "only the other one");
    }

    #[test]
    fn a_machine_that_a_new_reading_does_not_name_is_gone() {
        let mut seats = seats();
        seats.begins();
        seats.row(row("b", 4, MachineState::Ready), at(1));
        assert_eq!(seats.capacity(at(1)).slots, 6, "not before the reading is whole");
        seats.whole();
        assert_eq!(seats.capacity(at(1)).slots, 4);
    }

    #[test]
    fn a_machine_that_fails_is_spared_for_longer_and_longer_and_then_tried_with_one_job() {
        let mut seats = seats();
        let mut now = at(0);
        let other = ["b".parse().unwrap()];
        for pause in [500, 1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000] {
            let job = seats.take(&other, now).unwrap();
            assert!(job.at == at(0) || seats.take(&other, now).is_none(), "one job at a time");
            seats.left(&job, Verdict::Fault(FailureClass::Connection), now);
            let until = seats.next_change(now).unwrap();
            assert_eq!(until.saturating_sub(now).as_millis(), pause);
            assert_eq!(seats.capacity(now).slots, 4);
            now = until;
        }
        assert_eq!(seats.capacity(now).slots, 5);
        let job = seats.take(&other, now).unwrap();
        seats.left(&job, Verdict::Good, now);
        assert_eq!((seats.capacity(now).slots, seats.next_change(now)), (6, Some(FAR)));
    }

    #[test]
    fn jobs_that_fail_together_are_one_failure_for_the_pause_and_many_for_the_keeper() {
        let mut seats = seats();
        let jobs: Vec<_> = (0..6).map(|_| take(&mut seats, at(0)).unwrap()).collect();
        for job in &jobs {
            seats.left(job, Verdict::Fault(FailureClass::Connection), at(10));
        }
        assert_eq!(seats.next_change(at(10)), Some(at(510)));
        let loads = seats.loads(Now { wall: Micros::new(9), steady: at(11) });
        assert_eq!(loads.iter().map(|load| load.failures).collect::<Vec<_>>(), [2, 4]);
        assert_eq!(loads[1].failed, Some(FailureClass::Connection));
        assert!(!seats.any_but(&[]));
    }

    #[test]
    fn a_slot_costs_its_part_of_the_machine_rounded_down_and_the_mean_is_rounded_up() {
        let mut seats = seats();
        let job = take(&mut seats, at(0)).unwrap();
        assert_eq!(job.hour_usd.get(), 500_000_000);
        seats.left(&job, Verdict::Silent, at(0));
        // Two slots at 500,000,000 and four at 250,000,000.
        assert_eq!(seats.capacity(at(0)).hour_usd.get(), 333_333_334);
        seats.share(|_| 0, FAR);
        assert_eq!(seats.capacity(at(0)), Capacity { slots: 0, hour_usd: UsdNanos::new(333_333_334) });
    }

    #[test]
    fn nothing_is_begun_once_the_shares_have_lapsed() {
        let mut seats = seats();
        take(&mut seats, at(0)).unwrap();
        seats.share(|_| 4, at(10));
        assert_eq!((seats.next_change(at(9)), seats.capacity(at(9)).slots), (Some(at(10)), 8));
        assert_eq!((take(&mut seats, at(10)), seats.capacity(at(10)).slots), (None, 1));
    }

    #[test]
    fn another_server_at_a_machines_name_is_not_blamed_for_the_one_before() {
        let mut seats = seats();
        let job = take(&mut seats, at(0)).unwrap();
        seats.left(&job, Verdict::Fault(FailureClass::Timeout), at(1));
        let moved = Machine { address: Some("http://elsewhere".into()), ..row("a", 2, MachineState::Ready) };
        seats.row(moved, at(2));
        assert_eq!(seats.capacity(at(2)).slots, 6);
    }
}
