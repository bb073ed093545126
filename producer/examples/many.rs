//! A stream of results for many jobs, fifty of them out at a time:
//! `cargo run -p producer --example many -- nats://127.0.0.1:4222`.

use std::{error::Error, time::Duration};

use futures_util::{StreamExt as _, stream};
use producer::{JobRequest, Producer, ProducerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://127.0.0.1:4222".into());
    let producer = Producer::connect(ProducerConfig::new(&url, "acme", "inbox")?).await?;
    let jobs = (0..500).map(|n| JobRequest::prompt("us-east", "llama-3.2-1b", format!("Count to {n}.")));
    let jobs = stream::iter(jobs.collect::<Result<Vec<_>, _>>()?);
    let mut results = producer.run_all(jobs, 50, Duration::from_secs(60));
    while let Some((nth, result)) = results.next().await {
        match result {
            Ok(result) => println!("job {nth}: {:?}", result.status),
            Err(error) => eprintln!("job {nth}: {error}"),
        }
    }
    drop(results);
    producer.close().await;
    Ok(())
}
