//! How busy a server is, by its own metrics: others' work included, which no worker sees otherwise. Pure.
//!
//! Nothing here is counted where the server does not say: unknown is not zero.

use serde_json::Value;

use super::{
    dialect::Dialect,
    prometheus::{Put, Wanted, values},
};

/// No server runs, or holds back, more requests: a number above it is a mistake.
const REQUESTS_MAX: f64 = 1e6;

/// No server has counted further.
const COUNTER_MAX: f64 = 1e18;

/// What a server says about its load. A field is `None` where it does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerLoad {
    /// Requests that it works on, whosever they are.
    pub running: Option<u32>,
    /// Requests that wait there for room.
    pub waiting: Option<u32>,
    /// How full its cache of keys and values is, in thousandths; of the fullest engine.
    pub kv_used: Option<u16>,
    /// Tokens generated since it started.
    pub tokens_out: Option<u64>,
    /// Tokens read since it started.
    pub tokens_in: Option<u64>,
    /// Steps of the engine since it started: they grow while it works, and stand still when it hangs.
    pub steps: Option<u64>,
    /// Tokens of prompts that were looked for in its prefix cache, since it started.
    pub prefix_queries: Option<u64>,
    /// Of those, the tokens that were found and not computed.
    pub prefix_hits: Option<u64>,
}

/// The metrics of a dialect, in the order of [`ServerLoad`]'s fields.
type Names = [Wanted; 8];

const VLLM: Names = [
    (&["vllm:num_requests_running"], Put::Sum),
    (&["vllm:num_requests_waiting"], Put::Sum),
    (&["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc"], Put::Most),
    (&["vllm:generation_tokens_total"], Put::Sum),
    (&["vllm:prompt_tokens_total"], Put::Sum),
    (&["vllm:iteration_tokens_total_count"], Put::Sum),
    (&["vllm:prefix_cache_queries_total", "vllm:gpu_prefix_cache_queries_total"], Put::Sum),
    (&["vllm:prefix_cache_hits_total", "vllm:gpu_prefix_cache_hits_total"], Put::Sum),
];

const LLAMA_CPP: Names = [
    (&["llamacpp:requests_processing"], Put::Sum),
    (&["llamacpp:requests_deferred"], Put::Sum),
    (&["llamacpp:kv_cache_usage_ratio"], Put::Most),
    (&["llamacpp:tokens_predicted_total"], Put::Sum),
    (&["llamacpp:prompt_tokens_total"], Put::Sum),
    (&["llamacpp:n_decode_total"], Put::Sum),
    (&[], Put::Sum),
    (&[], Put::Sum),
];

// SGLang and TGI count tokens when a request ends, so these say nothing about an engine that hangs.
const SGLANG: Names = [
    (&["sglang:num_running_reqs"], Put::Sum),
    (&["sglang:num_queue_reqs"], Put::Sum),
    (&["sglang:token_usage"], Put::Most),
    (&["sglang:generation_tokens_total"], Put::Sum),
    (&["sglang:prompt_tokens_total"], Put::Sum),
    (&[], Put::Sum),
    (&["sglang:prompt_tokens_total"], Put::Sum),
    (&["sglang:cached_tokens_total"], Put::Sum),
];

const TGI: Names = [
    (&["tgi_batch_current_size"], Put::Sum),
    (&["tgi_queue_size"], Put::Sum),
    (&[], Put::Most),
    (&["tgi_request_generated_tokens_sum"], Put::Sum),
    (&["tgi_request_input_length_sum"], Put::Sum),
    (&[], Put::Sum),
    (&[], Put::Sum),
    (&[], Put::Sum),
];

impl ServerLoad {
    /// Reads a page of metrics; `None` for a dialect without any.
    pub fn of_metrics(dialect: Dialect, page: &str) -> Option<Self> {
        let names = match dialect {
            Dialect::Vllm => &VLLM,
            Dialect::LlamaCpp => &LLAMA_CPP,
            Dialect::SgLang => &SGLANG,
            Dialect::Tgi => &TGI,
            Dialect::Ollama | Dialect::OpenAi => return None,
        };
        let [running, waiting, kv, tokens_out, tokens_in, steps, queries, hits] = values(page, names);
        Some(Self {
            running: running.and_then(requests),
            waiting: waiting.and_then(requests),
            kv_used: kv.and_then(thousandths),
            tokens_out: tokens_out.and_then(counter),
            tokens_in: tokens_in.and_then(counter),
            steps: steps.and_then(counter),
            prefix_queries: queries.and_then(counter),
            prefix_hits: hits.and_then(counter),
        })
    }

    /// Reads llama.cpp's list of slots, which says what runs and not what waits.
    pub fn of_slots(json: &[u8]) -> Option<Self> {
        let slots = serde_json::from_slice::<Vec<Value>>(json).ok().filter(|slots| !slots.is_empty())?;
        let states = slots.iter().map(|slot| slot.get("is_processing").and_then(Value::as_bool));
        let busy = states.collect::<Option<Vec<bool>>>()?.into_iter().filter(|busy| *busy).count();
        Some(Self { running: u32::try_from(busy).ok(), ..Self::default() })
    }

    /// Whether it says anything.
    pub fn is_known(&self) -> bool {
        *self != Self::default()
    }

