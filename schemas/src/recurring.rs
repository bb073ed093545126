//! Jobs that come again and again: what they are, and when they run. Pure; dispatchers store each run ahead of its time.

use std::{fmt, str::FromStr as _, time::Duration};

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use croner::Cron;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{
    JobId, Mailbox, Micros, Tenant,
    job::{Job, JobBody, JobError, JobHeaders},
    subjects::JobSubject,
};

/// The label that carries the name of a recurring job into each of its runs.
pub const LABEL: &str = "recurring";

/// Runs are stored so long ahead: a server and a dispatcher may be away for so long at any time, and the next run is
/// always stored, however far it is, so that it comes even when no dispatcher is there.
pub const AHEAD: Duration = Duration::from_secs(10);

/// Missed runs that are made good for at most, by the rule `all`: the newest. More would be a flood nobody wants.
pub const MISSED_MAX: usize = 100;

/// The namespace of the ids of runs.
const RUNS: Uuid = Uuid::from_u128(0x0b8f_5a3e_6c1d_5d0e_9a51_2f8d_64c7_e0a1);

/// What becomes of runs whose time passed while no dispatcher was there to store them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missed {
    /// They are left out.
    Skip,
    /// Only the newest is run, at once.
    #[default]
    Last,
    /// Each is run, at once, up to [`MISSED_MAX`].
    All,
}

impl Missed {
    /// Every rule.
    pub const ALL: [Self; 3] = [Self::Skip, Self::Last, Self::All];

    /// Its name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Last => "last",
            Self::All => "all",
        }
    }
}

impl fmt::Display for Missed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which rule a text names.
impl std::str::FromStr for Missed {
    type Err = RecurringError;
    fn from_str(text: &str) -> Result<Self, RecurringError> {
        let found = Self::ALL.into_iter().find(|rule| rule.as_str() == text);
        found.ok_or_else(|| RecurringError::Missed(text.to_owned()))
    }
}

/// A recurring job, as it is stored.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recurring {
    /// Its name, unique in its tenant.
    pub name: Mailbox,
    /// Five fields, or six with seconds in front, as cron writes them.
    pub cron: String,
    /// The IANA time zone the fields mean, for instance `Europe/Berlin`.
    pub zone: String,
    /// What becomes of missed runs.
    #[serde(default)]
    pub missed: Missed,
    /// A run that has not started so long after its time ends `expired`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_within_us: Option<u64>,
    /// Where each run is published.
    pub subject: JobSubject,
    /// Each run's body, without id and times.
    pub body: JobBody,
    /// When it was set; runs before that are not missed.
    pub since_us: Micros,
}

/// Why a recurring job is none.
#[derive(Debug, thiserror::Error)]
pub enum RecurringError {
    /// The expression does not read.
    #[error("cron `{cron}`: {rule}")]
    Cron {
        /// The expression.
        cron: String,
        /// The rule it breaks.
        rule: String,
    },
    /// No such zone.
    #[error("time zone `{0}` is not in the IANA database; write, for instance, Europe/Berlin or UTC")]
    Zone(String),
    /// No such rule.
    #[error("missed `{0}` must be skip, last or all")]
    Missed(String),
    /// Its runs would not be jobs.
    #[error(transparent)]
    Job(#[from] JobError),
}

/// When something runs.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
}

impl Timetable {
    /// Reads a cron expression and a time zone.
    pub fn new(cron: &str, zone: &str) -> Result<Self, RecurringError> {
        let refuse = |rule: String| RecurringError::Cron { cron: cron.chars().take(80).collect(), rule };
        let read = Cron::from_str(cron).map_err(|error| refuse(error.to_string()))?;
        let zone: Tz = zone.parse().map_err(|_| RecurringError::Zone(zone.chars().take(80).collect()))?;
        let timetable = Self { cron: read, zone };
        let soon: Micros = DateTime::<Utc>::UNIX_EPOCH.into();
        if timetable.after(soon).next().is_none() {
            return Err(refuse("never comes".into()));
        }
        Ok(timetable)
    }

    /// The times after `at`, earliest first. Across a change to summer time a time that does not exist comes at the
    /// moment of the change; one that exists twice comes once, unless the expression means every hour.
    pub fn after(&self, at: Micros) -> impl Iterator<Item = Micros> {
        self.cron.iter_after(at.to_datetime().with_timezone(&self.zone)).map(|time| time.to_utc().into())
    }

    /// The times before `at`, latest first.
    fn before(&self, at: Micros) -> impl Iterator<Item = Micros> {
        self.cron.iter_before(at.to_datetime().with_timezone(&self.zone)).map(|time| time.to_utc().into())
    }

    /// The runs to store now, earliest first, when all up to `last` are stored: missed ones by `rule`, those of the next
    /// [`AHEAD`], and in any case the next.
    pub fn plan(&self, last: Micros, now: Micros, rule: Missed) -> Vec<Micros> {
        let most = match rule {
            Missed::Skip => 0,
            Missed::Last => 1,
            Missed::All => MISSED_MAX,
        };
        // A microsecond on, so that a run of this very moment counts as missed and not as nothing.
        let just_now = now + Duration::from_micros(1);
        let mut runs: Vec<Micros> = self.before(just_now).take_while(|at| *at > last).take(most).collect();
        runs.reverse();
        let from = last.max(now);
        for (nth, at) in self.after(from).enumerate() {
            if at > now + AHEAD && (nth > 0 || last > now) {
                break;
            }
            runs.push(at);
        }
        runs
    }
}

impl Recurring {
    /// When it runs.
    pub fn timetable(&self) -> Result<Timetable, RecurringError> {
        Timetable::new(&self.cron, &self.zone)
    }

    /// Checks everything that would make a run of it no job.
    pub fn check(&self) -> Result<(), RecurringError> {
        self.timetable()?;
        let (_, body) = self.run(self.since_us);
        Job::check(self.subject.clone(), crate::Codec::Json, JobHeaders::default(), body, self.since_us)?;
        Ok(())
    }

    /// The run of that time: its id, which is the same whoever makes it, and its body.
    pub fn run(&self, at: Micros) -> (JobId, JobBody) {
        let name = format!("{}\0{}\0{}", self.subject.tenant, self.name, at.get());
        let id = JobId::new(Uuid::new_v5(&RUNS, name.as_bytes()));
        let mut body = self.body.clone();
        body.id = Some(id.to_string());
        body.run_at = Some(at.to_datetime());
        body.deadline = self.start_within_us.map(|span| (at + Duration::from_micros(span)).to_datetime());
        body.labels.insert(LABEL.to_owned(), self.name.to_string());
        (id, body)
    }

    /// Who pays.
    pub fn tenant(&self) -> &Tenant {
        &self.subject.tenant
    }
}

#[cfg(test)]
mod tests {
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

    proptest! {
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
}
