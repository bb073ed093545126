//! One worker's seats at machines that come, fail and go.

use schemas::{job::Input, prefix::Scope};

use super::{super::affinity::Reason, *};

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

fn ask(avoid: &[MachineId]) -> Ask<'_> {
    Ask { model: "m", prefix: None, avoid }
}

fn take(seats: &mut Seats, now: Duration) -> Option<Taken> {
    seats.take(ask(&[]), now)
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
        let job = seats.take(ask(&other), now).unwrap();
        assert!(job.at == at(0) || seats.take(ask(&other), now).is_none(), "one job at a time");
        seats.left(&job, Verdict::Fault(FailureClass::Connection), now);
        let until = seats.next_change(now).unwrap();
        assert_eq!(until.saturating_sub(now).as_millis(), pause);
        assert_eq!(seats.capacity(now).slots, 4);
        now = until;
    }
    assert_eq!(seats.capacity(now).slots, 5);
    let job = seats.take(ask(&other), now).unwrap();
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

/// The beginning of a long prompt.
fn prefix(seed: u32) -> Prefix {
    let scope = Scope { model: "m", adapter: None, tenant: None };
    Prefix::of(scope, &Input::Prompt(format!("{seed:>6}").repeat(400))).unwrap()
}

/// Takes a slot for a prompt and gives it back at once.
fn visit(seats: &mut Seats, prefix: &Prefix, now: Duration) -> (String, Prediction) {
    let taken = seats.take(Ask { prefix: Some(prefix), ..ask(&[]) }, now).unwrap();
    seats.left(&taken, Verdict::Good, now);
    (taken.machine.to_string(), taken.prediction)
}

#[test]
fn a_prompt_goes_where_its_beginning_is_until_the_machine_leaves_or_is_another() {
    let (mut seats, prompt) = (seats(), prefix(1));
    let (first, prediction) = visit(&mut seats, &prompt, at(0));
    assert_eq!((prediction.reason, prediction.cached), (Reason::Home, 0));
    for millis in 1..5 {
        let (machine, prediction) = visit(&mut seats, &prompt, at(millis));
        assert_eq!((machine.as_str(), prediction.reason), (first.as_str(), Reason::Holder));
        assert_eq!(prediction.tokens(600), 592, "37 whole blocks of 2,400 bytes");
    }
    let slots = if first == "a" { 2 } else { 4 };
    let ready = row(&first, slots, MachineState::Ready);
    let lost = |seats: &mut Seats, row: Machine| {
        let machine = row.machine.to_string();
        seats.row(row, at(10));
        seats.row(
            Machine { address: Some("http://new".into()), ..self::row(&machine, slots, MachineState::Ready) },
            at(11),
        );
        visit(seats, &prompt, at(12)).1.cached == 0
    };
    assert!(lost(&mut seats, ready.clone()), "at another address");
    assert!(
        !lost(&mut seats, Machine { address: Some("http://new".into()), ..ready.clone() }),
        "nothing changed"
    );
    assert!(lost(&mut seats, Machine { state: MachineState::Draining, ..ready.clone() }), "it had left");
    assert!(lost(&mut seats, Machine { provider_id: Some("i-2".into()), ..ready }), "another one");
    let read = |tokens| ServerLoad { tokens_in: Some(tokens), ..ServerLoad::default() };
    for (tokens, cached) in [(5, 2_368), (9, 2_368), (2, 0), (3, 2_368)] {
        seats.told(&first.parse().unwrap(), Some(&read(tokens)));
        assert_eq!(visit(&mut seats, &prompt, at(13)).1.cached, cached, "a counter that ran backwards");
    }
}

#[test]
fn a_machine_that_is_spared_drains_or_failed_the_job_is_not_chosen_for_what_it_has() {
    let (mut seats, prompt) = (seats(), prefix(1));
    let (first, _) = visit(&mut seats, &prompt, at(0));
    let avoid = [first.parse().unwrap()];
    let other = seats.take(Ask { prefix: Some(&prompt), ..ask(&avoid) }, at(1)).unwrap();
    assert_ne!(other.machine.as_str(), first);
    let job = seats
        .take(Ask { prefix: Some(&prompt), ..ask(std::slice::from_ref(&other.machine)) }, at(2))
        .unwrap();
    seats.left(&job, Verdict::Fault(FailureClass::Connection), at(3));
    assert_ne!(visit(&mut seats, &prompt, at(4)).0, first, "spared");
    let slots = if first == "a" { 2 } else { 4 };
    seats.row(row(&first, slots, MachineState::Draining), at(5_000));
    assert_ne!(visit(&mut seats, &prompt, at(5_001)).0, first, "drains");
}

#[test]
fn a_long_queue_at_the_server_outweighs_what_it_has() {
    let (mut seats, prompt) = (seats(), prefix(1));
    let (first, _) = visit(&mut seats, &prompt, at(0));
    let load = ServerLoad { waiting: Some(9), ..ServerLoad::default() };
    seats.told(&first.parse().unwrap(), Some(&load));
    assert_ne!(visit(&mut seats, &prompt, at(1)).0, first);
}

#[test]
fn a_cache_that_is_not_there_is_forgotten_and_unknown_is_not_zero() {
    let (mut seats, prompt) = (seats(), prefix(1));
    let (first, _) = visit(&mut seats, &prompt, at(0));
    let done =
        |cached| Done { took: Duration::from_secs(1), prompt: 600, cached, written: 9, ..Done::default() };
    let look = |seats: &mut Seats, cached| {
        // Long enough after the last hand-over that it must have been computed.
        let taken = seats.take(Ask { prefix: Some(&prompt), ..ask(&[]) }, at(10_000)).unwrap();
        seats.left(&taken, Verdict::Good, at(10_000));
        assert_eq!(taken.machine.as_str(), first);
        seats.learn(&taken, &done(cached))
    };
    for cached in [None, None, None, None, Some(600)] {
        assert!(!look(&mut seats, cached).flushed);
    }
}

#[test]
fn the_fullest_machine_is_told_against_the_mean() {
    let mut seats = seats();
    assert_eq!(seats.fullest(), None);
    take(&mut seats, at(0)).unwrap();
    assert_eq!(seats.fullest(), Some(3.0), "half of its slots, where a sixth of all is taken");
}
