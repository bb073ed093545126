//! A configuration file of one pool at a simulated Fly.io, as an operator writes it, and what such a file needs around it.

use std::path::Path;

use schemas::PoolId;
use simulators::rented;
use tests::{process, roles};
use tokio_util::sync::CancellationToken;

/// The pool that the file names.
pub(crate) const POOL: &str = "fly@us-east";

/// Starts a simulated Fly.io with somebody else's machine in it.
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

/// What a file says beyond what it must.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Says<'a> {
    /// Machines kept in any case.
    pub(crate) least: u32,
    /// The place of the machines.
    pub(crate) place: &'a str,
    /// Further lines of `[pools.rent]`.
    pub(crate) more: &'a str,
}

impl Default for Says<'_> {
    fn default() -> Self {
        Self { least: 2, place: "iad", more: "" }
    }
}

/// Writes a file `name` and gives its path.
pub(crate) fn file(folder: &Path, name: &str, nats: &str, fly: &str, says: Says<'_>) -> String {
    let Says { least, place, more } = says;
    let secret = |name: &str, text: &str| {
        let path = folder.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (token, machines) = (secret("fly-token", "fly-token"), secret("machines", "pool-secret"));
    let (region, model) = (roles::REGION, roles::MODEL);
    // Simulated machines listen at the port of the API.
    let port = fly.rsplit(':').next().unwrap().trim_end_matches("/v1");
    let text = format!(
        r#"
[nats]
url = "{nats}"
[beacon]
regions = ["{region}"]
models = ["{model}"]
[keeper]
standing_every = "1s"
grace = "5s"
[[landlords]]
kind = "fly"
api_key_file = "{token}"
base_url = "{fly}"
org = "personal"
[[pools]]
provider = "fly"
region = "{region}"
kind = "rented"
machine_secret_file = "{machines}"
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
{more}
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
    );
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
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
