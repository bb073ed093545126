//! Questions to a server beside its jobs: is it well, how busy is it, what has it loaded, what does it serve. Each is bounded in time and
//! in size, and an answer that does not read is no answer.

use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Url, header::HeaderMap};
use schemas::failure::{Failure, FailureClass};
use serde_json::Value;
use tokio::time::timeout;

use super::engine::Loaded;
use crate::{
    adapters::{
        dialect::Dialect,
        http::{self, BaseUrl},
        load::ServerLoad,
        refusal,
    },
    provider::Health,
};

/// SGLang's health check generates a token and takes a second; busy servers take longer, and have been
/// restarted for missing a shorter limit.
pub(in crate::adapters) const HEALTH_TIMEOUT: Duration = Duration::from_secs(5);

/// A page of metrics of a server with many models and adapters is some hundred kilobytes.
const PAGE_MAX: usize = 2 * 1024 * 1024;

/// Up if a route answers with 2xx in time.
pub(in crate::adapters) async fn health_of(
    client: &Client,
    url: Url,
    headers: HeaderMap,
    dialect: Dialect,
) -> Health {
    let ask = async {
        let response = client.get(url).headers(headers).send().await.map_err(http::broken)?;
        let status = response.status();
        let wait = http::retry_after(response.headers());
        let body = http::error_body(response).await;
        if status.is_success() {
            Ok(())
        } else {
            Err(refusal::refused(status.as_u16(), &body, wait, dialect))
        }
    };
    match timeout(HEALTH_TIMEOUT, ask).await {
        Ok(Ok(())) => Health::Up,
        Ok(Err(failure)) => Health::Down(failure),
        Err(_) => {
            Health::Down(Failure::new(FailureClass::Timeout, "no answer to the health check within 5 s"))
        }
    }
}

/// Where and how to ask a server.
pub(super) struct Asker<'a> {
    pub(super) client: &'a Client,
    pub(super) base: &'a BaseUrl,
    pub(super) headers: &'a HeaderMap,
    pub(super) dialect: Dialect,
    /// Where its metrics are; `None` where it has none, or is not to be asked.
    pub(super) metrics: Option<&'a str>,
}

/// What an answer to the question for load came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Load(ServerLoad),
    /// It does not say, now or ever.
    Unknown,
    /// It would say, if it was started otherwise.
    Off,
}

impl Asker<'_> {
    /// The body of an answer with status 200, or the status of another; `None` without one in time, or when it is too long.
    async fn get(&self, path: &str) -> Option<Result<Bytes, u16>> {
        let ask = async {
            let request = self.client.get(self.base.join(path)).headers(self.headers.clone());
            let response = request.send().await.ok()?;
            match response.status().as_u16() {
                200 => http::whole_body(response, PAGE_MAX).await.ok().map(Ok),
                status => Some(Err(status)),
            }
        };
        timeout(HEALTH_TIMEOUT, ask).await.ok()?
    }

    /// How busy the server is.
    pub(super) async fn load(&self) -> Told {
        let Some(path) = self.metrics else { return Told::Unknown };
        let status = match self.get(path).await {
            Some(Ok(page)) => {
                let load = ServerLoad::of_metrics(self.dialect, &String::from_utf8_lossy(&page));
                return load.filter(ServerLoad::is_known).map_or(Told::Unknown, Told::Load);
            }
            Some(Err(status)) => status,
            None => return Told::Unknown,
        };
        if self.dialect != Dialect::LlamaCpp || !matches!(status, 404 | 501) {
            return Told::Unknown;
        }
        match self.get("/slots").await {
            Some(Ok(slots)) => ServerLoad::of_slots(&slots).map_or(Told::Off, Told::Load),
            Some(Err(_)) | None => Told::Off,
        }
    }

    /// What the server has in memory.
    pub(super) async fn loaded(&self) -> Loaded {
        match self.dialect {
            Dialect::Ollama => {
                let answer = self.json("/api/ps").await;
                let models = answer.as_ref().and_then(|answer| answer.get("models")?.as_array());
                models.map_or(Loaded::Unknown, |models| {
                    Loaded::Only(models.iter().filter_map(name_of).collect())
                })
            }
            Dialect::LlamaCpp => {
                let answer = self.json("/props").await;
                let sleeps = answer.as_ref().and_then(|answer| answer.get("is_sleeping")?.as_bool());
                sleeps.map_or(Loaded::Unknown, |sleeps| Loaded::All(!sleeps))
            }
            Dialect::OpenAi | Dialect::Vllm | Dialect::Tgi | Dialect::SgLang => Loaded::Unknown,
        }
    }

    /// The models that the server lists; `None` where it lists none, or any name does.
    pub(super) async fn listed(&self) -> Option<Vec<String>> {
        let answer = self.json("/v1/models").await?;
        let list = answer.get("data").or_else(|| answer.get("models")).unwrap_or(&answer).as_array()?;
        let names: Vec<String> = list.iter().filter_map(name_of).collect();
        let any_name = match self.dialect {
            Dialect::Tgi => true,
            // It answers to every name, and lists the path of its file. As a router it lists many.
            Dialect::LlamaCpp => names.len() == 1,
            Dialect::OpenAi | Dialect::Vllm | Dialect::Ollama | Dialect::SgLang => false,
        };
        (!any_name && !names.is_empty()).then_some(names)
    }

    async fn json(&self, path: &str) -> Option<Value> {
        serde_json::from_slice(&self.get(path).await?.ok()?).ok()
    }
}

fn name_of(model: &Value) -> Option<String> {
    let names = ["id", "name", "model"].into_iter();
    names.filter_map(|key| model.get(key)).chain([model]).find_map(Value::as_str).map(str::to_owned)
}
