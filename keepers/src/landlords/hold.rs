//! Silence that a provider asked for: calls within it are refused here, so that they do not prolong it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::landlord::CallError;

/// When the next call of one kind may be made.
#[derive(Debug, Default)]
pub struct Hold(Mutex<Option<Instant>>);

impl Hold {
    /// Refuses a call that would come too early. `what` names the limit.
    pub fn check(&self, what: &str) -> Result<(), CallError> {
        let until = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let left = until.map_or(Duration::ZERO, |until| until.saturating_duration_since(Instant::now()));
        if left.is_zero() {
            return Ok(());
        }
        Err(CallError::RateLimited(format!("{what}: the provider asked for silence"), Some(left)))
    }

    /// Begins a silence; a longer one that was asked for earlier stays.
    pub fn ask(&self, wait: Duration) {
        let until = Instant::now() + wait;
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held = Some(held.map_or(until, |earlier| earlier.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn calls_are_refused_until_the_silence_is_over() {
        let hold = Hold::default();
        assert_eq!(hold.check("test"), Ok(()));
        hold.ask(Duration::from_secs(30));
        hold.ask(Duration::from_secs(5));
        let Err(CallError::RateLimited(_, Some(left))) = hold.check("test") else { panic!("not refused") };
        assert_eq!(left, Duration::from_secs(30));
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(hold.check("test"), Ok(()));
    }
}
