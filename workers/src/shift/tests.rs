//! A worker's books, offer by offer.

use proptest::prelude::*;
use schemas::{UsdNanos, catalog};

use super::*;
use crate::adapters::load::ServerLoad;

const START: Duration = Duration::from_secs(1_000);
const WALL: Micros = Micros::new(1_795_000_000_000_000);

fn at(millis: u64) -> Now {
    let span = Duration::from_millis(millis);
    Now { wall: WALL + span, steady: START + span }
}

fn post(slots: u32) -> Post {
    Post {
        pool: "golem@us-east".parse().unwrap(),
        worker: "w1".parse().unwrap(),
        started: WALL,
        slots,
        models: vec![PoolModel {
            model: catalog::token_of("llama-3.2-1b").unwrap(),
            served_as: "llama".into(),
            sku: "standard".into(),
            size: 1,
            expected: Duration::from_millis(100),
        }],
        prices: Arc::new(
            PriceBook::from_toml("version = \"t\"\nas_of = \"2025-09-05\"\nsource = \"t\"\nprice = []")
                .unwrap(),
        ),
        price_name: "golem".parse().unwrap(),
        idle: Duration::ZERO,
        rented: false,
        detached: false,
    }
}

fn shift(slots: u32) -> Shift {
    Shift::new(post(slots), at(0))
}

fn handover(offer: u64, seq: u64) -> Handover {
    let lease = format!("$JS.ACK.JOBS_us-east.d-m-low.1.{seq}.40.1795000000000000000.3");
    let json = serde_json::json!({
        "offer": offer, "lease": lease, "leased_us": WALL, "accept_by_us": WALL + Duration::from_secs(60),
        "attempt": 1, "subject": "beacon.jobs.us-east.llama-3-2-1b.low.acme",
    });
    serde_json::from_value(json).unwrap()
}

fn accept(shift: &mut Shift, inbox: &str, offer: u64, now: Now) -> u64 {
    match shift.offer(&handover(offer, offer), inbox, now) {
        Decision::Accept(number) => number,
        other => panic!("{other:?}"),
    }
}

/// What the inbox is told now.
fn told(shift: &mut Shift, inbox: &str, now: Now) -> Vec<Acceptances> {
    let to = |message| match message {
        Message::Acceptances(to, body) if to == inbox => Some(*body),
        Message::Acceptances(..) | Message::Heartbeat(_) => None,
    };
    shift.tick(now).into_iter().filter_map(to).collect()
}

#[test]
fn a_job_is_never_queued_and_never_run_twice_at_once() {
    let mut shift = shift(2);
    accept(&mut shift, "d1", 1, at(0));
    assert_eq!(shift.offer(&handover(2, 1), "d1", at(0)), Decision::Refuse(RefusedBecause::Running));
    let number = accept(&mut shift, "d1", 3, at(0));
    assert_eq!(shift.offer(&handover(4, 4), "d1", at(0)), Decision::Refuse(RefusedBecause::Busy));
    shift.ended(number, None, at(1));
    accept(&mut shift, "d1", 5, at(1));
    let late = Now { wall: WALL + Duration::from_secs(61), ..at(2) };
    assert_eq!(shift.offer(&handover(6, 6), "d1", late), Decision::Late);
}

#[test]
fn requests_of_others_that_wait_at_the_server_take_slots_but_never_the_last() {
    let mut shift = shift(4);
    let load = |running, waiting| ServerLoad {
        running: Some(running),
        waiting: Some(waiting),
        ..ServerLoad::default()
    };
    let slots = |shift: &mut Shift, now| match shift.tick(now).pop() {
        Some(Message::Heartbeat(beat)) => Some(beat.slots),
        _ => None,
    };
    assert_eq!(slots(&mut shift, at(0)), Some(4));
    shift.load(Some(&load(16, 0)), at(1));
    assert_eq!(slots(&mut shift, at(1)), None, "others' work that runs takes nothing");
    shift.load(Some(&load(16, 3)), at(2));
    assert_eq!((slots(&mut shift, at(2)), shift.others()), (Some(1), 3));
    accept(&mut shift, "d1", 1, at(2));
    assert_eq!(shift.offer(&handover(2, 2), "d1", at(2)), Decision::Refuse(RefusedBecause::Busy));
    // A page that makes no sense.
    shift.load(Some(&load(1_000_000, 1_000_000)), at(3));
    assert_eq!(shift.heartbeat(at(3)).slots, 1);
    // What waits is ours.
    shift.load(Some(&load(0, 1)), at(4));
    assert_eq!(shift.heartbeat(at(4)).slots, 4);
    shift.load(Some(&load(16, 3)), at(5));
    shift.load(None, at(6));
    assert_eq!((shift.heartbeat(at(6)).slots, shift.others()), (4, 0), "unknown is no load");
    shift.resize(Capacity::default(), at(7));
    assert_eq!(shift.heartbeat(at(7)).slots, 0, "none is none");
}

