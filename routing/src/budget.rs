//! Budgets: how much a tenant, or all tenants, may spend at a provider, or at all providers, in a period. Pure: no I/O, no clock.
//!
//! A counter per rule and period (stream `BUDGETS`, shared by all dispatchers) says how much of the limit was *taken*. A
//! dispatcher takes a chunk, reserves from it for each attempt and settles with what the attempt cost, all without a message. It
//! gives back what it does not need, so that in the end the counter says what was spent. The server can only add to a counter,
//! without a condition: a dispatcher that took a chunk looks at the total, and gives back what went over the limit.
//!
//! ```text
//!  counter ◀─ take, give back ─▶ balance ─ reserve ─▶ reserved ─ settle ─▶ spent
//!  (all dispatchers)                ▲                    │
//!                                   └── not needed ──────┘
//! ```
//!
//! Under a hard rule, what all dispatchers together have spent and reserved never exceeds the limit as long as no attempt costs
//! more than its reservation. If attempts do, the limit is exceeded by at most the excess of the attempts that ran when the money
//! ended. What a dispatcher held when it died stays counted as taken until the period ends.

mod account;
mod book;
mod rule;

use std::{collections::HashMap, fmt};

use schemas::{Micros, ProviderId, Tenant, UsdNanos};

pub use self::rule::{Mode, Period, RULES_MAX, Rule, Rules, RulesError};
use self::{
    account::Account,
    book::{Book, draw},
    rule::MATCHES_MAX,
};

/// All rules, and the money that this dispatcher holds of each.
#[derive(Debug, Default)]
pub struct Budgets {
    books: Vec<Book>,
    /// Rules that count every tenant.
    for_all: Vec<u16>,
    for_tenant: HashMap<Tenant, Vec<u16>>,
    /// The latest time given. A clock that is set back must not reopen a period that is over.
    latest: Micros,
    next_draw: u64,
}

/// Why an attempt may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Index of the rule, see [`Budgets::rule`].
    pub rule: usize,
    /// Its limit.
    pub limit: UsdNanos,
    /// What all dispatchers have taken of it, as last known.
    pub taken: UsdNanos,
    /// What the attempt needs.
    pub amount: UsdNanos,
    /// What it waits for.
    pub wait: Wait,
}

/// What a held attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Money from the shared counter, which takes milliseconds.
    Chunk,
    /// The next period, which begins then.
    Period(Micros),
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs ${} and ${} of ${} are taken", self.amount, self.taken, self.limit)?;
        match self.wait {
            Wait::Chunk => f.write_str("; waits for the shared counter"),
            Wait::Period(until) => write!(f, "; waits for the next period, {until}"),
        }
    }
}

/// Money set aside for one attempt. Hand it to [`Budgets::settle`] or [`Budgets::release`]: a reservation that is dropped stays
/// reserved until its period ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reservation that is dropped stays reserved"]
pub struct Reservation {
    amount: u64,
    /// When it was made: says which period of each rule it belongs to.
    at: Micros,
    rules: [u16; MATCHES_MAX],
    count: u8,
}

impl Reservation {
    /// How much is set aside.
    pub fn amount(&self) -> UsdNanos {
        UsdNanos::new(self.amount)
    }
}

/// An addition to a shared counter, and a question for its total.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    rule: u16,
    start: Micros,
    /// Unique in this [`Budgets`]. A draw that is sent again has the same number and must count once.
    pub number: u64,
    /// The subject of the counter.
    pub subject: String,
    /// Nano-dollars to add. A negative amount gives back, zero only asks for the total.
    pub take: i64,
}

/// A rule and its state, for people and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State<'a> {
    /// The rule.
    pub rule: &'a Rule,
    /// When its period began.
    pub start: Micros,
    /// When the next begins.
    pub until: Micros,
    /// Taken by all dispatchers, as last known.
    pub taken: UsdNanos,
    /// Taken by this dispatcher, and free.
    pub held: UsdNanos,
    /// Set aside by this dispatcher for attempts that run.
    pub reserved: UsdNanos,
    /// Spent by this dispatcher.
    pub spent: UsdNanos,
    /// True for a hard rule under which no attempt can start any more.
    pub exhausted: bool,
    /// True for a soft rule whose limit is passed.
    pub alarm: bool,
}

impl Budgets {
    /// Holds no money yet.
    pub fn new(rules: Rules) -> Self {
        let mut budgets = Self::default();
        for (index, rule) in (0u16..).zip(rules.into_vec()) {
            match &rule.tenant {
                None => budgets.for_all.push(index),
                Some(tenant) => budgets.for_tenant.entry(tenant.clone()).or_default().push(index),
            }
            let current = Account::new(&rule, Micros::default());
            budgets.books.push(Book { rule, current, past: Vec::new() });
        }
        budgets
    }

    /// Whether there are no rules.
    pub fn is_empty(&self) -> bool {
        self.books.is_empty()
    }

