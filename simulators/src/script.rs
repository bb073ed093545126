//! When an answer sends what: decided whole, before the first byte, from the answer, its time and its fault.
//!
//! Times count from admission. Token *i* of *n* comes at `i/n` of the service time, so the last one ends the run.
//! Every script closes its run exactly once, except one that stalls: that run ends when its caller leaves.

use std::time::Duration;

use axum::http::StatusCode;
use bytes::Bytes;

use crate::{
    config::Server,
    errors::server,
    fault::FaultKind,
    frames::{self, DONE, ENGINE, Frames, GARBAGE_BODY, GARBAGE_EVENT, Usage},
    text::Answer,
};

/// One act and its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cue {
    pub(crate) at: Duration,
    pub(crate) act: Act,
}

/// One act of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// Bytes go out.
    Send(Bytes),
    /// The run ends well: the bill is closed, the slot is free.
    Finish,
    /// The run ends otherwise.
    Abort,
    /// The measurements go out as a comment line, for providers that send one.
    TellBilling,
    /// The connection breaks.
    Cut,
    /// Nothing happens any more.
    Stall,
}

/// How an answer is cut short.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    Cut,
    Stall,
    Error,
    Silent,
    /// A cut that comes in the middle of a body, where there is a middle.
    Truncate,
}

/// The script of a stream of server-sent events.
pub(crate) fn stream(
    frames: &Frames,
    answer: &Answer,
    per_chunk: u32,
    include_usage: bool,
    service: Duration,
    fault: Option<&FaultKind>,
) -> Vec<Cue> {
    let count = answer.token_count();
    let broken = break_of(fault, count);
    let until = broken.map_or(count, |(until, _)| until);
    let mut cues = Vec::new();
    let mut cue = |at, act| cues.push(Cue { at, act });
    if let Some(role) = frames.role() {
        cue(Duration::ZERO, Act::Send(role));
    }
    if fault == Some(&FaultKind::GarbageJson) {
        cue(Duration::ZERO, Act::Send(GARBAGE_EVENT));
    }
    let chunk = usize::try_from(per_chunk).unwrap_or(usize::MAX);
    let mut sent = 0;
    for tokens in answer.tokens[..usize::try_from(until).unwrap_or(usize::MAX)].chunks(chunk) {
        sent += u32::try_from(tokens.len()).expect("an answer's tokens fit");
        cue(share(service, sent, count), Act::Send(frames.piece(&tokens.concat())));
    }
    let end = share(service, until, count);
    let acts: Vec<Act> = match broken.map(|(_, how)| how) {
        None => {
            let usage = include_usage.then(|| Act::Send(frames.usage(Usage::of(answer))));
            let finish = [Act::Finish, Act::Send(frames.finish(answer.finish))];
            finish.into_iter().chain(usage).chain([Act::TellBilling, Act::Send(DONE)]).collect()
        }
        Some(Break::Stall) => vec![Act::Stall],
        Some(Break::Error) => {
            let error =
                server::frame(frames.server, ENGINE).map(|error| frames::event(&frames::json(&error)));
            match (frames.server, error) {
                // It ends with what it has said.
                (Server::LlamaCpp, Some(error)) => vec![Act::Abort, Act::Send(error)],
                (_, Some(error)) => vec![Act::Abort, Act::Send(error), Act::TellBilling, Act::Send(DONE)],
                // Ollama writes the error as a piece without text, and no more.
                (_, None) => vec![Act::Abort, Act::Send(frames.piece(""))],
            }
        }
        Some(Break::Silent) => vec![Act::Abort],
        Some(Break::Cut | Break::Truncate) => vec![Act::Abort, Act::Cut],
    };
    cues.extend(acts.into_iter().map(|act| Cue { at: end, act }));
    cues
}

/// The script of an answer in one piece. Its head went out at admission; the body comes when the run ends.
pub(crate) fn whole(
    frames: &Frames,
    answer: &Answer,
    service: Duration,
    fault: Option<&FaultKind>,
) -> Vec<Cue> {
    let count = answer.token_count();
    let broken = break_of(fault, count);
    let until = broken.map_or(count, |(until, _)| until);
    let acts = match broken.map(|(_, how)| how) {
        Some(Break::Stall) => vec![Act::Stall],
        Some(Break::Silent) => vec![Act::Abort],
        Some(Break::Error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            vec![Act::Abort, Act::Send(frames::json(&server::body(frames.server, status, ENGINE)))]
        }
        Some(Break::Truncate) => {
            let body = frames.whole(answer);
            vec![Act::Abort, Act::Send(body.slice(..body.len() / 2)), Act::Cut]
        }
        Some(Break::Cut) => vec![Act::Abort, Act::Cut],
        None if fault == Some(&FaultKind::GarbageJson) => vec![Act::Finish, Act::Send(GARBAGE_BODY)],
        None => vec![Act::Finish, Act::Send(frames.whole(answer))],
    };
    let at = share(service, until, count);
    acts.into_iter().map(|act| Cue { at, act }).collect()
}

