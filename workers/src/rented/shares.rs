//! How the workers of a pool divide the slots of its machines. Pure.
//!
//! All workers of a pool share one row in a bucket and change it by compare-and-set: who may fill how many slots of which
//! machine. A worker fills slots only by a share that it has written there itself.
//!
//! - **A share grows late and shrinks early.** A worker uses more of a machine only after the server has confirmed a row in
//!   which it has that much and all shares together fit the machine; it uses less before it sends the row that says so. So the
//!   shares in use never add up to more than the newest row, whoever writes when, and whichever answer is lost.
//! - **A share is a lease.** A worker renews its entry each [`RENEW`]. What it could not renew for [`HELD`], counted from before
//!   the last renewal was sent, is no longer its own: it starts nothing there. Others take an entry away when they saw it
//!   unchanged for [`FORGOTTEN`], which is longer, counted from after they read it. No two clocks are compared. The row is
//!   replaced as a whole, so an entry that was renewed meanwhile cannot be taken away.
//! - **Everyone comes to the same division**: a machine's slots in equal parts among the workers in the row, what is left over
//!   by rendezvous hash. Nobody gives up slots on which its jobs run; nobody takes more than its part.
//!
//! So a machine never runs more jobs of a pool than it has slots, also while workers come and go, with three exceptions: jobs
//! that a worker had started run on when its share was lost (it was cut off from the server for longer than [`FORGOTTEN`], or
//! killed while its connection stayed open); jobs that run when a machine's own number of slots is lowered run on; a process
//! that stands still between looking at its share and sending the request looks with old eyes. (And whoever deletes the row by
//! hand lets others take what is held for up to [`HELD`].)

use std::{collections::BTreeMap, time::Duration};

use schemas::MachineId;
use serde::{Deserialize, Serialize};

/// How often a worker renews its entry. A row of 500 machines and four workers is some 60 KB, so 30 KB a second and worker.
pub const RENEW: Duration = Duration::from_secs(2);
/// How long a share holds without a renewal: two may be lost, and a server may take an election.
pub const HELD: Duration = Duration::from_secs(8);
/// How long others leave an entry alone that does not change; dispatchers call a worker silent after the same time.
pub const FORGOTTEN: Duration = Duration::from_secs(12);

/// The row.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shares {
    /// The workers, each with a count that grows with every renewal. A name means one life of a worker.
    pub workers: BTreeMap<String, u64>,
    /// The slots of each machine, by worker.
    pub machines: BTreeMap<MachineId, BTreeMap<String, u32>>,
}

/// A machine as this worker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// Which.
    pub machine: MachineId,
    /// All its slots.
    pub slots: u32,
    /// Whether it takes jobs.
    pub open: bool,
    /// Jobs of this worker that run there.
    pub running: u32,
}

/// What one worker knows of the division.
#[derive(Clone, Debug)]
pub struct Division {
    me: String,
    /// The most slots this worker takes.
    most: u32,
    renewals: u64,
    sent: Option<Duration>,
    sure_until: Duration,
    /// What this worker may fill, by machine, while it is sure.
    held: BTreeMap<MachineId, u32>,
    /// Each other worker's count, and since when it has stood there.
    heard: BTreeMap<String, (u64, Duration)>,
}

/// A row to be written in place of the one that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proposal {
    /// The row.
    pub row: Shares,
    /// This worker's shares in it.
    own: BTreeMap<MachineId, u32>,
    /// When it was made.
    at: Duration,
}

impl Shares {
    /// What a worker has of a machine.
    fn of(&self, machine: &MachineId, worker: &str) -> u32 {
        self.machines.get(machine).and_then(|by| by.get(worker)).copied().unwrap_or(0)
    }

    fn remove(&mut self, worker: &str) {
        self.workers.remove(worker);
        for by in self.machines.values_mut() {
            by.remove(worker);
        }
        self.machines.retain(|_, by| !by.is_empty());
    }

    /// This row without a worker that leaves; `None` where it is not in it.
    pub fn without(mut self, worker: &str) -> Option<Self> {
        self.workers.contains_key(worker).then(|| {
            self.remove(worker);
            self
        })
    }
}

impl Division {
    /// A worker that holds nothing yet. `me` must mean one life of one worker.
    pub fn new(me: String, most: u32) -> Self {
        Self {
            me,
            most,
            renewals: 0,
            sent: None,
            sure_until: Duration::ZERO,
            held: BTreeMap::new(),
            heard: BTreeMap::new(),
        }
    }

