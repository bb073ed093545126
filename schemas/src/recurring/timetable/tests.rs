use proptest::prelude::*;

use super::*;

fn at(text: &str) -> Micros {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc().into()
}

fn berlin(cron: &str) -> Timetable {
    Timetable::new(cron, "Europe/Berlin").unwrap()
}

fn check_after(cron: &str, from: &str, expected: &[&str]) {
    let found: Vec<String> =
        berlin(cron).after(at(from)).take(expected.len()).map(|t| t.to_string()).collect();
    assert_eq!(found, expected, "{cron} after {from}");
}

#[test]
fn a_time_is_meant_in_its_zone_also_when_the_clocks_change() {
    check_after(
        "0 3 * * *",
        "2026-06-01T00:00:00Z",
        &["2026-06-01T01:00:00.000Z", "2026-06-02T01:00:00.000Z"],
    );
    // Half past two does not exist on 29 March 2026.
    check_after(
        "30 2 * * *",
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00.000Z", "2026-03-30T00:30:00.000Z"],
    );
    // It exists twice on 25 October 2026.
    check_after(
        "30 2 * * *",
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:30:00.000Z", "2026-10-26T01:30:00.000Z"],
    );
}

#[test]
fn each_named_hour_comes_once_on_the_days_on_which_the_clocks_change() {
    // Spring 2027: 02:00 does not exist, so its run comes at the change. Autumn: 02:00 exists twice, so its run comes first.
    check_after(
        "0 2,14 * * *",
        "2027-03-27T23:00:00Z",
        &["2027-03-28T01:00:00.000Z", "2027-03-28T12:00:00.000Z", "2027-03-29T00:00:00.000Z"],
    );
    check_after(
        "0 2,14 * * *",
        "2027-10-30T22:00:00Z",
        &["2027-10-31T00:00:00.000Z", "2027-10-31T13:00:00.000Z", "2027-11-01T01:00:00.000Z"],
    );
    // 02:00 and 03:00 are one moment in spring, and so one run.
    check_after(
        "0 1-3 * * *",
        "2027-03-27T23:00:00Z",
        &["2027-03-28T00:00:00.000Z", "2027-03-28T01:00:00.000Z", "2027-03-28T23:00:00.000Z"],
    );
    check_after(
        "*/30 2 * * *",
        "2027-03-27T23:00:00Z",
        &["2027-03-28T01:00:00.000Z", "2027-03-29T00:00:00.000Z"],
    );
    check_after(
        "*/30 2 * * *",
        "2027-10-30T22:00:00Z",
        &["2027-10-31T00:00:00.000Z", "2027-10-31T00:30:00.000Z", "2027-11-01T01:00:00.000Z"],
    );
    // Asked in the second of two equal hours: the run of the first is over.
    check_after("45 2,14 * * *", "2027-10-31T01:10:00Z", &["2027-10-31T13:45:00.000Z"]);
}

#[test]
fn every_hour_means_every_real_hour() {
    check_after(
        "30 * * * *",
        "2027-10-31T00:00:00Z",
        &["2027-10-31T00:30:00.000Z", "2027-10-31T01:30:00.000Z", "2027-10-31T02:30:00.000Z"],
    );
    check_after(
        "*/30 * * * *",
        "2027-03-28T00:20:00Z",
        &["2027-03-28T00:30:00.000Z", "2027-03-28T01:00:00.000Z", "2027-03-28T01:30:00.000Z"],
    );
    // Asked late in the first of two equal hours, the second is still to come from its beginning.
    check_after("5 0-23 * * *", "2027-10-31T00:50:00Z", &["2027-10-31T01:05:00.000Z"]);
}

#[test]
fn a_day_that_a_zone_leaves_out_comes_at_the_change() {
    let apia = Timetable::new("0 9 * * *", "Pacific/Apia").unwrap();
    let found: Vec<String> = apia.after(at("2011-12-29T20:00:00Z")).take(2).map(|t| t.to_string()).collect();
    assert_eq!(found, ["2011-12-30T10:00:00.000Z", "2011-12-30T19:00:00.000Z"]);
}

#[test]
fn an_expression_that_is_none_or_never_comes_is_refused_with_its_text() {
    for (cron, zone, word) in [
        ("every day", "UTC", "every day"),
        ("61 * * * *", "UTC", "61"),
        ("0 0 30 2 *", "UTC", "0 0 30 2 *"),
        ("0 0 * * *", "Mars/Olympus", "Mars/Olympus"),
    ] {
        let said = Timetable::new(cron, zone).unwrap_err().to_string();
        assert!(said.contains(word), "{said}");
    }
}

