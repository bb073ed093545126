//! Thousands of worlds in each run of the tests, millions by `make sim SEEDS=…`.
#![allow(clippy::tests_outside_test_module, reason = "this is a file of tests")]

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use lease_lab::{Tally, play};

/// Seeds that failed once, oldest first; each line is a number and why it is here.
const ONCE_FAILED: &str = include_str!("../seeds.txt");

/// Seeds played in each run of the tests: some twenty seconds of two cores.
const EACH_RUN: u64 = 3_000;

fn once_failed() -> impl Iterator<Item = u64> {
    let number = |line: &str| line.split_whitespace().next()?.parse().ok();
    ONCE_FAILED.lines().filter(|line| !line.starts_with('#')).filter_map(number)
}

/// Plays seeds on all cores, up to the first that fails.
fn play_all(seeds: &[u64], each: impl Fn(u64, &Tally) + Sync) -> Tally {
    let (next, failed) = (AtomicU64::new(0), AtomicU64::new(u64::MAX));
    let work = || {
        let mut sum = Tally::default();
        while failed.load(Ordering::Relaxed) == u64::MAX {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(seed) = usize::try_from(index).ok().and_then(|index| seeds.get(index)) else { break };
            match play(*seed) {
                Ok(tally) => sum.add(&tally),
                Err(failure) => {
                    failed.store(*seed, Ordering::Relaxed);
                    panic!("{failure}");
                }
            }
            each(index + 1, &sum);
        }
        sum
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let mut sum = Tally::default();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(tally) => sum.add(&tally),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
    });
    sum
}

/// What may be unknown to the ledger, or be in it twice, stays rare.
fn check_bounds(sum: &Tally) {
    println!("{sum:?}");
    assert!(sum.unknown * 200 <= sum.runs, "too many billed attempts are unknown: {sum:?}");
    assert!(sum.twice * 100 <= sum.runs, "too many attempts are booked twice: {sum:?}");
}

#[test]
fn seeds_that_failed_once_do_not_fail_again() {
    let seeds: Vec<u64> = once_failed().collect();
    play_all(&seeds, |_, _| {});
}

#[test]
fn no_rule_is_broken_in_thousands_of_worlds() {
    let seeds: Vec<u64> = (0..EACH_RUN).collect();
    check_bounds(&play_all(&seeds, |_, _| {}));
}

#[test]
#[ignore = "runs for as long as `SEEDS` says; see `make sim`"]
#[expect(clippy::disallowed_methods, reason = "a test may read how much it is to do")]
fn no_rule_is_broken_in_as_many_worlds_as_are_asked_for() {
    let read = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (from, count) = (read("FROM").unwrap_or(EACH_RUN), read("SEEDS").unwrap_or(100_000));
    let (seeds, begun): (Vec<u64>, _) = ((from..from + count).collect(), Instant::now());
    let every = (count / 100).max(1);
    let sum = play_all(&seeds, |played, _| {
        if played.is_multiple_of(every) {
            let rate = played as f64 / begun.elapsed().as_secs_f64();
            println!("{played} of {count} seeds from {from}, {rate:.0} a second");
        }
    });
    check_bounds(&sum);
}
