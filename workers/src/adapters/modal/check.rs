//! What Beacon's app on Modal tells of itself: `GET /health`, which a small CPU function answers. The GPU's routes are not called.

use reqwest::Url;
use schemas::{
    check::{Aspect, Checked, Finding},
    quoted::Quoted,
};
use serde::Deserialize;

use super::{Modal, PRICES, app::CONTRACT};
use crate::{
    adapters::{
        probe::{Probe, Reply, not_asked},
        secret::Secret,
    },
    check::{self, Asked},
};

/// How the app is deployed again.
const DEPLOY: &str = "deploy the app again: modal deploy deploy/modal/beacon_app.py";

/// The app's word about itself. A field that is missing is unknown, never a zero.
#[derive(Debug, Default, Deserialize)]
struct Health {
    status: Option<String>,
    model: Option<String>,
    #[serde(default)]
    models: Vec<String>,
    region: Option<String>,
    containers: Option<u64>,
    contract: Option<u32>,
}

impl Modal {
    pub(super) async fn check_up(&self, asked: &Asked) -> Checked {
        let secrets: Vec<&Secret> = self.config.key.iter().chain(&self.config.secret).collect();
        let probe = Probe::new(&self.client, &self.headers, &secrets);
        let reply = probe.get(self.health_url()).await;
        let mut findings = judge(reply, !secrets.is_empty(), asked);
        findings.push(probe.round_trip(&self.health_url()).await);
        Checked { findings, prices: Quoted::Untold { page: PRICES } }
    }

    pub(super) async fn way(&self) -> Option<std::time::Duration> {
        Probe::new(&self.client, &self.headers, &[]).way(&self.health_url()).await
    }

    fn health_url(&self) -> Url {
        self.base.join("/health")
    }
}

/// Everything that the answer of `GET /health` tells.
fn judge(reply: Reply, configured: bool, asked: &Asked) -> Vec<Finding> {
    let give = "make a proxy auth token, and give it with modal_key_env and modal_secret_env";
    let mut findings = vec![match &reply {
        Reply::Good(_) if !configured => Finding::warning(
            Aspect::Key,
            "the app asks for no token: whoever knows its URL can use it, and you pay",
            give,
        ),
        _ => reply.key(configured, give),
    }];
    let rest = [Aspect::Model, Aspect::Region];
    match reply.json::<Health>("the app's word about itself") {
        Ok(health) => {
            findings.extend([app(&health), model(&health, asked), region(&health, asked)]);
        }
        Err(Reply::Refused(_)) => {
            findings.extend(not_asked(&[Aspect::App], "the key is refused"));
            findings.extend(not_asked(&rest, "the key is refused"));
        }
        Err(reply @ Reply::Busy(_)) => {
            findings.push(reply.unread(Aspect::App, "whether the app is there"));
            findings.extend(not_asked(&rest, "the app does not answer now"));
        }
        Err(Reply::Missing(text)) => {
            findings.push(Finding::wrong(Aspect::App, format!("there is no such app ({text})"), DEPLOY));
            findings.extend(not_asked(&rest, "there is no app"));
        }
        Err(Reply::Silent(text)) => {
            let todo = "deploy the app, and check base_url";
            findings.push(Finding::wrong(Aspect::App, format!("nothing answers: {text}"), todo));
            findings.extend(not_asked(&rest, "nothing answers"));
        }
        Err(Reply::Good(_)) => {}
        Err(Reply::Odd(text)) => {
            let todo = "look at the app's log, and check base_url";
            findings.push(Finding::wrong(
                Aspect::App,
                format!("this is not Beacon's app, or it is not well: {text}"),
                todo,
            ));
            findings.extend(not_asked(&rest, "the app does not answer as it should"));
        }
    }
    let untold = |aspect, what: &str, todo: &str| {
        Finding::unknown(aspect, format!("the API does not tell {what}"), todo)
    };
    findings.push(untold(
        Aspect::Quota,
        "how many containers the workspace may have",
        "see the workspace's limits at modal.com",
    ));
    findings.push(untold(Aspect::Foreign, "what else runs in the workspace", "look with `modal app list`"));
    findings
}

