//! Failures that others reported, as tests by number and name.

use super::*;

#[test]
fn failure_01_knative_4344_forty_jobs_at_zero_order_what_is_needed_and_not_one_each() {
    let mut world = World::new();
    world.boot = secs(600);
    world.policy.boot = (secs(600), secs(700));
    world.look();
    world.load().waiting = vec![waiting(None, 40)];
    world.load().normal = 40;
    world.run(secs(590));
    assert_eq!((world.ordered, world.count(MachineState::Ordered)), (1, 1));
    // With deadlines: 40 jobs are no work for one machine.
    let mut world = World::new();
    let by = world.now + secs(1_800);
    world.load().waiting = vec![waiting(Some(by), 40)];
    world.load().normal = 40;
    world.run(secs(170));
    assert_eq!(world.ordered, 1);
}

#[test]
fn failure_02_ray_61731_two_wanted_none_ready_a_hundred_looks_order_two() {
    let mut world = World::new();
    world.policy.bounds = Bounds::between(2, 8);
    world.boot = secs(100_000);
    world.policy.boot = (secs(100_000), secs(100_000));
    for _ in 0..100 {
        let plan = world.pass(secs(10));
        assert_eq!(plan.want, 2);
    }
    assert_eq!((world.ordered, world.left.len()), (2, 0));
}

#[test]
fn failure_03_ray_18925_under_steady_load_none_is_ended_and_ordered_again_in_an_hour() {
    for serverless in [None, Some(Serverless { usd_per_second: usd("0.000306"), free_slots: 100 })] {
        let mut world = World::new();
        world.seen.serverless = serverless;
        // 8 jobs a second are 9.3 slots: three machines.
        let mut chance = 7u64;
        let mut settled = None;
        for second in 0..3_600 * 4 {
            world.now = world.now + secs(1);
            world.load().normal += 8;
            let works = world.count(MachineState::Ready) as u64 * 4;
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let jobs = 6 + (chance >> 33) % 7;
            world.load().running = if serverless.is_some() { jobs } else { jobs.min(works) };
            let queue = jobs - world.seen.load.as_ref().unwrap().running;
            world.load().waiting = if queue > 0 { vec![waiting(None, queue)] } else { Vec::new() };
            if second % 10 == 0 {
                world.pass(Duration::ZERO);
            }
            if second == 3_600 * 3 {
                settled = Some((world.ordered, world.left.len()));
            }
        }
        assert_eq!(settled, Some((world.ordered, world.left.len())), "{:?}", world.left);
        assert!((3..=4).contains(&world.count(MachineState::Ready)), "{}", world.count(MachineState::Ready));
    }
}

#[test]
fn failure_04_ray_61551_the_last_word_of_a_dead_worker_is_not_believed_for_ever() {
    let mut world = World::new();
    world.add("a", MachineState::Ready).running = Some((4, START));
    world.load().running = 4;
    world.look();
    // The peak is over; nobody reports for the machine any more.
    world.load().running = 0;
    world.run(secs(900));
    assert_eq!(world.left[0].how, How::Drain);
    world.run(world.policy.drain_limit + secs(20));
    assert_eq!(world.left.last().unwrap().why, LeaveWhy::DrainLimit);
    assert!(world.seen.machines.iter().all(|machine| !machine.is_serving()));
}

#[test]
fn failure_05_dstack_3825_one_long_stream_and_an_empty_queue_are_not_idle() {
    let mut world = World::new();
    world.policy.boot = (secs(10), secs(20));
    world.add("a", MachineState::Ready);
    world.load().running = 1;
    for _ in 0..120 {
        world.report(1);
        world.pass(secs(10));
    }
    assert!(world.left.is_empty(), "{:?}", world.left);
    // Also where only the machine itself says so.
    world.load().running = 0;
    for _ in 0..12 {
        world.report(1);
        world.pass(secs(10));
    }
    assert!(world.left.is_empty(), "{:?}", world.left);
}

#[test]
fn failure_06_dstack_3824_after_fourteen_busy_minutes_one_quiet_one_is_not_fifteen() {
    let mut world = World::new();
    world.policy.boot = (secs(10), secs(20));
    world.policy.down_after = secs(900);
    world.add("a", MachineState::Ready);
    for _ in 0..3 {
        world.load().running = 4;
        world.run(secs(14 * 60));
        world.load().running = 0;
        world.run(secs(60));
    }
    world.run(secs(13 * 60));
    assert!(world.left.is_empty(), "fourteen quiet minutes: {:?}", world.left);
    world.run(secs(3 * 60));
    assert_eq!(world.left.len(), 1);
}

#[test]
fn failure_07_dstack_2656_a_busy_machine_is_drained_and_not_killed_before_the_limit() {
    let mut world = World::new();
    world.add("a", MachineState::Ready);
    world.add("b", MachineState::Ready);
    world.load().running = 8;
    world.report(4);
    world.seen.wish = Wish::Scale(1);
    world.look();
    assert_eq!(world.left.iter().map(|leave| leave.how).collect::<Vec<_>>(), [How::Drain]);
    for _ in 0..59 {
        world.report(1);
        world.pass(secs(10));
    }
    assert_eq!((world.left.len(), world.count(MachineState::Draining)), (1, 1));
    world.report(1);
    world.pass(secs(10));
    assert_eq!(world.left[1].why, LeaveWhy::DrainLimit);
    assert_eq!(world.count(MachineState::Ready), 1);
}

