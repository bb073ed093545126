//! What accounts tell when they are looked at: one finding per question, whatever they answer, and nothing is ordered or changed.

#![expect(clippy::unwrap_used, reason = "helpers of tests: what cannot go on has failed")]

mod accounts;

use std::time::Duration;

use keepers::{account::Account, survey::findings};
use schemas::{
    check::{Aspect, Finding, Voice},
    quoted::Quoted,
};
use serde_json::json;
use simulators::rented::{Canned, ControlFault};
use tokio::time::timeout;

use accounts::{Bed, NAMES};

/// Far above every bound of a survey; only one without a bound waits for it.
const BOUND: Duration = Duration::from_secs(60);

impl Bed {
    async fn findings(&self) -> Vec<Finding> {
        let survey = timeout(BOUND, self.landlord.survey()).await.expect("a survey is bounded");
        let findings = findings(&survey, &self.pool);
        let account = self.account();
        assert!(
            account.log().is_empty() && account.alive().is_empty(),
            "a survey orders and changes nothing"
        );
        let mut aspects: Vec<Aspect> = findings.iter().map(|finding| finding.aspect).collect();
        aspects.sort_unstable();
        aspects.dedup();
        assert_eq!(aspects.len(), findings.len(), "one finding per question: {findings:#?}");
        for finding in &findings {
            let line = finding.line();
            assert!(
                !line.contains('\n') && (finding.voice == Voice::Ok || finding.todo.is_some()),
                "{finding:?}"
            );
            assert!(!line.contains(self.key), "a key is shown: {line}");
        }
        findings
    }

    async fn expect(&self, aspect: Aspect, voice: Voice, words: &[&str]) {
        let findings = self.findings().await;
        let finding = findings.iter().find(|finding| finding.aspect == aspect).unwrap();
        assert_eq!(finding.voice, voice, "{}: {finding:?}", self.name);
        for word in words {
            assert!(finding.line().contains(word), "{}: `{word}` is not in `{}`", self.name, finding.line());
        }
    }
}

#[tokio::test]
async fn where_all_is_well_nothing_is_wrong_and_nothing_is_changed() {
    for name in NAMES {
        let bed = Bed::open(name).await;
        bed.expect(Aspect::Key, Voice::Ok, &[]).await;
        bed.expect(Aspect::App, Voice::Ok, &["pinned"]).await;
        bed.expect(Aspect::Foreign, Voice::Ok, &[]).await;
        bed.expect(Aspect::Model, Voice::Unknown, &["starts no machine"]).await;
        let wrong: Vec<_> =
            bed.findings().await.into_iter().filter(|finding| finding.voice == Voice::Wrong).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
        let survey = bed.landlord.survey().await;
        let way = Account::way(&survey, &bed.pool).await;
        assert_eq!(way.voice, Voice::Ok, "{way:?}");
        assert!(way.found.contains("no machine of the pool stands; to the control API"), "{way:?}");
    }
}

#[tokio::test]
async fn a_wrong_key_is_said_and_nothing_else_is_asked() {
    for name in NAMES {
        let bed = Bed::with_key(name, "wrong-key").await;
        bed.expect(Aspect::Key, Voice::Wrong, &["[[landlords]]"]).await;
        bed.expect(Aspect::Region, Voice::Unknown, &["not asked: the key is refused"]).await;
    }
}

#[tokio::test]
async fn whatever_an_account_answers_the_survey_ends_and_makes_nothing_up() {
    for name in NAMES {
        let bed = Bed::open(name).await;
        for canned in [
            Canned::html(503),
            Canned::html(200),
            Canned::json(200, "{}"),
            Canned::json(200, "[]"),
            Canned::json(429, "{}").retry_after("7"),
            Canned::text(429, "error code: 1015"),
        ] {
            bed.account().fault_always("*", ControlFault::Refused(canned.clone()));
            let findings = bed.findings().await;
            let key = &findings[0];
            assert!(key.voice != Voice::Wrong || canned.status == 200, "{name} {canned:?}: {key:?}");
            let quota = findings.iter().find(|finding| finding.aspect == Aspect::Quota).unwrap();
            assert!(quota.voice != Voice::Ok, "{name} {canned:?}: {quota:?}");
            bed.account().clear_faults();
            // What was refused for its rate is left alone for a while.
            if canned.status == 429 {
                break;
            }
        }
    }
}

