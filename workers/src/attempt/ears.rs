//! What an attempt hears while it runs: its dispatcher's orders, and that its acceptance is on its way to it.

use std::sync::{Mutex, PoisonError};

use tokio::sync::{Notify, SetOnce};

use super::course::News;

/// News on its way to an attempt.
#[derive(Debug, Default)]
pub struct Ears {
    heard: Mutex<Vec<News>>,
    bell: Notify,
    announced: SetOnce<bool>,
}

impl Ears {
    /// Tells it.
    pub fn tell(&self, news: News) {
        self.lock().push(news);
        self.bell.notify_one();
    }

    /// All that was told since the last look.
    pub(super) fn take(&self) -> Vec<News> {
        std::mem::take(&mut *self.lock())
    }

    /// Returns when something was told. Cancel-safe: nothing is taken.
    pub(super) async fn told(&self) {
        loop {
            if !self.lock().is_empty() {
                return;
            }
            self.bell.notified().await;
        }
    }

    /// The acceptance has left this process; or it did not in time, or may be lost.
    pub fn announce(&self, written: bool) {
        // It is told once.
        let _ = self.announced.set(written);
    }

    /// What [`Ears::announce`] said, once it did.
    pub(super) async fn announced(&self) -> bool {
        *self.announced.wait().await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<News>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
