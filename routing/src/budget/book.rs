//! One rule through its periods: the account of the current one, and of those that ended while attempts ran.

use schemas::{Micros, UsdNanos};

use super::{
    Draw, Rule, State,
    account::{Account, Resend},
};

/// How many ended periods of one rule are kept while their attempts run. The oldest is dropped first: what it held stays counted as
/// taken in a period that is over, which does no harm.
const PAST_MAX: usize = 3;

/// A rule with its accounts.
#[derive(Debug)]
pub(super) struct Book {
    pub(super) rule: Rule,
    pub(super) current: Account,
    pub(super) past: Vec<Account>,
}

impl Book {
    /// Begins the period of `now`, if the current one is over.
    pub(super) fn roll(&mut self, now: Micros) {
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
    pub(super) fn account(&mut self, start: Micros) -> Option<&mut Account> {
        std::iter::once(&mut self.current).chain(&mut self.past).find(|account| account.start == start)
    }

    pub(super) fn state(&self, now: Micros) -> State<'_> {
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

/// The draw of one account, if it should make one.
pub(super) fn draw(
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
