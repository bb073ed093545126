//! Plays seeds: `lease-lab <seed>` tells the whole history of one, `lease-lab <from> <count>` plays many.

use std::process::ExitCode;

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|text| text.parse().ok()).collect();
    let (from, count) = match numbers[..] {
        [seed] => (seed, 1),
        [from, count] => (from, count),
        _ => {
            eprintln!("usage: lease-lab <seed> [<count>]");
            return ExitCode::from(2);
        }
    };
    let mut rules: std::collections::BTreeMap<&str, (u64, u64)> = std::collections::BTreeMap::new();
    let mut sum = lease_lab::Tally::default();
    for seed in from..from + count {
        match lease_lab::play(seed) {
            Ok(tally) => sum.add(&tally),
            Err(failure) if count == 1 => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
            Err(failure) => {
                let rule = rules.entry(failure.violation.rule).or_insert((seed, 0));
                rule.1 += 1;
            }
        }
    }
    println!("{rules:#?}");
    println!("{sum:?}");
    ExitCode::SUCCESS
}
