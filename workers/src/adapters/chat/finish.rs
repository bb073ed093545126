//! Why an answer ended: the words of servers and services, and what they mean. Pure.
//!
//! Only a word that is known to mean a whole answer, or one cut at a limit, is success. A pool may name more of them.

use schemas::failure::FailureClass as C;

use crate::adapters::words::plain;

/// What a reason means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// There is an answer; its reason in OpenAI's words.
    Whole(&'static str),
    /// There is none.
    Failed(C),
    /// A word nobody told us of.
    Unknown,
}

impl Meaning {
    /// Of two reasons the weightier holds, and of two that weigh the same the first: a failure is never taken back, and a `stop`
    /// after another reason adds nothing.
    pub(super) fn weight(self) -> u8 {
        match self {
            Self::Whole("stop") => 0,
            Self::Whole(_) => 1,
            Self::Unknown | Self::Failed(_) => 2,
        }
    }
}

/// Reads a reason; `None` for one that says only that nothing has ended yet.
pub(super) fn meaning(word: &str) -> Option<Meaning> {
    let plain = plain(word);
    let plain = plain.strip_prefix("finish_reason_").unwrap_or(&plain);
    Some(match plain {
        // Protocol buffers write a zero as a word; others write the absence of a reason as one.
        "unspecified" | "null" | "none" | "undefined" | "not_finished" | "in_progress" => return None,
        // Of a word of other characters only, such as `</s>`, nothing is left.
        "" if word.trim().is_empty() => return None,
        "stop" | "stopped" | "stop_sequence" | "stop_sequences" | "stop_word" | "stop_words"
        | "stop_token" | "stop_tokens" | "stop_string" | "stop_str" | "stop_condition" | "eos"
        | "eos_token" | "eos_token_id" | "eos_found" | "eot" | "eot_id" | "end" | "end_turn"
        | "end_of_turn" | "end_of_text" | "end_of_sequence" | "end_token" | "im_end" | "complete"
        | "completed" | "completion" | "finish" | "finished" | "done" | "success" | "succeeded"
        | "natural" | "normal" => Meaning::Whole("stop"),
        "length"
        | "length_limit"
        | "length_cap"
        | "limit"
        | "limit_reached"
        | "token_limit"
        | "tokens_limit"
        | "max_token"
        | "max_tokens"
        | "max_tokens_reached"
        | "max_length"
        | "max_len"
        | "max_output_tokens"
        | "max_new_tokens"
        | "max_completion_tokens"
        | "max_context_length"
        | "model_length"
        | "context_length"
        | "context_window"
        | "model_context_window_exceeded"
        | "truncated"
        | "error_limit" => Meaning::Whole("length"),
        "tool_calls" | "tool_call" | "tool_use" | "tool" => Meaning::Whole("tool_calls"),
        "function_call" | "function_calls" => Meaning::Whole("function_call"),
        "content_filter"
        | "content_filtered"
        | "content_filter_error"
        | "content_policy"
        | "content_policy_violation"
        | "content_blocked"
        | "safety"
        | "image_safety"
        | "recitation"
        | "blocklist"
        | "prohibited_content"
        | "spii"
        | "refusal"
        | "refused"
        | "error_toxic"
        | "sensitive"
        | "moderation"
        | "flagged"
        | "blocked"
        | "guardrail"
        | "guardrail_intervened" => Meaning::Failed(C::Refused),
        "rate_limit" | "rate_limited" | "rate_limit_exceeded" | "too_many_requests" => {
            Meaning::Failed(C::RateLimited)
        }
        "overloaded" | "capacity" | "insufficient_system_resource" => Meaning::Failed(C::Capacity),
        "timeout" | "timed_out" | "time_limit" | "deadline_exceeded" => Meaning::Failed(C::Timeout),
        "oom" | "out_of_memory" => Meaning::Failed(C::OutOfMemory),
        // vLLM, SGLang; Ollama; gateways.
        "abort" | "aborted" | "load" | "unload" | "error" | "failed" | "cancelled" | "canceled"
        | "user_cancel" | "network_error" => Meaning::Failed(C::ProviderDown),
        _ => Meaning::Unknown,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(meaning_of: Option<Meaning>, words: &[&str]) {
        for word in words {
            assert_eq!(meaning(word), meaning_of, "{word}");
        }
    }

    #[test]
    fn the_words_of_servers_and_services_are_understood_in_all_letters() {
        let stop = [
            "stop",
            "Stop",
            "STOP",
            "eos",
            "eos_token",
            "EOS_TOKEN",
            "STOP_SEQUENCE",
            "stop_sequence",
            "stop_word",
            "end",
            "End",
            "end_turn",
            "endTurn",
            "complete",
            "COMPLETE",
            "completed",
            "FINISH_REASON_STOP",
            "done",
            "finished",
        ];
        check(Some(Meaning::Whole("stop")), &stop);
        let length = [
            "length",
            "Length",
            "MAX_TOKENS",
            "max_tokens",
            "maxTokens",
            "length_limit",
            "max_output_tokens",
            "MAX_LENGTH",
            "model_length",
            "FINISH_REASON_MAX_TOKENS",
            "max_new_tokens",
        ];
        check(Some(Meaning::Whole("length")), &length);
        check(Some(Meaning::Whole("tool_calls")), &["tool_calls", "tool_use", "TOOL_CALL"]);
        check(Some(Meaning::Whole("function_call")), &["function_call"]);
    }

    #[test]
    fn what_was_not_answered_is_no_success() {
        let refused = [
            "content_filter",
            "content_filtered",
            "SAFETY",
            "RECITATION",
            "ERROR_TOXIC",
            "PROHIBITED_CONTENT",
        ];
        check(Some(Meaning::Failed(C::Refused)), &refused);
        check(
            Some(Meaning::Failed(C::ProviderDown)),
            &["abort", "load", "unload", "error", "ERROR", "Aborted"],
        );
        check(Some(Meaning::Failed(C::RateLimited)), &["rate_limit"]);
        check(
            Some(Meaning::Unknown),
            &["</s>", "0", "1", "brand_new", "other", "MALFORMED_FUNCTION_CALL", "true", "停"],
        );
        check(None, &["", " ", "null", "None", "FINISH_REASON_UNSPECIFIED", "undefined"]);
    }
}
