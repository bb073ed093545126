//! A live piece: output of a job while it is being written. Core messages, best effort; the result has everything.

use serde::{Deserialize, Serialize};

/// A piece of output. Whoever misses one sees a gap in `at`, and a new attempt begins at 0 again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LivePiece {
    /// Which attempt writes, from 1.
    pub attempt: u16,
    /// How many bytes of UTF-8 this attempt wrote before.
    pub at: u64,
    /// What was added.
    pub text: String,
}
