//! Budgets: how much may be spent in a period, by whom and where. Pure: no I/O, no clock.
//!
//! A counter per rule and period (stream `BUDGETS`, shared by all dispatchers) says how much of the limit was *taken*. A
//! dispatcher takes a chunk, reserves from it for each attempt and settles with what the attempt cost, all without a message;
//! what it does not need it gives back, so that in the end the counter says what was spent. A counter can only be added to,
//! never asked on condition: who takes looks at the total and gives back what went over the limit.
//!
//! ```text
//!  counter ◀─ take, give back ─▶ balance ─ reserve ─▶ reserved ─ settle ─▶ spent
//!  (all dispatchers)                ▲                    │
//!                                   └── not needed ──────┘
//! ```
//!
//! Under a hard rule, what all dispatchers together spend and have running never exceeds the limit as long as no attempt costs
//! more than its reservation. Where attempts do, the limit is exceeded by at most that excess of the attempts that ran when
//! the money ended; a dispatcher that dies takes with it what it held, which stays counted as taken until the period ends.

mod account;
mod rule;

use std::{collections::HashMap, fmt};

use schemas::{Micros, ProviderId, Tenant, UsdNanos};

pub use self::rule::{Mode, Period, RULES_MAX, Rule, Rules, RulesError};
use self::{
    account::{Account, Resend},
    rule::MATCHES_MAX,
};

/// Ended periods of one rule whose attempts still run. Beyond it the oldest is dropped: what it held stays counted as taken
/// in a period that is over, which hurts nobody.
const PAST_MAX: usize = 3;

/// All rules, and what this dispatcher holds of each.
#[derive(Debug, Default)]
pub struct Budgets {
    books: Vec<Book>,
    /// Rules that count every tenant.
    for_all: Vec<u16>,
    for_tenant: HashMap<Tenant, Vec<u16>>,
    /// The latest moment we were told. A clock that is set back must not open a period again that is over.
    latest: Micros,
    next_draw: u64,
}

/// A rule with its accounts.
#[derive(Debug)]
struct Book {
    rule: Rule,
    current: Account,
    past: Vec<Account>,
}

/// Why an attempt may not start now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Index of the rule, see [`Budgets::rule`].
    pub rule: usize,
    /// Its limit.
    pub limit: UsdNanos,
    /// What all dispatchers had taken of it, as last known.
    pub taken: UsdNanos,
    /// What the attempt would have needed.
    pub amount: UsdNanos,
    /// What it waits for.
    pub wait: Wait,
}

/// What a held attempt waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// Money from the shared counter; a matter of milliseconds.
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

/// Money set aside for one attempt. Give it back to [`Budgets::settle`] or [`Budgets::release`]; one that is dropped stays
/// reserved until its period ends.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a reservation that is dropped stays reserved"]
pub struct Reservation {
    amount: u64,
    /// Says, for each rule, which period it belongs to.
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

/// A question to a shared counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Draw {
    rule: u16,
    start: Micros,
    /// Unique in this [`Budgets`]. A draw that is asked again has the same number and must count once.
    pub number: u64,
    /// The counter.
    pub subject: String,
    /// Nano-dollars to add: negative gives back, zero only looks.
    pub take: i64,
}

/// A rule and how it stands, for people and metrics.
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
    /// Taken by this one and free.
    pub held: UsdNanos,
    /// Set aside here for attempts that run.
    pub reserved: UsdNanos,
    /// Spent by this dispatcher.
    pub spent: UsdNanos,
    /// A hard rule from which nothing more can start.
    pub exhausted: bool,
    /// A soft rule whose limit is passed.
    pub alarm: bool,
}

impl Budgets {
    /// Holds nothing yet.
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

    /// Whether there are no rules, so that nobody need ask.
    pub fn is_empty(&self) -> bool {
        self.books.is_empty()
    }

    /// The rule a [`Held`] names.
    pub fn rule(&self, index: usize) -> Option<&Rule> {
        self.books.get(index).map(|book| &book.rule)
    }

