//! Names of NATS headers, and the schema versions they carry.

use std::fmt::Write as _;

/// The codec of the body.
pub const CONTENT_TYPE: &str = "Content-Type";
/// The server's dedupe id; for a job, `<job>:<tenant>`. The job's id alone is read too; it then shares the server's memory of ids
/// with other tenants' jobs.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";
/// Schema and major version of the body, for instance `job.v1`.
pub const SCHEMA: &str = "Beacon-Schema";
/// W3C trace context, carried through to results and provider calls; see [`trace_context`].
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

/// Where a job waited for its time; the server adds it when it publishes the job.
pub const SCHEDULER: &str = "Nats-Scheduler";

/// Schema of a job.
pub const JOB_V1: &str = "job.v1";
/// Schema of a result.
pub const RESULT_V1: &str = "result.v1";
/// Schema of a cost event.
pub const COST_V1: &str = "cost.v1";
/// A piece of live output.
pub const LIVE_V1: &str = "live.v1";

/// The longest trace context that is carried through. Version 0 has 55 characters; later ones may add to that.
const TRACEPARENT_MAX: usize = 128;

/// A trace context, if it is one by its shape (W3C: `<version>-<trace>-<parent>-<flags>`, in lower-case hexadecimal digits). Anything
/// else is left out: it would be repeated in every reply, and may be too long for any.
pub fn trace_context(text: &str) -> Option<&str> {
    let hex = |part: &str, digits| {
        part.len() == digits && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let mut parts = text.splitn(5, '-');
    let shape = [2, 32, 16, 2].into_iter().all(|digits| parts.next().is_some_and(|part| hex(part, digits)));
    let more = parts.next();
    let known = match text.get(..2) {
        Some("00") => more.is_none(),
        Some("ff") | None => false,
        Some(_) => more.is_none_or(|more| more.bytes().all(|b| b.is_ascii_graphic())),
    };
    (shape && known && text.len() <= TRACEPARENT_MAX).then_some(text)
}

/// A value of ours as JSON for a header: ASCII only. Some clients drop all headers of a message that has other characters in
/// one of them, so those are written as `\\u` escapes, which every JSON reader understands.
pub fn json(value: &impl serde::Serialize) -> String {
    let text = serde_json::to_string(value).expect("what we put into headers has only string keys");
    if text.is_ascii() {
        return text;
    }
    let mut ascii = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        if c.is_ascii() {
            ascii.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                write!(ascii, "\\u{unit:04x}").expect("writing to a string cannot fail");
            }
        }
    }
    ascii
}

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
    fn a_header_is_ascii_and_says_the_same() {
        let value = "f\u{fc}r \u{1f600} \"x\"";
        let text = json(&value);
        assert!(text.is_ascii(), "{text}");
        assert_eq!(serde_json::from_str::<String>(&text).unwrap(), value);
    }

    #[test]
    fn only_what_has_the_shape_of_a_trace_context_is_carried_through() {
        let context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let later = context.replacen("00", "01", 1) + "-more";
        for (text, carried) in [
            (context, true),
            (&*later, true),
            (&format!("{later}{}", "x".repeat(TRACEPARENT_MAX)), false),
            (&format!("{context}-more"), false),
            (&context.replacen("00", "ff", 1), false),
            (&context.to_uppercase(), false),
            (&context[1..], false),
            (&"x".repeat(65_450), false),
            ("", false),
        ] {
            assert_eq!(trace_context(text).is_some(), carried, "{}", text.len());
        }
    }

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
