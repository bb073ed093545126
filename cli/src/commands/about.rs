//! `beacon completions` and `beacon man`: the command told about itself, from its own arguments.

use anyhow::Context as _;
use clap::CommandFactory as _;

use crate::{
    args::{Args, Completions, Man},
    output,
};

/// Prints a completion script.
pub(crate) fn completions(args: &Completions) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Args::command(), "beacon", &mut script);
    output::line(String::from_utf8(script)?.trim_end())
}

/// Writes a page for every command.
pub(crate) fn man(args: &Man) -> anyhow::Result<()> {
    let folder = args.folder.display();
    std::fs::create_dir_all(&args.folder)
        .and_then(|()| clap_mangen::generate_to(Args::command(), &args.folder))
        .with_context(|| format!("cannot write to {folder}"))
}
