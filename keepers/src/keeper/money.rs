//! A pool's books, carried: the ledger is read, what is due is booked, each step stored before the next.

use std::{future::Future, time::Duration};

use schemas::{
    MachineId, Micros, UsdNanos,
    time::{Clock as _, micros},
};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};
use transport::{
    SystemClock,
    ledger::{self, LedgerError},
    replies,
};

use super::desk::Desk;
use crate::{books::Books, row::Row, store::StoreError, tap::Step};

/// After a booking that failed, before the next.
const AGAIN: Duration = Duration::from_secs(10);
/// After a machine is gone, before its rest is booked: its last jobs' costs arrive.
const SOON: Duration = Duration::from_secs(2);

/// What a pool cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// All machines so far.
    pub(super) machines: UsdNanos,
    /// Of that, what jobs booked.
    pub(super) jobs: UsdNanos,
    /// Of that, what was booked as standing cost.
    pub(super) standing: UsdNanos,
}

/// A pool's books and when they are settled next.
pub(super) struct Money {
    books: Books,
    revision: u64,
    next: Instant,
}

impl Money {
    /// Reads the books. New ones are stored before anything is ordered: jobs under the pool's name from before it rented are not
    /// paid by its machines.
    pub(super) async fn begin(desk: &Desk) -> Result<Self, StoreError> {
        let (books, revision) = desk.store.read::<Books>(&key(desk)).await?;
        let next = Instant::now() + SOON;
        if let Some(books) = books {
            return Ok(Self { books, revision, next });
        }
        let head = ledger::head(&desk.client).await;
        let (ledger_made, ledger_seq) = head.map_err(|error| StoreError::Ledger(error.to_string()))?;
        let books = Books { ledger_seq, ledger_made, ..Books::default() };
        let mut money = Self { books, revision, next };
        money.store(desk).await?;
        Ok(money)
    }

    /// Returns when the books are to be settled. Cancel-safe.
    pub(super) fn changed(&self) -> impl Future<Output = ()> + '_ {
        sleep_until(self.next)
    }

    /// Something is to be booked soon.
    pub(super) fn urge(&mut self) {
        self.next = self.next.min(Instant::now() + SOON);
    }

    /// A machine is gone: its cost is in the books, and the books are stored.
    pub(super) async fn close(&mut self, desk: &Desk, row: &Row) -> Result<(), StoreError> {
        self.books.close(row, SystemClock.now());
        self.store(desk).await
    }

    /// Its row is deleted.
    pub(super) fn forget(&mut self, machine: &MachineId) {
        self.books.forget(machine);
    }

    /// What the pool cost so far.
    pub(super) fn figures(&self, rows: &[&Row], now: Micros) -> Figures {
        Figures {
            machines: self.books.cost(rows.iter().copied(), now),
            jobs: self.books.jobs_usd,
            standing: self.books.standing_usd,
        }
    }

    /// Books what no job used. What cannot be booked now is booked the next time.
    pub(super) async fn settle<'r>(
        &mut self,
        desk: &Desk,
        rows: impl Iterator<Item = &'r Row>,
    ) -> Result<(), StoreError> {
        let rows: Vec<&Row> = rows.collect();
        self.next = Instant::now() + desk.standing_every;
        if self.is_stored(desk).await {
            self.books.settle();
            self.store(desk).await?;
        }
        self.finish(desk).await?;
        if let Err(error) = self.read(desk).await {
            warn!(pool = %desk.settings.pool, %error, "standing cost is not booked now");
            self.next = Instant::now() + AGAIN;
            return Ok(());
        }
        let (now, known) = (SystemClock.now(), rows.iter().map(|row| &row.specs.machine).collect::<Vec<_>>());
        let left: Vec<MachineId> =
            self.books.gone.keys().filter(|gone| !known.contains(gone)).cloned().collect();
        for gone in &left {
            self.books.forget(gone);
        }
        let span = desk.settings.policy.drain_limit + desk.account.rules().unit;
        let open = |row: &Row| row.specs.usd_per_hour.for_hours(span).unwrap_or(UsdNanos::new(u64::MAX));
        let cost = self.books.closed(rows.iter().copied(), open, now);
        let quantity = rows.iter().map(|row| micros(row.meter.billed(now))).fold(0, u64::saturating_add);
        self.books.begin(cost, &desk.settings.sku, quantity, now);
        self.store(desk).await?;
        self.finish(desk).await
    }

    /// Whether an event that another keeper left pending is stored already. Where that cannot be read, the message id decides.
    async fn is_stored(&self, desk: &Desk) -> bool {
        let Some((event, id)) = self.books.event(&desk.settings.pool, &desk.price_book) else { return false };
        ledger::is_standing_stored(&desk.client, &id, event.at_us).await.unwrap_or(false)
    }

    /// Stores what is pending.
    async fn finish(&mut self, desk: &Desk) -> Result<(), StoreError> {
        let pool = &desk.settings.pool;
        let Some((event, id)) = self.books.event(pool, &desk.price_book) else { return Ok(()) };
        desk.tap.pass(Step { what: "event", done: false, machine: None }).await;
        let (subject, headers, body) = replies::standing(&event, id);
        let stored = desk.publisher.publish(subject, headers, body).await?;
        desk.tap.pass(Step { what: "event", done: true, machine: None }).await;
        info!(%pool, usd = %event.amount_usd, duplicate = stored.duplicate, "standing cost of machines booked");
        self.books.settle();
        self.store(desk).await
    }

    async fn read(&mut self, desk: &Desk) -> Result<(), LedgerError> {
        // What is read of a ledger that then breaks off is read again.
        let (pool, mut books) = (&desk.settings.pool, self.books.clone());
        let place = (self.books.ledger_made.as_str(), self.books.ledger_seq);
        let place = ledger::read_on(&desk.client, place, |event| books.read(pool, event)).await?;
        (books.ledger_made, books.ledger_seq) = place;
        self.books = books;
        Ok(())
    }

    async fn store(&mut self, desk: &Desk) -> Result<(), StoreError> {
        desk.tap.pass(Step { what: "books", done: false, machine: None }).await;
        self.revision = desk.store.replace(&key(desk), &self.books, self.revision).await?;
        desk.tap.pass(Step { what: "books", done: true, machine: None }).await;
        Ok(())
    }
}

fn key(desk: &Desk) -> String {
    format!("books.{}.{}", desk.settings.pool.region, desk.settings.pool.provider)
}
