//! What an account tells when it is looked at without being changed, and what that means for each pool that rents there.
//!
//! A landlord brings facts ([`Survey`]); what they mean is decided here ([`findings`]), alike for all of them and without I/O.

use std::{collections::BTreeMap, future::Future, time::Duration};

use schemas::{
    PoolId, UsdNanos,
    check::{Aspect, Finding, Foreign, foreign, round_trip},
    quoted::Quoted,
};
use tokio::time::timeout;

use crate::call_error::CallError;

/// A question that is not answered within this is given up: a check is read by a person who waits.
pub const WITHIN: Duration = Duration::from_secs(10);

/// A fact, as far as the provider tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told<T> {
    /// It tells this.
    Said(T),
    /// It has no call for it. What a person does instead.
    Untold(&'static str),
    /// It did not answer.
    Failed(CallError),
}

/// Something that stands in the account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The provider's id.
    pub id: String,
    /// What it is, for a person.
    pub what: String,
    /// What an hour of it costs, where that is told; dollars.
    pub usd_per_hour: Option<UsdNanos>,
    /// Whether it bears a mark of Beacon's.
    pub marked: bool,
    /// The pool that it works for, if it is one of this account's.
    pub pool: Option<PoolId>,
    /// Where its server is reached.
    pub url: Option<String>,
}

/// What is told about one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfPool {
    /// The shape of its image, or of what it stands for; wrong where the account cannot run it.
    pub app: Finding,
    /// The places that it names, in the provider's words.
    pub places: Vec<String>,
    /// Whether it may have its machines, and could have one now.
    pub quota: Finding,
    /// The finding about its price, where neither provider nor price book tells it: the configuration does.
    pub price: Option<Finding>,
}

/// An account, as it was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Survey {
    /// The cheapest call that needs the key.
    pub key: Result<String, CallError>,
    /// The places that there are.
    pub places: Told<Vec<String>>,
    /// Its prices.
    pub prices: Quoted,
    /// All that stands there.
    pub standing: Told<Vec<Standing>>,
    /// Its pools.
    pub pools: BTreeMap<PoolId, OfPool>,
    /// The control API; any answer of it tells how far away it is.
    pub control: String,
}

impl Survey {
    /// An account of which nothing is known because its first call failed.
    pub fn failed(error: CallError, control: String) -> Self {
        Self {
            places: Told::Failed(error.clone()),
            prices: Quoted::Failed(error.to_string()),
            standing: Told::Failed(error.clone()),
            key: Err(error),
            pools: BTreeMap::new(),
            control,
        }
    }

    /// An account that cannot be looked at.
    pub fn nobody() -> Self {
        let error = CallError::Misconfigured("this account cannot be looked at".into());
        Self::failed(error, String::new())
    }

    /// Where the way of a pool's jobs is measured: a machine of it, else the control API. True for a machine.
    pub fn way(&self, pool: &PoolId) -> (String, bool) {
        let Told::Said(standing) = &self.standing else { return (self.control.clone(), false) };
        let machine =
            standing.iter().filter(|one| one.pool.as_ref() == Some(pool)).find_map(|one| one.url.clone());
        machine.map_or_else(
            || (self.control.clone(), false),
            |url| (format!("{}/health", url.trim_end_matches('/')), true),
        )
    }
}

/// A question with a bound.
pub(crate) async fn within<T>(asked: impl Future<Output = Result<T, CallError>>) -> Result<T, CallError> {
    let late = |_| CallError::Unclear(format!("no answer within {} s", WITHIN.as_secs()));
    timeout(WITHIN, asked).await.map_err(late).and_then(|answered| answered)
}

impl<T> From<Result<T, CallError>> for Told<T> {
    fn from(result: Result<T, CallError>) -> Self {
        result.map_or_else(Self::Failed, Self::Said)
    }
}

/// What could not be read this time.
fn unread(aspect: Aspect, what: &str, error: &CallError) -> Finding {
    Finding::unknown(aspect, format!("{what} is not told: {error}"), "check again, or look by hand")
}

