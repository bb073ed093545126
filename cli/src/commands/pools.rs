//! `beacon pools`: the rented machines of each pool, what they cost, and what is asked of them.
//!
//! The command only writes down what is asked. The keeper of the pool hears it at once and acts; without a keeper the wish waits.

mod shown;
mod status;
mod ways;

use std::time::Duration;

use keepers::{
    operator::Operator,
    wish::{Status, Wish},
};
use schemas::{MachineId, PoolId, UsdNanos, machine::MachineState, time::Clock as _};
use serde_json::json;
use tokio::time::{Instant, sleep};
use transport::SystemClock;

use self::shown::{Shown, gather, machines, standing};
use crate::{
    args::{Pools, PoolsAsk, PoolsDrain, PoolsForget, PoolsScale},
    confirm::confirm,
    environment,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
};

/// A keeper that is there answers a wish within this.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
/// Between looks at whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Looks, or asks.
pub(crate) async fn run(args: Pools, session: Session) -> anyhow::Result<()> {
    let work = async {
        let operator = Operator::connect(&session.link()?).await?;
        let outcome = match args {
            Pools::Status(args) => status::show(args, &session, &operator).await,
            Pools::Start(args) => ask(&args, &session, &operator, Change::Start).await,
            Pools::Stop(args) => ask(&args, &session, &operator, Change::Stop).await,
            Pools::Scale(PoolsScale { ask: args, machines }) => {
                ask(&args, &session, &operator, Change::Scale(machines)).await
            }
            Pools::Drain(PoolsDrain { ask: args, machines }) => {
                ask(&args, &session, &operator, Change::Drain(machines)).await
            }
            Pools::Forget(args) => forget(args, &session, &operator).await,
        };
        operator.close().await;
        outcome
    };
    session.unless_interrupted(work).await
}

/// What is asked.
#[derive(Clone, Debug)]
enum Change {
    Start,
    Stop,
    Scale(Option<u32>),
    Drain(Vec<MachineId>),
}

async fn ask(args: &PoolsAsk, session: &Session, operator: &Operator, change: Change) -> anyhow::Result<()> {
    let pool = &args.pool;
    let shown = gather(session, operator, std::slice::from_ref(pool)).await?;
    let Some(shown) = shown.first() else {
        return Err(Usage(format!("pool `{pool}` rents no machines and has none")).into());
    };
    let (before, revision) = operator.wish(pool).await?;
    let wish = changed(&before, &change, shown)?;
    for line in told(session, &change, shown) {
        session.say(line);
    }
    let (price, now) = (price(shown), standing(shown).1);
    let json = |asked: bool, keeper: Option<&str>| {
        json!({
            "pool": pool, "wish": wish, "asked": asked, "kept_by": keeper, "usd_per_hour_now": now,
            "usd_per_hour_each": price,
        })
    };
    if args.dry_run {
        session.say("nothing was asked (--dry-run)");
        return if session.json { output::json(&json(false, shown.keeper.as_deref())) } else { Ok(()) };
    }
    confirm("ask this of the pool's keeper", args.yes)?;
    operator.ask(pool, &wish, revision).await?;
    let answer = heard(operator, pool, &wish).await?;
    if session.json {
        output::json(&json(true, answer.as_ref().ok().map(|status| status.keeper.as_str())))?;
    }
    match answer {
        Ok(status) => {
            session.say(format!("keeper {} does it: {} wanted", status.keeper, machines(status.want)));
            Ok(())
        }
        Err(why) => {
            Err(Unsuccessful(format!("{why}; what you asked of {pool} is stored and is done then")).into())
        }
    }
}

/// Waits for the pool's keeper to follow the wish, for a while. Why it does not, else.
async fn heard(operator: &Operator, pool: &PoolId, wish: &Wish) -> anyhow::Result<Result<Status, String>> {
    let end = Instant::now() + ANSWER_WITHIN;
    loop {
        let status = operator.status(pool).await?;
        if let Some(status) = status.filter(|status| status.wish_us == wish.at_us) {
            return Ok(Ok(status));
        }
        match operator.keeper(pool, SystemClock.now()).await? {
            None => return Ok(Err(format!("no keeper keeps {pool}: start `beacon keeper`"))),
            Some(keeper) if Instant::now() >= end => {
                let secs = ANSWER_WITHIN.as_secs();
                return Ok(Err(format!("keeper {keeper} does not answer within {secs} s: look at its log")));
            }
            Some(_) => sleep(LOOK_EVERY).await,
        }
    }
}

