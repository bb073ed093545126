//! What goes wrong at Railway, and what must hold all the same.

use std::time::Duration;

use keepers::landlord::{CallError, Ending, Landlord as _, Phase};
use simulators::rented::{Act, Canned, ControlFault, Life};

use crate::{
    Bed, row,
    services::{Row, complete, eventually, persist},
};

/// The mutations of an order, in order.
const MUTATIONS: [&str; 5] = [
    "serviceCreate",
    "serviceInstanceUpdate",
    "serviceInstanceLimitsUpdate",
    "serviceDomainCreate",
    "serviceInstanceDeployV2",
];

fn odd(message: &str) -> Canned {
    Canned::json(200, format!(r#"{{"data":null,"errors":[{{"message":"{message}","extensions":{{}}}}]}}"#))
}

/// One service, one deployment, and it serves.
async fn stands_alone(bed: &Bed, row: &Row) {
    let url = row.up(&bed.landlord).await;
    assert_eq!(complete(&url, row).await, 200);
    assert_eq!(bed.simulator.services().len(), 1);
    let ordered = bed.simulator.account().log().into_iter().filter(|action| action.act == Act::Ordered);
    assert_eq!(ordered.count(), 1, "deployments");
}

/// `keepers.md` 4, failure 19.
#[tokio::test]
async fn failure_19_a_rerun_finds_the_service_and_goes_on_at_the_failed_step() {
    for failing in &MUTATIONS[1..] {
        let bed = Bed::new().await;
        let row = row();
        bed.simulator.account().fault(failing, ControlFault::Refused(odd("Problem processing request")), 1);
        let error = row.ordered(&bed.landlord).await.unwrap_err();
        assert!(error.is_unclear(), "{failing}: {error}");
        row.ordered(&bed.landlord).await.unwrap();
        stands_alone(&bed, &row).await;
        let creations = bed.calls().iter().filter(|call| *call == "Create").count();
        assert_eq!(creations, 1, "{failing}");
    }
}

#[tokio::test]
async fn an_answer_that_is_lost_at_any_step_leaves_one_service_and_one_deployment() {
    for failing in MUTATIONS {
        for fault in [
            ControlFault::Cut,
            ControlFault::DoneThenCut,
            ControlFault::DoneBut(Canned::html(502)),
            ControlFault::DoneBut(odd("Problem processing request")),
        ] {
            let bed = Bed::new().await;
            let row = row();
            bed.simulator.account().fault(failing, fault, 1);
            persist(&row, &bed.landlord).await;
            stands_alone(&bed, &row).await;
        }
    }
}

#[tokio::test]
async fn a_keeper_killed_before_any_note_goes_on_with_the_same_service() {
    for name in ["asked", "id", "service", "settings", "domain", "deployment"] {
        let bed = Bed::new().await;
        let row = row();
        row.die_at(name);
        assert!(row.ordered(&bed.landlord).await.unwrap_err().is_unclear(), "{name}");
        persist(&row, &bed.landlord).await;
        stands_alone(&bed, &row).await;
    }
}

#[tokio::test]
async fn a_taken_name_is_found_although_the_service_has_no_deployment() {
    let bed = Bed::new().await;
    let row = row();
    bed.simulator.account().fault("serviceCreate", ControlFault::DoneThenCut, 1);
    bed.simulator.account().fault("deployments", ControlFault::Refused(Canned::html(502)), 1);
    assert!(row.ordered(&bed.landlord).await.unwrap_err().is_unclear());
    assert_eq!(row.id(), None);
    persist(&row, &bed.landlord).await;
    stands_alone(&bed, &row).await;
    assert!(bed.calls().contains(&"Names".to_owned()));
}

/// `keepers.md` 4, failure 20.
#[tokio::test]
async fn failure_20_the_edges_429_is_a_rate_limit_and_no_machine_is_lost() {
    let bed = Bed::new().await;
    let row = row();
    let edge = || Canned::text(429, "error code: 1015");
    bed.simulator.account().fault("serviceCreate", ControlFault::Refused(edge()), 1);
    let error = row.ordered(&bed.landlord).await.unwrap_err();
    assert!(matches!(error, CallError::RateLimited(_, None)), "{error}");
    assert_eq!(bed.simulator.services(), []);
    row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;

    bed.simulator.account().fault("deployments", ControlFault::Refused(edge()), 1);
    let error = bed.landlord.list(&[row.known()]).await.unwrap_err();
    assert!(matches!(error, CallError::RateLimited(_, None)), "{error}");
    bed.simulator.account().fault("deployments", ControlFault::Refused(edge().retry_after("1")), 1);
    let error = bed.landlord.list(&[row.known()]).await.unwrap_err();
    let second = Some(Duration::from_secs(1));
    assert!(matches!(&error, CallError::RateLimited(_, wait) if *wait == second), "{error}");
    let before = bed.calls().len();
    let error = bed.landlord.list(&[row.known()]).await.unwrap_err();
    assert!(matches!(error, CallError::RateLimited(_, Some(_))), "silence is kept: {error}");
    assert_eq!(bed.calls().len(), before);
    row.up(&bed.landlord).await;
}

#[tokio::test]
async fn a_short_silence_in_the_middle_of_an_order_is_waited_for() {
    let bed = Bed::new().await;
    let row = row();
    let edge = Canned::text(429, "error code: 1015").retry_after("0");
    bed.simulator.account().fault("serviceDomainCreate", ControlFault::Refused(edge), 2);
    row.ordered(&bed.landlord).await.unwrap();
    stands_alone(&bed, &row).await;
}

#[tokio::test]
async fn the_hourly_limit_ends_in_silence_not_in_more_calls() {
    let bed = Bed::with(|sim| sim.limits = (3, 1_000), |_| {}).await;
    for _ in 0..3 {
        bed.landlord.list(&[]).await.unwrap();
    }
    for _ in 0..3 {
        let error = bed.landlord.list(&[]).await.unwrap_err();
        let CallError::RateLimited(_, Some(wait)) = error else { panic!("{error}") };
        assert!(wait > Duration::from_secs(60), "{wait:?}");
    }
    assert_eq!(bed.calls().len(), 4);
}

#[tokio::test]
async fn errors_of_graphql_have_their_classes() {
    let bed = Bed::new().await;
    let refused = async |canned: Canned| {
        bed.simulator.account().fault("serviceCreate", ControlFault::Refused(canned), 1);
        row().ordered(&bed.landlord).await.unwrap_err()
    };
    assert!(matches!(refused(odd("Not Authorized")).await, CallError::Authentication(_)));
    assert!(matches!(refused(odd("You are creating too quickly")).await, CallError::RateLimited(_, None)));
    let full = odd("Free plan resource provision limit exceeded");
    assert!(matches!(refused(full).await, CallError::Capacity(_)));
    assert!(matches!(refused(odd("Something new")).await, CallError::Unclear(_)));
    let invalid = r#"{"errors":[{"message":"odd","extensions":{"code":"GRAPHQL_VALIDATION_FAILED"}}]}"#;
    assert!(matches!(refused(Canned::json(400, invalid)).await, CallError::Misconfigured(_)));
    assert!(matches!(refused(Canned::html(503)).await, CallError::Unclear(_)));
    assert_eq!(bed.simulator.services(), []);
}

#[tokio::test]
async fn a_crashed_deployment_is_broken_and_a_later_one_decides() {
    let bed = Bed::new().await;
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    bed.simulator.account().fail(&ordered.notes["deployment"], "CRASHED");
    let crashed = Phase::Broken("crashed".to_owned());
    row.until(&bed.landlord, "it is broken", |phase| *phase == crashed).await;
    bed.simulator.account().set_life(Life { boot: None, ..Life::default() });
    bed.simulator.redeploy(&ordered.id);
    row.until(&bed.landlord, "the newer one starts", |phase| *phase == Phase::Starting).await;
}

/// As `keepers.md` 4, failure 22, at Railway.
#[tokio::test]
async fn a_list_that_lags_behind_the_deployment_is_not_believed() {
    let bed = Bed::new().await;
    let late = Life { listed_after: Duration::from_millis(300), ..Life::default() };
    bed.simulator.account().set_life(late);
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    let (census, mine) = row.look(&bed.landlord).await.unwrap();
    assert!(census.whole, "absent, which is not gone");
    assert!(mine.iter().all(|sighting| !matches!(sighting.phase, Phase::Gone | Phase::Up(_))), "{mine:?}");
    row.up(&bed.landlord).await;
}

#[tokio::test]
async fn a_machine_that_dies_while_it_starts_never_counts_as_up() {
    let bed = Bed::new().await;
    bed.simulator.account().set_life(Life { listens_after: None, ..Life::default() });
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    let deployment = ordered.notes["deployment"].clone();
    let (_, mine) = row.look(&bed.landlord).await.unwrap();
    assert_eq!(mine[0].phase, Phase::Starting);
    bed.simulator.account().fail(&deployment, "FAILED");
    row.until(&bed.landlord, "it failed", |phase| matches!(phase, Phase::Broken(_))).await;
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Accepted));
    row.until(&bed.landlord, "it is gone", |phase| *phase == Phase::Gone).await;
}

