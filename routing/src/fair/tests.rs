//! Which item is next, and that none is forgotten.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NOW: Micros = Micros::new(1_795_000_000_000_000);
/// What one inference costs at the baseline.
const CENT_HUNDREDTH: UsdNanos = UsdNanos::new(100_000);

fn tenant(name: &str) -> Tenant {
    name.parse().unwrap()
}

fn push(line: &mut Line<u64>, lane: Lane, who: &str, item: u64) -> Ticket {
    line.push(lane, &tenant(who), 1, None, NOW, item)
}

fn start(line: &mut Line<u64>, cost: UsdNanos) -> Option<(String, u64)> {
    let Entry { seat, item } = line.next()?;
    line.started(&seat, cost);
    Some((seat.tenant.to_string(), item))
}

fn tenants(line: &mut Line<u64>, starts: usize) -> String {
    (0..starts).filter_map(|_| start(line, CENT_HUNDREDTH)).map(|(who, _)| who).collect()
}

#[test]
fn tenants_take_turns_and_a_flood_waits_behind_itself() {
    let mut line = Line::default();
    for item in 0..50 {
        push(&mut line, Lane::Normal, "a", item);
    }
    push(&mut line, Lane::Normal, "b", 50);
    push(&mut line, Lane::Normal, "c", 51);
    assert_eq!(tenants(&mut line, 5), "abcaa");
}

#[test]
fn a_tenant_that_was_away_owes_nobody_and_is_owed_nothing() {
    let mut line = Line::default();
    for item in 0..2_000 {
        push(&mut line, Lane::Normal, "a", item);
    }
    assert_eq!(tenants(&mut line, 1_000), "a".repeat(1_000));
    for item in 0..1_000 {
        push(&mut line, Lane::Normal, "b", item);
    }
    assert_eq!(tenants(&mut line, 8), "babababa");
}

#[test]
fn a_job_that_was_dearer_than_expected_counts_in_the_end() {
    let mut line = Line::default();
    for item in 0..20 {
        push(&mut line, Lane::Normal, "a", item);
        push(&mut line, Lane::Normal, "b", item);
    }
    let first = line.next().unwrap();
    line.started(&first.seat, CENT_HUNDREDTH);
    line.correct(&first.seat, CENT_HUNDREDTH, CENT_HUNDREDTH.times(5).unwrap());
    assert_eq!(tenants(&mut line, 7), "bbbbbab");
    // A job that was cheaper than expected gives back the difference.
    let next = line.next().unwrap();
    line.started(&next.seat, CENT_HUNDREDTH.times(4).unwrap());
    line.correct(&next.seat, CENT_HUNDREDTH.times(4).unwrap(), CENT_HUNDREDTH);
    assert_eq!(tenants(&mut line, 4), "baba");
}

#[test]
fn free_jobs_take_turns_too() {
    let mut line = Line::default();
    for item in 0..4 {
        push(&mut line, Lane::Normal, "a", item);
    }
    push(&mut line, Lane::Normal, "b", 4);
    let order: String = (0..5).filter_map(|_| start(&mut line, UsdNanos::ZERO)).map(|(who, _)| who).collect();
    assert_eq!(order, "abaaa");
}

#[test]
fn inside_a_tenant_the_earliest_deadline_goes_first_and_no_deadline_is_a_late_one() {
    let mut line = Line::default();
    let due = |seconds: u64| Some(NOW + Duration::from_secs(seconds));
    for (deadline, item) in [(None, 1), (due(60), 2), (due(30), 3), (due(3_600), 4), (None, 5)] {
        line.push(Lane::High, &tenant("a"), 1, deadline, NOW, item);
    }
    let order: Vec<u64> =
        std::iter::from_fn(|| start(&mut line, CENT_HUNDREDTH)).map(|(_, item)| item).collect();
    assert_eq!(order, [3, 2, 1, 5, 4]);
}

