//! Inputs and outputs that are too large for a message, in the object store.
//!
//! An input is put there before its job is published, fetched by the worker that runs the job, and removed when the job has
//! ended. An output is put there before the result that refers to it, and read by whoever reads the result. The server removes
//! what is left after a week; results are kept for less.
//!
//! The bucket is a NATS object store like any other, so that producers in other languages use their own client's.

use std::time::Duration;

use async_nats::{
    Client,
    jetstream::{self, object_store::ObjectStore},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE as BASE64};
use schemas::{
    AttemptKey, JobId, Tenant,
    job::{Input, InputRef},
    reply::{Output, OutputRef},
    topology::{PAYLOADS_BUCKET, object_stream},
};
use serde::de::DeserializeOwned;
use tokio::{
    io::AsyncReadExt as _,
    time::{error::Elapsed, timeout},
};
use uuid::Uuid;

use crate::api::{self, ApiError};

/// The largest input: what a worker holds in memory for each slot at worst. Outputs have no limit here, since the adapters limit
/// what they read from a provider.
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
        "`{0}` is not in bucket {PAYLOADS_BUCKET}; an input is removed when its job has ended, everything after a week"
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

/// Stores a job's input; when it returns, the input is stored. Each call stores an object of its own, `<tenant>/<job>/<random>`: neither
/// another tenant's job with this id nor a second submit replaces it.
pub async fn put(
    client: &Client,
    tenant: &Tenant,
    job: JobId,
    input: &Input,
) -> Result<InputRef, PayloadError> {
    let bytes = serde_json::to_vec(input).expect("an input has only string keys and no failing parts");
    let name = format!("{tenant}/{job}/{}", Uuid::now_v7().simple());
    put_bytes(client, &name, &bytes).await
}

/// Stores bytes under a name; when it returns, they are stored.
pub async fn put_bytes(client: &Client, name: &str, bytes: &[u8]) -> Result<InputRef, PayloadError> {
    let size = bytes.len() as u64;
    if size > INPUT_MAX {
        return Err(PayloadError::TooLarge(size));
    }
    write(client, name, bytes).await?;
    Ok(InputRef { object: name.to_owned(), bytes: size })
}

/// Fetches an input.
pub async fn get(client: &Client, stored: &InputRef) -> Result<Input, PayloadError> {
    decode(&get_bytes(client, stored).await?, &stored.object)
}

/// Fetches bytes.
pub async fn get_bytes(client: &Client, stored: &InputRef) -> Result<Vec<u8>, PayloadError> {
    if stored.bytes > INPUT_MAX {
        return Err(PayloadError::TooLarge(stored.bytes));
    }
    read(client, &stored.object, INPUT_MAX).await
}

/// Stores the output of an attempt; when it returns, the output is stored. The name has the attempt's key, so that two attempts
/// of one job do not replace each other's.
pub async fn put_output(
    client: &Client,
    job: JobId,
    attempt: AttemptKey,
    output: &Output,
) -> Result<OutputRef, PayloadError> {
    let bytes = serde_json::to_vec(output).expect("an output has only string keys and no failing parts");
    let name = format!("{job}-{attempt}-output");
    write(client, &name, &bytes).await?;
    Ok(OutputRef { object: name, bytes: bytes.len() as u64 })
}

/// Fetches the output that a result refers to.
pub async fn get_output(client: &Client, stored: &OutputRef) -> Result<Output, PayloadError> {
    decode(&read(client, &stored.object, u64::MAX).await?, &stored.object)
}

/// Removes an output whose result was not the first; one that is gone already is no error.
pub async fn remove_output(client: &Client, stored: &OutputRef) -> Result<(), PayloadError> {
    delete(client, &stored.object).await
}

fn decode<T: DeserializeOwned>(bytes: &[u8], name: &str) -> Result<T, PayloadError> {
    serde_json::from_slice(bytes).map_err(|source| PayloadError::Unreadable(name.to_owned(), source))
}

async fn write(client: &Client, name: &str, bytes: &[u8]) -> Result<(), PayloadError> {
    let writing = async {
        let mut reader = bytes;
        store(client).await?.put(name, &mut reader).await.map_err(store_error)
    };
    timeout(PATIENCE, writing).await??;
    Ok(())
}

async fn read(client: &Client, name: &str, most: u64) -> Result<Vec<u8>, PayloadError> {
    let reading = async {
        let mut object = match store(client).await?.get(name).await {
            Ok(object) => object,
            Err(error) if error.kind() == jetstream::object_store::GetErrorKind::NotFound => {
                return Err(PayloadError::Gone(name.to_owned()));
            }
            Err(error) => return Err(store_error(error)),
        };
        let size = object.info().size as u64;
        if size > most {
            return Err(PayloadError::TooLarge(size));
        }
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await.map_err(store_error)?;
        Ok(bytes)
    };
    timeout(PATIENCE, reading).await?
}

/// Removes an input that nobody needs any more; one that is gone already is no error.
pub async fn remove(client: &Client, stored: &InputRef) -> Result<(), PayloadError> {
    delete(client, &stored.object).await
}

async fn delete(client: &Client, name: &str) -> Result<(), PayloadError> {
    match store(client).await?.delete(name).await {
        Ok(()) => {}
        Err(error) if error.kind() == jetstream::object_store::DeleteErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(store_error(error)),
    }
    // A deleted object leaves a note behind; nobody looks for it.
    let note = format!("$O.{PAYLOADS_BUCKET}.M.{}", BASE64.encode(name));
    api::purge(client, &object_stream(PAYLOADS_BUCKET), &note).await?;
    Ok(())
}
