//! The money that this dispatcher holds of one rule in one period.
//!
//! Invariant: what this dispatcher took from the shared counter, less what it gave back, is `balance + reserved + spent`. A
//! negative balance is a debt: attempts cost more than was reserved for them, or a soft rule went on without money. A debt is
//! taken from the counter first, even beyond the limit, because it is already spent.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use schemas::{Micros, UsdNanos};

use super::{Draw, Mode, Rule, Wait};

/// How long an account may be idle before it gives back what it holds: long enough that a pause between two jobs of a service
/// costs no messages, short enough that another dispatcher need not wait long.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(30);

/// How often an empty counter is asked for its total: other dispatchers may have given money back.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long to wait before a draw is sent again after an error.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long to wait for an answer before a draw is sent again. Well above the slowest answer.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// For how long a draw is sent again, with the same message id. The stream must remember ids for longer
/// (`topology::BUDGETS_WINDOW`), or one draw would count twice.
pub(super) const RESEND_FOR: Duration = Duration::from_secs(80);

/// How many chunks an account may hold before it gives back the surplus. Well above the two that drawing ahead may leave, so that
/// money does not go to and fro.
const SURPLUS: i128 = 4;

/// One rule in one period.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) start: Micros,
    pub(super) until: Micros,
    /// Taken by all dispatchers, as the counter last said, less what this one has decided to give back since.
    pub(super) taken: u64,
    /// What this dispatcher can reserve from; a negative balance is a debt.
    pub(super) balance: i128,
    /// Held by attempts that run.
    pub(super) reserved: i128,
    /// What attempts that have ended cost.
    pub(super) spent: i128,
    /// The largest reservation so far. A smaller chunk would be of no use.
    largest: u64,
    /// The amounts that attempts wait for.
    wanted: Wanted,
    /// The same, noted through a shared reference: the picker asks once per candidate.
    asked: Asked,
    /// When it was last reserved from or asked.
    used: Micros,
    look_at: Micros,
    pending: Option<Pending>,
}

/// The smallest and the largest amount that an attempt waits for; zero if none waits. The largest says how much to draw. The
/// smallest says whether what remains is of any use, so that one expensive job does not hold up the cheap ones.
#[derive(Clone, Copy, Debug, Default)]
struct Wanted {
    least: u64,
    most: u64,
}

impl Wanted {
    fn add(&mut self, other: Self) {
        if other.most > 0 {
            self.least = if self.most > 0 { self.least.min(other.least) } else { other.least };
            self.most = self.most.max(other.most);
        }
    }

    /// Forgets the amounts that `balance` covers.
    fn served(&mut self, balance: i128) {
        if balance >= i128::from(self.most) {
            *self = Self::default();
        } else if balance >= i128::from(self.least) {
            self.least = self.most;
        }
    }
}

/// [`Wanted`], noted through a shared reference.
#[derive(Debug)]
struct Asked {
    least: AtomicU64,
    most: AtomicU64,
}

impl Default for Asked {
    fn default() -> Self {
        Self { least: AtomicU64::new(u64::MAX), most: AtomicU64::new(0) }
    }
}

impl Asked {
    fn add(&self, amount: u64) {
        // Zero would mean that no attempt waits; one that costs nothing may wait for a debt to be drawn.
        let amount = amount.max(1);
        self.least.fetch_min(amount, Ordering::Relaxed);
        self.most.fetch_max(amount, Ordering::Relaxed);
    }

    fn get(&self) -> Wanted {
        Wanted { least: self.least.load(Ordering::Relaxed), most: self.most.load(Ordering::Relaxed) }
    }
}

/// The draw on its way.
#[derive(Debug)]
struct Pending {
    draw: Draw,
    first: Micros,
    again: Micros,
}

impl Account {
    /// An account without any money.
    pub(super) fn new(rule: &Rule, now: Micros) -> Self {
        Self {
            start: rule.period.start(now),
            until: rule.period.next(now),
            taken: 0,
            balance: 0,
            reserved: 0,
            spent: 0,
            largest: 0,
            wanted: Wanted::default(),
            asked: Asked::default(),
            used: Micros::default(),
            look_at: Micros::default(),
            pending: None,
        }
    }

