//! Windows of the day, on the wall clock of a time zone, that set how many machines there are.

use std::time::Duration;

use chrono::{Datelike as _, NaiveTime, Weekday};
use chrono_tz::Tz;
use schemas::Micros;

/// How closely what lies ahead is looked at: a window that is shorter may be overlooked.
const STEP: Duration = Duration::from_secs(60);
/// Steps looked ahead at most.
const STEPS_MAX: u32 = 240;

/// How many machines there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// At least so many, whether or not anything waits.
    pub floor: u32,
    /// At most so many.
    pub ceiling: u32,
}

impl Bounds {
    /// Always so many.
    pub const fn keep(machines: u32) -> Self {
        Self { floor: machines, ceiling: machines }
    }

    /// Between two numbers, by what waits.
    pub const fn between(floor: u32, ceiling: u32) -> Self {
        Self { floor, ceiling }
    }
}

/// A time of the day on some days of the week.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    /// Monday first.
    days: [bool; 7],
    from: NaiveTime,
    /// Not included. Where it is not after `from`, the window ends on the next day.
    to: NaiveTime,
    zone: Tz,
    /// What holds in it.
    pub bounds: Bounds,
}

/// Why a window is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WindowError {
    /// Not a day.
    #[error("days `{0}` must be `daily`, or days such as `mon-fri` or `sat,sun`")]
    Days(String),
    /// Not a time.
    #[error("time `{0}` must be hours and minutes such as `08:30`")]
    Time(String),
    /// No such zone.
    #[error("time zone `{0}` is not in the IANA database; write, for instance, Europe/Berlin or UTC")]
    Zone(String),
}

impl Window {
    /// Reads days (`daily`, `mon-fri`, `sat,sun`), two times of the day (`08:30`), and a time zone (`Europe/Berlin`).
    pub fn new(days: &str, from: &str, to: &str, zone: &str, bounds: Bounds) -> Result<Self, WindowError> {
        let time = |text: &str| {
            NaiveTime::parse_from_str(text, "%H:%M").map_err(|_| WindowError::Time(text.to_owned()))
        };
        Ok(Self {
            days: read_days(days).ok_or_else(|| WindowError::Days(days.to_owned()))?,
            from: time(from)?,
            to: time(to)?,
            zone: zone.parse().map_err(|_| WindowError::Zone(zone.to_owned()))?,
            bounds,
        })
    }

    /// Whether it holds at a moment. On days on which the clocks change it follows the wall clock.
    pub fn covers(&self, at: Micros) -> bool {
        let local = at.to_datetime().with_timezone(&self.zone);
        let (day, time) = (local.weekday(), local.time());
        let on = |day: Weekday| self.days[day.num_days_from_monday() as usize];
        if self.from < self.to {
            return on(day) && time >= self.from && time < self.to;
        }
        (on(day) && time >= self.from) || (on(day.pred()) && time < self.to)
    }
}

fn read_days(text: &str) -> Option<[bool; 7]> {
    if text == "daily" {
        return Some([true; 7]);
    }
    let day = |name: &str| name.parse::<Weekday>().ok().map(|day| day.num_days_from_monday() as usize);
    let mut days = [false; 7];
    for part in text.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (mut at, last) = (day(first)?, day(last)?);
        days[at] = true;
        while at != last {
            at = (at + 1) % 7;
            days[at] = true;
        }
    }
    Some(days)
}

/// The bounds at a moment.
fn bounds_at(windows: &[Window], usual: Bounds, at: Micros) -> Bounds {
    windows.iter().find(|window| window.covers(at)).map_or(usual, |window| window.bounds)
}

/// The bounds now, with the floor as high as it will be by the time that a machine ordered now is there.
pub(super) fn bounds(windows: &[Window], usual: Bounds, now: Micros, boot: Duration) -> Bounds {
    let present = bounds_at(windows, usual, now);
    if windows.is_empty() {
        return present;
    }
    let steps = u32::try_from(boot.as_micros().div_ceil(STEP.as_micros())).unwrap_or(u32::MAX).min(STEPS_MAX);
    let ahead = (1..=steps).map(|step| bounds_at(windows, usual, now + (STEP * step).min(boot)).floor);
    let floor = ahead.fold(present.floor, u32::max);
    Bounds { floor, ceiling: present.ceiling.max(floor) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Micros {
        text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().into()
    }

    #[test]
    fn a_window_follows_the_wall_clock_of_its_zone() {
        let office = Window::new("mon-fri", "08:00", "18:00", "Europe/Berlin", Bounds::keep(2)).unwrap();
        // A Friday in winter and one in summer.
        assert!(office.covers(at("2026-11-27T07:00:00Z")) && !office.covers(at("2026-11-27T06:59:59Z")));
        assert!(office.covers(at("2026-07-24T06:00:00Z")) && !office.covers(at("2026-07-24T16:00:00Z")));
        assert!(!office.covers(at("2026-11-28T10:00:00Z")), "a Saturday");
        let night = Window::new("fri", "22:00", "04:00", "UTC", Bounds::keep(2)).unwrap();
        assert!(night.covers(at("2026-11-27T23:00:00Z")) && night.covers(at("2026-11-28T03:59:00Z")));
        assert!(!night.covers(at("2026-11-27T03:00:00Z")), "Thursday's night is not meant");
    }

    #[test]
    fn days_are_read_across_the_end_of_the_week() {
        assert_eq!(read_days("sat-mon"), Some([true, false, false, false, false, true, true]));
        assert_eq!(read_days("tue, thu"), Some([false, true, false, true, false, false, false]));
        assert_eq!(read_days("someday"), None);
    }

    #[test]
    fn a_floor_is_prepared_for_a_start_ahead_and_let_go_at_its_end() {
        let window = Window::new("daily", "08:00", "09:00", "UTC", Bounds::keep(3)).unwrap();
        let boot = Duration::from_secs(600);
        for (time, floor) in
            [("07:49:59", 0), ("07:50:00", 3), ("08:30:00", 3), ("08:59:59", 3), ("09:00:00", 0)]
        {
            assert_eq!(
                bounds(
                    std::slice::from_ref(&window),
                    Bounds::between(0, 1),
                    at(&format!("2026-11-27T{time}Z")),
                    boot
                )
                .floor,
                floor,
                "{time}"
            );
        }
    }
}
