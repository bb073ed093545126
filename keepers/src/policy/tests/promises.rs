//! What holds of every plan, whatever is seen.

use proptest::prelude::*;

use super::*;

/// What happens between two looks.
#[derive(Clone, Debug)]
struct Moment {
    seconds: u64,
    arrived: u64,
    running: u64,
    waiting: u64,
    due_in: Option<u64>,
    backfill: u64,
    jobs: u32,
    /// 0: nothing, 1: the last order fails, 2: a machine is lost, 3: one is to be replaced, 4: one is unwanted.
    fault: u8,
    serverless: bool,
}

fn moment() -> impl Strategy<Value = Moment> {
    let load = (0..200u64, 0..60u64, 0..300u64, proptest::option::of(1..20_000u64), 0..30_000u64);
    (1..120u64, load, 0..5u32, 0..12u8, any::<bool>()).prop_map(
        |(seconds, (arrived, running, waiting, due_in, backfill), jobs, fault, serverless)| Moment {
            seconds,
            arrived,
            running,
            waiting,
            due_in,
            backfill,
            jobs,
            fault,
            serverless,
        },
    )
}

fn live(world: &mut World, moment: &Moment) -> Plan {
    world.now = world.now + secs(moment.seconds);
    let now = world.now;
    world.load().normal += moment.arrived;
    world.load().running = moment.running;
    let by = moment.due_in.map(|span| now + secs(span));
    world.load().waiting = vec![waiting(by, moment.waiting)];
    world.load().backfill = vec![waiting(Some(now + secs(30_000)), moment.backfill)];
    let price = Serverless { usd_per_second: usd("0.000306"), free_slots: 3 };
    world.seen.serverless = moment.serverless.then_some(price);
    world.report(moment.jobs);
    let first = world.seen.machines.first_mut();
    match (moment.fault, first) {
        (1, _) => world.memory.starts.failed("a10", "east", now),
        (2, Some(machine)) => machine.state = MachineState::Lost,
        (3, Some(machine)) => machine.replace = true,
        (4, Some(machine)) => machine.unwanted = true,
        _ => {}
    }
    world.pass(Duration::ZERO)
}

fn world(cap: u32, cents: u64, floor: u32, park: bool) -> World {
    let mut world = World::new();
    (world.policy.machines_max, world.policy.usd_per_hour_max) = (cap, UsdNanos::new(cents * 10_000_000));
    world.policy.bounds = Bounds::between(floor.min(cap), cap);
    (world.policy.park, world.seen.parks) = (park, park);
    world.seen.offers = vec![offer("east", "1.29"), offer("west", "1.10")];
    world
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// [`World::check`] looks at every plan: caps, and that nobody is cut off while it works.
    #[test]
    fn caps_are_kept_and_nobody_is_cut_off_whatever_happens(
        moments in proptest::collection::vec(moment(), 1..60),
        cap in 1..12u32, cents in 1..1_200u64, floor in 0..4u32, park: bool,
    ) {
        let mut world = world(cap, cents, floor, park);
        for moment in &moments {
            let plan = live(&mut world, moment);
            prop_assert!(plan.want <= cap);
        }
    }

    #[test]
    fn what_was_ordered_is_not_ordered_again_and_wants_nothing_more(
        moments in proptest::collection::vec(moment(), 1..30), cap in 1..12u32,
    ) {
        let mut world = world(cap, 10_000, 0, false);
        for moment in &moments {
            let before = live(&mut world, moment);
            // The same moment again, with what was ordered on its way.
            let again = plan(&world.seen, &world.policy, &mut world.memory.clone(), world.now);
            if !before.order.is_empty() && before.leave.is_empty() {
                prop_assert!(again.order.is_empty(), "{before:?} {again:?}");
                prop_assert!(again.want <= before.want);
            }
        }
    }

    #[test]
    fn more_demand_never_wants_fewer(
        moments in proptest::collection::vec(moment(), 1..30), last in moment(),
        arrived in 0..50u64, running in 0..30u64, more in 0..200u64, backfill in 0..10_000u64,
    ) {
        let mut world = world(12, 10_000, 0, false);
        for moment in &moments {
            live(&mut world, moment);
        }
        let mut less = World { memory: world.memory.clone(), seen: world.seen.clone(), policy: world.policy.clone(), left: Vec::new(), ..world };
        let mut most = World { memory: less.memory.clone(), seen: less.seen.clone(), policy: less.policy.clone(), left: Vec::new(), ..less };
        let extra = Moment {
            arrived: last.arrived + arrived,
            running: last.running + running,
            waiting: last.waiting + more,
            backfill: if last.serverless { last.backfill } else { last.backfill + backfill },
            ..last.clone()
        };
        let (less, most) = (live(&mut less, &last), live(&mut most, &extra));
        prop_assert!(less.want <= most.want, "{less:?} {most:?}");
    }

    #[test]
    fn a_successor_with_the_stored_memory_plans_the_same(moments in proptest::collection::vec(moment(), 1..30), last in moment()) {
        let mut world = world(12, 10_000, 0, true);
        for moment in &moments {
            live(&mut world, moment);
        }
        let text = serde_json::to_string(&world.memory).unwrap();
        let memory: Memory = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&memory, &world.memory);
        let mut successor = World { memory, seen: world.seen.clone(), policy: world.policy.clone(), left: Vec::new(), ..world };
        let before = live(&mut world, &last);
        prop_assert_eq!(live(&mut successor, &last), before);
    }

    /// Zero machines are no special case: with no machine and some work, as much more is wanted as with one machine that is full and
    /// the same work on top.
    #[test]
    fn the_first_machine_is_decided_on_like_any_other(seconds in 1..1_200u64, running in 0..8u64) {
        let price = Serverless { usd_per_second: usd("0.000306"), free_slots: 100 };
        let wants = [0u64, 1, 3].map(|full| {
            let mut world = World::new();
            world.seen.serverless = Some(price);
            for nth in 0..full {
                world.add(&format!("full-{nth}"), MachineState::Ready);
            }
            world.load().running = 4 * full + running;
            // So many arrive that flow alone would want all.
            for _ in 0..seconds {
                world.now = world.now + secs(1);
                world.load().normal += 100;
                plan(&world.seen, &world.policy, &mut world.memory, world.now);
            }
            let plan = plan(&world.seen, &world.policy, &mut world.memory, world.now);
            u64::from(plan.want).saturating_sub(full)
        });
        prop_assert!(wants.iter().all(|want| *want == wants[0]), "{wants:?}");
    }
}

#[test]
fn five_hundred_machines_are_planned_for() {
    let mut world = World::new();
    (world.policy.machines_max, world.policy.usd_per_hour_max) = (1_000, usd("10000"));
    world.policy.bounds = Bounds::between(0, 1_000);
    for nth in 0..500 {
        let state = if nth % 5 == 0 { MachineState::Starting } else { MachineState::Ready };
        world.add(&format!("m-{nth}"), state).place = format!("place-{}", nth % 7);
    }
    world.load().running = 1_900;
    let by = |hours: u64| Some(START + secs(hours * 3_600));
    world.load().waiting = (1..15).map(|hours| waiting(by(hours), 100_000)).collect();
    for _ in 0..100 {
        world.load().normal += 16_000;
        world.pass(secs(10));
    }
    assert!(world.seen.machines.len() >= 500);
}
