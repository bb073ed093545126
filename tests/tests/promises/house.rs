//! Promise: each crate reads top-down, and what ARCHITECTURE says is absent is absent.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use tests::{
    imports::{Circle, Crate},
    process::root,
    rust_text,
};

/// Circles that are still to be broken, by crate and files. Only ever make this list shorter.
const CIRCLES_LEFT: &[(&str, &[&str])] = &[
    ("routing", &["fair.rs", "fair/flow.rs", "fair/queue.rs"]),
    ("routing", &["budget.rs", "budget/account.rs", "budget/book.rs"]),
    ("routing-lab", &["engine.rs", "engine/attempts.rs", "engine/bank.rs"]),
    ("routing-lab", &["raw/check.rs", "raw/check/events.rs"]),
    (
        "lease-lab",
        &[
            "audit.rs",
            "client.rs",
            "desk.rs",
            "process.rs",
            "process/dispatcher.rs",
            "process/dispatcher/chain.rs",
            "process/producer.rs",
            "process/worker.rs",
            "process/worker/attempt.rs",
            "world.rs",
        ],
    ),
    ("producer", &["log.rs", "replay/fingerprint.rs", "replay/select.rs"]),
    (
        "dispatcher",
        &[
            "ending.rs",
            "jobs.rs",
            "jobs/event.rs",
            "jobs/lines.rs",
            "jobs/pull.rs",
            "jobs/record.rs",
            "nats.rs",
        ],
    ),
];

/// Files that import `async_nats` beside those called `nats.rs` and the crate `transport`. Only ever make this list shorter.
const NATS_LEFT: &[&str] = &[
    "cli/src/commands/bench/logs.rs",
    "cli/src/commands/bench/measure.rs",
    "cli/src/commands/why.rs",
    "cli/src/ledger.rs",
    "dispatcher/src/banker.rs",
    "dispatcher/src/dispatch.rs",
    "dispatcher/src/dispatch/start.rs",
    "dispatcher/src/ending.rs",
    "dispatcher/src/ending/publish.rs",
    "dispatcher/src/look_up.rs",
    "dispatcher/src/lost.rs",
    "dispatcher/src/recurring.rs",
    "dispatcher/src/tenants.rs",
    "dispatcher/src/trim.rs",
    "lease-lab/src/process/dispatcher.rs",
    "lease-lab/src/process/producer.rs",
    "producer/src/client.rs",
    "producer/src/follower.rs",
    "producer/src/log.rs",
    "producer/src/router.rs",
    "workers/src/attempt.rs",
    "workers/src/attempt/drive.rs",
    "workers/src/keeper.rs",
    "workers/src/kit.rs",
    "workers/src/lookup.rs",
    "workers/src/notebook.rs",
    "workers/src/pool.rs",
    "workers/src/pool/start.rs",
];

/// Each crate of the workspace, and the crates of ours that it may depend on.
const MAP: &[(&str, &[&str])] = &[
    ("schemas", &[]),
    ("routing", &["schemas"]),
    ("routing-lab", &["schemas", "routing"]),
    ("transport", &["schemas"]),
    ("producer", &["schemas", "transport"]),
    ("dispatcher", &["schemas", "transport", "routing"]),
    ("workers", &["schemas", "transport"]),
    ("keepers", &["schemas", "transport"]),
    ("simulators", &[]),
    ("lease-lab", &["schemas", "routing", "transport", "dispatcher", "workers"]),
    (
        "cli",
        &[
            "schemas",
            "transport",
            "producer",
            "dispatcher",
            "workers",
            "keepers",
            "simulators",
            "routing",
            "routing-lab",
        ],
    ),
    (
        "tests",
        &[
            "schemas",
            "transport",
            "producer",
            "dispatcher",
            "workers",
            "keepers",
            "simulators",
            "routing",
            "routing-lab",
        ],
    ),
];

/// The members of the workspace, in its order.
fn crates() -> Vec<String> {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let members = manifest["workspace"]["members"].as_array().unwrap();
    members.iter().map(|member| member.as_str().unwrap().to_owned()).collect()
}

