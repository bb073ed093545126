//! A small world for the policy: machines that start after a while, jobs as a test says, a look each ten seconds.

mod failures;
mod promises;
mod rules;
mod two_pools;

use std::time::Duration;

use schemas::{Micros, UsdNanos, machine::MachineState};

use super::*;
use crate::demand::{Load, Service, Waiting};

const START: Micros = Micros::new(1_795_000_000_000_000);

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn usd(text: &str) -> UsdNanos {
    text.parse().unwrap()
}

/// Jobs as the report measured them: 1.157 s, four at a time on an A10.
fn service() -> Service {
    let mean = Duration::from_millis(1_157);
    Service { samples: 1_000, mean, p50: mean, p90: mean, p95: mean }
}

fn waiting(by: Option<Micros>, jobs: u64) -> Waiting {
    Waiting { by, jobs, slot_us: jobs * 1_157_000 }
}

fn offer(place: &str, usd_per_hour: &str) -> Offer {
    let (sku, place) = ("a10".into(), place.into());
    Offer { sku, place, slots: 4, usd_per_hour: usd(usd_per_hour), available: None }
}

fn machine(name: &str, state: MachineState, since: Micros) -> Standing {
    Standing {
        machine: name.parse().unwrap(),
        state,
        since,
        sku: "a10".into(),
        place: "east".into(),
        slots: 4,
        usd_per_hour: usd("1.29"),
        parked_usd_per_hour: usd("0.01"),
        ordered_at: since,
        ready_at: (state == MachineState::Ready).then_some(since),
        paid_until: None,
        running: None,
        cached_tokens: 0,
        replace: false,
        unwanted: false,
    }
}

/// A pool, its keeper's memory, and a clock.
struct World {
    now: Micros,
    seen: Seen,
    policy: Policy,
    memory: Memory,
    /// How long machines take to start.
    boot: Duration,
    ordered: u32,
    left: Vec<Leave>,
}

impl World {
    /// No machine stands and nothing waits; up to eight machines may be had at Lambda's price.
    fn new() -> Self {
        let policy = Policy {
            bounds: Bounds::between(0, 8),
            machines_max: 8,
            usd_per_hour_max: usd("100"),
            ..Policy::default()
        };
        let load = Load { since: START, service: service(), ..Load::default() };
        let seen = Seen { load: Some(load), offers: vec![offer("east", "1.29")], ..Seen::default() };
        let boot = policy.boot.0;
        Self { now: START, seen, policy, memory: Memory::default(), boot, ordered: 0, left: Vec::new() }
    }

    fn load(&mut self) -> &mut Load {
        self.seen.load.as_mut().unwrap()
    }

    fn add(&mut self, name: &str, state: MachineState) -> &mut Standing {
        self.seen.machines.push(machine(name, state, self.now));
        self.seen.machines.last_mut().unwrap()
    }

    fn count(&self, state: MachineState) -> usize {
        self.seen.machines.iter().filter(|machine| machine.state == state).count()
    }

    /// Plans, carries it out, and checks what must hold of every plan.
    fn look(&mut self) -> Plan {
        let plan = plan(&self.seen, &self.policy, &mut self.memory, self.now);
        self.check(&plan);
        for leave in &plan.leave {
            let at = self.seen.machines.iter().position(|m| m.machine == leave.machine).unwrap();
            let (now, machine) = (self.now, &mut self.seen.machines[at]);
            let state = match leave.how {
                How::Forget => MachineState::Gone,
                How::Drain => MachineState::Draining,
                How::End => MachineState::Stopping,
                How::Park => MachineState::Parked,
            };
            (machine.state, machine.since) = (state, now);
        }
        self.left.extend(plan.leave.iter().cloned());
        for name in &plan.wake {
            let woken = self.seen.machines.iter_mut().find(|machine| machine.machine == *name).unwrap();
            (woken.state, woken.ordered_at, woken.ready_at) = (MachineState::Starting, self.now, None);
        }
        for purchase in &plan.order {
            self.ordered += 1;
            let name = format!("m{}", self.ordered);
            let price = purchase.usd_per_hour_max;
            let place = purchase.place.clone();
            let machine = self.add(&name, MachineState::Ordered);
            (machine.usd_per_hour, machine.place) = (price, place);
        }
        self.seen.machines.retain(|machine| machine.state != MachineState::Gone);
        plan
    }

    /// Time passes: machines start and are gone. Then a look.
    fn pass(&mut self, span: Duration) -> Plan {
        self.now = self.now + span;
        let (now, boot) = (self.now, self.boot);
        self.seen
            .machines
            .retain(|machine| machine.state != MachineState::Stopping || now.since(machine.since) < secs(20));
        for machine in &mut self.seen.machines {
            let starts = matches!(machine.state, MachineState::Ordered | MachineState::Starting);
            if starts && now.since(machine.ordered_at) >= boot {
                (machine.state, machine.since) = (MachineState::Ready, now);
                machine.ready_at = Some(now);
            }
        }
        self.look()
    }

    /// Looks each ten seconds for so long.
    fn run(&mut self, span: Duration) {
        for _ in 0..span.as_secs() / 10 {
            self.pass(secs(10));
        }
    }

    fn check(&self, plan: &Plan) {
        let capped: Vec<_> = self.seen.machines.iter().filter(|machine| machine.is_capped()).collect();
        // What stood above a cap before is nobody's fault; nothing is added to it.
        if !plan.order.is_empty() || !plan.wake.is_empty() {
            let machines = capped.len() + plan.order.len() + plan.wake.len();
            assert!(machines <= self.policy.machines_max as usize, "{plan:?}");
            let standing = capped.iter().map(|machine| machine.usd_per_hour);
            let parked = self.seen.machines.iter().filter(|m| m.state == MachineState::Parked);
            let parked = parked.map(|machine| {
                let wakes = plan.wake.contains(&machine.machine);
                if wakes { machine.usd_per_hour } else { machine.parked_usd_per_hour }
            });
            let ordered = plan.order.iter().map(|purchase| purchase.usd_per_hour_max);
            let dollars = schemas::money::total(standing.chain(parked).chain(ordered)).unwrap();
            assert!(dollars <= self.policy.usd_per_hour_max, "{dollars} {plan:?}");
        }
        let mut names: Vec<_> = plan.leave.iter().map(|leave| &leave.machine).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), plan.leave.len(), "each leaves once: {plan:?}");
        for leave in &plan.leave {
            let machine = self.seen.machines.iter().find(|m| m.machine == leave.machine).unwrap();
            let busy = machine.jobs(self.now).is_some_and(|jobs| jobs > 0);
            let late = machine.state == MachineState::Draining
                && self.now.since(machine.since) >= self.policy.drain_limit;
            match leave.how {
                How::End | How::Park => assert!(!busy || late, "cut off while it works: {leave:?}"),
                How::Drain => assert_eq!(machine.state, MachineState::Ready),
                How::Forget => assert_eq!(machine.state, MachineState::Wanted),
            }
        }
        assert!(plan.look_again_at > self.now && plan.look_again_at <= self.now + LOOK_EVERY);
        assert!(!plan.reasons.is_empty() && !plan.why().is_empty());
    }

    /// Every machine that works says what it runs.
    fn report(&mut self, jobs: u32) {
        let works =
            |machine: &&mut Standing| matches!(machine.state, MachineState::Ready | MachineState::Draining);
        for machine in self.seen.machines.iter_mut().filter(works) {
            machine.running = Some((jobs, self.now));
        }
    }
}