#[tokio::test]
async fn an_ending_is_repeated_until_it_is_true() {
    for fault in [ControlFault::Cut, ControlFault::DoneThenCut, ControlFault::Refused(odd("Something new"))] {
        for call in ["deploymentRemove", "serviceDelete"] {
            let bed = Bed::new().await;
            let row = row();
            row.ordered(&bed.landlord).await.unwrap();
            row.up(&bed.landlord).await;
            bed.simulator.account().fault(call, fault.clone(), 1);
            let mut ended = bed.landlord.end(&row.known(), &row).await;
            while ended != Ok(Ending::Gone) {
                assert!(!matches!(ended, Ok(Ending::NotNow)), "{ended:?}");
                ended = bed.landlord.end(&row.known(), &row).await;
            }
            eventually("nothing runs", || bed.simulator.account().alive().is_empty()).await;
        }
    }
}

#[tokio::test]
async fn an_order_that_nobody_answered_can_be_ended_by_its_name() {
    let bed = Bed::new().await;
    let row = row();
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Accepted), "nothing is there");
    row.die_at("id");
    row.ordered(&bed.landlord).await.unwrap_err();
    assert_eq!((row.id(), bed.simulator.services().len()), (None, 1));
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Accepted));
    assert_eq!(bed.simulator.services(), []);
}

#[tokio::test]
async fn a_list_without_the_use_is_still_a_list() {
    let bed = Bed::with(|sim| sim.tells_usage = false, |_| {}).await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    let up = row.until(&bed.landlord, "it is up", |phase| matches!(phase, Phase::Up(_))).await;
    assert_eq!(up.told, None);
}