#[test]
fn missed_runs_are_handled_by_the_rule_and_the_next_is_always_stored() {
    let table = berlin("0 * * * *");
    let (last, now) = (at("2026-06-01T08:00:00Z"), at("2026-06-01T11:20:00Z"));
    let hours = |rule| -> Vec<String> {
        table.plan(last, now, rule).iter().map(|t| t.to_string()[11..13].to_owned()).collect()
    };
    assert_eq!(hours(Missed::Skip), ["12"]);
    assert_eq!(hours(Missed::Last), ["11", "12"]);
    assert_eq!(hours(Missed::All), ["09", "10", "11", "12"]);
    // The next is stored already: nothing to do until it has come.
    assert!(table.plan(at("2026-06-01T12:00:00Z"), now, Missed::All).is_empty());
}

/// Zones whose clocks change by an hour, by half an hour, and at Ramadan.
const ZONES: [&str; 6] = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "America/Havana",
    "Asia/Kolkata",
];

/// The moments between `start` and `end`, minutes since the epoch, at which an expression of `minutes` and `hours` is due,
/// read off a clock that is looked at each minute.
fn read_off_a_clock(zone: Tz, minutes: &[u32], hours: &[u32], start: i64, end: i64) -> Vec<Micros> {
    let local =
        |minute: i64| DateTime::from_timestamp(minute * 60, 0).unwrap().with_timezone(&zone).naive_local();
    let instant = |minute: i64| Micros::new(u64::try_from(minute).unwrap() * 60_000_000);
    let named = |at: NaiveDateTime| {
        minutes.contains(&chrono::Timelike::minute(&at)) && hours.contains(&chrono::Timelike::hour(&at))
    };
    if hours.len() == HOURS {
        return (start + 1..=end).filter(|minute| named(local(*minute))).map(instant).collect();
    }
    // The latest local time that any clock has shown; each minute between two such is due when the later one is shown.
    let (mut shown, mut due) = (local(start), Vec::new());
    for minute in start + 1..=end {
        let due_now = (1..).map(|n| shown + TimeDelta::minutes(n)).take_while(|at| *at <= local(minute));
        if due_now.clone().any(named) {
            due.push(instant(minute));
        }
        shown = shown.max(local(minute));
    }
    due
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// Forward and backward, with named hours and with all of them, runs come when a clock on the wall says so.
    #[test]
    fn each_named_local_time_comes_once_a_day(
        zone in proptest::sample::select(&ZONES[..]),
        hours in prop_oneof![
            4 => proptest::collection::btree_set(0..5u32, 1..4),
            1 => proptest::collection::btree_set(0..24u32, 1..6),
            1 => Just((0..24u32).collect()),
        ],
        minutes in proptest::collection::btree_set(0..60u32, 1..4),
        year in 2020..2036i32,
        // The clocks change around these days.
        day in prop_oneof![60..100u32, 270..312u32, 1..360u32],
        second in 0..60u64,
    ) {
        let (hours, minutes) = (Vec::from_iter(hours), Vec::from_iter(minutes));
        let list = |of: &[u32]| of.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
        let table = Timetable::new(&format!("{} {} * * *", list(&minutes), list(&hours)), zone).unwrap();
        let from = chrono::NaiveDate::from_yo_opt(year, day).unwrap().and_hms_opt(1, 17, 0).unwrap();
        let start = from.and_utc().timestamp() / 60;
        // The clock is watched from two days before.
        let watched = read_off_a_clock(table.zone, &minutes, &hours, start - 2_880, start + 12_960);
        let since = Micros::new(u64::try_from(start).unwrap() * 60_000_000 + second * 1_000_000 + 1);
        let until = Micros::new(u64::try_from(start + 12_960).unwrap() * 60_000_000);
        let expected: Vec<Micros> = watched.into_iter().filter(|at| *at > since).collect();
        let found: Vec<Micros> = table.after(since).take_while(|at| *at <= until).collect();
        prop_assert!(found.is_sorted_by(|a, b| a < b));
        prop_assert_eq!(&found, &expected);
        let mut back: Vec<Micros> =
            table.before(until + Duration::from_micros(1)).take_while(|at| *at > since).collect();
        back.reverse();
        prop_assert_eq!(back, expected);
    }

    /// Whatever the pauses between two looks, each time is stored once, in order, and nothing is left out while the
    /// looks are closer than [`AHEAD`].
    #[test]
    fn every_time_is_stored_once(pauses in proptest::collection::vec(1..9_000u64, 1..60), every in 1..8u64) {
        let table = Timetable::new(&format!("*/{every} * * * * *"), "UTC").unwrap();
        let start = at("2026-06-01T00:00:00Z");
        let (mut last, mut now, mut stored) = (start, start, Vec::new());
        for pause in pauses {
            now = now + Duration::from_millis(pause);
            let runs = table.plan(last, now, Missed::Skip);
            if let Some(newest) = runs.last() { last = *newest; }
            stored.extend(runs);
        }
        let expected: Vec<Micros> = table.after(start).take(stored.len()).collect();
        // The first look may come later than the first times.
        let skipped = expected.len() - stored.len();
        let from = stored.first().copied().unwrap_or(start);
        prop_assert_eq!(skipped, 0);
        let all: Vec<Micros> = table.after(from - Duration::from_micros(1)).take(stored.len()).collect();
        prop_assert_eq!(stored, all);
    }
}
