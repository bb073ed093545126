//! Which machine was handed which block of input lately, by this worker's own hand-overs. Pure and bounded.
//!
//! A block knows its last [`EACH`] machines. What a server had before it was replaced, restarted or flushed does not count: a
//! machine's entries are of one *life*, and a new life begins with nothing. A server has room for so many blocks, so what was
//! handed to it before that many others does not count either.

use std::{collections::VecDeque, time::Duration};

use rustc_hash::FxHashMap;
use schemas::prefix::Prefix;

/// Machines remembered for a block.
const EACH: usize = 4;
/// Blocks remembered: 8 MB of text, at most some 13 MB of memory.
const BLOCKS: usize = 131_072;
/// Blocks that a server is taken to keep: two million bytes of text, half a million tokens. The default of the gateway API's
/// inference extension, which has the same blocks.
const SERVER_BLOCKS: u32 = 31_250;
/// What was not used for so long counts half: it may have been pushed out by what others handed over.
pub const IDLE: Duration = Duration::from_secs(300);
/// How long two inputs may lie apart of which the second shows what they share.
const AGAIN: Duration = Duration::from_secs(600);
/// How many machines a prefix is looked for on.
const MOST: usize = 8;
/// Of so many jobs ...
const LOOKED_AT: u32 = 5;
/// ... so many must have had less than half of what was predicted, for a cache to count as flushed.
const MISSED: u32 = 3;

/// Names a machine in the table, while it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Life(u16);

/// One machine's life.
#[derive(Clone, Copy, Debug, Default)]
struct Lived {
    /// Which life it is, from 1. Never goes back, also when the number is given to another machine.
    epoch: u32,
    /// Blocks handed to it that it did not have.
    taken: u32,
    /// The last jobs, the newest as the lowest bit: 1 where less than half of the prediction was there.
    misses: u32,
}

/// A block, and the machines that were handed it; arrays side by side, so that equal holders are seen at a glance.
#[derive(Clone, Copy, Debug, Default)]
struct Block {
    /// Life and epoch of each machine; 0 for none.
    ids: [u64; EACH],
    /// When each was handed it last: tenths of a second of the worker's steady clock, enough for 13 years.
    used: [u32; EACH],
    /// What each had taken by then.
    taken: [u32; EACH],
    /// The greatest of `used`.
    last: u32,
}

fn id(life: Life, epoch: u32) -> u64 {
    u64::from(epoch) << 16 | u64::from(life.0)
}

/// The table.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    blocks: FxHashMap<u64, Block>,
    /// Blocks in the order in which they may be forgotten, each with its last use when it was put there.
    queue: VecDeque<(u64, u32)>,
    lives: Vec<Lived>,
    free: Vec<u16>,
}

/// What a machine has of a prefix.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The machine.
    pub life: Life,
    /// Blocks, from the start.
    pub blocks: u32,
    /// For how long the deepest has not been used.
    pub idle: Duration,
}

/// What is known of a prefix.
#[derive(Clone, Copy, Debug, Default)]
pub struct Found {
    held: [Held; MOST],
    len: usize,
    /// The deepest block that was handed over within ten minutes, to any machine.
    pub again: Option<u64>,
}

impl Found {
    /// The machines that have some of it.
    pub fn held(&self) -> &[Held] {
        &self.held[..self.len]
    }

    /// What one machine has.
    pub fn by(&self, life: Life) -> Option<&Held> {
        self.held().iter().find(|held| held.life == life)
    }

    fn note(&mut self, held: Held) {
        // The deepest block comes first.
        if self.len < MOST && self.by(held.life).is_none() {
            self.held[self.len] = held;
            self.len += 1;
        }
    }
}

impl Holders {
    /// A machine more, which has nothing.
    pub fn join(&mut self) -> Life {
        let life = self.free.pop().unwrap_or_else(|| {
            self.lives.push(Lived::default());
            u16::try_from(self.lives.len() - 1).unwrap_or(u16::MAX)
        });
        self.renew(Life(life));
        Life(life)
    }

    /// A machine is gone.
    pub fn leave(&mut self, life: Life) {
        self.renew(life);
        self.free.push(life.0);
    }

    /// Whatever a machine had it has no more: it is another server, or left the pool for a while, or was flushed.
    pub fn renew(&mut self, life: Life) {
        if let Some(lived) = self.lives.get_mut(usize::from(life.0)) {
            *lived = Lived { epoch: lived.epoch + 1, ..Lived::default() };
        }
    }