fn changed(before: &Wish, change: &Change, shown: &Shown) -> anyhow::Result<Wish> {
    let mut wish =
        Wish { by: environment::process_name().to_string(), at_us: SystemClock.now(), ..before.clone() };
    match change {
        Change::Start => (wish.stopped, wish.scale) = (false, None),
        Change::Stop => wish.stopped = true,
        Change::Scale(machines) => (wish.stopped, wish.scale) = (false, *machines),
        Change::Drain(machines) => {
            let known = |machine: &&MachineId| shown.rows.iter().any(|row| row.specs.machine == **machine);
            if let Some(unknown) = machines.iter().find(|machine| !known(machine)) {
                return Err(Usage(format!("machine `{unknown}` is not one of pool {}", shown.pool)).into());
            }
            // Machines that are gone need not be asked for again.
            wish.drain.retain(|machine| known(&machine));
            wish.drain.extend(machines.iter().cloned());
        }
    }
    Ok(wish)
}

/// The cheapest machine that could be had, dollars an hour.
fn price(shown: &Shown) -> Option<UsdNanos> {
    shown.status.as_ref().and_then(|status| status.quotes.iter().map(|quote| quote.usd_per_hour).min())
}

/// What it means, prices first.
fn told(session: &Session, change: &Change, shown: &Shown) -> Vec<String> {
    let pool = &shown.pool;
    let price = price(shown);
    let each = price.map_or_else(
        || "its price is not known: no keeper has asked for it yet".to_owned(),
        |price| format!("${price} an hour each"),
    );
    let (count, usd) = standing(shown);
    let mut lines = vec![format!("now: {} at ${usd} an hour together", machines(count))];
    lines.push(match change {
        Change::Stop => {
            format!("{pool}: no machine; those that stand are drained and ended, and none is ordered")
        }
        Change::Scale(Some(asked)) => {
            let sum = price.and_then(|price| price.times(u64::from(*asked)));
            let sum = sum.map_or_else(String::new, |sum| format!(", ${sum} an hour together"));
            format!("{pool}: {} whatever its policy says, {each}{sum}", machines(*asked))
        }
        Change::Start | Change::Scale(None) => format!("{pool}: as many machines as its policy says, {each}"),
        Change::Drain(named) => {
            let row = |machine: &&MachineId| shown.rows.iter().find(|row| row.specs.machine == **machine);
            let saved: u64 = named
                .iter()
                .filter_map(|machine| row(&machine))
                .map(|row| row.specs.usd_per_hour.get())
                .sum();
            let names: Vec<String> = named.iter().map(ToString::to_string).collect();
            let saved = UsdNanos::new(saved);
            format!(
                "{pool}: drain and end {} (${saved} an hour); the policy may order others",
                names.join(", ")
            )
        }
    });
    let rent = session.config.pool(pool).and_then(|pool| pool.rent());
    if let (Change::Scale(Some(asked)), Some(rent)) = (change, rent) {
        let (most, usd) = (rent.most(), rent.usd_per_hour_max());
        if *asked > most {
            lines.push(format!(
                "the configuration allows {} (most): the keeper orders no more",
                machines(most)
            ));
        }
        if price.and_then(|price| price.times(u64::from(*asked))).is_some_and(|sum| sum > usd) {
            lines.push(format!(
                "the configuration allows ${usd} an hour (pool_usd_per_hour_max): the keeper orders no more"
            ));
        }
    }
    lines
}

async fn forget(args: PoolsForget, session: &Session, operator: &Operator) -> anyhow::Result<()> {
    let PoolsForget { machine, dry_run, yes } = args;
    let Some(row) = operator.rows().await?.remove(&machine) else {
        return Err(Unsuccessful(format!(
            "there is no machine `{machine}`; `beacon pools status` has those that are"
        ))
        .into());
    };
    let (id, account) = (row.id.as_deref().unwrap_or("unknown"), &row.specs.landlord);
    let (state, price) = (row.life.state(), row.specs.usd_per_hour);
    session.say(format!(
        "{machine} of {} is {} (id {id} at {account}, ${price} an hour)",
        row.specs.pool,
        state.name()
    ));
    if !matches!(state, MachineState::Wanted | MachineState::Gone) {
        session
            .say(format!("look at {account} first: if it still runs there, it costs on and nobody ends it"));
    }
    if dry_run {
        session.say("nothing was forgotten (--dry-run)");
        return if session.json { output::json(&json!({ "forgotten": null, "id": row.id })) } else { Ok(()) };
    }
    confirm("forget it, so that nobody looks for it or ends it any more", yes)?;
    match operator.forget(&machine).await? {
        Some(row) => {
            session.say(format!("{machine} is forgotten"));
            if session.json { output::json(&json!({ "forgotten": machine, "id": row.id })) } else { Ok(()) }
        }
        None => Err(Unsuccessful(format!("machine `{machine}` went by itself meanwhile")).into()),
    }
}
