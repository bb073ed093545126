use std::{collections::BTreeSet, time::Duration};

use proptest::prelude::*;
use schemas::{UsdNanos, machine::MachineState as S};

use super::*;
use crate::{
    landlord::{Billed, Notes, Phase},
    row::Specs,
};

const T0: Micros = Micros::new(1_795_000_000_000_000);
const HOURLY: UsdNanos = UsdNanos::new(1_290_000_000);

fn rules() -> Rules {
    Rules {
        provider: "test",
        list_every: Duration::from_secs(10),
        looks: 3,
        looks_span: Duration::from_secs(60),
        start_within: Duration::from_secs(600),
        broken_for: Duration::from_secs(120),
        billed: Billed::FromUp,
        unit: Duration::ZERO,
        parking: Parking::Offered,
    }
}

fn specs() -> Specs {
    Specs {
        machine: "0192f3a4".parse().unwrap(),
        pool: "lambda@us-east".parse().unwrap(),
        landlord: "lambda".into(),
        sku: "gpu_1x_a10".into(),
        place: "us-east-1".into(),
        slots: 4,
        usd_per_hour: HOURLY,
        usd_per_hour_max: HOURLY,
        parked_usd_per_hour: UsdNanos::new(1_000),
        job_usd_per_hour: None,
    }
}

/// A machine whose story is told event by event.
struct Story {
    row: Row,
    rules: Rules,
    now: Micros,
}

impl Story {
    fn new() -> Self {
        Self { row: Row::wanted(specs(), Duration::ZERO, "jobs wait".into(), T0), rules: rules(), now: T0 }
    }

    fn after(&mut self, seconds: u64) -> &mut Self {
        self.now = self.now + Duration::from_secs(seconds);
        self
    }

    fn on(&mut self, event: Event) -> Vec<Effect> {
        let site = Site { rules: self.rules, drain_limit: Duration::from_secs(300), now: self.now };
        apply(&mut self.row, event, &site)
    }

    fn see(&mut self, id: &str, phase: Phase) -> Vec<Effect> {
        self.on(Event::Seen(Box::new(sighting(id, phase))))
    }

    fn state(&self) -> S {
        self.row.life.state()
    }

    /// Ordered, answered with id `i-1`.
    fn starting() -> Self {
        let mut story = Self::new();
        assert_eq!(story.on(Event::Tick), [Effect::Order]);
        assert_eq!(story.on(answered("i-1")), []);
        story
    }

    fn ready() -> Self {
        let mut story = Self::starting();
        story.after(200).see("i-1", up());
        assert_eq!(story.on(Event::Tick), [Effect::Probe("http://m".into())]);
        assert_eq!(story.on(Event::Probed(Ok(()))), []);
        assert_eq!(story.state(), S::Ready);
        story
    }

    fn stopping() -> Self {
        let mut story = Self::ready();
        assert_eq!(story.on(unwanted()), [Effect::Cordon]);
        assert_eq!(story.on(Event::Drained), [Effect::End]);
        story
    }
}

fn answered(id: &str) -> Event {
    Event::Answered(Ok(Ordered { id: id.into(), notes: Notes::new() }))
}

fn unwanted() -> Event {
    Event::Unwanted { because: "nothing waits".into(), park: false }
}

fn up() -> Phase {
    Phase::Up("http://m".into())
}

fn sighting(id: &str, phase: Phase) -> Sighting {
    Sighting::bare(specs().machine, specs().pool, id.into(), phase)
}

fn unclear() -> CallError {
    CallError::Unclear("status 500".into())
}

fn not_yet() -> Event {
    Event::Probed(Err(ProbeError::NotYet("refused".into())))
}

fn useless() -> Event {
    Event::Probed(Err(ProbeError::Useless("CUDA error 802".into())))
}

#[test]
fn a_machine_lives_from_wanted_to_gone() {
    let mut story = Story::ready();
    assert_eq!(story.row.machine().address.as_deref(), Some("http://m"));
    story.after(3_600);
    assert_eq!(story.on(unwanted()), [Effect::Cordon]);
    assert_eq!((story.state(), story.row.life.address()), (S::Draining, Some("http://m")));
    assert_eq!(story.on(Event::Drained), [Effect::End]);
    assert_eq!(story.on(Event::Ended(Ok(Ending::Accepted))), []);
    story.after(10).on(Event::NotSeen);
    assert_eq!(story.state(), S::Stopping, "one list is not enough");
    story.after(10).on(Event::NotSeen);
    assert_eq!(story.state(), S::Gone);
    // From the first sighting in which it was up, to the accepted end.
    assert_eq!(story.row.meter.cost(story.now), HOURLY);
}

