//! Passes a prediction's output on while it is being written, for jobs that are watched live. Best effort: the result holds
//! the whole output.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::future::BoxFuture;
use reqwest::{Url, header::ACCEPT};
use schemas::failure::Failure;
use tokio::sync::Notify;
use tracing::debug;

use super::Replicate;
use crate::{
    adapters::{
        chat::OUTPUT_MAX,
        runs::Runs,
        sse::{Event, Reader},
    },
    provider::{Call, Ended, Progress},
};

/// Passes each piece of output on once: pieces of the stream first, and the rest with the result.
struct Tee<'a> {
    inner: &'a dyn Progress,
    run: Mutex<Option<String>>,
    known: Notify,
    /// Bytes that were passed on.
    told: AtomicUsize,
}

impl Tee<'_> {
    fn piece(&self, text: &str) {
        self.told.fetch_add(text.len(), Ordering::Relaxed);
        self.inner.token(text);
    }
}

impl Progress for Tee<'_> {
    fn submitting(&self) -> BoxFuture<'_, ()> {
        self.inner.submitting()
    }

    fn started<'a>(&'a self, run: &'a str) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            self.inner.started(run).await;
            *self.run.lock().unwrap_or_else(PoisonError::into_inner) = Some(run.to_owned());
            self.known.notify_one();
        })
    }

    fn taken_back(&self) -> BoxFuture<'_, Failure> {
        self.inner.taken_back()
    }

    /// The whole output, at the end.
    fn token(&self, text: &str) {
        if let Some(rest) = text.get(self.told.load(Ordering::Relaxed)..).filter(|rest| !rest.is_empty()) {
            self.piece(rest);
        }
    }
}

impl Replicate {
    /// Runs a call and tells its output as it comes.
    pub(super) async fn run_live(&self, call: &Call, progress: &dyn Progress) -> Ended {
        let tee =
            Tee { inner: progress, run: Mutex::default(), known: Notify::new(), told: AtomicUsize::new(0) };
        tokio::select! {
            biased;
            ended = Runs::new(self, call, &tee).run() => ended,
            () = self.watch(&tee) => unreachable!("watching never ends by itself"),
        }
    }

    async fn watch(&self, tee: &Tee<'_>) {
        tee.known.notified().await;
        let run = tee.run.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
        let url = self.streams.take(&run).and_then(|url| self.stream_url(&url));
        if let Some(url) = url
            && let Err(error) = self.read_stream(url, tee).await
        {
            debug!(run, error = %error.without_url(), "live output broke off; the rest comes with the result");
        }
        // Polls at once: the run is over, or its stream is.
        self.hints.tell(&run);
        std::future::pending::<()>().await;
    }

    async fn read_stream(&self, url: Url, tee: &Tee<'_>) -> Result<(), reqwest::Error> {
        let request = self.client.get(url).headers(self.headers.clone()).header(ACCEPT, "text/event-stream");
        let mut response = request.send().await?.error_for_status()?;
        let (mut reader, mut events) = (Reader::of_named_events(OUTPUT_MAX), Vec::new());
        while let Some(bytes) = response.chunk().await? {
            let sound = reader.push(&bytes, &mut events).is_ok();
            for event in events.drain(..) {
                match event {
                    Event::Data(text) => tee.piece(&text),
                    Event::Named(kind) if kind == "done" => return Ok(()),
                    Event::Named(_) | Event::Comment(_) => {}
                    Event::Error(_) => return Ok(()),
                }
            }
            if !sound {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The stream's address, if our key may go there: to the same place, or to another host of the same domain over TLS.
    pub(super) fn stream_url(&self, text: &str) -> Option<Url> {
        if let Some(url) = self.base.resolve_url(text) {
            return Some(url);
        }
        let url = Url::parse(text).ok().filter(|url| url.scheme() == "https" && url.port().is_none())?;
        let base = self.base.join("/");
        let domain = base.host_str()?.split_once('.')?.1;
        let ours = domain.contains('.') && url.host_str()?.ends_with(&format!(".{domain}"));
        ours.then_some(url)
    }
}
