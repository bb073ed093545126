//! When a recurring job runs: a cron expression in a time zone. Pure.
//!
//! An expression is evaluated on the wall clock of its zone, and each local time is then mapped to an instant. Days on
//! which the clocks change follow one of two rules:
//!
//! - **Some hours are named** (`0 2,14 * * *`, `*/30 2 * * *`, `0 */2 * * *`): each named local time of a day comes exactly
//!   once. A local time that the change leaves out comes at the moment of the change; several of them come together, as one
//!   run. A local time that exists twice comes the first time.
//! - **Every hour is meant** (`0 * * * *`, `*/15 * * * *`): runs follow real time, so they come in both of two equal hours, and
//!   not in an hour that does not exist.

use std::{collections::VecDeque, str::FromStr as _, time::Duration};

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset as _, TimeDelta, TimeZone as _, Utc};
use chrono_tz::Tz;
use croner::{Cron, CronIterator, Direction};

use super::{AHEAD, MISSED_MAX, Missed, RecurringError};
use crate::Micros;

/// Hours of a day; an expression that names all of them follows real time.
const HOURS: usize = 24;
/// Longer than any clock was ever set back or forward.
const CHANGE_MAX: TimeDelta = TimeDelta::hours(25);

/// When something runs.
#[derive(Clone, Debug)]
pub struct Timetable {
    cron: Cron,
    zone: Tz,
    follows: Follows,
}

/// What an expression means on a day on which the clocks change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Follows {
    /// Each named local time comes once a day.
    WallClock,
    /// Every hour is meant: both of two equal ones.
    RealTime,
}

impl Timetable {
    /// Reads a cron expression and a time zone.
    pub fn new(cron: &str, zone: &str) -> Result<Self, RecurringError> {
        let refuse = |rule: String| RecurringError::Cron { cron: cron.chars().take(80).collect(), rule };
        let read = Cron::from_str(cron).map_err(|error| refuse(error.to_string()))?;
        let zone: Tz = zone.parse().map_err(|_| RecurringError::Zone(zone.chars().take(80).collect()))?;
        let every_hour = read.pattern.hours.values().len() == HOURS;
        let follows = if every_hour { Follows::RealTime } else { Follows::WallClock };
        let timetable = Self { cron: read, zone, follows };
        let soon: Micros = DateTime::<Utc>::UNIX_EPOCH.into();
        if timetable.after(soon).next().is_none() {
            return Err(refuse("never comes".into()));
        }
        Ok(timetable)
    }

    /// The times after `at`, earliest first.
    pub fn after(&self, at: Micros) -> impl Iterator<Item = Micros> {
        Walk::new(self, at, Direction::Forward)
    }

    /// The times before `at`, latest first.
    fn before(&self, at: Micros) -> impl Iterator<Item = Micros> {
        Walk::new(self, at, Direction::Backward)
    }

