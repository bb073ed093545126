//! What workers say: the jobs that each machine runs, machines that serve nobody, and what pools without machines cost. Pure.

use std::{collections::HashMap, time::Duration};

use schemas::{MachineId, Micros, ModelToken, PoolId, UsdNanos, WorkerId, heartbeat::Heartbeat};

use crate::policy::Serverless;

/// A worker that says nothing for so long is not there.
const SILENT_AFTER: Duration = Duration::from_secs(6);
/// Jobs in a row that failed at a machine, before it is probed out of turn.
const SUSPECT_AFTER: u32 = 3;
/// A machine that drains is believed to be empty by what was said so long after it began to: workers have heard of it by then.
const HEARD_AFTER: Duration = Duration::from_millis(1_500);
/// A machine that drains, in a pool without any worker, is empty after this.
const NOBODY_AFTER: Duration = Duration::from_secs(6);

/// A worker's last words.
#[derive(Debug)]
struct Worker {
    heard: Micros,
    beat: Heartbeat,
    /// What it said of machines last, and when.
    machines_at: Micros,
}

/// What all workers of a region say.
#[derive(Debug, Default)]
pub struct Loads {
    workers: HashMap<(PoolId, WorkerId), Worker>,
}

impl Loads {
    /// Takes in a heartbeat.
    pub fn hear(&mut self, mut beat: Heartbeat, now: Micros) {
        let key = (beat.pool.clone(), beat.worker.clone());
        let before = self.workers.get_mut(&key).filter(|before| before.beat.started_us == beat.started_us);
        let mut machines_at = now;
        if beat.machines.is_none()
            && let Some(before) = before
        {
            beat.machines = before.beat.machines.take();
            machines_at = before.machines_at;
        }
        self.workers.insert(key, Worker { heard: now, beat, machines_at });
        self.workers.retain(|_, worker| now.since(worker.heard) <= SILENT_AFTER);
    }

    fn live<'a>(&'a self, pool: &'a PoolId, now: Micros) -> impl Iterator<Item = &'a Worker> {
        let ours = self.workers.iter().filter(move |((of, _), _)| of == pool);
        ours.map(|(_, worker)| worker).filter(move |worker| now.since(worker.heard) <= SILENT_AFTER)
    }

    /// The jobs that a machine runs, and when that was said. `drains_since`: a word from before workers knew of the drain says
    /// nothing, and where there is no worker, nothing runs.
    pub fn running(
        &self,
        pool: &PoolId,
        machine: &MachineId,
        drains_since: Option<Micros>,
        now: Micros,
    ) -> Option<(u32, Micros)> {
        let (mut sum, mut said) = (0_u32, None::<Micros>);
        for worker in self.live(pool, now) {
            if drains_since.is_some_and(|since| worker.machines_at < since + HEARD_AFTER) {
                return None;
            }
            let load = worker.beat.machines.iter().flatten().find(|load| load.machine == *machine);
            sum = sum.saturating_add(load.map_or(0, |load| load.running));
            said = Some(said.map_or(worker.machines_at, |at| at.min(worker.machines_at)));
        }
        match (said, drains_since) {
            (Some(at), _) => Some((sum, at)),
            (None, Some(since)) if now.since(since) >= NOBODY_AFTER => Some((0, now)),
            (None, _) => None,
        }
    }

    /// Machines at which jobs fail one after the other, and why.
    pub fn suspects(&self, pool: &PoolId, now: Micros) -> Vec<(MachineId, String)> {
        let loads = self.live(pool, now).flat_map(|worker| worker.beat.machines.iter().flatten());
        let bad = loads.filter(|load| load.failures >= SUSPECT_AFTER);
        bad.map(|load| {
            let class = load.failed.map_or_else(String::new, |class| format!(", the last one as {class}"));
            (load.machine.clone(), format!("{} jobs in a row failed there{class}", load.failures))
        })
        .collect()
    }

    /// What pools of the region that take money only for work ask for a second of one of `models`, the cheapest of them.
    pub fn serverless(&self, pool: &PoolId, models: &[ModelToken], now: Micros) -> Option<Serverless> {
        let mut best: Option<Serverless> = None;
        let mut free = 0_u32;
        for worker in self.workers.values().filter(|worker| now.since(worker.heard) <= SILENT_AFTER) {
            let beat = &worker.beat;
            if beat.pool == *pool
                || beat.pool.region != pool.region
                || beat.draining
                || beat.healthy == Some(false)
            {
                continue;
            }
            let mut served =
                beat.models.iter().filter(|served| models.contains(&served.model) && !served.rented);
            let second = served
                .find_map(|served| second_of(served.second_usd, served.expected_cost_usd, served.p50_us));
            let Some(usd_per_second) = second else { continue };
            free = free.saturating_add(beat.slots.saturating_sub(beat.running));
            if best.is_none_or(|best| usd_per_second < best.usd_per_second) {
                best = Some(Serverless { usd_per_second, free_slots: 0 });
            }
        }
        best.map(|best| Serverless { free_slots: free, ..best })
    }
}

