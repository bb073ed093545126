//! What debit notes and invoices have in common: they are read by their ids, and a call about one may have to be repeated.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{StreamExt as _, stream};
use serde::de::DeserializeOwned;
use tracing::warn;

use super::{site::Site, yagna::escaped};

/// Where the payment API lives.
pub(super) const BASE: &str = "/payment-api/v1";
/// Lines of one page, the most that yagna gives.
pub(super) const PAGE: usize = 100;
/// Calls at a time. One provider that does not answer must not hold up the others' notes.
pub(super) const AT_ONCE: usize = 16;
/// How long yagna waits for a provider to take notice of an acceptance. Two of them fit into a minute.
pub(super) const ACKNOWLEDGE: Duration = Duration::from_secs(10);

/// What became of a debit note or an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handled {
    Settled,
    /// To be tried again.
    Open,
}

/// Reads documents, in the order of their ids; those that could not be read are open.
pub(super) async fn read<T: DeserializeOwned>(
    site: &Site,
    kind: &str,
    ids: &[&str],
    open: &mut BTreeSet<String>,
) -> Vec<T> {
    let one = |id: &str| {
        let (id, path) = (id.to_owned(), format!("{BASE}/{kind}/{}", escaped(id)));
        async move { (id, site.yagna.read::<T>(&path).await) }
    };
    // Made before they are streamed: a closure over borrowed ids is not general enough for a task.
    let calls: Vec<_> = ids.iter().map(|id| one(id)).collect();
    let mut answers = stream::iter(calls).buffered(AT_ONCE);
    let mut read = Vec::with_capacity(ids.len());
    while let Some((id, answer)) = answers.next().await {
        match answer {
            Ok(document) => read.push(document),
            Err(error) => {
                warn!(id, %error, "a note cannot be read; it is read again");
                open.insert(id);
            }
        }
    }
    read
}
