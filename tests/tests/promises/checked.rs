//! Promise: `beacon provider check` says what keeps jobs from running and `beacon prices check` what has become dearer; neither spends
//! anything, ends late, shows a secret or changes anything by itself.

use std::{path::Path, process::Output, sync::Arc, time::Duration};

use schemas::{check::Aspect, prices::PriceBook};
use serde_json::Value;
use simulators::{
    Kind, SimulatedModel, Simulator, SimulatorConfig,
    rented::{self, Canned, ControlFault},
};
use tests::{nats_server::NatsServer, process, roles, wait};
use tokio_util::sync::{CancellationToken, DropGuard};
use workers::adapters::{OpenAi, OpenAiConfig};

const DIGEST: &str = "5555555555555555555555555555555555555555555555555555555555555555";
const BOOK: &str =
    "# The book of these tests.\nversion = \"2026-11-24.1\"\nas_of = \"2026-11-24\"\nsource = \"by hand\"\n";

/// Simulated providers, and a configuration of pools at each of them.
struct World {
    simulators: Vec<Simulator>,
    lambda: rented::Lambda,
    folder: tempfile::TempDir,
    config: String,
    _stop: DropGuard,
}

impl World {
    async fn open(change: impl Fn(&mut SimulatorConfig)) -> Self {
        let stop = CancellationToken::new();
        let mut simulators = Vec::new();
        for (name, kind, sku) in [
            ("vllm", Kind::OpenAi, "standard"),
            ("modal", Kind::Modal, "T4"),
            ("runpod", Kind::RunPod, "L4"),
            ("replicate", Kind::Replicate, "gpu-t4"),
        ] {
            let served = if kind == Kind::Replicate { "acme/llama" } else { "m" };
            let model = SimulatedModel { sku: sku.into(), ..SimulatedModel::new(served) };
            let mut config = SimulatorConfig::new(name, kind, vec![model]);
            config.api_key = Some(if kind == Kind::Modal { "wk-key:ws-key" } else { "secret-key" }.into());
            change(&mut config);
            simulators.push(simulators::start(config, stop.clone()).await.unwrap());
        }
        let lambda = rented::Lambda::start(rented::LambdaConfig::default(), stop.clone()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = configuration(folder.path(), &simulators, &lambda);
        Self { simulators, lambda, folder, config, _stop: stop.drop_guard() }
    }

    fn types(&self, words: &str) -> Typed {
        let mut args: Vec<&str> = words.split(' ').collect();
        args.extend(["--config", &self.config]);
        let typed = Typed(tokio::task::block_in_place(|| process::run(&args)));
        for secret in ["secret-key", "ws-key", "lambda-key"] {
            assert!(!typed.out().contains(secret) && !typed.err().contains(secret), "{typed:?}");
        }
        for simulator in &self.simulators {
            let (bill, stats) = (simulator.bill(), simulator.stats());
            assert_eq!((bill.total_nanos, stats.started), (0, 0), "{} was made to work", simulator.name());
        }
        assert!(self.lambda.account().log().is_empty(), "nothing was ordered");
        typed
    }

    fn simulator(&self, name: &str) -> &Simulator {
        self.simulators.iter().find(|simulator| simulator.name() == name).unwrap()
    }
}

#[derive(Debug)]
struct Typed(Output);

impl Typed {
    fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    fn expect(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{}\n{}", self.out(), self.err());
        for word in words {
            assert!(
                self.out().contains(word) || self.err().contains(word),
                "`{word}` is not in {}{}",
                self.out(),
                self.err()
            );
        }
        self
    }

