//! An account at Railway, as the operator describes it.

use std::collections::BTreeMap;

use schemas::{PoolId, UsdNanos};

use crate::{landlord::CallError, secret::Secret};

/// How the account is entered. The two kinds of keys travel in different headers, and never both.
#[derive(Clone, Debug)]
pub enum RailwayToken {
    /// Of an account or a workspace: `Authorization: Bearer`.
    Account(Secret),
    /// Bound to one environment of one project: `Project-Access-Token`.
    Project(Secret),
}

/// In what the `usage` query counts CPU and memory. The documentation does not say; compare one invoice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UsageUnit {
    /// vCPU-seconds and GB-seconds.
    Second,
    /// vCPU-minutes and GB-minutes, in which the price list counts.
    #[default]
    Minute,
    /// vCPU-hours and GB-hours.
    Hour,
}

impl UsageUnit {
    /// How many of them make a month of 30 days, for which prices are told.
    pub(crate) const fn per_month(self) -> u64 {
        match self {
            Self::Second => 2_592_000,
            Self::Minute => 43_200,
            Self::Hour => 720,
        }
    }
}

/// Railway's price list, dollars.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RailwayPrices {
    /// A vCPU for 30 days.
    pub vcpu_month: UsdNanos,
    /// A GB of memory for 30 days.
    pub gb_month: UsdNanos,
    /// A GB sent.
    pub egress_gb: UsdNanos,
}

/// Where a pool's machines stand and what they run.
#[derive(Clone, Debug)]
pub struct RailwayPool {
    /// Railway's names of regions, the preferred one first.
    pub places: Vec<String>,
    /// The size of a machine, for instance `4x8`: 4 vCPU and 8 GB, which are set as its limits.
    pub sku: String,
    /// The image.
    pub image: String,
    /// What to run in it, where not what the image says.
    pub start_command: Option<String>,
    /// The port on which the server listens.
    pub port: u16,
    /// Must answer 200 before a deployment counts as live.
    pub health_path: String,
    /// How long it may take to, seconds.
    pub health_timeout_s: u32,
    /// How long a server may finish what it began before it is killed, seconds. Railway's default is none.
    pub draining_s: u32,
    /// The variable that holds the key which the server asks for.
    pub key_variable: String,
    /// More variables.
    pub variables: BTreeMap<String, String>,
}

impl RailwayPool {
    /// A pool with usual settings.
    pub fn new(place: impl Into<String>, sku: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            places: vec![place.into()],
            sku: sku.into(),
            image: image.into(),
            start_command: None,
            port: 8000,
            health_path: "/health".to_owned(),
            health_timeout_s: 300,
            draining_s: 300,
            key_variable: "VLLM_API_KEY".to_owned(),
            variables: BTreeMap::new(),
        }
    }
}

/// One project's environment, in which our machines are services.
#[derive(Clone, Debug)]
pub struct RailwayConfig {
    /// The URL of the API.
    pub api: String,
    /// The key.
    pub token: RailwayToken,
    /// The project's id.
    pub project: String,
    /// The environment's id.
    pub environment: String,
    /// The price list.
    pub prices: RailwayPrices,
    /// In what use is told.
    pub usage_unit: UsageUnit,
    /// Whether idle machines fall asleep: after 10 minutes without outbound packets. This is how they are parked. It takes a
    /// minute and a 502 to wake one.
    pub sleep: bool,
    /// How machines are reached: `https`. Railway turns a POST over `http` into a GET.
    pub edge_scheme: String,
    /// The pools that rent here.
    pub pools: BTreeMap<PoolId, RailwayPool>,
}

impl RailwayConfig {
    /// An account with usual settings and without pools.
    pub fn new(
        token: RailwayToken,
        project: impl Into<String>,
        environment: impl Into<String>,
        prices: RailwayPrices,
    ) -> Self {
        Self {
            api: "https://backboard.railway.com/graphql/v2".to_owned(),
            token,
            project: project.into(),
            environment: environment.into(),
            prices,
            usage_unit: UsageUnit::default(),
            sleep: false,
            edge_scheme: "https".to_owned(),
            pools: BTreeMap::new(),
        }
    }
}

/// A machine's size. Railway has no types; ours are written `<vCPU>x<GB>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) vcpus: u32,
    pub(crate) memory_gb: u32,
}

impl Size {
    pub(crate) fn parse(sku: &str) -> Result<Self, CallError> {
        let size = || {
            let (vcpus, memory_gb) = sku.split_once('x')?;
            let size = Self { vcpus: vcpus.parse().ok()?, memory_gb: memory_gb.parse().ok()? };
            (size.vcpus > 0 && size.memory_gb > 0).then_some(size)
        };
        size().ok_or_else(|| {
            CallError::Misconfigured(format!("sku `{sku}`: write vCPU and GB, for instance `4x8`"))
        })
    }

    /// What an hour costs at most, when all that the limits allow is used; rounded up. `None` if out of range.
    pub(crate) fn usd_per_hour(self, prices: &RailwayPrices) -> Option<UsdNanos> {
        let cpu = prices.vcpu_month.times(u64::from(self.vcpus))?;
        let memory = prices.gb_month.times(u64::from(self.memory_gb))?;
        cpu.checked_add(memory)?.per(UsageUnit::Hour.per_month())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_read_and_priced() {
        let prices = RailwayPrices {
            vcpu_month: "20".parse().unwrap(),
            gb_month: "10".parse().unwrap(),
            egress_gb: "0.05".parse().unwrap(),
        };
        let size = Size::parse("4x8").unwrap();
        assert_eq!(size, Size { vcpus: 4, memory_gb: 8 });
        // (4 × 20 + 8 × 10) / 720 h
        assert_eq!(size.usd_per_hour(&prices), Some("0.222222223".parse().unwrap()));
        for odd in ["", "4", "x", "4x", "0x8", "4x0", "4.5x8", "large"] {
            assert!(Size::parse(odd).is_err(), "{odd}");
        }
    }
}
