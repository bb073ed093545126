//! One line of a bill: a quantity of one unit at one price. Prices, journals and cost events are made of such lines.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::UsdNanos;

/// One line of an attempt's bill.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CostLine {
    /// The provider's name for the machine or plan that was billed: `T4`, `standard`.
    pub sku: String,
    /// The unit that is counted.
    pub unit: Unit,
    /// Microseconds for times, else a plain count.
    pub quantity: u64,
    /// The purpose of the line: `execution`, `cold_start`, `input_tokens`, `idle`, `warm_start`.
    pub item: String,
    /// Price of one unit, dollars.
    pub unit_price_usd: UsdNanos,
    /// Quantity times price, rounded up to the nano-dollar.
    pub amount_usd: UsdNanos,
}

/// The unit of a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A second of a machine.
    Second,
    /// An hour of a machine, charged by the microsecond.
    Hour,
    /// One inference, however long.
    Inference,
    /// A million tokens, read or written.
    MillionTokens,
    /// A million tokens read.
    MillionInputTokens,
    /// A million tokens written.
    MillionOutputTokens,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Second => "second",
            Self::Hour => "hour",
            Self::Inference => "inference",
            Self::MillionTokens => "million tokens",
            Self::MillionInputTokens => "million input tokens",
            Self::MillionOutputTokens => "million output tokens",
        })
    }
}
