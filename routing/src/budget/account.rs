//! The money of one rule in one period, as far as this dispatcher has a hand in it.
//!
//! Invariant: what we took from the shared counter, less what we gave back, is `balance + reserved + spent`. A negative
//! balance is a debt: attempts cost more than was reserved for them, or a soft rule went on without money. It is taken from
//! the counter before anything else, even beyond the limit, because it is spent already.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use schemas::{Micros, UsdNanos};

use super::{Draw, Mode, Rule, Wait};

/// An account from which nothing was reserved for so long gives back what it holds: long enough that a pause between two
/// jobs of a service costs no messages, short enough that another dispatcher need not wait long for it.
pub(super) const IDLE_AFTER: Duration = Duration::from_secs(30);

/// How often a used-up counter is looked at: others may have given back what they did not need.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(5);

/// After the counter did not answer.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A draw of which nothing was heard is asked again; far longer than whoever carries it may take.
const LOST_AFTER: Duration = Duration::from_secs(30);

/// A draw is asked again, with the same message id, for so long. The stream must remember ids for longer
/// (`topology::BUDGETS_WINDOW`), or one draw would count twice.
pub(super) const RESEND_FOR: Duration = Duration::from_secs(80);

/// How many chunks may lie here before the surplus goes back. Well above the two that drawing ahead may leave, so that money
/// does not go to and fro.
const SURPLUS: i128 = 4;

/// One rule in one period.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) start: Micros,
    pub(super) until: Micros,
    /// Taken by all, as the counter last said, less what we have since decided to give back.
    pub(super) taken: u64,
    /// Ours to reserve from; negative is a debt.
    pub(super) balance: i128,
    /// Held by attempts that run.
    pub(super) reserved: i128,
    /// What attempts cost that have ended.
    pub(super) spent: i128,
    /// The largest reservation so far: a smaller chunk would be of no use.
    largest: u64,
    /// What somebody waits for.
    wanted: Wanted,
    /// The same, noted while the account is only borrowed: the picker asks once per candidate.
    asked: Asked,
    /// When it was last reserved from or asked.
    used: Micros,
    look_at: Micros,
    pending: Option<Pending>,
}

/// The smallest and the largest amount that somebody waits for; zero for nobody. The largest says how much to draw; the
/// smallest whether what remains is of any use, so that one large job does not hold up the small ones.
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

    /// Forgets what `balance` can serve.
    fn served(&mut self, balance: i128) {
        if balance >= i128::from(self.most) {
            *self = Self::default();
        } else if balance >= i128::from(self.least) {
            self.least = self.most;
        }
    }
}

/// [`Wanted`] by those who only borrow the account.
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
        // Zero would mean that nobody asked; a free attempt waits for a debt to be drawn.
        let amount = amount.max(1);
        self.least.fetch_min(amount, Ordering::Relaxed);
        self.most.fetch_max(amount, Ordering::Relaxed);
    }

    fn get(&self) -> Wanted {
        Wanted { least: self.least.load(Ordering::Relaxed), most: self.most.load(Ordering::Relaxed) }
    }
}

/// The one draw on its way.
#[derive(Debug)]
struct Pending {
    draw: Draw,
    first: Micros,
    again: Micros,
}

impl Account {
    /// An account of which nothing is known yet.
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

    /// The account of the next period: no money, but the same expectation of use, so that a busy one draws at once.
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

    /// Somebody waits for `amount`.
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

    /// What nobody has taken, as last known.
    pub(super) fn remaining(&self, rule: &Rule) -> u64 {
        rule.limit.get().saturating_sub(self.taken)
    }

    /// Whether what is wanted cannot be had before the period ends, as last known.
    pub(super) fn exhausted(&self, rule: &Rule) -> bool {
        let least = i128::from(self.waits().least.max(1));
        rule.mode == Mode::Hard
            && self.balance < least
            && i128::from(self.remaining(rule)) + self.balance < least
    }

    /// Whether a soft limit is passed: by what is spent and runs, not by what merely lies in our hands.
    pub(super) fn alarm(&self, rule: &Rule) -> bool {
        rule.mode == Mode::Soft && i128::from(self.taken) - self.balance > i128::from(rule.limit.get())
    }

    /// Nothing runs, nothing is owed in either direction, nothing is on its way.
    pub(super) fn is_closed(&self) -> bool {
        self.reserved == 0 && self.balance == 0 && self.pending.is_none()
    }

    /// 1 % of what remains, so that many dispatchers can share it; not less than 0.1 % of the limit, or the last cents would
    /// be drawn in ever smaller pieces; and not less than one job needs.
    fn chunk(&self, rule: &Rule) -> i128 {
        let (remaining, limit) = (self.remaining(rule), rule.limit.get());
        i128::from((remaining / 100).max(limit / 1_000).max(self.largest).max(1))
    }

    /// How much to take now, or to give back if negative; zero only looks. `None`: all is well.
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
            // Ahead of need: a job should not wait for a round trip.
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

    /// The same for a period that has ended: once nothing runs any more, the counter is told what was really spent.
    pub(super) fn plan_past(&self) -> Option<i128> {
        (self.reserved == 0 && self.balance != 0).then_some(-self.balance)
    }

    /// Everything back that no attempt holds.
    pub(super) fn plan_last(&self) -> Option<i128> {
        (self.balance != 0).then_some(-self.balance)
    }

    /// Notes that `draw` is on its way. What is given back is not ours any more.
    pub(super) fn send(&mut self, draw: &Draw, now: Micros) {
        if draw.take < 0 {
            self.balance += i128::from(draw.take);
        }
        // At most one look each while; a draw says as much as a look.
        self.look_at = now + LOOK_EVERY;
        self.pending = Some(Pending { draw: draw.clone(), first: now, again: now + LOST_AFTER });
    }

    /// The draw on its way, if it should be asked again now. One that went unanswered for too long is written off: if it was
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

    /// The counter answered `draw` and stood at `total` after it; says what must go back because it is over the limit.
    ///
    /// Takes are added up by the counter, which is never below what all of us hold. So whoever finds it over the limit and
    /// keeps only what lay below cannot, together with all others, hold more than the limit.
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
        // A debt is not given back: it is spent.
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

/// What to do about the draw on its way.
#[derive(Debug)]
pub(super) enum Resend {
    /// There is none.
    Nothing,
    /// It has time yet.
    Waiting,
    /// Ask again.
    Again(Draw),
}
