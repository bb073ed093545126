//! One choice of an answer, put together from what servers write of it. Pure.

use super::{
    chunk::Choice,
    finish::{Meaning, meaning},
    said::{Joiner, Said},
};

/// One choice so far.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) text: String,
    pub(super) joiner: Joiner,
    source: Source,
    /// How many pieces its text came in.
    pieces: usize,
    pub(super) tools: bool,
    /// Why it ended: as it came, and what that means.
    pub(super) finish: Option<(String, Meaning)>,
}

/// Where a choice's text comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Source {
    #[default]
    Nothing,
    Deltas,
    Messages,
    Texts,
}

impl Answer {
    /// Whether nothing was said, and no end.
    pub(super) fn is_empty(&self) -> bool {
        self.finish.is_none() && self.text.is_empty()
    }

    /// Adds what a choice says; gives the text that it adds.
    pub(super) fn add(&mut self, choice: Choice, may_be_whole: bool) -> Option<String> {
        let Choice { delta, message, text, finish, .. } = choice;
        let ends = finish.is_some();
        self.tools |= [&delta, &message].into_iter().flatten().any(|said| said.tools);
        let own = |said: &Option<Said>| said.as_ref().is_some_and(|said| !said.text.is_empty());
        let of = |source| [Source::Nothing, source].contains(&self.source);
        let (source, said) = if own(&delta) {
            (Source::Deltas, delta)
        } else if own(&message) && of(Source::Messages) {
            (Source::Messages, message)
        } else if own(&text) && of(Source::Texts) {
            (Source::Texts, text)
        } else {
            (self.source, None)
        };
        self.source = source;
        let piece = said.map(|said| self.joiner.join(said.text)).unwrap_or_default();
        let added = self.beyond(piece, may_be_whole, ends);
        self.pieces += usize::from(!added.is_empty());
        if let Some((word, meaning)) = finish.and_then(|word| meaning(&word).map(|meaning| (word, meaning))) {
            let weight = self.finish.as_ref().map(|(_, meaning)| meaning.weight());
            if weight.is_none_or(|weight| meaning.weight() > weight) {
                self.finish = Some((word, meaning));
            }
        }
        self.text.push_str(&added);
        (!added.is_empty()).then_some(added)
    }

    /// What a text adds to the text so far: some servers repeat the whole at the end, and some that write `message` repeat it in
    /// each. A piece that is not the last, or the second of two, may well say what was said before.
    fn beyond(&self, piece: String, may_be_whole: bool, ends: bool) -> String {
        let message = self.source == Source::Messages;
        match piece.strip_prefix(self.text.as_str()) {
            Some("") if ends && (message || self.pieces > 1) || message && may_be_whole => String::new(),
            Some(more) if message && (may_be_whole || ends) => more.to_owned(),
            Some(_) | None => piece,
        }
    }
}