/// The findings about one pool, without its price and its round trip.
pub fn findings(survey: &Survey, pool: &PoolId) -> Vec<Finding> {
    let mut findings = vec![key(&survey.key)];
    let rest = [Aspect::App, Aspect::Model, Aspect::Region, Aspect::Quota, Aspect::Foreign];
    if let Err(error) = &survey.key {
        let because = match error {
            CallError::Authentication(_) => "the key is refused",
            CallError::Misconfigured(_) => "the account is not set up",
            CallError::RateLimited(..)
            | CallError::Capacity(_)
            | CallError::Price { .. }
            | CallError::Unreachable(_)
            | CallError::Unclear(_) => "the account does not answer",
        };
        let not_asked =
            |aspect| Finding::unknown(aspect, format!("not asked: {because}"), "see to that first");
        findings.extend(rest.map(not_asked));
        return findings;
    }
    let Some(of) = survey.pools.get(pool) else {
        let todo = "name this account in [pools.rent] of the pool";
        findings.push(Finding::wrong(Aspect::App, "the account knows no such pool", todo));
        return findings;
    };
    findings.push(of.app.clone());
    findings.push(Finding::unknown(
        Aspect::Model,
        "a check starts no machine; the keeper asks each for a completion before it takes jobs",
        "start one, and look at `beacon pools status`",
    ));
    findings.push(region(&survey.places, of));
    findings.push(of.quota.clone());
    findings.push(match &survey.standing {
        Told::Said(standing) => others(standing),
        Told::Untold(by_hand) => {
            Finding::unknown(Aspect::Foreign, "the API does not tell what else stands there", *by_hand)
        }
        Told::Failed(error) => unread(Aspect::Foreign, "what else stands there", error),
    });
    findings
}

fn key(key: &Result<String, CallError>) -> Finding {
    match key {
        Ok(found) => Finding::ok(Aspect::Key, found.clone()),
        Err(error @ CallError::Authentication(_)) => Finding::wrong(
            Aspect::Key,
            error.to_string(),
            "give the account a key that may do this, with api_key_env or api_key_file of [[landlords]]",
        ),
        Err(error @ CallError::Misconfigured(_)) => {
            Finding::wrong(Aspect::Key, error.to_string(), "correct [[landlords]]")
        }
        Err(error @ CallError::Unreachable(_)) => {
            Finding::wrong(Aspect::Key, error.to_string(), "check base_url of [[landlords]], and the network")
        }
        Err(
            error @ (CallError::RateLimited(..)
            | CallError::Capacity(_)
            | CallError::Price { .. }
            | CallError::Unclear(_)),
        ) => unread(Aspect::Key, "whether the key is valid", error),
    }
}

fn region(places: &Told<Vec<String>>, of: &OfPool) -> Finding {
    let wanted = of.places.join(", ");
    match places {
        Told::Said(there) => {
            let missing: Vec<&str> =
                of.places.iter().filter(|place| !there.contains(place)).map(String::as_str).collect();
            if missing.is_empty() {
                return Finding::ok(Aspect::Region, format!("the provider has {wanted}"));
            }
            let found = format!("the provider has no {} (it has {})", missing.join(", "), there.join(", "));
            let todo = "correct places in [pools.rent]";
            if missing.len() == of.places.len() {
                Finding::wrong(Aspect::Region, found, todo)
            } else {
                Finding::warning(Aspect::Region, found, todo)
            }
        }
        Told::Untold(by_hand) => {
            Finding::unknown(Aspect::Region, format!("the API does not tell where {wanted} is"), *by_hand)
        }
        Told::Failed(error) => unread(Aspect::Region, "which places there are", error),
    }
}

fn others(standing: &[Standing]) -> Finding {
    let theirs = standing.iter().filter(|one| !one.marked).map(|one| Foreign {
        id: one.id.clone(),
        what: one.what.clone(),
        usd_per_hour: one.usd_per_hour,
    });
    foreign(theirs.collect())
}