#[test]
fn the_first_word_to_a_dispatcher_and_one_each_second_call_the_roll_and_the_last_ones_are_empty() {
    let mut shift = shift(8);
    let one = accept(&mut shift, "d1", 1, at(0));
    let news = told(&mut shift, "d1", at(2));
    assert_eq!((news.len(), &news[0].accepted, &news[0].open), (1, &vec![1], &Some(vec![1])));
    assert_eq!(news[0].started_us, WALL);
    let two = accept(&mut shift, "d1", 2, at(3));
    assert_eq!(told(&mut shift, "d1", at(5))[0].open, None, "only news");
    assert_eq!(told(&mut shift, "d1", at(1_002))[0].open, Some(vec![1, 2]));
    shift.ended(one, None, at(1_010));
    shift.ended(two, None, at(1_010));
    assert_eq!(told(&mut shift, "d1", at(1_012))[0].ended.len(), 2);
    for second in 2..7 {
        assert_eq!(told(&mut shift, "d1", at(second * 1_000 + 2))[0].open, Some(Vec::new()));
    }
    assert!(told(&mut shift, "d1", at(9_000)).is_empty(), "nothing of it runs");
}

#[test]
fn a_worker_with_little_to_do_tells_at_once_and_a_busy_one_collects() {
    let micros = |n| Now { steady: START + Duration::from_micros(n), ..at(0) };
    let mut shift = shift(1_000);
    // One job after the other.
    for n in 0..10 {
        let number = accept(&mut shift, "d1", n, micros(n * 400));
        assert!(!shift.all_told());
        assert_eq!(told(&mut shift, "d1", micros(n * 400 + 60))[0].accepted, [n]);
        assert!(shift.all_told());
        shift.ended(number, None, micros(n * 400 + 200));
        assert_eq!(told(&mut shift, "d1", micros(n * 400 + 260))[0].ended.len(), 1);
    }
    // Many at a time.
    let start = 10_000;
    let (mut messages, mut accepted) = (0, 0);
    for n in 0..10_000 {
        let now = start + n * 10;
        accept(&mut shift, "d1", 100 + n, micros(now));
        for news in told(&mut shift, "d1", micros(now)) {
            (messages, accepted) = (messages + 1, accepted + news.accepted.len());
        }
        if n % 2 == 1 || shift.running() > 900 {
            let oldest = shift.numbers().next().unwrap();
            shift.ended(oldest, None, micros(now));
        }
    }
    assert!(accepted > 9_700 && messages < 80, "{messages} messages for {accepted}");
}

#[test]
fn a_dispatcher_that_is_only_refused_hears_no_roll_call() {
    let mut shift = shift(0);
    shift.offer(&handover(1, 1), "d1", at(0));
    let news = told(&mut shift, "d1", at(2));
    assert_eq!((&news[0].refused, &news[0].open), (&vec![(1, RefusedBecause::Busy)], &None));
    assert!(told(&mut shift, "d1", at(2_000)).is_empty());
}

#[test]
fn ten_thousand_news_go_in_messages_that_fit() {
    let mut shift = shift(10_000);
    let numbers: Vec<u64> = (1..=10_000).map(|n| accept(&mut shift, "d1", n, at(0))).collect();
    for number in numbers {
        shift.ended(number, None, at(1));
    }
    let parts = told(&mut shift, "d1", at(3));
    assert_eq!(parts.iter().map(|part| part.accepted.len()).sum::<usize>(), 10_000);
    assert_eq!(parts.iter().map(|part| part.ended.len()).sum::<usize>(), 10_000);
    for part in &parts {
        let news = part.accepted.len() + part.refused.len() + part.ended.len();
        assert!(news <= 1_000 && serde_json::to_vec(part).unwrap().len() < 256 * 1024);
    }
}

