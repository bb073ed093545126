//! What travels in the simulated world: messages with a subject and a body that stays a value. The real code's encoding is not
//! under test here, so nothing is encoded; a message carries the size that it would have.

use std::{rc::Rc, time::Duration};

use dispatcher::nats::Parcel;
use schemas::{
    Micros,
    cost::CostEvent,
    dead::Obituary,
    handover::{Acceptances, Handover, Order, Return},
    heartbeat::Heartbeat,
    journal::Journal,
    reply::JobResult,
};

/// The largest message that the simulated server takes, in bytes. Less than the real server's limit, so that a job near the limit
/// costs a test little.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    /// Where it goes.
    pub(crate) subject: Rc<str>,
    /// Where answers go.
    pub(crate) reply: Option<Rc<str>>,
    /// `Nats-Msg-Id`.
    pub(crate) id: Option<Rc<str>>,
    /// `Nats-Expected-Last-Subject-Sequence`.
    pub(crate) expect: Option<u64>,
    /// Headers and body, in bytes.
    pub(crate) bytes: usize,
    /// What it says.
    pub(crate) body: Body,
}

impl Message {
    /// A message of a few bytes that wants no answer.
    pub(crate) fn new(subject: impl Into<Rc<str>>, body: Body) -> Self {
        Self { subject: subject.into(), reply: None, id: None, expect: None, bytes: 256, body }
    }

    /// The same, with an id by which a stream stores it once.
    pub(crate) fn with_id(self, id: impl Into<Rc<str>>) -> Self {
        Self { id: Some(id.into()), ..self }
    }

    /// The same, with a subject for answers.
    pub(crate) fn with_reply(self, reply: impl Into<Rc<str>>) -> Self {
        Self { reply: Some(reply.into()), ..self }
    }
}

/// What a message says.
#[derive(Clone, Debug)]
pub(crate) enum Body {
    /// Something that nobody here looks into.
    Plain,
    /// A job as its producer published it.
    Job(Job),
    /// A job and its lease for a worker; the job stays away where it does not fit.
    Offer(Rc<Handover>, Option<Job>),
    /// What a worker took, refused and ended.
    Answers(Rc<Acceptances>),
    /// A job given back; the job itself stays away where it does not fit.
    Return(Rc<Return>, Option<Job>),
    /// What a worker says of itself.
    Beat(Rc<Heartbeat>),
    /// What a dispatcher asks of a worker.
    Order(Rc<Order>),
    /// How a job ended.
    Result(Rc<JobResult>),
    /// What an attempt cost.
    Cost(Rc<CostEvent>),
    /// A job that will not be tried again.
    Dead(#[expect(dead_code, reason = "stored, and read by nobody here")] Rc<Obituary>),
    /// What earlier attempts left behind.
    Journal(Rc<Journal>),
    /// A word on a lease.
    Ack(Ack),
    /// A request to the server.
    Ask(Ask),
    /// The server's answer.
    Told(Told),
}

/// A job's headers and body, as its producer wrote them.
pub(crate) type Job = Rc<Parcel>;

/// What is said about a lease, on the lease's own subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ack {
    /// The job has ended.
    Done,
    /// Deliver it again, after a pause.
    Nak(Duration),
    /// It is being worked on.
    Progress,
}

/// A request to the server, on [`API`].
#[derive(Clone, Debug)]
pub(crate) enum Ask {
    /// Deliver jobs of a consumer to the reply subject.
    Pull {
        /// The stream.
        stream: Rc<str>,
        /// The consumer.
        consumer: Rc<str>,
        /// At most so many.
        batch: u32,
        /// For so long.
        expires: Duration,
    },
    /// The message at a place in a stream.
    At {
        /// The stream.
        stream: Rc<str>,
        /// Its sequence.
        seq: u64,
    },
    /// The newest message on a subject of a stream.
    Last {
        /// The stream.
        stream: Rc<str>,
        /// The subject.
        subject: Rc<str>,
    },
    /// All messages on a subject, which may hold wildcards, that were stored since a time.
    Since {
        /// The stream.
        stream: Rc<str>,
        /// The subject.
        subject: Rc<str>,
        /// The time.
        since: Micros,
    },
}

/// Where requests to the server go.
pub(crate) const API: &str = "$JS.API";

/// The server's answer to a publish, an ack or a request.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// The message is stored.
    Stored {
        /// Its sequence, or that of the first message with its id.
        seq: u64,
        /// True when a message with its id was stored before.
        duplicate: bool,
    },
    /// The message is not stored.
    Refused(Refusal),
    /// An ack was taken in.
    Heard,
    /// Nobody listens on the subject.
    NoResponders,
    /// A pull has ended.
    PullEnd(PullEnd),
    /// What was asked for, if it is there.
    Got(Option<Box<Stored>>),
    /// All that was asked for.
    Found(Vec<Stored>),
}

/// Why a message is not stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The stream is full (10077).
    Full,
    /// Another version is there than the one expected (10071).
    WrongSequence,
    /// The same id is being stored (10158).
    InProcess,
}

/// Why a pull has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PullEnd {
    /// Its time is over (408).
    Expired,
    /// Too many wait, or the consumer went away (409).
    Refused,
}

/// A stored message.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its place.
    pub(crate) seq: u64,
    /// When it was stored, true time.
    pub(crate) at: Micros,
    /// What was stored.
    pub(crate) message: Message,
}

/// Whether a subject is one of those that `filter` names: `*` stands for one token, `>` for all that follow.
pub(crate) fn matches(filter: &str, subject: &str) -> bool {
    let (mut filters, mut tokens) = (filter.split('.'), subject.split('.'));
    loop {
        match (filters.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some(want), Some(token)) if want == "*" || want == token => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_stand_for_one_token_or_for_all_that_follow() {
        assert!(matches("a.*.c", "a.b.c") && matches("a.>", "a.b.c") && matches("a.b", "a.b"));
        assert!(!matches("a.*", "a.b.c") && !matches("a.>", "a") && !matches("a.b.c", "a.b"));
        assert!(!matches("a.*.c", "a.b.d"));
    }
}