    /// Whether an attempt of this tenant at this provider that may cost `amount` may start now. Allocates nothing.
    ///
    /// Every rule that matches must have the money here; soft rules always do. A refusal is remembered, so that the next
    /// [`Budgets::draws`] asks for what was missing.
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
                // Nobody has drawn in the new period yet.
                book.current.ask(amount.get());
                (Err(Wait::Chunk), 0)
            } else {
                (book.current.admits(&book.rule, amount), book.current.taken)
            };
            // All are asked even after one refused: each must know what to draw.
            if let (Err(wait), true) = (admits, held.is_ok()) {
                let (limit, taken) = (book.rule.limit, UsdNanos::new(taken));
                held = Err(Held { rule: usize::from(index), limit, taken, amount, wait });
            }
        }
        held
    }

    /// Sets `amount` aside under every rule that matches. What was not admitted a moment ago becomes a debt.
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

    /// The attempt has ended and cost `actual`. What it did not need is free again; what it cost beyond its reservation is
    /// a debt. A reservation of a period that is over counts there and touches no other.
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

    /// The attempt did not start, so nothing was spent.
    pub fn release(&mut self, reservation: Reservation, now: Micros) {
        self.settle(reservation, UsdNanos::ZERO, now);
    }

    /// What to ask the shared counters now: chunks to take, and surplus to give back of idle accounts and ended periods.
    ///
    /// Call it often; while a draw is on its way its account has no second one. Report each with [`Budgets::drawn`] or
    /// [`Budgets::failed`].
    pub fn draws(&mut self, now: Micros) -> Vec<Draw> {
        self.ask_all(now, Account::plan)
    }

    /// What to give back before this dispatcher ends: everything that no attempt holds.
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

    /// The counter stood at `total` nano-dollars after this draw. Returns what must be given back because it went over the
    /// limit; report that one too. An answer that comes twice changes nothing.
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

    /// The counter did not answer, and may have counted or not: the same draw is asked again later.
    pub fn failed(&mut self, draw: &Draw, now: Micros) {
        let now = self.tell(now);
        if let Some(account) = self.books.get_mut(usize::from(draw.rule)).and_then(|b| b.account(draw.start))
        {
            account.failed(draw, now);
        }
    }

    /// How each rule stands in its current period.
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

/// The draw of one account, if it should make one.
fn draw(
    account: &mut Account,
    rule: &Rule,
    index: u16,
    next: &mut u64,
    now: Micros,
    plan: impl FnOnce(&mut Account) -> Option<i128>,
) -> Option<Draw> {
    match account.resend(now) {
        Resend::Waiting => None,
        Resend::Again(draw) => Some(draw),
        Resend::Nothing => {
            let take = plan(account)?;
            let take = i64::try_from(take).unwrap_or(if take < 0 { -i64::MAX } else { i64::MAX });
            let (start, number) = (account.start, *next);
            *next += 1;
            let draw = Draw { rule: index, start, number, subject: rule.subject(start), take };
            account.send(&draw, now);
            Some(draw)
        }
    }
}

impl Book {
    /// Begins the period of `now`, if the current one is over.
    fn roll(&mut self, now: Micros) {
        if now < self.current.until {
            return;
        }
        let next = self.current.following(&self.rule, now);
        let ended = std::mem::replace(&mut self.current, next);
        if !ended.is_closed() {
            self.past.push(ended);
        }
        if self.past.len() > PAST_MAX {
            self.past.remove(0);
        }
    }

    /// The account of the period that began at `start`, if it is still open.
    fn account(&mut self, start: Micros) -> Option<&mut Account> {
        std::iter::once(&mut self.current).chain(&mut self.past).find(|account| account.start == start)
    }

    fn state(&self, now: Micros) -> State<'_> {
        let (rule, account) = (&self.rule, &self.current);
        let amount = |nanos: i128| UsdNanos::new(u64::try_from(nanos.max(0)).unwrap_or(u64::MAX));
        let (start, until) = (rule.period.start(now), rule.period.next(now));
        if account.until <= now {
            let none = UsdNanos::ZERO;
            return State {
                rule,
                start,
                until,
                taken: none,
                held: none,
                reserved: none,
                spent: none,
                exhausted: false,
                alarm: false,
            };
        }
        State {
            rule,
            start,
            until,
            taken: UsdNanos::new(account.taken),
            held: amount(account.balance),
            reserved: amount(account.reserved),
            spent: amount(account.spent),
            exhausted: account.exhausted(rule),
            alarm: account.alarm(rule),
        }
    }
}

#[cfg(test)]
mod tests;
