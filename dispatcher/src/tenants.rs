//! Whose jobs wait in the streams. A consumer gives jobs in the order they were stored, so while one tenant's backlog is being
//! read, this is the only way to see that others wait behind it.

use async_nats::Client;
use schemas::{Region, subjects::JobSubject, topology};
use transport::api::{self, ApiError};

/// The newest job of each subject of a region's stream, with its sequence; nothing where the server has too many to say.
pub async fn newest(client: Client, region: Region) -> Result<Vec<(JobSubject, u64)>, ApiError> {
    let (stream, filter) = (topology::jobs_stream(&region), format!("beacon.jobs.{region}.>"));
    let found = api::newest_of_each(&client, &stream, &filter).await?;
    Ok(found.into_iter().filter_map(|(subject, seq)| Some((subject.parse().ok()?, seq))).collect())
}
