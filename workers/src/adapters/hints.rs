//! Hints that a run has ended. A webhook brings the hint, and the task that follows the run polls at once. Anybody may
//! send a webhook, so the result of a run is always read from the provider itself.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

/// Runs that are being followed in this process, by the provider's id.
#[derive(Debug, Default)]
pub struct Hints(Mutex<HashMap<String, Arc<Notify>>>);

/// Where a provider may send its hints.
#[derive(Clone)]
pub struct Callback {
    /// The URL that the provider calls. May hold a token, so it is never shown.
    pub url: String,
    /// The hints that the receiver passes on.
    pub hints: Arc<Hints>,
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Callback").finish_non_exhaustive()
    }
}

/// One run that is being followed.
#[derive(Debug)]
pub struct Hint<'a> {
    hints: &'a Hints,
    run: String,
    notify: Arc<Notify>,
}

impl Hints {
    /// Begins to listen for a run.
    pub fn listen(&self, run: &str) -> Hint<'_> {
        let notify = Arc::clone(self.runs().entry(run.to_owned()).or_default());
        Hint { hints: self, run: run.to_owned(), notify }
    }

    /// True if a task of this process follows the run.
    pub fn is_followed(&self, run: &str) -> bool {
        self.runs().contains_key(run)
    }

    /// Wakes the task that follows the run; false if there is none.
    pub fn tell(&self, run: &str) -> bool {
        let found = self.runs().get(run).cloned();
        found.inspect(|notify| notify.notify_one()).is_some()
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<String, Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hint<'_> {
    /// Returns when there was a hint since the last time. Cancel-safe.
    pub async fn came(&self) {
        self.notify.notified().await;
    }
}

impl Drop for Hint<'_> {
    fn drop(&mut self) {
        self.hints.runs().remove(&self.run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hint_reaches_the_follower_even_before_it_waits_and_nobody_else() {
        let hints = Hints::default();
        assert!(!hints.tell("a"), "nobody follows it");
        let hint = hints.listen("a");
        assert!(hints.tell("a") && !hints.tell("b"));
        hint.came().await;
        drop(hint);
        assert!(!hints.tell("a"));
    }
}
