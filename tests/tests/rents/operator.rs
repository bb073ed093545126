//! Promise: an operator's command says prices first, does what it says, ends soon whether or not a keeper is there, and says in one
//! line what is wrong and what to do.

use schemas::machine::MachineState;
use simulators::rented::{self, Act};
use tests::{
    nats_server::{self, NatsServer},
    rent::Office,
    wait,
};
use tokio_util::sync::CancellationToken;

use crate::typed::{self, Says, Typed};

struct Desk {
    _nats: NatsServer,
    office: Office,
    fly: rented::Fly,
    folder: tempfile::TempDir,
    config: String,
    shutdown: CancellationToken,
}

impl Desk {
    async fn open(says: Says<'_>) -> Self {
        let nats = NatsServer::start().await;
        let (office, folder) = (Office::open(&nats.url()).await, tempfile::tempdir().unwrap());
        let shutdown = CancellationToken::new();
        let fly = typed::fly(&shutdown).await;
        let config = typed::file(folder.path(), "beacon.toml", &nats.url(), &fly.url(), says);
        Self { _nats: nats, office, fly, folder, config, shutdown }
    }

    fn types(&self, words: &str) -> Typed {
        Typed::run(&self.config, words)
    }

    fn ordered(&self) -> usize {
        self.fly.account().log().iter().filter(|action| action.act == Act::Ordered).count()
    }

    async fn until_ready(&self, count: usize) {
        self.office.until(&typed::pool(), MachineState::Ready, count).await;
    }

    async fn close(self) {
        self.shutdown.cancel();
        self.office.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keeper_a_command_ends_soon_and_what_was_asked_is_done_when_one_comes() {
    let desk = Desk::open(Says { least: 0, ..Says::default() }).await;
    desk.types("pools status")
        .expect(0, &["fly@us-east", "nobody", "! no keeper has kept fly@us-east yet: start `beacon keeper`"]);
    let unsaid = desk.types("pools scale fly@us-east 1").expect(2, &["--yes"]);
    assert_eq!(unsaid.out, "", "nothing but the refusal: {unsaid:?}");
    desk.types("pools scale fly@us-east 1 --dry-run")
        .expect(0, &["its price is not known", "nothing was asked"]);
    desk.types("pools stop lambda@us-east --yes")
        .expect(2, &["lambda@us-east", "those that do: fly@us-east"]);
    desk.types("pools status lambda@us-east").expect(2, &["lambda@us-east"]);
    desk.types("pools drain fly@us-east 01a220c5 --yes").expect(2, &["01a220c5", "not one of pool"]);
    desk.types("pools forget 01a220c5 --yes").expect(1, &["01a220c5", "beacon pools status"]);
    let asked = desk
        .types("pools scale fly@us-east 1 --yes")
        .expect(1, &["no keeper keeps fly@us-east: start `beacon keeper`", "is stored and is done then"]);
    assert_eq!(asked.err.lines().last().map(|line| line.starts_with("beacon: ")), Some(true), "{asked:?}");
    let json = desk.types("pools scale fly@us-east 1 --yes --json").expect(1, &[]).json();
    assert_eq!((json[0]["asked"].as_bool(), json[0]["kept_by"].is_null()), (Some(true), true));

    let keeper = typed::keeper(desk.folder.path(), "k1", &desk.config);
    desk.until_ready(1).await;
    assert_eq!(keeper.terminate(), Some(0));
    desk.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_there_is_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let nats = format!("nats://127.0.0.1:{}", nats_server::free_port());
    let config = typed::file(folder.path(), "beacon.toml", &nats, "http://127.0.0.1:1/v1", Says::default());
    let said = Typed::run(&config, "pools status").expect(1, &[&nats[7..]]);
    assert_eq!(said.err.lines().count(), 1, "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn prices_come_first_and_what_is_asked_is_done() {
    let desk = Desk::open(Says { least: 1, ..Says::default() }).await;
    let keeper = typed::keeper(desk.folder.path(), "k1", &desk.config);
    desk.until_ready(1).await;

    let dry =
        desk.types("pools scale fly@us-east 3 --dry-run").expect(0, &["now: 1 machine at $0.17 an hour"]);
    dry.expect(
        0,
        &["3 machines", "$0.17 an hour each, $0.51 an hour together", "nothing was asked (--dry-run)"],
    );
    desk.types("pools scale fly@us-east 9 --dry-run")
        .expect(0, &["the configuration allows 4 machines (most)"]);
    let json = desk.types("pools stop fly@us-east --dry-run --json").expect(0, &[]).json();
    assert_eq!((json[0]["asked"].as_bool(), json[0]["kept_by"].as_str()), (Some(false), Some("k1")));
    desk.types("pools stop fly@us-east --json").expect(2, &["--yes"]);
    assert_eq!(
        (desk.office.machines(&typed::pool()).await.len(), desk.ordered()),
        (1, 1),
        "nothing was done"
    );

    desk.types("pools scale fly@us-east 2 --yes").expect(0, &["keeper k1 does it: 2 machines wanted"]);
    desk.until_ready(2).await;
    let status = desk.types("pools status").expect(0, &["k1", "2 ready", "an operator asked for 2 machines"]);
    assert!(status.out.contains("nothing to compare renting with"), "{status:?}");
    assert!(!status.out.contains("\n! "), "nothing is wrong: {status:?}");
    let json = desk.types("pools status fly@us-east --json").expect(0, &[]).json();
    assert_eq!(json[0]["machines"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (json[0]["kept_by"].as_str(), json[0]["wrong"].as_array().map(Vec::len)),
        (Some("k1"), Some(0))
    );

    let machine = json[0]["machines"][0]["machine"].as_str().unwrap().to_owned();
    desk.types(&format!("pools drain fly@us-east {machine} --dry-run"))
        .expect(0, &["$0.17 an hour", &machine]);
    desk.types(&format!("pools drain fly@us-east {machine} --yes")).expect(0, &["keeper k1 does it"]);
    wait::until("another machine in place of the drained one", || async {
        let machines = desk.office.machines(&typed::pool()).await;
        let ready = machines.values().filter(|state| **state == MachineState::Ready).count();
        let gone = machines.keys().all(|found| found.as_str() != machine);
        (gone && ready == 2).then_some(())
    })
    .await;

    desk.types("pools stop fly@us-east --yes").expect(0, &["drained and ended", "0 machines wanted"]);
    desk.office.until_empty(&typed::pool()).await;
    desk.types("pools status").expect(0, &["an operator stopped the pool"]);
    desk.types("pools start fly@us-east --yes")
        .expect(0, &["as many machines as its policy says", "1 machine wanted"]);
    desk.until_ready(1).await;

    keeper.kill();
    wait::until("the command to say that nobody keeps the pool", || async {
        desk.types("pools status")
            .out
            .contains("! no keeper keeps fly@us-east: the last, k1, was heard")
            .then_some(())
    })
    .await;
    desk.types("pools status")
        .expect(0, &["1 machine of it costs on, and nobody watches it", "start `beacon keeper`"]);
    let machine = desk.office.machines(&typed::pool()).await.into_keys().next().unwrap();
    desk.types(&format!("pools forget {machine} --dry-run")).expect(0, &["ready", "nothing was forgotten"]);
    desk.types(&format!("pools forget {machine}")).expect(2, &["--yes"]);
    desk.types(&format!("pools forget {machine} --yes")).expect(0, &["is forgotten"]);
    assert!(desk.office.machines(&typed::pool()).await.is_empty());
    desk.close().await;
}
