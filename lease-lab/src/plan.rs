//! What a seed means: how large the world is, how it is set, which jobs there are, and which faults.

use std::time::Duration;

use schemas::{Lane, Micros, failure::FailureClass};
use workers::config::JournalMode;

use crate::{
    chance::{Chance, Purpose},
    net::{Host, Line},
    provider::Mood,
};

/// When every world begins.
pub(crate) const BEGIN: Micros = Micros::new(1_800_000_000_000_000);

/// The pools of every world, and whether their runs go on without a caller.
pub(crate) const POOLS: [(&str, bool); 2] = [("golem@us-east", false), ("modal@us-east", true)];

/// What a seed means.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The seed.
    pub(crate) seed: u64,
    /// Whether the server is three that agree, or one that may forget.
    pub(crate) cluster: bool,
    /// When workers write the journal.
    pub(crate) journal: JournalMode,
    /// How long a lease lasts.
    pub(crate) ack_wait: Duration,
    /// Of 100 jobs so many may have a second attempt.
    pub(crate) hedges: u32,
    /// Whether the detached provider finds runs by the caller's name for them.
    pub(crate) finds: bool,
    /// Who there is.
    pub(crate) hosts: Vec<Kind>,
    /// Slots of each worker.
    pub(crate) slots: u32,
    /// What is published.
    pub(crate) jobs: Vec<PlannedJob>,
    /// What goes wrong.
    pub(crate) faults: Vec<(Micros, Fault)>,
    /// When nothing goes wrong any more.
    pub(crate) calm_at: Micros,
}

/// What runs on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A dispatcher.
    Dispatcher,
    /// A worker of a pool, by its place in [`POOLS`].
    Worker(usize),
    /// A producer.
    Producer,
}

/// A job to be published.
#[derive(Clone, Debug)]
pub(crate) struct PlannedJob {
    /// When.
    pub(crate) at: Micros,
    /// How urgent it is.
    pub(crate) lane: Lane,
    /// Its id, by a number; a few jobs share one.
    pub(crate) id: u64,
    /// Whose it is.
    pub(crate) tenant: &'static str,
    /// What is special about it.
    pub(crate) special: Special,
}

/// What is special about a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// Nothing.
    Plain,
    /// It is nearly as large as a message may be.
    Large,
    /// It must start within so many seconds.
    Deadline(u64),
    /// No pool may take it.
    NoPool,
    /// It does not read as a job, though id and mailbox can be found.
    Broken,
    /// It may be tried once.
    Once,
}

/// What goes wrong.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// A process dies after so many more steps, and another starts in its place after a while.
    Crash {
        /// Whose.
        host: Host,
        /// After so many more messages and calls.
        steps: u64,
        /// How long it stays away.
        away: Duration,
    },
    /// A process is asked to end, and another starts when it has.
    Restart {
        /// Whose.
        host: Host,
    },
    /// A process does not run for a while, and does not know.
    Stop {
        /// Whose.
        host: Host,
        /// For how long.
        span: Duration,
    },
    /// A host's messages are held up.
    Hold {
        /// Whose.
        host: Host,
        /// For how long.
        span: Duration,
    },
    /// A host's messages are lost, and nobody notices at first.
    CutOff {
        /// Whose.
        host: Host,
        /// For how long.
        span: Duration,
    },
    /// A connection breaks.
    Break {
        /// Whose.
        host: Host,
        /// Which.
        line: Line,
    },
    /// A clock jumps.
    Jump {
        /// Whose.
        host: Host,
        /// How far.
        by: Duration,
        /// Backwards.
        back: bool,
    },
    /// The server is killed and starts again; with its host, what was stored last is lost, too.
    KillServer {
        /// How long it stays away.
        away: Duration,
    },
    /// A stream or consumer, by a number, has no leader for a while.
    Elect {
        /// Which.
        which: usize,
        /// For how long.
        span: Duration,
    },
    /// `REPLIES` or `LEDGER` takes nothing for a while.
    Full {
        /// Which.
        stream: &'static str,
        /// For how long.
        span: Duration,
    },
    /// A provider treats calls badly for a while.
    Mood {
        /// Whose, by its place in [`POOLS`].
        pool: usize,
        /// How.
        mood: Mood,
        /// For how long.
        span: Duration,
    },
}

impl Plan {
    /// What `seed` means.
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed, Purpose::World);
        let cluster = chance.one_in(1, 2);
        let journal = if chance.one_in(1, 2) { JournalMode::Always } else { JournalMode::Unhappy };
        let ack_wait = Duration::from_secs([12, 20, 20, 60][chance.index(4)]);
        let mut hosts = vec![Kind::Dispatcher; 2];
        hosts.extend([Kind::Worker(0), Kind::Worker(1)]);
        hosts.extend(chance.one_in(1, 2).then_some(Kind::Worker(chance.index(2))));
        hosts.push(Kind::Producer);
        let calm_at = BEGIN + chance.span(Duration::from_secs(40), Duration::from_secs(80));
        Self {
            seed,
            cluster,
            journal,
            ack_wait,
            hedges: [0, 20, 100][chance.index(3)],
            finds: chance.one_in(1, 2),
            slots: u32::try_from(chance.between(2, 4)).expect("a small number"),
            jobs: jobs(seed, calm_at),
            faults: faults(seed, &hosts, cluster, calm_at),
            hosts,
            calm_at,
        }
    }
}