    /// What is known of a prefix. Whoever was handed a block was handed all before it, so the depths at which anything changes are
    /// found by halving: some dozen blocks are looked at instead of all.
    pub fn find(&self, prefix: &Prefix, now: Duration) -> Found {
        let (mut found, now) = (Found::default(), tenths(now));
        let at = |depth: usize| self.blocks.get(prefix.blocks().get(depth.checked_sub(1)?)?);
        let deepest = last_where(prefix.blocks().len(), |depth| at(depth).is_some());
        let again_since = now.saturating_sub(tenths(AGAIN));
        let again = last_where(deepest, |depth| at(depth).is_some_and(|block| block.last >= again_since));
        found.again = again.checked_sub(1).map(|nth| prefix.blocks()[nth]);
        let mut depth = deepest;
        for _ in 0..MOST {
            let Some(block) = at(depth) else { break };
            self.note(&mut found, u32::try_from(depth).unwrap_or(u32::MAX), block, now);
            depth = last_where(depth, |depth| at(depth).is_some_and(|shallower| shallower.ids != block.ids));
        }
        found
    }

    fn note(&self, found: &mut Found, depth: u32, block: &Block, now: u32) {
        for at in 0..EACH {
            let life = life_of(block.ids[at]);
            let Some(lived) = self.lives.get(usize::from(life.0)) else { continue };
            if block.ids[at] == id(life, lived.epoch)
                && lived.taken.wrapping_sub(block.taken[at]) <= SERVER_BLOCKS
            {
                let idle = Duration::from_millis(u64::from(now.saturating_sub(block.used[at])) * 100);
                found.note(Held { life, blocks: depth, idle });
            }
        }
    }

    /// A machine was handed an input of which it had so many blocks.
    pub fn hand_over(&mut self, prefix: &Prefix, life: Life, had: u32, now: Duration) {
        let Self { blocks, queue, lives, .. } = self;
        let Some(lived) = lives.get_mut(usize::from(life.0)) else { return };
        let count = u32::try_from(prefix.blocks().len()).unwrap_or(u32::MAX);
        lived.taken = lived.taken.wrapping_add(count.saturating_sub(had));
        let (own, taken, now) = (id(life, lived.epoch), lived.taken, tenths(now));
        let lives = |id: &u64| {
            lives
                .get(usize::from(life_of(*id).0))
                .is_some_and(|lived| self::id(life_of(*id), lived.epoch) == *id)
        };
        // The deepest first, so that it is forgotten first.
        for hash in prefix.blocks().iter().rev() {
            let block = blocks.entry(*hash).or_insert_with(|| {
                queue.push_back((*hash, now));
                Block::default()
            });
            let mine = block.ids.iter().position(|id| *id == own);
            let place = mine
                .or_else(|| block.ids.iter().position(|id| !lives(id)))
                .unwrap_or_else(|| (0..EACH).min_by_key(|at| block.used[*at]).unwrap_or_default());
            (block.ids[place], block.used[place], block.taken[place], block.last) = (own, now, taken, now);
        }
        self.forget();
    }

    /// Forgets blocks that were not used for longest, as far as there are too many. One that was used since it was put into the queue
    /// goes to its end again.
    fn forget(&mut self) {
        while self.blocks.len() > BLOCKS {
            let Some((hash, then)) = self.queue.pop_front() else { break };
            match self.blocks.get(&hash) {
                Some(block) if block.last > then => self.queue.push_back((hash, block.last)),
                Some(_) => drop(self.blocks.remove(&hash)),
                None => {}
            }
        }
    }

    /// A machine said how many of the tokens that it was thought to have it had. True when it seems to have been flushed: whatever it
    /// was thought to have is forgotten.
    pub fn measured(&mut self, life: Life, predicted: u64, cached: u64) -> bool {
        let Some(lived) = self.lives.get_mut(usize::from(life.0)) else { return false };
        let missed = cached.saturating_mul(2) < predicted;
        lived.misses = (lived.misses << 1 | u32::from(missed)) & ((1 << LOOKED_AT) - 1);
        let flushed = lived.misses.count_ones() >= MISSED;
        if flushed {
            self.renew(life);
        }
        flushed
    }

    /// How many blocks it remembers.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// Whether it remembers none.
    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }
}

/// The last of the depths 1 to `most` at which something holds that holds at all before it; 0 for none.
fn last_where(most: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut yes, mut no) = (0, most + 1);
    // Mostly it is all or nothing.
    if most > 0 && holds(most) {
        return most;
    }
    while no - yes > 1 {
        let middle = yes.midpoint(no);
        if holds(middle) { yes = middle } else { no = middle }
    }
    yes
}

fn life_of(id: u64) -> Life {
    Life(u16::try_from(id & u64::from(u16::MAX)).unwrap_or_default())
}

fn tenths(at: Duration) -> u32 {
    u32::try_from(at.as_millis() / 100).unwrap_or(u32::MAX)
}