#[test]
fn failure_08_sie_293_idle_counts_from_ready_also_when_a_start_takes_longer_than_the_idle_rule() {
    let mut world = World::new();
    world.boot = secs(600);
    world.policy.boot = (secs(30), secs(60));
    world.load().waiting = vec![waiting(None, 1)];
    world.load().normal = 1;
    world.run(secs(590));
    assert_eq!((world.ordered, world.left.len()), (1, 0), "{:?}", world.left);
    // Its job is done at once.
    world.load().waiting.clear();
    world.run(secs(60));
    assert_eq!((world.count(MachineState::Ready), world.left.len()), (1, 0));
    // It leaves in the end, and no second one was ordered.
    world.run(secs(3_600));
    assert_eq!((world.ordered, world.left[0].how), (1, How::Drain));
}

#[test]
fn failure_09_dstack_1979_when_the_next_order_finds_no_capacity_the_first_machine_serves_on() {
    let mut world = World::new();
    world.policy.bounds = Bounds::keep(2);
    world.add("a", MachineState::Ready);
    let mut orders = 0;
    for _ in 0..60 {
        let plan = world.pass(secs(10));
        for purchase in &plan.order {
            orders += 1;
            world.memory.starts.failed(&purchase.sku, &purchase.place, world.now);
        }
        // The provider said that nothing was made.
        world.seen.machines.retain(|machine| machine.state != MachineState::Ordered);
        assert!(plan.leave.is_empty());
        assert!(plan.order.len() == 1 || plan.reasons.iter().any(|r| matches!(r, Reason::Rest(_))));
    }
    // After 1, 2 and 4 minutes.
    assert_eq!((orders, world.count(MachineState::Ready)), (4, 1));
    // Another place is asked at once.
    world.seen.offers.push(offer("west", "1.50"));
    assert_eq!(world.pass(secs(10)).order[0].place, "west");
}

#[test]
fn failure_10_skypilot_3359_a_policy_that_now_begins_at_zero_ends_nobody_under_load() {
    let mut world = World::new();
    world.policy.bounds = Bounds::keep(1);
    world.run(secs(200));
    for bounds in [Bounds::keep(1), Bounds::between(0, 1)] {
        world.policy.bounds = bounds;
        for _ in 0..180 {
            world.load().normal += 20;
            world.load().running = 2;
            world.pass(secs(10));
        }
        assert_eq!((world.ordered, world.left.len()), (1, 0));
    }
    // At zero, one job orders.
    let mut world = World::new();
    world.policy.bounds = Bounds::between(0, 1);
    world.look();
    assert_eq!(world.ordered, 0);
    world.load().normal = 1;
    world.load().waiting = vec![waiting(None, 1)];
    assert_eq!(world.look().order.len(), 1, "and at once");
}

#[test]
fn failure_11_skypilot_3245_the_old_machine_leaves_after_the_first_completion_of_the_new_one() {
    let mut world = World::new();
    world.policy.bounds = Bounds::keep(1);
    world.add("old", MachineState::Ready).replace = true;
    let plan = world.look();
    assert_eq!((plan.order.len(), plan.leave.len()), (1, 0));
    world.run(secs(170));
    assert_eq!((world.ordered, world.left.len()), (1, 0));
    world.run(secs(20));
    let left: Vec<_> =
        world.left.iter().map(|leave| (leave.machine.as_str(), leave.how, leave.why)).collect();
    assert_eq!(left, [("old", How::Drain, LeaveWhy::Replaced)]);
    assert_eq!(world.count(MachineState::Ready), 1);
    // The same where nothing is kept and work goes on.
    let mut world = World::new();
    for name in ["a", "b", "old"] {
        world.add(name, MachineState::Ready);
    }
    world.load().running = 12;
    world.look();
    world.seen.machines[2].replace = true;
    world.run(world.boot);
    assert_eq!((world.ordered, world.left.len()), (1, 0));
    world.run(secs(600));
    assert_eq!((world.ordered, world.count(MachineState::Ready)), (1, 3));
    assert_eq!(world.left[0].machine.as_str(), "old");
}

#[test]
fn failure_12_knative_3153_when_a_burst_is_over_machines_that_do_not_work_yet_leave_first() {
    let mut world = World::new();
    (world.policy.machines_max, world.policy.bounds) = (30, Bounds::between(0, 30));
    world.boot = secs(100_000);
    for name in ["a", "b", "c"] {
        world.add(name, MachineState::Ready);
    }
    for nth in 0..20 {
        world.add(&format!("o{nth}"), MachineState::Ordered);
    }
    world.load().running = 2;
    for _ in 0..120 {
        let unready = world.count(MachineState::Ordered);
        let plan = world.pass(secs(10));
        assert!(plan.leave.len() <= 1, "one a look");
        let drained = plan.leave.iter().any(|leave| leave.how == How::Drain);
        assert!(!drained || unready == 0, "{plan:?}");
    }
    assert_eq!((world.count(MachineState::Ordered), world.ordered), (0, 0));
}
