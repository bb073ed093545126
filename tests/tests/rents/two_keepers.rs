//! Promise: of two keeper processes for one pool, one acts and the other stands by and says so. When the one that acts is killed or
//! frozen in the middle of an order, the other goes on: no machine is rented twice, none is lost, and the ledger equals the invoice.
//! A frozen one that wakes does nothing more until it holds the lease again.

use std::time::Duration;

use keepers::wish::Wish;
use schemas::{UsdNanos, machine::MachineState};
use simulators::rented::{self, Act, ControlFault};
use tests::{nats_server::NatsServer, process::Process, rent::Office, wait};
use tokio_util::sync::CancellationToken;

use crate::typed::{self, Says};

/// An answer that comes long after everything that a test waits for.
const LATE: Duration = Duration::from_secs(300);

/// Two keepers of one pool, of which the first is in the middle of an order.
struct Pair {
    _nats: NatsServer,
    office: Office,
    fly: rented::Fly,
    folder: tempfile::TempDir,
    shutdown: CancellationToken,
    first: Option<Process>,
    second: Option<Process>,
}

impl Pair {
    /// k1 keeps two machines, k2 stands by, and a third machine is made whose order is not answered.
    async fn in_the_middle_of_an_order() -> Self {
        let nats = NatsServer::start().await;
        let (office, folder) = (Office::open(&nats.url()).await, tempfile::tempdir().unwrap());
        let shutdown = CancellationToken::new();
        let fly = typed::fly(&shutdown).await;
        let file =
            |name: &str, url: &str| typed::file(folder.path(), name, &nats.url(), url, Says::default());
        let first = file("k1.toml", &typed::by_name(&fly.url()));
        let second = file("k2.toml", &fly.url());
        let first = Some(typed::keeper(folder.path(), "k1", &first));
        office.until(&typed::pool(), MachineState::Ready, 2).await;
        let second = Some(typed::keeper(folder.path(), "k2", &second));
        let pair = Self { _nats: nats, office, fly, folder, shutdown, first, second };
        pair.until_said("k2", "standing by: another keeper keeps this pool").await;
        assert!(typed::log(pair.folder.path(), "k2").contains("by=\"k1\""), "it names who acts");
        pair.fly.account().fault("create", ControlFault::DoneLate(LATE), 1);
        pair.wish(&Wish { scale: Some(3), ..Wish::default() }).await;
        wait::until("the third order", || async { (pair.ordered() == 3).then_some(()) }).await;
        pair
    }

    fn ordered(&self) -> usize {
        self.fly.account().log().iter().filter(|action| action.act == Act::Ordered).count()
    }

    async fn wish(&self, wish: &Wish) {
        self.office.wish(&typed::pool(), wish).await;
    }

    async fn until_said(&self, keeper: &str, words: &str) {
        wait::until(&format!("{keeper} to say `{words}`"), || async {
            typed::log(self.folder.path(), keeper).contains(words).then_some(())
        })
        .await;
    }

    async fn until_kept_by(&self, keeper: &str) {
        wait::until(&format!("{keeper} to keep the pool"), || async {
            let status = self.office.status(&typed::pool()).await?;
            (status.keeper == keeper).then_some(())
        })
        .await;
    }

    /// The requests of k1 that may change something.
    fn calls_of_the_first(&self) -> usize {
        let named = |header: &(String, String)| header.0 == "host" && header.1.starts_with("localhost");
        let changing = |exchange: &&simulators::Exchange| {
            exchange.method != "GET"
                && exchange.path.contains("/machines")
                && exchange.headers.iter().any(named)
        };
        self.fly.account().exchanges().iter().filter(changing).count()
    }

    /// All machines go, and what is left is checked.
    async fn all_is_paid_and_gone(self) {
        let pool = typed::pool();
        self.wish(&Wish { stopped: true, ..Wish::default() }).await;
        self.office.until_empty(&pool).await;
        let invoice =
            || UsdNanos::new(self.fly.account().invoice().lines.iter().map(|line| line.amount_nanos).sum());
        wait::until("the ledger to equal the invoice", || async {
            (self.office.ledger(&pool).await == invoice()).then_some(())
        })
        .await;
        assert!(invoice() > UsdNanos::ZERO);
        assert_eq!(self.ordered(), 3, "nothing was rented twice");
        assert_eq!(self.fly.account().alive(), [], "nothing is left");
        assert_eq!(self.fly.account().touched(), []);
        self.shutdown.cancel();
        self.office.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_is_killed_in_the_middle_of_an_order_is_followed_by_the_one_that_stood_by() {
    let mut pair = Pair::in_the_middle_of_an_order().await;
    pair.first.take().unwrap().kill();
    pair.until_kept_by("k2").await;
    pair.office.until(&typed::pool(), MachineState::Ready, 3).await;
    pair.all_is_paid_and_gone().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_keeper_that_was_frozen_past_its_lease_does_nothing_until_it_holds_it_again() {
    let mut pair = Pair::in_the_middle_of_an_order().await;
    pair.first.as_ref().unwrap().freeze();
    pair.until_kept_by("k2").await;
    pair.office.until(&typed::pool(), MachineState::Ready, 3).await;
    let before = pair.calls_of_the_first();
    pair.first.as_ref().unwrap().thaw();
    pair.until_said("k1", "standing by: another keeper keeps this pool").await;
    // The one that acts has something to do that the other would do as well, if it believed that it acts.
    pair.wish(&Wish { scale: Some(2), ..Wish::default() }).await;
    wait::until("one machine to leave", || async {
        (pair.office.machines(&typed::pool()).await.len() == 2).then_some(())
    })
    .await;
    assert_eq!(pair.calls_of_the_first(), before, "the frozen one went on after it woke");
    // It holds the lease again, and acts again.
    assert_eq!(pair.second.take().unwrap().terminate(), Some(0));
    pair.until_kept_by("k1").await;
    pair.all_is_paid_and_gone().await;
}