    /// How many requests of others wait there, where `own` requests of the asker are at the server. Nothing waits while there is room, so
    /// what merely runs takes no room from anybody.
    pub fn others_waiting(&self, own: u32) -> u32 {
        let waiting = self.waiting.unwrap_or(0);
        let others = self.running.unwrap_or(0).saturating_add(waiting).saturating_sub(own);
        waiting.min(others)
    }

    /// Whether the server has anything to do.
    pub fn is_busy(&self) -> bool {
        self.running.unwrap_or(0) > 0 || self.waiting.unwrap_or(0) > 0
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn requests(number: f64) -> Option<u32> {
    (0.0..=REQUESTS_MAX).contains(&number).then_some(number.round() as u32)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn counter(number: f64) -> Option<u64> {
    (0.0..=COUNTER_MAX).contains(&number).then_some(number as u64)
}

/// Both vLLM's names say percent and mean a share.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range is checked before")]
fn thousandths(share: f64) -> Option<u16> {
    (0.0..=1.0).contains(&share).then_some((share * 1_000.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_dialects_metrics_are_read_under_their_own_names() {
        let vllm = "vllm:num_requests_running{engine=\"0\"} 3\nvllm:num_requests_running{engine=\"1\"} 1\nvllm:num_requests_waiting{engine=\"0\"} 2\n\
            vllm:gpu_cache_usage_perc 0.5\nvllm:generation_tokens_total 700\nvllm:prompt_tokens_total 900\nvllm:iteration_tokens_total_count 55\n\
            vllm:prefix_cache_queries_total 900\nvllm:prefix_cache_hits_total 300\n";
        let load = ServerLoad::of_metrics(Dialect::Vllm, vllm).unwrap();
        let expected = ServerLoad {
            running: Some(4),
            waiting: Some(2),
            kv_used: Some(500),
            tokens_out: Some(700),
            tokens_in: Some(900),
            steps: Some(55),
            prefix_queries: Some(900),
            prefix_hits: Some(300),
        };
        assert_eq!(load, expected);
        let llama = "llamacpp:requests_processing 1\nllamacpp:requests_deferred 4\nllamacpp:n_decode_total 9\nllamacpp:tokens_predicted_total 7\n";
        let load = ServerLoad::of_metrics(Dialect::LlamaCpp, llama).unwrap();
        assert_eq!((load.running, load.waiting, load.steps, load.kv_used), (Some(1), Some(4), Some(9), None));
        let sglang = "sglang:num_running_reqs{model_name=\"m\"} 2.0\nsglang:num_queue_reqs{model_name=\"m\"} 0.0\nsglang:token_usage 0.02\n";
        let load = ServerLoad::of_metrics(Dialect::SgLang, sglang).unwrap();
        assert_eq!(
            (load.running, load.waiting, load.kv_used, load.steps),
            (Some(2), Some(0), Some(20), None)
        );
        let tgi = "tgi_batch_current_size 3\ntgi_queue_size 1\ntgi_request_generated_tokens_sum 40\n";
        let load = ServerLoad::of_metrics(Dialect::Tgi, tgi).unwrap();
        assert_eq!((load.running, load.waiting, load.tokens_out), (Some(3), Some(1), Some(40)));
        assert_eq!(ServerLoad::of_metrics(Dialect::Ollama, vllm), None);
    }

    #[test]
    fn a_page_that_says_nothing_sound_is_unknown_and_not_zero() {
        for page in [
            "",
            "<html>",
            "vllm:num_requests_running NaN\n",
            "vllm:num_requests_running 1e30\nvllm:kv_cache_usage_perc 37\n",
        ] {
            let load = ServerLoad::of_metrics(Dialect::Vllm, page).unwrap();
            assert!(!load.is_known() && load.others_waiting(0) == 0, "{page}");
        }
    }

    #[test]
    fn slots_say_what_runs_and_not_what_waits() {
        let slots = br#"[{"id":0,"is_processing":true,"n_ctx":4096},{"id":1,"is_processing":false}]"#;
        assert_eq!(
            ServerLoad::of_slots(slots),
            Some(ServerLoad { running: Some(1), ..ServerLoad::default() })
        );
        for odd in [&b"[]"[..], b"{}", br#"{"error":{"code":501}}"#, br#"[{"id":0}]"#, b"["] {
            assert_eq!(ServerLoad::of_slots(odd), None);
        }
    }

    #[test]
    fn only_others_requests_that_wait_take_room() {
        let load = |running, waiting| ServerLoad { running, waiting, ..ServerLoad::default() };
        assert_eq!(load(Some(8), Some(0)).others_waiting(0), 0, "there is room");
        assert_eq!(load(Some(8), Some(3)).others_waiting(0), 3);
        assert_eq!(load(Some(8), Some(3)).others_waiting(9), 2);
        assert_eq!(load(Some(8), Some(3)).others_waiting(11), 0, "all are ours");
        assert_eq!(load(Some(8), Some(3)).others_waiting(20), 0);
        assert_eq!(load(None, Some(3)).others_waiting(1), 2);
        assert_eq!(load(Some(8), None).others_waiting(0), 0);
        assert!(load(Some(0), Some(1)).is_busy() && !load(Some(0), None).is_busy());
    }
}
