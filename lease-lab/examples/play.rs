//! Plays seeds: with one number the whole story of that seed, with two as many seeds from the first on, and which rules they break.

use std::{collections::BTreeMap, process::ExitCode};

use lease_lab::{Tally, play};

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (from, count) = match numbers[..] {
        [seed] => (seed, 1),
        [from, count] => (from, count),
        _ => {
            eprintln!("usage: cargo run -p lease-lab --example play -- <seed> [<count>]");
            return ExitCode::from(2);
        }
    };
    let mut broken: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    let mut sum = Tally::default();
    for seed in from..from + count {
        match play(seed) {
            Ok(tally) => sum.add(&tally),
            Err(failure) => {
                if count == 1 {
                    println!("{failure}");
                }
                broken.entry(failure.violation.rule).or_default().push(seed);
            }
        }
    }
    println!("{sum:?}");
    for (rule, seeds) in &broken {
        println!("{rule}: {} seeds, {:?}", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
