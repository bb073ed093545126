//! Regions and models as a person names them on the command line, checked against the configuration.

use anyhow::Context as _;
use producer::lines;
use schemas::{ModelToken, Region, topology::Settings};

use crate::exit::Usage;

/// The region of that name; without a name the first.
pub(crate) fn region(named: Option<&Region>, topology: &Settings) -> Result<Region, Usage> {
    let regions = &topology.regions;
    match named {
        Some(region) if regions.contains(region) => Ok(region.clone()),
        Some(region) => {
            let known = regions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            Err(Usage(format!("--region `{region}` is not in beacon.regions ({known})")))
        }
        None => Ok(regions[0].clone()),
    }
}

/// The model of that name or token; without one the first of the catalog.
pub(crate) fn model(named: Option<&str>, topology: &Settings) -> anyhow::Result<ModelToken> {
    let catalog = &topology.catalog;
    let found = match named {
        Some(name) => {
            catalog.find(name).ok_or_else(|| Usage(lines::unknown_model(name, catalog, "--model")))?
        }
        None => catalog.tokens().next().context("the catalog is empty")?,
    };
    Ok(found.clone())
}