    /// This worker's name in the row.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// The slots of a machine that this worker may fill now.
    pub fn held(&self, machine: &MachineId, now: Duration) -> u32 {
        if now < self.sure_until { self.held.get(machine).copied().unwrap_or(0) } else { 0 }
    }

    /// When what it holds lapses.
    pub fn sure_until(&self) -> Duration {
        self.sure_until
    }

    /// The row that this worker wants in place of `row`, which it has just read; `None` if nothing is to be changed or renewed now.
    /// What it gives up by it is given up at once.
    pub fn propose(&mut self, row: &Shares, wants: &[Want], now: Duration) -> Option<Proposal> {
        let mut next = row.clone();
        self.hear(row, now);
        for (worker, (_, since)) in &self.heard {
            if now >= *since + FORGOTTEN {
                next.remove(worker);
            }
        }
        // Of a worker that is not in the row: nobody would take it away.
        for by in next.machines.values_mut() {
            by.retain(|worker, _| next.workers.contains_key(worker));
        }
        next.workers.insert(self.me.clone(), self.renewals);
        let (mut own, mut left) = (BTreeMap::new(), self.most);
        for want in wants {
            let part =
                self.part(&next, want).min(left.max(want.running.min(next.of(&want.machine, &self.me))));
            left = left.saturating_sub(part);
            if part > 0 {
                own.insert(want.machine.clone(), part);
            }
        }
        for (machine, by) in &mut next.machines {
            if !own.contains_key(machine) {
                by.remove(&self.me);
            }
        }
        for (machine, part) in &own {
            next.machines.entry(machine.clone()).or_default().insert(self.me.clone(), *part);
        }
        next.machines.retain(|_, by| !by.is_empty());
        for (machine, held) in &mut self.held {
            *held = (*held).min(own.get(machine).copied().unwrap_or(0));
        }
        let due = self.sent.is_none_or(|sent| now >= sent + RENEW);
        if next == *row && !due {
            return None;
        }
        self.renewals += 1;
        self.sent = Some(now);
        next.workers.insert(self.me.clone(), self.renewals);
        Some(Proposal { row: next, own, at: now })
    }

    /// The server has confirmed the row.
    pub fn stored(&mut self, proposal: Proposal) {
        self.held = proposal.own;
        self.sure_until = proposal.at + HELD;
    }

    /// Notes since when each other worker's count has stood where it stands.
    fn hear(&mut self, row: &Shares, now: Duration) {
        self.heard.retain(|worker, _| row.workers.contains_key(worker));
        for (worker, count) in row.workers.iter().filter(|(worker, _)| **worker != self.me) {
            match self.heard.get_mut(worker) {
                Some((known, _)) if known == count => {}
                Some(known) => *known = (*count, now),
                None => drop(self.heard.insert(worker.clone(), (*count, now))),
            }
        }
    }

    /// The part of a machine that this worker is to have next.
    fn part(&self, row: &Shares, want: &Want) -> u32 {
        let mine = row.of(&want.machine, &self.me);
        let busy = mine.min(want.running);
        if !want.open {
            return busy;
        }
        let ideal = ideal(&want.machine, want.slots, &self.me, row.workers.keys());
        if mine > ideal {
            return ideal.max(busy);
        }
        let taken: u32 = row.machines.get(&want.machine).map_or(0, |by| by.values().sum());
        ideal.min(mine + want.slots.saturating_sub(taken))
    }
}

/// A worker's part of `slots`: equal parts, and one more for those first in the machine's own order of workers.
fn ideal<'a>(
    machine: &MachineId,
    slots: u32,
    me: &str,
    workers: impl ExactSizeIterator<Item = &'a String>,
) -> u32 {
    let count = u32::try_from(workers.len()).unwrap_or(u32::MAX).max(1);
    let own = (rank(machine, me), me);
    let before = workers.filter(|worker| (rank(machine, worker), worker.as_str()) < own).count();
    slots / count + u32::from((before as u64) < u64::from(slots % count))
}