#[test]
fn failure_1_a_limited_list_after_a_launch_changes_nothing() {
    let mut story = Story::starting();
    // A list that failed is no event at all. The next whole list within the lag is no observation either.
    story.after(20).on(Event::NotSeen);
    assert_eq!((story.state(), story.row.id.as_deref()), (S::Starting, Some("i-1")));
    story.see("i-1", up());
    assert_eq!(story.on(Event::Tick), [Effect::Probe("http://m".into())]);
}

#[test]
fn failure_2_an_order_whose_answer_was_lost_in_a_crash_is_found_and_not_repeated() {
    let mut story = Story::new();
    story.on(Event::Tick);
    story.on(Event::TakenOver);
    story.after(1).on(Event::NotSeen);
    assert_eq!(story.on(Event::Tick), [], "it is not ordered again");
    story.after(4).see("i-7", Phase::Starting);
    assert_eq!((story.state(), story.row.id.as_deref()), (S::Starting, Some("i-7")));
}

#[test]
fn failure_3_an_order_that_failed_although_the_machine_exists_is_adopted() {
    let mut story = Story::new();
    story.on(Event::Tick);
    assert_eq!(story.on(Event::Answered(Err(unclear()))), []);
    assert_eq!(story.state(), S::Ordered);
    story.after(10).see("i-1", up());
    assert_eq!(story.state(), S::Probing);
    assert!(story.row.meter.is_running());
}

#[test]
fn an_unknown_order_is_repeated_only_after_enough_lists_over_enough_time() {
    let mut story = Story::new();
    story.on(Event::Tick);
    story.on(Event::Answered(Err(unclear())));
    for _ in 0..5 {
        story.after(10).on(Event::NotSeen);
        assert_eq!(story.state(), S::Ordered);
    }
    story.after(20).on(Event::NotSeen);
    assert_eq!(story.state(), S::Wanted);
    assert_eq!(story.on(Event::Tick), [Effect::Order]);
}

#[test]
fn failure_5_an_ending_call_that_fails_is_repeated_with_an_alarm() {
    let mut story = Story::starting();
    let effects = story.after(601).on(Event::Tick);
    assert_eq!(effects[0], Effect::End);
    assert!(matches!(effects[1], Effect::Cool(_)));
    let mut alarms = 0;
    for _ in 0..3 {
        let effects = story.on(Event::Ended(Err(unclear())));
        alarms += effects.iter().filter(|effect| matches!(effect, Effect::Alarm(_))).count();
        assert_eq!(story.state(), S::Stopping);
        assert!(story.state().counts());
        assert_eq!(story.after(61).on(Event::Tick), [Effect::End]);
    }
    assert_eq!(alarms, 1);
}

#[test]
fn failure_6_a_machine_that_is_being_ended_is_never_gone_without_an_observation() {
    let mut story = Story::stopping();
    for _ in 0..50 {
        story.on(Event::Ended(Err(CallError::Unreachable("no route".into()))));
        story.after(61).on(Event::Tick);
        assert_eq!(story.state(), S::Stopping);
    }
    story.on(Event::Ended(Ok(Ending::Gone)));
    assert_eq!(story.state(), S::Gone);
}

#[test]
fn failure_7_an_order_that_is_not_wanted_any_more_is_ended_once_its_id_is_known() {
    let mut story = Story::new();
    story.on(Event::Tick);
    assert_eq!(story.on(unwanted()), []);
    assert_eq!(story.on(answered("i-1")), [Effect::End]);
    assert_eq!(story.state(), S::Stopping);
    let mut unsure = Story::new();
    unsure.on(Event::Tick);
    unsure.on(Event::Answered(Err(unclear())));
    unsure.on(unwanted());
    assert_eq!(unsure.after(9).see("i-1", up()), [Effect::End]);
    let mut never = Story::new();
    never.on(Event::Tick);
    never.on(unwanted());
    never.on(Event::Answered(Err(CallError::Unreachable("refused".into()))));
    assert_eq!(never.after(2).on(Event::Tick), []);
    assert_eq!(never.state(), S::Gone);
}

