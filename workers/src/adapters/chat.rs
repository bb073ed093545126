//! The OpenAI API: the body of a request, and the sum of an answer, streamed or whole. Pure.
//!
//! An answer is a success only by evidence that it is whole: a finish reason that says so. What servers write beside that is
//! read leniently, so that an odd field never costs a good answer.

mod answer;
mod chunk;
mod counts;
mod finish;
mod request;
mod said;
#[cfg(test)]
mod tests;

use schemas::{
    failure::{Failure, FailureClass},
    job::Input,
    reply::{Output, Usage},
};
use serde_json::Value;

pub(super) use self::request::{path, request};
use self::{answer::Answer, chunk::Chunk, counts::Counts, finish::Meaning, said::Said};
use super::{dialect::Dialect, http, json, refusal, sse::Event, values::Values, words};
use crate::provider::Success;

/// The longest output taken, in bytes: about forty times the longest usual answer. The limit bounds a worker's memory. The
/// server's limit on a message, 1 MiB by default, is another matter.
pub(super) const OUTPUT_MAX: usize = 4 * 1024 * 1024;

/// Begins the last comment of a stream of Modal's app, which holds the run's bill.
const BILLING: &str = "beacon-billing ";

/// Bytes of English text in a token (OpenAI's rule of thumb), for prompts whose tokens the server does not count.
const BYTES_PER_TOKEN: usize = 4;

/// Hardly any token of a text is longer on average. A server that sends its answer in few pieces has generated more tokens than
/// pieces.
const BYTES_PER_TOKEN_MAX: usize = 8;

/// How much of a reason nobody told us of is repeated.
const REASON_MAX: usize = 40;

/// What some proxies send as data in place of a comment, to keep a connection open.
const LIFE: [&str; 5] = ["ping", "pong", "keep-alive", "keepalive", "heartbeat"];

/// An estimate of the tokens of an input.
pub(super) fn tokens_of_input(input: &Input) -> u64 {
    tokens_of(match input {
        Input::Prompt(text) => text.len(),
        Input::Messages(messages) => messages.iter().map(|message| message.content.len()).sum(),
    })
}

/// An estimate of the tokens of so many bytes of text.
pub(super) fn tokens_of(bytes: usize) -> u64 {
    bytes.div_ceil(BYTES_PER_TOKEN) as u64
}

/// What counts as evidence that an answer is whole, beyond the usual finish reasons: for services with habits of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Evidence {
    /// Whether `[DONE]`, or an answer in one piece, is an end without a finish reason too. Some hosts send none.
    pub trust_done: bool,
    /// More reasons that mean a whole answer, in any letters.
    pub reasons: Vec<String>,
}

/// The answer so far.
#[expect(clippy::struct_excessive_bools, reason = "each was said by the server, or not, whatever else was")]
#[derive(Debug)]
pub(super) struct Transcript {
    dialect: Dialect,
    evidence: Evidence,
    answer: Answer,
    /// The choice with the least index of those that nobody asked for; the answer, if no choice 0 comes.
    other: Option<(u64, Answer)>,
    counts: Option<Counts>,
    /// Tokens of the prompt that the server had in its cache, as it said last; `None` while it has not.
    cached: Option<u64>,
    /// The counts came by themselves, after the last choice: nothing is more final.
    counted: bool,
    /// Pieces that carried text, thoughts or calls: at least as many tokens were generated.
    pieces: u64,
    failure: Option<Failure>,
    heard: bool,
    done: bool,
    /// The connection has ended: what follows is what was begun.
    ended: bool,
    billing: Option<String>,
}

impl Transcript {
    pub(super) fn new(dialect: Dialect) -> Self {
        Self::with(dialect, Evidence::default())
    }

    /// The same with more evidence for whole answers.
    pub(super) fn with(dialect: Dialect, evidence: Evidence) -> Self {
        Self {
            dialect,
            evidence,
            answer: Answer::default(),
            other: None,
            counts: None,
            cached: None,
            counted: false,
            pieces: 0,
            failure: None,
            heard: false,
            done: false,
            ended: false,
            billing: None,
        }
    }

