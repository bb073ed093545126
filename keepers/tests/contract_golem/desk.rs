//! What all tests stand on: a market, a landlord that attends, and a row that remembers.

use std::{
    collections::BTreeMap,
    future::{self, Future},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use keepers::{
    landlord::{CallError, Known, Landlord, Notes, Order, Ordered, Phase, Sighting, Steps},
    landlords::golem::{Decimal, Golem, GolemConfig, GolemPace, GolemPlace, GolemPool},
    secret::Secret,
};
use schemas::{MachineId, Micros, PoolId, UsdNanos, time::Clock as _};
use simulators::rented;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::{CancellationToken, DropGuard};
use transport::SystemClock;

/// Dollars for a GLM, in nano-dollars: $0.2345.
pub(crate) const RATE_NANOS: u64 = 234_500_000;

/// A second of the usual provider costs this much GLM: 0.36 an hour.
pub(crate) const PRICE: &str = "0.0001";

/// Nothing in here takes longer, however busy the host is.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A simulated daemon.
pub(crate) struct Market {
    pub(crate) sim: rented::Golem,
    _stops: DropGuard,
}

impl Market {
    pub(crate) async fn start(config: rented::GolemConfig) -> Self {
        let stop = CancellationToken::new();
        let sim = rented::Golem::start(config, stop.clone()).await.unwrap();
        Self { sim, _stops: stop.drop_guard() }
    }

    /// With one good provider, `0xa1`.
    pub(crate) async fn usual() -> Self {
        Self::start(rented::GolemConfig::new(vec![rented::GolemNode::new("0xa1", PRICE)])).await
    }

    /// The only agreement that there ever was.
    pub(crate) fn only_bill(&self) -> rented::GolemBill {
        let mut bills = self.sim.bills();
        assert_eq!(bills.len(), 1, "{bills:?}");
        bills.remove(0)
    }

    /// Dollars that the providers' accounts come to: for each agreement what was invoiced or, if more, accepted by notes.
    pub(crate) fn usd(&self) -> u64 {
        let most = |bill: &rented::GolemBill| {
            let usd = |glm: &str| rented::Golem::usd_nanos(glm, RATE_NANOS);
            usd(&bill.paid).max(usd(&bill.by_notes))
        };
        self.sim.bills().iter().map(most).sum()
    }
}

pub(crate) fn pool_id() -> PoolId {
    "golem@us-east".parse().unwrap()
}

pub(crate) fn config(market: &Market) -> GolemConfig {
    let pool = GolemPool {
        sku: "gpu".into(),
        runtime: "vm-nvidia".into(),
        capabilities: vec!["!exp:gpu".into()],
        gpu: None,
        mem_gib: 8,
        storage_gib: 20,
        image: "hash:sha3:00:http://images.invalid/00".into(),
        serve: "vllm serve 'm'".into(),
        port: 8_000,
        server_secret: Some(Secret::new("pool-secret")),
        rent_for: Duration::from_secs(3_600),
        glm_per_hour_max: Decimal::whole(2),
        glm_start_max: Decimal::whole(1),
        places: vec![GolemPlace {
            name: "us-east".into(),
            providers: ["0xa1", "0xa2", "0xa3"].map(str::to_owned).to_vec(),
        }],
    };
    let rate = Decimal::nanos(RATE_NANOS);
    let mut config = GolemConfig::new(Secret::new("yagna-key"), rate, BTreeMap::from([(pool_id(), pool)]));
    config.url = market.sim.url();
    config.pace = GolemPace {
        poll: ms(300),
        again: ms(20),
        gather: ms(40),
        negotiate_within: Duration::from_secs(10),
        approve_within: Duration::from_secs(5),
        activity_within: ms(200),
        deploy_within: Duration::from_secs(30),
        upkeep: ms(20),
        list_every: ms(20),
        ..GolemPace::default()
    };
    config
}

/// One life of a keeper: its landlord, and the task in which it attends.
pub(crate) struct Keeper {
    pub(crate) golem: Arc<Golem>,
    shutdown: CancellationToken,
    tasks: JoinSet<()>,
}

impl Keeper {
    pub(crate) fn start(config: GolemConfig) -> Self {
        let keeper = Self::idle(config);
        let Self { golem, shutdown, mut tasks } = keeper;
        tasks.spawn(Arc::clone(&golem).attend(shutdown.clone()));
        Self { golem, shutdown, tasks }
    }

    /// One that does not attend.
    pub(crate) fn idle(config: GolemConfig) -> Self {
        let golem = Arc::new(Golem::new(config, Arc::new(SystemClock)).unwrap());
        Self { golem, shutdown: CancellationToken::new(), tasks: JoinSet::new() }
    }

    /// It stops as it should.
    pub(crate) async fn stop(mut self) {
        self.shutdown.cancel();
        while self.tasks.join_next().await.is_some() {}
    }

    /// It dies where it stands.
    pub(crate) async fn kill(mut self) {
        self.tasks.shutdown().await;
    }

    pub(crate) async fn order(&self, row: &Row) -> Result<Ordered, CallError> {
        let ordered = self.golem.order(&row.order(), row).await;
        if let Ok(ordered) = &ordered {
            row.take(&ordered.notes, Some(&ordered.id));
        }
        ordered
    }

    /// One list; the row takes over its notes. `None` if it does not show the machine.
    pub(crate) async fn look(&self, row: &Row) -> Option<Sighting> {
        let census = self.golem.list(&[row.known()]).await.unwrap();
        let seen = census.sightings.into_iter().find(|one| one.machine == row.machine)?;
        row.take(&seen.notes, Some(&seen.id));
        Some(seen)
    }

    /// Lists until the machine is in such a phase.
    pub(crate) async fn until(&self, row: &Row, what: &str, fits: impl Fn(&Phase) -> bool) -> Sighting {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let seen = self.look(row).await;
            match seen {
                Some(seen) if fits(&seen.phase) => return seen,
                seen => assert!(Instant::now() < deadline, "still not {what}: {seen:?}"),
            }
            tokio::time::sleep(ms(5)).await;
        }
    }

    pub(crate) async fn until_up(&self, row: &Row) -> String {
        let seen = self.until(row, "up", |phase| matches!(phase, Phase::Up(_))).await;
        match seen.phase {
            Phase::Up(url) => url,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn until_gone(&self, row: &Row) -> Sighting {
        self.until(row, "gone", |phase| *phase == Phase::Gone).await
    }

    /// An order that works, up to its server.
    pub(crate) async fn rent(&self, row: &Row) -> String {
        self.order(row).await.unwrap();
        self.until_up(row).await
    }

    pub(crate) async fn end(&self, row: &Row) -> Result<keepers::landlord::Ending, CallError> {
        self.golem.end(&row.known(), row).await
    }
}

/// A row: what is written is kept, until the keeper dies.
pub(crate) struct Row {
    pub(crate) machine: MachineId,
    kept: Mutex<(Notes, Option<String>)>,
    /// Writes that are still stored; then the keeper never comes back from one.
    left: Mutex<Option<usize>>,
    stuck: AtomicBool,
    pub(crate) usd_per_hour_max: UsdNanos,
}

impl Row {
    pub(crate) fn new(machine: &str) -> Self {
        Self {
            machine: machine.parse().unwrap(),
            kept: Mutex::default(),
            left: Mutex::new(None),
            stuck: AtomicBool::new(false),
            usd_per_hour_max: "1".parse().unwrap(),
        }
    }

    /// The keeper dies in the write after so many; `None`: it lives.
    pub(crate) fn dies_after(&self, writes: Option<usize>) {
        *self.left.lock().unwrap() = writes;
    }

    /// Whether the keeper died in a write.
    pub(crate) fn is_stuck(&self) -> bool {
        self.stuck.load(Ordering::SeqCst)
    }

    pub(crate) fn order(&self) -> Order {
        Order {
            machine: self.machine.clone(),
            pool: pool_id(),
            sku: "gpu".into(),
            place: "us-east".into(),
            server_key: Some(Secret::new("pool-secret").of_machine(&self.machine)),
            ordered_at: SystemClock.now(),
            usd_per_hour_max: self.usd_per_hour_max,
            notes: self.notes(),
        }
    }

    pub(crate) fn known(&self) -> Known {
        let (notes, id) = self.kept.lock().unwrap().clone();
        Known { machine: self.machine.clone(), pool: pool_id(), id, place: "us-east".into(), notes }
    }

    pub(crate) fn notes(&self) -> Notes {
        self.kept.lock().unwrap().0.clone()
    }

    pub(crate) fn take(&self, notes: &Notes, id: Option<&str>) {
        let mut kept = self.kept.lock().unwrap();
        kept.0.extend(notes.clone());
        if let Some(id) = id {
            kept.1.get_or_insert_with(|| id.to_owned());
        }
    }

    fn write(&self, change: impl FnOnce(&mut (Notes, Option<String>))) -> BoxFuture<'_, bool> {
        let dies = match &mut *self.left.lock().unwrap() {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        if dies {
            self.stuck.store(true, Ordering::SeqCst);
            return Box::pin(future::pending());
        }
        change(&mut self.kept.lock().unwrap());
        Box::pin(async { true })
    }
}

impl Steps for Row {
    fn note<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, bool> {
        self.write(|kept| drop(kept.0.insert(name.into(), value.into())))
    }

    fn id<'a>(&'a self, id: &'a str) -> BoxFuture<'a, bool> {
        self.write(|kept| kept.1 = Some(id.into()))
    }
}

/// Waits for a condition.
pub(crate) async fn wait<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + DEADLINE;
    while !holds().await {
        assert!(Instant::now() < deadline, "still not: {what}");
        tokio::time::sleep(ms(5)).await;
    }
}

/// A completion from the machine at `url`, with the key of `machine`.
pub(crate) async fn completion(url: &str, machine: &MachineId) -> u16 {
    let client = keepers::landlords::http::client().unwrap();
    let body = serde_json::json!({
        "model": "m", "max_tokens": 4, "messages": [{ "role": "user", "content": "Why is the sky blue?" }],
    });
    let key = hmac(machine);
    let request = client.post(format!("{url}/v1/chat/completions")).bearer_auth(key).json(&body);
    keepers::landlords::http::call(request).await.unwrap().status.as_u16()
}

/// The key of a machine's server, computed here once more.
fn hmac(machine: &MachineId) -> String {
    use std::fmt::Write as _;
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"pool-secret");
    let tag = ring::hmac::sign(&key, machine.as_str().as_bytes());
    tag.as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Now, by the keeper's clock.
pub(crate) fn now() -> Micros {
    SystemClock.now()
}
