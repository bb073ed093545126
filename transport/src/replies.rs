//! Results and cost events as they are published, by workers and by dispatchers alike: the message id makes each stored once.

use bytes::Bytes;
use schemas::{Codec, Mailbox, Tenant, cost::CostEvent, headers, job::Head, reply::JobResult, subjects};

use crate::publisher::Headers;

/// A message to be stored: subject, headers, body.
pub type Outgoing = (String, Headers, Bytes);

/// Where a job's replies go, and how they are written.
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    /// Whose mailbox.
    pub tenant: &'a Tenant,
    /// Which.
    pub mailbox: &'a Mailbox,
    /// As the job was written.
    pub codec: Codec,
    /// W3C trace context, repeated.
    pub traceparent: Option<&'a str>,
}

impl<'a> Address<'a> {
    /// What a job says.
    pub fn of(job: &'a Head) -> Self {
        Self {
            tenant: &job.subject.tenant,
            mailbox: &job.mailbox,
            codec: job.codec,
            traceparent: job.traceparent.as_deref(),
        }
    }

    fn headers(&self, id: String, schema: &'static str) -> Headers {
        Headers::new()
            .with(headers::MESSAGE_ID, id)
            .with(headers::CONTENT_TYPE, self.codec.content_type())
            .with(headers::SCHEMA, schema)
            .with_some(headers::TRACEPARENT, self.traceparent)
    }

    /// A terminal result.
    pub fn result(&self, result: &JobResult) -> Outgoing {
        self.named(result, result.job.result_message(self.tenant))
    }

    /// The result that tells a second job with an id, stored at `seq` of its stream, that the id was taken.
    pub fn id_taken(&self, result: &JobResult, seq: u64) -> Outgoing {
        self.named(result, result.job.taken_message(self.tenant, seq))
    }

    fn named(&self, result: &JobResult, id: String) -> Outgoing {
        let body = self.codec.encode(result).expect("a result has only string keys and no failing parts");
        let headers = self.headers(id, headers::RESULT_V1);
        (subjects::result(self.tenant, self.mailbox), headers, body.into())
    }

    /// A cost event; `id` names what it is the cost of.
    pub fn cost(&self, event: &CostEvent, id: String) -> Outgoing {
        let body = self.codec.encode(event).expect("a cost event has only string keys and no failing parts");
        (subjects::cost(self.tenant, self.mailbox), self.headers(id, headers::COST_V1), body.into())
    }
}

/// Where standing cost goes: the mailbox `standing` of the default tenant.
pub fn standing_mailbox() -> (Tenant, Mailbox) {
    (Tenant::default(), Mailbox::try_from("standing").expect("a literal that is a token"))
}

/// A cost event of capacity that no job used; `id` names what it is the cost of.
pub fn standing(event: &CostEvent, id: String) -> Outgoing {
    let (tenant, mailbox) = standing_mailbox();
    Address { tenant: &tenant, mailbox: &mailbox, codec: Codec::Json, traceparent: None }.cost(event, id)
}
