//! Promise: of two attempts that both give an output, one is useful: the one whose result is stored. The other is booked as a
//! lost race, also when its worker was stopped for longer than its lease lasts.

use std::{
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use futures_util::future::BoxFuture;
use schemas::{cost::Purpose, reply::Status};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use tokio::sync::oneshot;
use workers::{
    PoolConfig,
    provider::{Call, Ended, Health, Progress, Provider},
};

const ACK_WAIT: Duration = Duration::from_secs(3);

/// A provider whose call stops the whole thread, so that a worker alone on its thread extends no lease and says nothing, as
/// under SIGSTOP.
struct Freezing {
    inner: Arc<Scripted>,
    thawed: Mutex<bool>,
    bell: Condvar,
}

impl Freezing {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            inner: Scripted::new(Script::Succeed),
            thawed: Mutex::new(false),
            bell: Condvar::new(),
        })
    }

    fn thaw(&self) {
        *self.thawed.lock().unwrap() = true;
        self.bell.notify_all();
    }
}

impl Provider for Freezing {
    fn run<'a>(&'a self, call: &'a Call, progress: &'a dyn Progress) -> BoxFuture<'a, Ended> {
        Box::pin(async move {
            let ended = self.inner.run(call, progress).await;
            drop(self.bell.wait_while(self.thawed.lock().unwrap(), |thawed| !*thawed).unwrap());
            ended
        })
    }

    fn health(&self) -> BoxFuture<'_, Health> {
        self.inner.health()
    }
}

/// A worker alone on a thread. Gives what stops it, and the thread.
fn alone(config: PoolConfig) -> (oneshot::Sender<()>, thread::JoinHandle<()>) {
    let (stop, stopped) = oneshot::channel();
    let thread = thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async move {
            let role = Role::worker(config).await;
            let _ = stopped.await;
            role.stop().await;
        });
    });
    (stop, thread)
}

/// Two attempts of one job; `late` is whether the frozen worker wakes up after the other has ended.
async fn check(late: bool) {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let frozen = Freezing::new();
    let (stop, thread) = alone(roles::pool_config(&urls, "golem@us-east", "w1", 1, ACK_WAIT, frozen.clone()));
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, 1).await;
    wait::until("the first call", || async { (frozen.inner.begun() == 1).then_some(()) }).await;
    let other = Scripted::new(Script::Hold);
    let worker =
        Role::worker(roles::pool_config(&urls, "modal@us-east", "w2", 1, ACK_WAIT, other.clone())).await;
    wait::until("the job to run elsewhere", || async { (other.begun() == 1).then_some(()) }).await;
    if late {
        other.release();
        Audit::all_ended(&mut producer, &jobs).await;
        frozen.thaw();
    } else {
        frozen.thaw();
        Audit::all_ended(&mut producer, &jobs).await;
        other.release();
    }
    let end = tokio::time::Instant::now() + wait::DEADLINE;
    let audit = loop {
        let audit = Audit::all_ended(&mut producer, &jobs).await;
        if audit.costs.len() == 2 {
            break audit;
        }
        assert!(tokio::time::Instant::now() < end, "an attempt is not booked: {:?}", audit.costs);
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!((audit.count(Status::Succeeded), audit.useful()), (1, 1));
    let useful = if late { "modal" } else { "golem" };
    for cost in &audit.costs {
        let purpose = if cost.provider.as_str() == useful { Purpose::Useful } else { Purpose::WastedRace };
        assert_eq!(cost.purpose, purpose, "{cost:?}");
    }
    stop.send(()).unwrap();
    tokio::task::spawn_blocking(|| thread.join().unwrap()).await.unwrap();
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_after_the_job_has_ended_books_a_lost_race() {
    check(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_up_first_is_useful_and_the_next_holder_has_lost() {
    check(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_that_was_seen_and_is_not_there_is_not_taken_for_one_that_is_gone() {
    let server = NatsServer::start().await;
    Role::usual_dispatcher(&server.url(), "d1", ACK_WAIT).await.stop().await;
    let client = async_nats::connect(server.url()).await.unwrap();
    assert!(transport::stored::result_at(&client, 7).await.unwrap().is_none());
    assert!(transport::stored::seen_result_at(&client, 7).await.is_err());
}
