//! All that is said between the landlord and the simulator, held against Render's own description.

use std::collections::BTreeSet;

use keepers::landlord::Landlord as _;
use simulators::rented::Stage;

use crate::{
    Bed,
    openapi::Description,
    row,
    services::{description, eventually, persist},
};

#[tokio::test]
async fn every_request_and_answer_is_as_render_describes_it() {
    let Some(document) = description("render.json") else { return };
    let description = Description::new(document);
    let mut drifts = BTreeSet::new();
    let mut checked = 0;
    for deploys_without_id in [false, true] {
        let bed = Bed::with(|sim| {
            (sim.deploys_without_id, sim.resume_deploys) = (deploys_without_id, false);
        })
        .await;
        bed.simulator.add_foreign("website");
        bed.landlord.quote(&"render@us-east".parse().unwrap()).await.unwrap();
        let row = row();
        row.die_at("id");
        row.ordered(&bed.landlord).await.unwrap_err();
        persist(&row, &bed.landlord).await;
        row.up(&bed.landlord).await;
        row.up(&bed.landlord).await;
        bed.landlord.park(&row.known()).await.unwrap();
        eventually("it is parked", || bed.simulator.account().alive()[0].stage == Stage::Parked).await;
        row.look(&bed.landlord).await.unwrap();
        bed.landlord.wake(&row.known(), &row).await.unwrap();
        row.up(&bed.landlord).await;
        bed.landlord.end(&row.known(), &row).await.unwrap();
        for exchange in bed.simulator.account().exchanges() {
            checked += 1;
            drifts.extend(description.exchange(&exchange));
        }
    }
    assert_eq!(drifts, BTreeSet::new());
    assert!(checked > 20, "{checked}");
}

/// The check itself bites.
#[tokio::test]
async fn what_render_did_not_describe_is_found() {
    let Some(document) = description("render.json") else { return };
    let description = Description::new(document);
    let bed = Bed::new().await;
    row().ordered(&bed.landlord).await.unwrap();
    let exchanges = bed.simulator.account().exchanges();
    let made = exchanges.iter().find(|exchange| exchange.method == "POST").unwrap();
    assert_eq!(description.exchange(made), Vec::<String>::new());
    let change = |change: fn(&mut simulators::Exchange)| {
        let mut exchange = made.clone();
        change(&mut exchange);
        description.exchange(&exchange).len()
    };
    assert!(change(|exchange| exchange.status = 299) > 0);
    assert!(change(|exchange| exchange.path = "/v1/machines".to_owned()) > 0);
    assert!(change(|exchange| exchange.path = "/v1/services?size=5".to_owned()) > 0);
    assert!(change(|exchange| exchange.request = r#"{"type":"web_service"}"#.into()) > 0);
    assert!(change(|exchange| exchange.response = r#"{"service":{"id":5}}"#.into()) > 0);
}
