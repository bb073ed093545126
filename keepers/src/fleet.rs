//! The machines of one pool: which row a sighting belongs to, what a list says of each, what may be ordered. Pure.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{MachineId, Micros, PoolId, UsdNanos};

use crate::{
    landlord::{Census, Phase, Sighting},
    machine::Event,
    row::{Life, Row, Specs},
};

/// What a list means for a pool.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Findings {
    /// News of machines that have rows.
    pub events: Vec<(MachineId, Event)>,
    /// Machines of ours that no row knows; they get one, and are wanted or not as the policy says.
    pub strangers: Vec<Row>,
    /// Second machines of one order; they get a row, and are ended.
    pub duplicates: Vec<Row>,
}

/// What machines of a pool are like, for those that only a list knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usual {
    /// The account.
    pub landlord: String,
    /// The type.
    pub sku: String,
    /// The place.
    pub place: String,
    /// Slots.
    pub slots: u32,
    /// Dollars an hour.
    pub usd_per_hour: UsdNanos,
    /// Dollars an hour while parked.
    pub parked_usd_per_hour: UsdNanos,
    /// What jobs are charged for an hour of a machine, dollars; `None` for its price.
    pub job_usd_per_hour: Option<UsdNanos>,
    /// What bills round up to.
    pub unit: std::time::Duration,
}

/// Compares a list with the rows of `pool`. The list was asked for at `asked_at`: it says nothing of what was ordered later.
pub fn compare(
    pool: &PoolId,
    rows: &BTreeMap<MachineId, Row>,
    census: &Census,
    usual: &Usual,
    (asked_at, now): (Micros, Micros),
) -> Findings {
    let mut findings = Findings::default();
    let mut by_id: BTreeMap<&str, &MachineId> = BTreeMap::new();
    for row in rows.values() {
        if let Some(id) = &row.id {
            by_id.insert(id, &row.specs.machine);
        }
    }
    let mut found: BTreeSet<MachineId> = BTreeSet::new();
    // The lower id of two is kept, so that every keeper keeps the same one.
    let mut sightings: Vec<&Sighting> = census.sightings.iter().filter(|s| s.pool == *pool).collect();
    sightings.sort_by(|a, b| a.id.cmp(&b.id));
    for sighting in sightings {
        let known = by_id.get(sighting.id.as_str()).copied();
        let known = known.or_else(|| rows.get(&sighting.machine).map(|row| &row.specs.machine));
        match known {
            Some(machine) => {
                let row = &rows[machine];
                let other = row.id.as_ref().is_some_and(|id| *id != sighting.id) || found.contains(machine);
                if other {
                    findings.duplicates.extend(duplicate(row, sighting, rows, now));
                } else {
                    found.insert(machine.clone());
                    findings.events.push((machine.clone(), Event::Seen(Box::new(sighting.clone()))));
                }
            }
            None if matches!(sighting.phase, Phase::Gone | Phase::Ending) => {}
            None if found.insert(sighting.machine.clone()) => {
                findings.strangers.push(stranger(pool, sighting, usual, now));
            }
            None => {}
        }
    }
    let unanswered: BTreeSet<&MachineId> = census.unanswered.iter().collect();
    if census.whole {
        let absent = rows.values().filter(|row| {
            let machine = &row.specs.machine;
            let begun = row.ordered_us.unwrap_or(row.since_us).max(row.since_us);
            !found.contains(machine) && !unanswered.contains(machine) && begun < asked_at
        });
        findings.events.extend(absent.map(|row| (row.specs.machine.clone(), Event::NotSeen)));
    }
    findings
}

/// The row of a machine that only the provider knows. It begins as an order without an answer, which its sighting then answers.
fn stranger(pool: &PoolId, sighting: &Sighting, usual: &Usual, now: Micros) -> Row {
    let specs = Specs {
        machine: sighting.machine.clone(),
        pool: pool.clone(),
        landlord: usual.landlord.clone(),
        sku: sighting.sku.clone().unwrap_or_else(|| usual.sku.clone()),
        place: sighting.place.clone().unwrap_or_else(|| usual.place.clone()),
        slots: usual.slots,
        usd_per_hour: sighting.usd_per_hour.unwrap_or(usual.usd_per_hour),
        usd_per_hour_max: usual.usd_per_hour,
        parked_usd_per_hour: usual.parked_usd_per_hour,
        job_usd_per_hour: usual.job_usd_per_hour,
    };
    let mut row = Row::wanted(specs, usual.unit, "found at the provider, without a row".into(), now);
    row.life = Life::Unknown { absent: crate::row::Absence::default() };
    row.ordered_us = sighting.ordered_at.or(Some(now));
    row.id = Some(sighting.id.clone());
    row
}

/// The row of a second machine of one order; `None` when it has one.
fn duplicate(row: &Row, sighting: &Sighting, rows: &BTreeMap<MachineId, Row>, now: Micros) -> Option<Row> {
    second(row, &sighting.id, now).filter(|second| !rows.contains_key(&second.specs.machine))
}

