//! Child processes that end with us, even when we are killed.
//!
//! A child is started through `beacon guard`, which asks the kernel to be told when its parent dies and then
//! *becomes* the program: same process, same id. On systems without that call the program is started all the same,
//! and the embedded server's pid file lets the next start remove one that was left behind.

use std::{
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt,
    path::Path,
    process::Stdio,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::process::{Child, Command};
use tracing::warn;

/// How long a child may take to end after SIGTERM.
const PATIENCE: Duration = Duration::from_secs(10);

/// A command that starts `program` guarded. It must be spawned from the main thread, whose end is the process's.
pub(crate) fn command(program: &Path, args: &[&OsStr]) -> io::Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("guard")
        .arg("--parent")
        .arg(std::process::id().to_string())
        .arg("--")
        .arg(program)
        .args(args)
        .stdin(Stdio::null())
        // A signal from the terminal reaches us alone, and we end our children in order.
        .process_group(0)
        .kill_on_drop(true);
    Ok(command)
}

/// Becomes `command`; returns only when that fails.
pub(crate) fn become_program(parent: u32, command: &[OsString]) -> anyhow::Error {
    #[cfg(target_os = "linux")]
    {
        if let Err(error) = nix::sys::prctl::set_pdeathsig(Signal::SIGTERM) {
            return anyhow::Error::new(error).context("cannot be told of the parent's death");
        }
        // It may have died before we asked.
        if u32::try_from(Pid::parent().as_raw()) != Ok(parent) {
            return anyhow::anyhow!("the parent process {parent} is gone");
        }
    }
    let Some((program, args)) = command.split_first() else {
        return anyhow::anyhow!("no program to become");
    };
    let error = std::process::Command::new(program).args(args).exec();
    anyhow::Error::new(error).context(format!("cannot start {}", program.display()))
}

/// Sends a signal to a child; a child that has ended is none.
pub(crate) fn send(child: &Child, signal: Signal) {
    let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) else {
        return;
    };
    if let Err(error) = kill(Pid::from_raw(pid), signal) {
        warn!(pid, %signal, %error, "cannot send a signal");
    }
}

/// Ends a child: SIGTERM, and after a while SIGKILL.
pub(crate) async fn end(child: &mut Child) {
    // A stopped process does not hear SIGTERM before it goes on.
    send(child, Signal::SIGTERM);
    send(child, Signal::SIGCONT);
    if tokio::time::timeout(PATIENCE, child.wait()).await.is_err() {
        warn!(pid = child.id(), "child did not end in time, killing it");
        if let Err(error) = child.kill().await {
            warn!(%error, "cannot kill the child");
        }
    }
}
