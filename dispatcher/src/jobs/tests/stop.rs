//! Dispatchers that stop: what they give back, and that it does not count against a job.

use super::*;

#[test]
fn a_stopping_dispatcher_gives_back_what_it_holds_and_what_comes_back() {
    let mut scene = Scene::new();
    let (running, open) = (scene.offered(1), scene.offered(2));
    scene.accept("w1", running.offer);
    scene.deliver(3, 2);
    assert_eq!(given_back(&scene.apply(Event::Stop)), 1, "the job under look-up");
    assert!(!scene.jobs.is_settled(), "an offer is open");
    let effects = scene.give_back(1, &running, FailureClass::ProviderDown);
    assert_eq!(given_back(&effects), 1, "{effects:?}");
    let news = Acceptances { refused: vec![(open.offer, RefusedBecause::Busy)], ..Scene::news("w1") };
    assert_eq!(given_back(&scene.apply(Event::Answered(news))), 1);
    assert!(scene.jobs.is_settled());
}

#[test]
fn a_job_that_stopping_dispatchers_gave_back_is_no_poison_and_had_no_attempt() {
    let mut scene = Scene::new();
    scene.deliver(1, 13);
    let effects = scene.pass(Duration::from_millis(20));
    let effects = scene.found_untried(&effects, 12, || Fate::Again(Journal::default()));
    let first = offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"));
    assert_eq!(first.attempt, 1);
    // Delivered as often to holders that died with it.
    scene.deliver(2, 13);
    let effects = scene.pass(Duration::from_millis(20));
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let [Effect::End(ending)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(ending.failure().class, FailureClass::Poison);
}

#[test]
fn a_job_is_given_back_as_untried_unless_a_worker_may_have_begun_it() {
    let untried = |effects: &[Effect]| {
        let noted = effects.iter().find_map(|effect| match effect {
            Effect::GiveBack { untried, .. } => Some(untried.is_some()),
            _ => None,
        });
        noted.unwrap_or_else(|| panic!("nothing is given back: {effects:?}"))
    };
    let mut scene = Scene::new();
    scene.deliver(1, 2);
    let (refused, lapsed) = (scene.offered(2), scene.offered(3));
    assert!(untried(&scene.apply(Event::Stop)), "under look-up");
    let news = Acceptances { refused: vec![(refused.offer, RefusedBecause::Busy)], ..Scene::news("w1") };
    assert!(untried(&scene.apply(Event::Answered(news))), "refused");
    assert!(lapsed.offer > refused.offer);
    assert!(!untried(&scene.pass(Duration::from_millis(1_600))), "nobody answered");
}
