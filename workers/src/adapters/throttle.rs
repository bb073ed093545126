//! How fast one key may ask: a pace that starts at the provider's published limit and learns from its refusals.
//!
//! Requests are spaced by the generic cell rate algorithm (ITU-T I.371, annex A): each moves the theoretical arrival
//! time on by one interval, and may come early by a burst. A 429 halves the rate, each answer gives a little back, and
//! a `Retry-After` closes the key until it has passed. One throttle serves all pools of a process that share a key.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use schemas::failure::{Failure, FailureClass};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, sleep_until},
};

/// A rate never falls below this share of the published limit: at nothing, no answer would ever raise it.
const SHARE_MIN: f64 = 1.0 / 64.0;

/// What each good answer gives back, as a share of the published limit: from half to whole in fifty answers.
const RECOVERY: f64 = 0.01;

/// What a provider publishes about one kind of request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limit {
    /// Requests in `per`.
    pub count: u32,
    /// The window.
    pub per: Duration,
    /// Requests at the same time.
    pub concurrent: usize,
}

/// The pace of one kind of request of one key.
#[derive(Debug)]
pub struct Throttle {
    pace: Mutex<Pace>,
    seats: Semaphore,
}

#[derive(Debug)]
struct Pace {
    /// Requests per second as published.
    full: f64,
    /// Requests per second as learnt.
    rate: f64,
    /// Requests that may come at once after a rest: a tenth of a window, so that a fixed window is never overrun.
    burst: f64,
    /// When the next request would be due if none ever came early.
    due: Instant,
    closed_until: Option<Instant>,
}

/// The right to send one request, until it is dropped.
#[derive(Debug)]
pub struct Turn<'a> {
    throttle: &'a Throttle,
    _seat: SemaphorePermit<'a>,
}

impl Throttle {
    /// Starts at the published limit.
    pub fn new(limit: Limit) -> Self {
        let full = f64::from(limit.count.max(1)) / limit.per.as_secs_f64();
        let pace = Pace {
            full,
            rate: full,
            burst: (f64::from(limit.count) / 10.0).max(1.0),
            due: Instant::now(),
            closed_until: None,
        };
        Self { pace: Mutex::new(pace), seats: Semaphore::new(limit.concurrent) }
    }

    /// How long the provider still wants to be left alone; `None` when it does not.
    pub fn closed_for(&self) -> Option<Duration> {
        let until = self.pace().closed_until?;
        Some(until.saturating_duration_since(Instant::now())).filter(|left| !left.is_zero())
    }

    /// Waits for a turn. An urgent one passes those that wait for the pace, but not a closed key. Cancel-safe.
    pub async fn turn(&self, urgent: bool) -> Turn<'_> {
        let at = self.pace().reserve(Instant::now(), urgent);
        if at > Instant::now() {
            sleep_until(at).await;
        }
        while let Some(left) = self.closed_for() {
            sleep_until(Instant::now() + left).await;
        }
        // Last, so that a seat is held by a request and not by somebody who waits for the pace.
        let seat = self.seats.acquire().await.expect("the semaphore is never closed");
        Turn { throttle: self, _seat: seat }
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    /// The provider answered, well or with a failure. Only 429 slows the key down; other failures say nothing of it.
    pub fn answered(&self, failure: Option<&Failure>) {
        match failure {
            None => self.granted(),
            Some(failure) if failure.class == FailureClass::RateLimited => {
                self.refused(failure.retry_after_us.map(Duration::from_micros));
            }
            Some(_) => {}
        }
    }

    fn granted(&self) {
        let mut pace = self.throttle.pace();
        pace.rate = (pace.rate + pace.full * RECOVERY).min(pace.full);
    }

    /// 429, which perhaps said for how long.
    fn refused(&self, wait: Option<Duration>) {
        let mut pace = self.throttle.pace();
        pace.rate = (pace.rate / 2.0).max(pace.full * SHARE_MIN);
        if let Some(wait) = wait {
            let until = Instant::now() + wait;
            pace.closed_until = Some(pace.closed_until.map_or(until, |earlier| earlier.max(until)));
        }
    }
}

impl Pace {
    /// When the next request may be sent.
    fn reserve(&mut self, now: Instant, urgent: bool) -> Instant {
        let interval = Duration::from_secs_f64(1.0 / self.rate);
        let due = self.due.max(now);
        self.due = due + interval;
        if urgent {
            return now;
        }
        let early = interval.mul_f64(self.burst - 1.0);
        due.checked_sub(early).unwrap_or(now).max(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn throttle() -> Throttle {
        Throttle::new(Limit { count: 100, per: Duration::from_secs(10), concurrent: 1000 })
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_and_then_one_interval_lies_between_two() {
        let (throttle, began) = (throttle(), Instant::now());
        for _ in 0..10 {
            drop(throttle.turn(false).await);
        }
        assert_eq!(began.elapsed(), Duration::ZERO);
        for _ in 0..20 {
            drop(throttle.turn(false).await);
        }
        assert!((1_990..=2_010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_halves_the_rate_and_answers_bring_it_back() {
        let throttle = throttle();
        let gap = async || {
            for _ in 0..30 {
                drop(throttle.turn(false).await);
            }
            let before = Instant::now();
            drop(throttle.turn(false).await);
            before.elapsed().as_millis()
        };
        assert!((99..=101).contains(&gap().await));
        let turn = throttle.turn(false).await;
        turn.refused(None);
        assert!((199..=201).contains(&gap().await));
        for _ in 0..50 {
            turn.granted();
        }
        assert!((99..=101).contains(&gap().await));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_closes_the_key_for_everybody_and_a_shorter_one_does_not_open_it() {
        let throttle = throttle();
        let turn = throttle.turn(false).await;
        turn.refused(Some(Duration::from_secs(7)));
        turn.refused(Some(Duration::from_secs(1)));
        assert_eq!(throttle.closed_for(), Some(Duration::from_secs(7)));
        let began = Instant::now();
        drop(throttle.turn(true).await);
        assert!((7_000..7_010).contains(&began.elapsed().as_millis()), "{:?}", began.elapsed());
        assert_eq!(throttle.closed_for(), None);
    }

    #[tokio::test(start_paused = true)]
    async fn an_urgent_turn_passes_those_that_wait() {
        let throttle = throttle();
        for _ in 0..10 {
            drop(throttle.turn(false).await);
        }
        let began = Instant::now();
        drop(throttle.turn(true).await);
        assert_eq!(began.elapsed(), Duration::ZERO);
        drop(throttle.turn(false).await);
        assert!(
            began.elapsed() >= Duration::from_millis(190),
            "the urgent one's interval is paid by the next"
        );
    }
}
