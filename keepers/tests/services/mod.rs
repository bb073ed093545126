//! What the contract tests of Railway and Render share: a row that outlives a crash, waiting, and a real completion.

use std::{fmt::Write as _, path::PathBuf, sync::Mutex, time::Duration};

use futures_util::future::BoxFuture;
use keepers::{
    landlord::{CallError, Census, Known, Landlord, Notes, Order, Ordered, Phase, Sighting, Steps},
    secret::Secret,
};
use schemas::{MachineId, Micros, PoolId, UsdNanos};
use tokio::time::{Instant, sleep};

/// How long a condition may take to come true.
const SOON: Duration = Duration::from_secs(30);

/// A machine's row: what is written down survives, whatever becomes of the call.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) machine: MachineId,
    pool: PoolId,
    place: String,
    sku: String,
    written: Mutex<(Option<String>, Notes)>,
    /// The note, or `id`, at which the keeper is killed before it is written.
    dies_at: Mutex<Option<String>>,
}

impl Row {
    pub(crate) fn new(pool: &str, place: &str, sku: &str) -> Self {
        Self {
            machine: uuid::Uuid::now_v7().simple().to_string().parse().unwrap(),
            pool: pool.parse().unwrap(),
            place: place.to_owned(),
            sku: sku.to_owned(),
            written: Mutex::default(),
            dies_at: Mutex::default(),
        }
    }

    /// The next write of this name is not made, and the landlord is told so.
    pub(crate) fn die_at(&self, name: &str) {
        *self.dies_at.lock().unwrap() = Some(name.to_owned());
    }

    fn survives(&self, name: &str) -> bool {
        let mut dies_at = self.dies_at.lock().unwrap();
        let dies = dies_at.as_deref() == Some(name);
        if dies {
            *dies_at = None;
        }
        !dies
    }

    pub(crate) fn order(&self) -> Order {
        Order {
            machine: self.machine.clone(),
            pool: self.pool.clone(),
            sku: self.sku.clone(),
            place: self.place.clone(),
            server_key: Some(self.key()),
            ordered_at: Micros::default(),
            usd_per_hour_max: "1".parse().unwrap(),
            notes: self.notes(),
        }
    }

    /// The key of the machine's server.
    pub(crate) fn key(&self) -> Secret {
        Secret::new("pool-secret").of_machine(&self.machine)
    }

    pub(crate) fn known(&self) -> Known {
        Known {
            machine: self.machine.clone(),
            pool: self.pool.clone(),
            id: self.id(),
            place: self.place.clone(),
            notes: self.notes(),
        }
    }

    pub(crate) fn id(&self) -> Option<String> {
        self.written.lock().unwrap().0.clone()
    }

    pub(crate) fn notes(&self) -> Notes {
        self.written.lock().unwrap().1.clone()
    }

    pub(crate) async fn ordered(&self, landlord: &impl Landlord) -> Result<Ordered, CallError> {
        let ordered = landlord.order(&self.order(), self).await?;
        let mut written = self.written.lock().unwrap();
        written.0 = Some(ordered.id.clone());
        written.1.extend(ordered.notes.clone());
        Ok(ordered)
    }

    /// One list; what it says about this machine is written down.
    pub(crate) async fn look(&self, landlord: &impl Landlord) -> Result<(Census, Vec<Sighting>), CallError> {
        let census = landlord.list(&[self.known()]).await?;
        let mine: Vec<Sighting> =
            census.sightings.iter().filter(|sighting| sighting.machine == self.machine).cloned().collect();
        for sighting in &mine {
            self.written.lock().unwrap().1.extend(sighting.notes.clone());
        }
        Ok((census, mine))
    }

    /// Looks until the only sighting of this machine is as wanted. Rate limits are waited for.
    pub(crate) async fn until(
        &self,
        landlord: &impl Landlord,
        what: &str,
        wanted: impl Fn(&Phase) -> bool,
    ) -> Sighting {
        let end = Instant::now() + SOON;
        let mut last = String::new();
        while Instant::now() < end {
            match self.look(landlord).await {
                Ok((_, mine)) if mine.len() == 1 && wanted(&mine[0].phase) => return mine[0].clone(),
                Ok((_, mine)) => last = format!("{mine:?}"),
                Err(error) => last = error.to_string(),
            }
            sleep(Duration::from_millis(5)).await;
        }
        panic!("{what}: it never came true; last seen: {last}");
    }

    /// Looks until it is up; gives its URL.
    pub(crate) async fn up(&self, landlord: &impl Landlord) -> String {
        match self.until(landlord, "it is up", |phase| matches!(phase, Phase::Up(_))).await.phase {
            Phase::Up(url) => url,
            other => panic!("{other:?}"),
        }
    }
}

impl Steps for Row {
    fn note<'a>(&'a self, name: &'a str, value: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let survives = self.survives(name);
            if survives {
                self.written.lock().unwrap().1.insert(name.to_owned(), value.to_owned());
            }
            survives
        })
    }

    fn id<'a>(&'a self, id: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let survives = self.survives("id");
            if survives {
                self.written.lock().unwrap().0 = Some(id.to_owned());
            }
            survives
        })
    }
}

/// Waits until a condition holds.
pub(crate) async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let end = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < end, "it never came true that {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Repeats an order as a keeper would, until it is carried out.
pub(crate) async fn persist(row: &Row, landlord: &impl Landlord) -> Ordered {
    let mut errors = Vec::new();
    for _ in 0..8 {
        match row.ordered(landlord).await {
            Ok(ordered) => return ordered,
            Err(error) => errors.push(error.to_string()),
        }
    }
    panic!("the order was never carried out: {errors:#?}");
}

/// The status that a real completion ends with; the key is computed as a keeper does.
pub(crate) async fn complete(url: &str, row: &Row) -> u16 {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let body = r#"{"model":"m","prompt":"hi","max_tokens":4}"#;
    let request = client.post(format!("{url}/v1/completions")).header("content-type", "application/json");
    let request = request.bearer_auth(key_of(row)).body(body);
    request.send().await.map_or(0, |answer| answer.status().as_u16())
}

/// The text of a machine's key, computed without the code that is tested.
fn key_of(row: &Row) -> String {
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"pool-secret");
    let tag = ring::hmac::sign(&key, row.machine.as_str().as_bytes());
    let mut text = String::new();
    for byte in tag.as_ref() {
        write!(text, "{byte:02x}").unwrap();
    }
    text
}

/// The folder of API descriptions; `None` when there is none, which is said.
pub(crate) fn description(file: &str) -> Option<serde_json::Value> {
    let folder = match std::env::var_os("BEACON_API_DESCRIPTIONS") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/providers/openapi"),
    };
    let Ok(text) = std::fs::read_to_string(folder.join(file)) else {
        eprintln!("skipped: set BEACON_API_DESCRIPTIONS to a folder that holds {file}");
        return None;
    };
    Some(serde_json::from_str(&text).unwrap())
}

pub(crate) fn usd(text: &str) -> UsdNanos {
    text.parse().unwrap()
}
