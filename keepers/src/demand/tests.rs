use schemas::demand::Due;

use super::*;

const NOW: Micros = Micros::new(1_795_000_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn pool() -> PoolId {
    "lambda@us-east".parse().unwrap()
}

fn model() -> ModelToken {
    "llama".parse().unwrap()
}

struct Said {
    started: Micros,
    at: Micros,
    lane: Lane,
    behind: Option<u64>,
    in_hand: u32,
    arrivals: u64,
}

const PLAIN: Said =
    Said { started: NOW, at: NOW, lane: Lane::Normal, behind: Some(0), in_hand: 0, arrivals: 0 };

fn says(dispatcher: &str, said: &Said) -> Demand {
    let due = Due { by_us: None, jobs: said.in_hand, slot_us: u64::from(said.in_hand) * 1_000_000 };
    let lane = LaneDemand {
        lane: said.lane,
        in_hand: said.in_hand,
        behind: said.behind,
        running: 1,
        arrivals: said.arrivals,
        slot_us: due.slot_us,
        due: if said.in_hand > 0 { vec![due] } else { Vec::new() },
    };
    let time = |pool: &str, samples, mean_us| ServiceTime {
        pool: pool.parse().unwrap(),
        samples,
        mean_us,
        p50_us: mean_us,
        p90_us: mean_us,
        p95_us: mean_us,
    };
    let service = vec![time("lambda@us-east", 40, 2_000_000), time("modal@us-east", 900, 9_000_000)];
    Demand {
        dispatcher: dispatcher.parse().unwrap(),
        started_us: said.started,
        region: "us-east".parse().unwrap(),
        at_us: said.at,
        models: vec![ModelDemand { model: model(), lanes: vec![lane], service }],
    }
}

fn load(book: &Book, now: Micros) -> Load {
    book.load(&pool(), &[model()], now).unwrap()
}

#[test]
fn dispatchers_are_added_up_and_what_all_of_them_see_is_counted_once() {
    let mut book = Book::new(NOW);
    assert_eq!(book.load(&pool(), &[model()], NOW), None);
    book.hear(says("d1", &Said { in_hand: 3, behind: Some(100), arrivals: 3, ..PLAIN }), NOW);
    book.hear(says("d2", &Said { in_hand: 4, behind: Some(90), arrivals: 4, ..PLAIN }), NOW);
    let load = load(&book, NOW);
    let jobs: u64 = load.waiting.iter().map(|waiting| waiting.jobs).sum();
    assert_eq!((jobs, load.running, load.service.mean), (97, 2, SECOND * 2));
    assert!(load.waiting.iter().all(|waiting| waiting.slot_us == waiting.jobs * 2_000_000));
}

#[test]
fn whoever_is_silent_for_four_seconds_holds_nothing() {
    let mut book = Book::new(NOW);
    book.hear(says("d1", &Said { in_hand: 3, ..PLAIN }), NOW);
    book.hear(says("d2", &Said { in_hand: 4, ..PLAIN }), NOW + SECOND * 3);
    let later = NOW + SECOND * 5;
    assert_eq!(load(&book, later).waiting.iter().map(|w| w.jobs).sum::<u64>(), 4);
    assert_eq!(book.load(&pool(), &[model()], NOW + SECOND * 8), None);
}

#[test]
fn lost_messages_lose_no_arrival_and_a_new_process_counts_anew() {
    let mut book = Book::new(NOW);
    let old = NOW - SECOND * 1_000;
    book.hear(says("d1", &Said { started: old, arrivals: 5_000, ..PLAIN }), NOW);
    assert_eq!(load(&book, NOW).normal, 0, "what was before we listened is no news");
    let mut at = NOW + SECOND * 3;
    book.hear(says("d1", &Said { started: old, at, arrivals: 5_040, ..PLAIN }), at);
    assert_eq!(load(&book, at).normal, 40);
    at = at + SECOND;
    book.hear(says("d1", &Said { started: at, at, arrivals: 2, ..PLAIN }), at);
    assert_eq!(load(&book, at).normal, 42);
    // Two that arrive in the wrong order.
    book.hear(says("d1", &Said { started: old, at, arrivals: 5_041, ..PLAIN }), at);
    assert_eq!(load(&book, at).normal, 42);
}

#[test]
fn what_lies_in_the_stream_has_arrived_and_is_not_counted_again_when_it_is_delivered() {
    let mut book = Book::new(NOW);
    book.hear(Demand { models: Vec::new(), ..says("d1", &PLAIN) }, NOW);
    let mut now = NOW + SECOND;
    book.hear(says("d1", &Said { at: now, behind: Some(50), ..PLAIN }), now);
    assert_eq!(load(&book, now).normal, 50);
    now = now + SECOND;
    book.hear(says("d1", &Said { at: now, behind: Some(20), arrivals: 30, ..PLAIN }), now);
    assert_eq!(load(&book, now).normal, 50);
    // The rest is purged. After a while new ones count from there.
    for _ in 0..12 {
        now = now + SECOND;
        book.hear(says("d1", &Said { at: now, arrivals: 30, ..PLAIN }), now);
    }
    book.hear(says("d1", &Said { at: now + SECOND, arrivals: 33, ..PLAIN }), now + SECOND);
    assert_eq!(load(&book, now + SECOND).normal, 53);
}

#[test]
fn a_backfill_waits_apart_and_never_arrives() {
    let mut book = Book::new(NOW);
    book.hear(says("d1", &PLAIN), NOW);
    let now = NOW + SECOND;
    let low = Said { at: now, lane: Lane::Low, behind: Some(200_000), in_hand: 7, ..PLAIN };
    book.hear(says("d1", &low), now);
    let load = load(&book, now);
    assert_eq!((load.urgent, load.normal, load.waiting.len()), (0, 0, 0));
    assert_eq!(load.backfill.iter().map(|w| w.jobs).sum::<u64>(), 200_007);
}

#[test]
fn little_is_known_carefully_and_much_by_its_mean() {
    let second = Service { samples: 29, p90: SECOND * 3, ..Service::default() };
    assert_eq!(second.careful(), SECOND * 3);
    let much = Service { samples: 10_000, p95: SECOND * 4, ..second };
    let careful = much.careful();
    assert!(careful > SECOND && careful < SECOND.mul_f64(1.05), "{careful:?}");
}