/// A number that all workers compute alike: FNV-1a, mixed once more, since the last bytes of names differ most.
fn rank(machine: &MachineId, worker: &str) -> u64 {
    let bytes = machine.as_str().bytes().chain([b' ']).chain(worker.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(1_000 + seconds)
    }

    fn want(machine: &str, slots: u32, running: u32) -> Want {
        Want { machine: machine.parse().unwrap(), slots, open: true, running }
    }

    /// A worker reads the row, writes its own and is told that it is stored.
    fn turn(worker: &mut Division, row: &mut Shares, wants: &[Want], now: Duration) {
        if let Some(proposal) = worker.propose(row, wants, now) {
            *row = proposal.row.clone();
            worker.stored(proposal);
        }
    }

    fn held(worker: &Division, machine: &str, now: Duration) -> u32 {
        worker.held(&machine.parse().unwrap(), now)
    }

    #[test]
    fn one_worker_has_all_and_a_second_gets_half_once_the_first_has_given_it_up() {
        let (mut a, mut b) = (Division::new("a".into(), 99), Division::new("b".into(), 99));
        let (mut row, wants) = (Shares::default(), [want("m", 4, 0)]);
        turn(&mut a, &mut row, &wants, secs(0));
        assert_eq!(held(&a, "m", secs(0)), 4);
        turn(&mut b, &mut row, &wants, secs(1));
        assert_eq!((held(&a, "m", secs(1)), held(&b, "m", secs(1))), (4, 0), "nothing is free yet");
        turn(&mut a, &mut row, &wants, secs(1));
        turn(&mut b, &mut row, &wants, secs(2));
        assert_eq!((held(&a, "m", secs(2)), held(&b, "m", secs(2))), (2, 2));
    }

    #[test]
    fn slots_with_running_jobs_are_given_up_when_the_jobs_have_ended() {
        let (mut a, mut b) = (Division::new("a".into(), 99), Division::new("b".into(), 99));
        let mut row = Shares::default();
        turn(&mut a, &mut row, &[want("m", 4, 0)], secs(0));
        turn(&mut b, &mut row, &[want("m", 4, 0)], secs(1));
        turn(&mut a, &mut row, &[want("m", 4, 4)], secs(1));
        turn(&mut b, &mut row, &[want("m", 4, 0)], secs(2));
        assert_eq!((held(&a, "m", secs(2)), held(&b, "m", secs(2))), (4, 0));
        turn(&mut a, &mut row, &[want("m", 4, 1)], secs(3));
        turn(&mut b, &mut row, &[want("m", 4, 0)], secs(3));
        assert_eq!((held(&a, "m", secs(3)), held(&b, "m", secs(3))), (2, 2));
    }

    #[test]
    fn what_is_given_up_is_given_up_before_the_row_is_stored_and_nothing_is_taken_before() {
        let (mut a, mut b) = (Division::new("a".into(), 99), Division::new("b".into(), 99));
        let (mut row, wants) = (Shares::default(), [want("m", 4, 0)]);
        turn(&mut a, &mut row, &wants, secs(0));
        turn(&mut b, &mut row, &wants, secs(1));
        let proposal = a.propose(&row, &wants, secs(1)).unwrap();
        assert_eq!(held(&a, "m", secs(1)), 2, "the answer is not there yet");
        // The answer is lost; the row was stored all the same, and is read.
        let row = proposal.row;
        assert!(a.propose(&row, &wants, secs(1)).is_none(), "nothing to change");
        assert_eq!(held(&a, "m", secs(1)), 2);
        let ahead = b.propose(&row, &wants, secs(2)).unwrap();
        assert_eq!(held(&b, "m", secs(2)), 0);
        b.stored(ahead);
        assert_eq!(held(&b, "m", secs(2)), 2);
    }

    #[test]
    fn a_share_that_cannot_be_renewed_lapses_before_others_take_it() {
        let (mut a, mut b) = (Division::new("a".into(), 99), Division::new("b".into(), 99));
        let (mut row, wants) = (Shares::default(), [want("m", 4, 0)]);
        turn(&mut a, &mut row, &wants, secs(0));
        for second in 0..12 {
            turn(&mut b, &mut row, &wants, secs(second));
            assert_eq!(held(&b, "m", secs(second)), 0, "after {second} s");
        }
        assert_eq!((held(&a, "m", secs(7)), held(&a, "m", secs(8))), (4, 0));
        turn(&mut b, &mut row, &wants, secs(12));
        assert_eq!(held(&b, "m", secs(12)), 4);
        // It comes back, and waits for its part like a new one.
        turn(&mut a, &mut row, &wants, secs(13));
        assert_eq!(held(&a, "m", secs(13)), 0);
    }

    #[test]
    fn an_odd_slot_goes_to_one_worker_and_different_machines_to_different_ones() {
        let workers: Vec<String> = ["a", "b", "c"].map(String::from).into();
        let mut first = BTreeMap::<&str, u32>::new();
        for n in 0..300 {
            let machine: MachineId = format!("m{n}").parse().unwrap();
            let parts = workers.iter().map(|me| ideal(&machine, 1, me, workers.iter()));
            assert_eq!(parts.clone().sum::<u32>(), 1);
            for (me, part) in workers.iter().zip(parts) {
                *first.entry(me).or_default() += part;
            }
        }
        assert!(first.values().all(|count| (60..140).contains(count)), "{first:?}");
    }

    #[test]
    fn a_worker_takes_no_more_than_it_may_run() {
        let mut a = Division::new("a".into(), 5);
        let mut row = Shares::default();
        turn(&mut a, &mut row, &[want("m", 4, 0), want("n", 4, 0)], secs(0));
        assert_eq!((held(&a, "m", secs(0)), held(&a, "n", secs(0))), (4, 1));
    }

    #[test]
    fn a_machine_that_takes_no_jobs_keeps_those_that_run() {
        let mut a = Division::new("a".into(), 9);
        let mut row = Shares::default();
        turn(&mut a, &mut row, &[want("m", 4, 0)], secs(0));
        let drains = |running| [Want { open: false, ..want("m", 4, running) }];
        turn(&mut a, &mut row, &drains(3), secs(1));
        assert_eq!(held(&a, "m", secs(1)), 3);
        turn(&mut a, &mut row, &drains(0), secs(2));
        assert!(row.machines.is_empty() && held(&a, "m", secs(2)) == 0);
    }

    /// One step of a world of three workers and one server.
    #[derive(Clone, Copy, Debug)]
    enum Step {
        /// A worker reads the row.
        Read(usize),
        /// A worker proposes by what it has read, and sends that.
        Send(usize),
        /// The server takes what a worker has sent; the worker hears of it, or not.
        Arrive(usize, bool),
        /// A worker starts as many jobs as it may, or all its jobs end.
        Work(usize, bool),
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..3usize).prop_map(Step::Read),
            (0..3usize).prop_map(Step::Send),
            (0..3usize, any::<bool>()).prop_map(|(who, heard)| Step::Arrive(who, heard)),
            (0..3usize, any::<bool>()).prop_map(|(who, starts)| Step::Work(who, starts)),
            (0..5_000u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// Whoever reads what when, and whatever answer is lost: the jobs that are started never add up to more than the slots,
        /// as long as jobs are shorter than the time after which a share is taken away.
        #[test]
        fn shares_in_use_never_exceed_the_slots(slots in 1..6u32, steps in prop::collection::vec(step(), 1..200)) {
            let machine: MachineId = "m".parse().unwrap();
            let (mut row, mut revision, mut now) = (Shares::default(), 0u64, secs(0));
            let mut workers: Vec<_> = ["a", "b", "c"].map(|me| Division::new(me.into(), 9)).into();
            let mut read = vec![(Shares::default(), 0u64); 3];
            let mut sent: Vec<Vec<(Proposal, u64)>> = vec![Vec::new(); 3];
            let mut running = [0u32; 3];
            for step in steps {
                match step {
                    Step::Pass(millis) => now += Duration::from_millis(millis),
                    Step::Read(who) => read[who] = (row.clone(), revision),
                    Step::Send(who) => {
                        let wants = [want("m", slots, running[who])];
                        if let Some(proposal) = workers[who].propose(&read[who].0, &wants, now) {
                            sent[who].push((proposal, read[who].1));
                        }
                    }
                    Step::Arrive(who, heard) => if !sent[who].is_empty() {
                        let (proposal, over) = sent[who].remove(0);
                        if over == revision {
                            (row, revision) = (proposal.row.clone(), revision + 1);
                            // Only the answer to the newest is waited for.
                            if heard && sent[who].is_empty() {
                                workers[who].stored(proposal);
                            }
                        }
                    },
                    Step::Work(who, true) => running[who] = running[who].max(workers[who].held(&machine, now)),
                    Step::Work(who, false) => running[who] = 0,
                }
                // Jobs that outlive their share are the exception that is named above: they end here.
                for who in 0..3 {
                    if now >= workers[who].sure_until() {
                        running[who] = 0;
                    }
                }
                prop_assert!(running.iter().sum::<u32>() <= slots, "{running:?} {row:?}");
                let held: u32 = workers.iter().map(|worker| worker.held(&machine, now)).sum();
                prop_assert!(held <= slots, "{held} held of {slots}: {row:?}");
            }
        }
    }
}
