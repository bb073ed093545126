//! What a keeper hears beside lists: an operator's wish.

use schemas::topology::MACHINES_BUCKET;
use tokio::{sync::watch, task::JoinSet};
use tracing::warn;
use transport::follow::{Change, Follower, News};

use super::desk::Desk;
use crate::wish::Wish;

/// What is heard. Dropping it ends its tasks.
pub(super) struct Ears {
    wish: watch::Receiver<Wish>,
    /// Ends with the ears.
    _tasks: JoinSet<()>,
}

impl Ears {
    /// Begins to listen.
    pub(super) fn open(desk: &Desk, wish: Wish) -> Self {
        let (tell, wish) = watch::channel(wish);
        let mut tasks = JoinSet::new();
        tasks.spawn(follow_wish(desk.clone(), tell));
        Self { wish, _tasks: tasks }
    }

    /// Returns when something was heard. Cancel-safe.
    pub(super) async fn heard(&mut self) {
        if self.wish.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// What the operator asks now.
    pub(super) fn wish(&self) -> Wish {
        self.wish.borrow().clone()
    }
}

async fn follow_wish(desk: Desk, tell: watch::Sender<Wish>) {
    let key = Wish::key(&desk.settings.pool);
    let prefix = format!("wish.{}", desk.settings.pool.region);
    let follower = Follower::below(desk.client.clone(), MACHINES_BUCKET, &prefix);
    follower
        .run(|news| match news {
            News::Change(Change { key: changed, value, .. }) if changed == key => {
                let wish = value.as_deref().map(serde_json::from_slice::<Wish>).transpose();
                match wish {
                    Ok(wish) => {
                        let wish = wish.unwrap_or_default();
                        tell.send_if_modified(|held| {
                            let new = *held != wish;
                            *held = wish;
                            new
                        });
                    }
                    Err(error) => {
                        warn!(key, %error, "an operator's wish does not read; the one before holds")
                    }
                }
            }
            News::Begins | News::Change(_) | News::Whole => {}
        })
        .await;
}
