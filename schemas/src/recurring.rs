//! Jobs that come again and again: what they are, and when they run. Pure; dispatchers store each run ahead of its time.

mod timetable;

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub use self::timetable::Timetable;
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
