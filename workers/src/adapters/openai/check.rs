//! What a server that speaks the OpenAI API tells of itself: its models, and whether it lives. No completion is asked for.

use schemas::{
    check::{Aspect, Checked, Finding},
    quoted::Quoted,
};
use serde::Deserialize;

use super::OpenAi;
use crate::{
    adapters::{
        dialect::Dialect,
        probe::{Probe, Reply, not_asked},
    },
    check::{Asked, AskedModel},
};

/// Names that a line has room for.
const NAMED: usize = 6;

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

impl OpenAi {
    pub(super) async fn check_up(&self, asked: &Asked) -> Checked {
        let secrets: Vec<_> = self
            .config
            .api_key
            .iter()
            .chain(self.config.extra_headers.iter().map(|(_, value)| value))
            .collect();
        let probe = Probe::new(&self.client, &self.headers, &secrets);
        let configured = !secrets.is_empty();
        let (alive, listed) =
            tokio::join!(probe.get(self.health.clone()), probe.get(self.base.join("/v1/models")));
        let mut findings = Vec::new();
        if let (Reply::Silent(why), Reply::Silent(_)) = (&alive, &listed) {
            let todo = "start the server, and check base_url";
            findings.push(Finding::wrong(Aspect::App, format!("nothing answers: {why}"), todo));
            findings.extend(not_asked(&[Aspect::Key, Aspect::Model], "nothing answers"));
        } else {
            findings.push(app(&alive));
            // Servers leave their health open and guard their models.
            let give = "give the server's key with api_key_env or api_key_file";
            findings.push(listed.key(configured, give));
            findings.push(models(listed, self.config.dialect, &asked.models));
        }
        let untold = |aspect, what: &str, todo: &str| {
            Finding::unknown(aspect, format!("the API does not tell {what}"), todo)
        };
        findings.push(untold(Aspect::Region, "where the server stands", "judge by the round trip"));
        findings.push(untold(
            Aspect::Quota,
            "how many jobs it takes at a time",
            "keep the pool's slots at or below the server's own",
        ));
        findings.push(untold(Aspect::Foreign, "what else runs there", "look by hand"));
        findings.push(probe.round_trip(&self.health).await);
        Checked { findings, prices: Quoted::Untold { page: "the price list of whoever owns the server" } }
    }

    pub(super) async fn way(&self) -> Option<std::time::Duration> {
        Probe::new(&self.client, &self.headers, &[]).way(&self.health).await
    }
}

fn app(alive: &Reply) -> Finding {
    match alive {
        Reply::Good(_) => Finding::ok(Aspect::App, "the server is up"),
        Reply::Refused(_) | Reply::Busy(_) => alive.unread(Aspect::App, "whether the server is up"),
        Reply::Missing(text) => Finding::warning(
            Aspect::App,
            format!("the server has no such health route ({text})"),
            "say which route it has with health_path, or which server it is with dialect",
        ),
        Reply::Odd(text) | Reply::Silent(text) => {
            Finding::wrong(Aspect::App, format!("the server is not well: {text}"), "look at the server's log")
        }
    }
}

fn models(listed: Reply, dialect: Dialect, asked: &[AskedModel]) -> Finding {
    let models: Models = match listed.json("the list of models") {
        Ok(models) => models,
        Err(reply) => return reply.unread(Aspect::Model, "which models are served"),
    };
    let has = |asked: &&AskedModel| models.data.iter().any(|model| model.id == asked.served_as);
    let missing: Vec<&str> =
        asked.iter().filter(|asked| !has(asked)).map(|asked| asked.served_as.as_str()).collect();
    if missing.is_empty() {
        let names: Vec<&str> = asked.iter().map(|asked| asked.served_as.as_str()).collect();
        return Finding::ok(Aspect::Model, format!("it serves {}", names.join(", ")));
    }
    let there: Vec<&str> = models.data.iter().map(|model| model.id.as_str()).take(NAMED).collect();
    let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
    let found = format!("{} is not among its models ({there})", missing.join(", "));
    let todo = "correct served_as, or start the server with that model";
    // llama.cpp serves its one model under any name, and lists the path of its file.
    if dialect == Dialect::LlamaCpp && !models.data.is_empty() {
        Finding::warning(Aspect::Model, found, todo)
    } else {
        Finding::wrong(Aspect::Model, found, todo)
    }
}
