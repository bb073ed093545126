//! What can still be read of a message that is no job, so that its sender hears of it.

use super::{JobHeaders, read_mailbox};
use crate::{Codec, JobId, Mailbox, subjects::JobSubject};

/// What can still be read of a message that is not a job: enough to tell its sender.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Salvage {
    /// The id, from the header or the body.
    pub id: Option<JobId>,
    /// The mailbox, when the body names one in its own tenant, or names none but could be read.
    pub mailbox: Option<Mailbox>,
    /// The codec for the reply.
    pub codec: Codec,
}

/// Reads id and mailbox out of a broken job, tolerating everything else.
pub fn salvage(subject: Option<&JobSubject>, headers: JobHeaders<'_>, body: &[u8]) -> Salvage {
    let codec = Codec::from_content_type(headers.content_type).unwrap_or_default();
    let fields: Option<serde_json::Value> = codec.decode(body).ok().filter(serde_json::Value::is_object);
    let text = |key: &str| fields.as_ref().and_then(|f| f.get(key)).and_then(serde_json::Value::as_str);
    let header = headers.message_id.and_then(|text| text.split(':').next());
    let id = header.or_else(|| text("id")).and_then(|t| t.parse().ok());
    let mailbox = match (&fields, subject) {
        (Some(f), Some(s)) if f.get("mailbox").is_none_or(serde_json::Value::is_string) => {
            read_mailbox(text("mailbox"), &s.tenant).ok()
        }
        _ => None,
    };
    Salvage { id, mailbox, codec }
}
