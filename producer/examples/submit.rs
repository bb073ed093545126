//! Submits a job and waits for its result: `cargo run -p producer --example submit -- nats://127.0.0.1:4222 "Hello?"`.

use std::{error::Error, time::Duration};

use producer::{JobRequest, Producer, ProducerConfig};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let url = args.next().unwrap_or_else(|| "nats://127.0.0.1:4222".into());
    let prompt = args.next().unwrap_or_else(|| "Why is the sky blue?".into());
    let producer = Producer::connect(ProducerConfig::new(&url, "acme", "inbox")?).await?;
    let job = JobRequest::prompt("us-east", "llama-3.2-1b", prompt)?;
    // Accepted: whatever happens to us now, it ends in one result in the mailbox.
    let result = producer.submit_and_wait(&job, Duration::from_secs(60)).await?;
    println!("{:?} for ${}: {:?}", result.status, result.cost_usd, result.output);
    producer.close().await;
    Ok(())
}
