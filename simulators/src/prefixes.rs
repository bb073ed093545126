//! The prefix cache of a simulated server: which beginnings of prompts it has computed already, the least recently used left out
//! first. By blocks of sixteen words, as vLLM's are of sixteen tokens.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
};

/// Words in a block.
const BLOCK: usize = 16;

/// What the server has.
#[derive(Debug)]
pub(crate) struct Prefixes {
    /// The most blocks; 0 for a server without a cache.
    most: usize,
    /// When each block was used last.
    used: HashMap<u64, u64>,
    /// The same the other way round.
    order: BTreeMap<u64, u64>,
    uses: u64,
}

impl Prefixes {
    pub(crate) fn new(tokens: u32) -> Self {
        let most = usize::try_from(tokens).unwrap_or(usize::MAX) / BLOCK;
        Self { most, used: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// How many tokens of a prompt it had, of which it has all from now on; `None` for a server without a cache.
    pub(crate) fn read(&mut self, prompt: &str) -> Option<u32> {
        if self.most == 0 {
            return None;
        }
        let words: Vec<&str> = prompt.split_whitespace().collect();
        let mut before = DefaultHasher::new();
        let blocks: Vec<u64> = words
            .chunks_exact(BLOCK)
            .map(|block| {
                block.hash(&mut before);
                before.finish()
            })
            .collect();
        let had = blocks.iter().take_while(|block| self.used.contains_key(*block)).count();
        for block in blocks.into_iter().rev() {
            self.uses += 1;
            if let Some(then) = self.used.insert(block, self.uses) {
                self.order.remove(&then);
            }
            self.order.insert(self.uses, block);
        }
        while self.used.len() > self.most {
            let Some((_, oldest)) = self.order.pop_first() else { break };
            self.used.remove(&oldest);
        }
        u32::try_from(had * BLOCK).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(name: &str, count: usize) -> String {
        (0..count).map(|n| format!("{name}{n} ")).collect::<Vec<_>>().concat()
    }

    #[test]
    fn whole_blocks_are_had_again_and_the_oldest_are_left_out() {
        let mut cache = Prefixes::new(64);
        assert_eq!(cache.read(&words("a", 40)), Some(0));
        assert_eq!(cache.read(&(words("a", 40) + &words("b", 40))), Some(32));
        assert_eq!(cache.read(&words("c", 64)), Some(0));
        assert_eq!(cache.read(&words("a", 40)), Some(0), "no room was left for it");
        assert_eq!(Prefixes::new(0).read(&words("a", 40)), None);
    }
}