/// The finding about how far away a pool's machines are, or where none stands, their provider.
pub fn way(samples: Vec<Duration>, host: &str, machine: bool) -> Finding {
    let mut finding = round_trip(samples, host);
    if !machine {
        finding.found = format!("no machine of the pool stands; to the control API: {}", finding.found);
    }
    finding
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemas::check::Voice;

    fn pool() -> PoolId {
        "lambda@us-east".parse().unwrap()
    }

    fn survey() -> Survey {
        let of = OfPool {
            app: Finding::ok(Aspect::App, "pinned"),
            places: vec!["us-east-1".into()],
            quota: Finding::ok(Aspect::Quota, "room"),
            price: None,
        };
        Survey {
            key: Ok("the key is taken".into()),
            places: Told::Said(vec!["us-east-1".into(), "us-east-2".into()]),
            prices: Quoted::Told(vec![]),
            standing: Told::Said(vec![]),
            pools: BTreeMap::from([(pool(), of)]),
            control: "https://cloud.example/api".into(),
        }
    }

    fn standing(id: &str, marked: bool, pool: Option<PoolId>) -> Standing {
        let url = Some(format!("http://{id}:8000"));
        Standing { id: id.into(), what: "instance".into(), usd_per_hour: None, marked, pool, url }
    }

    fn voice(survey: &Survey, aspect: Aspect) -> Voice {
        let findings = findings(survey, &pool());
        findings.iter().find(|finding| finding.aspect == aspect).unwrap().voice
    }

    #[test]
    fn a_place_that_does_not_exist_is_wrong_and_one_of_two_is_a_warning() {
        let mut survey = survey();
        assert_eq!(voice(&survey, Aspect::Region), Voice::Ok);
        survey.pools.get_mut(&pool()).unwrap().places.push("mars".into());
        assert_eq!(voice(&survey, Aspect::Region), Voice::Warning);
        survey.pools.get_mut(&pool()).unwrap().places = vec!["mars".into()];
        assert_eq!(voice(&survey, Aspect::Region), Voice::Wrong);
        survey.places = Told::Untold("look at the map");
        assert_eq!(voice(&survey, Aspect::Region), Voice::Unknown);
    }

    #[test]
    fn what_bears_no_mark_is_not_ours_and_a_stray_of_another_beacon_is() {
        let mut survey = survey();
        survey.standing = Told::Said(vec![standing("a", true, Some(pool())), standing("b", true, None)]);
        assert_eq!(voice(&survey, Aspect::Foreign), Voice::Ok);
        survey.standing = Told::Said(vec![standing("a", true, Some(pool())), standing("c", false, None)]);
        assert_eq!(voice(&survey, Aspect::Foreign), Voice::Warning);
        assert_eq!(survey.way(&pool()), ("http://a:8000/health".into(), true));
        survey.standing = Told::Failed(CallError::Unclear("503".into()));
        assert_eq!(voice(&survey, Aspect::Foreign), Voice::Unknown);
        assert_eq!(survey.way(&pool()), ("https://cloud.example/api".into(), false));
    }

    #[test]
    fn only_a_refusal_is_a_verdict_on_the_key_and_nothing_else_is_asked_then() {
        for (error, expected) in [
            (CallError::Authentication("401".into()), Voice::Wrong),
            (CallError::Misconfigured("no account".into()), Voice::Wrong),
            (CallError::Unreachable("refused".into()), Voice::Wrong),
            (CallError::RateLimited("429".into(), None), Voice::Unknown),
            (CallError::Unclear("503".into()), Voice::Unknown),
        ] {
            let failed = Survey::failed(error.clone(), String::new());
            let findings = findings(&failed, &pool());
            assert_eq!(findings[0].voice, expected, "{error}");
            assert!(findings.len() == 6 && findings[1..].iter().all(|one| one.voice == Voice::Unknown));
        }
    }

    #[test]
    fn the_way_to_a_control_api_is_not_taken_for_the_way_to_a_machine() {
        let samples = vec![Duration::from_millis(20)];
        assert!(way(samples.clone(), "h", false).found.starts_with("no machine of the pool stands"));
        assert!(way(samples, "h", true).found.starts_with("20.0 ms to h"));
    }
}
