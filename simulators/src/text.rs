//! The text of a simulated model: the same for the same seed and prompt, and plainly not a real answer.
//!
//! A token is one piece of the stream: `[simulated]`, then words. A prompt's tokens are its words, plus four for
//! each message as a chat template would add.

use crate::config::SimulatedModel;

const FIRST: &str = "[simulated]";

const WORDS: [&str; 32] = [
    "light", "water", "stone", "river", "north", "south", "early", "quiet", "green", "amber", "seven",
    "letter", "garden", "window", "market", "signal", "harbor", "orbit", "metal", "paper", "cloud", "lamp",
    "tower", "bridge", "field", "engine", "copper", "winter", "summer", "island", "valley", "beacon",
];

/// A whole answer, before anything of it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    /// One piece per token; joined, they are the text.
    pub(crate) tokens: Vec<String>,
    pub(crate) finish: Finish,
    pub(crate) prompt_tokens: u32,
    /// Of them, those that a prefix cache had; `None` where nothing is said of one.
    pub(crate) cached_tokens: Option<u32>,
}

/// Why the model stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finish {
    Stop,
    Length,
}

impl Finish {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
        }
    }
}

impl Answer {
    pub(crate) fn text(&self) -> String {
        self.tokens.concat()
    }

    pub(crate) fn token_count(&self) -> u32 {
        u32::try_from(self.tokens.len()).expect("the context length is a u32")
    }
}

/// The limit on an answer to a prompt of `read` tokens, if both fit into `context`. `asked` is the caller's own limit.
pub(crate) fn limit(context: u32, read: u32, asked: Option<u32>) -> Option<u32> {
    let left = context.saturating_sub(read);
    Some(asked.unwrap_or(left)).filter(|&limit| limit <= left && left > 0)
}

/// The model's answer. `max_tokens` is the caller's limit; `stop` ends the text right before the first match.
pub(crate) fn compose(
    seed: u64,
    model: &SimulatedModel,
    prompt: &Prompt,
    max_tokens: u32,
    stop: &[String],
) -> Answer {
    let mut state = fnv1a(seed, &prompt.text);
    let spread = u64::from(model.output_tokens_max - model.output_tokens_min) + 1;
    let extra = u32::try_from(next(&mut state) % spread).expect("below a u32 plus one");
    let wanted = model.output_tokens_min + extra;
    let count = wanted.min(max_tokens.max(1));
    let mut tokens = vec![FIRST.to_owned()];
    for _ in 1..count {
        let index = usize::try_from(next(&mut state) % WORDS.len() as u64).expect("below 32");
        tokens.push(format!(" {}", WORDS[index]));
    }
    let finish = if count < wanted { Finish::Length } else { Finish::Stop };
    let mut answer = Answer { tokens, finish, prompt_tokens: prompt.tokens, cached_tokens: None };
    cut_at_stop(&mut answer, stop);
    answer
}

/// Ends the answer before the first stop string. The token in which the stop string starts keeps the text before it.
fn cut_at_stop(answer: &mut Answer, stop: &[String]) {
    let text = answer.text();
    let Some(end) = stop.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop)).min()
    else {
        return;
    };
    let mut kept = 0;
    answer.tokens.retain_mut(|token| {
        let before = end.saturating_sub(kept);
        kept += token.len();
        token.truncate(before); // A stop string found in valid UTF-8 begins at a character.
        !token.is_empty()
    });
    answer.finish = Finish::Stop;
}

/// The caller's messages as one text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Prompt {
    pub(crate) text: String,
    pub(crate) tokens: u32,
}

impl Prompt {
    /// Adds a chat message.
    pub(crate) fn message(&mut self, role: &str, content: &str) {
        self.text.push_str(role);
        self.text.push('\n');
        self.plain(content);
        self.tokens = self.tokens.saturating_add(4);
    }

    /// Adds text outside of any message.
    pub(crate) fn plain(&mut self, content: &str) {
        self.text.push_str(content);
        self.text.push('\n');
        let words = u32::try_from(content.split_whitespace().count()).unwrap_or(u32::MAX);
        self.tokens = self.tokens.saturating_add(words);
    }
}

/// FNV-1a, written out because the standard hasher may change between releases and texts may not.
fn fnv1a(seed: u64, text: &str) -> u64 {
    let bytes = seed.to_le_bytes().into_iter().chain(text.bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// SplitMix64 (Steele, Lea, Flood, 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(seed: u64, text: &str, max_tokens: u32, stop: &[&str]) -> Answer {
        let mut prompt = Prompt::default();
        prompt.message("user", text);
        let stop: Vec<_> = stop.iter().map(|&s| s.to_owned()).collect();
        compose(seed, &SimulatedModel::new("m"), &prompt, max_tokens, &stop)
    }

    #[test]
    fn the_same_seed_and_prompt_give_the_same_text_and_others_do_not() {
        assert_eq!(ask(1, "why", 99, &[]), ask(1, "why", 99, &[]));
        assert_ne!(ask(1, "why", 99, &[]).text(), ask(2, "why", 99, &[]).text());
        assert_ne!(ask(1, "why", 99, &[]).text(), ask(1, "how", 99, &[]).text());
    }

    #[test]
    fn every_answer_says_that_it_is_simulated_and_keeps_its_limits() {
        for n in 0..200 {
            let answer = ask(3, &format!("question {n}"), 99, &[]);
            assert!(answer.text().starts_with("[simulated] "));
            assert!((8..=24).contains(&answer.token_count()));
            assert_eq!(answer.finish, Finish::Stop);
        }
        let short = ask(3, "question", 3, &[]);
        assert_eq!((short.token_count(), short.finish), (3, Finish::Length));
    }

    #[test]
    fn a_stop_string_ends_the_text_before_it() {
        let whole = ask(1, "why", 99, &[]);
        let word = whole.tokens[4].trim().to_owned();
        let cut = ask(1, "why", 99, &[&word]);
        let at = whole.text().find(&word).unwrap();
        assert_eq!(cut.text(), whole.text()[..at]);
        assert_eq!(cut.finish, Finish::Stop);
    }

    #[test]
    fn a_prompt_counts_its_words_and_four_for_each_message() {
        let mut prompt = Prompt::default();
        prompt.message("system", "be brief");
        prompt.message("user", "why is the sky blue?");
        assert_eq!(prompt.tokens, 2 + 5 + 8);
    }
}
