//! Promise: each provider has a kit in `deploy/` whose files are valid, agree with each other, and can be read by the real binary.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_norway::Value as Yaml;
use tests::{
    nats_server,
    process::{beacon, root},
};

/// The folders of providers, each with a README and at least one configuration.
const KITS: [&str; 9] =
    ["fly", "golem", "lambda", "modal", "openai", "railway", "render", "replicate", "runpod"];

fn kit(path: &str) -> PathBuf {
    root().join("deploy").join(path)
}

fn text(path: &str) -> String {
    std::fs::read_to_string(kit(path)).unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

fn table(path: &str) -> toml::Table {
    text(path).parse().unwrap_or_else(|error| panic!("deploy/{path}: {error}"))
}

/// The configurations of all kits.
fn configurations() -> Vec<String> {
    let named = KITS.iter().flat_map(|kit| [format!("{kit}/beacon.toml"), format!("{kit}/fixed.toml")]);
    let found: Vec<_> = named.filter(|path| kit(path).exists()).collect();
    assert!(KITS.iter().all(|kit| found.contains(&format!("{kit}/beacon.toml"))), "{found:?}");
    found
}

/// Every text of a TOML document under a key that ends in `_env`: the variables that hold secrets.
fn secrets(value: &toml::Value, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                match value.as_str() {
                    Some(name) if key.ends_with("_env") => drop(found.insert(name.to_owned())),
                    _ => secrets(value, found),
                }
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| secrets(value, found)),
        _ => {}
    }
}

/// Starts a role with this configuration and every secret that it names, against a server that is not there.
fn starts(role: &str, path: &Path, server: &str) -> Output {
    let document: toml::Value = toml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut named = BTreeSet::new();
    secrets(&document, &mut named);
    let mut command = Command::new(beacon());
    command.args([role, "--config", path.to_str().unwrap(), "--nats-url", server]);
    command.env_remove("BEACON_CONFIG").envs(named.into_iter().map(|name| (name, "secret"))).output().unwrap()
}

/// Reading the configuration, its prices and its secrets, and building adapters and accounts, come before any connection. So
/// whoever gets as far as the server has taken all of it; a configuration that is refused is exit code 2.
#[test]
fn every_block_is_one_that_the_real_binary_takes() {
    let server = format!("nats://127.0.0.1:{}", nats_server::free_port());
    for path in configurations() {
        let rents = text(&path).contains("[pools.rent]");
        for role in if rents { &["worker", "keeper"][..] } else { &["worker"] } {
            let output = starts(role, &kit(&path), &server);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "deploy/{path}, {role}: {said}");
            assert!(said.contains(&server), "deploy/{path}, {role}: {said}");
        }
    }
}

#[test]
fn every_kit_has_a_section_that_fits_into_twelve_lines_and_tells_block_and_command() {
    for kit in KITS {
        let readme = text(&format!("{kit}/README.md"));
        let section: Vec<_> = readme.lines().take_while(|line| !line.starts_with("## ")).collect();
        assert!(section.len() <= 12, "deploy/{kit}/README.md: {} lines", section.len());
        let section = section.join("\n");
        assert!(section.contains("beacon.toml") && section.contains("```sh\n"), "deploy/{kit}/README.md");
        // What it names exists.
        for word in section.split(['`', ' ', '\n', '(', ')']).filter(|word| word.starts_with("deploy/")) {
            assert!(root().join(word).exists(), "deploy/{kit}/README.md names {word}");
        }
    }
    let top = std::fs::read_to_string(root().join("README.md")).unwrap();
    for kit in KITS {
        assert!(top.contains(&format!("deploy/{kit}/README.md")), "README.md does not lead to {kit}");
    }
}

