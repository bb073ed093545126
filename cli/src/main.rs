//! The `beacon` command: reads arguments and configuration, wires the roles, and tells the outcome.
//!
//! Reading order, from the top: [`commands`], one file each; [`session`], from which every command starts; [`args`] and
//! [`config`]. No module below [`commands`] imports a command. The commands share [`roles`] (dispatchers and pools),
//! [`embedded`] (our own nats-server), [`simulated`] (providers in this process), [`selecting`] and [`named`] (which jobs,
//! regions and models are meant), [`output`], [`table`] and [`confirm`] (the terminal), [`ledger`] and [`report`] (the
//! outcome of the demo), and [`exit`] (how the process ends).

mod args;
mod commands;
mod config;
mod confirm;
mod embedded;
mod environment;
mod exit;
mod guard;
mod ledger;
mod llm;
mod logging;
mod metrics;
mod named;
mod output;
mod report;
mod roles;
mod selecting;
mod session;
mod shown;
mod signals;
mod simulated;
mod table;
mod when;

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;

use crate::{
    args::{Args, Command},
    exit::conclude,
    session::Session,
};

/// Every job is a few dozen small allocations on several threads; see the version table for what it saves.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let args = Args::parse();
    if let Command::Guard(guard) = &args.command {
        return conclude(Err(guard::become_program(guard.parent, &guard.command)));
    }
    conclude(start(args))
}

/// Everything below runs on this thread or is spawned from it, so that what we start ends when the process does.
fn start(args: Args) -> anyhow::Result<()> {
    let session = Session::new(&args)?;
    // Two of our libraries would each choose a TLS library; there is one, and only a second call could fail.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let signals = session.signals.clone();
    runtime.block_on(signals.while_running(commands::run(args.command, session)))
}
