//! Plays seeds, and tells of the one that fails.

use std::fmt;

use crate::{
    mutation::Mutation,
    plan::Plan,
    tally::Tally,
    world::{Violation, World},
};

/// Lines of history that are printed of a failing seed.
const LINES: usize = 400;

/// A seed whose world broke a rule.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed.
    pub seed: u64,
    /// The rule, and how it was broken.
    pub violation: Violation,
    /// What happened before.
    pub history: String,
}

/// Plays a seed. A seed that fails is played again, with its history.
pub fn play(seed: u64) -> Result<Tally, Box<Failure>> {
    play_with(seed, None)
}

/// Plays a seed with a bug put back.
pub fn play_mutated(seed: u64, mutation: Mutation) -> Result<Tally, Box<Failure>> {
    play_with(seed, Some(mutation))
}

fn play_with(seed: u64, mutation: Option<Mutation>) -> Result<Tally, Box<Failure>> {
    let mut world = World::new(Plan::of(seed), mutation, false);
    let Err(violation) = world.play() else { return Ok(world.core.audit.tally) };
    let mut again = World::new(Plan::of(seed), mutation, true);
    let same = again.play();
    let mut history = again.core.history.text(violation.job, LINES);
    if same.as_ref() != Err(&violation) {
        history
            .push_str("  played again, it went another way: something in it is not a function of the seed\n");
    }
    Err(Box::new(Failure { seed, violation, history }))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, violation: Violation { rule, what, job }, history } = self;
        let plan = Plan::of(*seed);
        writeln!(f, "seed {seed} breaks the rule: {rule}")?;
        let job = job.map_or_else(String::new, |job| format!("job #{job}: "));
        writeln!(f, "  {job}{what}")?;
        let server = if plan.cluster { "three servers" } else { "one server" };
        writeln!(
            f,
            "  {server}, journal {:?}, leases of {:?}, {} % hedged, runs {} by name",
            plan.journal,
            plan.ack_wait,
            plan.hedges,
            if plan.finds { "found" } else { "not found" }
        )?;
        f.write_str(history)?;
        writeln!(f, "play it again: cargo run -p lease-lab --example play -- {seed}")
    }
}