fn app(health: &Health) -> Finding {
    if let Some(status) = health.status.as_deref().filter(|status| *status != "ok") {
        return Finding::wrong(
            Aspect::App,
            format!("the app says that it is {status}"),
            "look at the app's log",
        );
    }
    let up = health.containers.map_or_else(|| "unknown".to_owned(), |count| count.to_string());
    match health.contract {
        Some(CONTRACT) => {
            Finding::ok(Aspect::App, format!("contract {CONTRACT}, as Beacon's; containers up: {up}"))
        }
        Some(theirs) if theirs > CONTRACT => Finding::warning(
            Aspect::App,
            format!("the app's contract is {theirs}, newer than Beacon's {CONTRACT}"),
            "update Beacon",
        ),
        Some(theirs) => Finding::warning(
            Aspect::App,
            format!("the app's contract is {theirs}, older than Beacon's {CONTRACT}"),
            DEPLOY,
        ),
        None => Finding::warning(
            Aspect::App,
            format!("the app names no contract, so it is older than Beacon ({CONTRACT})"),
            DEPLOY,
        ),
    }
}

fn model(health: &Health, asked: &Asked) -> Finding {
    let served: Vec<&str> = health.models.iter().chain(&health.model).map(String::as_str).collect();
    if served.is_empty() {
        return Finding::unknown(Aspect::Model, "the app does not tell which model it serves", DEPLOY);
    }
    let wanted = asked.models.iter().map(|model| model.served_as.as_str());
    let missing: Vec<&str> = wanted.filter(|wanted| !served.contains(wanted)).collect();
    let first = served[0];
    if missing.is_empty() {
        Finding::ok(Aspect::Model, format!("the app serves {first}"))
    } else {
        let found = format!("the app serves {first}, and the pool asks for {}", missing.join(", "));
        Finding::wrong(Aspect::Model, found, "correct served_as, or deploy an app with that model")
    }
}

fn region(health: &Health, asked: &Asked) -> Finding {
    match &health.region {
        Some(place) => check::region(asked, place),
        None => Finding::unknown(Aspect::Region, "the app does not tell where it runs", DEPLOY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::AskedModel;
    use schemas::check::Voice;

    fn asked() -> Asked {
        Asked {
            region: "us-east".parse().unwrap(),
            slots: 4,
            models: vec![AskedModel { served_as: "m".into(), sku: "T4".into() }],
            ours: Vec::new(),
        }
    }

    fn voices(body: &str) -> Vec<(Aspect, Voice)> {
        let reply = Reply::Good(body.as_bytes().to_vec().into());
        judge(reply, true, &asked()).iter().map(|finding| (finding.aspect, finding.voice)).collect()
    }

    fn voice(body: &str, aspect: Aspect) -> Voice {
        voices(body).into_iter().find(|(found, _)| *found == aspect).unwrap().1
    }

    #[test]
    fn an_app_that_names_no_contract_or_an_older_one_says_so() {
        for (contract, expected) in [
            (r#","contract":1"#, Voice::Ok),
            (r#","contract":0"#, Voice::Warning),
            (r#","contract":2"#, Voice::Warning),
            ("", Voice::Warning),
        ] {
            let body = format!(r#"{{"status":"ok","model":"m","region":"us-east"{contract}}}"#);
            assert_eq!(voice(&body, Aspect::App), expected, "{body}");
        }
    }

    #[test]
    fn what_the_app_does_not_tell_is_unknown_and_what_it_tells_otherwise_is_wrong() {
        let other = r#"{"status":"ok","model":"other","region":"eu","contract":1}"#;
        assert_eq!((voice(other, Aspect::Model), voice(other, Aspect::Region)), (Voice::Wrong, Voice::Wrong));
        let bare = r#"{"contract":1}"#;
        assert_eq!(
            (voice(bare, Aspect::Model), voice(bare, Aspect::Region)),
            (Voice::Unknown, Voice::Unknown)
        );
        let line = judge(Reply::Good(bare.as_bytes().to_vec().into()), true, &asked())[1].line();
        assert!(line.contains("containers up: unknown"), "{line}");
        assert_eq!(voice("<html>", Aspect::App), Voice::Wrong);
    }

    #[test]
    fn every_question_has_one_answer_whatever_comes() {
        let replies = [
            Reply::Refused("status 401".into()),
            Reply::Missing("status 404".into()),
            Reply::Busy(None),
            Reply::Odd("status 500".into()),
            Reply::Silent("no answer".into()),
            Reply::Good("{}".into()),
        ];
        for reply in replies {
            let mut aspects: Vec<Aspect> =
                judge(reply.clone(), true, &asked()).iter().map(|finding| finding.aspect).collect();
            aspects.sort_unstable();
            let expected =
                [Aspect::Key, Aspect::App, Aspect::Model, Aspect::Region, Aspect::Quota, Aspect::Foreign];
            assert_eq!(aspects, expected, "{reply:?}");
        }
    }
}
