//! Streams made too small for what comes.

use async_nats::Client;
use serde_json::{Value, json};
use transport::api;

/// Lets a stream hold so many bytes, -1 for any number, and refuse what is more.
pub async fn limit(client: &Client, stream: &str, max_bytes: i64) {
    let info = api::ask(client, &format!("STREAM.INFO.{stream}"), &Value::Null).await.unwrap();
    let mut config = info["config"].clone();
    (config["max_bytes"], config["discard"]) = (json!(max_bytes), json!("new"));
    api::ask(client, &format!("STREAM.UPDATE.{stream}"), &config).await.unwrap();
}
