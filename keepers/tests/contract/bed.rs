//! What the contracts of all landlords need: an order, a row that writes down, a wait with a deadline.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use keepers::{
    landlord::{Known, Landlord, Notes, Order, Sighting, Steps},
    secret::Secret,
};
use schemas::{MachineId, Micros, PoolId, UsdNanos};
use simulators::rented::Account;
use tokio::time::{Instant, sleep};

/// Far longer than anything takes here; only a test that fails waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// The secret of the pool, from which each machine's key is derived.
pub(crate) fn secret() -> Secret {
    Secret::new("pool-secret")
}

/// The name of the `n`th machine.
pub(crate) fn machine(n: u32) -> MachineId {
    format!("0192f3a4c0de70008000{n:012x}").parse().unwrap()
}

/// An order at any price.
pub(crate) fn order(n: u32, pool: &PoolId, sku: &str, place: &str) -> Order {
    let machine = machine(n);
    Order {
        server_key: Some(secret().of_machine(&machine)),
        machine,
        pool: pool.clone(),
        sku: sku.to_owned(),
        place: place.to_owned(),
        ordered_at: Micros::new(1_795_812_000_000_000),
        usd_per_hour_max: UsdNanos::new(100_000_000_000),
        notes: Notes::new(),
    }
}

/// A row in which steps are written down; or one that belongs to another keeper by now.
#[derive(Debug, Default)]
pub(crate) struct Notebook {
    id: Mutex<Option<String>>,
    lost: AtomicBool,
}

impl Notebook {
    /// From now on nothing can be written.
    pub(crate) fn lose(&self) {
        self.lost.store(true, Ordering::Relaxed);
    }

    pub(crate) fn id(&self) -> Option<String> {
        self.id.lock().unwrap().clone()
    }
}

impl Steps for Notebook {
    fn note<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { !self.lost.load(Ordering::Relaxed) })
    }

    fn id<'a>(&'a self, id: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async move {
            let kept = !self.lost.load(Ordering::Relaxed);
            if kept {
                *self.id.lock().unwrap() = Some(id.to_owned());
            }
            kept
        })
    }
}

/// What a row knows of an order.
pub(crate) fn known(order: &Order, id: Option<&str>) -> Known {
    Known {
        machine: order.machine.clone(),
        pool: order.pool.clone(),
        id: id.map(str::to_owned),
        place: order.place.clone(),
        notes: Notes::new(),
    }
}

/// Waits for a condition of the simulator.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < end, "waited in vain for: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Lists until a sighting of the machine is as wished. Notes go into `known`, as a keeper would store them.
pub(crate) async fn seen(
    landlord: &dyn Landlord,
    known: &mut Known,
    what: &str,
    wished: impl Fn(&Sighting) -> bool,
) -> Sighting {
    let end = Instant::now() + DEADLINE;
    loop {
        let census = landlord.list(std::slice::from_ref(known)).await.unwrap();
        for sighting in census.sightings {
            if sighting.machine == known.machine {
                known.notes.extend(sighting.notes.clone());
                if wished(&sighting) {
                    return sighting;
                }
            }
        }
        assert!(Instant::now() < end, "waited in vain for: {what}");
        sleep(Duration::from_millis(2)).await;
    }
}

/// Waits for the server of a machine.
pub(crate) async fn serving(account: &Account, id: &str) {
    until("its server listens", || account.server(id).is_some()).await;
}

/// No machine of somebody else was changed.
pub(crate) fn assert_untouched(account: &Account) {
    assert_eq!(account.touched(), []);
}
