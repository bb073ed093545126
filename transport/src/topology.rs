//! Makes the server agree with the map in `schemas::topology`: creates what is missing, updates what may be
//! updated, and stops with the field's name where it may not.
//!
//! Any role runs it at start, and many may run it at once: every step is idempotent. The one delicate case is a
//! consumer that is gone while its stream holds jobs: made anew from the beginning, it would run the whole log
//! again. So each consumer has a *floor* in `beacon-floors`, written before its stream exists and moved on by the
//! trimmer. A missing consumer starts after its floor and carries, in its metadata, the sequence up to which its
//! deliveries must first be looked up among the stored results. Without a floor we stop and ask.

use std::collections::BTreeMap;

use async_nats::Client;
use schemas::topology::{ConsumerSpec, FLOORS_BUCKET, StreamSpec, Topology, bucket_stream};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::{
    api::{self, ApiError, CONSUMER_NOT_FOUND, STREAM_NOT_FOUND},
    bucket::{EXPECTED, WRONG_LAST_SEQUENCE},
};

/// Metadata of a consumer that was made anew: deliveries up to this stream sequence may be done already.
pub const RECREATED_AT: &str = "beacon-recreated-at";

/// Names already taken: somebody else made it a moment ago.
const STREAM_NAME_IN_USE: u64 = 10_058;
const CONSUMER_EXISTS: u64 = 10_148;
const CONSUMER_NAME_EXISTS: u64 = 10_013;

/// Why the server does not agree with the map.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// The server did not do it.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// A field differs and the server does not let us change it.
    #[error(
        "{what} differs from the configuration in {field} (server: {server}, wanted: {wanted}) and cannot be \
         changed: {reason}"
    )]
    Differs {
        /// Which stream or consumer.
        what: String,
        /// The fields.
        field: String,
        /// What the server has.
        server: String,
        /// What the map says.
        wanted: String,
        /// The server's words.
        reason: String,
    },
    /// A consumer is gone and nothing says where it was.
    #[error(
        "consumer {consumer} of {stream} is missing while the stream holds {messages} jobs of `{filter}`, and bucket \
         beacon-floors has no floor for it; it is not made anew, since that would run finished jobs again. Put the \
         last finished sequence there: nats kv put beacon-floors {key} <sequence>"
    )]
    Missing {
        /// Which.
        consumer: String,
        /// Of which stream.
        stream: String,
        /// What it read.
        filter: String,
        /// How much there is.
        messages: u64,
        /// Where its floor would stand.
        key: String,
    },
    /// A floor does not read.
    #[error("bucket beacon-floors holds `{value}` under {key}; it must be a sequence number")]
    Floor {
        /// Which.
        key: String,
        /// What stands there.
        value: String,
    },
}

/// The key of a consumer's floor in `beacon-floors`.
pub fn floor_key(stream: &str, consumer: &str) -> String {
    format!("{stream}.{consumer}")
}

/// Creates or updates everything in `topology`. Buckets come first in it; floors are written before job streams.
pub async fn ensure(client: &Client, topology: &Topology) -> Result<(), TopologyError> {
    for stream in &topology.streams {
        let consumers: Vec<&ConsumerSpec> =
            topology.consumers.iter().filter(|(s, _)| *s == stream.name).map(|(_, c)| c).collect();
        ensure_stream(client, stream, &consumers).await?;
    }
    for (stream, consumer) in &topology.consumers {
        ensure_consumer(client, stream, consumer).await?;
    }
    Ok(())
}