/// Every source of a crate: its path below `src`, and its text.
fn sources(name: &str) -> Vec<(String, String)> {
    let (src, mut found) = (root().join(name).join("src"), Vec::new());
    let mut folders = vec![src.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|end| end == "rs") {
                let below = path.strip_prefix(&src).unwrap().to_str().unwrap().to_owned();
                found.push((below, std::fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found
}

/// The code of every source of a crate, without tests, comments and literals.
fn code(name: &str) -> Vec<(String, String)> {
    let files = sources(name).into_iter().filter(|(file, _)| !is_test(file));
    files.map(|(file, text)| (file, rust_text::without_tests(&rust_text::code_of(&text)))).collect()
}

fn is_test(file: &str) -> bool {
    Path::new(file)
        .components()
        .any(|part| ["tests", "tests.rs"].iter().any(|test| part.as_os_str() == *test))
}

fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').collect()
}

#[test]
fn modules_of_a_crate_import_in_one_direction() {
    let mut told = String::new();
    let mut left: BTreeSet<_> = CIRCLES_LEFT.iter().copied().collect();
    for name in crates() {
        for Circle { files, loop_ } in Crate::read(sources(&name)).circles() {
            let is_known = |theirs: &[&str]| files.iter().all(|file| theirs.contains(&file.as_str()));
            let known = CIRCLES_LEFT.iter().find(|(of, theirs)| *of == name && is_known(theirs));
            match known {
                Some(known) => drop(left.remove(known)),
                None => writeln!(told, "{name}/src has a circle of {files:?}\n{loop_}").unwrap(),
            }
        }
    }
    assert!(told.is_empty(), "modules import each other in a loop:\n{told}");
    assert!(left.is_empty(), "these circles are broken; take them off CIRCLES_LEFT: {left:?}");
}

#[test]
fn crates_depend_on_each_other_as_the_map_draws_it() {
    let members = crates();
    for name in &members {
        let manifest = std::fs::read_to_string(root().join(name).join("Cargo.toml")).unwrap();
        let manifest: toml::Table = manifest.parse().unwrap();
        let (_, below) =
            MAP.iter().find(|(of, _)| of == name).unwrap_or_else(|| panic!("{name} is not on the map"));
        for dependency in manifest["dependencies"].as_table().unwrap().keys().filter(|d| members.contains(d))
        {
            assert!(below.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
}

#[test]
fn pure_crates_never_await_log_read_a_clock_or_open_a_socket() {
    let absent =
        ["tokio", "async_nats", "async", "await", "tracing", "SystemTime", "Instant", "fs", "net", "env"];
    for name in ["schemas", "routing", "routing-lab"] {
        for (file, code) in code(name) {
            for word in absent {
                assert!(!words(&code).contains(word), "{name}/src/{file} mentions {word}");
            }
        }
    }
}

#[test]
fn only_the_command_line_reads_the_environment_prints_or_exits() {
    for name in crates().iter().filter(|name| !["cli", "tests"].contains(&name.as_str())) {
        for (file, code) in code(name) {
            for absent in ["println!", "eprintln!", "print!", "eprint!", "process::exit", "env::", "anyhow::"]
            {
                assert!(!code.contains(absent), "{name}/src/{file} uses {absent}");
            }
        }
    }
}

#[test]
fn simulators_share_no_code_with_what_they_check() {
    for (file, code) in code("simulators") {
        // What a manifest does not name cannot be imported; `axum` has a module called `routing` as well.
        for other in crates().into_iter().filter(|other| other != "routing") {
            assert!(
                !code.contains(&format!("{}::", other.replace('-', "_"))),
                "simulators/src/{file} uses {other}"
            );
        }
    }
}

#[test]
fn nothing_is_static_but_what_argues_for_it() {
    let mut found = Vec::new();
    for name in crates().into_iter().filter(|name| name != "tests") {
        for (file, code) in code(&name) {
            let of_line = |line: &str| {
                let line = line.trim_start().trim_start_matches("pub(crate) ").trim_start_matches("pub ");
                line.starts_with("static ") || line.contains("thread_local!") || line.contains("LazyLock")
            };
            found.extend(code.lines().filter(|line| of_line(line)).map(|_| format!("{name}/src/{file}")));
        }
    }
    found.sort_unstable();
    assert_eq!(found, ["cli/src/main.rs", "transport/src/link.rs"], "no statics, no lazy globals");
}

#[test]
fn only_nats_files_and_the_transport_speak_to_the_client_library() {
    let mut found = BTreeSet::new();
    for name in crates().into_iter().filter(|name| !["transport", "tests"].contains(&name.as_str())) {
        let files = code(&name).into_iter().filter(|(file, _)| !file.ends_with("nats.rs"));
        let speaking = files.filter(|(_, code)| words(code).contains("async_nats"));
        found.extend(speaking.map(|(file, _)| format!("{name}/src/{file}")));
    }
    let left: BTreeSet<String> = NATS_LEFT.iter().map(|&file| file.to_owned()).collect();
    let new: Vec<_> = found.difference(&left).collect();
    assert!(new.is_empty(), "put what these do with async_nats into nats.rs or into transport: {new:#?}");
    let gone: Vec<_> = left.difference(&found).collect();
    assert!(gone.is_empty(), "these no longer import async_nats; take them off NATS_LEFT: {gone:#?}");
}