#[test]
fn what_could_not_be_placed_is_next_again() {
    let mut line = Line::default();
    for item in 0..3 {
        push(&mut line, Lane::Normal, "a", item);
        push(&mut line, Lane::Normal, "b", item);
    }
    for _ in 0..5 {
        let entry = line.next().unwrap();
        assert_eq!((entry.seat.tenant.as_str(), entry.item), ("a", 0));
        line.put_back(entry);
    }
    assert_eq!((line.len(), line.len_of(&tenant("a")), line.len_in(Lane::Normal)), (6, 3, 6));
    assert_eq!(tenants(&mut line, 6), "ababab");
}

#[test]
fn a_scan_goes_on_behind_what_it_skips_and_stops_when_told() {
    let mut line = Line::default();
    push(&mut line, Lane::High, "held", 1);
    push(&mut line, Lane::High, "held", 2);
    push(&mut line, Lane::High, "a", 3);
    push(&mut line, Lane::High, "a", 4);
    push(&mut line, Lane::Low, "b", 5);
    let mut visited = Vec::new();
    let taken = line.scan(|seat, item| {
        visited.push(*item);
        match (seat.tenant.as_str(), *item) {
            ("held", _) => Look::SkipTenant,
            (_, 5) => Look::Take,
            _ => Look::Skip,
        }
    });
    assert_eq!((taken.map(|entry| entry.item), visited), (Some(5), vec![1, 3, 4, 5]));
    assert_eq!(line.scan(|_, item| if *item == 1 { Look::Stop } else { Look::Take }), None);
    assert_eq!(line.len(), 4);
}

#[test]
fn a_front_that_cannot_start_does_not_hide_what_is_behind_it() {
    let mut line = Line::default();
    for item in 0..1_000 {
        push(&mut line, Lane::Normal, "a", item);
    }
    let visits = 1_000 / ROVING_VISITS;
    let found =
        (0..visits).find_map(|_| line.scan(|_, item| if *item == 777 { Look::Take } else { Look::Skip }));
    assert_eq!(found.map(|entry| entry.item), Some(777));
}

#[test]
fn tenants_that_went_away_are_forgotten() {
    let mut line = Line::default();
    for item in 0..2_000 {
        push(&mut line, Lane::Normal, &format!("t{item}"), item);
        start(&mut line, CENT_HUNDREDTH);
    }
    assert!(line.lanes[1].flows.len() <= 1, "{}", line.lanes[1].flows.len());
}

