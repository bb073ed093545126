//! Any event in any state and any order keeps the promises.

use proptest::prelude::*;

use super::*;

/// One of every event; `n` chooses its contents.
fn any_event(course: &Course, which: usize, n: u8) -> Event {
    let unavailable = || Refusal::Unavailable("full".into());
    let refusal = if n.is_multiple_of(2) { Refusal::TooLarge } else { unavailable() };
    let class = [FailureClass::Timeout, FailureClass::Cancelled, FailureClass::RateLimited][n as usize % 3];
    let mut found = of_another(course);
    match n % 3 {
        0 => found.attempt_key = Some(course.key()),
        1 => found.log = Some(LogPlace { stream: "JOBS_us-east".into(), seq: 1 }),
        _ => {}
    }
    let events = [
        Event::Accepted,
        Event::JobRead(if n.is_multiple_of(2) {
            small()
        } else {
            job(r#""input_ref":{"object":"o","bytes":3}"#)
        }),
        Event::JobUnreadable("x".into()),
        Event::JobGone,
        Event::CostStored,
        Event::CostRefused(refusal.clone()),
        Event::JournalWritten(Box::new(course.journal.clone())),
        Event::Checked((n.is_multiple_of(4)).then(|| Failure::new(FailureClass::Cancelled, "x"))),
        Event::InputFetched,
        Event::InputMissing(Failure::new(FailureClass::InvalidRequest, "x")),
        Event::Submitting,
        Event::RunStarted("r".into()),
        answer(if n.is_multiple_of(2) { Ok("out") } else { Err(class) }),
        Event::Dropped { bill: bill(), took: Duration::from_secs(1) },
        Event::Looked(Box::new(Found {
            results: n.is_multiple_of(2).then(|| (*found).clone()).into_iter().collect(),
            booked: n.is_multiple_of(3),
        })),
        stored(n.is_multiple_of(2)),
        Event::ResultRefused(refusal.clone()),
        Event::StoredRead((!n.is_multiple_of(5)).then_some(found)),
        Event::OutputStored(OutputRef { object: "o".into(), bytes: 1 }),
        Event::OutputRefused(refusal),
        Event::Waited,
        Event::Unanswered("silent".into()),
        Event::News(News::LeaseLost),
        Event::News(News::WorkerStops),
        Event::News(News::TakenBack(Failure::new(FailureClass::Cancelled, "x"))),
        Event::News(News::Hedged),
        Event::News(News::Alone(None)),
        Event::News(News::Stop),
        Event::Announced,
        Event::JournalRefused(Box::new(course.journal.clone())),
        Event::Lapsed,
    ];
    events[which % events.len()].clone()
}

/// How many kinds of events there are.
const EVENTS: usize = 31;

/// Watches a course: what its effects and the answers to them must add up to.
#[derive(Default)]
struct Watch {
    calls: usize,
    booked: Vec<Purpose>,
    storing: Option<Box<CostEvent>>,
    sure: bool,
    looked: bool,
    result_there: bool,
    settled: usize,
}

impl Watch {
    fn event(&mut self, course: &Course, event: &Event, sure: bool) {
        self.sure &= sure;
        match (&course.state, event) {
            (State::StoringCost(_), Event::CostStored) => {
                self.booked.extend(self.storing.take().map(|event| event.purpose));
            }
            (State::StoringResult(_), Event::ResultStored(_))
            | (State::ReadingStored(_), Event::StoredRead(_)) => {
                self.result_there = true;
            }
            (State::Looking(_), Event::Looked(found)) => {
                self.looked = found.results.is_empty();
                self.result_there |= !self.looked;
            }
            (_, Event::News(News::LeaseLost)) => self.sure = false,
            (_, _) => {}
        }
    }

    fn effects(&mut self, course: &Course, effects: &[Effect]) {
        for effect in effects {
            assert_eq!(self.settled, 0, "after the end: {effects:?}");
            match effect {
                Effect::Call(_) => self.calls += 1,
                Effect::StoreCost(event) if event.attempt_key == Some(course.key()) => {
                    self.storing = Some(event.clone());
                }
                Effect::StoreResult(ResultName::OfJob, _) => {
                    assert!(self.sure || std::mem::take(&mut self.looked), "stored unseen");
                }
                Effect::GiveBack(_) | Effect::WriteJournal(_) if self.calls > 0 && !leads_on(course) => {
                    assert!(self.sure, "touched a job that may be another's: {effect:?}");
                }
                Effect::GiveBack(_) => assert!(self.sure, "given back without a lease"),
                Effect::Ack => assert!(self.result_there, "finished without a result"),
                Effect::Settle(_) => self.settled += 1,
                _ => {}
            }
        }
        assert!(self.calls <= 1, "called twice");
        assert!(self.booked.len() <= 1, "booked twice: {:?}", self.booked);
        assert_eq!(self.settled == 1, course.is_over());
    }
}

/// Whether a call still goes on, whose trail is written down whatever becomes of the lease.
fn leads_on(course: &Course) -> bool {
    matches!(course.state, State::Calling(_))
}

/// The answers that the course waits for now, as numbers of [`any_event`].
fn expected(state: &State) -> &'static [usize] {
    match state {
        State::Accepted => &[0],
        State::Reading => &[1, 1, 1, 2, 3],
        State::BookingAbandoned { .. } => &[4, 5],
        State::WritingIntent { .. } | State::WritingEnd(_) => &[6, 29],
        State::Announcing { .. } => &[28, 28, 30],
        State::Checking { .. } => &[7],
        State::Fetching { .. } => &[8, 9],
        State::Calling(_) => &[10, 11, 6, 29, 12],
        State::Dropping { .. } => &[13, 12],
        State::Looking(_) => &[14, 14, 21],
        State::StoringResult(_) | State::TellingTaken(_) => &[15, 15, 16],
        State::StoringOutput(_) => &[18, 19],
        State::ReadingStored(_) => &[17, 17, 21],
        State::StoringCost(_) => &[4, 4, 5],
        State::Waiting(_) => &[20],
        State::Over => &[],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Whatever comes in whatever order, expected or stale.
    #[test]
    fn no_event_in_any_state_breaks_a_promise(
        steps in prop::collection::vec((0..EVENTS, any::<u8>(), 0..4usize, 0..20usize), 1..60),
        always in any::<bool>(),
        hedge in any::<bool>(),
    ) {
        let mut terms = terms(if always { JournalMode::Always } else { JournalMode::Unhappy });
        terms.handover.hedge = hedge;
        let mut course = Course::new(terms);
        let mut watch = Watch { sure: true, ..Watch::default() };
        for (which, n, stray, unsure) in steps {
            // Mostly the answer that is waited for, else anything.
            let wanted = expected(&course.state);
            let which = if stray > 0 && !wanted.is_empty() { wanted[which % wanted.len()] } else { which };
            let event = any_event(&course, which, n);
            let moment = if unsure == 0 { UNSURE } else { SURE };
            let before = course.clone();
            watch.event(&course, &event, moment.sure);
            let effects = course.apply(moment, event.clone());
            watch.effects(&course, &effects);
            let stale = !matches!(event, Event::News(_)) && !wanted.contains(&which);
            if stale {
                prop_assert!(effects.is_empty(), "{:?} in {:?}: {:?}", event, before.state, effects);
            }
        }
    }

    /// Once nothing is refused any more and the call ends, every attempt comes to its end.
    #[test]
    fn every_course_ends(
        steps in prop::collection::vec((0..EVENTS, any::<u8>()), 0..40),
        hedge in any::<bool>(),
    ) {
        let mut terms = terms(JournalMode::Always);
        terms.handover.hedge = hedge;
        let mut course = Course::new(terms);
        let mut unsure = false;
        for (which, n) in steps {
            let moment = if n == 0 { UNSURE } else { SURE };
            unsure |= !moment.sure;
            let event = any_event(&course, which, n);
            course.apply(moment, event);
        }
        for _ in 0..40 {
            let Some(which) = expected(&course.state).iter().copied().filter(|w| ![5, 10, 11, 16, 19, 21, 29, 30].contains(w)).max() else {
                break;
            };
            let event = any_event(&course, which, 7);
            course.apply(if unsure { UNSURE } else { SURE }, event);
        }
        prop_assert!(course.is_over(), "{:?}", course.state);
    }
}