impl Plan {
    /// Whether nobody dies, is stopped or is cut off, and no job has two attempts at once.
    pub(crate) fn is_gentle(&self) -> bool {
        let gentle = |fault: &Fault| matches!(fault, Fault::Restart { .. } | Fault::Mood { .. });
        self.hedges == 0 && self.faults.iter().all(|(_, fault)| gentle(fault))
    }
}

fn jobs(seed: u64, calm_at: Micros) -> Vec<PlannedJob> {
    let mut chance = Chance::of(seed, Purpose::Jobs);
    let count = chance.between(10, 40);
    let end = BEGIN + calm_at.since(BEGIN).mul_f64(0.7);
    let mut jobs: Vec<PlannedJob> = Vec::new();
    for n in 0..count {
        let at = chance.time(BEGIN + Duration::from_secs(1), end);
        let tenant = ["acme", "acme", "zenith"][chance.index(3)];
        // Some publish an id again: their own, or one that another tenant used.
        let reused = chance.one_in(1, 12).then(|| chance.below(n.max(1)));
        let special = match chance.below(40) {
            0 => Special::Large,
            1 => Special::Deadline(chance.between(1, 20)),
            2 => Special::NoPool,
            3 => Special::Broken,
            4 => Special::Once,
            _ => Special::Plain,
        };
        let lane = Lane::ALL[chance.index(3)];
        jobs.push(PlannedJob { at, lane, id: reused.unwrap_or(n), tenant, special });
    }
    jobs.sort_by_key(|job| job.at);
    jobs
}

fn faults(seed: u64, hosts: &[Kind], cluster: bool, calm_at: Micros) -> Vec<(Micros, Fault)> {
    let mut chance = Chance::of(seed, Purpose::Faults);
    // Some worlds are quiet, so that nothing is asserted only where something broke.
    let count = if chance.one_in(1, 12) { 0 } else { chance.between(1, 14) };
    // Others only restart processes, one dispatcher at a time.
    let gentle = chance.one_in(1, 6);
    let mut faults: Vec<(Micros, Fault)> = Vec::new();
    for _ in 0..count {
        let at = chance.time(BEGIN + Duration::from_secs(2), calm_at - Duration::from_secs(5));
        let left = calm_at.since(at);
        if gentle {
            let host = chance.between(1, hosts.len() as u64 - 1);
            faults.push((at, Fault::Restart { host: usize::try_from(host).expect("a small number") }));
            continue;
        }
        faults.push((at, fault(&mut chance, hosts, cluster, left)));
        if chance.one_in(1, 4) {
            // Two at nearly the same time find what one alone does not.
            let at = at + chance.span(Duration::ZERO, Duration::from_secs(2));
            let left = calm_at.since(at);
            faults.push((at, fault(&mut chance, hosts, cluster, left)));
        }
    }
    faults.sort_by_key(|(at, _)| *at);
    faults
}

fn fault(chance: &mut Chance, hosts: &[Kind], cluster: bool, left: Duration) -> Fault {
    let host = chance.index(hosts.len());
    let mut span = |least: u64, most: u64| {
        chance.span(Duration::from_millis(least), Duration::from_millis(most)).min(left)
    };
    let (short, long) = (span(50, 3_000), span(500, 30_000));
    match chance.below(100) {
        0..22 => Fault::Crash {
            host,
            steps: chance.below(40),
            away: if chance.one_in(1, 2) { short } else { long },
        },
        22..30 => Fault::Restart { host },
        30..44 => Fault::Stop { host, span: if chance.one_in(1, 3) { short } else { long } },
        44..50 => Fault::Hold { host, span: if chance.one_in(1, 2) { short } else { long } },
        50..56 => Fault::CutOff { host, span: long },
        56..64 => Fault::Break { host, line: if chance.one_in(1, 2) { Line::Bulk } else { Line::Control } },
        64..69 => Fault::Jump { host, by: long, back: chance.one_in(1, 2) },
        69..79 if cluster => Fault::Elect { which: chance.index(64), span: short },
        69..79 => Fault::KillServer { away: short },
        79..83 => Fault::Full { stream: if chance.one_in(1, 2) { "REPLIES" } else { "LEDGER" }, span: long },
        _ => Fault::Mood { pool: chance.index(POOLS.len()), mood: mood(chance), span: long },
    }
}

fn mood(chance: &mut Chance) -> Mood {
    const CLASSES: [FailureClass; 7] = [
        FailureClass::RateLimited,
        FailureClass::Capacity,
        FailureClass::ProviderDown,
        FailureClass::Connection,
        FailureClass::Timeout,
        FailureClass::OutOfMemory,
        FailureClass::Refused,
    ];
    let class = chance.one_in(2, 3).then(|| CLASSES[chance.index(CLASSES.len())]);
    let slow =
        if chance.one_in(1, 3) { u32::try_from(chance.between(2, 8)).expect("a small number") } else { 1 };
    Mood { fails: [0, 20, 60, 100][chance.index(4)], class, slow }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_means_the_same_and_its_faults_end_in_time() {
        for seed in 0..200 {
            let plan = Plan::of(seed);
            assert_eq!(format!("{plan:?}"), format!("{:?}", Plan::of(seed)));
            assert!(plan.faults.iter().all(|(at, _)| *at < plan.calm_at));
            assert!(plan.jobs.iter().all(|job| job.at < plan.calm_at));
        }
    }
}