#[test]
fn failure_8_another_machine_at_the_same_address_makes_this_one_lost() {
    let mut story = Story::ready();
    story.after(61).on(Event::Tick);
    let effects = story.on(Event::Probed(Err(ProbeError::Foreign("401".into()))));
    assert!(matches!(effects[..], [Effect::Alarm(_)]));
    assert_eq!(story.state(), S::Lost);
}

#[test]
fn failure_9_a_repeated_end_that_the_list_agrees_with_is_done() {
    let mut story = Story::stopping();
    story.on(Event::Ended(Ok(Ending::Accepted)));
    story.after(5).see("i-1", Phase::Ending);
    story.after(61);
    assert_eq!(story.on(Event::Tick), [Effect::End]);
    // `global/unknown`.
    story.on(Event::Ended(Err(unclear())));
    story.after(10).on(Event::NotSeen);
    story.after(10).on(Event::NotSeen);
    assert_eq!(story.state(), S::Gone);
}

#[test]
fn failure_10_a_machine_that_is_healthy_and_gives_no_completion_is_ended_and_its_place_cools() {
    let mut story = Story::starting();
    story.after(200).see("i-1", up());
    let mut effects = Vec::new();
    for _ in 0..USELESS_AFTER {
        assert_eq!(story.after(6).on(Event::Tick), [Effect::Probe("http://m".into())]);
        effects = story.on(useless());
    }
    assert!(matches!(effects[..], [Effect::End, Effect::Cool(_), Effect::Alarm(_)]), "{effects:?}");
    assert!(story.row.ready_us.is_none(), "it was never ready");
}

#[test]
fn failure_11_a_slow_boot_within_its_budget_is_one_order() {
    let mut story = Story::new();
    story.rules.start_within = Duration::from_secs(1_800);
    story.on(Event::Tick);
    story.on(answered("i-1"));
    for _ in 0..150 {
        assert_eq!(story.after(10).see("i-1", Phase::Starting), []);
        assert_eq!(story.on(Event::Tick), []);
    }
    assert_eq!(story.state(), S::Starting);
    assert_eq!(story.row.meter.cost(story.now), UsdNanos::ZERO, "booting is free here");
}

#[test]
fn failure_18_a_drain_whose_host_does_not_answer_keeps_its_limit() {
    let mut story = Story::ready();
    assert_eq!(story.on(unwanted()), [Effect::Cordon]);
    assert_eq!(story.after(299).on(Event::Tick), []);
    assert_eq!(story.after(1).on(Event::Tick), [Effect::End]);
    let mut broken = Story::ready();
    broken.on(unwanted());
    assert_eq!(broken.see("i-1", Phase::Broken("host unreachable".into())), [Effect::End]);
}

#[test]
fn failure_21_a_machine_that_somebody_suspended_is_lost_with_an_alarm_then_ended() {
    let mut story = Story::ready();
    let effects = story.after(30).see("i-1", Phase::Parked);
    assert!(matches!(effects[..], [Effect::Alarm(_)]));
    assert_eq!(story.state(), S::Lost);
    let effects = story.after(121).on(Event::Tick);
    assert!(matches!(effects[..], [Effect::End, Effect::Alarm(_)]), "{effects:?}");
}

#[test]
fn two_machines_of_one_order_are_told_apart() {
    let mut story = Story::new();
    story.on(Event::Tick);
    story.see("i-1", Phase::Starting);
    assert_eq!(story.on(answered("i-2")), [Effect::Duplicate("i-2".into())]);
    assert_eq!(story.row.id.as_deref(), Some("i-1"));
}

#[test]
fn a_machine_that_vanishes_is_lost_then_ended_and_paid_to_its_last_sighting() {
    let mut story = Story::ready();
    story.after(60).see("i-1", up());
    story.after(10).on(Event::NotSeen);
    assert_eq!(story.state(), S::Lost);
    story.after(30).on(Event::NotSeen);
    assert_eq!(story.state(), S::Lost);
    let effects = story.after(40).on(Event::NotSeen);
    assert_eq!(effects[0], Effect::End);
    assert_eq!(story.row.meter.billed(story.now), Duration::from_secs(60));
    // It comes back: the meter runs again.
    let mut back = Story::ready();
    back.after(10).on(Event::NotSeen);
    back.after(10).see("i-1", up());
    assert_eq!(back.state(), S::Probing);
}