    /// Takes an event of a stream and gives the piece of output that it adds, if any.
    pub(super) fn event(&mut self, event: Event) -> Option<String> {
        self.heard = true;
        match event {
            Event::Comment(text) => {
                if let Some(billing) = text.strip_prefix(BILLING) {
                    self.billing = Some(billing.to_owned());
                }
                None
            }
            Event::Named(_) => None,
            Event::Error(text) => {
                let error = serde_json::from_str(&text).unwrap_or(Value::String(text));
                self.fail(refusal::inside(&error, self.dialect));
                None
            }
            Event::Data(text) => {
                let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
                if self.done || is_done(text) {
                    self.done = true;
                    return None;
                }
                // A comment, or a word in its place, that a proxy has made data.
                if text.is_empty()
                    || text.starts_with(':')
                    || LIFE.iter().any(|word| text.eq_ignore_ascii_case(word))
                {
                    return None;
                }
                self.chunk(text.as_bytes())
            }
        }
    }

    /// Takes the data of an event, or a whole answer, and gives the piece of output that it adds, if any. Servers that leave
    /// out blank lines put several chunks in one.
    pub(super) fn chunk(&mut self, bytes: &[u8]) -> Option<String> {
        self.heard = true;
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_matches(|c: char| c.is_whitespace() || c == '\u{feff}');
        let error = match Chunk::read(text) {
            Ok(chunk) => return self.take(chunk),
            Err(error) => error,
        };
        let mended = json::without_nan(text);
        let (mut values, mut found) = (Values::new(text.len() * 2), Vec::new());
        let split = values.push(mended.as_deref().unwrap_or(text).as_bytes(), &mut found);
        if split.is_err() || values.is_open() || found.is_empty() {
            // A value alone that is no object says nothing.
            if serde_json::from_str::<Value>(text).is_err() {
                self.broke(self.unreadable(&error));
            }
            return None;
        }
        let mut piece = String::new();
        for value in found {
            if is_done(&value) {
                self.done = true;
                continue;
            }
            let list = json::elements(&value);
            for value in if list.is_empty() { vec![value.as_str()] } else { list } {
                match Chunk::read(value) {
                    Ok(chunk) => piece.extend(self.take(chunk)),
                    Err(_) if value == "[]" || !value.starts_with('{') => {}
                    Err(error) => self.broke(self.unreadable(&error)),
                }
            }
        }
        (!piece.is_empty()).then_some(piece)
    }

    /// Repeats none of the model's words. What the end of the connection cut off is the connection's loss.
    fn unreadable(&self, error: &serde_json::Error) -> Failure {
        if self.ended && error.is_eof() {
            return Failure::new(FailureClass::Connection, "the answer was cut off");
        }
        json::unreadable(error, "the answer")
    }

    fn take(&mut self, chunk: Chunk) -> Option<String> {
        let part = match chunk {
            Chunk::Error(error) => {
                self.fail(refusal::inside(&error, self.dialect));
                return None;
            }
            Chunk::Part(part) => part,
        };
        self.cached = part.cached.or(self.cached);
        if let Some(counts) = part.counts {
            let last = part.choices.is_empty();
            if last || !self.counted {
                (self.counts, self.counted) = (Some(counts), last);
            }
        }
        let mut piece = String::new();
        for choice in part.choices {
            let said = choice.delta.as_ref().or(choice.message.as_ref());
            if said.or(choice.text.as_ref()).is_some_and(Said::is_something) {
                self.pieces += 1;
            }
            if choice.index == 0 {
                let added = self.answer.add(choice, part.may_be_whole);
                piece.extend(added.filter(|_| self.failure.is_none()));
            } else if self.other.as_ref().is_none_or(|(index, _)| choice.index <= *index) {
                let (index, mut answer) = self.other.take().unwrap_or_default();
                if index != choice.index {
                    answer = Answer::default();
                }
                let index = choice.index;
                answer.add(choice, part.may_be_whole);
                self.other = Some((index, answer));
            }
            let other = self.other.as_ref().map_or(0, |(_, answer)| answer.text.len());
            if self.answer.text.len().max(other) > OUTPUT_MAX {
                self.fail(http::too_long(OUTPUT_MAX));
                return None;
            }
        }
        (!piece.is_empty()).then_some(piece)
    }

