//! What a person may type about providers and their prices: `beacon provider` and `beacon prices`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};

/// `beacon provider`
#[derive(Debug, Subcommand)]
pub(crate) enum Provider {
    /// Ask the live services whether jobs could run there: key, region, price, quota, app, what runs there, how far it is.
    /// Spends nothing
    Check(ProviderCheck),
}

/// `beacon provider check`
#[derive(Debug, ClapArgs)]
pub(crate) struct ProviderCheck {
    /// A provider, a pool such as modal@us-east, or an account of [[landlords]] [default: all pools of the configuration]
    pub(crate) name: Option<String>,
    /// How far a provider's price may be from the price book's before that is a warning, as a share
    /// [default: the pool's own price_tolerance, else 0.2]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    pub(crate) price_tolerance: Option<u32>,
}

/// `beacon prices`
#[derive(Debug, Subcommand)]
pub(crate) enum Prices {
    /// Compare the price book with what providers' APIs say now, and write a dated change for a person to accept
    Check(PricesCheck),
}

/// `beacon prices check`
#[derive(Debug, ClapArgs)]
pub(crate) struct PricesCheck {
    /// Where the changed price book goes [default: prices.<date>.toml beside the price book]
    #[arg(long, value_name = "FILE", conflicts_with = "accept")]
    pub(crate) write: Option<PathBuf>,
    /// Replace the price book of the configuration by the changed one
    #[arg(long)]
    pub(crate) accept: bool,
    /// Do not ask before --accept
    #[arg(long, requires = "accept")]
    pub(crate) yes: bool,
}

/// A share between 0 and 10, as thousandths.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be 0 to 10")]
fn share(text: &str) -> Result<u32, String> {
    let share: f64 = text.parse().map_err(|_| "must be a share such as 0.2")?;
    if (0.0..=10.0).contains(&share) {
        Ok((share * 1_000.0).round() as u32)
    } else {
        Err("must be 0 to 10".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_read_in_thousandths_within_its_bounds() {
        assert_eq!((share("0.2"), share("0"), share("10")), (Ok(200), Ok(0), Ok(10_000)));
        for odd in ["-0.1", "11", "NaN", "much"] {
            assert!(share(odd).is_err(), "{odd}");
        }
    }
}
