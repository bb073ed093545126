//! Why a pool has as many machines as it has, in plain words.

use std::{fmt, time::Duration};

use schemas::{Micros, UsdNanos};

use super::seen::Wish;

/// One reason. Its text is a sentence without a full stop.
#[derive(Clone, Debug, PartialEq)]
pub enum Reason {
    /// The operator asked for something.
    Wish(Wish),
    /// The configuration keeps so many, now or when a machine ordered now works.
    Floor(u32),
    /// The configuration allows no more, and this many are needed.
    Ceiling(u32, u32),
    /// Jobs arrive so fast, per hour, and keep so many machines busy.
    Flow(u64, u32),
    /// So many jobs are due by then, and need so many machines.
    Due(u64, Micros, u32),
    /// So many jobs without a deadline wait, and need so many machines.
    Waiting(u64, u32),
    /// A backfill of so many jobs, perhaps due by then, needs so many machines.
    Backfill(u64, Option<Micros>, u32),
    /// A further machine would cost so much an hour, and its jobs cost so much at serverless pools.
    Serverless {
        /// The machine's rent.
        rent: UsdNanos,
        /// The same jobs elsewhere, an hour.
        elsewhere: UsdNanos,
        /// What was lost so far by not renting it.
        lost: UsdNanos,
        /// At which loss it is rented.
        until: UsdNanos,
    },
    /// Renting beats serverless pools: rent and price there, an hour, of the last machine.
    Rented {
        /// The machine's rent.
        rent: UsdNanos,
        /// The same jobs elsewhere, an hour.
        elsewhere: UsdNanos,
    },
    /// More machines stand than are needed; they are kept for a while, since a start costs as much.
    Kept(u32),
    /// Fewer are enough; one leaves at this time if that stays so.
    Lower(Micros),
    /// The next one to leave is paid for until it leaves then.
    Paid(Micros),
    /// The cap on machines.
    MachinesMax(u32),
    /// The cap on dollars an hour: what is taken of it, and the cap.
    DollarsMax(UsdNanos, UsdNanos),
    /// Nobody offers a machine.
    NoOffer,
    /// Every place failed lately; they are asked again then.
    Rest(Micros),
    /// So many jobs may be late, the first at this time.
    AtRisk(u64, Micros),
    /// Machines wait for their successors.
    Replacing(u32),
    /// Other pools of the region are filled first, with so many slots.
    Ahead(u32),
    /// No dispatcher has spoken for so long.
    Unheard(Duration),
    /// Nothing waits and nothing is kept.
    Nothing,
}

impl Reason {
    /// Whether a person should look.
    pub fn is_alarm(&self) -> bool {
        match self {
            Self::AtRisk(..) => true,
            Self::Wish(_)
            | Self::Floor(_)
            | Self::Ceiling(..)
            | Self::Flow(..)
            | Self::Due(..)
            | Self::Waiting(..)
            | Self::Backfill(..)
            | Self::Serverless { .. }
            | Self::Rented { .. }
            | Self::Kept(_)
            | Self::Lower(_)
            | Self::Paid(_)
            | Self::MachinesMax(_)
            | Self::DollarsMax(..)
            | Self::NoOffer
            | Self::Rest(_)
            | Self::Replacing(_)
            | Self::Ahead(_)
            | Self::Unheard(_)
            | Self::Nothing => false,
        }
    }
}

/// A count with its noun.
fn count(number: u32, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// Dollars to the cent, or as exactly as they are below one.
pub(super) fn dollars(amount: UsdNanos) -> String {
    let cents = amount.get().div_ceil(10_000_000);
    if cents < 1 || amount.get() < 10_000_000 {
        return format!("${amount}");
    }
    format!("${}.{:02}", cents / 100, cents % 100)
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Wish(Wish::None) => f.write_str("the policy decides"),
            Self::Wish(Wish::Start) => f.write_str("an operator asked for at least one machine"),
            Self::Wish(Wish::Scale(n)) => write!(f, "an operator asked for {}", count(*n, "machine")),
            Self::Wish(Wish::Stop) => f.write_str("an operator stopped the pool"),
            Self::Wish(Wish::Drain) => f.write_str("an operator drains the pool"),
            Self::Floor(n) => write!(f, "the configuration keeps {}", count(*n, "machine")),
            Self::Ceiling(max, needed) => {
                write!(f, "{} needed, but the configuration allows {max}", count(*needed, "machine"))
            }
            Self::Flow(jobs, n) => write!(f, "about {jobs} jobs an hour keep {} busy", count(*n, "machine")),
            Self::Due(jobs, by, n) => {
                write!(f, "{jobs} jobs due by {by} need {}", count(*n, "machine"))
            }
            Self::Waiting(jobs, n) => write!(f, "{jobs} waiting jobs need {}", count(*n, "machine")),
            Self::Backfill(jobs, None, n) => {
                write!(f, "a backfill of {jobs} jobs uses {}", count(*n, "machine"))
            }
            Self::Backfill(jobs, Some(by), n) => {
                write!(f, "a backfill of {jobs} jobs due by {by} needs {}", count(*n, "machine"))
            }
            Self::Serverless { rent, elsewhere, lost, until } => write!(
                f,
                "no further machine is rented: it costs {} an hour, its jobs cost {} an hour at serverless pools now, and of {} \
                 that must be lost first {} are",
                dollars(*rent),
                dollars(*elsewhere),
                dollars(*until),
                dollars(*lost),
            ),
            Self::Rented { rent, elsewhere } => write!(
                f,
                "renting beats serverless pools: {} an hour against {} an hour for the last machine's jobs",
                dollars(*rent),
                dollars(*elsewhere),
            ),
            Self::Kept(n) => {
                write!(
                    f,
                    "{} more than needed stay until their rent has cost as much as a start",
                    count(*n, "machine")
                )
            }
            Self::Lower(at) => write!(f, "fewer machines are enough; one leaves at {at} if that stays so"),
            Self::Paid(at) => write!(f, "the next machine to leave is paid for and leaves at {at}"),
            Self::MachinesMax(max) => write!(f, "machines_max allows {}", count(*max, "machine")),
            Self::DollarsMax(taken, max) => write!(
                f,
                "usd_per_hour_max allows no more: {} of {} an hour are taken",
                dollars(*taken),
                dollars(*max)
            ),
            Self::NoOffer => f.write_str("no place offers a machine"),
            Self::Rest(until) => write!(f, "every place failed lately; they are asked again at {until}"),
            Self::AtRisk(jobs, by) => write!(f, "{jobs} jobs may be late, the first are due by {by}"),
            Self::Replacing(n) => {
                write!(f, "{} stay until their successors have given a completion", count(*n, "machine"))
            }
            Self::Ahead(slots) => write!(
                f,
                "other pools of the region go first with {}: they are cheaper, or have machines already",
                count(*slots, "slot")
            ),
            Self::Unheard(span) => write!(f, "no dispatcher has spoken for {} s", span.as_secs()),
            Self::Nothing => f.write_str("nothing waits"),
        }
    }
}
