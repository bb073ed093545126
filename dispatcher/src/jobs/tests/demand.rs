//! What is told of jobs that wait.

use schemas::demand::{Demand, LaneDemand};

use super::*;
use crate::demand::Teller;

fn tell(scene: &Scene, teller: &mut Teller) -> Demand {
    let mut told = teller.tell(&scene.jobs, &scene.jobs.config, scene.now);
    assert_eq!(told.len(), 1, "one region");
    told.remove(0)
}

/// What is told of lane `high`.
fn high(scene: &Scene) -> LaneDemand {
    let told = tell(scene, &mut Teller::new(START));
    let mut lanes = told.models.into_iter().flat_map(|model| model.lanes);
    lanes.find(|lane| lane.lane == Lane::High).unwrap()
}

fn deadline(at: Micros) -> String {
    format!(r#","deadline":"{}""#, at.to_datetime().to_rfc3339())
}

#[test]
fn jobs_that_wait_are_told_by_deadline_and_jobs_that_run_as_running() {
    let mut scene = Scene::new();
    // All slots of both pools.
    for seq in 1..=16 {
        let handover = scene.offered(seq);
        let worker = if seq <= 8 { "w1" } else { "w2" };
        scene.accept(worker, handover.offer);
    }
    let soon = START + Duration::from_secs(100);
    let later = START + Duration::from_secs(3_600);
    for (seq, by) in [(17, Some(soon)), (18, Some(later)), (19, Some(later)), (20, None)] {
        let effects = scene.deliver_with(seq, 1, &by.map(deadline).unwrap_or_default());
        assert!(offer(&effects).is_none());
    }
    let lane = high(&scene);
    assert_eq!((lane.in_hand, lane.running, lane.arrivals, lane.behind), (4, 16, 20, Some(0)));
    let due: Vec<_> = lane.due.iter().map(|due| (due.by_us, due.jobs, due.slot_us)).collect();
    // 100 ms a job is what both workers say.
    assert_eq!(due, [(Some(soon), 1, 100_000), (Some(later), 2, 200_000), (None, 1, 100_000)]);
    assert_eq!(lane.slot_us, 400_000);
}

#[test]
fn what_was_delivered_before_is_no_arrival() {
    let mut scene = Scene::new();
    scene.deliver(1, 2);
    scene.offered(2);
    let lane = high(&scene);
    assert_eq!((lane.arrivals, lane.in_hand, lane.running), (1, 1, 1));
}

#[test]
fn a_backfill_is_told_and_is_no_arrival() {
    let mut scene = Scene::new();
    let body = br#"{"id":"0198c0de-0000-7000-8000-000000000001","prompt":"x"}"#;
    let subject = format!("beacon.jobs.us-east.{MODEL}.low.acme").parse().unwrap();
    let head = Head::read(subject, JobHeaders::default(), body, START).unwrap();
    let lease = format!("$JS.ACK.JOBS_us-east.d-{MODEL}-low.1.1.1.{}.7000", START.get() * 1_000);
    let parcel = Parcel::default();
    let delivered = Delivered { head, parcel, lease: lease.parse().unwrap() };
    scene.apply(Event::Delivered(Box::new(delivered)));
    let told = tell(&scene, &mut Teller::new(START));
    let low = told.models[0].lanes.iter().find(|lane| lane.lane == Lane::Low).unwrap();
    assert_eq!((low.arrivals, low.running, low.behind), (0, 1, Some(7_000)));
}

#[test]
fn it_is_told_each_second_and_at_once_when_something_waits_where_nothing_did() {
    let (mut scene, mut teller) = (Scene::new(), Teller::new(START));
    assert!(teller.is_due(&scene.jobs, scene.now));
    tell(&scene, &mut teller);
    scene.now = scene.now + Duration::from_millis(999);
    assert!(!teller.is_due(&scene.jobs, scene.now));
    scene.now = scene.now + Duration::from_millis(1);
    assert!(teller.is_due(&scene.jobs, scene.now));
    tell(&scene, &mut teller);
    // Jobs that find a slot change nothing; the first that waits does.
    for seq in 1..=16 {
        scene.offered(seq);
    }
    scene.now = scene.now + Duration::from_millis(60);
    assert!(!teller.is_due(&scene.jobs, scene.now));
    scene.deliver(17, 1);
    assert!(teller.is_due(&scene.jobs, scene.now));
    tell(&scene, &mut teller);
    // One more where some waited already is told with the next.
    scene.deliver(18, 1);
    scene.now = scene.now + Duration::from_millis(60);
    assert!(!teller.is_due(&scene.jobs, scene.now));
    // What the server says waits behind a consumer counts as well.
    scene.jobs.pending(vec![(1, 5)]);
    assert!(!teller.is_due(&scene.jobs, scene.now), "a pull that is open knows better");
    scene.jobs.apply(Event::Reconnected, scene.now, &mut Vec::new());
    scene.jobs.pending(vec![(1, 5)]);
    assert!(teller.is_due(&scene.jobs, scene.now));
}

#[test]
fn while_no_slot_is_free_as_many_are_pulled_as_are_to_be_seen_ahead() {
    for (look_ahead, expected) in [(0, false), (100, true)] {
        let mut scene = Scene::with(|config| config.offers.look_ahead = look_ahead);
        for seq in 1..=16 {
            scene.offered(seq);
        }
        scene.jobs.apply(Event::Reconnected, scene.now, &mut Vec::new());
        scene.jobs.pending(vec![(0, 1_000)]);
        let mut out = Vec::new();
        scene.jobs.settle(scene.now, &mut out);
        let pulled = out.iter().any(
            |effect| matches!(effect, Effect::Pull { feed: 0, batch, .. } if *batch > 0 && *batch <= 100),
        );
        assert_eq!(pulled, expected, "{out:?}");
    }
}

#[test]
fn only_consumers_that_nothing_tells_of_are_asked_about() {
    let (mut scene, mut teller) = (Scene::new(), Teller::new(START));
    // Slots are free, so every consumer has a pull open.
    assert!(teller.ask(&scene.jobs, scene.now).is_empty());
    scene.jobs.apply(Event::Reconnected, scene.now, &mut Vec::new());
    assert!(teller.ask(&scene.jobs, scene.now).is_empty(), "asked a moment ago");
    scene.now = scene.now + Duration::from_millis(250);
    assert_eq!(teller.ask(&scene.jobs, scene.now), [0, 1, 2]);
}
