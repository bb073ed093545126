//! How a simulated daemon and the providers of its market behave.

use std::time::Duration;

use crate::rented::life::Life;

/// A daemon, and the market around it. Spans are those of a real market, divided by a thousand or so.
#[derive(Clone, Debug)]
pub struct GolemConfig {
    /// The app key.
    pub key: String,
    /// Our node id.
    pub identity: String,
    /// The platform on which our wallet can send.
    pub platform: String,
    /// GLM in the wallet.
    pub funds: String,
    /// The providers.
    pub nodes: Vec<GolemNode>,
    /// Whether statuses are those of the pages (201, 204), not those of the implementation (200).
    pub by_the_pages: bool,
    /// From a demand to its first proposal, between proposals, and from a counter-proposal to its Draft.
    pub proposal_every: Duration,
    /// How long a demand lives.
    pub demand_ttl: Duration,
    /// From a confirmed agreement to the provider's word.
    pub approve_after: Duration,
    /// From a new activity until it is `Initialized`.
    pub init: Duration,
    /// How long `deploy` takes.
    pub deploy: Duration,
    /// How long `start` and `run` take.
    pub run: Duration,
    /// Between debit notes.
    pub note_every: Duration,
    /// Within which a debit note must be accepted; then the provider ends the agreement.
    pub accept_within: Duration,
    /// How long a provider waits for an activity; then it ends the agreement.
    pub idle: Duration,
    /// From the end of an agreement to the last debit notes.
    pub last_note_after: Duration,
    /// From there to the invoice.
    pub invoice_after: Duration,
    /// Between pings through a tunnel; two of them without a pong close it.
    pub ping_every: Duration,
    /// The port at which servers listen inside their machines.
    pub port: u16,
    /// The servers.
    pub life: Life,
}

/// A provider.
#[derive(Clone, Debug)]
pub struct GolemNode {
    /// Its node id.
    pub id: String,
    /// Its runtime.
    pub runtime: String,
    /// The names of its counters, without `golem.usage.`, in its own order.
    pub counters: Vec<String>,
    /// GLM for each counter, and the start price as the last one.
    pub prices: Vec<String>,
    /// Threads; half of them are busy all the time.
    pub threads: u64,
    /// The GPU.
    pub gpu: Option<String>,
    /// What it does with us.
    pub manner: Manner,
}

/// What a provider does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manner {
    /// What it promised.
    Good,
    /// It refuses the agreement.
    Rejects,
    /// It never says a word about the agreement.
    Silent,
    /// It makes no activity.
    NoActivity,
    /// `deploy` fails with this text.
    DeployFails(String),
    /// Its debit notes and its invoice ask for so many times what is owed.
    Overcharges(u32),
}

impl GolemNode {
    /// A good provider at `price` GLM for a second, and no other price.
    pub fn new(id: &str, price: &str) -> Self {
        Self {
            id: id.to_owned(),
            runtime: "vm-nvidia".to_owned(),
            counters: vec!["duration_sec".to_owned(), "cpu_sec".to_owned()],
            prices: vec![price.to_owned(), "0".to_owned(), "0".to_owned()],
            threads: 4,
            gpu: Some("simulated".to_owned()),
            manner: Manner::Good,
        }
    }

    /// In another manner.
    #[must_use]
    pub fn that(self, manner: Manner) -> Self {
        Self { manner, ..self }
    }
}

impl GolemConfig {
    /// A quick market of these providers.
    pub fn new(nodes: Vec<GolemNode>) -> Self {
        let ms = Duration::from_millis;
        Self {
            key: "yagna-key".to_owned(),
            identity: "0x00000000000000000000000000000000000000aa".to_owned(),
            platform: "erc20-polygon-glm".to_owned(),
            funds: "1000".to_owned(),
            nodes,
            by_the_pages: false,
            proposal_every: ms(5),
            demand_ttl: Duration::from_secs(3_600),
            approve_after: ms(10),
            init: ms(5),
            deploy: ms(20),
            run: ms(5),
            note_every: ms(100),
            accept_within: Duration::from_secs(30),
            idle: Duration::from_secs(30),
            last_note_after: ms(10),
            invoice_after: ms(20),
            ping_every: Duration::from_secs(5),
            port: 8_000,
            life: Life::default(),
        }
    }
}