#[tokio::test]
async fn an_account_that_hangs_is_given_up() {
    let hangs = NAMES.map(|name| async move {
        let bed = Bed::open(name).await;
        bed.account().fault_always("*", ControlFault::Hang);
        bed.expect(Aspect::Key, Voice::Unknown, &["no answer within 10 s"]).await;
    });
    futures_util::future::join_all(hangs).await;
}

#[tokio::test]
async fn places_that_do_not_exist_are_wrong_where_the_provider_lists_them() {
    for name in ["lambda", "fly", "railway"] {
        let bed = Bed::at(name, "mars-1").await;
        bed.expect(Aspect::Region, Voice::Wrong, &["mars-1", "[pools.rent]"]).await;
    }
    let golem = Bed::open("golem").await;
    golem.expect(Aspect::Region, Voice::Unknown, &["does not tell"]).await;
}

#[tokio::test]
async fn what_is_not_ours_is_named_with_its_price_where_that_is_told() {
    let lambda = Bed::open("lambda").await;
    lambda.account().add_foreign("theirs", "gpu_1x_a10", "us-east-1", json!({ "ssh_key_names": [] }));
    lambda
        .expect(Aspect::Foreign, Voice::Warning, &["theirs", "gpu_1x_a10 in us-east-1", "$1.29 an hour"])
        .await;
    let fly = Bed::open("fly").await;
    fly.account().add_foreign("3287a", "performance-4x", "iad", json!({ "name": "x", "config": {} }));
    fly.expect(Aspect::Foreign, Voice::Warning, &["3287a", "app beacon-llama", "price not told"]).await;
    for name in ["railway", "render"] {
        let bed = Bed::open(name).await;
        bed.add_foreign("website");
        bed.expect(Aspect::Foreign, Voice::Warning, &["1 not ours", "service website"]).await;
    }
}

#[tokio::test]
async fn prices_are_those_of_the_api_or_it_is_said_that_there_is_none() {
    for (name, sku) in [("lambda", "gpu_1x_a10"), ("golem", "gpu")] {
        let quoted = Bed::open(name).await.landlord.survey().await.prices;
        assert!(quoted.of(sku).is_some(), "{name}: {quoted:?}");
    }
    let price = Bed::open("golem").await.landlord.survey().await.prices;
    assert_eq!(price.of("gpu").unwrap().usd.to_string(), "0.08442");
    for (name, page) in [("fly", "fly.io"), ("railway", "railway.com"), ("render", "render.com")] {
        let survey = Bed::open(name).await.landlord.survey().await;
        assert!(matches!(survey.prices, Quoted::Untold { page: found } if found.contains(page)), "{name}");
        let price = survey.pools.values().next().unwrap().price.clone().unwrap();
        assert!(price.voice == Voice::Unknown && price.line().contains(page), "{price:?}");
    }
}

#[tokio::test]
async fn room_is_told_where_it_is_listed() {
    let bed = Bed::open("lambda").await;
    bed.expect(Aspect::Quota, Voice::Ok, &["us-east-1", "does not tell the account's quota"]).await;
    bed.lambda().set_capacity("gpu_1x_a10", "us-east-1", false, None);
    bed.expect(Aspect::Quota, Voice::Warning, &["no capacity for gpu_1x_a10", "more places"]).await;
    let fly = Bed::open("fly").await;
    fly.expect(Aspect::Quota, Voice::Ok, &["room for a performance-4x in iad"]).await;
    fly.fly().set_capacity("iad", Some(0));
    fly.expect(Aspect::Quota, Voice::Warning, &["no room"]).await;
    Bed::open("golem").await.expect(Aspect::Quota, Voice::Ok, &["on offer in us-east", "0 GLM"]).await;
    for name in ["railway", "render"] {
        Bed::open(name).await.expect(Aspect::Quota, Voice::Unknown, &["does not tell"]).await;
    }
}

#[tokio::test]
async fn an_app_that_does_not_exist_is_made_first() {
    let bed = Bed::with_app("no-such-app").await;
    bed.expect(Aspect::App, Voice::Wrong, &["no-such-app", "fly apps create"]).await;
}
