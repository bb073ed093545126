//! What inputs share at their beginning, as chains of hashes: what a server with a prefix cache could use again. Pure.
//!
//! An input is written as one text, in the order in which chat templates render it, and cut into blocks of [`BLOCK`] bytes.
//! Each block's hash includes the one before it, so two inputs have as many hashes in common as they have whole blocks in
//! common from the start. Bytes and not tokens: no tokenizer for each model, at an error of less than two blocks. What cannot
//! be shared (another model, another adapter, another tenant where tenants are apart) begins from another hash.
//!
//! The hash is the same in every process and on every machine: all workers and producers must come to the same. It is no
//! secret and no signature; a collision costs a server some tokens and nothing else.

use crate::{
    Tenant,
    job::{Input, Message},
};

/// Bytes of a block: some 16 tokens, as vLLM's own blocks have.
pub const BLOCK: usize = 64;
/// The most blocks of an input that are looked at: some 4,000 tokens.
pub const BLOCKS_MAX: usize = 256;
/// An input with fewer whole blocks has no prefix worth knowing.
pub const BLOCKS_MIN: usize = 4;

/// Stands between a role and what it says.
const SAYS: u8 = 0x1f;
/// Stands behind each part.
const ENDS: u8 = 0x1e;

/// Who may share with whom.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// The model's name at the server.
    pub model: &'a str,
    /// A fine-tuned variant of it that runs on the same server.
    pub adapter: Option<&'a str>,
    /// Whose input it is, where tenants are kept apart: a shared cache tells by its speed what others asked.
    pub tenant: Option<&'a Tenant>,
}

/// The beginning of one input.
#[derive(Clone, Debug)]
pub struct Prefix {
    hashes: [u64; BLOCKS_MAX],
    len: usize,
    head: usize,
    bytes: u64,
}

impl Prefix {
    /// That of an input; `None` if it has fewer than [`BLOCKS_MIN`] whole blocks.
    pub fn of(scope: Scope<'_>, input: &Input) -> Option<Self> {
        let mut text = Text::new(scope);
        match input {
            Input::Prompt(prompt) => text.raw(prompt.as_bytes()),
            Input::Messages(messages) => text.messages(messages),
        }
        text.end()
    }

    /// The hashes of its whole blocks, from the start, at most [`BLOCKS_MAX`].
    pub fn blocks(&self) -> &[u64] {
        &self.hashes[..self.len]
    }

    /// The hash of the last whole block of what stands before the first turn: tools and system message. `None` where that has
    /// fewer than [`BLOCKS_MIN`].
    pub fn head(&self) -> Option<u64> {
        (self.head >= BLOCKS_MIN).then(|| self.hashes[self.head - 1])
    }

    /// The length of the whole text, bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// How many whole blocks two inputs have in common.
    pub fn shared(&self, other: &Self) -> usize {
        self.blocks().iter().zip(other.blocks()).take_while(|(one, two)| one == two).count()
    }
}

/// An input while it is written, part by part. A part that templates render elsewhere belongs where they render it.
#[derive(Debug)]
pub struct Text {
    prefix: Prefix,
    hash: u64,
    block: [u8; BLOCK],
    filled: usize,
}

impl Text {
    /// Nothing yet.
    pub fn new(scope: Scope<'_>) -> Self {
        let mut text = Self {
            prefix: Prefix { hashes: [0; BLOCKS_MAX], len: 0, head: 0, bytes: 0 },
            hash: 0,
            block: [0; BLOCK],
            filled: 0,
        };
        for name in [scope.model, scope.adapter.unwrap_or(""), scope.tenant.map_or("", Tenant::as_str)] {
            text.hash = mixed(name.bytes().fold(text.hash, |hash, byte| mixed(hash ^ u64::from(byte)))) ^ 1;
        }
        text
    }

    /// Adds a chat. What its leading system messages say is its head.
    pub fn messages(&mut self, messages: &[Message]) {
        let mut heading = true;
        for Message { role, content } in messages {
            if heading && !matches!(role.as_str(), "system" | "developer") {
                self.head_ends();
                heading = false;
            }
            self.part(role, content.as_bytes());
        }
        if heading {
            self.head_ends();
        }
    }

    /// Adds a named part: who says it, or what it is.
    pub fn part(&mut self, name: &str, content: &[u8]) {
        self.raw(name.as_bytes());
        self.raw(&[SAYS]);
        self.raw(content);
        self.raw(&[ENDS]);
    }

