//! How many machines a pool is to have.

/// What an operator wants.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    /// At least so many.
    pub least: u32,
}

impl Policy {
    /// None at all.
    pub fn none() -> Self {
        Self { least: 0 }
    }
}
