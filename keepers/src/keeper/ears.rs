//! What a keeper hears beside lists: an operator's wish, what workers say, what waits.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::StreamExt as _;
use schemas::{Micros, subjects, time::Clock as _, topology::MACHINES_BUCKET};
use tokio::{sync::watch, task::JoinSet, time::Instant};
use tracing::warn;
use transport::{
    SystemClock,
    follow::{Change, Follower, News},
};

use super::desk::Desk;
use crate::{
    demand::{self, Load},
    loads::Loads,
    nats,
    policy::{self, Peer},
    wish::{Status, Wish},
};

/// Two books that their tasks write and the plan reads.
struct Books {
    loads: Loads,
    demand: demand::Book,
    /// Whether anything waited when it was told last.
    waits: bool,
    /// Since when something waits where nothing did, until an order has followed.
    pressed: Option<Instant>,
    /// What keepers of the region said of their pools last, by key.
    told: BTreeMap<String, Status>,
}

/// A word of another keeper that is older counts no more. Keepers speak at each look.
const PEER_HOLDS: Duration = Duration::from_secs(30);

/// What is heard. Dropping it ends its tasks.
pub(super) struct Ears {
    wish: watch::Receiver<Wish>,
    books: Arc<Mutex<Books>>,
    waits: watch::Receiver<()>,
    /// Ends with the ears.
    _tasks: JoinSet<()>,
}

impl Ears {
    /// Begins to listen.
    pub(super) fn open(desk: &Desk, wish: Wish) -> Self {
        let (tell_wish, wish) = watch::channel(wish);
        let (tell_waits, waits) = watch::channel(());
        let now = SystemClock.now();
        let books = Books {
            loads: Loads::default(),
            demand: demand::Book::new(now),
            waits: false,
            pressed: None,
            told: BTreeMap::new(),
        };
        let books = Arc::new(Mutex::new(books));
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_wish(desk.clone(), tell_wish));
        tasks.spawn(follow_peers(desk.clone(), Arc::clone(&books)));
        tasks.spawn(hear_workers(desk.clone(), Arc::clone(&books)));
        tasks.spawn(hear_dispatchers(desk.clone(), Arc::clone(&books), tell_waits));
        Self { wish, books, waits, _tasks: tasks }
    }

    /// Returns when something was heard that the plan should know at once. Cancel-safe.
    pub(super) async fn heard(&mut self) {
        let told = tokio::select! {
            told = self.wish.changed() => told,
            told = self.waits.changed() => told,
        };
        if told.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What the operator asks now.
    pub(super) fn wish(&self) -> Wish {
        self.wish.borrow().clone()
    }

    /// What waits; `None` while no dispatcher speaks.
    pub(super) fn load(&self, desk: &Desk, now: Micros) -> Option<Load> {
        lock(&self.books).demand.load(&desk.settings.pool, &desk.settings.models, now)
    }

    /// Slots of other pools of the region that are filled before ours, which is `peer`.
    pub(super) fn ahead(&self, desk: &Desk, peer: &Peer, now: Micros) -> u32 {
        let books = lock(&self.books);
        let fresh = books.told.values().filter(|status| now.since(status.at_us) <= PEER_HOLDS);
        let others = fresh.filter_map(|status| Some((status.pool.as_ref()?, &status.peer)));
        policy::ahead((&desk.settings.pool, peer), others)
    }

    /// How long something has waited where nothing did; asked for when an order follows, and told once.
    pub(super) fn take_pressure(&self) -> Option<Duration> {
        lock(&self.books).pressed.take().map(|since| since.elapsed())
    }

    /// Looks at what workers say.
    pub(super) fn loads<T>(&self, look: impl FnOnce(&Loads) -> T) -> T {
        look(&lock(&self.books).loads)
    }
}

fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow_wish(desk: Desk, tell: watch::Sender<Wish>) {
    let key = Wish::key(&desk.settings.pool);
    let prefix = format!("wish.{}", desk.settings.pool.region);
    let follower = Follower::below(desk.client.clone(), MACHINES_BUCKET, &prefix);
    follower
        .run(|news| match news {
            News::Change(Change { key: changed, value, .. }) if changed == key => {
                match value.as_deref().map(serde_json::from_slice::<Wish>).transpose() {
                    Ok(wish) => {
                        let wish = wish.unwrap_or_default();
                        tell.send_if_modified(|held| {
                            let new = *held != wish;
                            *held = wish;
                            new
                        });
                    }
                    Err(error) => {
                        warn!(key, %error, "an operator's wish does not read; the one before holds");
                    }
                }
            }
            News::Begins | News::Change(_) | News::Whole => {}
        })
        .await;
}

/// What other keepers of the region say of their pools.
async fn follow_peers(desk: Desk, books: Arc<Mutex<Books>>) {
    let prefix = format!("status.{}", desk.settings.pool.region);
    let follower = Follower::below(desk.client.clone(), MACHINES_BUCKET, &prefix);
    follower
        .run(|news| match news {
            News::Change(Change { key, value, .. }) => {
                // What does not read is of a version that says nothing of itself to others.
                let status = value.and_then(|value| serde_json::from_slice::<Status>(&value).ok());
                let mut books = lock(&books);
                match status {
                    Some(status) => drop(books.told.insert(key, status)),
                    None => drop(books.told.remove(&key)),
                }
            }
            News::Begins | News::Whole => {}
        })
        .await;
}

/// Heartbeats of all pools of the region: ours say what machines run, the others what jobs cost elsewhere.
async fn hear_workers(desk: Desk, books: Arc<Mutex<Books>>) {
    let subject = subjects::heartbeats_in(&desk.settings.pool.region);
    let Some(mut beats) = nats::subscribe(&desk.client, subject).await else { return };
    while let Some(message) = beats.next().await {
        if let Some(beat) = nats::read_heartbeat(&message.payload) {
            lock(&books).loads.hear(beat, SystemClock.now());
        }
    }
}

async fn hear_dispatchers(desk: Desk, books: Arc<Mutex<Books>>, tell: watch::Sender<()>) {
    let subject = subjects::demand(&desk.settings.pool.region);
    let Some(mut told) = nats::subscribe(&desk.client, subject).await else { return };
    while let Some(message) = told.next().await {
        let Some(demand) = nats::read_demand(&message.payload) else { continue };
        let (now, mut books) = (SystemClock.now(), lock(&books));
        books.demand.hear(demand, now);
        let load = books.demand.load(&desk.settings.pool, &desk.settings.models, now).unwrap_or_default();
        let waits = load.waiting.iter().chain(&load.backfill).any(|waiting| waiting.jobs > 0);
        // From nothing to something is told at once; the rest is read at the next look.
        if waits && !std::mem::replace(&mut books.waits, waits) {
            books.pressed = Some(Instant::now());
            tell.send_replace(());
        }
        if !waits {
            books.pressed = None;
        }
        books.waits = waits;
    }
}
