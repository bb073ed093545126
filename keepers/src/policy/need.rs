//! How many machines are needed: for the steady flow, for deadlines, for a backfill. Nothing here knows what was ordered before,
//! but as what stands or starts, so that a need never feeds on itself.

use std::time::Duration;

use schemas::Micros;

use crate::demand::Waiting;

/// The part of the time to a deadline that is kept in reserve: a twentieth.
const MARGIN: u32 = 20;
/// More machines than anybody has.
const MOST: f64 = 1e6;

/// Machines for a steady flow: `rate` jobs a second keep `A = rate · mean` slots busy on average, and `z` standard deviations more
/// cover chance. `ahead` slots are filled before ours.
pub(super) fn flow(rate: f64, mean: Duration, z: f64, ahead: u32, slots: u32) -> u32 {
    let busy = rate * mean.as_secs_f64();
    whole((busy + z * busy.sqrt() - f64::from(ahead)) / f64::from(slots.max(1)))
}

/// What can work on jobs that wait.
#[derive(Clone, Debug)]
pub(super) struct Supply {
    /// Machines that stand or start: from when on they work, and their slots. Earliest first.
    pub(super) standing: Vec<(Micros, u32)>,
    /// Slots that are free now at pools that this one does not pay for.
    pub(super) elsewhere: f64,
    /// Slots of our own that others use all the time.
    pub(super) taken: f64,
    /// When a machine that is ordered now works surely.
    pub(super) new_from: Micros,
    /// Slots of such a machine.
    pub(super) slots: u32,
    /// Within what time from then jobs without a deadline are to be done.
    pub(super) patience: Duration,
}

/// Machines for jobs with deadlines.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Due {
    /// The machines that each deadline needs, those that stand included, and the jobs that are due then.
    pub(super) each: Vec<Need>,
}

/// What one deadline needs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Need {
    /// The deadline; `None` for jobs without one.
    pub(super) by: Option<Micros>,
    /// The machines.
    pub(super) machines: u32,
    /// The jobs.
    pub(super) jobs: u64,
    /// No machine that is ordered now works in time, and those that stand are not enough.
    pub(super) late: bool,
}

impl Due {
    /// Machines for all deadlines, without jobs that have none.
    pub(super) fn dated(&self) -> u32 {
        self.each.iter().filter(|need| need.by.is_some()).map(|need| need.machines).max().unwrap_or(0)
    }

    /// Machines for jobs without a deadline, when all others are done as well.
    pub(super) fn undated(&self) -> u32 {
        self.each.iter().filter(|need| need.by.is_none()).map(|need| need.machines).max().unwrap_or(0)
    }

    /// The jobs that may be late with so many machines, and the first of their deadlines.
    pub(super) fn at_risk(&self, machines: u32) -> Option<(u64, Micros)> {
        let late = || self.each.iter().filter(|need| need.late || need.machines > machines);
        let by = late().filter_map(|need| need.by).min()?;
        Some((late().filter(|need| need.by.is_some()).map(|need| need.jobs).sum(), by))
    }

    /// The deadline that needs most machines.
    pub(super) fn tightest(&self) -> Option<Need> {
        self.each.iter().filter(|need| need.by.is_some()).copied().max_by_key(|need| need.machines)
    }
}

/// The fewest machines with which everything that waits is done by its deadline. For each deadline `d`, the work due by then, less
/// what stands and starts can do, is divided by what one more machine can do: `slots · (d - now - boot_p95 - margin)`.
pub(super) fn due(waiting: &[Waiting], supply: &Supply, now: Micros) -> Due {
    let mut due = Due::default();
    let mut work = 0.0;
    for group in waiting {
        work += group.slot_us as f64 / 1e6;
        let by = group.by.unwrap_or(supply.new_from + supply.patience);
        let span = by.since(now);
        let margin = if group.by.is_some() { span / MARGIN } else { Duration::ZERO };
        // What others use is not there for these.
        let mut left = work + (supply.taken - supply.elsewhere) * span.as_secs_f64();
        let mut machines = 0;
        for (from, slots) in &supply.standing {
            if left <= 0.0 {
                break;
            }
            let there = by.since(*from).as_secs_f64() * f64::from(*slots);
            if there > 0.0 {
                machines += 1;
                left -= there;
            }
        }
        let window = by.since(supply.new_from + margin).as_secs_f64();
        let late = left > 0.0 && window <= 0.0;
        if left > 0.0 && !late {
            let more = left / (window * f64::from(supply.slots.max(1)));
            machines += whole(more);
        }
        due.each.push(Need { by: group.by, machines, jobs: group.jobs, late });
    }
    due
}