/// The row of a machine `id` that was made by the order of `row`, whose machine is another one.
pub fn second(row: &Row, id: &str, now: Micros) -> Option<Row> {
    // The name follows from the id, so that it is the same whoever finds it.
    let tail: String =
        id.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let tail = &tail[tail.len().saturating_sub(20)..];
    let machine = format!("{}-{tail}", row.specs.machine).parse().ok()?;
    let specs = Specs { machine, ..row.specs.clone() };
    let mut second =
        Row::wanted(specs, std::time::Duration::ZERO, "a second machine of one order".into(), now);
    second.meter = row.meter.fresh();
    second.life = Life::Unknown { absent: crate::row::Absence::default() };
    second.ordered_us = row.ordered_us;
    second.id = Some(id.to_owned());
    second.doomed = Some("a second machine of one order".into());
    Some(second)
}

/// Dollars an hour of everything that counts towards a cap.
pub fn usd_per_hour<'a>(rows: impl IntoIterator<Item = &'a Row>) -> UsdNanos {
    let counted = rows.into_iter().filter(|row| row.life.state().counts());
    counted.map(|row| row.specs.usd_per_hour).fold(UsdNanos::ZERO, UsdNanos::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const T0: Micros = Micros::new(1_795_000_000_000_000);

    fn pool() -> PoolId {
        "lambda@us-east".parse().unwrap()
    }

    fn usual() -> Usual {
        Usual {
            landlord: "lambda".into(),
            sku: "a10".into(),
            place: "us-east-1".into(),
            slots: 4,
            usd_per_hour: UsdNanos::new(1_000),
            parked_usd_per_hour: UsdNanos::ZERO,
            job_usd_per_hour: None,
            unit: Duration::ZERO,
        }
    }

    fn sighting(machine: &str, id: &str, of: &str) -> Sighting {
        Sighting::bare(machine.parse().unwrap(), of.parse().unwrap(), id.into(), Phase::Starting)
    }

    fn rows(of: &[(&str, Option<&str>)]) -> BTreeMap<MachineId, Row> {
        let row = |(machine, id): &(&str, Option<&str>)| {
            let mut row = stranger(&pool(), &sighting(machine, "-", "lambda@us-east"), &usual(), T0);
            row.id = id.map(str::to_owned);
            (row.specs.machine.clone(), row)
        };
        of.iter().map(row).collect()
    }

    fn look(rows: &BTreeMap<MachineId, Row>, sightings: Vec<Sighting>) -> Findings {
        let census = Census { sightings, whole: true, ..Census::default() };
        let later = T0 + Duration::from_secs(1);
        compare(&pool(), rows, &census, &usual(), (later, later))
    }

    #[test]
    fn a_sighting_finds_its_row_by_the_providers_id_or_by_our_name() {
        let rows = rows(&[("a", Some("i-1")), ("b", None), ("c", Some("i-3"))]);
        let found =
            look(&rows, vec![sighting("a", "i-1", "lambda@us-east"), sighting("b", "i-2", "lambda@us-east")]);
        let kinds: Vec<_> =
            found.events.iter().map(|(m, e)| (m.as_str(), matches!(e, Event::NotSeen))).collect();
        assert_eq!(kinds, [("a", false), ("b", false), ("c", true)]);
        assert!(found.strangers.is_empty() && found.duplicates.is_empty());
    }

    #[test]
    fn a_list_says_nothing_of_what_was_ordered_after_it_was_asked_for() {
        let rows = rows(&[("a", None)]);
        let census = Census { sightings: vec![], whole: true, ..Census::default() };
        let found = compare(&pool(), &rows, &census, &usual(), (T0, T0 + Duration::from_secs(9)));
        assert_eq!(found, Findings::default());
        let part = Census { whole: false, ..census.clone() };
        let late = T0 + Duration::from_secs(9);
        assert_eq!(compare(&pool(), &rows, &part, &usual(), (late, late)), Findings::default());
        let skipped = Census { unanswered: vec!["a".parse().unwrap()], ..census };
        assert_eq!(compare(&pool(), &rows, &skipped, &usual(), (late, late)), Findings::default());
    }

    #[test]
    fn failure_4_two_machines_of_one_order_are_one_machine_and_one_that_is_ended() {
        let rows = rows(&[("a", None)]);
        let both = vec![sighting("a", "i-2", "lambda@us-east"), sighting("a", "i-1", "lambda@us-east")];
        let found = look(&rows, both.clone());
        assert!(matches!(&found.events[..], [(_, Event::Seen(s))] if s.id == "i-1"), "the lower id is kept");
        let [second] = &found.duplicates[..] else { panic!("{found:?}") };
        assert_eq!((second.id.as_deref(), second.specs.machine.as_str()), (Some("i-2"), "a-i2"));
        assert!(second.doomed.is_some());
        // Once it has a row, the row is found by the id.
        let mut rows = rows.clone();
        rows.get_mut(&"a".parse().unwrap()).unwrap().id = Some("i-1".into());
        rows.insert(second.specs.machine.clone(), second.clone());
        let found = look(&rows, both);
        assert_eq!((found.events.len(), found.duplicates.len()), (2, 0));
    }

    #[test]
    fn a_machine_of_ours_without_a_row_gets_one_and_others_machines_are_left_alone() {
        let rows = rows(&[]);
        let found =
            look(&rows, vec![sighting("x", "i-9", "lambda@us-east"), sighting("y", "i-8", "lambda@eu-west")]);
        assert!(found.events.is_empty());
        let [stranger] = &found.strangers[..] else { panic!("{found:?}") };
        assert_eq!((stranger.specs.machine.as_str(), stranger.id.as_deref()), ("x", Some("i-9")));
    }
}