    /// What was added so far stands before the first turn.
    pub fn head_ends(&mut self) {
        self.prefix.head = self.prefix.len;
    }

    /// Adds bytes as they are.
    pub fn raw(&mut self, mut bytes: &[u8]) {
        self.prefix.bytes += bytes.len() as u64;
        while !bytes.is_empty() && self.prefix.len < BLOCKS_MAX {
            let (now, later) = bytes.split_at(bytes.len().min(BLOCK - self.filled));
            self.block[self.filled..self.filled + now.len()].copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == BLOCK {
                self.close_block();
            }
        }
    }

    fn close_block(&mut self) {
        let (words, _) = self.block.as_chunks::<8>();
        self.hash = mixed(words.iter().fold(self.hash, |hash, word| mixed(hash ^ u64::from_le_bytes(*word))));
        self.prefix.hashes[self.prefix.len] = self.hash;
        self.prefix.len += 1;
        self.filled = 0;
    }

    /// The beginning of what was written. A last block that is not full is left out.
    pub fn end(self) -> Option<Prefix> {
        (self.prefix.len >= BLOCKS_MIN).then_some(self.prefix)
    }
}

/// Spreads what differs in any bit over all bits: a multiplication of 64 by 64 bits, folded.
#[expect(clippy::cast_possible_truncation, reason = "both halves are meant")]
pub const fn mixed(value: u64) -> u64 {
    let wide = (value ^ 0x2d35_8dcc_aa6c_78a5) as u128 * 0x8bb8_4b93_962e_acc9_u128;
    (wide >> 64) as u64 ^ wide as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope<'static> {
        Scope { model: "m", adapter: None, tenant: None }
    }

    fn chat(turns: &[(&str, &str)]) -> Option<Prefix> {
        let turns =
            turns.iter().map(|(role, content)| Message { role: (*role).into(), content: (*content).into() });
        Prefix::of(scope(), &Input::Messages(turns.collect()))
    }

    fn prompt(text: &str) -> Option<Prefix> {
        Prefix::of(scope(), &Input::Prompt(text.to_owned()))
    }

    #[test]
    fn a_short_input_has_no_prefix_and_a_last_part_of_a_block_does_not_count() {
        assert!(prompt(&"x".repeat(4 * BLOCK - 1)).is_none());
        let (four, more) =
            (prompt(&"x".repeat(4 * BLOCK)).unwrap(), prompt(&"x".repeat(5 * BLOCK - 1)).unwrap());
        assert_eq!((four.blocks().len(), more.blocks().len(), four.shared(&more)), (4, 4, 4));
        assert_eq!((four.bytes(), more.bytes()), (256, 319));
        let long = prompt(&"x".repeat(1_000 * BLOCK)).unwrap();
        assert_eq!((long.blocks().len(), long.bytes()), (BLOCKS_MAX, 64_000));
    }

    #[test]
    fn the_head_of_a_chat_is_what_its_system_says() {
        let system = "s".repeat(10 * BLOCK);
        let (one, two) = (
            chat(&[("system", &system), ("user", "hello")]).unwrap(),
            chat(&[("system", &system), ("user", "good bye")]).unwrap(),
        );
        assert_eq!((one.head(), one.head().is_some()), (two.head(), true));
        assert_ne!(
            one.head(),
            chat(&[("system", &system.replace('s', "t")), ("user", "hello")]).unwrap().head()
        );
        assert_eq!(chat(&[("user", &system)]).unwrap().head(), None);
        assert_eq!(chat(&[("system", "short"), ("user", &system)]).unwrap().head(), None);
        assert_eq!(prompt(&system).unwrap().head(), None);
    }

    #[test]
    fn a_growing_dialogue_keeps_what_it_has() {
        let (question, answer) = ("q".repeat(300), "a".repeat(300));
        let before = chat(&[("user", &question)]).unwrap();
        let after = chat(&[("user", &question), ("assistant", &answer), ("user", "and?")]).unwrap();
        assert_eq!(before.shared(&after), before.blocks().len());
    }

    /// Workers of two versions must come to the same.
    #[test]
    fn hashes_are_what_they_were() {
        let prefix = prompt(&"The quick brown fox jumps over the lazy dog. ".repeat(6)).unwrap();
        assert_eq!(prefix.blocks().len(), 4);
        assert_eq!(prefix.blocks()[3], 0x4caa_b150_a6be_fe17);
    }
}