    /// The account of the next period: without money, but with the same expected use, so that a busy account draws at once.
    pub(super) fn following(&self, rule: &Rule, now: Micros) -> Self {
        let mut next = Self::new(rule, now);
        next.largest = self.largest;
        next.used = if self.waits().most > 0 { now } else { self.used };
        next.wanted = self.waits();
        next
    }

    /// Whether `amount` can be reserved now. If not, it is remembered as wanted.
    pub(super) fn admits(&self, rule: &Rule, amount: UsdNanos) -> Result<(), Wait> {
        let amount = amount.get();
        if rule.mode == Mode::Soft || self.balance >= i128::from(amount) {
            return Ok(());
        }
        self.asked.add(amount);
        if self.balance + i128::from(self.remaining(rule)) >= i128::from(amount) {
            Err(Wait::Chunk)
        } else {
            Err(Wait::Period(self.until))
        }
    }

    /// Notes that an attempt waits for `amount`.
    pub(super) fn ask(&self, amount: u64) {
        self.asked.add(amount);
    }

    fn waits(&self) -> Wanted {
        let mut wanted = self.wanted;
        wanted.add(self.asked.get());
        wanted
    }

    pub(super) fn reserve(&mut self, amount: u64, now: Micros) {
        self.balance -= i128::from(amount);
        self.reserved += i128::from(amount);
        self.largest = self.largest.max(amount);
        self.used = now;
    }

    pub(super) fn settle(&mut self, amount: u64, actual: u64) {
        self.reserved -= i128::from(amount);
        self.balance += i128::from(amount) - i128::from(actual);
        self.spent += i128::from(actual);
    }

    /// What no dispatcher has taken, as last known.
    pub(super) fn remaining(&self, rule: &Rule) -> u64 {
        rule.limit.get().saturating_sub(self.taken)
    }

    /// Whether no waiting attempt can start before the period ends, as last known.
    pub(super) fn exhausted(&self, rule: &Rule) -> bool {
        let least = i128::from(self.waits().least.max(1));
        rule.mode == Mode::Hard
            && self.balance < least
            && i128::from(self.remaining(rule)) + self.balance < least
    }

    /// Whether a soft limit is passed by what is spent and reserved. What this dispatcher merely holds does not count.
    pub(super) fn alarm(&self, rule: &Rule) -> bool {
        rule.mode == Mode::Soft && i128::from(self.taken) - self.balance > i128::from(rule.limit.get())
    }

    /// Whether the account is done: nothing is reserved, held or owed, and no draw is on its way.
    pub(super) fn is_closed(&self) -> bool {
        self.reserved == 0 && self.balance == 0 && self.pending.is_none()
    }

    /// The size of a chunk: 1 % of what remains, so that many dispatchers can share it; at least 0.1 % of the limit, or the last
    /// cents would be drawn in ever smaller pieces; and at least what one job needs.
    fn chunk(&self, rule: &Rule) -> i128 {
        let (remaining, limit) = (self.remaining(rule), rule.limit.get());
        i128::from((remaining / 100).max(limit / 1_000).max(self.largest).max(1))
    }