/// What a server that a kit starts must be told, so that metrics and cached tokens are there: without, cached tokens are unknown.
#[test]
fn every_server_that_a_kit_starts_tells_its_metrics_and_cached_tokens() {
    let compose: Yaml = serde_norway::from_str(&text("openai/compose.yaml")).unwrap();
    let words = |service: &str| {
        let command = compose["services"][service]["command"].as_sequence().unwrap().iter();
        command.map(|word| word.as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let vllm = "--enable-prompt-tokens-details".to_owned();
    assert!(words("vllm").contains(&vllm));
    for flag in ["--enable-metrics", "--enable-cache-report"] {
        assert!(words("sglang").contains(&flag.to_owned()), "{flag}");
    }
    assert!(text("llama/serve").contains(" --metrics "));
    let args = table("lambda/beacon.toml")["pools"][0]["rent"]["machine"]["args"].clone();
    assert!(args.as_array().unwrap().contains(&vllm.clone().into()));
    let endpoint: serde_json::Value = serde_json::from_str(&text("runpod/endpoint.json")).unwrap();
    assert!(endpoint["env"]["VLLM_EXTRA_ARGS"].as_str().unwrap().contains(&vllm));
    assert!(text("modal/beacon_modal/server.py").contains(&vllm));
}

/// The key, the port and the slots are said in two places each; here they are one.
#[test]
fn a_block_and_the_server_it_calls_say_the_same() {
    let compose: Yaml = serde_norway::from_str(&text("openai/compose.yaml")).unwrap();
    let pools = table("openai/beacon.toml")["pools"].as_array().unwrap().clone();
    assert_eq!(pools.len(), compose["services"].as_mapping().unwrap().len());
    for pool in &pools {
        let name = pool["provider"].as_str().unwrap();
        let port = pool["base_url"].as_str().unwrap().rsplit(':').next().unwrap();
        let published = compose["services"][name]["ports"][0].as_str().unwrap_or_else(|| panic!("{name}"));
        assert!(published.starts_with("127.0.0.1:") && published.ends_with(&format!(":{port}")), "{name}");
        let said = serde_norway::to_string(&compose["services"][name]).unwrap();
        let slots = pool["slots"].as_integer().unwrap().to_string();
        assert!(
            said.contains(&format!("- '{slots}'")) || said.contains(&format!(": '{slots}'")),
            "{name}: {said}"
        );
    }

    let endpoint: serde_json::Value = serde_json::from_str(&text("runpod/endpoint.json")).unwrap();
    let runpod = &table("runpod/beacon.toml")["pools"][0];
    let number = |value: &serde_json::Value| value.as_str().unwrap().parse::<i64>().unwrap();
    let at_once = number(&endpoint["env"]["MAX_CONCURRENCY"]);
    assert_eq!(number(&endpoint["env"]["MAX_NUM_SEQS"]), at_once, "vLLM takes all that a worker takes");
    assert_eq!(endpoint["scaling"]["requestCount"].as_i64().unwrap(), at_once);
    let slots = endpoint["workers"]["max"].as_i64().unwrap() * at_once;
    assert_eq!(runpod["slots"].as_integer().unwrap(), slots);
    let served = endpoint["env"]["OPENAI_SERVED_MODEL_NAME_OVERRIDE"].as_str();
    assert_eq!(runpod["models"][0]["model"].as_str(), served);

    for provider in ["fly", "railway", "render"] {
        let machine = &table(&format!("{provider}/beacon.toml"))["pools"][0]["rent"];
        let env = &machine["machine"]["env"];
        let port = machine["machine"]["port"].as_integer().unwrap().to_string();
        assert_eq!(env["PORT"].as_str(), Some(&*port), "{provider}");
        assert_eq!(env["SLOTS"].as_str(), Some(&*machine["slots"].as_integer().unwrap().to_string()));
    }
}

#[test]
fn the_hosts_own_files_are_as_the_hosts_read_them() {
    let fly = table("fly/fly.toml");
    assert!(kit("fly").join(fly["build"]["dockerfile"].as_str().unwrap()).exists());
    let service = &fly["services"][0];
    assert_eq!(
        service["internal_port"].as_integer().unwrap().to_string(),
        fly["env"]["PORT"].as_str().unwrap()
    );
    let slots = fly["env"]["SLOTS"].as_str().unwrap();
    for limit in ["soft_limit", "hard_limit"] {
        assert_eq!(service["concurrency"][limit].as_integer().unwrap().to_string(), slots);
    }
    assert!(service["ports"][0]["http_options"]["idle_timeout"].as_integer().unwrap() > 60);
    let fixed = &table("fly/fixed.toml")["pools"][0];
    let app = fly["app"].as_str().unwrap();
    assert_eq!(fixed["base_url"].as_str().unwrap(), format!("https://{app}.fly.dev"));
    assert_eq!(fixed["models"][0]["sku"], fly["vm"][0]["size"]);

    let railway: serde_json::Value = serde_json::from_str(&text("railway/railway.json")).unwrap();
    assert_eq!(railway["deploy"]["healthcheckPath"], "/health");
    assert_eq!(railway["deploy"]["sleepApplication"], false, "the first job after a sleep would get a 502");
    let draining = railway["deploy"]["drainingSeconds"].as_u64().unwrap();
    assert!(draining >= 120, "Railway's own default kills what runs at each deploy");
    assert!(kit("llama").join(railway["build"]["dockerfilePath"].as_str().unwrap()).exists());

    let render: Yaml = serde_norway::from_str(&text("render/render.yaml")).unwrap();
    let service = &render["services"][0];
    for path in ["dockerfilePath", "dockerContext"] {
        assert!(root().join(service[path].as_str().unwrap()).exists(), "{path}");
    }
    // A blueprint writes a blank where the API and Beacon write an underscore.
    let plan = service["plan"].as_str().unwrap().replace(' ', "_");
    let fixed = &table("render/fixed.toml")["pools"][0];
    assert_eq!(fixed["models"][0]["sku"].as_str(), Some(&*plan));
    let name = service["name"].as_str().unwrap();
    assert_eq!(fixed["base_url"].as_str().unwrap(), format!("https://{name}.onrender.com"));
    assert!((1..=300).contains(&service["maxShutdownDelaySeconds"].as_u64().unwrap()));
}

#[test]
fn golems_demand_is_the_one_that_the_keeper_makes_of_the_block() {
    let demand: serde_json::Value = serde_json::from_str(&text("golem/demand.json")).unwrap();
    let machine = &table("golem/beacon.toml")["pools"][0]["rent"]["machine"];
    let constraints = demand["constraints"].as_str().unwrap();
    let mut wanted = vec![
        "(golem.com.pricing.model=linear)".to_owned(),
        "(golem.node.debug.subnet=public)".to_owned(),
        "(golem.runtime.capabilities=vpn)".to_owned(),
        format!("(golem.runtime.name={})", machine["runtime"].as_str().unwrap()),
        format!("(golem.inf.mem.gib>={})", machine["mem_gib"].as_integer().unwrap()),
        format!("(golem.inf.storage.gib>={})", machine["storage_gib"].as_integer().unwrap()),
    ];
    let capabilities = machine["capabilities"].as_array().unwrap().iter();
    wanted
        .extend(capabilities.map(|word| format!("(golem.runtime.capabilities={})", word.as_str().unwrap())));
    for part in &wanted {
        assert!(constraints.contains(part), "{part}");
    }
    assert_eq!(constraints.matches('(').count(), wanted.len() + 1, "nothing else is asked for");
    assert_eq!(demand["properties"]["golem.srv.comp.task_package"].as_str(), machine["image"].as_str());
}

/// What the keeper writes for the block is compared in `keepers`; here the shown file is the block's.
#[test]
fn lambdas_user_data_starts_what_the_block_says() {
    let shown: Yaml = serde_norway::from_str(&text("lambda/user-data.yaml")).unwrap();
    let files = shown["write_files"].as_sequence().unwrap();
    let serve = files[1]["content"].as_str().unwrap();
    let machine = &table("lambda/beacon.toml")["pools"][0]["rent"]["machine"];
    let args = machine["args"].as_array().unwrap().iter().map(|word| word.as_str().unwrap());
    let words: Vec<_> = [machine["image"].as_str().unwrap()].into_iter().chain(args).collect();
    let quoted = format!(" '{}'", words.join("' '"));
    assert!(serve.trim_end().ends_with(&quoted), "{serve}");
    let port = machine["port"].as_integer().unwrap();
    assert!(serve.contains(&format!("-p {port}:{port}")));
}

/// The scripts of the kits, as far as they run anywhere.
#[test]
fn the_server_script_asks_for_a_key_and_passes_its_settings_on() {
    let serve = kit("llama/serve");
    let run = |key: Option<&str>| {
        let mut command = Command::new("sh");
        command.arg(&serve).args(["--n-gpu-layers", "99"]).env_remove("VLLM_API_KEY");
        command.env("LLAMA_SERVER", "echo").env("SLOTS", "3").env("PORT", "9000");
        command.envs(key.map(|key| ("VLLM_API_KEY", key))).output().unwrap()
    };
    assert!(!run(None).status.success(), "without a key anybody could use it");
    let said = String::from_utf8(run(Some("a key")).stdout).unwrap();
    for words in ["--port 9000", "--parallel 3", "--api-key a key", "--metrics", "--n-gpu-layers 99"] {
        assert!(said.contains(words), "{said}");
    }
    for script in ["llama/serve", "golem/build.sh"] {
        let checked = Command::new("bash").arg("-n").arg(kit(script)).output().unwrap();
        assert!(checked.status.success(), "{script}: {}", String::from_utf8_lossy(&checked.stderr));
    }
    assert_eq!(Command::new("bash").arg(kit("golem/build.sh")).output().unwrap().status.code(), Some(1));
}