/// After how many tokens, and how, a fault breaks an answer of `count` tokens.
fn break_of(fault: Option<&FaultKind>, count: u32) -> Option<(u32, Break)> {
    let (after, how) = match fault? {
        FaultKind::ResetMidStream { after_tokens } => (*after_tokens, Break::Cut),
        FaultKind::StallMidStream { after_tokens } => (*after_tokens, Break::Stall),
        FaultKind::ErrorFrame { after_tokens } => (*after_tokens, Break::Error),
        FaultKind::SilentEnd { after_tokens } => (*after_tokens, Break::Silent),
        FaultKind::TruncatedBody => (count / 2, Break::Truncate),
        FaultKind::ContainerDies => (count / 2, Break::Cut),
        FaultKind::Status { .. }
        | FaultKind::Refuse
        | FaultKind::Hang
        | FaultKind::Slow { .. }
        | FaultKind::GarbageJson
        | FaultKind::Oom => return None,
    };
    Some((after.min(count), how))
}

/// `part/count` of the service time.
pub(crate) fn share(service: Duration, part: u32, count: u32) -> Duration {
    service * part / count.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{request::Api, text::Finish};

    const SERVICE: Duration = Duration::from_millis(400);

    fn answer() -> Answer {
        let tokens = ["[simulated]", " a", " b", " c"].map(str::to_owned).to_vec();
        Answer { tokens, finish: Finish::Stop, prompt_tokens: 5, cached_tokens: None }
    }

    fn play(fault: Option<&FaultKind>, per_chunk: u32) -> Vec<(u64, String)> {
        let frames = Frames {
            api: Api::Chat,
            server: Server::Vllm,
            id: "c".to_owned(),
            created: 0,
            model: "m".to_owned(),
        };
        let show = |act: Act| match act {
            Act::Send(bytes) => {
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                let data = text.trim_end().strip_prefix("data: ").unwrap();
                match serde_json::from_str::<serde_json::Value>(data) {
                    Ok(json) if json["error"].is_object() => "error".to_owned(),
                    Ok(json) if json["usage"].is_object() => "usage".to_owned(),
                    Ok(json) if json["choices"][0]["finish_reason"].is_string() => "finish".to_owned(),
                    Ok(json) => json["choices"][0]["delta"]["content"].as_str().unwrap().to_owned(),
                    Err(_) => data.to_owned(),
                }
            }
            other => format!("{other:?}"),
        };
        let cues = stream(&frames, &answer(), per_chunk, true, SERVICE, fault);
        let millis = |at: Duration| u64::try_from(at.as_millis()).unwrap();
        cues.into_iter().map(|cue| (millis(cue.at), show(cue.act))).collect()
    }

    fn check(fault: Option<&FaultKind>, expected: &[(u64, &str)]) {
        let got = play(fault, 1);
        let got: Vec<_> = got.iter().map(|(at, act)| (*at, act.as_str())).collect();
        assert_eq!(got, expected);
    }

    #[test]
    fn tokens_are_spread_over_the_service_time_and_the_bill_closes_with_the_last() {
        check(
            None,
            &[
                (0, ""),
                (100, "[simulated]"),
                (200, " a"),
                (300, " b"),
                (400, " c"),
                (400, "Finish"),
                (400, "finish"),
                (400, "usage"),
                (400, "TellBilling"),
                (400, "[DONE]"),
            ],
        );
    }

    #[test]
    fn tokens_may_share_a_chunk() {
        let texts: Vec<_> = play(None, 3).into_iter().take(3).collect();
        let expected = [(0, ""), (300, "[simulated] a b"), (400, " c")];
        assert_eq!(texts, expected.map(|(at, text)| (at, text.to_owned())));
    }

    #[test]
    fn each_fault_breaks_the_stream_in_its_own_way() {
        let reset = FaultKind::ResetMidStream { after_tokens: 1 };
        check(Some(&reset), &[(0, ""), (100, "[simulated]"), (100, "Abort"), (100, "Cut")]);
        let stall = FaultKind::StallMidStream { after_tokens: 0 };
        check(Some(&stall), &[(0, ""), (0, "Stall")]);
        let silent = FaultKind::SilentEnd { after_tokens: 1 };
        check(Some(&silent), &[(0, ""), (100, "[simulated]"), (100, "Abort")]);
        let error = FaultKind::ErrorFrame { after_tokens: 0 };
        check(Some(&error), &[(0, ""), (0, "Abort"), (0, "error"), (0, "TellBilling"), (0, "[DONE]")]);
    }

    #[test]
    fn a_fault_beyond_the_answer_still_strikes() {
        let far = play(Some(&FaultKind::ResetMidStream { after_tokens: 1_000 }), 1);
        assert_eq!(far.last().unwrap(), &(400, "Cut".to_owned()));
        assert!(!far.iter().any(|(_, act)| act == "finish"));
    }
}
