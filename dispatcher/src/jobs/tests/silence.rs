//! Silence, freezes and clocks: when nothing is heard of a worker, and what that means.

use super::*;

#[test]
fn a_worker_that_is_silent_for_longer_than_a_lease_has_vanished_with_its_attempts() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    for _ in 0..59 {
        assert!(scene.pass(Duration::from_secs(1)).is_empty());
    }
    let effects: Vec<Effect> = (0..3).flat_map(|_| scene.pass(Duration::from_secs(1))).collect();
    assert!(matches!(effects[..], [Effect::BookLost(_)]), "{effects:?}");
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn after_a_freeze_or_a_jump_of_the_clock_nobodys_silence_means_anything_for_a_while() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    assert!(scene.pass(Duration::from_secs(600)).is_empty());
    scene.beat("golem@us-east", "w1", 1);
    scene.apply(Event::Answered(Acceptances { open: Some(vec![handover.offer]), ..Scene::news("w1") }));
    for _ in 0..9 {
        assert!(scene.pass(Duration::from_secs(1)).is_empty());
    }
    assert_eq!(scene.left().running, 1);
}

#[test]
fn a_clock_that_is_set_back_does_not_make_a_worker_that_died_look_as_if_it_spoke() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    scene.pass(Duration::from_secs(2));
    scene.beat("golem@us-east", "w1", 1);
    scene.apply(Event::Answered(Acceptances { open: Some(vec![handover.offer]), ..Scene::news("w1") }));
    // It dies here. Its attempt was not heard to end, so it must be booked once the worker has been silent for long enough.
    scene.now = scene.now - Duration::from_secs(30);
    let effects: Vec<Effect> = (0..70).flat_map(|_| scene.pass(Duration::from_secs(1))).collect();
    assert!(matches!(effects[..], [Effect::BookLost(_)]), "{effects:?}");
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_worker_heard_just_after_the_clock_was_set_back_is_not_silent() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    scene.pass(Duration::from_secs(1));
    scene.now = scene.now - Duration::from_secs(90);
    scene.beat("golem@us-east", "w1", 1);
    scene.apply(Event::Answered(Acceptances { open: Some(vec![handover.offer]), ..Scene::news("w1") }));
    assert!(scene.pass(Duration::from_secs(1)).is_empty());
    assert_eq!(scene.left().running, 1);
}

#[test]
fn a_delivery_that_comes_after_a_freeze_may_be_somebody_elses_by_now() {
    for (frozen, ours) in [(10, true), (70, false)] {
        let mut scene = Scene::new();
        scene.pass(Duration::from_secs(1));
        // What lay in its buffers is taken in before the first tick, in any order.
        scene.now = scene.now + Duration::from_secs(frozen);
        scene.beat("golem@us-east", "w1", 1);
        let effects = scene.deliver(1, 1);
        assert_eq!(offer(&effects).is_some(), ours, "{effects:?}");
        scene.pass(Duration::from_millis(100));
        assert_eq!(scene.left() == Count::default(), !ours, "it comes again, to whoever asks for it");
    }
}

#[test]
fn nobodys_silence_means_anything_while_the_link_is_silent() {
    let mut scene = Scene::with(|config| config.topology.ack_wait = Duration::from_secs(12));
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    for _ in 0..30 {
        assert!(scene.pass(Duration::from_secs(1)).is_empty(), "pulls are open, and nobody ends them");
    }
    scene.apply(Event::Reconnected);
    scene.beat("golem@us-east", "w1", 1);
    scene.apply(Event::Answered(Acceptances { open: Some(vec![handover.offer]), ..Scene::news("w1") }));
    for _ in 0..8 {
        scene.beat("golem@us-east", "w1", 1);
        assert!(scene.pass(Duration::from_secs(1)).is_empty());
    }
    assert_eq!(scene.left().running, 1);
}

#[test]
fn an_offer_lapses_and_a_rest_ends_in_time_though_the_clock_is_set_back_by_an_hour() {
    let mut scene = Scene::new();
    scene.offered(1);
    scene.now = scene.now - Duration::from_secs(3_600);
    scene.beat("modal@us-east", "w2", 1);
    let effects = scene.pass(Duration::from_millis(1_600));
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let second = offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"));
    scene.accept("w2", second.offer);
    scene.end("w2", second.offer, None, false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_consumer_that_found_nobody_is_asked_again_though_the_clock_is_set_back_by_an_hour() {
    let mut scene = Scene::new();
    let feed = |scene: &Scene| scene.jobs.feeds()[0].is_paused(scene.now);
    scene.apply(Event::PullEnded { feed: 0, number: 1, end: PullEnd::Unserved });
    scene.jobs.feeds[0].pause(scene.now);
    scene.now = scene.now - Duration::from_secs(3_600);
    scene.pass(Duration::from_millis(20));
    assert!(feed(&scene));
    scene.pass(Duration::from_millis(600));
    assert!(!feed(&scene));
}
