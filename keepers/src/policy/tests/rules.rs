//! What the policy does in plain situations, and what it says about it.

use super::*;

fn modal() -> Serverless {
    Serverless { usd_per_second: usd("0.000306"), free_slots: 100 }
}

#[test]
fn nothing_is_rented_where_serverless_pools_cost_less_and_it_is_said() {
    let mut world = World::new();
    world.seen.serverless = Some(modal());
    let mut last = Plan::default();
    for _ in 0..360 {
        // 0.8 jobs at a time: Modal costs $0.88 an hour for them, a machine $1.29.
        world.load().normal += 7;
        world.load().running = u64::from(!world.load().normal.is_multiple_of(5));
        last = world.pass(secs(10));
    }
    assert_eq!((world.ordered, last.want), (0, 0));
    let why = last.why();
    assert!(why.contains("no further machine is rented: it costs $1.29 an hour"), "{why}");
    assert!(why.contains("serverless"), "{why}");
}

#[test]
fn a_machine_is_rented_once_serverless_pools_have_cost_as_much_as_a_start_and_let_go_when_it_stands_idle() {
    let mut world = World::new();
    world.seen.serverless = Some(modal());
    let mut plan = Plan::default();
    // Four jobs at a time lose $3.12 an hour; a start of 3 minutes costs $0.0645, which is 75 seconds.
    for _ in 0..7 {
        world.load().normal += 35;
        world.load().running = 4;
        plan = world.pass(secs(10));
        assert_eq!(plan.order.len(), 0);
    }
    for _ in 0..3 {
        world.load().normal += 35;
        plan = world.pass(secs(10));
    }
    assert_eq!(world.ordered, 1, "{}", plan.why());
    assert!(
        plan.why().contains("renting beats serverless pools: $1.29 an hour against $4.41 an hour"),
        "{}",
        plan.why()
    );
    for _ in 0..60 {
        world.load().normal += 35;
        world.pass(secs(10));
    }
    assert_eq!((world.ordered, world.left.len()), (1, 0));
    world.load().running = 0;
    world.run(secs(900));
    assert_eq!(world.left[0].how, How::Drain);
}

#[test]
fn a_backfill_due_in_eight_hours_gets_the_fewest_machines_that_surely_do_it_and_early() {
    for serverless in [None, Some(modal())] {
        let mut world = World::new();
        (world.seen.serverless, world.policy.boot) = (serverless, (secs(600), secs(600)));
        let by = world.now + secs(8 * 3_600);
        world.load().backfill = vec![waiting(Some(by), 200_000)];
        let plan = world.look();
        assert_eq!((plan.want, plan.order.len()), (3, 3), "{}", plan.why());
        assert!(plan.why().contains("a backfill of 200000 jobs due by"), "{}", plan.why());
        assert!(!plan.reasons.iter().any(Reason::is_alarm));
    }
    // At RunPod's price for so small a job, paying by use would be cheaper.
    let mut world = World::new();
    world.seen.serverless = Some(Serverless { usd_per_second: usd("0.00001"), free_slots: 100 });
    world.load().backfill = vec![waiting(Some(START + secs(8 * 3_600)), 200_000)];
    assert_eq!(world.look().want, 0);
}

#[test]
fn a_backfill_is_no_arrival_and_one_without_a_deadline_uses_one_machine() {
    let mut world = World::new();
    world.load().backfill = vec![waiting(None, 1_000_000)];
    world.run(secs(600));
    assert_eq!((world.ordered, world.left.len()), (1, 0));
}

#[test]
fn what_cannot_be_done_in_time_is_an_alarm_at_once_and_a_cap_is_a_reason() {
    let mut world = World::new();
    world.policy.usd_per_hour_max = usd("2.60");
    world.load().waiting = vec![waiting(Some(world.now + secs(3_600)), 100_000)];
    let plan = world.look();
    assert_eq!(plan.order.len(), 2);
    assert!(plan.reasons.iter().any(Reason::is_alarm), "{plan:?}");
    let why = plan.why();
    assert!(why.contains("usd_per_hour_max allows no more: $2.58 of $2.60 an hour"), "{why}");
    assert!(why.starts_with("100000 jobs may be late"), "{why}");
    // An order may cost more than its quote only while the cap holds.
    let most: u64 = plan.order.iter().map(|purchase| purchase.usd_per_hour_max.get()).sum();
    assert_eq!(most, usd("2.60").get());
}

