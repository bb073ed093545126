//! The JSON that goes over the wire: vLLM's chunks, bodies and errors.

use bytes::Bytes;
use serde::Serialize;

use crate::{
    config::Server,
    request::Api,
    text::{Answer, Finish},
};

/// `usage`: the tokens that were really streamed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt_tokens_details: Option<Details>,
}

/// vLLM's with `--enable-prompt-tokens-details`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Details {
    cached_tokens: u32,
}

impl Usage {
    pub(crate) fn of(answer: &Answer) -> Self {
        let (prompt_tokens, completion_tokens) = (answer.prompt_tokens, answer.token_count());
        let prompt_tokens_details = answer.cached_tokens.map(|cached_tokens| Details { cached_tokens });
        let total_tokens = prompt_tokens + completion_tokens;
        Self { prompt_tokens, completion_tokens, total_tokens, prompt_tokens_details }
    }
}

/// The fields that all parts of one answer share.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    pub(crate) api: Api,
    pub(crate) server: Server,
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: String,
}

#[derive(Serialize)]
struct Envelope<'a> {
    id: &'a str,
    object: &'a str,
    created: u64,
    model: &'a str,
    choices: &'a [Choice<'a>],
    #[serde(skip_serializing_if = "Option::is_none")]
    system_fingerprint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    delta: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Delta<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a str>,
    logprobs: Option<()>,
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
}

impl Frames {
    /// The first chunk of a chat stream; a completion stream has none.
    pub(crate) fn role(&self) -> Option<Bytes> {
        let delta = Delta { role: Some("assistant"), content: Some("") };
        match self.api {
            Api::Chat => Some(self.chunk(delta, None)),
            Api::Completion => None,
        }
    }

    /// A chunk with some of the text.
    pub(crate) fn piece(&self, text: &str) -> Bytes {
        self.chunk(Delta { role: None, content: Some(text) }, None)
    }

    /// The chunk that says why the text ends.
    pub(crate) fn finish(&self, finish: Finish) -> Bytes {
        self.chunk(Delta::default(), Some(finish.as_str()))
    }

    /// The chunk with the token counts and no choices.
    pub(crate) fn usage(&self, usage: Usage) -> Bytes {
        self.event(&[], Some(usage))
    }

    /// The whole answer of a request without streaming.
    pub(crate) fn whole(&self, answer: &Answer) -> Bytes {
        let text = answer.text();
        let message = Delta { role: Some("assistant"), content: Some(&text) };
        let mut choice = Choice {
            index: 0,
            delta: None,
            message: None,
            text: None,
            logprobs: None,
            finish_reason: Some(answer.finish.as_str()),
        };
        match self.api {
            Api::Chat => choice.message = Some(message),
            Api::Completion => choice.text = Some(&text),
        }
        let object = match self.api {
            Api::Chat => "chat.completion",
            Api::Completion => "text_completion",
        };
        json(&self.envelope(object, &[choice], Some(Usage::of(answer))))
    }

    fn chunk(&self, delta: Delta<'_>, finish_reason: Option<&str>) -> Bytes {
        let mut choice =
            Choice { index: 0, delta: None, message: None, text: None, logprobs: None, finish_reason };
        match self.api {
            // TGI's pieces are whole messages, each with its role.
            Api::Chat if self.server == Server::Tgi => {
                let content = Some(delta.content.unwrap_or(""));
                choice.delta = Some(Delta { role: Some("assistant"), content });
            }
            Api::Chat => choice.delta = Some(delta),
            Api::Completion => {
                choice.text = Some(delta.content.unwrap_or(""));
                if self.server == Server::Tgi {
                    // Always a text there.
                    choice.finish_reason = Some(finish_reason.unwrap_or(""));
                }
            }
        }
        self.event(&[choice], None)
    }

    fn event(&self, choices: &[Choice<'_>], usage: Option<Usage>) -> Bytes {
        let object = match self.api {
            Api::Chat => "chat.completion.chunk",
            Api::Completion => "text_completion",
        };
        event(&json(&self.envelope(object, choices, usage)))
    }

    fn envelope<'a>(
        &'a self,
        object: &'a str,
        choices: &'a [Choice<'a>],
        usage: Option<Usage>,
    ) -> Envelope<'a> {
        let system_fingerprint = match self.server {
            Server::Tgi => Some("3.3.6-dev0-native"),
            Server::Ollama => Some("fp_ollama"),
            Server::Vllm | Server::LlamaCpp | Server::SgLang => None,
        };
        Envelope {
            id: &self.id,
            object,
            created: self.created,
            model: &self.model,
            choices,
            system_fingerprint,
            usage,
        }
    }
}

/// The end of every stream of vLLM, after an error as well.
pub(crate) const DONE: Bytes = Bytes::from_static(b"data: [DONE]\n\n");

/// A frame that is cut off in the middle of its JSON.
pub(crate) const GARBAGE_EVENT: Bytes =
    Bytes::from_static(b"data: {\"id\":\"chatcmpl-\",\"choices\":[{\"ind\n\n");

/// A body that is cut off in the middle of its JSON.
pub(crate) const GARBAGE_BODY: Bytes = Bytes::from_static(b"{\"id\":\"chatcmpl-\",\"choices\":[{\"ind");

/// One server-sent event.
pub(crate) fn event(data: &[u8]) -> Bytes {
    Bytes::from([b"data: ", data, b"\n\n"].concat())
}

/// vLLM's message for a failed engine.
pub(crate) const ENGINE: &str = "EngineCore encountered an issue. See stack trace for the root cause.";

/// vLLM's message for a full accelerator memory.
pub(crate) const OUT_OF_MEMORY: &str = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity \
     of 14.58 GiB of which 1.02 GiB is free.";

/// Serialises one of our own shapes.
pub(crate) fn json(value: &impl Serialize) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("our own shapes have text keys and cannot fail"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(api: Api) -> Frames {
        Frames {
            api,
            server: Server::Vllm,
            id: "chatcmpl-7f3a".to_owned(),
            created: 1_795_420_800,
            model: "m".to_owned(),
        }
    }

    fn check(got: &Bytes, expected: &str) {
        assert_eq!(std::str::from_utf8(got).unwrap(), expected);
    }

    #[test]
    fn chunks_look_like_vllms() {
        let head = r#"data: {"id":"chatcmpl-7f3a","object":"chat.completion.chunk","created":1795420800,"model":"m","choices":["#;
        let chat = frames(Api::Chat);
        check(
            &chat.piece("Air"),
            &format!(
                "{head}{{\"index\":0,\"delta\":{{\"content\":\"Air\"}},\"logprobs\":null,\"finish_reason\":null}}]}}\n\n"
            ),
        );
        check(
            &chat.finish(Finish::Stop),
            &format!(
                "{head}{{\"index\":0,\"delta\":{{}},\"logprobs\":null,\"finish_reason\":\"stop\"}}]}}\n\n"
            ),
        );
        let usage =
            Usage { prompt_tokens: 24, completion_tokens: 7, total_tokens: 31, prompt_tokens_details: None };
        check(
            &chat.usage(usage),
            &format!(
                "{head}],\"usage\":{{\"prompt_tokens\":24,\"completion_tokens\":7,\"total_tokens\":31}}}}\n\n"
            ),
        );
    }

    #[test]
    fn a_completion_stream_has_text_and_no_role() {
        let completion = frames(Api::Completion);
        assert_eq!(completion.role(), None);
        assert!(std::str::from_utf8(&completion.piece("Air")).unwrap().contains(r#""text":"Air""#));
    }
}
