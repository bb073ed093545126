//! Promise: `docker-compose.yml` says what the binary understands: images, commands, ports, variables, files.

use std::collections::BTreeSet;

use serde_norway::Value;
use tests::{
    nats_server,
    process::{self, root},
};

fn compose() -> Value {
    let text = std::fs::read_to_string(root().join("docker-compose.yml")).unwrap();
    serde_norway::from_str(&text).unwrap()
}

fn strings(value: &Value) -> Vec<String> {
    value
        .as_sequence()
        .map(|s| s.iter().map(|v| v.as_str().unwrap().to_owned()).collect())
        .unwrap_or_default()
}

fn deploy() -> toml::Table {
    std::fs::read_to_string(root().join("deploy/beacon.toml")).unwrap().parse().unwrap()
}

/// The services that run our own image, by name.
fn ours(compose: &Value) -> Vec<(String, &Value)> {
    let services = compose["services"].as_mapping().unwrap();
    let ours = services.iter().filter(|(_, s)| s["image"].as_str() == Some("beacon"));
    ours.map(|(name, service)| (name.as_str().unwrap().to_owned(), service)).collect()
}

#[test]
fn every_command_is_one_the_binary_takes() {
    let compose = compose();
    let services = ours(&compose);
    assert!(services.len() >= 4, "dispatcher, simulators and a worker per provider");
    let config = root().join("deploy/beacon.toml");
    for (name, service) in services {
        let args: Vec<String> = strings(&service["command"])
            .into_iter()
            .map(|a| if a == "/etc/beacon/beacon.toml" { config.to_str().unwrap().to_owned() } else { a })
            .collect();
        let mut args: Vec<&str> = args.iter().map(String::as_str).collect();
        // With --help at the end the arguments before it are read and nothing is started.
        args.push("--help");
        let output = process::run(&args);
        assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        let help = String::from_utf8_lossy(&process::run(&["dispatcher", "--help"]).stdout).into_owned();
        for variable in service["environment"].as_mapping().into_iter().flatten() {
            let key = variable.0.as_str().unwrap();
            assert!(help.contains(key), "{name}: the binary knows no variable {key}");
        }
    }
}

#[test]
fn the_mounted_configuration_is_valid_and_names_what_the_services_run() {
    let compose = compose();
    let deploy = deploy();
    let pools: BTreeSet<String> = deploy["pools"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| format!("{}@{}", p["provider"].as_str().unwrap(), p["region"].as_str().unwrap()))
        .collect();
    let mut served = BTreeSet::new();
    for (_, service) in ours(&compose) {
        let command = strings(&service["command"]);
        served.extend(command.windows(2).filter(|w| w[0] == "--pool").map(|w| w[1].clone()));
        for file in strings(&service["volumes"]) {
            let source = file.split(':').next().unwrap();
            assert!(root().join(source).is_file(), "{source} is mounted and does not exist");
        }
    }
    assert_eq!(served, pools, "every pool of the configuration has a worker, and every worker a pool");
    // Valid as far as the binary reads it: what fails is the connection (1), not the configuration (2).
    // As it is mounted: the price book beside it.
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("beacon.toml");
    std::fs::copy(root().join("deploy/beacon.toml"), &config).unwrap();
    std::fs::copy(root().join("prices.toml"), folder.path().join("prices.toml")).unwrap();
    let port = nats_server::free_port();
    let nats = format!("nats://127.0.0.1:{port}");
    let output = process::run(&["dispatcher", "--config", config.to_str().unwrap(), "--nats-url", &nats]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(&port.to_string()), "{said}");
}

#[test]
fn addresses_and_ports_meet() {
    let compose = compose();
    let deploy = deploy();
    for url in deploy["nats"]["urls"].as_array().unwrap() {
        let host = url.as_str().unwrap().trim_start_matches("nats://").split(':').next().unwrap();
        let image =
            compose["services"][host]["image"].as_str().unwrap_or_else(|| panic!("no service {host}"));
        let version = image.strip_prefix("nats:").unwrap().split('-').next().unwrap();
        assert!(transport::link::new_enough(version), "{image} is too old for us");
    }
    let listens: BTreeSet<u64> = deploy["simulators"]
        .as_array()
        .unwrap()
        .iter()
        .map(|s| s["listen"].as_str().unwrap().rsplit(':').next().unwrap().parse().unwrap())
        .collect();
    for pool in deploy["pools"].as_array().unwrap() {
        let url = pool["base_url"].as_str().unwrap();
        let (host, port) = url.trim_start_matches("http://").split_once(':').unwrap();
        assert!(compose["services"].get(host).is_some(), "no service {host}");
        assert!(listens.contains(&port.parse().unwrap()), "nothing listens where {url} points");
    }
}

#[test]
fn the_server_accepts_its_own_configuration() {
    let output = std::process::Command::new(nats_server::binary())
        .args(["-t", "-c", root().join("deploy/nats.conf").to_str().unwrap(), "--name", "nats-1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{said}");
    let dockerfile = std::fs::read_to_string(root().join("Dockerfile")).unwrap();
    assert!(dockerfile.contains("/usr/local/bin/beacon"), "the image's binary");
}
