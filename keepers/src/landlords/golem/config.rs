//! What an operator says about yagna, and about each pool that rents through it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use schemas::PoolId;

use super::decimal::Decimal;
use crate::secret::Secret;

/// One yagna daemon: one identity, one wallet.
#[derive(Clone, Debug)]
pub struct GolemConfig {
    /// Where yagna's REST listens; `http://127.0.0.1:7465` unless told otherwise. The key is full control over the wallet, so
    /// this address belongs on our own host.
    pub url: String,
    /// The app key.
    pub app_key: Secret,
    /// Begins the app session ids; two Beacons that share a daemon need two of them.
    pub session: String,
    /// The payment platform. Mainnet is `erc20-polygon-glm`; yagna itself would take a testnet.
    pub platform: String,
    /// The subnet of the market.
    pub subnet: String,
    /// Dollars for one GLM. The network knows no dollars, so a person says it; each rental keeps the rate of its order.
    pub usd_per_glm: Decimal,
    /// Where tunnels listen. Workers on other hosts need an address that they can reach; whoever reaches it reaches the
    /// machine's server.
    pub listen: IpAddr,
    /// The pools that rent here.
    pub pools: BTreeMap<PoolId, GolemPool>,
    /// How long things may take.
    pub pace: GolemPace,
}

/// What a pool rents.
#[derive(Clone, Debug)]
pub struct GolemPool {
    /// Our name for the type; orders name it.
    pub sku: String,
    /// The runtime: `vm-nvidia`, `vm`.
    pub runtime: String,
    /// What the runtime must be able to do beside `vpn`: `!exp:gpu`.
    pub capabilities: Vec<String>,
    /// A GPU model that offers must name. `None` takes any.
    pub gpu: Option<String>,
    /// Memory, GiB.
    pub mem_gib: u32,
    /// Storage, GiB.
    pub storage_gib: u32,
    /// The image: `hash:sha3:<hash>:<url>`. The model's weights are in it, since machines have no internet.
    pub image: String,
    /// A shell command that serves in the foreground. It finds the key that it is to ask for in `VLLM_API_KEY`.
    pub serve: String,
    /// The port at which it serves.
    pub port: u16,
    /// The secret from which the servers' keys are derived; needed to go on with a start after a restart.
    pub server_secret: Option<Secret>,
    /// How long a rental lasts before a successor takes over.
    pub rent_for: Duration,
    /// The most GLM that an hour may cost with all threads busy.
    pub glm_per_hour_max: Decimal,
    /// The most GLM that a start may cost.
    pub glm_start_max: Decimal,
    /// Where machines may stand, in order of preference.
    pub places: Vec<GolemPlace>,
}

/// A place. Golem does not say where a node is: these nodes were measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GolemPlace {
    /// Our name for it; orders name it.
    pub name: String,
    /// The ids of the provider nodes that stand there.
    pub providers: Vec<String>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GolemPace {
    /// How long yagna holds a long poll.
    pub poll: Duration,
    /// After a failed call of a loop that never stops, before the next.
    pub again: Duration,
    /// After the first usable proposal, for cheaper ones to come.
    pub gather: Duration,
    /// For offers, before an order ends without a machine. They spread in about four minutes.
    pub negotiate_within: Duration,
    /// For a provider's approval.
    pub approve_within: Duration,
    /// For the making of an activity.
    pub activity_within: Duration,
    /// For an image to arrive and start: about 7 GB.
    pub deploy_within: Duration,
    /// Between two looks at allocations.
    pub upkeep: Duration,
    /// How far ahead money is set aside.
    pub allocate_for: Duration,
    /// For the invoice, after an agreement ended. Then the machine counts as gone without; a later invoice is still paid.
    pub invoice_within: Duration,
    /// Between two lists.
    pub list_every: Duration,
    /// How long a provider that let us down is avoided.
    pub avoid_for: Duration,
    /// The interval of debit notes that we ask for.
    pub debit_note_every: Duration,
    /// Within which a debit note must be accepted: what we ask for, and the least that we take is half of it.
    pub accept_within: Duration,
}

impl Default for GolemPace {
    fn default() -> Self {
        Self {
            poll: Duration::from_secs(30),
            again: Duration::from_secs(1),
            gather: Duration::from_secs(5),
            negotiate_within: Duration::from_secs(300),
            approve_within: Duration::from_secs(120),
            activity_within: Duration::from_secs(60),
            deploy_within: Duration::from_secs(600),
            upkeep: Duration::from_secs(30),
            allocate_for: Duration::from_secs(2 * 3_600),
            invoice_within: Duration::from_secs(3_600),
            list_every: Duration::from_secs(10),
            avoid_for: Duration::from_secs(3_600),
            debit_note_every: Duration::from_secs(120),
            accept_within: Duration::from_secs(120),
        }
    }
}

impl GolemConfig {
    /// yagna on this host, on mainnet.
    pub fn new(app_key: Secret, usd_per_glm: Decimal, pools: BTreeMap<PoolId, GolemPool>) -> Self {
        Self {
            url: "http://127.0.0.1:7465".into(),
            app_key,
            session: "beacon".into(),
            platform: "erc20-polygon-glm".into(),
            subnet: "public".into(),
            usd_per_glm,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            pools,
            pace: GolemPace::default(),
        }
    }

    /// The first thing in it that cannot work.
    pub(super) fn fault(&self) -> Option<String> {
        if self.usd_per_glm.is_zero() {
            return Some("golem: usd_per_glm must be above 0".into());
        }
        for (pool, settings) in &self.pools {
            let broken = [
                (settings.places.is_empty(), "places must not be empty"),
                (
                    settings.places.iter().any(|place| place.providers.is_empty()),
                    "providers must not be empty",
                ),
                (settings.glm_per_hour_max.is_zero(), "glm_per_hour_max must be above 0"),
                (settings.rent_for < Duration::from_secs(300), "rent_for must be at least five minutes"),
                (settings.image.is_empty(), "image must not be empty"),
                (settings.serve.is_empty(), "serve must not be empty"),
                (settings.port == 0, "port must be above 0"),
            ];
            if let Some((_, rule)) = broken.into_iter().find(|(broken, _)| *broken) {
                return Some(format!("golem: pool {pool}: {rule}"));
            }
        }
        None
    }

    /// The app session id of a pool. It never changes, so that agreements are found again by it.
    pub(super) fn session(&self, pool: &PoolId) -> String {
        format!("{}-{}-{}", self.session, pool.region, pool.provider)
    }
}
