//! Promise: a pool that rents machines gives its jobs to those that are ready, each no more than its slots, by any number of
//! workers; a machine that leaves loses no job; a sick one is left alone; and no job costs more than its part of its machine.
//!
//! There is no keeper here: the test writes the machines' rows itself, and simulators play the machines.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use async_nats::Client;
use futures_util::StreamExt as _;
use ring::hmac;
use schemas::{
    Lane, Micros, UsdNanos,
    cost::{CostEvent, Purpose},
    failure::FailureClass,
    heartbeat::{Heartbeat, MachineLoad},
    machine::{Machine, MachineState},
    reply::Status,
    topology::{MACHINES_BUCKET, bucket_stream},
};
use serde_json::Value;
use simulators::{Fault, FaultKind, Kind, SimulatedModel, Simulator, SimulatorConfig};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    wait,
};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use transport::api;
use workers::PoolConfig;

const ACK_WAIT: Duration = Duration::from_secs(6);
const POOL: &str = "lambda@us-east";
const SECRET: &str = "pool-secret";
/// Of the simulators: more than any row says, so that what they run at once is what they are asked to.
const ROOM: u32 = 32;

/// The key that a machine's server asks for.
fn server_key(machine: &str) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    hmac::sign(&key, machine.as_bytes()).as_ref().iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

/// Machines that listen, and the rows that say so.
struct Machines {
    client: Client,
    shutdown: CancellationToken,
    running: BTreeMap<&'static str, (Simulator, u32)>,
}

impl Machines {
    fn new(client: Client) -> Self {
        Self { client, shutdown: CancellationToken::new(), running: BTreeMap::new() }
    }

    /// Starts a machine whose server asks for its own key, and says that it is ready.
    async fn start(&mut self, name: &'static str, slots: u32, service_ms: u64) {
        self.start_with(name, slots, service_ms, server_key(name)).await;
    }

    async fn start_with(&mut self, name: &'static str, slots: u32, service_ms: u64, key: String) {
        let mut model = SimulatedModel::new(roles::MODEL);
        (model.slots, model.service_ms_p50, model.service_sigma) = (ROOM, service_ms, 0.0);
        let config =
            SimulatorConfig { api_key: Some(key), ..SimulatorConfig::new(name, Kind::OpenAi, vec![model]) };
        let simulator = simulators::start(config, self.shutdown.clone()).await.unwrap();
        self.running.insert(name, (simulator, slots));
        self.say(name, MachineState::Ready).await;
    }

    /// Stores the row of a machine.
    async fn say(&self, name: &'static str, state: MachineState) {
        let (simulator, slots) = &self.running[name];
        let row = Machine {
            machine: name.parse().unwrap(),
            pool: POOL.parse().unwrap(),
            state,
            since_us: Micros::new(1),
            address: Some(simulator.url()),
            slots: *slots,
            sku: "gpu_1x_a10".into(),
            place: "us-east-1".into(),
            usd_per_hour: hour(),
            provider_id: None,
            because: None,
        };
        let subject = format!("$KV.{MACHINES_BUCKET}.{}", row.key());
        let body = serde_json::to_vec(&row).unwrap();
        wait::until("the row to be stored", || async {
            let answer = self.client.request(subject.clone(), body.clone().into()).await.ok()?;
            String::from_utf8_lossy(&answer.payload).contains("\"seq\"").then_some(())
        })
        .await;
    }

    fn stats(&self, name: &str) -> simulators::Stats {
        self.running[name].0.stats()
    }

    /// No machine ever ran more than its slots.
    fn check_slots(&self) {
        for (name, (simulator, slots)) in &self.running {
            let peak = simulator.stats().peak_running;
            assert!(peak <= u64::from(*slots), "{name} ran {peak} jobs at once on {slots} slots");
        }
    }

    async fn stop(self) {
        self.shutdown.cancel();
        for (simulator, _) in self.running.into_values() {
            simulator.stopped().await;
        }
    }
}