    fn json(&self) -> Vec<Value> {
        self.out().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The finding of a pool.
    fn finding(&self, pool: &str, aspect: &str) -> Value {
        let lines = self.json();
        let (provider, region) = pool.split_once('@').unwrap();
        let is_meant =
            |line: &&Value| line["pool"]["provider"] == provider && line["pool"]["region"] == region;
        let of = lines.iter().find(is_meant).unwrap_or_else(|| panic!("no {pool} in {lines:#?}"));
        let findings = of["findings"].as_array().unwrap();
        findings
            .iter()
            .find(|one| one["aspect"] == aspect)
            .unwrap_or_else(|| panic!("no {aspect} in {of:#}"))
            .clone()
    }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Prices as the providers' APIs say them, but for Lambda's: $0.75 in the book, $1.29 there.
fn book() -> String {
    let entries = [
        ("vllm", "standard", "inference", "0.0001"),
        ("modal", "T4", "second", "0.000164"),
        ("runpod", "L4", "second", "0.00019"),
        ("replicate", "gpu-t4", "second", "0.000225"),
        ("lambda", "gpu_1x_a10", "hour", "0.75"),
    ];
    let entry = |(provider, sku, unit, usd): &(&str, &str, &str, &str)| {
        format!(
            "\n# {provider}'s.\n[[price]]\nprovider = \"{provider}\"\nsku = \"{sku}\"\nunit = \"{unit}\"\nusd = \"{usd}\"\n"
        )
    };
    format!("{BOOK}{}", entries.iter().map(entry).collect::<String>())
}

fn configuration(folder: &Path, simulators: &[Simulator], lambda: &rented::Lambda) -> String {
    let url = |name: &str| simulators.iter().find(|one| one.name() == name).unwrap().url();
    let key = write(folder, "key", "secret-key");
    let (wk, ws) = (write(folder, "wk", "wk-key"), write(folder, "ws", "ws-key"));
    let lambda_key = write(folder, "lambda.key", "lambda-key");
    write(folder, "prices.toml", &book());
    let pool = |provider: &str, kind: &str, served: &str, sku: &str, more: &str| {
        format!(
            "[[pools]]\nprovider = \"{provider}\"\nregion = \"{}\"\nkind = \"{kind}\"\nslots = 4\n{more}\n\
             models = [{{ model = \"{}\", served_as = \"{served}\", sku = \"{sku}\" }}]\n",
            roles::REGION,
            roles::MODEL
        )
    };
    let keyed = |url: &str, more: &str| format!("base_url = \"{url}\"\napi_key_file = \"{key}\"\n{more}");
    let modal =
        format!("base_url = \"{}\"\nmodal_key_file = \"{wk}\"\nmodal_secret_file = \"{ws}\"", url("modal"));
    let runpod =
        keyed(&format!("{}/v2/ep-sim", url("runpod")), &format!("billing_url = \"{}\"", url("runpod")));
    let rent = format!(
        "[pools.rent]\nlandlord = \"lambda\"\nsku = \"gpu_1x_a10\"\nplaces = [\"us-east-1\"]\nslots = 2\nusd_per_hour_max = \"3\"\n\
         pool_usd_per_hour_max = \"9\"\nmost = 2\n[pools.rent.machine]\nimage = \"vllm/vllm-openai@sha256:{DIGEST}\"\nport = 8000\n"
    );
    let text = [
        format!(
            "[beacon]\nregions = [\"{}\"]\nmodels = [\"{}\"]\nprices = \"prices.toml\"\n",
            roles::REGION,
            roles::MODEL
        ),
        format!(
            "[[landlords]]\nkind = \"lambda\"\napi_key_file = \"{lambda_key}\"\nbase_url = \"{}\"\n\
             ssh_public_key = \"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIBeacon us@here\"\n",
            lambda.url()
        ),
        pool("vllm", "openai", "m", "standard", &keyed(&url("vllm"), "billing = \"per_inference\"")),
        pool("modal", "modal", "m", "T4", &modal),
        pool("runpod", "runpod", "m", "L4", &runpod),
        pool(
            "replicate",
            "replicate",
            "acme/llama",
            "gpu-t4",
            &keyed(&url("replicate"), "billing = \"per_second\""),
        ),
        pool("lambda", "rented", "m", "any", ""),
        rent,
    ];
    write(folder, "beacon.toml", &text.concat())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_well_is_a_table_with_exit_code_0_and_a_price_that_differs_a_warning_with_both_numbers() {
    let world = World::open(|_| {}).await;
    let words = ["modal@us-east", "runpod@us-east", "replicate@us-east", "lambda@us-east", "vllm@us-east"];
    let table = world.types("provider check").expect(0, &words);
    table.expect(0, &["app or image", "round trip", "not ours", "Nothing is missing", "0 wrong, 1 warning"]);
    let said = world.types("provider check --json").expect(0, &[]);
    let price = said.finding("lambda@us-east", "price");
    assert_eq!(price["voice"], "warning");
    for part in ["$0.75", "$1.29", "+72.0 %"] {
        assert!(price["found"].as_str().unwrap().contains(part), "{price}");
    }
    for (pool, aspect, voice) in [
        ("runpod@us-east", "price", "ok"),
        ("runpod@us-east", "quota", "ok"),
        ("modal@us-east", "app", "ok"),
        ("modal@us-east", "price", "unknown"),
        ("modal@us-east", "quota", "unknown"),
        ("replicate@us-east", "model", "ok"),
        ("vllm@us-east", "key", "ok"),
        ("lambda@us-east", "app", "ok"),
        ("lambda@us-east", "region", "ok"),
    ] {
        assert_eq!(said.finding(pool, aspect)["voice"], voice, "{pool} {aspect}");
    }
    for line in said.json().iter().filter(|line| line["pool"].is_object()) {
        let aspects = line["findings"].as_array().unwrap().len();
        assert_eq!(aspects, 8, "one finding for each question: {line:#}");
    }
    let way = said.finding("lambda@us-east", "round_trip");
    assert!(way["found"].as_str().unwrap().contains("no machine of the pool stands"), "{way}");
    // Within its own tolerance it is no warning.
    world.types("provider check lambda --price-tolerance 0.8").expect(0, &["0 warnings"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_is_listed_in_the_order_of_doing_and_other_pools_are_checked_all_the_same() {
    let world = World::open(|config| match config.kind {
        Kind::Modal => config.modal.contract = None,
        Kind::RunPod => {
            config.runpod.account.workers_max = 0;
            config.runpod.account.pods = [("pod-7".into(), "0.35".into())].into();
        }
        Kind::Replicate => config.api_key = Some("another".into()),
        Kind::OpenAi | Kind::Golem => {}
    })
    .await;
    std::fs::remove_file(world.folder.path().join("lambda.key")).unwrap();
    world.simulator("vllm").fault_route("/health", ControlFault::Refused(Canned::html(502)));
    let said = world.types("provider check --json").expect(1, &["wrong"]);
    let secret = said.finding("lambda@us-east", "secret");
    assert_eq!(secret["voice"], "wrong");
    assert!(secret["found"].as_str().unwrap().contains("lambda.key"), "{secret}");
    assert_eq!(said.finding("replicate@us-east", "key")["voice"], "wrong");
    assert_eq!(said.finding("replicate@us-east", "model")["voice"], "unknown", "not asked");
    assert_eq!(said.finding("vllm@us-east", "app")["voice"], "wrong");
    assert_eq!(said.finding("runpod@us-east", "quota")["voice"], "wrong");
    let foreign = said.finding("runpod@us-east", "foreign");
    assert_eq!(
        (&foreign["foreign"][0]["id"], &foreign["foreign"][0]["usd_per_hour"]),
        (&"pod-7".into(), &"0.35".into())
    );
    let old = said.finding("modal@us-east", "app");
    assert!(
        old["voice"] == "warning" && old["found"].as_str().unwrap().contains("older than Beacon"),
        "{old}"
    );
    let last = said.json().pop().unwrap();
    assert_eq!(last["wrong"], 4);
    let order: Vec<&str> =
        last["missing"].as_array().unwrap().iter().map(|one| one["aspect"].as_str().unwrap()).collect();
    assert_eq!(order, ["secret", "key", "app", "quota"]);
    assert!(Aspect::Secret < Aspect::Key && Aspect::Key < Aspect::App && Aspect::App < Aspect::Quota);
    world.types("provider check").expect(1, &["Still missing, in the order to see to it:", "lambda.key"]);
    world.types("provider check modal").expect(0, &["1 warning"]);
    let unknown = world.types("provider check nobody").expect(2, &["nobody", "modal@us-east"]);
    assert_eq!(unknown.err().lines().count(), 1, "{unknown:?}");
    world.types("provider check --price-tolerance much").expect(2, &["much"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_hangs_does_not_hold_the_others_up() {
    let world = World::open(|_| {}).await;
    world.simulator("modal").fault_route("*", ControlFault::Hang);
    world.lambda.account().fault_always("*", ControlFault::Hang);
    let said = world.types("provider check --json").expect(1, &[]);
    assert_eq!(said.finding("modal@us-east", "app")["voice"], "wrong");
    assert_eq!(said.finding("lambda@us-east", "key")["voice"], "unknown");
    assert_eq!(said.finding("runpod@us-east", "key")["voice"], "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_that_changed_becomes_a_dated_book_that_the_reader_takes_and_nothing_else_changes() {
    let world = World::open(|_| {}).await;
    let folder = world.folder.path();
    let files = || std::fs::read_dir(folder).unwrap().count();
    let before = files();
    let (table, new) = (world.types("prices check"), files());
    let table = table.expect(0, &["gpu_1x_a10", "0.75", "1.29", "+72.0 %", "as in the book"]);
    table.expect(0, &["no price API: check by hand", "modal.com/pricing", "Nothing is changed"]);
    assert_eq!(new, before + 1);
    assert_eq!(
        std::fs::read_to_string(folder.join("prices.toml")).unwrap(),
        book(),
        "the book itself is as it was"
    );
    // A second one does not write over what a person may have looked at.
    world.types("prices check").expect(2, &["is there already", "--write"]);
    let other = folder.join("other.toml");
    let said = world.types(&format!("prices check --json --write {}", other.display())).expect(0, &[]);
    let lambda = said.json().into_iter().find(|row| row["sku"] == "gpu_1x_a10").unwrap();
    assert_eq!(
        (&lambda["book_usd"], &lambda["now_usd"], &lambda["verdict"]),
        (&"0.75".into(), &"1.29".into(), &"differs".into())
    );
    let last = said.json().pop().unwrap();
    assert_eq!((&last["differ"], &last["written"]), (&1.into(), &other.display().to_string().into()));

    let text = std::fs::read_to_string(&other).unwrap();
    let changed = PriceBook::from_toml(&text).unwrap();
    assert_eq!(changed.prices.len(), PriceBook::from_toml(&book()).unwrap().prices.len() + 1);
    assert!(
        changed.version.starts_with("20")
            && changed.version != "2026-11-24.1"
            && changed.source.contains("lambda")
    );
    let comments =
        |text: &str| text.lines().filter(|line| line.starts_with('#')).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(comments(&text), comments(&book()), "comments and their order stay");
    let prices: Vec<_> = changed.prices.iter().filter(|price| price.sku == "gpu_1x_a10").collect();
    assert_eq!(
        (prices[0].until, prices[0].from),
        (prices[1].from, None),
        "the one ends where the other begins"
    );

    // Only who asks for it has the book replaced, and then nothing differs any more.
    world.types("prices check --accept").expect(2, &["--yes"]);
    world.types("prices check --accept --yes").expect(0, &["has the new prices"]);
    assert_ne!(std::fs::read_to_string(folder.join("prices.toml")).unwrap(), book());
    world.types("prices check").expect(0, &["nothing is written"]);
    world.types("provider check lambda").expect(0, &["0 warnings"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_that_cannot_be_asked_for_are_said_and_change_nothing() {
    let world = World::open(|_| {}).await;
    world.lambda.account().fault_always("*", ControlFault::Refused(Canned::html(503)));
    world.simulator("runpod").fault_route("/v2/catalog/gpus", ControlFault::Refused(Canned::json(403, "{}")));
    let said = world.types("prices check").expect(1, &["503", "403", "2 prices could not be asked for"]);
    assert!(said.out().contains("nothing is written"), "{said:?}");
    let built_in = process::run(&["prices", "check", "--accept", "--yes"]);
    assert_eq!(built_in.status.code(), Some(2), "the built-in book cannot be replaced");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_that_workers_measure_stands_in_pools_status() {
    let (world, nats) = (World::open(|_| {}).await, NatsServer::start().await);
    let urls = [nats.url()];
    let provider = OpenAi::new(OpenAiConfig::new(world.simulator("vllm").url())).unwrap();
    let _dispatcher = roles::Role::usual_dispatcher(&urls[0], "d1", Duration::from_secs(4)).await;
    let mut pool =
        roles::pool_config(&urls, "vllm@us-east", "w1", 4, Duration::from_secs(4), Arc::new(provider));
    pool.health_every = Some(Duration::from_millis(100));
    let _worker = roles::Role::worker(pool).await;
    let config = process::config(world.folder.path(), &urls[0]);
    let ways = wait::until("the way to the runner", || async {
        let output =
            tokio::task::block_in_place(|| process::run(&["pools", "status", "--json", "--config", &config]));
        let lines = String::from_utf8_lossy(&output.stdout).into_owned();
        let ways = lines
            .lines()
            .find_map(|line| serde_json::from_str::<Value>(line).unwrap().get("ways").cloned())?;
        ways[0]["round_trip_us"].is_u64().then_some(ways)
    })
    .await;
    assert_eq!((&ways[0]["pool"]["provider"], &ways[0]["workers"]), (&"vllm".into(), &1.into()));
    let output = tokio::task::block_in_place(|| process::run(&["pools", "status", "--config", &config]));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("round trip ms") && table.contains("vllm@us-east"), "{table}");
}
