//! What goes wrong at Render, and what must hold all the same.

use std::time::Duration;

use keepers::landlord::{CallError, Ending, Landlord as _, Phase};
use simulators::rented::{Act, Canned, ControlFault, Life, Stage};

use crate::{
    Bed, row,
    services::{Row, complete, eventually, persist},
};

/// One service, ordered once, and it serves.
async fn stands_alone(bed: &Bed, row: &Row) {
    let url = row.up(&bed.landlord).await;
    assert_eq!(complete(&url, row).await, 200);
    assert_eq!(bed.simulator.services().len(), 1);
    let ordered = bed.simulator.account().log().into_iter().filter(|action| action.act == Act::Ordered);
    assert_eq!(ordered.count(), 1);
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_one_service() {
    for fault in [
        ControlFault::Cut,
        ControlFault::DoneThenCut,
        ControlFault::DoneBut(Canned::html(502)),
        ControlFault::DoneBut(Canned::json(500, r#"{"message":"internal"}"#)),
        ControlFault::Refused(Canned::json(503, r#"{"message":"try later"}"#)),
    ] {
        let bed = Bed::new().await;
        let row = row();
        bed.simulator.account().fault("create", fault, 1);
        persist(&row, &bed.landlord).await;
        stands_alone(&bed, &row).await;
    }
}

#[tokio::test]
async fn a_keeper_killed_before_any_note_goes_on_with_the_same_service() {
    for name in ["asked", "id", "service", "deploy"] {
        let bed = Bed::new().await;
        let row = row();
        row.die_at(name);
        assert!(row.ordered(&bed.landlord).await.unwrap_err().is_unclear(), "{name}");
        persist(&row, &bed.landlord).await;
        stands_alone(&bed, &row).await;
    }
}

#[tokio::test]
async fn a_taken_name_is_the_machine_that_an_earlier_call_made() {
    let bed = Bed::new().await;
    let row = row();
    row.die_at("id");
    row.ordered(&bed.landlord).await.unwrap_err();
    // The list lags behind once, so the name is asked for again.
    bed.simulator.account().fault("list", ControlFault::Refused(Canned::json(200, "[]")), 1);
    persist(&row, &bed.landlord).await;
    assert_eq!(bed.count("POST", "/services"), 2);
    stands_alone(&bed, &row).await;
}

/// `keepers.md` 4, failure 21.
#[tokio::test]
async fn failure_21_a_suspended_service_is_resumed_or_a_person_is_told_and_nothing_is_rolled_back() {
    let bed = Bed::new().await;
    let row = row();
    row.die_at("deploy");
    row.ordered(&bed.landlord).await.unwrap_err();
    let id = row.id().unwrap();
    let notes = row.notes();
    bed.simulator.suspend_by(&id, "user");
    eventually("it is suspended", || bed.simulator.account().alive()[0].stage == Stage::Parked).await;
    // Its deploys are not listed, so the order asks for one.
    bed.simulator.account().fault("deploys", ControlFault::Refused(Canned::json(200, "[]")), 1);
    let ordered = persist(&row, &bed.landlord).await;
    assert_eq!((ordered.id.as_str(), bed.count("POST", "/resume")), (id.as_str(), 1));
    assert!(notes.iter().all(|(name, value)| ordered.notes.get(name) == Some(value)), "{notes:?}");
    stands_alone(&bed, &row).await;

    bed.simulator.suspend_by(&id, "billing");
    let broken = |phase: &Phase| *phase == Phase::Broken("suspended by billing".to_owned());
    row.until(&bed.landlord, "its suspension is told", broken).await;
    let error = bed.landlord.wake(&row.known(), &row).await.unwrap_err();
    assert!(error.needs_a_person() && error.to_string().contains("billing"), "{error}");
    assert_eq!(bed.simulator.services().len(), 1, "nothing is rolled back");
}

/// `keepers.md` 4, failure 22.
#[tokio::test]
async fn failure_22_a_deploy_without_an_id_is_not_ready_while_the_old_version_answers() {
    let slow = Duration::from_millis(300);
    let bed = Bed::with(|sim| {
        (sim.deploys_without_id, sim.resume_deploys, sim.deploy_takes) = (true, false, slow);
    })
    .await;
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    let url = row.up(&bed.landlord).await;
    bed.landlord.park(&row.known()).await.unwrap();
    eventually("it is parked", || bed.simulator.account().alive()[0].stage == Stage::Parked).await;
    bed.landlord.wake(&row.known(), &row).await.unwrap();
    assert_eq!(bed.count("POST", "/deploys"), 1, "resuming made none");
    eventually("the old version serves", || bed.simulator.account().server(&ordered.id).is_some()).await;
    assert_eq!(complete(&url, &row).await, 200);
    let (_, mine) = row.look(&bed.landlord).await.unwrap();
    assert_eq!(mine[0].phase, Phase::Starting, "{:?}", bed.simulator.deploys(&ordered.id));
    row.up(&bed.landlord).await;
    assert_eq!(row.notes()["live"], bed.simulator.deploys(&ordered.id)[1].0);
}

#[tokio::test]
async fn a_deploy_that_fails_is_broken_and_a_later_one_decides() {
    let bed = Bed::new().await;
    bed.simulator.account().set_life(Life { listens_after: None, ..Life::default() });
    let row = row();
    let ordered = row.ordered(&bed.landlord).await.unwrap();
    let (_, mine) = row.look(&bed.landlord).await.unwrap();
    assert_eq!(mine[0].phase, Phase::Starting);
    bed.simulator.fail_deploy(&ordered.id, "update_failed");
    let failed = Phase::Broken("update_failed".to_owned());
    row.until(&bed.landlord, "it failed", |phase| *phase == failed).await;
    bed.simulator.redeploy(&ordered.id, Duration::from_secs(60));
    row.until(&bed.landlord, "the later one starts", |phase| *phase == Phase::Starting).await;
}

#[tokio::test]
async fn the_recorded_limits_are_kept_by_their_headers() {
    let minute = Duration::from_secs(60);
    let bed =
        Bed::with(|sim| sim.budgets = [(400, minute), (100, minute), (10, minute), (2, minute * 60)]).await;
    let rows = [row(), row(), row()];
    for row in &rows[..2] {
        row.ordered(&bed.landlord).await.unwrap();
    }
    // Nothing is left, so a third is not even asked for.
    let error = rows[2].ordered(&bed.landlord).await.unwrap_err();
    let CallError::RateLimited(_, Some(wait)) = error else { panic!("{error}") };
    assert!(wait > minute, "{wait:?}");
    assert_eq!(bed.count("POST", "/services"), 2);
    // Other calls have limits of their own.
    bed.landlord.list(&[]).await.unwrap();
    assert_eq!(bed.landlord.end(&rows[0].known(), &rows[0]).await, Ok(Ending::Gone));
}

/// As `keepers.md` 4, failure 20, at Render.
#[tokio::test]
async fn a_429_without_headers_or_json_is_a_rate_limit_and_no_machine_is_lost() {
    let bed = Bed::new().await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    let edge = Canned::text(429, "error code: 1015").retry_after("1");
    bed.simulator.account().fault("list", ControlFault::Refused(edge), 1);
    let error = bed.landlord.list(&[row.known()]).await.unwrap_err();
    assert!(matches!(&error, CallError::RateLimited(_, Some(wait)) if wait.as_secs() == 1), "{error}");
    row.up(&bed.landlord).await;
    bed.simulator.account().fault("create", ControlFault::Refused(Canned::text(429, "slow down")), 1);
    let error = crate::row().ordered(&bed.landlord).await.unwrap_err();
    assert!(matches!(&error, CallError::RateLimited(_, Some(wait)) if wait.as_secs() == 60), "{error}");
    assert_eq!(bed.simulator.services().len(), 1);
}

#[tokio::test]
async fn refusals_have_their_classes() {
    let bed = Bed::new().await;
    let refused = async |status: u16| {
        let canned = Canned::json(status, r#"{"message":"no"}"#);
        bed.simulator.account().fault("create", ControlFault::Refused(canned), 1);
        row().ordered(&bed.landlord).await.unwrap_err()
    };
    for status in [401, 403] {
        assert!(matches!(refused(status).await, CallError::Authentication(_)), "{status}");
    }
    for status in [400, 402, 406] {
        assert!(matches!(refused(status).await, CallError::Misconfigured(_)), "{status}");
    }
    for status in [409, 500, 503] {
        assert!(matches!(refused(status).await, CallError::Unclear(_)), "{status}");
    }
    assert_eq!(bed.simulator.services(), []);
}

#[tokio::test]
async fn a_machine_whose_deploys_cannot_be_asked_for_is_unanswered_and_not_gone() {
    let bed = Bed::new().await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    bed.simulator.account().fault("deploys", ControlFault::Refused(Canned::html(502)), 1);
    let (census, mine) = row.look(&bed.landlord).await.unwrap();
    assert_eq!((mine.len(), census.unanswered), (0, vec![row.machine.clone()]));
    row.up(&bed.landlord).await;
}

#[tokio::test]
async fn absent_from_a_list_is_gone_by_its_own_page_only() {
    let bed = Bed::new().await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    row.up(&bed.landlord).await;
    bed.simulator.account().fault("list", ControlFault::Refused(Canned::json(200, "[]")), 1);
    row.up(&bed.landlord).await;
    bed.simulator.account().fault("list", ControlFault::Refused(Canned::json(200, "[]")), 1);
    bed.simulator.account().fault("get", ControlFault::Refused(Canned::html(503)), 1);
    let (census, mine) = row.look(&bed.landlord).await.unwrap();
    assert_eq!((mine.len(), census.unanswered.len()), (0, 1));
    row.up(&bed.landlord).await;
}

#[tokio::test]
async fn an_ending_is_repeated_until_it_is_true() {
    for fault in [ControlFault::Cut, ControlFault::DoneThenCut, ControlFault::DoneBut(Canned::html(502))] {
        let bed = Bed::new().await;
        let row = row();
        row.ordered(&bed.landlord).await.unwrap();
        bed.simulator.account().fault("delete", fault, 1);
        assert!(bed.landlord.end(&row.known(), &row).await.unwrap_err().is_unclear());
        assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Gone));
        eventually("nothing runs", || bed.simulator.account().alive().is_empty()).await;
    }
    let bed = Bed::new().await;
    let row = row();
    row.ordered(&bed.landlord).await.unwrap();
    let busy = Canned::json(409, r#"{"message":"busy"}"#);
    bed.simulator.account().fault("delete", ControlFault::Refused(busy), 1);
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::NotNow));
}

#[tokio::test]
async fn an_order_that_nobody_answered_can_be_ended_by_its_name() {
    let bed = Bed::new().await;
    let row = row();
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Accepted), "nothing is there");
    row.die_at("id");
    row.ordered(&bed.landlord).await.unwrap_err();
    assert_eq!((row.id(), bed.simulator.services().len()), (None, 1));
    assert_eq!(bed.landlord.end(&row.known(), &row).await, Ok(Ending::Gone));
    assert_eq!(bed.simulator.services(), []);
}
