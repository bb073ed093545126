//! What a person may type about pools that rent: `beacon keeper` and `beacon pools`.

use clap::{Args as ClapArgs, Subcommand};
use schemas::{MachineId, PoolId, WorkerId};

/// `beacon keeper`
#[derive(Debug, ClapArgs)]
pub(crate) struct Keeper {
    /// A pool of the configuration that rents, for instance lambda@us-east; may be repeated [default: all that rent]
    #[arg(long = "pool", value_name = "PROVIDER@REGION")]
    pub(crate) pools: Vec<PoolId>,
    /// Name of this process among keepers; one that starts again under its name takes its pools at once [default: host]
    #[arg(long, value_name = "NAME")]
    pub(crate) id: Option<WorkerId>,
}

/// `beacon pools`
#[derive(Debug, Subcommand)]
pub(crate) enum Pools {
    /// Show pools that rent, their machines, what they cost, and why so many
    Status(PoolsStatus),
    /// Let a pool have machines again, as its policy says
    Start(PoolsAsk),
    /// Drain and end all machines of a pool, and order none
    Stop(PoolsAsk),
    /// Ask for a number of machines, whatever the policy says
    Scale(PoolsScale),
    /// Drain and end single machines; the policy may order others
    Drain(PoolsDrain),
    /// Forget a machine that was ended by hand at a provider whose key is gone
    Forget(PoolsForget),
}

/// `beacon pools status`
#[derive(Debug, ClapArgs)]
pub(crate) struct PoolsStatus {
    /// Pools to show [default: all]
    #[arg(value_name = "PROVIDER@REGION")]
    pub(crate) pools: Vec<PoolId>,
}

/// Something that is asked of a pool's keeper.
#[derive(Debug, ClapArgs)]
pub(crate) struct PoolsAsk {
    /// The pool
    #[arg(value_name = "PROVIDER@REGION")]
    pub(crate) pool: PoolId,
    /// Only say what would be asked, and what it costs
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}

/// `beacon pools scale`
#[derive(Debug, ClapArgs)]
pub(crate) struct PoolsScale {
    #[command(flatten)]
    pub(crate) ask: PoolsAsk,
    /// How many machines; without it the policy decides again
    #[arg(value_name = "MACHINES")]
    pub(crate) machines: Option<u32>,
}

/// `beacon pools drain`
#[derive(Debug, ClapArgs)]
pub(crate) struct PoolsDrain {
    #[command(flatten)]
    pub(crate) ask: PoolsAsk,
    /// The machines, by their names in `beacon pools status`
    #[arg(value_name = "MACHINE", required = true)]
    pub(crate) machines: Vec<MachineId>,
}

/// `beacon pools forget`
#[derive(Debug, ClapArgs)]
pub(crate) struct PoolsForget {
    /// The machine, by its name in `beacon pools status`
    #[arg(value_name = "MACHINE")]
    pub(crate) machine: MachineId,
    /// Only say what would be forgotten
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub(crate) yes: bool,
}