/// Rounds up.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and a million")]
fn whole(machines: f64) -> u32 {
    // A sum that is a hair above a whole number is that number.
    (machines - 1e-9).ceil().clamp(0.0, MOST) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Micros = Micros::new(1_795_000_000_000_000);

    fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn supply(boot: u64) -> Supply {
        Supply {
            standing: Vec::new(),
            elsewhere: 0.0,
            taken: 0.0,
            new_from: NOW + secs(boot),
            slots: 4,
            patience: secs(600),
        }
    }

    fn waiting(by: Option<u64>, jobs: u64, each_us: u64) -> Waiting {
        Waiting { by: by.map(|by| NOW + secs(by)), jobs, slot_us: jobs * each_us }
    }

    #[test]
    fn the_report_s_backfill_of_eight_hours_needs_three_machines() {
        // 200,000 jobs of 1.157 s are 16.1 hours of a machine of four slots.
        let jobs = [waiting(Some(8 * 3600), 200_000, 1_157_000)];
        assert_eq!(due(&jobs, &supply(600), NOW).dated(), 3);
    }

    #[test]
    fn a_flow_needs_its_mean_and_what_covers_chance() {
        assert_eq!(flow(0.0, secs(1), 1.0, 0, 4), 0);
        // 10 slots and 3.2 more; with two deviations 16.3.
        assert_eq!(flow(10.0, secs(1), 1.0, 8, 4), 2);
        assert_eq!([1.0, 2.0].map(|z| flow(10.0, secs(1), z, 0, 4)), [4, 5]);
    }

    #[test]
    fn what_stands_and_what_starts_is_counted_from_when_it_works() {
        let jobs = [waiting(Some(1_000), 1_000, 4_000_000)];
        // 4,000 slot-seconds; a new machine works for 1,000 - 100 - 50 seconds.
        let mut supply = supply(100);
        assert_eq!(due(&jobs, &supply, NOW).dated(), 2);
        supply.standing = vec![(NOW, 4)];
        assert_eq!(due(&jobs, &supply, NOW).dated(), 1);
        supply.standing = vec![(NOW + secs(500), 4)];
        assert_eq!(due(&jobs, &supply, NOW).dated(), 2);
        supply.elsewhere = 4.0;
        assert_eq!(due(&jobs, &supply, NOW).dated(), 0);
    }

    #[test]
    fn what_no_machine_can_do_in_time_is_said_and_orders_none() {
        let jobs = [waiting(Some(90), 50, 1_000_000), waiting(Some(5_000), 50, 1_000_000)];
        let due = due(&jobs, &supply(100), NOW);
        assert_eq!(due.dated(), 1, "the later ones are done");
        assert_eq!(due.at_risk(1), Some((50, NOW + secs(90))));
    }

    proptest! {
        #[test]
        fn more_work_never_needs_fewer_machines(
            groups in proptest::collection::vec((proptest::option::of(1..20_000u64), 0..5_000u64), 1..16),
            more in 0..5_000u64, at in 0..16usize, boot in 1..1_000u64, stand in 0..5u64,
        ) {
            let mut jobs: Vec<_> = groups.iter().map(|(by, n)| waiting(*by, *n, 1_000_000)).collect();
            jobs.sort_by_key(|w| (w.by.is_none(), w.by));
            let mut supply = supply(boot);
            supply.standing = (0..stand).map(|nth| (NOW + secs(nth * 50), 4)).collect();
            let less = due(&jobs, &supply, NOW);
            let at = at % jobs.len();
            jobs[at].slot_us += more * 1_000_000;
            let more = due(&jobs, &supply, NOW);
            prop_assert!(less.dated() <= more.dated() && less.undated() <= more.undated());
        }
    }
}
