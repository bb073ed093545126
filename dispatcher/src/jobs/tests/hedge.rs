//! Two attempts of a job at once: whoever ends first, and what the other hears.

use super::*;

/// A job that runs at Golem's w1 while a second attempt is offered to Modal: the first offer and the second.
fn hedged(scene: &mut Scene) -> (Handover, Handover) {
    for seq in 1..=40 {
        let first = scene.offered(seq);
        scene.accept("w1", first.offer);
        scene.end("w1", first.offer, None, false);
    }
    let first = scene.offered(99);
    scene.accept("w1", first.offer);
    let effects = scene.pass(Duration::from_secs(2));
    let second = offer(&effects).expect("a second attempt");
    assert!(
        second.hedge && second.in_log && matches!(orders(&effects)[..], [Order::Hedged(_)]),
        "{effects:?}"
    );
    (first, second)
}

#[test]
fn a_first_attempt_that_succeeds_while_the_second_is_offered_ends_the_job_and_the_second_is_stopped() {
    let mut scene = Scene::new();
    let (first, second) = hedged(&mut scene);
    assert_eq!(acks(&scene.end("w1", first.offer, None, false)), 0, "the worker has finished the lease");
    let effects = scene.accept("w2", second.offer);
    assert!(matches!(orders(&effects)[..], [Order::Stop(_)]), "{effects:?}");
    scene.end("w2", second.offer, Some(FailureClass::Cancelled), false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_first_attempt_that_fails_while_the_second_is_offered_leaves_the_job_to_the_second() {
    let mut scene = Scene::new();
    let (first, second) = hedged(&mut scene);
    let effects = scene.end("w1", first.offer, Some(FailureClass::ProviderDown), true);
    assert!(offer(&effects).is_none(), "{effects:?}");
    let effects = scene.accept("w2", second.offer);
    assert!(matches!(orders(&effects)[..], [Order::Alone(_, Some(_))]), "{effects:?}");
    scene.end("w2", second.offer, None, false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_first_attempt_that_fails_while_the_second_is_refused_is_looked_up_and_goes_on() {
    let mut scene = Scene::new();
    let (first, second) = hedged(&mut scene);
    scene.end("w1", first.offer, Some(FailureClass::ProviderDown), true);
    let news = Acceptances { refused: vec![(second.offer, RefusedBecause::Busy)], ..Scene::news("w2") };
    scene.apply(Event::Answered(news));
    let effects = scene.pass(Duration::from_millis(20));
    scene.beat("modal@us-east", "w2", 1);
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let again = offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"));
    assert!(!again.hedge && again.journal.entries.len() == 1, "{again:?}");
}

#[test]
fn a_job_given_back_while_its_second_attempt_runs_is_the_seconds_own() {
    let mut scene = Scene::new();
    let (first, second) = hedged(&mut scene);
    scene.accept("w2", second.offer);
    // The first had not heard that it was hedged, and gave the job back.
    let effects = scene.give_back(99, &first, FailureClass::ProviderDown);
    assert!(
        offer(&effects).is_none() && matches!(orders(&effects)[..], [Order::Alone(_, Some(_))]),
        "{effects:?}"
    );
    scene.end("w1", first.offer, Some(FailureClass::ProviderDown), false);
    scene.end("w2", second.offer, None, false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn an_attempt_after_two_that_failed_is_the_third_whichever_of_them_gave_the_job_back() {
    let mut scene = Scene::new();
    let (first, second) = hedged(&mut scene);
    scene.accept("w2", second.offer);
    let effects = scene.end("w2", second.offer, Some(FailureClass::ProviderDown), true);
    let [Order::Alone(_, Some(entry))] = &orders(&effects)[..] else { panic!("{effects:?}") };
    let entry = entry.as_ref().clone();
    // The news of the first one's end overtakes the job that it gives back.
    scene.end("w1", first.offer, Some(FailureClass::ProviderDown), false);
    let mut effects = scene.give_back_with(99, &first, FailureClass::ProviderDown, Some(entry));
    effects.extend(scene.pass(Duration::from_secs(3)));
    let third = offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"));
    assert_eq!((third.attempt, third.journal.entries.len()), (3, 2), "{third:?}");
}

#[test]
fn an_offer_that_is_refused_after_the_job_has_ended_leaves_nothing_behind() {
    let mut scene = Scene::new();
    let (first, second) = hedged(&mut scene);
    scene.end("w1", first.offer, None, false);
    let news = Acceptances { refused: vec![(second.offer, RefusedBecause::Running)], ..Scene::news("w2") };
    scene.apply(Event::Answered(news));
    assert_eq!(scene.left(), Count::default());
}
