//! The bodies in `deploy/` that a person sends, held against the provider's own description.

use std::path::Path;

use crate::description::Description;

#[test]
fn the_endpoint_of_the_runpod_kit_is_one_that_runpod_takes() {
    let Some(description) = Description::load("runpod", "runpod-rest-v2.json") else { return };
    let kit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/runpod/endpoint.json");
    let body = std::fs::read(kit).unwrap();
    let headers = [("content-type", "application/json"), ("authorization", "Bearer key")];
    let headers: Vec<_> = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let drifts = description.request("POST", "/v2/serverless", &headers, &body);
    assert!(drifts.is_empty(), "{drifts:?}");
    // The description is strict: a key that it does not know is a drift.
    let odd = String::from_utf8(body).unwrap().replace("\"flashboot\"", "\"flashBoot\"");
    assert!(!description.request("POST", "/v2/serverless", &headers, odd.as_bytes()).is_empty());
}