    /// The rule a [`Held`] names.
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.books.get(index).map(|book| &book.rule)
    }

    /// Whether an attempt of this tenant at this provider that may cost `amount` may start now. Allocates nothing.
    ///
    /// Every hard rule that matches must have the money here. A refusal is remembered, so that the next [`Budgets::draws`] asks
    /// for what was missing.
    pub fn admits(
        &self,
        tenant: &Tenant,
        provider: &ProviderId,
        amount: UsdNanos,
        now: Micros,
    ) -> Result<(), Held> {
        let now = now.max(self.latest);
        let mut held = Ok(());
        for (index, book) in self.matching(tenant, provider) {
            let fresh = book.rule.mode == Mode::Hard && book.current.until <= now;
            let (admits, taken) = if fresh {
                // This dispatcher has drawn nothing in the new period yet.
                book.current.ask(amount.get());
                (Err(Wait::Chunk), 0)
            } else {
                (book.current.admits(&book.rule, amount), book.current.taken)
            };
            // All rules are asked even after one refused: each must know how much to draw.
            if let (Err(wait), true) = (admits, held.is_ok()) {
                let (limit, taken) = (book.rule.limit, UsdNanos::new(taken));
                held = Err(Held { rule: usize::from(index), limit, taken, amount, wait });
            }
        }
        held
    }

    /// Sets `amount` aside under every rule that matches. What was not admitted becomes a debt.
    pub fn reserve(
        &mut self,
        tenant: &Tenant,
        provider: &ProviderId,
        amount: UsdNanos,
        now: Micros,
    ) -> Reservation {
        let at = self.tell(now);
        let mut made = Reservation { amount: amount.get(), at, rules: [0; MATCHES_MAX], count: 0 };
        for (slot, (index, _)) in made.rules.iter_mut().zip(self.matching(tenant, provider)) {
            *slot = index;
            made.count += 1;
        }
        for index in &made.rules[..usize::from(made.count)] {
            let book = &mut self.books[usize::from(*index)];
            book.roll(at);
            book.current.reserve(made.amount, at);
        }
        made
    }

    /// The attempt has ended and cost `actual`. What it did not need is free again, and what it cost beyond its reservation is a
    /// debt. A reservation of a period that is over counts in that period only.
    #[expect(clippy::needless_pass_by_value, reason = "a reservation is settled once, so it is used up")]
    pub fn settle(&mut self, reservation: Reservation, actual: UsdNanos, now: Micros) {
        let now = self.tell(now);
        let Reservation { amount, at, rules, count } = reservation;
        for index in &rules[..usize::from(count)] {
            let book = &mut self.books[usize::from(*index)];
            book.roll(now);
            let start = book.rule.period.start(at);
            if let Some(account) = book.account(start) {
                account.settle(amount, actual.get());
            }
        }
    }

    /// The attempt did not start and cost nothing.
    pub fn release(&mut self, reservation: Reservation, now: Micros) {
        self.settle(reservation, UsdNanos::ZERO, now);
    }

    /// The draws to send now: chunks to take, and the surplus of idle accounts and ended periods to give back.
    ///
    /// Call it often: an account has at most one draw on its way. Report the outcome of each with [`Budgets::drawn`] or
    /// [`Budgets::failed`].
    pub fn draws(&mut self, now: Micros) -> Vec<Draw> {
        self.ask_all(now, Account::plan)
    }

    /// The draws to send before this dispatcher ends: they give back everything that no attempt holds.
    pub fn last_draws(&mut self, now: Micros) -> Vec<Draw> {
        self.ask_all(now, |account, _, _| account.plan_last())
    }

    fn ask_all(
        &mut self,
        now: Micros,
        plan: impl Fn(&mut Account, &Rule, Micros) -> Option<i128>,
    ) -> Vec<Draw> {
        let now = self.tell(now);
        let mut draws = Vec::new();
        for (index, book) in (0u16..).zip(&mut self.books) {
            book.roll(now);
            let rule = &book.rule;
            for account in &mut book.past {
                draws.extend(draw(account, rule, index, &mut self.next_draw, now, |a| a.plan_past()));
            }
            let current = &mut book.current;
            draws.extend(draw(current, rule, index, &mut self.next_draw, now, |a| plan(a, rule, now)));
            book.past.retain(|account| !account.is_closed());
        }
        draws
    }

    /// The counter was at `total` nano-dollars after this draw. Returns the draw that gives back what went over the limit; send
    /// and report that one too. An answer that comes twice changes nothing.
    pub fn drawn(&mut self, draw: &Draw, total: u64, now: Micros) -> Option<Draw> {
        let now = self.tell(now);
        let number = self.next_draw;
        let book = self.books.get_mut(usize::from(draw.rule))?;
        book.roll(now);
        let rule = book.rule.clone();
        let account = book.account(draw.start)?;
        let back = i64::try_from(account.drawn(&rule, draw, total)).unwrap_or(i64::MAX);
        if back == 0 {
            return None;
        }
        self.next_draw += 1;
        let back = Draw { number, take: -back, ..draw.clone() };
        account.send(&back, now);
        Some(back)
    }

    /// The counter did not answer, and may have counted the draw or not. The same draw is sent again later.
    pub fn failed(&mut self, draw: &Draw, now: Micros) {
        let now = self.tell(now);
        if let Some(account) = self.books.get_mut(usize::from(draw.rule)).and_then(|b| b.account(draw.start))
        {
            account.failed(draw, now);
        }
    }

    /// The state of each rule in its current period.
    pub fn states(&self, now: Micros) -> impl Iterator<Item = State<'_>> {
        let now = now.max(self.latest);
        self.books.iter().map(move |book| book.state(now))
    }

    fn tell(&mut self, now: Micros) -> Micros {
        self.latest = self.latest.max(now);
        self.latest
    }

    fn matching(&self, tenant: &Tenant, provider: &ProviderId) -> impl Iterator<Item = (u16, &Book)> {
        let own = self.for_tenant.get(tenant).map_or(&[][..], Vec::as_slice);
        self.for_all
            .iter()
            .chain(own)
            .map(|index| (*index, &self.books[usize::from(*index)]))
            .filter(move |(_, book)| book.rule.provider.as_ref().is_none_or(|p| p == provider))
    }
}

#[cfg(test)]
mod tests;
