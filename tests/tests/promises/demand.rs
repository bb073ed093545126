//! Promise: what waits is told to whoever rents machines: at once when something waits where nothing did, by deadline, and no longer
//! than it waits.

use std::time::Duration;

use async_nats::Subscriber;
use futures_util::StreamExt as _;
use keepers::demand::{Book, Load};
use schemas::{Lane, Micros, demand::Demand, subjects, time::Clock as _};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::SystemClock;

const ACK_WAIT: Duration = Duration::from_secs(10);

/// Follows what is told, as a keeper does.
struct Listener {
    told: Subscriber,
    book: Book,
}

impl Listener {
    async fn new(server: &NatsServer) -> Self {
        let client = async_nats::connect(server.url()).await.unwrap();
        let told = client.subscribe(subjects::demand(&roles::REGION.parse().unwrap())).await.unwrap();
        client.flush().await.unwrap();
        Self { told, book: Book::new(SystemClock.now()) }
    }

    /// The next message.
    async fn next(&mut self) -> Demand {
        let message = tokio::time::timeout(wait::DEADLINE, self.told.next()).await.unwrap().unwrap();
        let demand: Demand = serde_json::from_slice(&message.payload).unwrap();
        self.book.hear(demand.clone(), SystemClock.now());
        demand
    }

    fn load(&self) -> Option<Load> {
        let model = schemas::catalog::token_of(roles::MODEL).unwrap();
        self.book.load(&"golem@us-east".parse().unwrap(), &[model], SystemClock.now())
    }

    /// Listens until what waits is as `is` says.
    async fn until(&mut self, what: &str, is: impl Fn(&Load) -> bool) -> Load {
        let end = tokio::time::Instant::now() + wait::DEADLINE;
        loop {
            self.next().await;
            let load = self.load();
            if let Some(load) = load.clone().filter(|load| is(load)) {
                return load;
            }
            assert!(tokio::time::Instant::now() < end, "waited in vain for {what}, last {load:?}");
        }
    }
}

fn jobs(load: &Load) -> u64 {
    load.waiting.iter().map(|waiting| waiting.jobs).sum()
}

fn is_quiet(load: &Load) -> bool {
    jobs(load) == 0 && load.backfill.is_empty() && load.running == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_is_told_by_deadline_until_it_has_ended() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
    config.offers.look_ahead = 100;
    let mut listener = Listener::new(&server).await;
    let dispatcher = Role::dispatcher(config).await;
    listener.until("silence to be told, too", is_quiet).await;
    let mut producer = roles::producer(&urls).await;

    let (soon, later) = ("2100-01-01T00:00:00Z", "2101-01-01T00:00:00Z");
    let mut sent = Vec::new();
    for (lane, deadline) in [
        (Lane::High, Some(soon)),
        (Lane::High, Some(soon)),
        (Lane::Normal, Some(later)),
        (Lane::Normal, None),
        (Lane::Low, Some(later)),
    ] {
        let mut job = roles::job("x");
        job.lane = lane;
        job.body.deadline = deadline.map(|at| at.parse().unwrap());
        sent.push(producer.submit(&job).await.unwrap().job);
    }
    let load = listener.until("all of them", |load| jobs(load) == 4 && !load.backfill.is_empty()).await;
    let at = |text: &str| Micros::from(text.parse::<chrono::DateTime<chrono::Utc>>().unwrap());
    let by = |line: &[keepers::demand::Waiting]| line.iter().map(|w| (w.by, w.jobs)).collect::<Vec<_>>();
    assert_eq!(by(&load.waiting), [(Some(at(soon)), 2), (Some(at(later)), 1), (None, 1)]);
    assert_eq!(by(&load.backfill), [(Some(at(later)), 1)]);
    assert_eq!((load.urgent, load.normal), (2, 2), "a backfill never arrives");

    // A machine comes: they run, and count as running until they end.
    let provider = Scripted::new(Script::Hold);
    let pool = roles::pool_config(&urls, "golem@us-east", "w1", 8, ACK_WAIT, provider.clone());
    let worker = Role::worker(pool).await;
    listener.until("them to run", |load| load.running == 5 && jobs(load) == 0).await;
    provider.release();
    Audit::all_ended(&mut producer, &sent).await;
    let load = listener.until("nothing to wait", is_quiet).await;
    assert_eq!((load.urgent, load.normal), (2, 2));

    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_machine_jobs_in_the_stream_are_told_and_by_two_dispatchers_not_twice() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let mut listener = Listener::new(&server).await;
    let first = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let second = Role::usual_dispatcher(&urls[0], "d2", ACK_WAIT).await;
    let mut speakers = std::collections::BTreeSet::new();
    while speakers.len() < 2 {
        let told = listener.next().await;
        // Each knows by now that the stream is empty: what comes later has arrived.
        if told.models.iter().all(|model| model.lanes.is_empty()) {
            speakers.insert(told.dispatcher);
        }
    }
    let mut producer = roles::producer(&urls).await;
    let sent = roles::submit_many(&producer, 30).await;
    let load = listener.until("all of them", |load| jobs(load) >= 30).await;
    assert_eq!((jobs(&load), load.normal), (30, 30));
    // One of them is lost, and with it nothing: what it told is forgotten, and the jobs are still there.
    second.kill().await;
    let d1 = |demand: &Demand| demand.dispatcher.as_str() == "d1";
    for _ in 0..6 {
        while !d1(&listener.next().await) {}
    }
    assert_eq!(jobs(&listener.load().unwrap()), 30);
    let provider = Scripted::new(Script::Succeed);
    let worker = Role::worker(roles::pool_config(&urls, "golem@us-east", "w1", 4, ACK_WAIT, provider)).await;
    Audit::all_ended(&mut producer, &sent).await;
    let load = listener.until("nothing to wait", is_quiet).await;
    assert_eq!(load.normal, 30, "each has arrived once");
    worker.stop().await;
    first.stop().await;
    producer.close().await;
}