#[test]
fn a_worker_that_is_resized_says_so_at_once_with_the_price_and_runs_on_with_what_it_has() {
    let mut shift = shift(0);
    shift.tick(at(0));
    let hour = UsdNanos::new(3_600_000_000);
    shift.resize(Capacity { slots: 2, hour_usd: hour }, at(10));
    let beat = |messages: Vec<Message>| {
        messages.into_iter().find_map(|message| match message {
            Message::Heartbeat(beat) => Some(*beat),
            Message::Acceptances(..) => None,
        })
    };
    let told = beat(shift.tick(at(10))).unwrap();
    assert_eq!((told.slots, told.models[0].second_usd), (2, UsdNanos::new(1_000_000)));
    assert_eq!(told.models[0].expected_cost_usd, UsdNanos::new(100_000), "100 ms of it");
    accept(&mut shift, "d1", 1, at(11));
    accept(&mut shift, "d1", 2, at(11));
    shift.resize(Capacity { slots: 1, hour_usd: hour }, at(12));
    assert_eq!(shift.offer(&handover(3, 3), "d1", at(12)), Decision::Refuse(RefusedBecause::Busy));
    assert_eq!(beat(shift.tick(at(20))).map(|beat| (beat.slots, beat.running)), Some((1, 2)));
    shift.resize(Capacity { slots: 1, hour_usd: hour }, at(21));
    assert!(beat(shift.tick(at(21))).is_none(), "nothing new");
}

#[test]
fn machines_are_told_of_once_a_second_however_many_heartbeats_there_are() {
    let mut shift = shift(100);
    let (mut beats, mut told) = (0, 0);
    for millis in 0..3_000 {
        if millis % 7 == 0 {
            let number = accept(&mut shift, "d1", millis + 1, at(millis));
            shift.ended(number, None, at(millis));
        }
        if shift.wants_loads(at(millis)) {
            shift.loads(Vec::new(), at(millis));
        }
        for message in shift.tick(at(millis)) {
            if let Message::Heartbeat(beat) = message {
                beats += 1;
                told += u32::from(beat.machines.is_some());
            }
        }
    }
    assert!(beats > 300 && told == 4, "{told} of {beats}");
}

#[test]
fn a_draining_worker_refuses_and_goes_on_speaking() {
    let mut shift = shift(8);
    let number = accept(&mut shift, "d1", 1, at(0));
    shift.tick(at(2));
    shift.drain(at(10));
    let beats = |messages: Vec<Message>| {
        messages.into_iter().filter(|m| matches!(m, Message::Heartbeat(beat) if beat.draining)).count()
    };
    assert_eq!(beats(shift.tick(at(10))), 1, "at once");
    assert_eq!(shift.offer(&handover(2, 2), "d1", at(11)), Decision::Refuse(RefusedBecause::Draining));
    assert_eq!(told(&mut shift, "d1", at(13))[0].refused.len(), 1);
    let stop = Order::Stop(OfferKey { accept: "d1".into(), offer: 1 });
    assert_eq!(shift.order(stop, at(14)), Meaning::Attempt(number, News::Stop));
    assert_eq!(beats(shift.tick(at(1_100))), 1, "each second");
    shift.ended(number, None, at(1_200));
    assert_eq!((told(&mut shift, "d1", at(1_202))[0].ended.len(), shift.is_done()), (1, true));
}

