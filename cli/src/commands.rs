//! One file per command.

mod about;
mod backfill;
mod bench;
mod cancel;
mod dead;
mod demo;
mod dispatcher;
mod keeper;
mod pools;
mod prices;
mod provider;
mod replay;
mod results;
mod schedule;
mod simulate;
mod simulators;
mod submit;
mod up;
mod why;
mod worker;

use crate::{args::Command, guard, session::Session};

/// Runs a command to its end.
pub(crate) async fn run(command: Command, session: Session) -> anyhow::Result<()> {
    match command {
        Command::Demo(args) => Box::pin(demo::run(args, session)).await,
        Command::Up => Box::pin(up::run(session)).await,
        Command::Dispatcher(args) => dispatcher::run(args, session).await,
        Command::Worker(args) => worker::run(args, session).await,
        Command::Keeper(args) => keeper::run(args, session).await,
        Command::Pools(args) => pools::run(args, session).await,
        Command::Provider(args) => provider::run(args, session).await,
        Command::Prices(args) => prices::run(args, session).await,
        Command::Simulators => simulators::run(session).await,
        Command::Submit(args) => submit::run(args, session).await,
        Command::Results(args) => results::run(args, session).await,
        Command::Backfill(args) => backfill::run(args, session).await,
        Command::Replay(args) => replay::run(*args, session).await,
        Command::Dead(args) => dead::run(args, session).await,
        Command::Schedule(args) => schedule::run(args, session).await,
        Command::Cancel(args) => cancel::run(args, session).await,
        Command::Why(args) => why::run(args, session).await,
        Command::Bench(args) => Box::pin(bench::run(args, session)).await,
        Command::Simulate(args) => simulate::run(args, session).await,
        Command::Completions(args) => about::completions(&args),
        Command::Man(args) => about::man(&args),
        Command::Guard(args) => Err(guard::become_program(args.parent, &args.command)),
    }
}