/// An hour of any machine.
fn hour() -> UsdNanos {
    "1.29".parse().unwrap()
}

fn pool(urls: &[String], worker: &str, slots: u32) -> PoolConfig {
    roles::rented_pool_config(urls, POOL, worker, slots, ACK_WAIT, SECRET)
}

/// The first heartbeat of a worker that says what is waited for; what it says of machines is kept from the last one that did.
async fn heard(
    client: &Client,
    worker: &str,
    what: &str,
    mut found: impl FnMut(&Heartbeat, &[MachineLoad]) -> bool,
) {
    let mut beats = client.subscribe(format!("beacon.pool.us-east.lambda.{worker}")).await.unwrap();
    let mut loads = Vec::new();
    let hearing = async {
        while let Some(message) = beats.next().await {
            let beat: Heartbeat = serde_json::from_slice(&message.payload).unwrap();
            if let Some(told) = &beat.machines {
                loads.clone_from(told);
            }
            if found(&beat, &loads) {
                return;
            }
        }
    };
    timeout(wait::DEADLINE, hearing).await.unwrap_or_else(|_| panic!("waited in vain for: {what}"));
}

/// What was booked for a machine, and for how much slot-time.
fn of_machine(costs: &[CostEvent], name: &str) -> (u64, Duration) {
    let lines = costs.iter().flat_map(|cost| &cost.lines);
    let own = lines.filter(|line| line.machine.as_ref().is_some_and(|machine| machine.as_str() == name));
    own.fold((0, Duration::ZERO), |(sum, span), line| {
        (sum + line.amount_usd.get(), span + Duration::from_micros(line.quantity))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_spread_over_the_ready_machines_and_cost_no_more_than_their_part() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let mut producer = roles::producer(&urls).await;
    let mut machines = Machines::new(producer.client().clone());
    let began = Instant::now();
    for (name, slots) in [("m1", 2), ("m2", 2), ("m3", 4)] {
        machines.start(name, slots, 60).await;
    }
    let worker = Role::worker(pool(&urls, "w1", 40)).await;
    heard(producer.client(), "w1", "eight slots", |beat, _| beat.slots == 8 && beat.models[0].rented).await;
    let jobs = roles::submit_many(&producer, 80).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!((audit.count(Status::Succeeded), audit.costs.len()), (80, 80));
    machines.check_slots();
    let done = ["m1", "m2", "m3"].map(|name| machines.stats(name).finished);
    assert!(done.iter().sum::<u64>() == 80 && done[0] >= 10 && done[1] >= 10 && done[2] >= 25, "{done:?}");
    // What a worker says of a machine is what the ledger says of it, and neither is more than the machine cost.
    let stood = hour().for_hours_down(began.elapsed()).unwrap().get();
    for (name, slots) in [("m1", 2), ("m2", 2), ("m3", 4)] {
        let (booked, span) = of_machine(&audit.costs, name);
        assert!(booked > 0 && booked <= stood, "{booked} of {stood}");
        let share = hour().part(slots).unwrap().for_hours_down(span).unwrap().get();
        assert!(booked <= share && booked + 80 > share, "{booked} booked of {share}");
        heard(producer.client(), "w1", "the same slot-time in a heartbeat", |_, loads| {
            let load = loads.iter().find(|load| load.machine.as_str() == name);
            load.is_some_and(|load| {
                let busy = Duration::from_micros(load.busy_us);
                // Each line is cut to whole microseconds.
                let same = (span..=span + Duration::from_micros(80)).contains(&busy);
                load.running == 0 && load.last_token_us.is_some() && same
            })
        })
        .await;
    }
    assert!(audit.costs.iter().all(|cost| cost.purpose == Purpose::Useful && !cost.estimated));
    assert!(audit.costs.iter().flat_map(|cost| &cost.lines).all(|line| line.sku == "gpu_1x_a10"));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    machines.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_drains_loses_no_job_and_gets_none_and_one_that_comes_takes_them() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let mut producer = roles::producer(&urls).await;
    let mut machines = Machines::new(producer.client().clone());
    let worker = Role::worker(pool(&urls, "w1", 40)).await;
    // Nothing is ready: the jobs wait.
    let mut jobs = roles::submit_many(&producer, 2).await;
    heard(producer.client(), "w1", "a worker without slots", |beat, _| beat.slots == 0).await;
    machines.start("leaves", 2, 1_500).await;
    wait::until("two jobs to run", || async { (machines.stats("leaves").running == 2).then_some(()) }).await;
    machines.say("leaves", MachineState::Draining).await;
    heard(producer.client(), "w1", "only what runs", |beat, _| (beat.slots, beat.running) == (2, 2)).await;
    jobs.extend(roles::submit_many(&producer, 6).await);
    machines.start("comes", 3, 30).await;
    wait::until("the newcomer to take all that waits", || async {
        (machines.stats("comes").finished == 6).then_some(())
    })
    .await;
    machines.say("leaves", MachineState::Gone).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 8);
    assert!(audit.results.values().flatten().all(|result| result.attempts == 1), "no job was begun twice");
    assert_eq!(machines.stats("leaves").started, 2, "nothing new after it began to drain");
    machines.check_slots();
    heard(producer.client(), "w1", "the slots of the newcomer alone", |beat, loads| {
        beat.slots == 3 && loads.len() == 1
    })
    .await;
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    machines.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_divide_the_slots_of_a_machine_while_they_come_and_go() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let mut producer = roles::producer(&urls).await;
    let mut machines = Machines::new(producer.client().clone());
    for (name, slots) in [("m1", 3), ("m2", 5), ("m3", 1)] {
        machines.start(name, slots, 80).await;
    }
    let first = Role::worker(pool(&urls, "w1", 40)).await;
    heard(producer.client(), "w1", "all slots", |beat, _| beat.slots == 9).await;
    let mut jobs = roles::submit_many(&producer, 150).await;
    wait::until("all slots in use", || async { (machines.stats("m2").running == 5).then_some(()) }).await;
    // A second one comes while all slots are in use, and both have their part.
    let second = Role::worker(pool(&urls, "w2", 40)).await;
    heard(producer.client(), "w2", "a part of each", |beat, loads| {
        let part =
            |name: &str| loads.iter().find(|load| load.machine.as_str() == name).map(|load| load.slots);
        (3..=6).contains(&beat.slots)
            && matches!(part("m1"), Some(1..=2))
            && matches!(part("m2"), Some(2..=3))
    })
    .await;
    jobs.extend(roles::submit_many(&producer, 60).await);
    // The first is killed in the middle of its jobs: its part is the other's once it has lapsed.
    wait::until("jobs at both", || async { (machines.stats("m1").running > 1).then_some(()) }).await;
    first.kill().await;
    heard(producer.client(), "w2", "the part of the dead", |beat, _| beat.slots == 9).await;
    // A third one comes, and the second leaves in order: its part is free at once.
    let third = Role::worker(pool(&urls, "w3", 40)).await;
    jobs.extend(roles::submit_many(&producer, 60).await);
    second.stop().await;
    heard(producer.client(), "w3", "the part of the one that left", |beat, _| beat.slots == 9).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), jobs.len());
    machines.check_slots();
    third.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    machines.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_fails_is_left_alone_and_the_pool_goes_on() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let mut producer = roles::producer(&urls).await;
    let mut machines = Machines::new(producer.client().clone());
    machines.start("good", 4, 30).await;
    // Another machine answers at its address, and knows no key of ours.
    machines.start_with("stranger", 4, 30, "another-key".into()).await;
    machines.start("broken", 4, 30).await;
    let fault = FaultKind::Status { code: 500, body: None, retry_after_s: None };
    machines.running["broken"].0.set_fault(Some(Fault::always(fault)));
    let worker = Role::worker(pool(&urls, "w1", 40)).await;
    let mut jobs = roles::submit_many(&producer, 100).await;
    heard(producer.client(), "w1", "what is wrong with them", |_, loads| {
        let of = |name: &str| loads.iter().find(|load| load.machine.as_str() == name);
        let failed = |name: &str, class| of(name).is_some_and(|l| l.failures > 0 && l.failed == Some(class));
        failed("stranger", FailureClass::Authentication) && failed("broken", FailureClass::ProviderDown)
    })
    .await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 100);
    // All four slots at first, and then one job after each pause.
    for name in ["stranger", "broken"] {
        let refused = machines.stats(name).refused;
        assert!((1..20).contains(&refused), "{name} was asked {refused} times");
    }
    // A failed try is booked with its job, as the time on that slot.
    let (broken, _) = of_machine(&audit.costs, "broken");
    assert!(broken <= hour().part(4).unwrap().for_hours_down(Duration::from_secs(1)).unwrap().get());
    // One that is well again is found again.
    machines.running["broken"].0.set_fault(None);
    let before = machines.stats("broken").finished;
    let end = Instant::now() + wait::DEADLINE;
    while machines.stats("broken").finished == before {
        assert!(Instant::now() < end, "it is not tried again");
        jobs.extend(roles::submit_many(&producer, 8).await);
        Audit::all_ended(&mut producer, &jobs).await;
    }
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    machines.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_is_taken_back_costs_its_time_on_its_machine() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let mut producer = roles::producer(&urls).await;
    let mut machines = Machines::new(producer.client().clone());
    machines.start("m1", 2, 30_000).await;
    let worker = Role::worker(pool(&urls, "w1", 40)).await;
    let mut job = roles::job("one that nobody wants any more");
    job.lane = Lane::High;
    let job = producer.submit(&job).await.unwrap().job;
    wait::until("it to run", || async { (machines.stats("m1").running == 1).then_some(()) }).await;
    let order = serde_json::json!({ "target": { "job": job } });
    let subject = format!("$KV.beacon-cancel.job.{job}");
    producer.client().request(subject, order.to_string().into()).await.unwrap();
    let audit = Audit::all_ended(&mut producer, &[job]).await;
    assert_eq!(audit.count(Status::Cancelled), 1);
    wait::until("the slot to be free", || async { (machines.stats("m1").running == 0).then_some(()) }).await;
    let (cost, span) = of_machine(&audit.costs, "m1");
    assert!(
        span > Duration::ZERO && audit.costs[0].purpose == Purpose::Cancelled && !audit.costs[0].estimated
    );
    assert_eq!(cost, hour().part(2).unwrap().for_hours_down(span).unwrap().get());
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    machines.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_followed_through_a_bucket_that_is_made_anew() {
    let server = NatsServer::start().await;
    let urls = [server.url()];
    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let mut producer = roles::producer(&urls).await;
    let mut machines = Machines::new(producer.client().clone());
    machines.start("old", 2, 20).await;
    let worker = Role::worker(pool(&urls, "w1", 40)).await;
    let mut jobs = roles::submit_many(&producer, 4).await;
    Audit::all_ended(&mut producer, &jobs).await;
    let delete = format!("STREAM.DELETE.{}", bucket_stream(MACHINES_BUCKET));
    api::ask(producer.client(), &delete, &Value::Null).await.unwrap();
    machines.start("new", 3, 20).await;
    heard(producer.client(), "w1", "only the machine that is in the bucket", |beat, loads| {
        beat.slots == 3 && loads.len() == 1
    })
    .await;
    let before = machines.stats("old").started;
    jobs.extend(roles::submit_many(&producer, 10).await);
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), 14);
    assert_eq!((machines.stats("old").started, machines.stats("new").finished), (before, 10));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    machines.stop().await;
}
