//! Reads what came to a mailbox while nobody was there, then what comes:
//! `cargo run -p producer --example catch_up -- nats://127.0.0.1:4222`.

use std::{error::Error, time::Duration};

use producer::{Producer, ProducerConfig, Reply};
use schemas::time::Clock as _;
use transport::SystemClock;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "nats://127.0.0.1:4222".into());
    let mut producer = Producer::connect(ProducerConfig::new(&url, "acme", "inbox")?).await?;
    // Results are kept for three days. Remember `finished_us` of the last one you handled, and start a little before it:
    // a result you have seen is told by its job.
    let an_hour_ago = SystemClock.now() - Duration::from_secs(3_600);
    let mut replies = producer.replies(Some(an_hour_ago), true);
    while let Some(reply) = replies.recv().await {
        match reply? {
            Reply::Result(result) => println!("{} {:?}", result.job, result.status),
            Reply::Cost(cost) => println!("{:?} cost ${}", cost.job, cost.amount_usd),
        }
    }
    Ok(())
}
