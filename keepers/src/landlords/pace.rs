//! The rate at which an account is asked, kept in one place for all its pools.
//!
//! A caller waits for its turn, but only so long: a queue of calls behind a rate is better kept by whoever decides what is
//! urgent. A refusal (429) widens the pace until a call goes through.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

use crate::landlord::CallError;

/// After refusals in a row the wait doubles this often at most.
const DOUBLINGS: u32 = 5;
/// The part of a pace that is added to it: calls that leave one pace apart may arrive a little less apart.
const SLACK: u32 = 10;

/// How long a new process keeps away from an account at most, since the one before it may have called a moment ago.
const DISTANCE_MAX: Duration = Duration::from_secs(2);

/// One kind of call of one account.
#[derive(Debug)]
pub struct Pace {
    what: &'static str,
    every: Duration,
    patience: Duration,
    /// The wait after a refusal that names none.
    rest: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    next: Instant,
    refusals: u32,
}

impl Pace {
    /// A call each `every`, and a tenth of it as slack; who would wait longer than `patience` is told so instead. After a 429
    /// without a wait of its own, `rest`, doubled with each that follows.
    pub fn new(what: &'static str, every: Duration, patience: Duration, rest: Duration) -> Self {
        let state = Mutex::new(State { next: Instant::now(), refusals: 0 });
        Self { what, every: every + every / SLACK, patience, rest, state }
    }

    /// The same for an account that the process before this one may have called a moment ago.
    pub fn after_another(what: &'static str, every: Duration, patience: Duration, rest: Duration) -> Self {
        let pace = Self::new(what, every, patience, rest);
        pace.state().next += pace.every.min(DISTANCE_MAX);
        pace
    }

    /// Waits for the turn. A caller that gives up has used its turn up.
    pub async fn turn(&self) -> Result<(), CallError> {
        let at = {
            let (mut state, now) = (self.state(), Instant::now());
            let at = state.next.max(now);
            let wait = at - now;
            if wait > self.patience {
                return Err(CallError::RateLimited(format!("{}: our own pace", self.what), Some(wait)));
            }
            state.next = at + self.every;
            at
        };
        sleep_until(at).await;
        Ok(())
    }

    /// A call was refused. Gives the wait until the next turn: what the provider asked for, or our own.
    pub fn refused(&self, asked: Option<Duration>) -> Duration {
        let mut state = self.state();
        let own = self.rest * 2_u32.pow(state.refusals.min(DOUBLINGS));
        state.refusals = state.refusals.saturating_add(1);
        let wait = asked.unwrap_or(own);
        state.next = state.next.max(Instant::now() + wait);
        wait
    }

    /// A call was not refused.
    pub fn accepted(&self) {
        self.state().refusals = 0;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new("test", Duration::from_secs(1), Duration::from_secs(2), Duration::from_secs(3))
    }

    #[tokio::test(start_paused = true)]
    async fn callers_take_turns_and_nobody_waits_longer_than_said() {
        let (pace, began) = (pace(), Instant::now());
        for turn in 0..3 {
            pace.turn().await.unwrap();
            assert_eq!(began.elapsed(), Duration::from_millis(1_100 * turn), "a tenth more than the rate");
        }
        let (a, b) = tokio::join!(pace.turn(), pace.turn());
        assert!(a.is_ok());
        let wait = Some(Duration::from_millis(2_200));
        assert_eq!(b, Err(CallError::RateLimited("test: our own pace".into(), wait)));
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_call_of_a_process_keeps_its_distance_from_the_last_of_the_one_before() {
        let second = Duration::from_secs(1);
        let (pace, began) = (Pace::after_another("test", second, second * 2, second), Instant::now());
        pace.turn().await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_millis(1_100));
    }

    #[tokio::test(start_paused = true)]
    async fn refusals_in_a_row_wait_longer_and_the_provider_has_the_word() {
        let pace = pace();
        assert_eq!(pace.refused(None), Duration::from_secs(3));
        assert_eq!(pace.refused(None), Duration::from_secs(6));
        assert!(pace.turn().await.is_err());
        pace.accepted();
        assert_eq!(pace.refused(Some(Duration::from_secs(1))), Duration::from_secs(1));
    }
}