    /// Only the first failure counts: later failures follow from it.
    pub(super) fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// The stream broke, or no longer makes sense. After a finish reason or `[DONE]` this does not spoil the answer.
    pub(super) fn broke(&mut self, failure: Failure) {
        if self.answer.finish.is_none() && !self.done {
            self.fail(failure);
        }
    }

    /// The connection has ended; what is taken from now on was begun before.
    pub(super) fn ends(&mut self) {
        self.ended = true;
    }

    /// The answer came in one piece, so its end is its own.
    pub(super) fn is_in_one_piece(&mut self) {
        self.done |= self.failure.is_none();
    }

    /// True once anything was read that belongs to a stream or an answer.
    pub(super) fn is_heard(&self) -> bool {
        self.heard
    }

    /// True once the outcome is known: only counts and a bill may follow.
    pub(super) fn is_decided(&self) -> bool {
        self.answer.finish.is_some() || self.failure.is_some()
    }

    /// True once the server said that nothing follows.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    pub(super) fn billing(&self) -> Option<&str> {
        self.billing.as_deref()
    }

    /// The tokens, by the provider's count or our estimate; `None` when nothing was generated and no count came.
    pub(super) fn usage(&self, input: &Input) -> Option<Usage> {
        let counts = self.counts.unwrap_or_default();
        // Something was generated, so nothing is no count.
        let completion = counts.completion.filter(|n| *n > 0 || self.pieces == 0);
        if let (Some(prompt_tokens), Some(completion_tokens)) = (counts.prompt, completion) {
            let cached_tokens = self.cached.map(|cached| cached.min(prompt_tokens));
            return Some(Usage { prompt_tokens, completion_tokens, cached_tokens, estimated: false });
        }
        if self.counts.is_none() && self.pieces == 0 && self.answer.finish.is_none() {
            return None;
        }
        let least = (self.answer.text.len() / BYTES_PER_TOKEN_MAX) as u64;
        Some(Usage {
            prompt_tokens: counts.prompt.unwrap_or_else(|| tokens_of_input(input)),
            completion_tokens: completion.unwrap_or(self.pieces.max(least)),
            cached_tokens: self.cached,
            estimated: true,
        })
    }

    /// The outcome of the whole answer.
    pub(super) fn outcome(mut self, input: &Input) -> Result<Success, Failure> {
        let usage = self.usage(input).unwrap_or_default();
        if let Some(failure) = self.failure {
            return Err(failure);
        }
        if self.answer.is_empty()
            && let Some((_, other)) = self.other.take()
        {
            self.answer = other;
        }
        let Answer { mut text, joiner, tools, finish, .. } = self.answer;
        if joiner.is_open() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
        let trusted = self.evidence.trust_done && self.done && self.pieces > 0;
        let (word, meaning) = match finish {
            Some(finish) => finish,
            None if trusted => ("stop".to_owned(), Meaning::Whole("stop")),
            None => {
                let message = "the answer ended without a finish_reason";
                return Err(Failure::new(FailureClass::Connection, message));
            }
        };
        let named = |reason: &String| words::plain(reason) == words::plain(&word);
        let word = word.chars().take(REASON_MAX).collect::<String>();
        let finish_reason = match meaning {
            Meaning::Whole("stop") if tools => "tool_calls".to_owned(),
            Meaning::Whole(reason) => reason.to_owned(),
            Meaning::Unknown if self.evidence.reasons.iter().any(named) => word,
            Meaning::Unknown => {
                return Err(Failure::new(FailureClass::ProviderDown, format!("finish_reason {word}")));
            }
            Meaning::Failed(class) => return Err(Failure::new(class, format!("finish_reason {word}"))),
        };
        Ok(Success { output: Output { text, finish_reason }, usage })
    }
}

/// `[DONE]`, in quotes too.
fn is_done(text: &str) -> bool {
    let text = text.trim().trim_matches('"').trim();
    text.eq_ignore_ascii_case("[done]")
}
