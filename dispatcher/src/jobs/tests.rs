mod demand;
mod hedge;
mod remade;
mod silence;
mod stop;
mod vain;

use std::time::Duration;

use rand::SeedableRng as _;
use routing::{
    budget::Rules,
    config::{BreakerConfig, PolicyConfig},
    never::{KnownModel, KnownPool},
    retry_budget::RetryConfig,
};
use schemas::{
    AttemptKey, Lane,
    catalog::Catalog,
    handover::{Acceptances, EndedAttempt, Handover, OfferKey, Order, RefusedBecause, Return},
    heartbeat::{Heartbeat, ServedModel},
    job::JobHeaders,
    journal::{Entry, Journal, Trace},
    topology::Settings,
};
use transport::LinkConfig;

use super::*;
use crate::{
    config::{OfferConfig, TrimConfig},
    nats::Parcel,
};

const START: Micros = Micros::new(1_795_000_000_000_000);
const ACCEPT: &str = "_INBOX.dispatcher";
const MODEL: &str = "llama-3-2-1b";

/// A dispatcher's jobs, two pools, and a clock.
struct Scene {
    jobs: Jobs,
    now: Micros,
    /// When the jobs that are delivered were stored.
    stored_at: Micros,
    deliveries: u64,
}

impl Scene {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut DispatcherConfig)) -> Self {
        let region: Region = "us-east".parse().unwrap();
        let topology = Settings {
            regions: vec![region.clone()],
            catalog: Catalog::new(vec![MODEL.into()]).unwrap(),
            replicas: 1,
            ack_wait: Duration::from_secs(60),
            max_ack_pending: 1_000,
            jobs_max_bytes: 1 << 30,
            jobs_window: Duration::from_secs(120),
            replies_window: Duration::from_secs(600),
        };
        let mut config = DispatcherConfig {
            link: LinkConfig::to("nats://127.0.0.1:4222"),
            id: "d1".parse().unwrap(),
            regions: vec![region.clone()],
            topology,
            pools: Vec::new(),
            policy: PolicyConfig { baseline_share: 1.0, ..PolicyConfig::default() },
            breaker: BreakerConfig::default(),
            offers: OfferConfig::default(),
            trim: TrimConfig::default(),
            retries: RetryConfig::default(),
            budgets: Rules::default(),
            weights: HashMap::new(),
            grace: Duration::from_secs(5),
        };
        change(&mut config);
        let model: schemas::ModelToken = MODEL.parse().unwrap();
        let feeds = Lane::ALL.map(|lane| Feed::new(region.clone(), model.clone(), lane)).into();
        let rng = StdRng::seed_from_u64(7);
        let jobs = Jobs::new(Arc::new(config), ACCEPT.into(), feeds, Box::new(|_, _| None), rng);
        let mut scene = Self { jobs, now: START, stored_at: START, deliveries: 0 };
        scene.beat("golem@us-east", "w1", 1);
        scene.beat("modal@us-east", "w2", 1);
        scene
    }

    fn apply(&mut self, event: Event) -> Vec<Effect> {
        let mut out = Vec::new();
        self.jobs.apply(event, self.now, &mut out);
        self.jobs.settle(self.now, &mut out);
        out.retain(|effect| !matches!(effect, Effect::Pull { .. }));
        out
    }

    fn pass(&mut self, span: Duration) -> Vec<Effect> {
        self.now = self.now + span;
        self.apply(Event::Tick)
    }

    fn beat(&mut self, pool: &str, worker: &str, life: u64) -> Vec<Effect> {
        let beat = self.heartbeat(pool, worker, life);
        self.apply(Event::Heard(beat))
    }

    fn heartbeat(&self, pool: &str, worker: &str, life: u64) -> Heartbeat {
        let served = ServedModel {
            model: MODEL.parse().unwrap(),
            sku: "standard".into(),
            size: 1,
            expected_cost_usd: UsdNanos::new(100_000),
            p50_us: 100_000,
            p95_us: 200_000,
            running: 0,
            overdue: 0,
            second_usd: UsdNanos::ZERO,
            idle_us: 0,
            rented: false,
            detached: false,
            warmable: false,
        };
        Heartbeat {
            pool: pool.parse().unwrap(),
            worker: worker.parse().unwrap(),
            started_us: Micros::new(life),
            at_us: self.now,
            slots: 8,
            running: 0,
            draining: false,
            healthy: None,
            round_trip_us: None,
            succeeded: 0,
            failed: 0,
            models: vec![served],
            machines: None,
        }
    }

    fn lease(&mut self, seq: u64, delivered: u64) -> Lease {
        self.deliveries += 1;
        // A job is stored once, however often it is delivered.
        let (count, nanos) = (self.deliveries, self.stored_at.get() * 1_000);
        format!("$JS.ACK.JOBS_us-east.d-{MODEL}-high.{delivered}.{seq}.{count}.{nanos}.0").parse().unwrap()
    }

    fn head(seq: u64, extra: &str) -> (Head, Parcel) {
        let body = format!(r#"{{"id":"0198c0de-0000-7000-8000-{seq:012x}","prompt":"x"{extra}}}"#);
        let subject = format!("beacon.jobs.us-east.{MODEL}.high.acme").parse().unwrap();
        let head = Head::read(subject, JobHeaders::default(), body.as_bytes(), START).unwrap();
        (head, Parcel { body: body.into(), ..Parcel::default() })
    }

    fn deliver_with(&mut self, seq: u64, delivered: u64, extra: &str) -> Vec<Effect> {
        let lease = self.lease(seq, delivered);
        let (head, parcel) = Self::head(seq, extra);
        self.apply(Event::Delivered(Box::new(Delivered { head, parcel, lease })))
    }

    fn deliver(&mut self, seq: u64, delivered: u64) -> Vec<Effect> {
        self.deliver_with(seq, delivered, "")
    }

    /// Delivers a job for the first time and gives its offer.
    fn offered(&mut self, seq: u64) -> Handover {
        let effects = self.deliver(seq, 1);
        offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"))
    }

    fn news(worker: &str) -> Acceptances {
        let pool = if worker == "w1" { "golem@us-east" } else { "modal@us-east" };
        Acceptances {
            pool: pool.parse().unwrap(),
            worker: worker.parse().unwrap(),
            started_us: Micros::new(1),
            running: 0,
            open: None,
            accepted: Vec::new(),
            refused: Vec::new(),
            ended: Vec::new(),
        }
    }

    fn accept(&mut self, worker: &str, offer: u64) -> Vec<Effect> {
        let news = Acceptances { accepted: vec![offer], running: 1, ..Self::news(worker) };
        self.apply(Event::Answered(news))
    }

    fn end(&mut self, worker: &str, offer: u64, failed: Option<FailureClass>, kept: bool) -> Vec<Effect> {
        let ended = EndedAttempt {
            offer,
            failed,
            retry_after_us: None,
            service_us: 100_000,
            cold_us: 0,
            cost_usd: UsdNanos::new(100_000),
            kept,
            lost: false,
        };
        let news = Acceptances { ended: vec![ended], ..Self::news(worker) };
        self.apply(Event::Answered(news))
    }

    fn give_back(&mut self, seq: u64, handover: &Handover, class: FailureClass) -> Vec<Effect> {
        self.give_back_with(seq, handover, class, None)
    }

    /// Gives a job back whose journal tells of another attempt, too.
    fn give_back_with(
        &mut self,
        seq: u64,
        handover: &Handover,
        class: FailureClass,
        other: Option<Entry>,
    ) -> Vec<Effect> {
        let (head, parcel) = Self::head(seq, "");
        let pool: PoolId = "golem@us-east".parse().unwrap();
        let failure = Failure::new(class, "x");
        let mut journal = handover.journal.clone();
        if let Some(entry) = other {
            journal.record(entry);
        }
        let key = OfferKey { accept: ACCEPT.into(), offer: handover.offer };
        journal.record(Entry {
            attempt: handover.attempt,
            key: Some(key.attempt()),
            pool: pool.clone(),
            started_us: self.now,
            trace: Trace::Failed { failure: failure.clone(), cost_usd: UsdNanos::ZERO },
        });
        let back = Return {
            lease: handover.lease.clone(),
            leased_us: self.now,
            subject: head.subject.clone(),
            pool,
            attempt: handover.attempt,
            failure,
            cost_usd: UsdNanos::ZERO,
            journal,
            decision: None,
            offer: Some(key),
            in_log: false,
        };
        self.apply(Event::Returned(Box::new(Returned { back, head, parcel })))
    }

    /// Answers a look-up among `effects`.
    fn found(&mut self, effects: &[Effect], fate: impl Fn() -> Fate) -> Vec<Effect> {
        self.found_untried(effects, 0, fate)
    }

    /// The same, of jobs that were given back untried so many times.
    fn found_untried(&mut self, effects: &[Effect], untried: u64, fate: impl Fn() -> Fate) -> Vec<Effect> {
        let now = self.now;
        let findings = effects.iter().filter_map(|effect| match effect {
            Effect::LookUp(suspects) => Some(suspects.iter().map(|suspect| Finding {
                job: suspect.job,
                delivery: suspect.lease.consumer_seq,
                fate: fate(),
                leased: suspect.confirm.then_some(now),
                untried,
            })),
            _ => None,
        });
        let findings: Vec<Finding> = findings.flatten().collect();
        assert!(!findings.is_empty(), "no look-up in {effects:?}");
        self.apply(Event::Found(findings))
    }

    /// What stays known; every scene that ends well ends with nothing.
    fn left(&self) -> Count {
        let count = self.jobs.count();
        assert_eq!((count.bytes, count.looked_up), (self.jobs.bytes, self.jobs.looked_up));
        count
    }
}