#[test]
fn the_cheapest_slot_is_ordered_and_what_cannot_be_had_comes_last() {
    let mut world = World::new();
    world.policy.bounds = Bounds::keep(1);
    let large = Offer { sku: "a100".into(), slots: 16, ..offer("east", "3.00") };
    let gone = Offer { sku: "h100".into(), slots: 64, available: Some(false), ..offer("east", "3.29") };
    world.seen.offers = vec![offer("east", "1.29"), large, gone];
    assert_eq!(world.look().order[0].sku, "a100");
}

#[test]
fn a_floor_of_a_window_is_ordered_ahead_and_leaves_with_it() {
    let mut world = World::new();
    let at = |text: &str| Micros::from(text.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    let window = Window::new("daily", "08:00", "09:00", "UTC", Bounds::keep(2)).unwrap();
    world.policy.windows = vec![window];
    world.now = at("2026-11-27T07:45:00Z");
    world.run(secs(4 * 60));
    assert_eq!(world.ordered, 0);
    world.run(secs(60));
    assert_eq!(world.ordered, 2, "ten minutes ahead");
    world.run(secs(10 * 60));
    assert_eq!(world.count(MachineState::Ready), 2);
    world.run(secs(59 * 60));
    assert!(world.left.is_empty());
    world.run(secs(20 * 60));
    assert_eq!(world.left.len(), 4, "drained by the drain limit, and ended: {:?}", world.left);
}

#[test]
fn time_that_is_paid_is_worked_through() {
    let mut world = World::new();
    (world.seen.unit, world.policy.boot) = (secs(3_600), (secs(60), secs(60)));
    let paid = world.now + secs(3_600);
    world.add("a", MachineState::Ready).paid_until = Some(paid);
    world.report(0);
    world.run(secs(3_540));
    assert!(world.left.is_empty(), "{:?}", world.left);
    let plan = world.pass(secs(10));
    assert!(plan.why().contains("is paid for") || !world.left.is_empty(), "{}", plan.why());
    world.run(secs(30));
    assert_eq!(world.left.len(), 1, "before the next hour begins");
    assert!(world.now < paid);
}

#[test]
fn a_parked_machine_is_woken_first_and_one_that_stays_parked_for_long_is_ended() {
    let mut world = World::new();
    (world.policy.park, world.seen.parks) = (true, true);
    world.add("parked", MachineState::Parked);
    world.load().waiting = vec![waiting(None, 1)];
    let plan = world.look();
    assert_eq!((plan.wake.len(), plan.order.len()), (1, 0));
    let mut world = World::new();
    (world.policy.park, world.seen.parks) = (true, true);
    world.add("parked", MachineState::Parked);
    // A cent an hour, and a start costs six cents and a half.
    world.run(secs(6 * 3_600));
    assert!(world.left.is_empty());
    world.run(secs(3_600));
    assert_eq!((world.left[0].how, world.left[0].why), (How::End, LeaveWhy::ParkedLong));
}

#[test]
fn an_operator_s_wish_is_done_at_once_within_the_caps() {
    let mut world = World::new();
    world.seen.wish = Wish::Scale(20);
    assert_eq!(world.look().order.len(), 8);
    world.run(secs(200));
    world.seen.wish = Wish::Scale(2);
    assert_eq!(world.look().leave.len(), 6);
    world.seen.wish = Wish::Drain;
    world.look();
    for _ in 0..200 {
        world.report(1);
        world.pass(secs(10));
    }
    assert_eq!(world.count(MachineState::Draining), 8, "whoever drains waits for every job");
    world.seen.wish = Wish::Stop;
    assert_eq!(world.pass(secs(10)).leave.len(), 8);
    let mut world = World::new();
    world.seen.wish = Wish::Start;
    assert_eq!(world.look().order.len(), 1);
}

#[test]
fn a_start_that_takes_too_long_is_given_up_and_tried_elsewhere() {
    let mut world = World::new();
    world.policy.bounds = Bounds::keep(1);
    world.seen.offers.push(offer("west", "1.50"));
    world.boot = secs(100_000);
    world.look();
    // Twice the 99th percentile, which is what the operator says for the 95th.
    world.run(secs(1_190));
    assert_eq!((world.ordered, world.left.len()), (1, 0));
    world.run(secs(20));
    assert_eq!(world.left[0].why, LeaveWhy::NeverStarted);
    assert_eq!((world.ordered, world.seen.machines.last().unwrap().place.as_str()), (2, "west"));
}

#[test]
fn while_no_dispatcher_speaks_everything_stays_for_a_minute_and_then_nothing_waits() {
    let mut world = World::new();
    world.policy.boot = (secs(10), secs(20));
    world.add("a", MachineState::Ready);
    world.load().running = 1;
    world.look();
    world.seen.load = None;
    world.run(secs(60));
    assert!(world.left.is_empty());
    world.run(secs(300));
    assert_eq!(world.left.len(), 1, "nobody pays for a machine that no dispatcher uses");
}

#[test]
fn slots_of_cheaper_pools_are_filled_first() {
    let mut world = World::new();
    world.seen.ahead_slots = 12;
    world.load().waiting = vec![waiting(None, 10)];
    world.load().running = 0;
    assert_eq!(world.look().want, 0);
}

#[test]
fn every_reason_is_a_sentence_of_its_own() {
    let at = START;
    let all = [
        Reason::Wish(Wish::Scale(1)),
        Reason::Floor(1),
        Reason::Ceiling(1, 2),
        Reason::Flow(3_600, 2),
        Reason::Due(5, at, 1),
        Reason::Waiting(5, 1),
        Reason::Backfill(5, None, 1),
        Reason::Kept(1),
        Reason::Lower(at),
        Reason::Paid(at),
        Reason::MachinesMax(3),
        Reason::DollarsMax(usd("1.2"), usd("2")),
        Reason::NoOffer,
        Reason::Rest(at),
        Reason::AtRisk(5, at),
        Reason::Replacing(2),
        Reason::Unheard(secs(9)),
        Reason::Nothing,
    ];
    for reason in &all {
        let text = reason.to_string();
        assert!(text.len() > 10 && !text.ends_with('.') && !text.contains("  "), "{text}");
    }
    assert_eq!(Reason::Floor(1).to_string(), "the configuration keeps 1 machine");
    assert_eq!(
        Reason::DollarsMax(usd("0.004"), usd("12")).to_string(),
        "usd_per_hour_max allows no more: $0.004 of $12.00 an hour are taken"
    );
}

#[test]
fn a_policy_that_contradicts_itself_is_refused_with_the_numbers() {
    let fine = World::new().policy;
    assert_eq!(fine.check(), Ok(()));
    let said = |policy: Policy| policy.check().unwrap_err().to_string();
    let upside_down = Policy { bounds: Bounds::between(3, 2), ..fine.clone() };
    assert_eq!(said(upside_down), "floor `3` must not be above ceiling `2`");
    assert!(said(Policy { bounds: Bounds::keep(9), ..fine.clone() }).contains("machines_max `8`"));
    assert!(said(Policy { usd_per_hour_max: UsdNanos::ZERO, ..fine }).contains("usd_per_hour_max"));
}

#[test]
fn after_whatever_was_before_silence_leads_to_zero_and_stays_there() {
    for serverless in [None, Some(modal())] {
        let mut world = World::new();
        world.seen.serverless = serverless;
        for _ in 0..6 {
            for _ in 0..90 {
                world.load().normal += 90;
                world.load().running = 10;
                world.pass(secs(10));
            }
            world.load().running = 0;
            world.run(secs(3_600));
        }
        assert!(world.ordered > 0);
        world.run(secs(3 * 3_600));
        assert!(world.seen.machines.is_empty(), "{:?}", world.seen.machines);
        let ordered = world.ordered;
        world.run(secs(24 * 3_600));
        assert_eq!(world.ordered, ordered);
    }
}
