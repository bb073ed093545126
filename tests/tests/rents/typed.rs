//! Configuration files of pools at simulated providers, as an operator writes them, and commands as a person types them.

use std::{path::Path, process::Output};

use schemas::PoolId;
use simulators::rented;
use tests::{process, roles};
use tokio_util::sync::CancellationToken;

/// The pool that a file names unless it says otherwise.
pub(crate) const POOL: &str = "fly@us-east";

/// Starts a simulated Fly.io.
pub(crate) async fn fly(shutdown: &CancellationToken) -> rented::Fly {
    rented::Fly::start(rented::FlyConfig::default(), shutdown.clone()).await.unwrap()
}

/// [`POOL`], as ids are written.
pub(crate) fn pool() -> PoolId {
    POOL.parse().unwrap()
}

/// The same API by another name of this host, so that the requests of two keepers can be told apart.
pub(crate) fn by_name(url: &str) -> String {
    url.replace("127.0.0.1", "localhost")
}

/// What a file says that differs from one test to the next.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Says<'a> {
    /// The provider of the pool, in our words.
    pub(crate) provider: &'a str,
    /// The key of the account.
    pub(crate) token: &'a str,
    /// Machines kept in any case.
    pub(crate) least: u32,
    /// The place of the machines.
    pub(crate) place: &'a str,
    /// Whether there is the pool at all.
    pub(crate) pool: bool,
    /// Whether there is the account at all.
    pub(crate) account: bool,
    /// Further lines of `[beacon]`, `[keeper]` and `[pools.rent]`.
    pub(crate) beacon: &'a str,
    pub(crate) keeper: &'a str,
    pub(crate) rent: &'a str,
    /// Further tables.
    pub(crate) tables: &'a str,
}

impl Default for Says<'_> {
    fn default() -> Self {
        Self {
            provider: "fly",
            token: "fly-token",
            least: 2,
            place: "iad",
            pool: true,
            account: true,
            beacon: "",
            keeper: "",
            rent: "",
            tables: "",
        }
    }
}

/// Writes a file of that name into `folder` and gives its path.
pub(crate) fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// Writes a configuration `name` and gives its path.
pub(crate) fn file(folder: &Path, name: &str, nats: &str, fly: &str, says: Says<'_>) -> String {
    let Says { token, beacon, keeper, tables, .. } = says;
    let key = write(folder, &format!("{name}.key"), token);
    let (region, model) = (roles::REGION, roles::MODEL);
    let account = format!(
        "[[landlords]]\nkind = \"fly\"\napi_key_file = \"{key}\"\nbase_url = \"{fly}\"\norg = \"personal\"\n"
    );
    let text = format!(
        r#"
[nats]
url = "{nats}"
[beacon]
regions = ["{region}"]
models = ["{model}"]
{beacon}
[keeper]
standing_every = "1s"
grace = "5s"
{keeper}
{}
{}
{tables}
"#,
        if says.account { account.as_str() } else { "" },
        if says.pool { of_pool(folder, fly, says) } else { String::new() },
    );
    write(folder, name, &text)
}

fn of_pool(folder: &Path, fly: &str, says: Says<'_>) -> String {
    let Says { provider, least, place, rent, .. } = says;
    let machines = write(folder, "machines.key", "pool-secret");
    let (region, model) = (roles::REGION, roles::MODEL);
    // Simulated machines listen at the port of the API.
    let port = fly.rsplit(':').next().unwrap().trim_end_matches("/v1");
    format!(
        r#"
[[pools]]
provider = "{provider}"
region = "{region}"
kind = "rented"
machine_secret_file = "{machines}"
price_name = "fly"
slots = 8
models = [{{ model = "{model}", served_as = "m", sku = "any" }}]
[pools.rent]
landlord = "fly"
sku = "performance-4x"
places = ["{place}"]
slots = 2
usd_per_hour_max = "10"
pool_usd_per_hour_max = "100"
least = {least}
most = 4
drain = "5s"
{rent}
[pools.rent.machine]
app = "beacon-llama"
cpu_kind = "performance"
cpus = 4
memory_mb = 8192
image = "ghcr.io/ggml-org/llama.cpp@sha256:0"
key_env = "LLAMA_API_KEY"
port = {port}
usd_per_hour = "0.17"
parked_usd_per_hour = "0.001666667"
priced_on = 2026-11-23
"#
    )
}

/// Starts `beacon keeper` under a name; its log is `<name>.log` in `folder`.
pub(crate) fn keeper(folder: &Path, name: &str, config: &str) -> process::Process {
    let args = ["keeper", "--config", config, "--id", name];
    process::Process::start(&args, &folder.join(format!("{name}.log")))
}

/// What a keeper logged so far.
pub(crate) fn log(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(format!("{name}.log"))).unwrap_or_default()
}

/// What a command that was typed came to.
#[derive(Debug)]
pub(crate) struct Typed {
    /// The exit code.
    pub(crate) code: Option<i32>,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Typed {
    /// Runs `beacon` with these words and the configuration; nobody sits at its terminal.
    pub(crate) fn run(config: &str, words: &str) -> Self {
        let mut args: Vec<&str> = words.split(' ').collect();
        args.extend(["--config", config]);
        let Output { status, stdout, stderr } = tokio::task::block_in_place(|| process::run(&args));
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
        Self { code: status.code(), out: text(&stdout), err: text(&stderr) }
    }

    /// Checks the exit code and that all words were said, on either channel.
    pub(crate) fn expect(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.out.contains(word) || self.err.contains(word), "`{word}` is not in {self:?}");
        }
        self
    }

    /// The lines of `--json`.
    pub(crate) fn json(&self) -> Vec<serde_json::Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}
