//! One file per command.

mod backfill;
mod bench;
mod cancel;
mod demo;
mod dispatcher;
mod results;
mod schedule;
mod simulators;
mod submit;
mod up;
mod worker;

use crate::{args::Command, guard, session::Session};

/// Runs a command to its end.
pub(crate) async fn run(command: Command, session: Session) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => demo::run(args, session).await,
        Command::Up => up::run(session).await,
        Command::Dispatcher(args) => dispatcher::run(args, session).await,
        Command::Worker(args) => worker::run(args, session).await,
        Command::Simulators => simulators::run(session).await,
        Command::Submit(args) => submit::run(args, session).await,
        Command::Results(args) => results::run(args, session).await,
        Command::Backfill(args) => backfill::run(args, session).await,
        Command::Schedule(args) => schedule::run(args, session).await,
        Command::Cancel(args) => cancel::run(args, session).await,
        Command::Bench(args) => bench::run(args, session).await,
        Command::Guard(args) => Err(guard::become_program(args.parent, &args.command)),
    }
}
