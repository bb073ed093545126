//! Failures that people had with rented machines, by number (`keepers.md` 4), each through a whole keeper: real keeper, real server,
//! the provider simulated with the fault. What a failure comes to within one machine's life or one control call is tested there
//! (`keepers/src/machine/tests.rs`, `keepers/tests/contract*`): numbers 9, 12 to 15 and 22 have their essence in the call.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use keepers::{
    account::Account,
    config::KeeperConfig,
    keeper::{Keeper, KeeperError},
    landlord::{Order, Steps},
    probe::{HttpProber, ProbeError, Prober, Question},
    row::Row,
    wish::Wish,
};
use schemas::{
    PoolId,
    heartbeat::{Heartbeat, MachineLoad},
    machine::MachineState,
    subjects,
    time::Clock as _,
};
use simulators::{
    Fault, FaultKind,
    rented::{Canned, ControlFault, Life, Seen, Serves, Stage},
};
use tests::{
    nats_server::NatsServer,
    rent::{self, Office, Running},
    wait,
};
use transport::SystemClock;

use crate::providers::{self, Provider, Start};

/// One machine is wanted.
struct World {
    _nats: NatsServer,
    url: String,
    office: Office,
    provider: Provider,
    pool: PoolId,
}

/// A prober that waits a moment for a completion, not a minute.
struct Brisk(HttpProber);

impl Prober for Brisk {
    fn probe<'a>(&'a self, question: &'a Question) -> BoxFuture<'a, Result<(), ProbeError>> {
        Box::pin(async move {
            let probe = tokio::time::timeout(Duration::from_secs(1), self.0.probe(question));
            probe.await.unwrap_or_else(|_| Err(ProbeError::Useless("no completion in time".into())))
        })
    }
}

/// Notes nothing: for orders that a test sends itself.
struct Unwritten;

impl Steps for Unwritten {
    fn note<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }

    fn id<'a>(&'a self, _: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(std::future::ready(true))
    }
}

impl World {
    async fn open(start: Start, pool: &str) -> Self {
        let nats = NatsServer::start().await;
        let (url, provider) = (nats.url(), start(format!("{pool}@us-east")).await);
        let pool = provider.pool.pool.clone();
        Self { office: Office::open(&url).await, _nats: nats, url, provider, pool }
    }

    fn config(&self) -> KeeperConfig {
        let landlord = rent::hasty((self.provider.landlord)());
        let account = Account::new(self.provider.pool.account.clone(), landlord);
        KeeperConfig {
            prober: Arc::new(Brisk(HttpProber::new().unwrap())),
            ..rent::config(&self.url, "k1", account, vec![self.provider.pool.clone()])
        }
    }

    async fn keeper(&self) -> Running {
        Running::start(self.config()).await
    }

    fn fault(&self, call: &str, fault: ControlFault, count: u64) {
        self.provider.account.fault(call, fault, count);
    }

    fn made(&self) -> usize {
        (self.provider.made)()
    }

    /// How many calls were answered so far whose method and path contain these.
    fn calls(&self, method: &str, path: &str) -> usize {
        let seen = self.provider.account.exchanges();
        seen.iter().filter(|seen| seen.method == method && seen.path.contains(path)).count()
    }

    async fn ready(&self) -> Seen {
        self.office.until(&self.pool, MachineState::Ready, 1).await;
        let serving = || self.provider.account.alive().into_iter().find(|seen| seen.stage == Stage::Up);
        wait::until("a machine that is up", || async { serving() }).await
    }

    async fn rows(&self) -> Vec<Row> {
        let rows = self.office.rows(&self.pool).await;
        rows.into_values().collect()
    }

    async fn state(&self, state: MachineState) -> Row {
        wait::until(&format!("a machine that is {}", state.name()), || async {
            self.rows().await.into_iter().find(|row| row.life.state() == state)
        })
        .await
    }

    /// A worker says that jobs fail at this machine, until `told` holds.
    async fn blame<F: Future<Output = bool>>(&self, row: &Row, what: &str, told: impl Fn() -> F) {
        let beat = Heartbeat {
            pool: self.pool.clone(),
            worker: "w1".parse().unwrap(),
            started_us: SystemClock.now(),
            at_us: SystemClock.now(),
            slots: 4,
            running: 0,
            draining: false,
            healthy: None,
            round_trip_us: None,
            succeeded: 0,
            failed: 3,
            models: Vec::new(),
            machines: Some(vec![MachineLoad {
                machine: row.specs.machine.clone(),
                slots: 2,
                running: 0,
                last_token_us: None,
                failures: 3,
                failed: None,
                busy_us: 0,
            }]),
        };
        let payload = serde_json::to_vec(&beat).unwrap();
        let subject = subjects::heartbeat(&self.pool, &"w1".parse().unwrap());
        wait::until(what, || async {
            self.office.client.publish(subject.clone(), payload.clone().into()).await.unwrap();
            told().await.then_some(())
        })
        .await;
    }

