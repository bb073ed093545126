//! Promise: jobs that wait have a machine rented for them, run there, and it goes again when nothing waits. What the jobs cost and
//! what no job used are, together, what the provider bills.

use std::time::Duration;

use keepers::{
    account::Account,
    config::KeeperConfig,
    policy::{Bounds, Policy},
    wish::Wish,
};
use schemas::{cost::Purpose, machine::MachineState, reply::Status};
use simulators::{
    SimulatedModel,
    rented::{Act, Life},
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    rent::{self, Office, Running},
    roles::{self, Role},
    wait,
};

use crate::providers;

const ACK_WAIT: Duration = Duration::from_secs(6);
const JOBS: usize = 24;

#[tokio::test(flavor = "multi_thread")]
async fn waiting_jobs_get_a_machine_that_goes_again_and_the_ledger_equals_the_invoice() {
    let nats = NatsServer::start().await;
    let urls = [nats.url()];
    let office = Office::open(&urls[0]).await;
    let provider = providers::lambda("lambda@us-east".into()).await;
    let model = SimulatedModel { slots: 4, service_ms_p50: 50, ..SimulatedModel::new(roles::MODEL) };
    provider.account.set_life(Life { models: vec![model], ..Life::default() });
    let mut pool = provider.pool.clone();
    pool.model = roles::MODEL.into();
    // Nothing stands before anything waits; nobody else could take the jobs.
    pool.policy = Policy { bounds: Bounds::between(0, 2), machines_max: 2, ..pool.policy };
    let id = pool.pool.clone();
    let account = Account::new("lambda", rent::hasty((provider.landlord)()));
    let config = KeeperConfig { ..rent::config(&urls[0], "k1", account, vec![pool]) };

    let dispatcher = Role::usual_dispatcher(&urls[0], "d1", ACK_WAIT).await;
    let worker =
        Role::worker(roles::rented_pool_config(&urls, "lambda@us-east", "w1", 16, ACK_WAIT, "pool-secret"))
            .await;
    let keeper = Running::start(config).await;
    let mut producer = roles::producer(&urls).await;
    let jobs = roles::submit_many(&producer, JOBS).await;
    let audit = Audit::all_ended(&mut producer, &jobs).await;
    assert_eq!(audit.count(Status::Succeeded), JOBS);
    let ordered = provider.account.log().iter().filter(|action| action.act == Act::Ordered).count();
    assert!((1..=2).contains(&ordered), "{ordered} machines were ordered");

    office.wish(&id, &Wish { stopped: true, ..Wish::default() }).await;
    office.until_empty(&id).await;
    wait::until("the ledger to equal the invoice", || async {
        (office.ledger(&id).await == (provider.invoice)()).then_some(())
    })
    .await;
    let costs = office.costs().await;
    let jobs_booked: u64 =
        costs.iter().filter(|c| c.purpose == Purpose::Useful).map(|c| c.amount_usd.get()).sum();
    assert!(jobs_booked > 0, "jobs cost their part of the machine");
    assert!(costs.iter().any(|cost| cost.purpose == Purpose::Standing));
    assert!(office.machines(&id).await.values().all(|state| *state == MachineState::Gone));

    keeper.stop().await;
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
    provider.shutdown.cancel();
    office.close().await;
}
