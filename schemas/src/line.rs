//! One line of a bill: a quantity of one unit at one price. Prices, journals and cost events are made of such lines.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{MachineId, UsdNanos};

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
    /// Quantity times price, rounded to the nano-dollar: up, but down for a slot of a rented machine.
    pub amount_usd: UsdNanos,
    /// The rented machine whose slot was used. The unit is then an hour of one slot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
}

impl CostLine {
    /// The line for a slot of a rented machine, whose hour costs `hour_usd`, over `span`; `None` if out of range.
    ///
    /// Rounded down, so that all jobs of a machine together never cost more than its invoice; what is left is booked as standing
    /// cost by its keeper.
    pub fn of_slot(
        machine: Option<MachineId>,
        sku: &str,
        item: &str,
        hour_usd: UsdNanos,
        span: Duration,
    ) -> Option<Self> {
        Some(Self {
            sku: sku.to_owned(),
            unit: Unit::Hour,
            quantity: crate::time::micros(span),
            item: item.to_owned(),
            unit_price_usd: hour_usd,
            amount_usd: hour_usd.for_hours_down(span)?,
            machine,
        })
    }
}

/// The unit of a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unit {
    /// A second of a machine.
    Second,
    /// An hour of a machine, or of one slot of a rented one, charged by the microsecond.
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
