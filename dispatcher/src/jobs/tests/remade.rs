//! Job streams that are deleted and made anew.

use super::*;

/// A scene whose job stream is made anew now; jobs are stored in the new one from here on.
fn remade(scene: &mut Scene) -> Vec<Effect> {
    scene.now = scene.now + Duration::from_secs(1);
    scene.stored_at = scene.now;
    scene.apply(Event::Remade { region: 0, born: scene.now })
}

#[test]
fn jobs_that_waited_are_gone_with_their_stream_and_those_of_the_new_one_are_new() {
    let mut scene = Scene::with(|config| config.policy.silent_after = Duration::from_secs(1));
    scene.pass(Duration::from_secs(2));
    scene.deliver(1, 1);
    scene.deliver(2, 2);
    assert_eq!((scene.left().waiting, scene.left().looked_up), (1, 1));
    assert_eq!(given_back(&remade(&mut scene)), 0, "there is nothing to give it back to");
    assert_eq!(scene.left(), Count::default());
    scene.beat("golem@us-east", "w1", 1);
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    scene.end("w1", handover.offer, None, false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_job_at_the_place_of_one_that_runs_is_another_job() {
    let mut scene = Scene::new();
    let old = scene.offered(1);
    scene.accept("w1", old.offer);
    remade(&mut scene);
    assert_eq!(scene.left().running, 1, "it ends by itself");
    let lease = scene.lease(1, 1);
    let (mut head, parcel) = Scene::head(2, "");
    head.id = "0198c0de-0000-7000-8000-00000000beef".parse().unwrap();
    let delivered = Delivered { head, parcel, lease: lease.clone() };
    let effects = scene.apply(Event::Delivered(Box::new(delivered)));
    let new = offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"));
    assert_eq!((&new.lease, scene.left().running, scene.left().offered), (&lease, 0, 1));
    // The old one fails: nothing stands behind what it gives back.
    assert!(scene.give_back(1, &old, FailureClass::ProviderDown).is_empty());
    scene.end("w1", old.offer, Some(FailureClass::ProviderDown), false);
    scene.accept("w2", new.offer);
    scene.end("w2", new.offer, None, false);
    assert_eq!(scene.left(), Count::default());
}
