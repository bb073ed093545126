//! Inputs that were moved out of their message before it was published: whether they stay is known when the server has answered.

use async_nats::{Client, HeaderValue};
use schemas::{
    Codec, headers,
    job::{InputRef, JobBody},
};
use tracing::warn;
use transport::{PublishError, payloads, publisher::Stored, stored};

/// Removes an input that no stored job refers to, once its job was published to `stream`. What is not sure stays; the server removes it
/// after a week.
pub(crate) async fn settle(
    client: &Client,
    stream: &str,
    input: &InputRef,
    published: &Result<Stored, PublishError>,
) {
    let needless = match published {
        Ok(Stored { duplicate: false, .. }) => false,
        // Perhaps an earlier submit was first, perhaps this one, whose first acknowledgement was lost.
        Ok(Stored { duplicate: true, seq }) => is_of_another(client, stream, *seq, input).await,
        Err(error) => !may_be_stored(error),
    };
    if needless && let Err(error) = payloads::remove(client, input).await {
        warn!(%error, "a stored input that no job needs is left to the server, which removes it in time");
    }
}

/// Whether a job is stored there that does not refer to this input.
async fn is_of_another(client: &Client, stream: &str, seq: u64, input: &InputRef) -> bool {
    // A job that is gone may have been this one: it has ended, or its time has come.
    let Ok(Some((map, body))) = stored::job_at(client, stream, seq).await else { return false };
    let Ok(codec) = Codec::from_content_type(map.get(headers::CONTENT_TYPE).map(HeaderValue::as_str)) else {
        return false;
    };
    codec.decode::<JobBody>(&body).is_ok_and(|job| job.input_ref.as_ref() != Some(input))
}

/// Whether a message may be stored although its publisher heard this.
const fn may_be_stored(error: &PublishError) -> bool {
    match error {
        PublishError::Unknown(_) | PublishError::NotPermitted(_) | PublishError::Client { .. } => true,
        PublishError::NoStream(_)
        | PublishError::Full { .. }
        | PublishError::Refused { .. }
        | PublishError::TooLarge { .. } => false,
    }
}