proptest! {
    // Some of these start thousands of jobs each time.
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn two_tenants_that_wait_share_by_weight_within_one_job_each(
        weights in (1..10u32, 1..10u32),
        costs in prop::collection::vec((10_000..5_000_000u64, 10_000..5_000_000u64), 200),
    ) {
        let mut line = Line::default();
        for item in 0..200 {
            line.push(Lane::Normal, &tenant("a"), weights.0, None, NOW, item);
            line.push(Lane::Normal, &tenant("b"), weights.1, None, NOW, item);
        }
        let most = |which: fn(&(u64, u64)) -> u64| costs.iter().map(which).max().unwrap_or(0) as f64;
        let (a, b) = (f64::from(weights.0), f64::from(weights.1));
        let bound = most(|c| c.0) / a + most(|c| c.1) / b;
        let (mut of_a, mut of_b) = (0u64, 0u64);
        while line.len_of(&tenant("a")) > 0 && line.len_of(&tenant("b")) > 0 {
            let Entry { seat, item } = line.next().unwrap();
            let cost = costs[usize::try_from(item).unwrap()];
            let is_a = seat.tenant.as_str() == "a";
            let cost = if is_a { cost.0 } else { cost.1 };
            line.started(&seat, UsdNanos::new(cost));
            *(if is_a { &mut of_a } else { &mut of_b }) += cost;
            let error = (of_a as f64 / a - of_b as f64 / b).abs();
            prop_assert!(error <= bound + 1.0, "{error} > {bound}");
        }
    }

    #[test]
    fn lanes_that_wait_get_their_floors_and_the_urgent_one_the_rest(starts in 1..2_000u32) {
        let mut line = Line::default();
        for item in 0..2_000 {
            for lane in Lane::ALL {
                push(&mut line, lane, "a", item);
            }
        }
        let mut of = [0u32; 3];
        for _ in 0..starts {
            let Entry { seat, .. } = line.next().unwrap();
            line.started(&seat, CENT_HUNDREDTH);
            of[seat.lane as usize] += 1;
        }
        let [high, normal, low] = of;
        // While the other lane is served first, a lane may wait one start longer than its share says.
        prop_assert!(low + 1 >= starts / 20 && low <= starts / 20, "{of:?}");
        prop_assert!(normal + 1 >= starts * 3 / 20 && normal <= starts * 3 / 20 + 1, "{of:?}");
        prop_assert!(high >= starts * 16 / 20);
    }

    #[test]
    fn every_job_starts_within_a_bounded_number_of_starts(
        lane in 0..3usize, ahead in 0..5u64, flood in 1..4u64, cost in 10_000..100_000u64,
    ) {
        let mut line = Line::default();
        for item in 0..ahead {
            push(&mut line, Lane::ALL[lane], "me", item);
        }
        push(&mut line, Lane::ALL[lane], "me", u64::MAX);
        // The jobs of the other tenants are the cheapest there are and never end, in every lane and with short deadlines.
        let bound = 20 * (ahead + 2) * (1 + flood * (1 + cost / 10_000));
        let mut now = NOW;
        for starts in 0.. {
            prop_assert!(starts <= bound, "not started after {} starts", bound);
            now = now + Duration::from_secs(1);
            for other in 0..flood {
                let other = tenant(&format!("other{other}"));
                for lane in Lane::ALL {
                    line.push(lane, &other, 1, Some(now), now, 0);
                }
            }
            let Entry { seat, item } = line.next().unwrap();
            let own = seat.tenant == tenant("me");
            line.started(&seat, UsdNanos::new(if own { cost } else { 10_000 }));
            if item == u64::MAX {
                break;
            }
        }
    }

    #[test]
    fn nothing_is_lost_and_nothing_comes_twice(
        steps in prop::collection::vec((0..6u8, 0..4u8, 0..3usize, prop::option::of(0..100u64), 0..200_000u64), 0..300),
    ) {
        let mut line = Line::default();
        let (mut waiting, mut out, mut next) = (BTreeSet::new(), Vec::new(), 0u64);
        for (what, who, lane, deadline, cost) in steps {
            let who = tenant(&format!("t{who}"));
            match what {
                0 | 1 => {
                    let deadline = deadline.map(|d| NOW + Duration::from_secs(d));
                    line.push(Lane::ALL[lane], &who, u32::from(what) * 3, deadline, NOW, next);
                    waiting.insert(next);
                    next += 1;
                }
                2 => {
                    let wanted = waiting.iter().nth(lane).copied();
                    let taken = line.scan(|_, item| if Some(*item) == wanted { Look::Take } else { Look::Skip });
                    out.extend(taken.inspect(|entry| { waiting.remove(&entry.item); }));
                }
                3 => out.extend(line.next().inspect(|entry| { waiting.remove(&entry.item); })),
                4 => if let Some(entry) = out.pop() {
                    if cost % 2 == 0 {
                        waiting.insert(entry.item);
                        line.put_back(entry);
                    } else {
                        line.started(&entry.seat, UsdNanos::new(cost));
                        line.correct(&entry.seat, UsdNanos::new(cost), UsdNanos::new(cost / 3));
                    }
                },
                _ => for entry in line.remove_if(|_, item| item % 7 == cost % 7) {
                    prop_assert!(waiting.remove(&entry.item));
                },
            }
            prop_assert_eq!(line.len(), waiting.len());
            prop_assert_eq!(line.iter().map(|(.., item)| *item).collect::<BTreeSet<_>>(), waiting.clone());
            for queue in &line.lanes {
                let busy = queue.flows.iter().filter(|(_, flow)| !flow.items.is_empty());
                let busy: BTreeSet<_> = busy.map(|(t, f)| (f.tag, f.since, t.clone())).collect();
                prop_assert_eq!(&busy, &queue.order);
            }
        }
        let rest = line.drain();
        prop_assert_eq!(rest.len(), waiting.len());
        prop_assert!(line.is_empty() && line.next().is_none());
    }
}