async fn ensure_stream(
    client: &Client,
    spec: &StreamSpec,
    consumers: &[&ConsumerSpec],
) -> Result<(), TopologyError> {
    let info = match api::ask(client, &format!("STREAM.INFO.{}", spec.name), &Value::Null).await {
        Ok(info) => info,
        Err(error) if error.code() == Some(STREAM_NOT_FOUND) => {
            for consumer in consumers {
                // Before the stream: from its first job on, a consumer that vanishes has a floor.
                create_floor(client, &floor_key(&spec.name, &consumer.durable_name)).await?;
            }
            let wanted = json!(spec);
            return match api::ask(client, &format!("STREAM.CREATE.{}", spec.name), &wanted).await {
                Ok(_) => {
                    info!(stream = spec.name, "stream created");
                    Ok(())
                }
                Err(error) if error.code() == Some(STREAM_NAME_IN_USE) => Ok(()),
                Err(error) => Err(error.into()),
            };
        }
        Err(error) => return Err(error.into()),
    };
    let current = info.get("config").cloned().unwrap_or_default();
    let wanted = json!(spec);
    let differing = differences(&current, &wanted);
    if differing.is_empty() {
        return Ok(());
    }
    let what = format!("stream {}", spec.name);
    let subject = format!("STREAM.UPDATE.{}", spec.name);
    apply(client, &subject, merged(current, &wanted), &what, differing).await
}

