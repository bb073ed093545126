//! Offers that nobody answers.

use schemas::why::WhyAsk;

use super::*;

/// Lets the open offer lapse while both pools speak, and gives what follows from the look-up, after how long it was offered again.
fn lapse(scene: &mut Scene) -> (Duration, Vec<Effect>) {
    let effects = scene.pass(Duration::from_millis(1_600));
    let mut effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let lapsed = scene.now;
    while effects.is_empty() && scene.now.since(lapsed) < Duration::from_secs(120) {
        scene.beat("golem@us-east", "w1", 1);
        scene.beat("modal@us-east", "w2", 1);
        effects = scene.pass(Duration::from_millis(500));
        effects.retain(|effect| !matches!(effect, Effect::Extend { .. }));
        let leases: Vec<JobKey> = scene.jobs.records().map(|(key, _)| key).collect();
        for job in leases {
            let delivery = scene.deliveries;
            let asked = scene.now;
            scene.apply(Event::Extended { job, delivery, asked });
        }
    }
    (scene.now.since(lapsed), effects)
}

#[test]
fn a_job_whose_offers_nobody_answers_is_offered_less_and_less_often_and_ends() {
    let mut scene = Scene::new();
    scene.offered(1);
    let (mut pauses, mut end) = (Vec::new(), None);
    for _ in 0..30 {
        let (pause, effects) = lapse(&mut scene);
        pauses.push(pause);
        if let Some(Effect::End(ending)) = effects.into_iter().find(|e| matches!(e, Effect::End(_))) {
            end = Some(ending);
            break;
        }
    }
    let end = end.unwrap_or_else(|| panic!("it is offered for ever: {pauses:?}"));
    assert_eq!(end.failure().class, FailureClass::Poison);
    assert!(end.failure().message.contains("clocks"), "{}", end.failure().message);
    assert!(pauses[0] < Duration::from_secs(1), "another pool is asked at once: {pauses:?}");
    assert!(pauses.iter().any(|pause| *pause > Duration::from_secs(30)), "{pauses:?}");
}

#[test]
fn a_worker_whose_clock_is_ahead_is_named() {
    let mut scene = Scene::new();
    let beat = scene.heartbeat("modal@us-east", "w2", 1);
    let at_us = scene.now + Duration::from_secs(3);
    scene.apply(Event::Heard(Heartbeat { at_us, ..beat }));
    let (head, _) = Scene::head(1, "");
    let ask = WhyAsk {
        job: head.id,
        subject: head.subject.clone(),
        routing: head.routing.clone(),
        deadline_us: None,
        max_cost_usd: None,
    };
    let config = scene.jobs.config.clone();
    let answer = crate::why::answer(&mut scene.jobs, &config, &ask, scene.now);
    let limits: Vec<(String, bool)> = answer
        .gates
        .iter()
        .map(|g| (g.pool.to_string(), g.limit.contains("clock of its worker w2")))
        .collect();
    assert_eq!(limits, [("golem@us-east".to_owned(), false), ("modal@us-east".to_owned(), true)]);
}
