//! The servers that speak the OpenAI API, and where their dialects differ.

use serde::{Deserialize, Serialize};

/// A server's software, which decides what the API leaves open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// OpenAI itself, or a hosted service like it.
    OpenAi,
    /// vLLM.
    #[default]
    Vllm,
    /// llama.cpp's `llama-server`; each stream gets a connection of its own.
    LlamaCpp,
    /// Ollama's `/v1`.
    Ollama,
    /// Hugging Face's text generation inference.
    Tgi,
    /// SGLang.
    SgLang,
}

impl Dialect {
    /// The cheapest route that says whether the server could take work.
    pub const fn health_path(self) -> &'static str {
        match self {
            Self::OpenAi => "/v1/models",
            Self::Vllm | Self::LlamaCpp | Self::Tgi | Self::SgLang => "/health",
            // `/health` does not exist there.
            Self::Ollama => "/api/version",
        }
    }

    /// Where the server tells how busy it is, for Prometheus; `None` where it does not.
    pub const fn metrics_path(self) -> Option<&'static str> {
        match self {
            Self::Vllm | Self::LlamaCpp | Self::Tgi | Self::SgLang => Some("/metrics"),
            // Ollama says what is loaded, and nothing of a queue.
            Self::Ollama | Self::OpenAi => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dialect_reads_as_operators_write_it() {
        for (text, dialect) in [
            ("openai", Dialect::OpenAi),
            ("vllm", Dialect::Vllm),
            ("llamacpp", Dialect::LlamaCpp),
            ("ollama", Dialect::Ollama),
            ("tgi", Dialect::Tgi),
            ("sglang", Dialect::SgLang),
        ] {
            assert_eq!(serde_json::from_str::<Dialect>(&format!("\"{text}\"")).unwrap(), dialect);
        }
    }
}
