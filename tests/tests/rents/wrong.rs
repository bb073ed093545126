//! Promise: what is wrong with a pool is one line that says what and what to do, in the keeper's log and in `beacon pools status`;
//! and no machine is left running in silence.

use schemas::{UsdNanos, machine::MachineState};
use simulators::rented::{self, Act};
use tests::{nats_server::NatsServer, process, rent::Office, wait};
use tokio_util::sync::CancellationToken;

use crate::typed::{self, Says, Typed};

struct Site {
    nats: NatsServer,
    office: Office,
    fly: rented::Fly,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
}

impl Site {
    async fn open() -> Self {
        let nats = NatsServer::start().await;
        let office = Office::open(&nats.url()).await;
        let shutdown = CancellationToken::new();
        let fly = typed::fly(&shutdown).await;
        Self { nats, office, fly, folder: tempfile::tempdir().unwrap(), shutdown }
    }

    fn file(&self, says: Says<'_>) -> String {
        typed::file(self.folder.path(), "beacon.toml", &self.nats.url(), &self.fly.url(), says)
    }

    fn keeper(&self, name: &str, config: &str) -> process::Process {
        typed::keeper(self.folder.path(), name, config)
    }

    /// Waits until one line of `beacon pools status` has all the words, and the keeper's log too.
    async fn until_told(&self, keeper: &str, config: &str, words: &[&str]) {
        let has = |text: &str| text.lines().any(|line| words.iter().all(|word| line.contains(word)));
        wait::until(&format!("a line with {words:?} in the log of {keeper}"), || async {
            has(&typed::log(self.folder.path(), keeper)).then_some(())
        })
        .await;
        wait::until(&format!("a line with {words:?} in the status"), || async {
            let said = Typed::run(config, "pools status").expect(0, &[]);
            said.out.lines().any(|line| line.starts_with("! ") && has(line)).then_some(())
        })
        .await;
    }

    fn ordered(&self) -> usize {
        self.fly.account().log().iter().filter(|action| action.act == Act::Ordered).count()
    }

    fn invoice(&self) -> UsdNanos {
        UsdNanos::new(self.fly.account().invoice().lines.iter().map(|line| line.amount_nanos).sum())
    }