    async fn stop(&self) {
        self.office.wish(&self.pool, &Wish { stopped: true, ..Wish::default() }).await;
    }

    /// Nothing is wanted any more: all goes, nothing of others was touched, and the ledger equals the invoice.
    async fn ends_paid(self, keeper: Running) {
        self.provider.account.clear_faults();
        self.stop().await;
        self.office.until_empty(&self.pool).await;
        wait::until("the ledger to equal the invoice", || async {
            let (ledger, invoice) = (self.office.ledger(&self.pool).await, (self.provider.invoice)());
            (ledger == invoice).then_some(())
        })
        .await;
        let left = self.provider.account.alive();
        assert!(left.iter().all(|seen| seen.stage == Stage::Ending), "it is left: {left:?}");
        assert_eq!(self.provider.account.touched(), []);
        keeper.stop().await;
        self.provider.shutdown.cancel();
        self.office.close().await;
    }
}

fn error(status: u16) -> Canned {
    Canned::json(status, r#"{"error":{"code":"global/internal","message":"simulated","suggestion":null}}"#)
}

fn limited() -> ControlFault {
    ControlFault::Refused(Canned::text(429, "error code: 1015"))
}

/// What Lambda answers while its list lags.
fn unlisted() -> ControlFault {
    ControlFault::Refused(Canned::json(200, r#"{"data":[]}"#))
}

/// A fault that is set before the keeper starts, and leads to one machine all the same.
struct Fated {
    number: &'static str,
    start: Start,
    faults: Vec<(&'static str, ControlFault, u64)>,
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_1_3_16_19_20_a_fault_around_an_order_leads_to_one_machine() {
    let odd = r#"{"data":null,"errors":[{"message":"Problem processing request","extensions":{}}]}"#;
    let cases = [
        Fated { number: "f1", start: providers::lambda, faults: vec![("list", limited(), 4)] },
        Fated {
            number: "f3",
            start: providers::lambda,
            faults: vec![("launch", ControlFault::DoneBut(error(500)), 1), ("list", unlisted(), 2)],
        },
        Fated {
            number: "f16",
            start: providers::fly,
            faults: vec![("create", ControlFault::DoneBut(Canned::json(408, r#"{"error":"timeout"}"#)), 1)],
        },
        Fated {
            number: "f19",
            start: providers::railway,
            faults: vec![("serviceInstanceUpdate", ControlFault::Refused(Canned::json(200, odd)), 1)],
        },
        Fated { number: "f20", start: providers::railway, faults: vec![("serviceCreate", limited(), 1)] },
    ];
    for Fated { number, start, faults } in cases {
        let world = World::open(start, number).await;
        for (call, fault, count) in faults {
            world.fault(call, fault, count);
        }
        let keeper = world.keeper().await;
        world.ready().await;
        assert_eq!((world.made(), world.rows().await.len()), (1, 1), "{number}: one machine, one row");
        world.ends_paid(keeper).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_2_an_order_without_an_answer_is_found_by_the_next_keeper_although_lists_lag() {
    let world = World::open(providers::lambda, "f2").await;
    world.fault("launch", ControlFault::DoneLate(Duration::from_secs(3_600)), 1);
    let keeper = world.keeper().await;
    wait::until("the launch", || async { (world.made() == 1).then_some(()) }).await;
    keeper.kill().await;
    world.fault("list", unlisted(), 2);
    let keeper = world.keeper().await;
    world.ready().await;
    assert_eq!(world.made(), 1);
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_4_a_second_machine_of_one_order_is_ended_and_booked() {
    let world = World::open(providers::lambda, "f4").await;
    let keeper = world.keeper().await;
    let first = world.ready().await;
    let row = world.state(MachineState::Ready).await;
    let order = Order {
        machine: row.specs.machine.clone(),
        pool: world.pool.clone(),
        sku: row.specs.sku.clone(),
        place: row.specs.place.clone(),
        server_key: None,
        ordered_at: row.since_us,
        usd_per_hour_max: row.specs.usd_per_hour_max,
        notes: row.notes.clone(),
    };
    let second = (world.provider.landlord)().order(&order, &Unwritten).await.unwrap();
    wait::until("one of the two to be ended", || async {
        let alive = world.provider.account.alive();
        (alive.len() == 1 && world.office.machines(&world.pool).await.len() == 1).then_some(())
    })
    .await;
    assert_ne!(first.id, second.id);
    assert_eq!(world.made(), 2, "nothing is ordered in its place");
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_5_an_end_that_fails_is_repeated_and_counts_towards_the_cap() {
    let world = World::open(providers::lambda, "f5").await;
    let keeper = world.keeper().await;
    world.ready().await;
    world.provider.account.fault_always("terminate", ControlFault::Refused(error(500)));
    world.stop().await;
    wait::until("two ending calls", || async { (world.calls("POST", "terminate") >= 2).then_some(()) }).await;
    let row = world.state(MachineState::Stopping).await;
    wait::until("its price to count", || async {
        let status = world.office.status(&world.pool).await?;
        (status.want == 0 && status.usd_per_hour == row.specs.usd_per_hour).then_some(())
    })
    .await;
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_6_a_machine_is_not_gone_because_nobody_can_be_asked() {
    let world = World::open(providers::lambda, "f6").await;
    let keeper = world.keeper().await;
    let machine = world.ready().await;
    world.provider.account.fault_always("*", ControlFault::Cut);
    world.stop().await;
    world.state(MachineState::Stopping).await;
    // The call that ends it fails again and again, and so do lists.
    wait::until("two failed calls", || async {
        let rows = world.rows().await;
        let failed = |row: &Row| matches!(row.life, keepers::row::Life::Stopping { failed: 2.., .. });
        (rows.len() == 1 && failed(&rows[0])).then_some(())
    })
    .await;
    assert_eq!(world.provider.account.machine(&machine.id).unwrap().stage, Stage::Up);
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_7_an_order_in_flight_that_is_not_wanted_any_more_is_ended_and_never_ready() {
    let world = World::open(providers::lambda, "f7").await;
    // It boots on, so it costs nothing yet, whatever lists show.
    world.provider.account.set_life(Life { boot: None, ..Life::default() });
    world.fault("launch", ControlFault::DoneLate(Duration::from_secs(1)), 1);
    let keeper = world.keeper().await;
    wait::until("the launch", || async { (world.made() == 1).then_some(()) }).await;
    world.stop().await;
    wait::until("its end", || async { world.provider.account.alive().is_empty().then_some(()) }).await;
    let stages = |seen: &Seen| seen.history.iter().any(|(stage, _)| *stage == Stage::Up);
    assert!(!world.provider.account.machines().iter().any(|seen| !seen.foreign && stages(seen)));
    assert_eq!(world.made(), 1);
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_7_without_the_key_of_an_account_with_machines_a_keeper_refuses_and_names_them() {
    let world = World::open(providers::lambda, "f7b").await;
    let keeper = world.keeper().await;
    let machine = world.ready().await;
    keeper.kill().await;
    let keyless = KeeperConfig { accounts: Vec::new(), pools: Vec::new(), ..world.config() };
    let refused = Keeper::connect(keyless).await.err().unwrap();
    assert!(
        matches!(&refused, KeeperError::Unreachable { machines, .. } if *machines == machine.id),
        "{refused}"
    );
    let keeper = world.keeper().await;
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_8_another_machine_at_the_address_of_a_dead_one_is_not_taken_for_it() {
    let world = World::open(providers::lambda, "f8").await;
    let keeper = world.keeper().await;
    let dead = world.ready().await;
    let row = world.state(MachineState::Ready).await;
    // The list fails, so nothing but the probe can tell.
    let account = &world.provider.account;
    account.fault_always("list", limited());
    account.vanish(&dead.id);
    account.reuse_addresses();
    let order = Order {
        machine: "somebodyelse".parse().unwrap(),
        pool: world.pool.clone(),
        sku: row.specs.sku.clone(),
        place: row.specs.place.clone(),
        server_key: world
            .provider
            .pool
            .secret
            .as_ref()
            .map(|s| s.of_machine(&"somebodyelse".parse().unwrap())),
        ordered_at: row.since_us,
        usd_per_hour_max: row.specs.usd_per_hour_max,
        notes: row.notes.clone(),
    };
    let new = (world.provider.landlord)().order(&order, &Unwritten).await.unwrap();
    wait::until("it to listen", || async { account.server(&new.id).map(drop) }).await;
    assert_eq!(account.machine(&new.id).unwrap().address, dead.address);
    // What is ordered in its place boots on and costs nothing: no list shows when it would be up.
    account.set_life(Life { boot: None, ..Life::default() });
    world
        .blame(&row, "the dead one to be lost", || async {
            world.rows().await.iter().any(|now| {
                let gone = matches!(now.life.state(), MachineState::Lost | MachineState::Stopping);
                now.specs.machine == row.specs.machine && gone
            })
        })
        .await;
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_10_a_machine_without_a_gpu_is_never_ready_is_ended_and_its_place_rests() {
    let world = World::open(providers::lambda, "f10").await;
    world.provider.account.set_life(Life { serves: Serves::HealthOnly, ..Life::default() });
    let keeper = world.keeper().await;
    wait::until("the place to rest", || async {
        let status = world.office.status(&world.pool).await?;
        (!status.cooling.is_empty()).then_some(())
    })
    .await;
    wait::until("its end", || async { world.provider.account.alive().is_empty().then_some(()) }).await;
    world.office.until_empty(&world.pool).await;
    assert_eq!(world.made(), 1, "nothing is ordered there while it rests");
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_11_a_boot_that_takes_many_looks_is_one_order() {
    let world = World::open(providers::lambda, "f11").await;
    world.provider.account.set_life(Life { boot: None, ..Life::default() });
    let keeper = world.keeper().await;
    world.state(MachineState::Starting).await;
    let looks = world.calls("GET", "/instances");
    wait::until("many looks", || async { (world.calls("GET", "/instances") > looks + 20).then_some(()) })
        .await;
    assert_eq!(world.made(), 1);
    world.provider.account.boot_now(&world.provider.account.alive()[0].id);
    world.ready().await;
    assert_eq!(world.made(), 1);
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_17_a_quota_of_a_region_rests_the_region_and_closes_nothing() {
    let world = World::open(providers::fly, "f17").await;
    let quota = r#"{"error":"You are over the allowed quota for memory in iad"}"#;
    world.fault("create", ControlFault::Refused(Canned::json(403, quota)), 1);
    let keeper = world.keeper().await;
    let status = wait::until("the region to rest", || async {
        world.office.status(&world.pool).await.filter(|status| !status.cooling.is_empty())
    })
    .await;
    assert_eq!((status.closed, world.made()), (None, 0), "the key is as good as before");
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_18_a_machine_whose_stop_and_cordon_never_answer_is_destroyed_all_the_same() {
    let world = World::open(providers::fly, "f18").await;
    let keeper = world.keeper().await;
    world.ready().await;
    for call in ["stop", "cordon"] {
        world.provider.account.fault_always(call, ControlFault::Hang);
    }
    world.stop().await;
    wait::until("its end", || async { world.provider.account.alive().is_empty().then_some(()) }).await;
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_20_the_edges_429_loses_no_machine_that_serves() {
    let world = World::open(providers::railway, "f20b").await;
    let keeper = world.keeper().await;
    world.ready().await;
    world.fault("deployments", limited(), 3);
    wait::until("the faults to be over", || async {
        (!world.provider.account.is_armed("deployments")).then_some(())
    })
    .await;
    let row = world.state(MachineState::Ready).await;
    assert_eq!((row.because, world.made()), (None, 1), "it served on");
    world.ends_paid(keeper).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failure_21_a_service_that_somebody_suspended_is_replaced() {
    let world = World::open(providers::render, "f21").await;
    let keeper = world.keeper().await;
    let first = world.ready().await;
    let row = world.state(MachineState::Ready).await;
    (world.provider.suspend)(&first.id);
    wait::until("another machine", || async {
        let rows = world.rows().await;
        let serves = |now: &&Row| now.life.state() == MachineState::Ready;
        rows.iter().find(serves).is_some_and(|now| now.specs.machine != row.specs.machine).then_some(())
    })
    .await;
    assert_eq!(world.made(), 2);
    world.ends_paid(keeper).await;
}

/// Issue 14, point 2: "leaves when tokens stop although `/health` says 200".
#[tokio::test(flavor = "multi_thread")]
async fn a_machine_whose_tokens_stop_leaves_although_it_says_that_it_is_well() {
    let world = World::open(providers::lambda, "tokens").await;
    let keeper = world.keeper().await;
    let machine = world.ready().await;
    let row = world.state(MachineState::Ready).await;
    let server = world.provider.account.server(&machine.id).unwrap();
    server.set_fault(Some(Fault::always(FaultKind::StallMidStream { after_tokens: 1 })));
    let health = reqwest::get(format!("http://{}/health", machine.address)).await.unwrap();
    assert_eq!(health.status(), 200);
    world
        .blame(&row, "it to leave", || async {
            let rows = world.rows().await;
            let stays =
                |now: &Row| now.specs.machine == row.specs.machine && now.life.state() == MachineState::Ready;
            !rows.iter().any(stays)
        })
        .await;
    wait::until("another machine to take its place", || async {
        let rows = world.rows().await;
        let serves = |now: &&Row| now.life.state() == MachineState::Ready;
        rows.iter().find(serves).is_some_and(|now| now.specs.machine != row.specs.machine).then_some(())
    })
    .await;
    world.ends_paid(keeper).await;
}
