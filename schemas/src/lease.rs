//! The lease: the right to finish a job. It *is* the JetStream ack subject of the job's delivery.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::Micros;

/// An ack subject, taken apart.
///
/// `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<nanoseconds>.<pending>`; a newer form
/// has `<domain>.<account hash>` after `ACK` and may have a random token at the end. Both are read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lease {
    subject: String,
    stream: (usize, usize),
    consumer: (usize, usize),
    /// How often this message was delivered, from 1. One server may forget and say 1 again (see `nats` notes).
    pub delivered: u64,
    /// The job's place in its stream; names the job.
    pub stream_seq: u64,
    /// Grows with every delivery of the consumer.
    pub consumer_seq: u64,
    /// When the job was stored.
    pub stored_at: Micros,
    /// How many more waited behind it.
    pub pending: u64,
}

/// Why a text is not an ack subject.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a JetStream ack subject")]
pub struct LeaseError(String);

impl Lease {
    /// The subject to acknowledge on.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The stream's name.
    pub fn stream(&self) -> &str {
        &self.subject[self.stream.0..self.stream.1]
    }

    /// The consumer's name.
    pub fn consumer(&self) -> &str {
        &self.subject[self.consumer.0..self.consumer.1]
    }
}

/// How long before `ack_wait` the holder of a lease counts it as lost.
///
/// After `ack_wait` the server delivers the job again, and it does not fence: an ack, a nak or an extension by the earlier
/// holder then acts on the new holder's delivery. So a holder stops early enough for what it has sent to arrive, and for
/// two hosts whose clocks differ to agree. A sixth of `ack_wait` is 10 s at the default of 60 s, so an extension at a
/// third leaves half of the time for requests that are lost. The floor of 200 ms is for the short leases of tests, where
/// a sixth would be less than a request may take.
pub fn margin(ack_wait: Duration) -> Duration {
    (ack_wait / 6).max(Duration::from_millis(200))
}

impl TryFrom<String> for Lease {
    type Error = LeaseError;

    fn try_from(subject: String) -> Result<Self, LeaseError> {
        let refuse = || LeaseError(subject.chars().take(160).collect());
        let rest = subject.strip_prefix("$JS.ACK.").ok_or_else(refuse)?;
        // At most twelve tokens; more is no ack subject of any form we know.
        let (mut spans, mut count) = ([(0, 0); 12], 0);
        let mut start = subject.len() - rest.len();
        for part in rest.split('.') {
            *spans.get_mut(count).ok_or_else(refuse)? = (start, start + part.len());
            count += 1;
            start += part.len() + 1;
        }
        let first = match count {
            7 => 0,
            9.. => 2,
            _ => return Err(refuse()),
        };
        let number =
            |i: usize| -> Option<u64> { spans.get(first + i).and_then(|&(a, b)| subject[a..b].parse().ok()) };
        let (Some(delivered), Some(stream_seq), Some(consumer_seq), Some(nanos), Some(pending)) =
            (number(2), number(3), number(4), number(5), number(6))
        else {
            return Err(refuse());
        };
        let (stream, consumer) = (spans[first], spans[first + 1]);
        Ok(Self {
            stream,
            consumer,
            delivered,
            stream_seq,
            consumer_seq,
            stored_at: Micros::from_nanos(nanos),
            pending,
            subject,
        })
    }
}

impl FromStr for Lease {
    type Err = LeaseError;
    fn from_str(text: &str) -> Result<Self, LeaseError> {
        Self::try_from(text.to_owned())
    }
}

impl From<Lease> for String {
    fn from(lease: Lease) -> String {
        lease.subject
    }
}

impl fmt::Display for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.subject)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) {
        let lease: Lease = text.parse().unwrap();
        assert_eq!((lease.stream(), lease.consumer()), ("JOBS_us-east", "d-m-high"));
        assert_eq!((lease.delivered, lease.stream_seq, lease.consumer_seq, lease.pending), (2, 17, 40, 3));
        assert_eq!(lease.stored_at, Micros::new(1_795_000_000_000_001));
        assert_eq!(lease.subject(), text);
    }

    #[test]
    fn both_forms_of_the_ack_subject_are_read() {
        check("$JS.ACK.JOBS_us-east.d-m-high.2.17.40.1795000000000001999.3");
        check("$JS.ACK._.Ab12cd.JOBS_us-east.d-m-high.2.17.40.1795000000000001999.3");
        check("$JS.ACK.hub.Ab12cd.JOBS_us-east.d-m-high.2.17.40.1795000000000001999.3.rAnD");
    }

    #[test]
    fn a_lease_counts_as_lost_a_sixth_before_its_end_and_never_less_than_a_request_takes() {
        let (secs, millis) = (Duration::from_secs, Duration::from_millis);
        for (ack_wait, expected) in
            [(secs(60), secs(10)), (secs(3), millis(500)), (secs(1), millis(200)), (secs(0), millis(200))]
        {
            assert_eq!(margin(ack_wait), expected, "{ack_wait:?}");
        }
    }

    #[test]
    fn other_subjects_are_refused() {
        for bad in ["", "$JS.ACK", "$JS.ACK.a.b.1.2", "beacon.jobs.a.b.c.d", "$JS.ACK.s.c.x.1.1.1.0"] {
            assert!(bad.parse::<Lease>().is_err(), "{bad}");
        }
    }
}