    /// The runs to store now, earliest first, when all up to `last` are stored: missed ones by `rule`, those of the next
    /// [`AHEAD`], and in any case the next.
    pub fn plan(&self, last: Micros, now: Micros, rule: Missed) -> Vec<Micros> {
        let most = match rule {
            Missed::Skip => 0,
            Missed::Last => 1,
            Missed::All => MISSED_MAX,
        };
        // A microsecond later, so that a run of this very moment counts as missed and is not left out.
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

    /// The one or two instants at which a local time comes, earliest first.
    fn instants(&self, local: NaiveDateTime) -> [Option<DateTime<Utc>>; 2] {
        match (self.zone.from_local_datetime(&local), self.follows) {
            (LocalResult::Single(at), _) => [Some(at.to_utc()), None],
            (LocalResult::Ambiguous(first, second), Follows::RealTime) => {
                [Some(first.to_utc()), Some(second.to_utc())]
            }
            (LocalResult::Ambiguous(first, _), Follows::WallClock) => [Some(first.to_utc()), None],
            (LocalResult::None, Follows::RealTime) => [None, None],
            (LocalResult::None, Follows::WallClock) => [Some(self.change_over(local)), None],
        }
    }

    /// The moment at which the clock is set forward over `local`, a time that does not exist.
    fn change_over(&self, local: NaiveDateTime) -> DateTime<Utc> {
        let near = |side: NaiveDateTime| {
            self.zone.from_local_datetime(&side).earliest().map_or(side.and_utc(), |at| at.to_utc())
        };
        // Zones change their clocks on whole seconds.
        let (mut before, mut after) =
            (near(local - CHANGE_MAX).timestamp(), near(local + CHANGE_MAX).timestamp());
        let instant = |seconds| DateTime::from_timestamp(seconds, 0).unwrap_or_default();
        while after - before > 1 {
            let middle = before + (after - before) / 2;
            if self.local(instant(middle), instant(middle)) < local {
                before = middle;
            } else {
                after = middle;
            }
        }
        instant(after)
    }

    /// What the clock would show at `at` if it stood as it does at `like`.
    fn local(&self, at: DateTime<Utc>, like: DateTime<Utc>) -> NaiveDateTime {
        let naive = at.naive_utc();
        let offset = self.zone.offset_from_utc_datetime(&like.naive_utc()).fix();
        naive.checked_add_offset(offset).unwrap_or(naive)
    }
}

/// Walks through the times of a timetable, from a bound on.
struct Walk<'a> {
    table: &'a Timetable,
    locals: CronIterator<NaiveDateTime>,
    forward: bool,
    /// Only times beyond it are given.
    bound: DateTime<Utc>,
    /// The nearer instant of the local time read last.
    next: Option<DateTime<Utc>>,
    /// The farther instants of local times that exist twice. No more than an expression names in the hours between two
    /// changes of the clock.
    farther: VecDeque<DateTime<Utc>>,
    given: Option<DateTime<Utc>>,
}

impl<'a> Walk<'a> {
    fn new(table: &'a Timetable, at: Micros, direction: Direction) -> Self {
        let bound = at.to_datetime();
        let forward = direction == Direction::Forward;
        // Where the clock is set back between a start and the times we look for, the local time of the start would hide some.
        let beside = if forward { CHANGE_MAX } else { -CHANGE_MAX };
        let beside = bound.checked_add_signed(beside).unwrap_or(bound);
        let (here, there) = (table.local(bound, bound), table.local(bound, beside));
        // Backward, the search leaves out its start, and reads no more of it than the second.
        let start = if forward { here.min(there) } else { here.max(there) + TimeDelta::seconds(1) };
        let locals = CronIterator::new(table.cron.clone(), start, false, direction);
        Self { table, locals, forward, bound, next: None, farther: VecDeque::new(), given: None }
    }

    /// Whether the walk comes to `one` before it comes to `other`.
    fn sooner(&self, one: DateTime<Utc>, other: DateTime<Utc>) -> bool {
        if self.forward { one < other } else { one > other }
    }

    /// Reads local times until one has an instant.
    fn read(&mut self) {
        while self.next.is_none() {
            let Some(local) = self.locals.next() else { return };
            let [first, second] = self.table.instants(local);
            let (near, far) = match second {
                Some(_) if !self.forward => (second, first),
                _ => (first, second),
            };
            self.next = near;
            self.farther.extend(far);
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Micros;

    fn next(&mut self) -> Option<Micros> {
        loop {
            self.read();
            let far = self.farther.front().copied();
            let at = match (self.next, far) {
                (Some(near), Some(far)) if self.sooner(far, near) => self.farther.pop_front()?,
                (Some(_), _) => self.next.take()?,
                (None, _) => self.farther.pop_front()?,
            };
            // Local times that a change leaves out share one instant.
            if self.sooner(self.bound, at) && self.given != Some(at) {
                self.given = Some(at);
                return Some(at.into());
            }
        }
    }
}

#[cfg(test)]
mod tests;
