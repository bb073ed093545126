//! How long choosing a machine takes, by the number of machines, and whether it allocates.
//!
//! `cargo bench -p workers --bench place` prints nanoseconds per choice, for a prompt of a usual length that a machine has, for one of
//! the greatest length that is looked at, and for one that nobody has. The target is under 5 µs among 50 machines. What is asserted is
//! that nothing is allocated.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use schemas::{
    job::Input,
    prefix::{BLOCK, BLOCKS_MAX, Prefix, Scope},
};
use workers::rented::affinity::{Affinity, Candidate, home};

const ROUNDS: u32 = 20_000;
const NOW: Duration = Duration::from_secs(1_000);

fn input(seed: u64, blocks: usize) -> Input {
    let block = |block| format!("{:>w$}", format!("{seed}.{block}"), w = BLOCK);
    Input::Prompt((0..blocks).map(block).collect::<Vec<_>>().concat())
}

fn prefix(seed: u64, blocks: usize) -> Prefix {
    let scope = Scope { model: "m", adapter: None, tenant: None };
    Prefix::of(scope, &input(seed, blocks)).expect("long enough")
}

/// Nanoseconds of the middle one of five measurements.
fn measure(mut act: impl FnMut(u32)) -> f64 {
    let mut rounds: Vec<f64> = (0..5)
        .map(|_| {
            let began = Instant::now();
            (0..ROUNDS).for_each(&mut act);
            began.elapsed().as_secs_f64() / f64::from(ROUNDS) * 1e9
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    rounds[2]
}

fn main() {
    let long = input(1, BLOCKS_MAX);
    let scope = Scope { model: "m", adapter: None, tenant: None };
    let key = measure(|_| {
        black_box(Prefix::of(scope, black_box(&long)));
    });
    println!("the key of {} KiB of prompt {key:>14.0} ns", BLOCK * BLOCKS_MAX / 1024);
    for machines in [10, 50, 200] {
        let mut affinity = Affinity::default();
        let candidates: Vec<Candidate> = (0..machines)
            .map(|nth| Candidate {
                nth,
                life: affinity.holders.join(),
                name: home::of_name(&format!("machine-{nth}")),
                size: 8,
                slots: 8,
                running: u32::try_from(nth % 7).expect("small"),
                ..Candidate::default()
            })
            .collect();
        // A table that is full, as after an hour of work.
        for seed in 0..4_000 {
            let life = candidates[usize::try_from(seed).expect("small") % machines].life;
            affinity.holders.hand_over(&prefix(seed, 40), life, 0, NOW);
        }
        let usual: Vec<_> = (3_000..3_100).map(|seed| prefix(seed, 40)).collect();
        let longest: Vec<_> = (5_000..5_008).map(|seed| prefix(seed, BLOCKS_MAX)).collect();
        for (nth, prefix) in longest.iter().enumerate() {
            affinity.holders.hand_over(prefix, candidates[nth % machines].life, 0, NOW);
        }
        let new: Vec<_> = (9_000..9_100).map(|seed| prefix(seed, 40)).collect();
        for (what, prefixes) in [("held", &usual), ("held, longest", &longest), ("new", &new)] {
            let mut choose = |nth: u32| {
                let prefix = &prefixes[usize::try_from(nth).expect("small") % prefixes.len()];
                black_box(affinity.choose(Some(prefix), 0, black_box(&candidates).iter().copied(), NOW));
            };
            choose(0);
            let allocated = allocation_counter::measure(|| (0..1_000).for_each(&mut choose));
            assert_eq!(allocated.count_total, 0, "a choice among {machines} machines allocates");
            println!(
                "{machines:>4} machines, {what:<14} {:>8.0} ns a choice, 0 allocations",
                measure(&mut choose)
            );
        }
    }
}
