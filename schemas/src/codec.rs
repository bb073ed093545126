//! JSON or MessagePack, by the `Content-Type` header. Replies use the job's codec.

use serde::{Serialize, de::DeserializeOwned};

/// How a body is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Codec {
    /// `application/json`; also when no header says.
    #[default]
    Json,
    /// `application/msgpack`: maps with named fields.
    MsgPack,
}

/// Why a body could not be read or written. The text names the field where the decoder knows it.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// The header names a format we do not speak.
    #[error("content type `{0}` must be application/json or application/msgpack")]
    ContentType(String),
    /// The body does not fit.
    #[error("field `{field}`: {message}")]
    Decode {
        /// Where in the body, dotted; `.` for the body as a whole.
        field: String,
        /// The decoder's own words.
        message: String,
    },
    /// A value of ours could not be written; a bug.
    #[error("cannot encode: {0}")]
    Encode(String),
}

impl Codec {
    /// Reads the header's value; parameters after `;` are ignored.
    pub fn from_content_type(header: Option<&str>) -> Result<Self, CodecError> {
        let Some(text) = header else { return Ok(Self::Json) };
        match text.split(';').next().unwrap_or("").trim().to_ascii_lowercase().as_str() {
            "application/json" | "" => Ok(Self::Json),
            "application/msgpack" | "application/x-msgpack" | "application/vnd.msgpack" => Ok(Self::MsgPack),
            _ => Err(CodecError::ContentType(text.chars().take(80).collect())),
        }
    }

    /// The header's value.
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::MsgPack => "application/msgpack",
        }
    }

    /// Writes `value`.
    pub fn encode<T: Serialize>(self, value: &T) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Json => serde_json::to_vec(value).map_err(|e| CodecError::Encode(e.to_string())),
            Self::MsgPack => rmp_serde::to_vec_named(value).map_err(|e| CodecError::Encode(e.to_string())),
        }
    }

    /// Whether a body that reads is a map. A list is none, though it may read as one with its fields in order.
    pub fn is_map(self, body: &[u8]) -> bool {
        match self {
            Self::Json => body.trim_ascii_start().first() == Some(&b'{'),
            Self::MsgPack => matches!(body.first(), Some(0x80..=0x8f | 0xde | 0xdf)),
        }
    }

    /// Reads a value. A refusal costs a second pass that finds out which field was wrong.
    pub fn decode<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, CodecError> {
        match self {
            Self::Json => serde_json::from_slice(body).map_err(|_| explain_json::<T>(body)),
            Self::MsgPack => rmp_serde::from_slice(body).map_err(|_| explain_msgpack::<T>(body)),
        }
    }
}

fn explain_json<T: DeserializeOwned>(body: &[u8]) -> CodecError {
    let mut reader = serde_json::Deserializer::from_slice(body);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(e) => CodecError::Decode { field: e.path().to_string(), message: e.inner().to_string() },
        // The value was fine, so what follows it was not.
        Ok(_) => {
            CodecError::Decode { field: ".".into(), message: "text after the end of the JSON value".into() }
        }
    }
}

fn explain_msgpack<T: DeserializeOwned>(body: &[u8]) -> CodecError {
    let mut reader = rmp_serde::Deserializer::from_read_ref(body);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(e) => CodecError::Decode { field: e.path().to_string(), message: e.inner().to_string() },
        Ok(_) => CodecError::Decode {
            field: ".".into(),
            message: "bytes after the end of the MessagePack value".into(),
        },
    }
}
