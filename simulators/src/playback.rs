//! Plays a script as a response body. A lost connection drops the body, which aborts the run.

use std::{collections::VecDeque, future, io};

use bytes::Bytes;
use futures_util::{Stream, stream};
use tokio::{task, time::Instant};

use crate::{
    clock::sleep_until,
    connection::Connection,
    frames,
    model::{Billing, Run},
    script::{Act, Cue},
};

/// A run that has been admitted, and the rest of its script.
#[derive(Debug)]
pub(crate) struct Playback {
    cues: VecDeque<Cue>,
    began: Instant,
    /// `None` once the run has ended.
    run: Option<Run>,
    billing: Option<Billing>,
    tokens: u32,
    connection: Connection,
}

impl Playback {
    /// Times count from now.
    pub(crate) fn new(cues: Vec<Cue>, run: Run, tokens: u32, connection: Connection) -> Self {
        let (cues, began) = (cues.into(), Instant::now());
        Self { cues, began, run: Some(run), billing: None, tokens, connection }
    }

    /// The body of the answer. It never fails by itself: a cut goes through the connection.
    pub(crate) fn into_stream(self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send {
        stream::unfold(self, Self::next)
    }

    async fn next(mut self) -> Option<(Result<Bytes, io::Error>, Self)> {
        while let Some(cue) = self.cues.pop_front() {
            sleep_until(self.began + cue.at).await;
            match cue.act {
                Act::Send(bytes) => return Some((Ok(bytes), self)),
                Act::Finish => self.billing = self.run.take().and_then(|run| run.finish(self.tokens)),
                Act::Abort => self.billing = self.run.take().and_then(Run::abort),
                Act::TellBilling => {
                    if let Some(billing) = &self.billing {
                        let comment = [b": beacon-billing ", &frames::json(billing)[..], b"\n\n"].concat();
                        return Some((Ok(Bytes::from(comment)), self));
                    }
                }
                Act::Cut => {
                    // The server writes out what it has when the body has nothing more to give.
                    task::yield_now().await;
                    self.connection.cut();
                    future::pending::<()>().await;
                }
                Act::Stall => future::pending::<()>().await,
            }
        }
        None
    }
}