fn offer(effects: &[Effect]) -> Option<Handover> {
    effects.iter().find_map(|effect| match effect {
        Effect::Offer { handover, .. } => Some(handover.as_ref().clone()),
        _ => None,
    })
}

fn orders(effects: &[Effect]) -> Vec<&Order> {
    effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Order { order, .. } => Some(order),
            _ => None,
        })
        .collect()
}

fn acks(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::Ack(_))).count()
}

fn given_back(effects: &[Effect]) -> usize {
    effects.iter().filter(|effect| matches!(effect, Effect::GiveBack { .. })).count()
}

#[test]
fn a_job_comes_runs_ends_and_is_forgotten() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    assert_eq!((handover.attempt, scene.left().offered), (1, 1));
    scene.accept("w1", handover.offer);
    assert_eq!((scene.left().running, scene.left().bytes), (1, 0));
    assert!(scene.end("w1", handover.offer, None, false).is_empty());
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn an_attempt_that_a_roll_call_does_not_name_has_ended_and_takes_no_slot() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    let named = Acceptances { open: Some(vec![handover.offer]), ..Scene::news("w1") };
    scene.apply(Event::Answered(named));
    assert_eq!(scene.left().running, 1);
    let effects = scene.apply(Event::Answered(Acceptances { open: Some(Vec::new()), ..Scene::news("w1") }));
    assert!(!effects.iter().any(|e| matches!(e, Effect::BookLost(_))), "its worker has booked it");
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn attempts_of_a_worker_that_began_a_new_life_are_booked_once_and_take_no_slot() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    let lost = |effects: Vec<Effect>| effects.iter().filter(|e| matches!(e, Effect::BookLost(_))).count();
    let effects = scene.beat("golem@us-east", "w1", 2);
    assert_eq!(lost(effects), 1);
    assert_eq!(lost(scene.beat("golem@us-east", "w1", 3)), 0);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn an_attempt_that_its_worker_lost_sight_of_is_booked_as_of_a_worker_that_vanished() {
    for accepted in [true, false] {
        let mut scene = Scene::new();
        let handover = scene.offered(1);
        if accepted {
            scene.accept("w1", handover.offer);
        }
        let ended = EndedAttempt {
            offer: handover.offer,
            failed: Some(FailureClass::WorkerLost),
            retry_after_us: None,
            service_us: 0,
            cold_us: 0,
            cost_usd: UsdNanos::ZERO,
            kept: false,
            lost: true,
        };
        let news = Acceptances { ended: vec![ended], ..Scene::news("w1") };
        let effects = scene.apply(Event::Answered(news));
        assert!(matches!(effects[..], [Effect::BookLost(_)]), "{effects:?}");
        assert_eq!(scene.left(), Count::default(), "its lease runs out and it comes again");
    }
}