async fn ensure_consumer(client: &Client, stream: &str, spec: &ConsumerSpec) -> Result<(), TopologyError> {
    let name = &spec.durable_name;
    let what = format!("consumer {name} of {stream}");
    let create = |config: Value, action: &str| {
        let body = json!({ "stream_name": stream, "config": config, "action": action });
        (format!("CONSUMER.DURABLE.CREATE.{stream}.{name}"), body)
    };
    match api::ask(client, &format!("CONSUMER.INFO.{stream}.{name}"), &Value::Null).await {
        Ok(info) => {
            let current = info.get("config").cloned().unwrap_or_default();
            let wanted = json!(spec);
            let differing = differences(&current, &wanted);
            if differing.is_empty() {
                return Ok(());
            }
            if let Some((_, server, wanted)) = differing.iter().find(|(f, ..)| f == "filter_subject") {
                // The server would take it, and unread jobs of the new filter would never be delivered.
                return Err(TopologyError::Differs {
                    what,
                    field: "filter_subject".into(),
                    server: server.clone(),
                    wanted: wanted.clone(),
                    reason:
                        "a changed filter leaves unread jobs behind; make a new consumer and drain the old"
                            .into(),
                });
            }
            let (subject, body) = create(merged(current, &wanted), "update");
            apply(client, &subject, body, &what, differing).await
        }
        Err(error) if error.code() == Some(CONSUMER_NOT_FOUND) => {
            let start = where_to_start(client, stream, spec).await?;
            let mut config = json!(spec);
            config["name"] = json!(name);
            if let Some(fields) = config.as_object_mut() {
                fields.extend(start);
            }
            let (subject, body) = create(config, "create");
            match api::ask(client, &subject, &body).await {
                Ok(_) => Ok(()),
                Err(error) if matches!(error.code(), Some(CONSUMER_EXISTS | CONSUMER_NAME_EXISTS)) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// The fields that say where a consumer that does not exist begins to read.
async fn where_to_start(
    client: &Client,
    stream: &str,
    spec: &ConsumerSpec,
) -> Result<serde_json::Map<String, Value>, TopologyError> {
    let body = json!({ "subjects_filter": spec.filter_subject });
    let info = api::ask(client, &format!("STREAM.INFO.{stream}"), &body).await?;
    let messages: u64 = info
        .pointer("/state/subjects")
        .and_then(Value::as_object)
        .map_or(0, |subjects| subjects.values().filter_map(Value::as_u64).sum());
    let last = api::number(&info, "state/last_seq").unwrap_or(0);
    let key = floor_key(stream, &spec.durable_name);
    let mut fields = serde_json::Map::new();
    match (read_floor(client, &key).await?, messages) {
        (None, 0) => create_floor(client, &key).await?,
        (None, messages) => {
            return Err(TopologyError::Missing {
                consumer: spec.durable_name.clone(),
                stream: stream.to_owned(),
                filter: spec.filter_subject.clone(),
                messages,
                key,
            });
        }
        (Some(floor), 1..) => {
            warn!(
                stream,
                consumer = spec.durable_name,
                floor,
                last,
                "consumer was missing, made anew from its floor"
            );
            fields.insert("deliver_policy".into(), json!("by_start_sequence"));
            fields.insert("opt_start_seq".into(), json!(floor + 1));
            fields.insert("metadata".into(), json!({ RECREATED_AT: last.to_string() }));
            return Ok(fields);
        }
        (Some(_), 0) => {}
    }
    fields.insert("deliver_policy".into(), json!("all"));
    Ok(fields)
}

/// What each consumer of `stream` had acked when it was last written down.
async fn read_floor(client: &Client, key: &str) -> Result<Option<u64>, TopologyError> {
    let subject = format!("$KV.{FLOORS_BUCKET}.{key}");
    let Some((bytes, _)) = api::newest(client, &bucket_stream(FLOORS_BUCKET), &subject).await? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&bytes).into_owned();
    text.trim().parse().map(Some).map_err(|_| TopologyError::Floor { key: key.to_owned(), value: text })
}

/// Writes floor 0 unless there is one.
async fn create_floor(client: &Client, key: &str) -> Result<(), TopologyError> {
    let subject = format!("$KV.{FLOORS_BUCKET}.{key}");
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(EXPECTED, "0");
    let silent = |source| ApiError::Silent { subject: subject.clone(), source };
    let answer = client.request_with_headers(subject.clone(), headers, "0".into()).await.map_err(silent)?;
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
    match answer.pointer("/error/err_code").and_then(Value::as_u64) {
        None | Some(WRONG_LAST_SEQUENCE) => Ok(()),
        Some(code) => Err(ApiError::Refused {
            subject,
            code,
            description: answer
                .pointer("/error/description")
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned(),
        }
        .into()),
    }
}

async fn apply(
    client: &Client,
    subject: &str,
    body: Value,
    what: &str,
    differing: Vec<(String, String, String)>,
) -> Result<(), TopologyError> {
    let join = |part: fn(&(String, String, String)) -> &String| {
        differing.iter().map(part).cloned().collect::<Vec<_>>().join(", ")
    };
    match api::ask(client, subject, &body).await {
        Ok(_) => {
            info!(what, fields = join(|d| &d.0), "updated to the configuration");
            Ok(())
        }
        Err(error) if error.code().is_some() => Err(TopologyError::Differs {
            what: what.to_owned(),
            field: join(|d| &d.0),
            server: join(|d| &d.1),
            wanted: join(|d| &d.2),
            reason: error.to_string(),
        }),
        Err(error) => Err(error.into()),
    }
}

/// Fields of `wanted` that `current` has otherwise, with both values. A field the server leaves out is its default.
fn differences(current: &Value, wanted: &Value) -> Vec<(String, String, String)> {
    let empty = serde_json::Map::new();
    let wanted = wanted.as_object().unwrap_or(&empty);
    wanted
        .iter()
        .filter_map(|(field, value)| {
            let found = current.get(field).unwrap_or(&Value::Null);
            (!same(found, value)).then(|| (field.clone(), found.to_string(), value.to_string()))
        })
        .collect()
}

fn same(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Null, Value::Bool(false)) => true,
        (Value::Null, Value::Number(n)) => n.as_i64() == Some(0),
        (Value::Array(found), Value::Array(wanted)) => {
            // The server keeps more fields in a source than we name, and the order of subjects means nothing.
            found.len() == wanted.len() && wanted.iter().all(|w| found.iter().any(|f| same(f, w)))
        }
        (Value::Object(found), Value::Object(wanted)) => {
            let found: BTreeMap<_, _> = found.iter().collect();
            wanted.iter().all(|(k, w)| same(found.get(k).copied().unwrap_or(&Value::Null), w))
        }
        _ => found == wanted,
    }
}

fn merged(mut current: Value, wanted: &Value) -> Value {
    if let (Some(current), Some(wanted)) = (current.as_object_mut(), wanted.as_object()) {
        current.extend(wanted.clone());
    }
    current
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_leaves_out_or_adds_is_no_difference() {
        let current = json!({ "name": "S", "subjects": ["b", "a"], "max_age": 0, "sources": [{"name": "R", "filter_subject": "x", "external": null}] });
        let wanted = json!({ "name": "S", "subjects": ["a", "b"], "deny_delete": false, "sources": [{"name": "R", "filter_subject": "x"}] });
        assert_eq!(differences(&current, &wanted), vec![]);
        let other = json!({ "max_age": 5 });
        assert_eq!(differences(&current, &other), vec![("max_age".into(), "0".into(), "5".into())]);
    }
}