#[test]
fn an_attempt_that_vanished_is_told_as_lost_and_one_that_came_to_nothing_is_not() {
    let mut shift = shift(8);
    let [panicked, let_go] = [1, 2].map(|offer| accept(&mut shift, "d1", offer, at(0)));
    shift.ended(panicked, None, at(1));
    shift.ended(let_go, Some(Settled::NOTHING), at(1));
    let news = told(&mut shift, "d1", at(3));
    assert_eq!(news[0].ended.iter().map(|ended| ended.lost).collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_worker_that_stops_says_all_it_knows() {
    let mut shift = shift(8);
    accept(&mut shift, "d1", 1, at(0));
    shift.tick(at(2));
    let number = accept(&mut shift, "d1", 2, at(3));
    shift.ended(number, Some(Settled { cost: UsdNanos::new(7), ..Settled::NOTHING }), at(3));
    let last = shift.close(at(4));
    let Message::Acceptances(_, news) = &last[0] else { panic!("{last:?}") };
    assert_eq!((news.ended[0].cost_usd, &news.open), (UsdNanos::new(7), &Some(vec![1])));
    assert!(matches!(last.last(), Some(Message::Heartbeat(_))));
}

#[test]
fn heartbeats_follow_changes_but_not_faster_than_their_pace() {
    let mut shift = shift(100);
    let mut beats = 0;
    for millis in 0..1_000 {
        if millis < 500 {
            let number = accept(&mut shift, "d1", millis + 1, at(millis));
            shift.ended(number, None, at(millis));
        }
        beats += shift.tick(at(millis)).iter().filter(|m| matches!(m, Message::Heartbeat(_))).count();
    }
    assert!((50..=102).contains(&beats), "{beats} in a busy half second and a quiet one");
}

#[test]
fn orders_to_keep_warm_add_up_over_dispatchers_and_lapse() {
    let mut shift = shift(1);
    let model = catalog::token_of("llama-3.2-1b").unwrap();
    let warm = |from: &str, containers| Order::Warm {
        from: from.parse().unwrap(),
        model: model.clone(),
        containers,
    };
    assert_eq!(shift.order(warm("d1", 2), at(0)), Meaning::Warm("llama".into(), 2));
    assert_eq!(shift.order(warm("d2", 3), at(10)), Meaning::Warm("llama".into(), 5));
    assert_eq!(shift.order(warm("d2", 1), at(10_005)), Meaning::Warm("llama".into(), 1));
}

proptest! {
    /// Whatever happens when, every offer is answered once, every accepted one is told to have ended once, and a roll call
    /// names exactly what was accepted and has not ended.
    #[test]
    fn what_dispatchers_hear_is_what_runs(steps in prop::collection::vec((0..4u8, 0..3u64, 0..1_500u64), 1..120)) {
        let mut shift = shift(3);
        let (mut millis, mut offer) = (0, 0);
        let mut heard: BTreeMap<String, [Vec<u64>; 3]> = BTreeMap::new();
        let mut offered = 0;
        for (what, which, pause) in steps {
            millis += pause;
            match what {
                0 | 1 => {
                    (offer, offered) = (offer + 1, offered + 1);
                    let now = Now { wall: WALL, ..at(millis) };
                    shift.offer(&handover(offer, offer), &format!("d{which}"), now);
                }
                2 => {
                    let number = shift.numbers().nth(usize::try_from(which).unwrap());
                    if let Some(number) = number {
                        shift.ended(number, None, at(millis));
                    }
                }
                _ => {}
            }
            let messages = if what == 3 { shift.close(at(millis)) } else { shift.tick(at(millis)) };
            for message in messages {
                let Message::Acceptances(to, body) = message else { continue };
                let [accepted, refused, ended] = heard.entry(to.clone()).or_default();
                accepted.extend(&body.accepted);
                refused.extend(body.refused.iter().map(|(offer, _)| *offer));
                ended.extend(body.ended.iter().map(|news| news.offer));
                if let Some(open) = body.open {
                    let left: Vec<u64> = accepted.iter().filter(|o| !ended.contains(o)).copied().collect();
                    prop_assert_eq!(open, left);
                }
            }
        }
        shift.close(at(millis)).into_iter().for_each(|message| {
            if let Message::Acceptances(to, body) = message {
                let [accepted, refused, _] = heard.entry(to).or_default();
                accepted.extend(&body.accepted);
                refused.extend(body.refused.iter().map(|(offer, _)| *offer));
            }
        });
        let mut answered: Vec<u64> = heard.values().flat_map(|[a, r, _]| a.iter().chain(r)).copied().collect();
        answered.sort_unstable();
        prop_assert_eq!(answered, (1..=offered).collect::<Vec<u64>>());
    }
}
