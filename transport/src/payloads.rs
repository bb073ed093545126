//! Inputs and outputs that are too large for a message. An input is put into the object store before its job is published, fetched by
//! the worker that runs it, and removed when it has ended. An output is fetched by whoever reads the result. The server removes
//! what is left after a week.
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
    reply::{Output, OutputRef},
    topology::{PAYLOADS_BUCKET, object_stream},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::AsyncReadExt as _,
    time::{error::Elapsed, timeout},
};

use crate::api::{self, ApiError};

/// The largest input: what a worker holds in memory for each slot at worst.
pub const INPUT_MAX: u64 = 64 * 1024 * 1024;
/// How long one may take on its way.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why an input or output was not stored, or not fetched.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    /// It is larger than [`INPUT_MAX`].
    #[error("the payload has {0} bytes; it must have at most {INPUT_MAX}")]
    TooLarge(u64),
    /// The store does not have it, or not any more.
    #[error(
        "`{0}` is not in bucket {PAYLOADS_BUCKET}; an input is removed when its job has ended, an output after a week"
    )]
    Gone(String),
    /// It is not what it should be.
    #[error("`{0}` in bucket {PAYLOADS_BUCKET} does not read")]
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
    let size = bytes.len() as u64;
    if size > INPUT_MAX {
        return Err(PayloadError::TooLarge(size));
    }
    let name = job.to_string();
    let putting = async {
        let mut reader = bytes.as_slice();
        store(client).await?.put(name.as_str(), &mut reader).await.map_err(store_error)
    };
    timeout(PATIENCE, putting).await??;
    Ok(InputRef { object: name, bytes: size })
}

/// Fetches an input.
pub async fn get(client: &Client, stored: &InputRef) -> Result<Input, PayloadError> {
    fetch(client, &stored.object, stored.bytes).await
}

/// Fetches an output.
pub async fn get_output(client: &Client, stored: &OutputRef) -> Result<Output, PayloadError> {
    fetch(client, &stored.object, stored.bytes).await
}

async fn fetch<T: DeserializeOwned>(client: &Client, name: &str, size: u64) -> Result<T, PayloadError> {
    if size > INPUT_MAX {
        return Err(PayloadError::TooLarge(size));
    }
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
    let bytes = timeout(PATIENCE, getting).await??;
    serde_json::from_slice(&bytes).map_err(|source| PayloadError::Unreadable(name.to_owned(), source))
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