#[test]
fn a_machine_is_parked_and_woken() {
    let mut story = Story::ready();
    story.on(Event::Unwanted { because: "quiet".into(), park: true });
    assert_eq!(story.on(Event::Drained), [Effect::Park]);
    story.on(Event::ParkAnswered(Ok(())));
    story.after(5).see("i-1", Phase::Parked);
    assert_eq!(story.state(), S::Parked);
    assert!(!story.state().counts());
    story.after(3_600);
    let parked = story.row.meter.cost(story.now);
    assert_eq!(story.on(Event::Wake("jobs wait".into())), [Effect::Wake]);
    story.on(Event::Woken(Ok(())));
    story.after(1).see("i-1", Phase::Parked);
    assert_eq!(story.state(), S::Starting, "the list lags");
    story.after(1).see("i-1", up());
    assert_eq!(story.state(), S::Probing);
    assert!(story.row.meter.cost(story.now) >= parked);
}

#[test]
fn a_machine_whose_tokens_stop_is_left_although_it_says_that_it_is_well() {
    let mut story = Story::ready();
    story.after(5).on(Event::Suspect("five failures in a row".into()));
    let mut effects = Vec::new();
    for _ in 0..SICK_AFTER {
        assert_eq!(story.after(6).on(Event::Tick), [Effect::Probe("http://m".into())]);
        effects = story.on(useless());
    }
    assert!(matches!(effects[..], [Effect::Cordon, Effect::Alarm(_)]), "{effects:?}");
    assert_eq!(story.state(), S::Draining);
}

#[test]
fn a_refused_order_ends_where_nothing_can_come_of_it_and_waits_where_it_can() {
    let refuse = |error| {
        let mut story = Story::new();
        story.on(Event::Tick);
        let effects = story.on(Event::Answered(Err(error)));
        (story, effects)
    };
    let (story, effects) = refuse(CallError::Capacity("none".into()));
    assert!(matches!((story.state(), &effects[..]), (S::Gone, [Effect::Cool(_)])));
    let (story, effects) = refuse(CallError::Authentication("401".into()));
    assert!(matches!((story.state(), &effects[..]), (S::Gone, [Effect::Close(_)])));
    let (mut story, _) = refuse(CallError::RateLimited("429".into(), Some(Duration::from_secs(12))));
    assert_eq!(story.after(11).on(Event::Tick), []);
    assert_eq!(story.after(1).on(Event::Tick), [Effect::Order]);
}

#[test]
fn an_order_that_was_made_in_part_is_ended() {
    let mut story = Story::new();
    story.on(Event::Tick);
    story.on(Event::Identified("svc-1".into()));
    let effects = story.on(Event::Answered(Err(CallError::Misconfigured("no such region".into()))));
    assert!(matches!(effects[..], [Effect::End, Effect::Close(_)]));
}

#[test]
fn a_row_reads_as_it_was_written_and_says_to_everyone_what_it_is() {
    let mut story = Story::ready();
    story.on(unwanted());
    let bytes = story.row.encode();
    assert_eq!(Row::decode(&bytes).unwrap(), story.row);
    let public: schemas::machine::Machine = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(public, story.row.machine());
}

#[test]
fn a_machine_that_only_goes_on_serving_is_no_news_to_its_row() {
    let mut story = Story::ready();
    let stored = story.row.clone();
    for _ in 0..5 {
        story.after(10).see("i-1", up());
    }
    assert_eq!(story.after(9).on(Event::Tick), [], "not due yet");
    assert_eq!(story.after(1).on(Event::Tick), [Effect::Probe("http://m".into())]);
    story.on(Event::Probed(Ok(())));
    assert_ne!(story.row, stored);
    let only_probed = Row { seen_us: stored.seen_us, ..story.row.clone() };
    assert!(!only_probed.is_news_to(&stored), "lists and probes that find it well are not stored");
    assert!(
        story.after(10).see("i-1", up()).is_empty() && story.row.is_news_to(&stored),
        "but once a minute"
    );
    let stored = story.row.clone();
    story.on(Event::Probed(Err(ProbeError::NotYet("refused".into()))));
    assert!(story.row.is_news_to(&stored), "a probe that failed counts towards leaving it");
}

fn any_phase() -> impl Strategy<Value = Phase> {
    prop_oneof![
        Just(Phase::Starting),
        Just(up()),
        Just(Phase::Up("http://other".into())),
        Just(Phase::Parked),
        Just(Phase::Ending),
        Just(Phase::Gone),
        Just(Phase::Broken("unhealthy".into())),
        Just(Phase::Unknown("odd".into())),
    ]
}