    async fn close(self) {
        self.shutdown.cancel();
        self.office.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_key_is_one_line_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let config = typed::file(
        folder.path(),
        "beacon.toml",
        "nats://127.0.0.1:1",
        "http://127.0.0.1:1/v1",
        Says::default(),
    );
    let text = std::fs::read_to_string(&config).unwrap();
    for (with, word) in [("api_key_env = \"BEACON_NO_SUCH_KEY\"\n", "BEACON_NO_SUCH_KEY"), ("", "api_key")] {
        let lines = text.lines().map(|line| if line.starts_with("api_key_file") { with } else { line });
        std::fs::write(&config, lines.collect::<Vec<_>>().join("\n")).unwrap();
        let said = Typed::run(&config, "keeper").expect(2, &["landlords[0]", word]);
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_the_provider_refuses_is_one_line_and_nothing_is_ordered() {
    let site = Site::open().await;
    let config = site.file(Says { token: "another-token", ..Says::default() });
    let keeper = site.keeper("k1", &config);
    site.until_told(
        "k1",
        &config,
        &["nothing is ordered for fly@us-east", "not authorised", "[[landlords]]"],
    )
    .await;
    assert_eq!(site.ordered(), 0);
    assert_eq!(keeper.terminate(), Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_region_is_one_line_with_those_that_there_are() {
    let site = Site::open().await;
    let config = site.file(Says { place: "atlantis", ..Says::default() });
    let keeper = site.keeper("k1", &config);
    let words =
        ["nothing is ordered for fly@us-east", "region atlantis does not exist", "iad", "[pools.rent]"];
    site.until_told("k1", &config, &words).await;
    assert_eq!(site.ordered(), 0);
    assert_eq!(keeper.terminate(), Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_sku_is_one_line() {
    // Fly's types are made of keys of the file, so this is found before anything starts.
    let site = Site::open().await;
    let config = site.file(Says::default());
    let text = std::fs::read_to_string(&config).unwrap().replace("\"performance-4x\"", "\"a100\"");
    std::fs::write(&config, text).unwrap();
    Typed::run(&config, "keeper").expect(2, &["pools[0].rent.sku", "a100", "performance-4x"]);

    // Lambda says what it has.
    let simulated = rented::LambdaConfig::default();
    let key = typed::write(site.folder.path(), "lambda.key", &simulated.key);
    let lambda = rented::Lambda::start(simulated, site.shutdown.clone()).await.unwrap();
    let (machines, nats, url) =
        (typed::write(site.folder.path(), "machines.key", "secret"), site.nats.url(), lambda.url());
    let text = format!(
        r#"
nats = {{ url = "{nats}" }}
beacon = {{ regions = ["us-east"], models = ["llama-3.2-1b"] }}
[[landlords]]
kind = "lambda"
api_key_file = "{key}"
base_url = "{url}"
ssh_public_key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDd4ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm beacon"
[[pools]]
provider = "lambda"
region = "us-east"
kind = "rented"
machine_secret_file = "{machines}"
slots = 8
models = [{{ model = "llama-3.2-1b", sku = "any" }}]
[pools.rent]
landlord = "lambda"
sku = "gpu_1x_b9000"
places = ["us-east-1"]
slots = 4
usd_per_hour_max = "2"
pool_usd_per_hour_max = "2"
least = 1
most = 1
machine = {{ image = "vllm/vllm-openai@sha256:0", port = 8000 }}
"#
    );
    let config = typed::write(site.folder.path(), "lambda.toml", &text);
    let keeper = site.keeper("k2", &config);
    site.until_told(
        "k2",
        &config,
        &["nothing is ordered for lambda@us-east", "gpu_1x_b9000", "[pools.rent]"],
    )
    .await;
    assert_eq!(keeper.terminate(), Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_far_from_the_price_book_is_one_line_until_the_operator_accepts_it() {
    let site = Site::open().await;
    let book = "version = \"t\"\nas_of = \"2026-11-24\"\nsource = \"t\"\n[[price]]\nprovider = \"fly\"\nsku = \"performance-4x\"\n\
                unit = \"hour\"\nusd = \"0.10\"\n";
    typed::write(site.folder.path(), "prices.toml", book);
    let beacon = "prices = \"prices.toml\"";
    let config = site.file(Says { beacon, least: 1, ..Says::default() });
    let keeper = site.keeper("k1", &config);
    let words = [
        "nothing is ordered for fly@us-east at iad",
        "$0.17",
        "the price book says $0.1,",
        "20 %",
        "price_tolerance",
    ];
    site.until_told("k1", &config, &words).await;
    assert_eq!(site.ordered(), 0);
    assert_eq!(keeper.terminate(), Some(0));

    let config = site.file(Says { beacon, least: 1, rent: "price_tolerance = 0.7", ..Says::default() });
    let keeper = site.keeper("k1", &config);
    site.office.until(&typed::pool(), MachineState::Ready, 1).await;
    let said = Typed::run(&config, "pools status").expect(0, &["1 ready"]);
    assert!(!said.out.contains("! "), "{said:?}");
    assert_eq!(keeper.terminate(), Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_a_pool_that_left_the_configuration_are_named_and_ended() {
    let site = Site::open().await;
    let config = site.file(Says { least: 1, ..Says::default() });
    let keeper = site.keeper("k1", &config);
    site.office.until(&typed::pool(), MachineState::Ready, 1).await;
    assert_eq!(keeper.terminate(), Some(0));

    // Without the account's key nobody could end it: no keeper starts, and the line names it.
    let id = site.fly.account().alive()[0].id.clone();
    let other = "[[landlords]]\nkind = \"lambda\"\nname = \"other\"\napi_key_file = \"KEY\"\nssh_public_key = \"ssh-ed25519 \
                 AAAAC3NzaC1lZDI1NTE5AAAAIDd4ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZm beacon\"";
    let key = typed::write(site.folder.path(), "other.key", "k");
    let other = other.replace("KEY", &key);
    let bare = site.file(Says { pool: false, account: false, tables: &other, ..Says::default() });
    let said = Typed::run(&bare, "keeper")
        .expect(1, &["machines of ours stand at `fly`", &id, "give the key back", "pools forget"]);
    assert!(said.err.lines().last().unwrap().contains(&id), "{said:?}");

    let bare = site.file(Says { pool: false, keeper: "forsaken_after = \"10s\"", ..Says::default() });
    let keeper = site.keeper("k2", &bare);
    let words = ["pool fly@us-east is in no configuration any more", "machines: 1", "put the pool back"];
    site.until_told("k2", &bare, &words).await;
    site.office.until_empty(&typed::pool()).await;
    wait::until("the ledger to equal the invoice", || async {
        (site.office.ledger(&typed::pool()).await == site.invoice()).then_some(())
    })
    .await;
    assert_eq!((site.fly.account().alive(), site.ordered()), (Vec::new(), 1));
    assert_eq!(keeper.terminate(), Some(0));
    site.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_our_mark_whose_pool_nobody_here_knows_is_named_and_left_alone() {
    let site = Site::open().await;
    // Another Beacon, with a server of its own, rents in the same account and app.
    let elsewhere = NatsServer::start().await;
    let office = Office::open(&elsewhere.url()).await;
    let theirs = typed::file(
        site.folder.path(),
        "theirs.toml",
        &elsewhere.url(),
        &site.fly.url(),
        Says { provider: "spare", least: 1, ..Says::default() },
    );
    let their_keeper = typed::keeper(site.folder.path(), "k9", &theirs);
    office.until(&"spare@us-east".parse().unwrap(), MachineState::Ready, 1).await;
    let id = site.fly.account().alive()[0].id.clone();

    let config = site.file(Says { least: 0, ..Says::default() });
    let keeper = site.keeper("k1", &config);
    site.until_told(
        "k1",
        &config,
        &[&id, "at fly", "spare@us-east", "no keeper keeps", "end it at fly by hand"],
    )
    .await;
    let stands = |seen: &rented::Seen| seen.id == id && seen.stage == rented::Stage::Up;
    assert!(site.fly.account().alive().iter().any(stands), "it is somebody's, so it is left alone");
    assert_eq!(keeper.terminate(), Some(0));
    assert_eq!(their_keeper.terminate(), Some(0));
    office.close().await;
    site.close().await;
}
