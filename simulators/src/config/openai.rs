//! The settings of a rented server: which software it runs, and what it says of itself.

use serde::{Deserialize, Serialize};

use super::rules::{Broken, first_broken};

/// A rented server's own settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OpenAiSettings {
    /// Its software.
    pub server: Server,
    /// The most requests that TGI runs and holds back, and that Ollama holds back for a model that is not loaded; the others hold back
    /// as many as come.
    pub most_requests: u32,
    /// What its pages of metrics are like at first.
    pub metrics: MetricsPage,
}

impl Default for OpenAiSettings {
    fn default() -> Self {
        Self { server: Server::default(), most_requests: 128, metrics: MetricsPage::default() }
    }
}

impl OpenAiSettings {
    /// The first value that cannot work.
    pub(super) fn out_of_range(&self) -> Option<Broken> {
        first_broken([(self.most_requests > 0, "most_requests", "at least 1")])
    }
}

/// The software of an inference server that speaks the OpenAI API.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Server {
    /// vLLM.
    #[default]
    Vllm,
    /// llama.cpp's `llama-server`.
    LlamaCpp,
    /// Ollama.
    Ollama,
    /// Hugging Face's text generation inference.
    Tgi,
    /// SGLang.
    SgLang,
}

/// What a page of metrics is like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MetricsPage {
    /// As it should be.
    #[default]
    Usual,
    /// The server was started without metrics: 501 of llama.cpp, 404 of the others. llama.cpp still tells its slots.
    Off,
    /// The same, and llama.cpp tells no slots either.
    Silent,
    /// `NaN` in place of each number.
    Nan,
    /// Other metrics than those of the engine.
    Missing,
    /// Larger than any page should be.
    Huge,
    /// It never comes.
    Hang,
    /// The engine makes no step, whatever it has to do.
    Still,
}
