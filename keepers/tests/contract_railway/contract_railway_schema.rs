//! All that is said between the landlord and the simulator, held against Railway's introspection.

use std::collections::BTreeSet;

use keepers::landlord::{Landlord as _, Phase};
use serde_json::json;
use simulators::rented::{Canned, ControlFault};

use crate::{
    Bed,
    introspection::Schema,
    row,
    services::{description, persist},
};

#[tokio::test]
async fn every_document_variable_and_answer_is_as_railway_describes_it() {
    let Some(document) = description("railway.json") else { return };
    let schema = Schema::new(&document);
    let bed = Bed::with(|_| {}, |ours| ours.sleep = true).await;
    let account = bed.simulator.account();
    bed.simulator.add_foreign("Postgres");
    bed.landlord.quote(&"railway@us-east".parse().unwrap()).await.unwrap();
    let row = row();
    // Answers that are cut off are not recorded.
    account.fault("serviceCreate", ControlFault::DoneBut(Canned::html(502)), 1);
    account.fault("serviceDomainCreate", ControlFault::Cut, 1);
    persist(&row, &bed.landlord).await;
    bed.landlord.list(&[]).await.unwrap();
    row.up(&bed.landlord).await;
    // A person deploys once more, so the deployment that was asked for leaves the list.
    bed.simulator.redeploy(&row.id().unwrap());
    let asked = || bed.calls().contains(&"Deployment".to_owned());
    row.until(&bed.landlord, "the old one left", |phase| matches!(phase, Phase::Up(_)) && asked()).await;
    account.fault("deploymentRemove", ControlFault::Refused(Canned::html(502)), 1);
    bed.landlord.end(&row.known(), &row).await.unwrap();
    row.until(&bed.landlord, "it is gone", |phase| *phase == Phase::Gone).await;

    let mut drifts = BTreeSet::new();
    for exchange in account.exchanges() {
        drifts.extend(schema.exchange(&exchange.request, &exchange.response));
    }
    assert_eq!(drifts, BTreeSet::new());
    let called: BTreeSet<String> = bed.calls().into_iter().collect();
    let all = [
        "Check",
        "Create",
        "Delete",
        "Deploy",
        "Deployment",
        "Domain",
        "Instance",
        "Limits",
        "Machines",
        "MachinesAndUse",
        "Names",
        "Remove",
        "Services",
        "Update",
        "WhoseToken",
    ];
    for name in all {
        assert!(called.contains(name), "{name} was never sent: {called:?}");
    }
}

/// The check itself bites.
#[test]
fn what_railway_did_not_describe_is_found() {
    let Some(document) = description("railway.json") else { return };
    let schema = Schema::new(&document);
    let drifts = |query: &str, variables: serde_json::Value| {
        let request = json!({ "query": query, "variables": variables, "operationName": "Q" });
        schema.exchange(request.to_string().as_bytes(), b"{}").len()
    };
    assert_eq!(drifts("query Q($i: String!) { service(id: $i) { id } }", json!({ "i": "s" })), 0);
    assert_eq!(drifts("query Q($i: String!) { service(id: $i) { id } }", json!({})), 1);
    assert_eq!(drifts("query Q($i: Int!) { service(id: $i) { id } }", json!({ "i": 7 })), 1);
    assert_eq!(drifts("query Q($i: String!) { service(id: $i) { age } }", json!({ "i": "s" })), 1);
    assert_eq!(drifts("query Q { service { id } }", json!({})), 1);
    assert_eq!(drifts("query Q($i: String!) { service(id: $i) }", json!({ "i": "s" })), 1);
    let create = "mutation Q($i: ServiceCreateInput!) { serviceCreate(input: $i) { id } }";
    assert_eq!(drifts(create, json!({ "i": { "projectId": "p" } })), 0);
    assert_eq!(drifts(create, json!({ "i": { "projectId": "p", "icon": null } })), 1);
    assert_eq!(drifts(create, json!({ "i": { "name": "n", "size": 5 } })), 2);
    let usage = "query Q { usage(measurements: [CPU_USAGE, DREAMS]) { value } }";
    assert_eq!(drifts(usage, json!({})), 1);
}