    /// How much to take now; negative to give back, zero to ask for the total only. `None` if there is nothing to do.
    pub(super) fn plan(&mut self, rule: &Rule, now: Micros) -> Option<i128> {
        let asked = std::mem::take(&mut self.asked).get();
        if asked.most > 0 {
            self.used = now;
            self.wanted.add(asked);
        }
        self.wanted.served(self.balance);
        let busy = self.used + IDLE_AFTER > now;
        let (chunk, debt) = (self.chunk(rule), (-self.balance).max(0));
        let (least, most) = (i128::from(self.wanted.least), i128::from(self.wanted.most));
        let goal = match () {
            () if most > 0 => chunk.max(most),
            // Drawn ahead of need, so that a job does not wait for a round trip.
            () if busy && self.balance < chunk / 2 => chunk,
            () => 0,
        };
        let lack = goal - self.balance;
        if lack > 0 {
            let useful = debt.max(least - self.balance);
            let remaining = i128::from(self.remaining(rule));
            return match rule.mode {
                Mode::Soft => Some(lack),
                Mode::Hard if remaining > 0 && remaining >= useful => Some(lack.min(remaining)),
                Mode::Hard if debt > 0 => Some(debt),
                Mode::Hard => (most > 0 && now >= self.look_at).then_some(0),
            };
        }
        let idle = !busy && most == 0 && self.balance > 0;
        match () {
            () if idle => Some(-self.balance),
            () if self.balance > SURPLUS * chunk => Some(chunk - self.balance),
            () => None,
        }
    }

    /// The same for a period that has ended: once no attempt runs any more, the counter is corrected to what was spent.
    pub(super) fn plan_past(&self) -> Option<i128> {
        (self.reserved == 0 && self.balance != 0).then_some(-self.balance)
    }

    /// The same before this dispatcher ends: everything that no attempt holds goes back.
    pub(super) fn plan_last(&self) -> Option<i128> {
        (self.balance != 0).then_some(-self.balance)
    }

    /// Notes that `draw` is on its way. What it gives back is gone from the balance.
    pub(super) fn send(&mut self, draw: &Draw, now: Micros) {
        if draw.take < 0 {
            self.balance += i128::from(draw.take);
        }
        // A draw tells the total, too.
        self.look_at = now + LOOK_EVERY;
        self.pending = Some(Pending { draw: draw.clone(), first: now, again: now + LOST_AFTER });
    }

    /// The draw on its way, if it should be sent again now. A draw that went unanswered for too long is written off: if it was
    /// counted, its money stays unspent in this period, which is the safe side.
    pub(super) fn resend(&mut self, now: Micros) -> Resend {
        match &mut self.pending {
            None => Resend::Nothing,
            Some(pending) if pending.first + RESEND_FOR <= now => {
                self.pending = None;
                Resend::Nothing
            }
            Some(pending) if pending.again <= now => {
                pending.again = now + LOST_AFTER;
                Resend::Again(pending.draw.clone())
            }
            Some(_) => Resend::Waiting,
        }
    }

    /// The counter answered `draw` and was at `total` after it. Returns what must go back because it is over the limit.
    ///
    /// The counter is never below what all dispatchers hold. So if each that finds it over the limit keeps only what was below,
    /// all of them together hold no more than the limit.
    pub(super) fn drawn(&mut self, rule: &Rule, draw: &Draw, total: u64) -> u64 {
        if !self.is_pending(draw) {
            return 0;
        }
        self.pending = None;
        self.taken = total;
        if draw.take <= 0 {
            return 0;
        }
        self.balance += i128::from(draw.take);
        let over = total.saturating_sub(rule.limit.get()).min(draw.take.unsigned_abs());
        if rule.mode == Mode::Soft || over == 0 {
            return 0;
        }
        // A debt cannot be given back: it is spent.
        let back = u64::try_from(self.balance.max(0)).unwrap_or(u64::MAX).min(over);
        self.taken = total - back;
        back
    }

    pub(super) fn failed(&mut self, draw: &Draw, now: Micros) {
        if let Some(pending) = self.pending.as_mut().filter(|p| p.draw.number == draw.number) {
            pending.again = now + RETRY_AFTER;
        }
    }

    pub(super) fn is_pending(&self, draw: &Draw) -> bool {
        self.pending.as_ref().is_some_and(|p| p.draw.number == draw.number)
    }
}

/// What to do about a draw on its way.
#[derive(Debug)]
pub(super) enum Resend {
    /// There is no draw on its way.
    Nothing,
    /// Wait for its answer.
    Waiting,
    /// Send it again.
    Again(Draw),
}
