//! A connection that stores: what a keeper and an operator's command both stand on.

use std::time::Duration;

use tokio::{task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use transport::{
    Link, LinkConfig, LinkError, PublishError, Publisher,
    publisher::{Patience, publisher},
};

use crate::store::Store;

/// How long the publisher may take to end.
const CLOSE_WITHIN: Duration = Duration::from_secs(3);

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// No link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The publisher did not start.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

/// A link, its publisher, and the bucket of machines. One that is dropped without [`Connection::close`] aborts its task.
pub(crate) struct Connection {
    pub(crate) link: Link,
    pub(crate) publisher: Publisher,
    pub(crate) store: Store,
    publishing: JoinSet<()>,
    stop: CancellationToken,
}

impl Connection {
    /// Opens it under a name that the server shows.
    pub(crate) async fn open(config: &LinkConfig, name: &str) -> Result<Self, ConnectionError> {
        let link = Link::connect(config, name).await?;
        let (publisher, task) = publisher(&link, Patience::FOREVER).await?;
        let (mut publishing, stop) = (JoinSet::new(), CancellationToken::new());
        publishing.spawn(task.run(stop.clone()));
        let store = Store::new(link.client.clone(), publisher.clone());
        Ok(Self { link, publisher, store, publishing, stop })
    }

    /// Ends the publisher and flushes the link.
    pub(crate) async fn close(mut self) {
        self.stop.cancel();
        let ending = async { while self.publishing.join_next().await.is_some() {} };
        if timeout(CLOSE_WITHIN, ending).await.is_err() {
            warn!("the publisher did not end in time");
        }
        if let Err(error) = self.link.client.flush().await {
            warn!(%error, "connection not flushed");
        }
    }
}
