//! Asks a person at the terminal before something that cannot be undone.

use std::io::{BufRead as _, IsTerminal as _, Write as _};

use crate::exit::{Unsuccessful, Usage};

/// Asks whether to do `what`. Refuses without a terminal; with `yes` nothing is asked.
pub(crate) fn confirm(what: &str, yes: bool) -> anyhow::Result<()> {
    if yes {
        return Ok(());
    }
    let stdin = std::io::stdin();
    if !stdin.is_terminal() {
        return Err(Usage(format!("nobody is there to confirm: give --yes to {what}")).into());
    }
    eprint!("{what}? [y/N] ");
    std::io::stderr().flush()?;
    let mut answer = String::new();
    stdin.lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") {
        Ok(())
    } else {
        Err(Unsuccessful("nothing was done".into()).into())
    }
}