/// What a second costs: as told, or as a job's cost over its time.
fn second_of(second_usd: UsdNanos, job_usd: UsdNanos, job_us: u64) -> Option<UsdNanos> {
    if second_usd > UsdNanos::ZERO {
        return Some(second_usd);
    }
    let nanos = u128::from(job_usd.get()) * 1_000_000 / u128::from(job_us.max(1));
    (nanos > 0).then(|| UsdNanos::new(u64::try_from(nanos).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use schemas::heartbeat::{MachineLoad, ServedModel};

    use super::*;

    const T0: Micros = Micros::new(1_795_000_000_000_000);

    fn at(millis: u64) -> Micros {
        T0 + Duration::from_millis(millis)
    }

    fn pool() -> PoolId {
        "lambda@us-east".parse().unwrap()
    }

    fn beat(of: &str, worker: &str, machines: Option<&[(&str, u32, u32)]>) -> Heartbeat {
        let load = |(machine, running, failures): &(&str, u32, u32)| MachineLoad {
            machine: machine.parse().unwrap(),
            slots: 4,
            running: *running,
            last_token_us: None,
            failures: *failures,
            failed: None,
            busy_us: 0,
        };
        Heartbeat {
            pool: of.parse().unwrap(),
            worker: worker.parse().unwrap(),
            started_us: T0,
            at_us: T0,
            slots: 4,
            running: 1,
            draining: false,
            healthy: None,
            round_trip_us: None,
            succeeded: 0,
            failed: 0,
            models: Vec::new(),
            machines: machines.map(|machines| machines.iter().map(load).collect()),
        }
    }

    #[test]
    fn a_machine_runs_what_all_workers_say_and_beats_without_machines_change_nothing() {
        let (mut loads, m) = (Loads::default(), "m".parse().unwrap());
        loads.hear(beat("lambda@us-east", "w1", Some(&[("m", 2, 0)])), at(0));
        loads.hear(beat("lambda@us-east", "w2", Some(&[("m", 1, 3)])), at(100));
        loads.hear(beat("lambda@us-east", "w1", None), at(200));
        assert_eq!(loads.running(&pool(), &m, None, at(300)), Some((3, at(0))));
        assert_eq!(loads.suspects(&pool(), at(300)).len(), 1);
        assert_eq!(loads.running(&pool(), &m, None, at(60_000)), None, "the dead say nothing");
    }

    #[test]
    fn a_drain_is_over_only_by_what_was_said_after_workers_knew_of_it() {
        let (mut loads, m) = (Loads::default(), "m".parse().unwrap());
        loads.hear(beat("lambda@us-east", "w1", Some(&[("m", 0, 0)])), at(1_000));
        assert_eq!(loads.running(&pool(), &m, Some(at(900)), at(1_100)), None);
        loads.hear(beat("lambda@us-east", "w1", Some(&[("m", 0, 0)])), at(2_500));
        assert_eq!(loads.running(&pool(), &m, Some(at(900)), at(2_500)), Some((0, at(2_500))));
        assert_eq!(Loads::default().running(&pool(), &m, Some(at(0)), at(1_000)), None);
        assert_eq!(Loads::default().running(&pool(), &m, Some(at(0)), at(7_000)), Some((0, at(7_000))));
    }

    #[test]
    fn the_cheapest_serverless_second_is_told_with_all_free_slots() {
        let mut loads = Loads::default();
        for (of, second, job) in
            [("modal@us-east", 164_000, 0), ("runpod@us-east", 0, 100_000), ("fly@eu-west", 1, 0)]
        {
            let model = ServedModel {
                model: "m".parse().unwrap(),
                sku: "x".into(),
                size: 0,
                expected_cost_usd: UsdNanos::new(job),
                p50_us: 1_000_000,
                p95_us: 1_000_000,
                running: 0,
                overdue: 0,
                second_usd: UsdNanos::new(second),
                idle_us: 0,
                rented: false,
                detached: false,
                warmable: false,
            };
            loads.hear(Heartbeat { models: vec![model], ..beat(of, "w", None) }, T0);
        }
        let models = ["m".parse().unwrap()];
        let best = loads.serverless(&pool(), &models, T0).unwrap();
        assert_eq!((best.usd_per_second.get(), best.free_slots), (100_000, 6));
    }
}
