//! Inputs that are too large for a message: put into the object store before their job is published, fetched by the worker
//! that runs it, and removed when it has ended. The server removes what is left after a week.
//!
//! The bucket is a NATS object store like any other, so that producers in other languages use their own client's.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{self, object_store::ObjectStore},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE as BASE64};
use schemas::{
    JobId,
    job::{Input, InputRef},
    topology::{PAYLOADS_BUCKET, object_stream},
};
use tokio::{
    io::AsyncReadExt as _,
    time::{error::Elapsed, timeout},
};

use crate::api::{self, ApiError};

/// The largest input: what a worker holds in memory for each slot at worst.
pub const INPUT_MAX: u64 = 64 * 1024 * 1024;
/// How long one may take on its way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an input was not stored, or not fetched.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is larger than [`INPUT_MAX`].
    #[error("the input has {0} bytes; it must have at most {INPUT_MAX}")]
    TooLarge(u64),
    /// The store does not have it, or not any more.
    #[error(
        "the input `{0}` is not in bucket {PAYLOADS_BUCKET}; it is removed when its job has ended, or after a week"
    )]
    Gone(String),
    /// It is no input.
    #[error("the input `{0}` in bucket {PAYLOADS_BUCKET} does not read")]
    Unreadable(String, #[source] serde_json::Error),
    /// The store did not answer well.
    #[error("bucket {PAYLOADS_BUCKET}")]
    Store(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It took too long.
    #[error("bucket {PAYLOADS_BUCKET} took too long")]
    Slow(#[from] Elapsed),
    /// It could not be removed.
    #[error(transparent)]
    Api(#[from] ApiError),
}

fn store_error(error: impl std::error::Error + Send + Sync + 'static) -> PayloadError {
    PayloadError::Store(Box::new(error))
}

async fn store(client: &Client) -> Result<ObjectStore, PayloadError> {
    jetstream::new(client.clone()).get_object_store(PAYLOADS_BUCKET).await.map_err(store_error)
}

/// Stores a job's input under the job's id; when it returns, the input is stored.
pub async fn put(client: &Client, job: JobId, input: &Input) -> Result<InputRef, PayloadError> {
    let bytes = serde_json::to_vec(input).expect("an input has only string keys and no failing parts");
    put_bytes(client, &job.to_string(), &bytes).await
}

/// Stores bytes under a name; when it returns, they are stored.
pub async fn put_bytes(client: &Client, name: &str, bytes: &[u8]) -> Result<InputRef, PayloadError> {
    let size = bytes.len() as u64;
    if size > INPUT_MAX {
        return Err(PayloadError::TooLarge(size));
    }
    let putting = async {
        let mut reader = bytes;
        store(client).await?.put(name, &mut reader).await.map_err(store_error)
    };
    timeout(PATIENCE, putting).await??;
    Ok(InputRef { object: name.to_owned(), bytes: size })
}

/// Fetches an input.
pub async fn get(client: &Client, stored: &InputRef) -> Result<Input, PayloadError> {
    let bytes = get_bytes(client, stored).await?;
    serde_json::from_slice(&bytes).map_err(|source| PayloadError::Unreadable(stored.object.clone(), source))
}

/// Fetches bytes.
pub async fn get_bytes(client: &Client, stored: &InputRef) -> Result<Vec<u8>, PayloadError> {
    if stored.bytes > INPUT_MAX {
        return Err(PayloadError::TooLarge(stored.bytes));
    }
    let name = stored.object.as_str();
    let getting = async {
        let mut object = match store(client).await?.get(name).await {
            Ok(object) => object,
            Err(error) if error.kind() == jetstream::object_store::GetErrorKind::NotFound => {
                return Err(PayloadError::Gone(name.to_owned()));
            }
            Err(error) => return Err(store_error(error)),
        };
        if object.info().size as u64 > INPUT_MAX {
            return Err(PayloadError::TooLarge(object.info().size as u64));
        }
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await.map_err(store_error)?;
        Ok(bytes)
    };
    timeout(PATIENCE, getting).await?
}

/// Removes an input that nobody needs any more; one that is gone already is no error.
pub async fn remove(client: &Client, stored: &InputRef) -> Result<(), PayloadError> {
    match store(client).await?.delete(&stored.object).await {
        Ok(()) => {}
        Err(error) if error.kind() == jetstream::object_store::DeleteErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(store_error(error)),
    }
    // A deleted object leaves a note behind; nobody looks for it.
    let note = format!("$O.{PAYLOADS_BUCKET}.M.{}", BASE64.encode(&stored.object));
    api::purge(client, &object_stream(PAYLOADS_BUCKET), &note).await?;
    Ok(())
}
