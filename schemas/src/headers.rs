//! Names of NATS headers, and the schema versions they carry.

/// The codec of the body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The server's dedupe id; for a job, the job id.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Schema and major version of the body, for instance `job.v1`.
pub const SCHEMA: &str = "Beacon-Schema";
/// W3C trace context, carried through to results and provider calls.
pub const TRACEPARENT: &str = "traceparent";
/// A [`crate::handover::Handover`] as JSON, beside the untouched job body.
pub const HANDOVER: &str = "Beacon-Handover";
/// A [`crate::handover::Return`] as JSON, beside the untouched job body.
pub const RETURN: &str = "Beacon-Return";
/// A dead letter's [`crate::dead::Obituary`] as JSON, beside the job's own bytes. The other headers are the job's.
pub const OBITUARY: &str = "Beacon-Obituary";

/// When the server publishes a stored message: `@at <RFC 3339>`.
pub const SCHEDULE: &str = "Nats-Schedule";
/// On which subject of the same stream it does so.
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

/// Schema of a job.
pub const JOB_V1: &str = "job.v1";
/// Schema of a result.
pub const RESULT_V1: &str = "result.v1";
/// Schema of a cost event.
pub const COST_V1: &str = "cost.v1";
/// A piece of live output.
pub const LIVE_V1: &str = "live.v1";

/// Whether a body that says `found` can be read by code that knows `expected`; no header means version 1.
///
/// The minor version behind a second dot is ignored: fields may be added, never given a new meaning.
pub fn schema_is(found: Option<&str>, expected: &str) -> bool {
    found.is_none_or(|text| {
        text == expected || text.strip_prefix(expected).is_some_and(|rest| rest.starts_with('.'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_minor_is_read_and_a_newer_major_is_not() {
        assert!(schema_is(None, JOB_V1));
        assert!(schema_is(Some("job.v1"), JOB_V1));
        assert!(schema_is(Some("job.v1.4"), JOB_V1));
        assert!(!schema_is(Some("job.v2"), JOB_V1));
        assert!(!schema_is(Some("job.v10"), JOB_V1));
        assert!(!schema_is(Some("result.v1"), JOB_V1));
    }
}
