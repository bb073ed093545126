//! Promise: a simulation is a function of its scenario and seed, to the last byte, and a wrong scenario is one line, at once.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use tests::process;

/// Enough of everything that could differ: chance, a fault, cold starts, all policies.
const SMALL: &str = "name = \"small\"\nabout = \"A few minutes.\"\nduration = \"3m\"\n[arrivals]\nrate = 40.0\n\
    [[faults]]\nkind = \"slow\"\nprovider = \"golem\"\nfactor = 4.0\nfrom = \"60s\"\nfor = \"30s\"\n";

/// Table, JSON and picture of a run on so many threads.
fn played(folder: &Path, scenario: &str, seed: &str, threads: &str) -> [Vec<u8>; 3] {
    let path = folder.join("small.toml");
    std::fs::write(&path, scenario).unwrap();
    let (path, out) = (path.to_str().unwrap(), folder.join("out"));
    let run = |more: &[&str]| {
        let args = ["simulate", path, "--seed", seed, "--threads", threads, "--out", out.to_str().unwrap()];
        process::run(&[&args, more].concat()).stdout
    };
    [run(&[]), run(&["--json"]), std::fs::read(out.join("small.svg")).unwrap()]
}

#[test]
fn the_same_seed_gives_the_same_bytes_on_any_number_of_threads() {
    let folder = tempfile::tempdir().unwrap();
    let first = played(folder.path(), SMALL, "7", "1");
    assert!(first.iter().all(|bytes| !bytes.is_empty()));
    assert!(played(folder.path(), SMALL, "7", "3") == first, "the same seed, other bytes");
    let other = played(folder.path(), SMALL, "8", "3");
    assert!((0..3).all(|i| other[i] != first[i]), "another seed, the same bytes");
}

/// The scenario is refused in one line, before anything is played.
fn check_refused(scenario: &str, words: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("wrong.toml");
    std::fs::write(&path, format!("name = \"wrong\"\n{scenario}")).unwrap();
    let began = Instant::now();
    let output = process::run(&["simulate", path.to_str().unwrap()]);
    assert!(began.elapsed() < Duration::from_secs(1), "took {:?}", began.elapsed());
    let line = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    assert!(output.stdout.is_empty());
    for word in ["wrong.toml"].iter().chain(words) {
        assert!(line.contains(word), "`{line}` should name `{word}`");
    }
}

#[test]
fn a_wrong_scenario_is_one_line_with_file_key_and_rule_and_exit_code_2() {
    check_refused("[arrivals]\nrates = 4.0", &["arrivals.rates", "unknown field"]);
    let price = "[providers.golem.per_inference]\nmistral-7b = \"-0.1\"";
    check_refused(price, &["providers.golem.per_inference.mistral-7b", "-0.1", "must be dollars"]);
    check_refused("[lanes.high]\nshare = 0.5", &["lanes", "1.3", "must add up to 1"]);
    let rise = |from: &str| {
        format!(
            "[[faults]]\nkind = \"price\"\nprovider = \"modal\"\nfactor = 2.0\nfrom = \"{from}\"\nfor = \"5m\"\n"
        )
    };
    check_refused(
        &(rise("5m") + &rise("9m")),
        &["faults[1].from", "price", "modal", "overlaps with faults[0]"],
    );
}

#[test]
fn an_unknown_policy_is_exit_code_2_and_names_those_there_are() {
    let output = process::run(&["simulate", "examples/scenarios/diurnal.toml", "--policy", "random"]);
    let line = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    assert_eq!((output.status.code(), line.lines().count()), (Some(2), 1), "{line}");
    for word in ["--policy", "random", "power_of_two"] {
        assert!(line.contains(word), "`{line}` should name `{word}`");
    }
}
