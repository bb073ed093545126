//! Every refusal names the file, the key, the value and the rule, on one line. The files that we ship are accepted.

use std::collections::BTreeSet;

use keepers::policy::Bounds;
use schemas::UsdNanos;

use super::*;

/// A pool that is fine, with keys replaced or added: `("slots", "0")`.
fn pool(changes: &[(&str, &str)]) -> String {
    let mut keys = vec![
        ("provider", r#""golem""#),
        ("region", r#""us-east""#),
        ("kind", r#""openai""#),
        ("base_url", r#""http://127.0.0.1:1""#),
        ("billing", r#""per_inference""#),
        ("slots", "4"),
        ("models", r#"[{ model = "llama-3.2-1b", sku = "standard" }]"#),
    ];
    for change in changes {
        keys.retain(|(key, _)| key != &change.0);
        if !change.1.is_empty() {
            keys.push(*change);
        }
    }
    let lines: Vec<String> = keys.iter().map(|(key, value)| format!("{key} = {value}")).collect();
    format!("[[pools]]\n{}\n", lines.join("\n"))
}

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, "beacon.toml", Path::new(""))
}

/// The text is refused with one line that has the file and all of `parts`.
fn refused(text: &str, parts: &[&str]) {
    let said = match parse(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(error) => error.to_string(),
    };
    assert!(said.starts_with("beacon.toml: ") && !said.contains('\n'), "{said}");
    for part in parts {
        assert!(said.contains(part), "`{part}` is not in: {said}");
    }
}

#[test]
fn nothing_at_all_is_a_configuration() {
    let config = parse("").unwrap();
    assert_eq!(config.nats, Nats::Embedded(Embedded::default()));
    assert_eq!((config.topology.regions.len(), config.topology.catalog.names().count()), (3, 3));
    assert_eq!(config.topology.ack_wait, Duration::from_secs(60));
    assert!(config.pools.is_empty() && config.simulators.is_empty());
}

#[test]
fn an_unknown_key_is_refused_where_it_stands() {
    refused("[nats]\nurll = \"x\"", &["line 2", "nats", "unknown field `urll`", "urls"]);
    refused("[bacon]\n", &["unknown field `bacon`", "beacon"]);
    refused(&pool(&[("slot", "1")]), &["pools[0]", "unknown field `slot`", "slots"]);
    refused(
        &pool(&[("models", r#"[{ model = "llama-3.2-1b", sku = "standard", size_gb = 1 }]"#)]),
        &["pools[0].models[0]", "size_gb"],
    );
    refused(
        "[[simulators]]\nname = \"x\"\nkind = \"golem\"\nmodels = []\nslots = 1",
        &["simulators[0]", "slots"],
    );
}

/// A pool of rented machines, with keys replaced or added.
fn rented(changes: &[(&str, &str)]) -> String {
    let models = r#"[{ model = "llama-3.2-1b", sku = "gpu_that_no_book_prices" }]"#;
    let mut all = vec![("kind", r#""rented""#), ("base_url", ""), ("billing", ""), ("models", models)];
    all.extend_from_slice(changes);
    pool(&all)
}

#[test]
fn a_pool_of_rented_machines_has_no_address_and_needs_no_price() {
    let config =
        parse(&rented(&[("machine_secret_env", r#""MACHINES""#), ("idle_timeout", r#""20s""#)])).unwrap();
    let known = config.pools[0].known(&config.prices, schemas::Micros::new(1));
    assert_eq!(known.models[0].least_cost, UsdNanos::ZERO, "a machine may be cheap");
    for (key, value) in [("base_url", r#""http://h""#), ("billing", r#""per_token""#), ("idle", r#""1s""#)] {
        refused(&rented(&[(key, value)]), &[&format!("pools[0].{key}"), "is not a key of kind rented"]);
    }
    refused(&pool(&[("machine_secret_env", r#""MACHINES""#)]), &["pools[0].machine_secret_env", "openai"]);
}

#[test]
fn affinity_and_isolation_are_of_pools_of_rented_machines_and_have_names() {
    parse(&rented(&[("affinity", "false"), ("isolation", r#""none""#)])).unwrap();
    refused(&rented(&[("isolation", r#""some""#)]), &["isolation", "some"]);
    refused(&pool(&[("affinity", "true")]), &["pools[0].affinity", "is not a key of kind openai"]);
}

/// A pool that rents at Lambda, with lines added to `[pools.rent]`.
fn renting(more: &str) -> String {
    let account = "[[landlords]]\nkind = \"lambda\"\napi_key_env = \"LAMBDA_API_KEY\"\nssh_public_key = \"ssh-ed25519 A b\"\n";
    let rent = r#"
        [pools.rent]
        landlord = "lambda"
        sku = "gpu_1x_a10"
        places = ["us-east-1"]
        slots = 4
        usd_per_hour_max = "1.50"
        pool_usd_per_hour_max = "6.00"
        most = 4
        machine = { image = "vllm/vllm-openai", port = 8000 }
    "#;
    format!("{account}{}{rent}{more}\n", rented(&[("provider", r#""lambda""#)]))
}

/// What a keeper is told of the first pool.
fn rents(text: &str) -> keepers::config::PoolSettings {
    let config = parse(text).unwrap();
    let pool = &config.pools[0];
    pool.rent().unwrap().settings(&pool.id, pool.models()).unwrap()
}

#[test]
fn windows_of_the_day_are_read_as_they_are_written() {
    let windows = r#"
        least = 1
        windows = [
            { days = "mon-fri", from = "08:00", to = "18:00", zone = "Europe/Berlin", least = 2 },
            { from = "22:00", to = "04:00", least = 0, most = 1 },
        ]"#;
    let policy = rents(&renting(windows)).policy;
    assert_eq!(policy.bounds, Bounds::between(1, 4));
    let bounds: Vec<Bounds> = policy.windows.iter().map(|window| window.bounds).collect();
    assert_eq!(bounds, [Bounds::between(2, 4), Bounds::between(0, 1)]);
    let at = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap().into();
    // A Friday in winter: 08:00 in Berlin is 07:00 in UTC.
    let covers = |nth: usize, text: &str| policy.windows[nth].covers(at(text));
    assert!(covers(0, "2026-11-27T07:00:00Z") && !covers(0, "2026-11-28T07:00:00Z"));
    assert!(covers(1, "2026-11-28T03:59:00Z") && !covers(1, "2026-11-28T04:00:00Z"), "every day, in UTC");
}

#[test]
fn a_wrong_window_is_refused_by_its_place_in_the_list() {
    let window = |text: &str| {
        renting(&format!("windows = [{{ from = \"08:00\", to = \"18:00\", least = 1, {text} }}]"))
    };
    refused(&window("days = \"someday\""), &["pools[0].rent.windows[0]", "someday", "mon-fri"]);
    refused(&window("zone = \"Mars/Base\""), &["pools[0].rent.windows[0]", "Mars/Base", "Europe/Berlin"]);
    refused(&window("most = 0"), &["pools[0].rent", "floor `1`", "ceiling `0`"]);
    refused(
        &renting("windows = [{ from = \"8\", to = \"18:00\", least = 1 }]"),
        &["windows[0]", "`8`", "08:30"],
    );
}

#[test]
fn renting_only_where_it_beats_serverless_is_the_rule_and_theta_says_how_soon() {
    assert_eq!(rents(&renting("")).policy.theta, 1_000);
    assert_eq!(rents(&renting("theta = 0.25")).policy.theta, 250);
    refused(&renting("theta = 11"), &["pools[0].rent.theta", "11", "0 to 10"]);
}

#[test]
fn a_machine_s_price_is_held_against_the_book_of_its_price_name() {
    let at = schemas::Micros::new(1_795_000_000_000_000);
    let price = |text: &str| rents(text).policy.book_price;
    let usd = |text: &str| text.parse::<UsdNanos>().unwrap();
    // The book that is built in prices Fly's A10 at $1.50, and nothing at Lambda.
    assert_eq!(price(&renting("")).at(at), None);
    let fly = renting("").replace("provider = \"lambda\"", "provider = \"lambda\"\nprice_name = \"fly\"");
    let fly = fly.replace("gpu_1x_a10", "A10");
    assert_eq!(price(&fly).at(at), Some(usd("1.5")));
    assert!(price(&fly).differs(usd("1.81"), at).is_some() && price(&fly).differs(usd("1.79"), at).is_none());
    let wide = fly.replace("most = 4", "most = 4\nprice_tolerance = 0.5");
    assert!(price(&wide).differs(usd("1.81"), at).is_none());
    refused(&renting("price_tolerance = -0.1"), &["pools[0].rent.price_tolerance", "-0.1"]);
}

#[test]
fn machines_of_a_pool_that_nobody_keeps_are_not_ended_in_haste() {
    assert_eq!(parse("").unwrap().keeping.forsaken_after, Duration::from_secs(60));
    refused("[keeper]\nforsaken_after = \"1s\"", &["keeper.forsaken_after", "1s", "10s"]);
}

#[test]
fn a_wrong_type_is_refused_with_key_and_value() {
    refused("[lease]\nack_wait = 60", &["line 2", "lease.ack_wait", "60", "span"]);
    refused("[lease]\nack_wait = \"60\"", &["lease.ack_wait", "`60`", "ms, s, m, h"]);
    refused(&pool(&[("slots", "\"four\"")]), &["pools[0].slots", "four"]);
    refused(&pool(&[("slots", "-1")]), &["pools[0].slots", "-1"]);
    refused(&pool(&[("kind", "\"fly\"")]), &["pools[0].kind", "fly", "openai"]);
    refused("[beacon]\nregions = [\"US East\"]", &["beacon.regions[0]", "`US East`", "a-z"]);
    refused("[metrics]\nlisten = \"here\"", &["metrics.listen"]);
    refused("nats = ", &["line 1"]);
}

#[test]
fn the_map_of_streams_must_make_sense() {
    refused("[beacon]\nmodels = [\"qwen-2.5\", \"qwen 2.5\"]", &["beacon.models", "qwen-2-5", "rename"]);
    refused("[beacon]\nmodels = []", &["beacon.models", "at least one"]);
    refused("[beacon]\nregions = []", &["beacon.regions", "at least one"]);
    refused("[beacon]\nregions = [\"a\", \"b\", \"a\"]", &["beacon.regions[2]", "`a`", "twice"]);
    refused("[beacon]\nreplicas = 2", &["beacon.replicas", "`2`", "1", "3"]);
    refused("[beacon]\njobs_max_bytes = 1000", &["beacon.jobs_max_bytes", "`1000`", "1 MiB"]);
}

#[test]
fn a_lease_must_outlast_its_heartbeats_and_offers() {
    refused("[lease]\nack_wait = \"500ms\"", &["lease.ack_wait", "`500ms`", "at least 1s", "extended"]);
    refused(
        "[lease]\nack_wait = \"5m\"",
        &["lease.jobs_window", "`2m`", "longer than lease.ack_wait", "`5m`"],
    );
    refused("[lease]\njobs_window = \"1m\"", &["lease.jobs_window", "`1m`", "lease.ack_wait"]);
    refused("[lease]\nreplies_window = \"60s\"", &["lease.replies_window", "lease.ack_wait"]);
    refused(
        "[offers]\naccept_within = \"45s\"",
        &["offers.accept_within", "45s", "half of lease.ack_wait", "60s"],
    );
    refused("[offers]\naccept_within = \"1ms\"", &["offers.accept_within", "`1ms`", "at least 10ms"]);
    refused("[offers]\npull_batch = 0", &["offers.pull_batch", "`0`", "at least 1"]);
    refused("[trim]\nhorizon = \"1m\"", &["trim.horizon", "`1m`", "lease.jobs_window"]);
    let short = parse("[lease]\nack_wait = \"2s\"").unwrap();
    assert!(short.offers.accept_within + short.offers.margin <= Duration::from_secs(1), "{:?}", short.offers);
}

#[test]
fn routing_and_breaker_stay_in_range() {
    refused("[routing]\nshare = 1.1", &["routing.share", "`1.1`", "0 to 1"]);
    refused("[routing]\nshare = -0.1", &["routing.share", "`-0.1`"]);
    refused("[routing]\nshare = nan", &["routing.share"]);
    refused("[routing]\nsilent_after = \"1s\"", &["routing.silent_after", "`1s`", "at least 2s"]);
    let misspelt = format!("[routing]\nbaseline = [\"golom\"]\n{}", pool(&[]));
    refused(&misspelt, &["routing.baseline[0]", "`golom`", "no pool"]);
    refused("[breaker]\nconsecutive_failures = 0", &["breaker.consecutive_failures", "`0`"]);
    refused("[breaker]\nopen_for = \"10m\"", &["breaker.open_max", "breaker.open_for"]);
}

#[test]
fn what_is_tried_twice_and_kept_warm_has_a_price_in_dollars() {
    refused("[routing.hedge]\nshare = 1.1", &["routing.hedge.share", "`1.1`", "0 to 1"]);
    refused("[routing.hedge]\nshare = nan", &["routing.hedge.share"]);
    refused("[routing.hedge]\nusd_per_hour = 1.5", &["routing.hedge.usd_per_hour", "1.5"]);
    refused("[routing.hedge]\nleast = 50", &["routing.hedge.least", "50", "span"]);
    refused("[routing.hedge]\nmost = 1", &["routing.hedge", "unknown field `most`", "least"]);
    refused("[routing.warm]\nusd_per_hour = 3", &["routing.warm.usd_per_hour", "3"]);
    refused("[routing.warm]\nusd_per_hour = \"-1\"", &["routing.warm.usd_per_hour", "-1"]);
    refused("[routing.warm]\nsecond_worth_usd = \"much\"", &["routing.warm.second_worth_usd", "much"]);
    refused("[routing.warm]\nsecond_worth = \"1\"", &["routing.warm", "second_worth", "second_worth_usd"]);
    refused(&pool(&[("rented", "\"yes\"")]), &["pools[0].rented", "yes"]);

    let plain = parse(&pool(&[])).unwrap();
    assert_eq!(
        plain.policy.warm.most_usd_per_hour,
        UsdNanos::ZERO,
        "nothing stands by unless somebody says so"
    );
    let said =
        "[routing.warm]\nusd_per_hour = \"2.5\"\nsecond_worth_usd = \"0.001\"\n[routing.hedge]\nshare = 0\n";
    let policy = parse(said).unwrap().policy;
    assert_eq!(policy.warm.most_usd_per_hour, UsdNanos::new(2_500_000_000));
    assert_eq!(policy.warm.second_worth, UsdNanos::new(1_000_000));
    assert_eq!((policy.hedge.share, policy.hedge.least), (0.0, Duration::from_millis(50)));
}

#[test]
fn a_pool_must_fit_the_catalog_and_the_prices() {
    refused(&pool(&[("region", "\"mars\"")]), &["pools[0].region", "`mars`", "us-east"]);
    refused(&pool(&[("slots", "0")]), &["pools[0].slots", "`0`", "at least 1"]);
    refused(&pool(&[("models", "[]")]), &["pools[0].models", "at least one"]);
    refused(
        &pool(&[("models", r#"[{ model = "gpt-5", sku = "standard" }]"#)]),
        &["pools[0].models[0].model", "`gpt-5`", "llama-3.2-1b"],
    );
    refused(
        &pool(&[("models", r#"[{ model = "llama-3.2-1b", sku = "H100" }]"#)]),
        &["pools[0].models[0].sku", "golem", "`H100`", "[[price]]"],
    );
    let twice =
        r#"[{ model = "llama-3.2-1b", sku = "standard" }, { model = "llama-3-2-1b", sku = "standard" }]"#;
    refused(&pool(&[("models", twice)]), &["pools[0].models[1].model", "twice"]);
    refused(&format!("{}{}", pool(&[]), pool(&[])), &["pools[1].provider", "golem@us-east", "pools[0]"]);
    refused(&pool(&[("timeout", "\"1ms\"")]), &["pools[0].timeout", "`1ms`"]);
    refused(
        &format!("[lease]\nmax_ack_pending = 7\n{}", pool(&[])),
        &["lease.max_ack_pending", "`7`", "us-east"],
    );
}

#[test]
fn a_pool_must_say_where_and_how_to_call() {
    refused(&pool(&[("base_url", "")]), &["pools[0].base_url", "must be given"]);
    refused(
        &pool(&[("base_url", "\"127.0.0.1:80\"")]),
        &["pools[0].base_url", "`127.0.0.1:80`", "http(s)://"],
    );
    refused(
        &pool(&[("base_url", ""), ("simulator", "\"x\"")]),
        &["pools[0].simulator", "`x`", "[[simulators]]"],
    );
    refused(&pool(&[("simulator", "\"x\"")]), &["pools[0].simulator", "only one"]);
    refused(&pool(&[("billing", "")]), &["pools[0].billing", "inference"]);
    refused(&pool(&[("mode", "\"spawn\"")]), &["pools[0].mode", "not a key of kind openai"]);
    refused(
        &pool(&[("api_key_env", "\"A\""), ("api_key_file", "\"b\"")]),
        &["pools[0].api_key_file", "only one"],
    );
    let half = pool(&[
        ("provider", "\"modal\""),
        ("kind", "\"modal\""),
        ("billing", ""),
        ("modal_key_env", "\"A\""),
        ("models", r#"[{ model = "llama-3.2-1b", sku = "T4" }]"#),
    ]);
    refused(&half, &["pools[0].modal_key_env", "modal_secret"]);
}

#[test]
fn a_missing_secret_names_its_variable() {
    let config = parse(&pool(&[("api_key_env", "\"BEACON_TEST_NOT_SET\"")])).unwrap();
    let said = config.check_secrets().unwrap_err().to_string();
    assert_eq!(
        said,
        "beacon.toml: pools[0].api_key_env: the environment variable `BEACON_TEST_NOT_SET` is not set or empty"
    );
    let config = parse(&pool(&[("api_key_file", "\"/no/such/file\"")])).unwrap();
    let said = config.check_secrets().unwrap_err().to_string();
    assert!(said.contains("pools[0].api_key_file") && said.contains("/no/such/file"), "{said}");
}

#[test]
fn a_server_is_ours_or_theirs() {
    refused("[nats]\nurl = \"localhost\"", &["nats.url", "`localhost`", "nats://"]);
    refused("[nats]\nurl = \"nats://a:1\"\nurls = [\"nats://b:1\"]", &["nats.urls", "only one"]);
    refused("[nats]\nurl = \"nats://a:1\"\ndata = \"x\"", &["nats.data", "embedded"]);
    refused("[nats]\ncredentials = \"x.creds\"", &["nats.credentials", "nats.url"]);
    let config =
        Config::parse("[nats]\nurl = \"nats://a:1\"\ncredentials = \"x.creds\"", "f", Path::new("/etc"))
            .unwrap();
    let Nats::Remote(link) = config.nats else { panic!("{:?}", config.nats) };
    assert_eq!(link.credentials.as_deref(), Some(Path::new("/etc/x.creds")));
}

#[test]
fn simulators_have_names_and_addresses_of_their_own() {
    let simulator = |name: &str, port: u16| {
        format!(
            "[[simulators]]\nname = \"{name}\"\nkind = \"golem\"\nlisten = \"127.0.0.1:{port}\"\nmodels = [{{ name = \"m\" }}]\n"
        )
    };
    refused(&format!("{}{}", simulator("a", 0), simulator("a", 0)), &["simulators[1].name", "`a`", "twice"]);
    refused(&format!("{}{}", simulator("a", 9), simulator("b", 9)), &["simulators[1].listen", "127.0.0.1:9"]);
    refused("[[simulators]]\nname = \"a\"\nkind = \"golem\"\nmodels = []", &["simulators[0]", "models"]);
}

#[test]
fn a_missing_file_and_missing_prices_are_told_by_name() {
    let error = Config::load(Some(Path::new("/no/such/beacon.toml"))).unwrap_err();
    assert_eq!(error.to_string(), "/no/such/beacon.toml: cannot be read");
    let error = Config::parse("[beacon]\nprices = \"none.toml\"", "f", Path::new("/no")).unwrap_err();
    assert_eq!(error.to_string(), "/no/none.toml: cannot be read");
}

/// A simulator charges the prices of the price book; otherwise no ledger could equal its bill.
fn prices_agree(config: &Config) {
    let now = schemas::time::Clock::now(&transport::SystemClock);
    for pool in &config.pools {
        for simulator in &config.simulators {
            let stands_for = simulator.name == format!("{}-{}", pool.id.provider, pool.id.region);
            for model in simulator.models.iter().filter(|_| stands_for) {
                let charged = match simulator.kind {
                    simulators::Kind::Golem => model.price_per_inference_nanos,
                    simulators::Kind::OpenAi
                    | simulators::Kind::Modal
                    | simulators::Kind::RunPod
                    | simulators::Kind::Replicate => model.price_per_second_nanos,
                };
                let nanos: Vec<u64> = config
                    .prices
                    .of(&pool.id.provider, &model.sku, now)
                    .map(|price| match price.unit {
                        schemas::prices::Unit::Hour => price.usd.get() / 3_600,
                        _ => price.usd.get(),
                    })
                    .collect();
                assert_eq!(nanos, [charged], "{} {}", simulator.name, model.sku);
            }
        }
    }
}

#[test]
fn what_is_built_in_is_accepted() {
    let config = Config::built_in().unwrap();
    let providers: BTreeSet<&str> = config.pools.iter().map(|pool| pool.id.provider.as_str()).collect();
    let eight = ["fly", "golem", "lambda", "modal", "railway", "render", "replicate", "runpod"];
    assert_eq!(providers, BTreeSet::from(eight));
    for pool in &config.pools {
        let account = pool.rent().and_then(|rent| config.simulated_account(rent));
        assert!(pool.simulator().or(account).is_some(), "{} calls nobody outside", pool.id);
    }
    prices_agree(&config);
}

#[test]
fn a_simulated_account_stands_in_place_of_a_key_and_is_of_the_landlords_kind() {
    let account = "[[simulated_accounts]]\nname = \"sim\"\nkind = \"fly\"\nmodels = [{ name = \"m\" }]\n[[landlords]]\n";
    let landlord = |text: &str| format!("{account}{text}");
    refused(&landlord("kind = \"fly\"\nsimulator = \"other\""), &["landlords[0].simulator", "`other`"]);
    let keyed = landlord("kind = \"fly\"\nsimulator = \"sim\"\napi_key_env = \"X\"");
    refused(&keyed, &["landlords[0].simulator", "in place of"]);
    let lambda = landlord("kind = \"lambda\"\nsimulator = \"sim\"\nssh_public_key = \"x\"");
    refused(&lambda, &["landlords[0].simulator", "`fly`"]);
    let nothing = "[[simulated_accounts]]\nname = \"sim\"\nkind = \"fly\"\nmodels = []";
    refused(nothing, &["simulated_accounts[0]", "models is empty"]);
    assert!(parse(&landlord("kind = \"fly\"\nsimulator = \"sim\"")).is_ok());
}

#[test]
fn the_documented_example_is_accepted_and_runs_as_it_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let config = Config::load(Some(&root.join("beacon.example.toml"))).unwrap();
    assert!(!config.pools.is_empty() && !config.simulators.is_empty());
    assert!(config.simulators.iter().all(|s| s.listen.port() != 0 && s.listen.ip().is_loopback()));
    prices_agree(&config);
}

#[test]
fn what_compose_runs_is_accepted() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let text = fs_read(&root.join("deploy/beacon.toml"));
    // In the container the prices lie beside the configuration; here they lie one folder up.
    let config =
        Config::parse(&text.replace("\"prices.toml\"", "\"../prices.toml\""), "deploy", &root.join("deploy"))
            .unwrap();
    assert_eq!(config.topology.replicas, 3);
    prices_agree(&config);
}

fn fs_read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}

const RUNPOD: [(&str, &str); 4] = [
    ("provider", r#""runpod""#),
    ("kind", r#""runpod""#),
    ("billing", ""),
    ("models", r#"[{ model = "llama-3.2-1b", sku = "L4" }]"#),
];

const REPLICATE: [(&str, &str); 4] = [
    ("provider", r#""replicate""#),
    ("kind", r#""replicate""#),
    ("billing", r#""per_second""#),
    ("models", r#"[{ model = "llama-3.2-1b", sku = "gpu-t4" }]"#),
];

const HOOKS: &str = "[workers]\nwebhooks = { listen = \"127.0.0.1:0\", public_url = \"https://h\" }\n";

#[test]
fn budgets_shares_and_retries_are_read_as_they_are_written() {
    let config = parse(&format!(
        "[retries]\nratio = 0.5\n{}{}{}",
        budget("tenant = \"acme\"\nprovider = \"golem\"\nmode = \"soft\""),
        "[[tenants]]\nname = \"acme\"\nweight = 3\n[[tenants]]\nname = \"b\"\n",
        pool(&[]),
    ))
    .unwrap();
    assert_eq!(config.budgets.as_slice()[0].to_string(), "$2.5 per day for tenant acme at golem");
    assert_eq!(config.budgets.as_slice()[0].mode, routing::budget::Mode::Soft);
    assert_eq!(config.weights[&"acme".parse().unwrap()], 3);
    assert_eq!((config.retries.ratio, config.retries.per_second), (0.5, 3));
}

fn budget(more: &str) -> String {
    format!("[[budgets]]\nperiod = \"day\"\nlimit_usd = \"2.50\"\n{more}\n")
}

#[test]
fn a_budget_that_holds_nobody_or_contradicts_another_is_refused() {
    refused(&budget("provider = \"golom\""), &["budgets[0].provider", "`golom`", "no pool"]);
    refused("[[budgets]]\nperiod = \"day\"\nlimit_usd = \"0.00\"", &["budgets[0].limit_usd", "more than 0"]);
    refused("[[budgets]]\nperiod = \"day\"\nlimit_usd = 5", &["budgets[0].limit_usd"]);
    refused("[[budgets]]\nperiod = \"week\"\nlimit_usd = \"5\"", &["budgets[0].period", "week", "day"]);
    refused("[[budgets]]\nperiod = \"day\"", &["budgets[0]", "limit_usd"]);
    let twice = [budget(""), budget("tenant = \"a\""), budget("mode = \"soft\"")].concat();
    refused(&twice, &["budgets[2]", "already a budget"]);
    refused("[[tenants]]\nname = \"a\"\nweight = 0", &["tenants[0].weight", "`0`", "at least 1"]);
    refused("[[tenants]]\nname = \"a\"\n[[tenants]]\nname = \"a\"", &["tenants[1].name", "`a`", "twice"]);
    refused("[retries]\nratio = 1.5", &["retries.ratio", "`1.5`", "0 to 1"]);
}

#[test]
fn a_pool_whose_price_is_over_or_has_yet_to_come_is_refused_by_its_sku() {
    let folder = tempfile::tempdir().unwrap();
    let text = format!("[beacon]\nprices = \"p.toml\"\n{}", pool(&[]));
    let check = |period: &str| {
        let book = "version = \"t\"\nas_of = \"2026-11-24\"\nsource = \"t\"\n[[price]]\nprovider = \"golem\"\n\
                    sku = \"standard\"\nunit = \"inference\"\nusd = \"0.0001\"\n";
        std::fs::write(folder.path().join("p.toml"), format!("{book}{period}\n")).unwrap();
        Config::parse(&text, "beacon.toml", folder.path()).map(drop).map_err(|error| error.to_string())
    };
    assert_eq!(check("from = \"2020-01-01T00:00:00Z\""), Ok(()));
    for period in ["until = \"2020-01-01T00:00:00Z\"", "from = \"2120-01-01T00:00:00Z\""] {
        let said = check(period).unwrap_err();
        assert!(said.starts_with("beacon.toml: pools[0].models[0].sku: ") && !said.contains('\n'), "{said}");
        assert!(said.contains("no price in force at") && said.contains("20-01-01T00:00:00Z"), "{said}");
    }
}

#[test]
fn serverless_pools_are_an_entry_each() {
    assert_eq!(parse(&pool(&RUNPOD)).unwrap().pools.len(), 1);
    assert_eq!(parse(&pool(&REPLICATE)).unwrap().pools.len(), 1);
    let with = [RUNPOD.as_slice(), &[("webhook", "true"), ("mode", r#""runsync""#)]].concat();
    assert!(parse(&format!("{HOOKS}{}", pool(&with))).unwrap().workers.webhooks.is_some());
}

#[test]
fn what_cannot_work_at_a_serverless_provider_is_refused_by_its_key() {
    let refuse = |base: &[(&'static str, &'static str)], change, parts: &[&str]| {
        refused(&pool(&[base, &[change]].concat()), parts);
    };
    refuse(&RUNPOD, ("mode", r#""spawn""#), &["pools[0].mode", "run or runsync"]);
    refuse(&RUNPOD, ("wait", r#""10m""#), &["pools[0].wait", "1s to 300s"]);
    refuse(&RUNPOD, ("webhook", "true"), &["pools[0].webhook", "[workers.webhooks]"]);
    refuse(&RUNPOD, ("target", r#""model""#), &["pools[0].target", "not a key of kind runpod"]);
    refuse(&REPLICATE, ("billing", r#""per_inference""#), &["pools[0].billing", "per_second or per_token"]);
    refuse(&REPLICATE, ("wait", r#""2m""#), &["pools[0].wait", "60s"]);
    refuse(&REPLICATE, ("input", r#"{ prompt = "" }"#), &["pools[0].input.prompt"]);
    refuse(&REPLICATE, ("input", r#"{ promt = "x" }"#), &["promt"]);
    refuse(&REPLICATE, ("poll_max", r#""100ms""#), &["pools[0].poll_max", "poll_min"]);
    let unsigned = [REPLICATE.as_slice(), &[("webhook", "true")]].concat();
    refused(&format!("{HOOKS}{}", pool(&unsigned)), &["pools[0].webhook", "webhook_secret_env"]);
}

#[test]
fn what_counts_as_an_end_and_where_a_server_tells_its_load_is_the_pools_to_say() {
    parse(&pool(&[
        ("trust_done", "true"),
        ("finish_reasons", r#"["brand_new"]"#),
        ("metrics_path", r#""/m""#),
    ]))
    .unwrap();
    parse(&pool(&[("metrics_path", r#""off""#), ("dialect", r#""llamacpp""#)])).unwrap();
    refused(&pool(&[("metrics_path", r#""m""#)]), &["pools[0].metrics_path", "`m` must begin with a slash"]);
    let ollama = [("metrics_path", r#""/metrics""#), ("dialect", r#""ollama""#)];
    refused(&pool(&ollama), &["pools[0].metrics_path", "a dialect that has metrics"]);
    let noop = [("kind", r#""noop""#), ("base_url", ""), ("billing", ""), ("trust_done", "true")];
    refused(&pool(&noop), &["pools[0].trust_done", "is not a key of kind noop"]);
}
