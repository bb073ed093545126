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
    let mut sum = lease_lab::Tally::default();
    for seed in from..from + count {
        match lease_lab::play(seed) {
            Ok(tally) => sum.add(&tally),
            Err(failure) => {
                println!("{failure}");
                return ExitCode::FAILURE;
            }
        }
    }
    println!("{sum:?}");
    ExitCode::SUCCESS
}
