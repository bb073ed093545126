//! Waiting for results: of jobs that are submitted now, and of those that were submitted before.

use std::time::Duration;

use futures_util::{Stream, StreamExt as _};
use schemas::{
    JobId, Mailbox, Micros,
    job::{JobError, read_mailbox},
    reply::{JobResult, LogPlace},
    topology::{delayed_stream, jobs_stream},
};
use tokio::time::timeout;
use transport::{api, denied::Denied};

use crate::{
    JobRequest, Producer, SubmitError, Ticket,
    client::id_of,
    nats::{self, OutputError},
    waiters::{Meant, Unheard, Waiting},
};

/// Why there is no result yet.
#[derive(Debug, thiserror::Error)]
pub enum WaitError {
    /// It was not accepted.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// The job names a mailbox that this producer does not listen to; nothing was sent.
    #[error("the job's replies go to mailbox `{named}`, and this producer listens to `{own}`")]
    OtherMailbox {
        /// Where the replies would go.
        named: Mailbox,
        /// Where this producer listens.
        own: Mailbox,
    },
    /// It was accepted and has not ended; the result will come to the mailbox.
    #[error("job {0} is accepted and has not ended yet; its result will come to the mailbox")]
    Timeout(JobId),
    /// Nothing is known of the job but its id, and no result of it came.
    #[error("no result of job {0} came in time")]
    Silent(JobId),
    /// It succeeded, and its output, which lies in the object store, is not there.
    #[error(transparent)]
    Output(#[from] Box<OutputError>),
    /// The user of this connection may not listen to its mailbox. A job that was submitted is accepted all the same.
    #[error("the result of job {job} cannot be heard: the server does not permit this user to {denied}")]
    NotPermitted {
        /// The job.
        job: JobId,
        /// What is not permitted.
        denied: Denied,
    },
    /// The producer was closed.
    #[error("the producer was closed while job {0} was waited for")]
    Closed(JobId),
}

impl Producer {
    /// Submits a job and waits for its result, which must go to this producer's own mailbox. `timeout` begins when the job is
    /// accepted. A job whose id was accepted before gets the result of then; one whose id was taken by another job ends `failed`, of
    /// class `id_taken`. An output that lies in the object store is fetched.
    ///
    /// Cancel-safe: a dropped call leaves nothing behind, but the job, if it was accepted.
    pub async fn submit_and_wait(
        &self,
        request: &JobRequest,
        timeout: Duration,
    ) -> Result<JobResult, WaitError> {
        self.check_mailbox(request)?;
        let id = id_of(request)?;
        // Before the job is sent: its result may be here before the acknowledgement.
        let mut waiting = self.waiters().wait(id, Meant::Submitted);
        let ticket = self.submit_for(self.tenant(), id, request).await?;
        if ticket.due.is_some() {
            // The server publishes the job itself, and only then gives it its place in the log.
            waiting.settle(Meant::First);
        } else {
            waiting.settle(Meant::At(LogPlace { stream: jobs_stream(&request.region), seq: ticket.seq }));
        }
        if ticket.duplicate {
            self.asked().since(self.accepted_at(request, &ticket).await);
        }
        self.hear(&mut waiting, id, timeout, WaitError::Timeout).await
    }

    /// Submits each job and waits for its result, `outstanding` of them at a time; results come in the order in which jobs end,
    /// with the job's number, from 0. A job that has no result after `timeout` is an error; it still ends in the mailbox.
    pub fn run_all(
        &self,
        jobs: impl Stream<Item = JobRequest>,
        outstanding: usize,
        timeout: Duration,
    ) -> impl Stream<Item = (usize, Result<JobResult, WaitError>)> {
        jobs.enumerate()
            .map(move |(nth, job)| async move { (nth, self.submit_and_wait(&job, timeout).await) })
            .buffer_unordered(outstanding.max(1))
    }

    /// Waits for the result of a job that was submitted before, by whomever, to this mailbox, since `published`; a result that
    /// is stored already comes at once.
    ///
    /// Cancel-safe: a dropped call leaves nothing behind.
    pub async fn wait(
        &self,
        job: JobId,
        published: Micros,
        timeout: Duration,
    ) -> Result<JobResult, WaitError> {
        let mut waiting = self.waiters().wait(job, Meant::First);
        self.asked().since(published);
        self.hear(&mut waiting, job, timeout, WaitError::Silent).await
    }

    /// How many wait for results now.
    pub fn waiting(&self) -> usize {
        self.waiters().len()
    }

    async fn hear(
        &self,
        waiting: &mut Waiting,
        job: JobId,
        span: Duration,
        late: impl FnOnce(JobId) -> WaitError,
    ) -> Result<JobResult, WaitError> {
        match timeout(span, waiting.result()).await {
            Ok(Ok(result)) => Ok(nats::with_output(self.client(), result).await?),
            Ok(Err(Unheard::Closed)) => Err(WaitError::Closed(job)),
            Ok(Err(Unheard::NotPermitted(denied))) => Err(WaitError::NotPermitted { job, denied }),
            Err(_) => Err(late(job)),
        }
    }

    fn check_mailbox(&self, request: &JobRequest) -> Result<(), WaitError> {
        let Some(text) = request.body.mailbox.as_deref() else { return Ok(()) };
        let refuse = |error: JobError| WaitError::Submit(error.into());
        let named = read_mailbox(Some(text), self.tenant()).map_err(refuse)?;
        if named == *self.mailbox() {
            Ok(())
        } else {
            Err(WaitError::OtherMailbox { named, own: self.mailbox().clone() })
        }
    }

    /// When a job that was accepted before was stored; the beginning of time when that cannot be found out.
    async fn accepted_at(&self, request: &JobRequest, ticket: &Ticket) -> Micros {
        let stream = if ticket.due.is_some() { delayed_stream } else { jobs_stream };
        let found = api::at(self.client(), &stream(&request.region), ticket.seq).await;
        found.ok().flatten().and_then(|message| api::stored_at(&message)).unwrap_or_default()
    }
}