#[test]
fn a_returned_job_that_somebody_else_held_too_is_looked_up_before_it_goes_on() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    let theirs = Entry {
        attempt: 1,
        key: Some(AttemptKey::of("_INBOX.other", 4)),
        pool: "modal@us-east".parse().unwrap(),
        started_us: scene.now,
        trace: Trace::Started { expected: Vec::new() },
    };
    let effects = scene.give_back_with(1, &handover, FailureClass::ProviderDown, Some(theirs));
    assert!(offer(&effects).is_none(), "{effects:?}");
    let effects = scene.pass(Duration::from_millis(20));
    assert_eq!(acks(&scene.found(&effects, || Fate::Done)), 1);
    scene.end("w1", handover.offer, Some(FailureClass::ProviderDown), false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn an_end_that_is_heard_after_the_return_says_nothing_about_the_attempt_that_follows() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    // A class that does not make the job rest, so that the next attempt follows at once.
    let effects = scene.give_back(1, &handover, FailureClass::Preempted);
    let again = offer(&effects).unwrap_or_else(|| panic!("no offer in {effects:?}"));
    let chosen = again.decision.unwrap().chosen.unwrap().to_string();
    let (worker, other) = if chosen == "golem@us-east" { ("w1", "w2") } else { ("w2", "w1") };
    // A refusal of the next offer is no reason to wait for the end of the attempt that gave the job back.
    let news = Acceptances { refused: vec![(again.offer, RefusedBecause::Busy)], ..Scene::news(worker) };
    let effects = scene.apply(Event::Answered(news));
    let again = offer(&effects).unwrap_or_else(|| panic!("no offer after a refusal: {effects:?}"));
    scene.accept(other, again.offer);
    let effects = scene.end("w1", handover.offer, Some(FailureClass::Preempted), false);
    assert!(effects.is_empty(), "the second attempt is alone as it is: {effects:?}");
    scene.end(other, again.offer, None, false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn an_attempt_that_a_worker_which_speaks_does_not_name_any_more_has_ended() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    for _ in 0..12 {
        scene.beat("golem@us-east", "w1", 1);
        let effects = scene.pass(Duration::from_secs(1));
        assert!(effects.is_empty(), "its worker has booked it: {effects:?}");
    }
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_job_delivered_again_while_its_attempt_runs_is_looked_up_and_stands_in_its_line_once() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    scene.deliver(1, 2);
    let effects = scene.pass(Duration::from_millis(20));
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let again = offer(&effects).unwrap();
    assert_eq!((again.attempt, scene.left().offered, scene.left().running), (2, 1, 1));
    scene.accept("w1", again.offer);
    // The first attempt gave its result after all: the second is stopped.
    let effects = scene.end("w1", handover.offer, None, false);
    assert!(matches!(orders(&effects)[..], [Order::Stop(_)]), "{effects:?}");
    scene.end("w1", again.offer, Some(FailureClass::Cancelled), false);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_result_of_an_earlier_delivery_finishes_the_job_that_waits() {
    let mut scene = Scene::new();
    let handover = scene.offered(1);
    scene.accept("w1", handover.offer);
    scene.deliver(1, 2);
    assert_eq!(acks(&scene.end("w1", handover.offer, None, false)), 1);
    assert_eq!(scene.left(), Count::default());
    assert!(scene.pass(Duration::from_millis(20)).is_empty(), "nothing is looked up any more");
}

#[test]
fn a_lapsed_offer_is_looked_up_before_the_job_goes_on() {
    let mut scene = Scene::new();
    scene.offered(1);
    let effects = scene.pass(Duration::from_millis(1_600));
    scene.beat("modal@us-east", "w2", 1);
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let again = offer(&effects).unwrap();
    assert_eq!(again.decision.unwrap().chosen.unwrap().to_string(), "modal@us-east");
    let effects = scene.pass(Duration::from_millis(1_600));
    assert_eq!(acks(&scene.found(&effects, || Fate::Done)), 1);
    assert_eq!(scene.left(), Count::default());
}

#[test]
fn a_finding_about_an_older_delivery_changes_nothing() {
    let mut scene = Scene::new();
    scene.deliver(1, 2);
    let effects = scene.pass(Duration::from_millis(20));
    scene.deliver(1, 3);
    assert!(scene.found(&effects, || Fate::Done).is_empty());
    assert_eq!(scene.left().looked_up, 1);
}

#[test]
fn a_job_that_no_pool_could_ever_take_fails_at_once_and_names_the_gate() {
    let known = KnownPool {
        id: "golem@us-east".parse().unwrap(),
        models: vec![KnownModel {
            model: MODEL.parse().unwrap(),
            size: 1,
            least_cost: UsdNanos::new(100_000),
        }],
    };
    for (extra, gate) in [
        (r#","routing":{"allow_providers":["nobody"]}"#, "allow_providers"),
        (r#","routing":{"allow_regions":["mars"]}"#, "allow_regions"),
        (r#","max_cost_usd":"0""#, "max_cost_usd"),
    ] {
        let mut scene = Scene::with(|config| config.pools = vec![known.clone()]);
        let effects = scene.deliver_with(1, 1, extra);
        let [Effect::End(ending)] = &effects[..] else { panic!("{extra}: {effects:?}") };
        assert_eq!((ending.status(), ending.failure().class), (Status::Failed, FailureClass::NoPool));
        assert!(ending.failure().message.contains(gate), "{}", ending.failure().message);
        let key = ending.key().unwrap();
        scene.apply(Event::Concluded(key));
        assert_eq!(scene.left(), Count::default());
    }
}

#[test]
fn a_job_of_a_model_that_no_listed_pool_serves_is_pulled_and_fails_once_pools_had_time_to_speak() {
    let served =
        KnownModel { model: "mistral-7b".parse().unwrap(), size: 1, least_cost: UsdNanos::new(100_000) };
    let known = KnownPool { id: "golem@us-east".parse().unwrap(), models: vec![served] };
    let mut scene = Scene::with(|config| config.pools = vec![known]);
    // The two workers serve it though they are not listed.
    assert!(offer(&scene.deliver(1, 1)).is_some());
    scene.jobs.pools = Pools::default();
    assert!(scene.deliver(2, 1).is_empty(), "others may be about to speak");
    scene.jobs.apply(Event::Reconnected, scene.now, &mut Vec::new());
    scene.now = scene.now + Duration::from_secs(1);
    let mut out = Vec::new();
    for _ in 0..6 {
        scene.now = scene.now + Duration::from_secs(1);
        scene.jobs.apply(Event::Tick, scene.now, &mut out);
        scene.jobs.settle(scene.now, &mut out);
    }
    assert!(out.iter().any(|effect| matches!(effect, Effect::Pull { .. })), "{out:?}");
    let effects = scene.deliver(3, 1);
    let [Effect::End(ending)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(ending.failure().message, format!("no pool serves the model `{MODEL}`"));
}

#[test]
fn text_is_in_hand_only_while_the_job_is() {
    let mut scene = Scene::with(|config| config.policy.silent_after = Duration::from_secs(1));
    scene.pass(Duration::from_secs(2));
    scene.deliver(1, 1);
    assert_eq!((scene.left().waiting, scene.left().bytes > 0), (1, true));
    scene.beat("golem@us-east", "w1", 1);
    let news = Acceptances { accepted: vec![scene.jobs.next], ..Scene::news("w1") };
    scene.apply(Event::Answered(news));
    assert_eq!((scene.left().running, scene.left().bytes, scene.jobs.bytes), (1, 0, 0));
}

#[test]
fn a_lease_in_hand_is_extended_and_let_go_when_the_server_does_not_answer() {
    let mut scene = Scene::with(|config| config.policy.silent_after = Duration::from_secs(1));
    scene.pass(Duration::from_secs(2));
    scene.deliver(1, 1);
    let effects = scene.pass(Duration::from_secs(16));
    assert!(matches!(effects[..], [Effect::Extend { .. }]), "{effects:?}");
    assert!(scene.pass(Duration::from_secs(1)).is_empty(), "one request at a time");
    scene.pass(Duration::from_secs(34));
    assert_eq!(scene.left(), Count::default(), "it may be another dispatcher's by now");
}

#[test]
fn a_job_left_to_an_older_attempt_that_gives_it_back_goes_on() {
    let mut scene = Scene::new();
    let first = scene.offered(1);
    scene.accept("w1", first.offer);
    scene.deliver(1, 2);
    let effects = scene.pass(Duration::from_millis(20));
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    let second = offer(&effects).unwrap();
    let news = Acceptances { refused: vec![(second.offer, RefusedBecause::Running)], ..Scene::news("w1") };
    scene.apply(Event::Answered(news));
    assert!(
        scene.give_back(1, &first, FailureClass::ProviderDown).is_empty(),
        "its lease is made sure of first"
    );
    let effects = scene.pass(Duration::from_millis(20));
    let effects = scene.found(&effects, || Fate::Again(Journal::default()));
    assert!(offer(&effects).is_some(), "{effects:?}");
}
