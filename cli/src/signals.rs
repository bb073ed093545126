//! SIGINT and SIGTERM: the first asks for an end in order, the second ends at once.

use std::sync::OnceLock;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::exit::Interrupted;

/// What a signal has asked for so far. Clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signals {
    shutdown: CancellationToken,
    at_once: CancellationToken,
    first: std::sync::Arc<OnceLock<Interrupted>>,
}

impl Signals {
    /// Cancelled by the first signal.
    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.shutdown
    }

    /// The first signal, if one came.
    pub(crate) fn received(&self) -> Option<Interrupted> {
        self.first.get().copied()
    }

    /// How a command ends that did not get to its end.
    pub(crate) fn interrupted(&self) -> anyhow::Error {
        self.received().unwrap_or(Interrupted::Interrupt).into()
    }

    /// How a role ends that was asked to: well after SIGTERM, with 130 after Ctrl-C.
    pub(crate) fn conclude_role(&self) -> anyhow::Result<()> {
        match self.received() {
            Some(Interrupted::Interrupt) => Err(Interrupted::Interrupt.into()),
            Some(Interrupted::Terminate | Interrupted::Pipe) | None => Ok(()),
        }
    }

    /// Runs `work` and listens for signals meanwhile. The second signal drops `work` where it stands, and with it
    /// every child process it holds.
    pub(crate) async fn while_running(
        &self,
        work: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<()> {
        tokio::select! {
            biased;
            () = self.at_once.cancelled() => Err(self.interrupted()),
            outcome = work => outcome,
            error = self.listen() => Err(error.into()),
        }
    }

    /// Never returns unless the signals cannot be had.
    async fn listen(&self) -> std::io::Error {
        let (mut interrupt, mut terminate) =
            match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
                (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
                (Err(error), _) | (_, Err(error)) => return error,
            };
        loop {
            let which = tokio::select! {
                _ = interrupt.recv() => Interrupted::Interrupt,
                _ = terminate.recv() => Interrupted::Terminate,
            };
            if self.first.set(which).is_ok() {
                self.shutdown.cancel();
            } else {
                self.at_once.cancel();
            }
        }
    }
}