fn any_error() -> impl Strategy<Value = CallError> {
    prop_oneof![
        Just(CallError::RateLimited("x".into(), Some(Duration::from_secs(3)))),
        Just(CallError::Capacity("x".into())),
        Just(CallError::Authentication("x".into())),
        Just(CallError::Misconfigured("x".into())),
        Just(CallError::Unreachable("x".into())),
        Just(unclear()),
    ]
}

fn any_event() -> impl Strategy<Value = Event> {
    let probe = prop_oneof![
        Just(Event::Probed(Ok(()))),
        Just(not_yet()),
        Just(useless()),
        Just(Event::Probed(Err(ProbeError::Foreign("401".into())))),
    ];
    prop_oneof![
        1 => Just(Event::TakenOver),
        4 => Just(Event::Tick),
        2 => Just(answered("i-1")),
        1 => Just(answered("i-2")),
        1 => any_error().prop_map(|error| Event::Answered(Err(error))),
        4 => any_phase().prop_map(|phase| Event::Seen(Box::new(sighting("i-1", phase)))),
        3 => Just(Event::NotSeen),
        4 => probe,
        1 => Just(Event::Suspect("x".into())),
        1 => any::<bool>().prop_map(|park| Event::Unwanted { because: "x".into(), park }),
        2 => Just(Event::Drained),
        1 => Just(Event::Wake("x".into())),
        1 => any_error().prop_map(|error| Event::Woken(Err(error))),
        1 => prop_oneof![Just(Ending::Accepted), Just(Ending::Gone), Just(Ending::NotNow)]
            .prop_map(|ending| Event::Ended(Ok(ending))),
        1 => any_error().prop_map(|error| Event::Ended(Err(error))),
        1 => any_error().prop_map(|error| Event::ParkAnswered(Err(error))),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    /// The rules of the module's head, whatever happens in whatever order.
    #[test]
    fn the_rules_hold_for_any_order_of_events(events in prop::collection::vec((any_event(), 0_u64..90), 1..60)) {
        let mut story = Story::new();
        let mut told = UsdNanos::ZERO;
        for (event, seconds) in events {
            let (before, final_word, seen) = (story.state(), is_final_word(&event), matches!(event, Event::Seen(_)));
            story.after(seconds);
            let effects = story.on(event.clone());
            let after = story.state();
            if matches!(before, S::Draining | S::Stopping) {
                prop_assert!(after != S::Ready, "{event:?} leads from {before:?} to ready");
            }
            if before == S::Lost {
                prop_assert!(
                    matches!(after, S::Lost | S::Probing | S::Stopping) || final_word,
                    "{event:?} leads from lost to {after:?}"
                );
            }
            if after == S::Gone && before != S::Gone && !final_word {
                prop_assert!(
                    matches!(before, S::Wanted | S::Ordered) || (before == S::Stopping && event == Event::NotSeen),
                    "{event:?} leads from {before:?} to gone"
                );
            }
            if effects.contains(&Effect::Order) {
                prop_assert_eq!((before, after), (S::Wanted, S::Ordered));
            }
            let calls = effects.iter().filter(|e| matches!(e, Effect::Order | Effect::End | Effect::Park | Effect::Wake));
            prop_assert!(calls.count() <= 1, "two calls at once: {effects:?}");
            prop_assert!(after != S::Gone || !story.row.meter.is_running(), "what is gone costs nothing more");
            let cost = story.row.meter.cost(story.now);
            prop_assert!(cost >= told || seen || event == Event::NotSeen, "the cost fell: {event:?}");
            told = cost;
            prop_assert_eq!(Row::decode(&story.row.encode()).unwrap(), story.row.clone());
        }
    }
}

fn is_final_word(event: &Event) -> bool {
    matches!(event, Event::Ended(Ok(Ending::Gone)))
        || matches!(event, Event::Seen(sighting) if sighting.phase == Phase::Gone)
}

#[test]
fn every_state_but_those_that_only_news_can_move_has_a_time() {
    let mut seen = BTreeSet::new();
    for story in [Story::new(), Story::starting(), Story::ready(), Story::stopping()] {
        assert!(due_at(&story.row, &story.rules).is_some());
        seen.insert(story.state());
    }
    assert_eq!(seen.len(), 4);
}
