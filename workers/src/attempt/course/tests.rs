//! Whole courses, step by step; `any` feeds every event in every state.

mod any;

use std::{sync::Arc, time::Duration};

use schemas::{
    Micros, UsdNanos,
    cost::{Bill, CostEvent, CostLine, Purpose},
    failure::{Failure, FailureClass},
    handover::{Handover, OfferKey},
    job::JobHeaders,
    journal::Trace,
    prices::Unit,
    reply::{JobResult, LogPlace, Output, OutputRef, Status, Usage},
};
use transport::Stored;

use super::*;
use crate::{config::JournalMode, provider::Success};

const AT: Micros = Micros::new(1_795_000_000_000_000);
const SURE: Moment = Moment { at: AT, leased: AT, sure: true };
const UNSURE: Moment = Moment { sure: false, ..SURE };

fn job(input: &str) -> Arc<Job> {
    let body = format!(r#"{{"id":"0198c0de-0000-7000-8000-000000000001",{input},"mailbox":"inbox"}}"#);
    let subject = "beacon.jobs.us-east.llama-3-2-1b.low.acme".parse().unwrap();
    Arc::new(Job::read(subject, JobHeaders::default(), body.as_bytes(), AT).unwrap())
}

fn small() -> Arc<Job> {
    job(r#""prompt":"x""#)
}

fn lines() -> Vec<CostLine> {
    vec![CostLine {
        sku: "standard".into(),
        unit: Unit::Inference,
        quantity: 1,
        item: "inference".into(),
        unit_price_usd: UsdNanos::new(100),
        amount_usd: UsdNanos::new(100),
        machine: None,
    }]
}

fn bill() -> Bill {
    Bill { lines: lines(), amount_usd: UsdNanos::new(100), estimated: false, price_book: "t".into() }
}

fn terms(journal: JournalMode) -> Terms {
    let handover = Handover {
        offer: 7,
        lease: "$JS.ACK.JOBS_us-east.d-m-low.1.17.40.1795000000000000000.3".parse().unwrap(),
        leased_us: AT,
        accept_by_us: AT + Duration::from_secs(1),
        attempt: 1,
        subject: small().subject.clone(),
        journal: Journal::default(),
        decision: None,
        hedge: false,
        in_log: false,
    };
    let site = Site { pool: "golem@us-east".parse().unwrap(), journal, price_book: "t".into() };
    let offer = OfferKey { accept: "_INBOX.d1".into(), offer: 7 };
    Terms { site: Arc::new(site), offer, handover, received: AT, expected: lines() }
}

fn course() -> Course {
    Course::new(terms(JournalMode::Unhappy))
}

fn answer(outcome: Result<&str, FailureClass>) -> Event {
    let outcome = outcome
        .map(|text| Success {
            output: Output { text: text.into(), finish_reason: "stop".into() },
            usage: Usage::default(),
        })
        .map_err(|class| Failure::new(class, "x"));
    let took = Duration::from_millis(5);
    Event::Ended(Box::new(Answer {
        outcome,
        bill: bill(),
        took,
        cold_start: Duration::ZERO,
        first_token: Duration::ZERO,
    }))
}

const fn stored(duplicate: bool) -> Event {
    Event::ResultStored(Stored { seq: 5, duplicate })
}

/// Feeds events that come while the lease is sure.
fn feed(course: &mut Course, events: Vec<Event>) -> Vec<Effect> {
    events.into_iter().flat_map(|event| course.apply(SURE, event)).collect()
}

/// A course whose call goes on.
fn calling() -> Course {
    let mut course = course();
    let events = vec![Event::Accepted, Event::JobRead(small()), Event::Announced, Event::Checked(None)];
    let effects = feed(&mut course, events);
    assert_eq!(effects, [Effect::ReadJob, Effect::Announce, Effect::Check, Effect::Call(None)]);
    course
}

/// What effects are, without their contents.
fn names(effects: &[Effect]) -> Vec<String> {
    let name = |effect: &Effect| match effect {
        Effect::StoreCost(event) => format!("StoreCost {:?}", event.purpose),
        Effect::StoreResult(name, result) => format!("StoreResult {name:?} {:?}", result.status),
        Effect::Settle(settled) => format!("Settle {:?} kept {}", settled.failed, settled.kept),
        other => format!("{other:?}").split(['(', ' ', '{']).next().unwrap_or_default().to_owned(),
    };
    effects.iter().map(name).collect()
}

/// The result another attempt of the same job has stored.
fn of_another(course: &Course) -> Box<JobResult> {
    let mut course = course.clone();
    let mut result = course.result(&small(), Status::Succeeded, AT, UsdNanos::ZERO, AT);
    result.attempt_key = Some(AttemptKey::of("_INBOX.d2", 1));
    Box::new(result)
}

#[test]
fn an_output_is_stored_before_its_cost_and_the_lease_is_finished_last() {
    let mut course = calling();
    let effects = feed(&mut course, vec![answer(Ok("out")), stored(false), Event::CostStored]);
    assert_eq!(
        names(&effects),
        ["StoreResult OfJob Succeeded", "StoreCost Useful", "Ack", "Settle None kept false"]
    );
    let Effect::StoreResult(_, result) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(
        (result.attempt_key, result.bill.as_ref(), result.cost_usd),
        (Some(course.key()), Some(&bill()), UsdNanos::new(100))
    );
    assert_eq!(result.log, Some(LogPlace { stream: "JOBS_us-east".into(), seq: 17 }));
}

#[test]
fn a_result_that_was_there_before_says_whose_cost_is_useful() {
    let mut course = calling();
    let effects = feed(&mut course, vec![answer(Ok("out")), stored(true)]);
    assert_eq!(effects[1], Effect::ReadStored(5));
    let Effect::StoreResult(_, own) = effects[0].clone() else { panic!("{effects:?}") };
    let mut twice = course.clone();
    let again = feed(&mut twice, vec![Event::StoredRead(Some(Box::new((*own).clone()))), Event::CostStored]);
    assert_eq!(names(&again), ["StoreCost Useful", "Ack", "Settle None kept false"]);
    let other = of_another(&course);
    let lost = feed(&mut course, vec![Event::StoredRead(Some(other)), Event::CostStored]);
    assert_eq!(names(&lost), ["Report", "StoreCost WastedRace", "Ack", "Settle None kept false"]);
}

#[test]
fn a_job_whose_id_was_taken_is_told_so() {
    let mut course = calling();
    feed(&mut course, vec![answer(Ok("out")), stored(true)]);
    let mut other = of_another(&course);
    other.log = Some(LogPlace { stream: "JOBS_us-east".into(), seq: 3 });
    let events = vec![Event::StoredRead(Some(other)), Event::CostStored, stored(false)];
    let effects = feed(&mut course, events);
    let told = "StoreResult IdTaken(17) Failed";
    assert_eq!(names(&effects), ["Report", "StoreCost WastedRace", told, "Ack", "Settle None kept false"]);
    let Effect::StoreResult(_, result) = &effects[2] else { panic!("{effects:?}") };
    assert_eq!(result.error.as_ref().map(|error| error.class), Some(FailureClass::IdTaken));
    assert!(result.output.is_none() && result.bill.is_none());
}

#[test]
fn a_failure_is_booked_written_down_and_given_back() {
    let mut course = calling();
    let effects = feed(&mut course, vec![answer(Err(FailureClass::ProviderDown)), Event::CostStored]);
    assert_eq!(names(&effects), ["StoreCost WastedFailure", "WriteJournal"]);
    let Effect::WriteJournal(journal) = effects[1].clone() else { panic!("{effects:?}") };
    let effects = feed(&mut course, vec![Event::JournalWritten(journal)]);
    let Effect::GiveBack(back) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!(
        (back.offer.as_ref().unwrap().offer, back.journal.entries.len(), back.cost_usd),
        (7, 1, UsdNanos::new(100))
    );
    assert_eq!(back.journal.entries[0].key, Some(course.key()));
    assert!(course.is_over());
}

#[test]
fn a_failure_beside_another_attempt_is_written_down_and_kept() {
    let mut course = calling();
    feed(&mut course, vec![Event::News(News::Hedged)]);
    let mut alone = course.clone();
    let end = |course: &mut Course| {
        let mut effects = feed(course, vec![answer(Err(FailureClass::Timeout)), Event::CostStored]);
        effects.extend(feed(course, vec![Event::JournalWritten(Box::default())]));
        names(&effects)
    };
    let kept = ["StoreCost WastedFailure", "WriteJournal", "Settle Some(Timeout) kept true"];
    assert_eq!(end(&mut course), kept);
    feed(&mut alone, vec![Event::News(News::Alone(None))]);
    let given = ["StoreCost WastedFailure", "WriteJournal", "GiveBack", "Settle Some(Timeout) kept false"];
    assert_eq!(end(&mut alone), given);
}

#[test]
fn whoever_was_not_first_is_dropped_and_booked_and_touches_nothing() {
    let mut course = calling();
    let effects = feed(&mut course, vec![Event::News(News::Stop)]);
    assert_eq!(effects, [Effect::DropCall]);
    let reckoned = Event::Dropped { bill: bill(), took: Duration::from_secs(1) };
    let effects = feed(&mut course, vec![reckoned, Event::CostStored]);
    assert_eq!(names(&effects), ["Report", "StoreCost WastedRace", "Settle Some(Cancelled) kept false"]);
    // After a failure that was on its way when the order came, nothing is given back either.
    let mut failed = calling();
    let events = vec![answer(Err(FailureClass::Timeout)), Event::News(News::Stop), Event::CostStored];
    let effects = feed(&mut failed, events);
    assert_eq!(names(&effects), ["StoreCost WastedFailure", "Settle Some(Timeout) kept false"]);
}

#[test]
fn an_output_that_was_not_first_may_be_the_stored_one_where_the_journal_names_the_attempt() {
    let submitted = || {
        let mut course = calling();
        feed(&mut course, vec![Event::Submitting, Event::JournalWritten(Box::default())]);
        let effects = feed(&mut course, vec![Event::News(News::Stop)]);
        assert_eq!(names(&effects), ["StopRun"]);
        course
    };
    // Another holder of the job went on with the run, and was first.
    let mut course = submitted();
    let effects = feed(&mut course, vec![answer(Ok("out")), stored(true)]);
    assert_eq!(names(&effects), ["StoreResult OfJob Succeeded", "ReadStored"]);
    let mut own = of_another(&course);
    (own.attempt_key, own.bill) = (Some(course.key()), Some(bill()));
    let effects = feed(&mut course, vec![Event::StoredRead(Some(own.clone()))]);
    assert_eq!(names(&effects), ["StoreCost Useful"]);
    let mut unsure = submitted();
    assert_eq!(names(&unsure.apply(UNSURE, answer(Ok("out")))), ["LookForResult"]);
    let found = Found { results: vec![*own], booked: false };
    assert_eq!(names(&unsure.apply(UNSURE, Event::Looked(Box::new(found)))), ["StoreCost Useful"]);
    // A run that was stopped gave no result.
    let effects = feed(&mut submitted(), vec![answer(Err(FailureClass::Cancelled))]);
    assert_eq!(names(&effects), ["Report", "StoreCost WastedRace"]);
}

#[test]
fn without_a_sure_lease_the_result_is_looked_for_before_it_is_stored() {
    let look = |found: Found| {
        let mut course = calling();
        let mut effects = course.apply(UNSURE, answer(Ok("out")));
        // A lease that was unsure once is never believed again.
        effects.extend(course.apply(SURE, Event::Looked(Box::new(found))));
        names(&effects)
    };
    assert_eq!(look(Found::default()), ["LookForResult", "StoreResult OfJob Succeeded"]);
    let other = *of_another(&calling());
    let mut own = other.clone();
    (own.attempt_key, own.bill) = (Some(calling().key()), Some(bill()));
    let results = vec![other.clone()];
    assert_eq!(look(Found { results, booked: false }), ["LookForResult", "Report", "StoreCost WastedRace"]);
    let results = vec![other, own];
    assert_eq!(look(Found { results, booked: true }), ["LookForResult", "StoreCost Useful"]);
    // Somebody gave the attempt up for lost and booked it: useful as well, it would be booked twice. The job has no result by that, so
    // the attempt must not be told as a success: its dispatcher would finish the lease.
    let given_up = ["LookForResult", "Report", "Settle Some(WorkerLost) kept false"];
    assert_eq!(look(Found { results: Vec::new(), booked: true }), given_up);
}

#[test]
fn a_lost_lease_drops_the_call_books_it_and_gives_nothing_back() {
    let mut course = calling();
    assert_eq!(course.apply(UNSURE, Event::News(News::LeaseLost)), [Effect::DropCall]);
    let reckoned = Event::Dropped { bill: bill(), took: Duration::from_secs(1) };
    let mut effects = course.apply(UNSURE, reckoned);
    effects.extend(course.apply(UNSURE, Event::CostStored));
    assert_eq!(names(&effects), ["StoreCost WastedFailure", "Report", "Settle Some(WorkerLost) kept false"]);
}

#[test]
fn a_run_that_goes_on_by_itself_is_left_to_the_next_holder() {
    for news in [News::LeaseLost, News::WorkerStops] {
        let mut course = calling();
        let effects = feed(&mut course, vec![Event::Submitting, Event::JournalWritten(Box::default())]);
        assert_eq!(names(&effects), ["WriteJournal"]);
        let effects = feed(&mut course, vec![Event::RunStarted("r".into())]);
        let Effect::WriteJournal(journal) = effects[0].clone() else { panic!("{effects:?}") };
        assert!(matches!(&journal.entries[0].trace, Trace::Running { run, .. } if run == "r"));
        let reckoned = Event::Dropped { bill: bill(), took: Duration::from_secs(1) };
        let effects = feed(&mut course, vec![Event::JournalWritten(journal), Event::News(news), reckoned]);
        assert_eq!(names(&effects), ["DropCall", "Report", "Settle Some(WorkerLost) kept false"]);
    }
}

#[test]
fn a_run_of_a_job_that_is_taken_back_is_stopped_by_its_provider_and_its_bill_booked() {
    let mut course = calling();
    feed(&mut course, vec![Event::Submitting, Event::JournalWritten(Box::default())]);
    let back = Failure::new(FailureClass::Cancelled, "changed my mind");
    let effects = feed(&mut course, vec![Event::News(News::TakenBack(back.clone()))]);
    assert_eq!(effects, [Effect::StopRun(back)]);
    let events = vec![answer(Err(FailureClass::Cancelled)), Event::CostStored, stored(false)];
    let effects = feed(&mut course, events);
    let expected = [
        "Report",
        "StoreCost Cancelled",
        "StoreResult OfJob Cancelled",
        "Ack",
        "Settle Some(Cancelled) kept false",
    ];
    assert_eq!(names(&effects), expected);
}

#[test]
fn a_run_that_the_journal_could_not_be_told_of_is_stopped_and_booked_not_left() {
    let refused = || Event::JournalRefused(Box::default());
    for news in [News::WorkerStops, News::LeaseLost] {
        let mut course = calling();
        feed(&mut course, vec![Event::Submitting, refused(), Event::RunStarted("r".into()), refused()]);
        let effects = feed(&mut course, vec![Event::News(news)]);
        assert!(matches!(effects[..], [Effect::StopRun(_)]), "{effects:?}");
        let effects = feed(&mut course, vec![answer(Err(FailureClass::Preempted))]);
        assert_eq!(names(&effects), ["StoreCost WastedFailure"]);
    }
    // Told of its id at the second try, it is left to the next holder.
    let mut course = calling();
    let written = Event::JournalWritten(Box::default());
    feed(&mut course, vec![Event::Submitting, refused(), Event::RunStarted("r".into()), written]);
    assert_eq!(feed(&mut course, vec![Event::News(News::WorkerStops)]), [Effect::DropCall]);
}

#[test]
fn an_intent_that_could_not_be_written_is_announced() {
    let mut course = Course::new(terms(JournalMode::Always));
    let refused = Event::JournalRefused(Box::default());
    let effects = feed(&mut course, vec![Event::Accepted, Event::JobRead(small()), refused]);
    assert_eq!(names(&effects), ["ReadJob", "WriteJournal", "Announce"]);
    feed(&mut course, vec![Event::Announced, Event::Checked(None), Event::News(News::WorkerStops)]);
    let bill = Event::Dropped { bill: bill(), took: Duration::from_secs(1) };
    assert_eq!(names(&feed(&mut course, vec![bill])), ["StoreCost WastedFailure"], "nobody else could tell");
}

#[test]
fn no_call_begins_before_the_journal_or_the_dispatcher_can_tell_of_it() {
    let begin = |mode| {
        let mut course = Course::new(terms(mode));
        let effects = feed(&mut course, vec![Event::Accepted, Event::JobRead(small())]);
        (effects.last().map(|effect| names(std::slice::from_ref(effect))), course)
    };
    let (asked, mut course) = begin(JournalMode::Unhappy);
    assert_eq!(asked, Some(vec!["Announce".to_owned()]));
    assert!(feed(&mut course, vec![Event::Checked(None)]).is_empty(), "not yet");
    let lapsed = feed(&mut course.clone(), vec![Event::Lapsed]);
    assert_eq!(names(&lapsed), ["Report", "Settle Some(WorkerLost) kept false"]);
    assert_eq!(
        feed(&mut course, vec![Event::Announced, Event::Checked(None)]),
        [Effect::Check, Effect::Call(None)]
    );
    assert_eq!(begin(JournalMode::Always).0, Some(vec!["WriteJournal".to_owned()]));
}

#[test]
fn an_offer_whose_time_has_passed_is_never_called() {
    let mut course = course();
    feed(&mut course, vec![Event::Accepted, Event::JobRead(small()), Event::Announced]);
    let late = Moment { at: AT + Duration::from_secs(2), ..SURE };
    let effects = course.apply(late, Event::Checked(None));
    assert_eq!(names(&effects), ["Report", "Settle Some(WorkerLost) kept false"]);
}

#[test]
fn a_stored_input_is_fetched_and_the_job_looked_at_once_more() {
    let stored = job(r#""input_ref":{"object":"o","bytes":3}"#);
    let mut course = course();
    let read = vec![Event::Accepted, Event::JobRead(stored), Event::Announced];
    assert_eq!(names(&feed(&mut course, read)), ["ReadJob", "Announce", "Check"]);
    let events = vec![Event::Checked(None), Event::InputFetched];
    assert_eq!(names(&feed(&mut course, events)), ["FetchInput", "Check"]);
    let late = Moment { at: AT + Duration::from_secs(60), ..SURE };
    assert_eq!(course.apply(late, Event::Checked(None)), [Effect::Call(None)], "fetching may take a minute");
    let effects = feed(&mut course, vec![answer(Ok("out")), super::tests::stored(false), Event::CostStored]);
    assert!(effects.contains(&Effect::RemoveInput), "{effects:?}");
}

#[test]
fn attempts_that_earlier_workers_left_are_booked_before_the_job_begins() {
    let mut terms = terms(JournalMode::Always);
    let entry = |offer, attempt| Entry {
        attempt,
        key: Some(AttemptKey::of("_INBOX.old", offer)),
        pool: "modal@us-east".parse().unwrap(),
        started_us: AT,
        trace: Trace::Started { expected: lines() },
    };
    terms.handover.attempt = 3;
    terms.handover.journal.record(entry(1, 1));
    terms.handover.journal.record(entry(2, 2));
    let mut course = Course::new(terms.clone());
    let events = vec![Event::Accepted, Event::JobRead(small()), Event::CostStored, Event::CostStored];
    let effects = feed(&mut course, events);
    let booked = ["Report", "StoreCost WastedFailure"];
    assert_eq!(names(&effects), [&["ReadJob"][..], &booked, &booked, &["WriteJournal"]].concat());
    let Some(Effect::WriteJournal(journal)) = effects.last() else { panic!("{effects:?}") };
    assert_eq!((journal.entries.len(), journal.spent()), (3, UsdNanos::new(200)));
    // What cannot be booked now is booked before the job begins all the same.
    let mut refused = Course::new(terms.clone());
    let full = Event::CostRefused(Refusal::Unavailable("full".into()));
    let effects = feed(&mut refused, vec![Event::Accepted, Event::JobRead(small()), full, Event::Waited]);
    assert_eq!(names(&effects[3..]), ["Report", "Wait", "Report", "StoreCost WastedFailure"]);
    let later = feed(&mut refused, vec![Event::CostStored, Event::CostStored]);
    assert_eq!(names(&later), ["Report", "StoreCost WastedFailure", "WriteJournal"]);
    // The attempt beside a hedge runs.
    terms.handover.hedge = true;
    let mut hedge = Course::new(terms);
    let effects = feed(&mut hedge, vec![Event::Accepted, Event::JobRead(small())]);
    assert_eq!(names(&effects), ["ReadJob", "WriteJournal"]);
}

#[test]
fn an_attempt_that_an_earlier_worker_left_keeps_its_key() {
    let mut terms = terms(JournalMode::Unhappy);
    let key = AttemptKey::of("_INBOX.old", 1);
    terms.handover.journal.record(Entry {
        attempt: 1,
        key: Some(key),
        pool: "golem@us-east".parse().unwrap(),
        started_us: AT,
        trace: Trace::Running { run: "r".into(), expected: lines() },
    });
    let mut course = Course::new(terms);
    assert_eq!(course.key(), key);
    let effects = feed(&mut course, vec![Event::Accepted, Event::JobRead(small()), Event::Checked(None)]);
    assert!(matches!(effects.last(), Some(Effect::Call(Some(entry))) if entry.key == Some(key)));
}

#[test]
fn an_output_that_is_too_large_goes_by_reference_and_a_decision_that_is_stays_away() {
    let mut course = calling();
    let effects = feed(&mut course, vec![answer(Ok("long")), Event::ResultRefused(Refusal::TooLarge)]);
    assert!(matches!(effects.last(), Some(Effect::StoreOutput(result)) if result.output.is_some()));
    let place = OutputRef { object: "o".into(), bytes: 4 };
    let effects = feed(&mut course, vec![Event::OutputStored(place.clone())]);
    let Effect::StoreResult(_, result) = &effects[0] else { panic!("{effects:?}") };
    assert_eq!((result.status, &result.output, &result.output_ref), (Status::Succeeded, &None, &Some(place)));
    let other = of_another(&course);
    let effects = feed(&mut course, vec![stored(true), Event::StoredRead(Some(other))]);
    assert_eq!(names(&effects), ["ReadStored", "Report", "RemoveOutput", "StoreCost WastedRace"]);
}

#[test]
fn what_was_paid_for_waits_with_growing_pauses_until_it_is_stored() {
    let mut course = calling();
    let full = || Event::ResultRefused(Refusal::Unavailable("full".into()));
    let mut effects = feed(&mut course, vec![answer(Ok("out"))]);
    for _ in 0..9 {
        effects.extend(feed(&mut course, vec![full(), Event::Waited]));
    }
    let pauses: Vec<_> =
        effects.iter().filter_map(|e| if let Effect::Wait(p) = e { Some(*p) } else { None }).collect();
    assert!(pauses.is_sorted() && pauses.first() < pauses.last(), "{pauses:?}");
    let effects = feed(&mut course, vec![stored(false), Event::CostStored]);
    assert_eq!(names(&effects), ["StoreCost Useful", "Ack", "Settle None kept false"]);
}

#[test]
fn a_worker_that_must_stop_books_an_output_it_cannot_store_as_wasted() {
    let mut course = calling();
    let full = Event::ResultRefused(Refusal::Unavailable("full".into()));
    let events = vec![answer(Ok("out")), full, Event::News(News::WorkerStops), Event::CostStored];
    let effects = feed(&mut course, events);
    let end = ["Report", "StoreCost WastedFailure", "Settle Some(WorkerLost) kept false"];
    assert_eq!(names(&effects[3..]), end);
    // The next holder has the output of a run that the journal leads to, and books it then.
    let mut detached = calling();
    feed(&mut detached, vec![Event::Submitting, Event::JournalWritten(Box::default())]);
    let full = Event::ResultRefused(Refusal::Unavailable("full".into()));
    let effects = feed(&mut detached, vec![answer(Ok("out")), full, Event::News(News::WorkerStops)]);
    assert_eq!(names(&effects[3..]), ["Report", "Settle Some(WorkerLost) kept false"]);
}

#[test]
fn a_worker_that_must_stop_leaves_a_cost_it_cannot_store_in_the_journal() {
    let full = || Event::CostRefused(Refusal::Unavailable("full".into()));
    let stops = || Event::News(News::WorkerStops);
    let left = |mut course: Course, events: Vec<Event>| {
        let effects = feed(&mut course, events);
        let Some(Effect::WriteJournal(journal)) = effects.last().cloned() else { panic!("{effects:?}") };
        let trace = Trace::Started { expected: lines() };
        assert_eq!(journal.entries.last().map(|entry| &entry.trace), Some(&trace));
        let effects = feed(&mut course, vec![Event::JournalWritten(journal)]);
        let Effect::GiveBack(back) = &effects[0] else { panic!("{effects:?}") };
        assert_eq!(back.journal.abandoned(None).count(), 1, "the next holder books it");
    };
    left(calling(), vec![answer(Err(FailureClass::Timeout)), full(), stops()]);
    // What was paid for an output that cannot be stored, either.
    let refused = Event::ResultRefused(Refusal::Unavailable("full".into()));
    left(calling(), vec![answer(Ok("out")), refused, stops(), full()]);
    let mut beaten = calling();
    let events = vec![Event::News(News::Stop), Event::Dropped { bill: bill(), took: Duration::ZERO }, full()];
    feed(&mut beaten, events);
    let effects = feed(&mut beaten, vec![stops()]);
    assert_eq!(names(&effects), ["Report", "Settle Some(Cancelled) kept false"], "there is no next holder");
}

#[test]
fn whoever_finds_the_result_of_another_attempt_sees_to_its_cost() {
    let mut course = calling();
    feed(&mut course, vec![answer(Ok("out")), stored(true)]);
    let mut other = of_another(&course);
    other.bill = Some(bill());
    let events = vec![Event::StoredRead(Some(other)), Event::CostStored, Event::CostStored];
    let effects = feed(&mut course, events);
    let expected = ["Report", "StoreCost WastedRace", "StoreCost Useful", "Ack", "Settle None kept false"];
    assert_eq!(names(&effects), expected);
}

#[test]
fn whoever_gives_the_result_books_what_earlier_attempts_left() {
    let entry = Entry {
        attempt: 1,
        key: Some(AttemptKey::of("_INBOX.old", 1)),
        pool: "modal@us-east".parse().unwrap(),
        started_us: AT,
        trace: Trace::Running { run: "r".into(), expected: lines() },
    };
    // The journal tells of it only when the attempt writes down its own run.
    let mut course = calling();
    let effects = feed(&mut course, vec![Event::Submitting]);
    let Effect::WriteJournal(mut journal) = effects[0].clone() else { panic!("{effects:?}") };
    journal.record(entry);
    feed(&mut course, vec![Event::JournalWritten(journal), answer(Ok("out"))]);
    let mut beside = course.clone();
    let effects = feed(&mut course, vec![stored(false), Event::CostStored, Event::CostStored]);
    let booked = ["Report", "StoreCost Useful", "StoreCost WastedFailure"];
    assert_eq!(names(&effects), [&booked[..], &["Ack", "Settle None kept false"]].concat());
    // The attempt beside a hedge books itself.
    feed(&mut beside, vec![Event::News(News::Hedged)]);
    let effects = feed(&mut beside, vec![stored(false), Event::CostStored]);
    assert_eq!(names(&effects), ["StoreCost Useful", "Ack", "Settle None kept false"]);
}

#[test]
fn a_body_that_does_not_read_is_given_back() {
    let mut course = course();
    let effects = feed(&mut course, vec![Event::Accepted, Event::JobUnreadable("field `x`".into())]);
    let Effect::GiveBack(back) = &effects[1] else { panic!("{effects:?}") };
    assert_eq!(back.failure.class, FailureClass::Undecodable);
}
