//! `beacon pools`: the rented machines of each pool, what they cost, and what is asked of them.
//!
//! The command only writes down what is asked. The keeper of the pool hears it at once and acts; without a keeper the wish waits.

use std::collections::BTreeMap;

use keepers::{
    operator::Operator,
    row::Row,
    wish::{Status, Wish},
};
use schemas::{MachineId, Micros, PoolId, UsdNanos, machine::MachineState, time::Clock as _};
use serde_json::json;
use transport::SystemClock;

use crate::{
    args::{Pools, PoolsAsk, PoolsDrain, PoolsForget, PoolsScale, PoolsStatus},
    confirm::confirm,
    environment,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
    shown::span,
    table::table,
};

/// A keeper that said nothing for so long is not there.
const SILENT_AFTER_SECS: u64 = 60;

/// Looks, or asks.
pub(crate) async fn run(args: Pools, session: Session) -> anyhow::Result<()> {
    let work = async {
        let operator = Operator::connect(&session.link()?).await?;
        let outcome = match args {
            Pools::Status(args) => status(args, &session, &operator).await,
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

/// A pool, as it is shown.
struct Shown {
    pool: PoolId,
    status: Option<Status>,
    wish: Wish,
    rows: Vec<Row>,
    configured: bool,
}

async fn gather(session: &Session, operator: &Operator, only: &[PoolId]) -> anyhow::Result<Vec<Shown>> {
    let mut rows: BTreeMap<PoolId, Vec<Row>> = BTreeMap::new();
    for row in operator.rows().await?.into_values() {
        rows.entry(row.specs.pool.clone()).or_default().push(row);
    }
    let rented = session.config.pools.iter().filter(|pool| pool.rent().is_some());
    let configured: Vec<PoolId> = rented.map(|pool| pool.id.clone()).collect();
    for pool in &configured {
        rows.entry(pool.clone()).or_default();
    }
    let mut shown = Vec::new();
    for (pool, rows) in rows {
        if !only.is_empty() && !only.contains(&pool) {
            continue;
        }
        let status = operator.status(&pool).await?;
        let (wish, _) = operator.wish(&pool).await?;
        let configured = configured.contains(&pool);
        shown.push(Shown { pool, status, wish, rows, configured });
    }
    if let Some(unknown) = only.iter().find(|pool| !shown.iter().any(|shown| shown.pool == **pool)) {
        return Err(Usage(format!("pool `{unknown}` rents no machines and has none")).into());
    }
    Ok(shown)
}

async fn status(args: PoolsStatus, session: &Session, operator: &Operator) -> anyhow::Result<()> {
    let shown = gather(session, operator, &args.pools).await?;
    let now = SystemClock.now();
    if session.json {
        for Shown { pool, status, wish, rows, configured } in &shown {
            let machines: Vec<_> = rows.iter().map(Row::machine).collect();
            output::json(&json!({
                "pool": pool, "configured": configured, "status": status, "wish": wish, "machines": machines,
            }))?;
        }
        return Ok(());
    }
    if shown.is_empty() {
        session.say("no pool rents machines");
        return Ok(());
    }
    let summary: Vec<[String; 7]> = shown.iter().map(|shown| line(shown, now)).collect();
    let header = ["pool", "want", "machines", "$/h", "cost $", "of it idle $", "why"];
    output::line(table(header, &[1, 3, 4, 5], &summary).to_string())?;
    let machines: Vec<[String; 8]> =
        shown.iter().flat_map(|shown| shown.rows.iter().map(|row| machine_line(row, now))).collect();
    if !machines.is_empty() {
        let header = ["machine", "pool", "state", "for", "at", "$/h", "id", "because"];
        output::line(table(header, &[5], &machines).to_string())?;
    }
    Ok(())
}

fn line(shown: &Shown, now: Micros) -> [String; 7] {
    let mut counts: BTreeMap<MachineState, usize> = BTreeMap::new();
    for row in &shown.rows {
        *counts.entry(row.life.state()).or_default() += 1;
    }
    let counts: Vec<String> =
        counts.iter().map(|(state, count)| format!("{count} {}", state.name())).collect();
    let counts = if counts.is_empty() { "-".to_owned() } else { counts.join(", ") };
    let Some(status) = &shown.status else {
        let why = "no keeper has kept this pool yet: run `beacon keeper`".to_owned();
        return [shown.pool.to_string(), "-".into(), counts, "-".into(), "-".into(), "-".into(), why];
    };
    [
        shown.pool.to_string(),
        status.want.to_string(),
        counts,
        status.usd_per_hour.to_string(),
        status.cost_usd.to_string(),
        status.standing_usd.to_string(),
        why(shown, status, now),
    ]
}

/// What a person should know first.
fn why(shown: &Shown, status: &Status, now: Micros) -> String {
    let silent = now.since(status.at_us).as_secs();
    if silent > SILENT_AFTER_SECS {
        return format!("keeper {} is silent for {silent} s: start `beacon keeper`", status.keeper);
    }
    if !shown.configured {
        return "not in this configuration any more: its machines are ended".to_owned();
    }
    if let Some(closed) = &status.closed {
        return format!("nothing is ordered: {closed}");
    }
    if let Some(cooling) = status.cooling.first() {
        return format!(
            "{}; nothing is ordered at {} for now: {}",
            status.reason, cooling.place, cooling.because
        );
    }
    status.reason.clone()
}

fn machine_line(row: &Row, now: Micros) -> [String; 8] {
    [
        row.specs.machine.to_string(),
        row.specs.pool.to_string(),
        row.life.state().name().to_owned(),
        span(now.since(row.since_us)),
        row.specs.place.clone(),
        row.specs.usd_per_hour.to_string(),
        row.id.clone().unwrap_or_else(|| "-".to_owned()),
        row.because.clone().unwrap_or_else(|| "-".to_owned()),
    ]
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
    let what = told(pool, &change, shown);
    session.say(&what);
    if args.dry_run {
        session.say("nothing was asked (--dry-run)");
        return if session.json {
            output::json(&json!({ "pool": pool, "wish": wish, "asked": false }))
        } else {
            Ok(())
        };
    }
    confirm("ask this of the pool's keeper", args.yes || session.json)?;
    operator.ask(pool, &wish, revision).await?;
    if session.json {
        output::json(&json!({ "pool": pool, "wish": wish, "asked": true }))?;
    }
    Ok(())
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

/// What it means, prices first.
fn told(pool: &PoolId, change: &Change, shown: &Shown) -> String {
    let price =
        shown.status.as_ref().and_then(|status| status.quotes.iter().map(|quote| quote.usd_per_hour).min());
    let each = price.map_or_else(
        || "at a price that the keeper has not asked for yet".to_owned(),
        |price| format!("at ${price} an hour each"),
    );
    let standing = shown.rows.iter().filter(|row| row.life.state().counts());
    let now = UsdNanos::new(standing.map(|row| row.specs.usd_per_hour.get()).fold(0, u64::saturating_add));
    let now = format!("now {} machines at ${now} an hour", shown.rows.len());
    match change {
        Change::Stop => format!("{pool}: no machine; those that stand are drained and ended ({now})"),
        Change::Scale(Some(machines)) => {
            let sum = price.and_then(|price| price.times(u64::from(*machines)));
            let sum = sum.map_or_else(String::new, |sum| format!(", ${sum} an hour together"));
            format!("{pool}: {machines} machines whatever its policy says, {each}{sum} ({now})")
        }
        Change::Start | Change::Scale(None) => {
            format!("{pool}: as many machines as its policy says, {each} ({now})")
        }
        Change::Drain(machines) => {
            let names: Vec<String> = machines.iter().map(ToString::to_string).collect();
            format!("{pool}: drain and end {} ({now})", names.join(", "))
        }
    }
}

async fn forget(args: PoolsForget, session: &Session, operator: &Operator) -> anyhow::Result<()> {
    let PoolsForget { machine, yes } = args;
    confirm(
        &format!("forget machine {machine}: nobody looks for it or ends it any more"),
        yes || session.json,
    )?;
    match operator.forget(&machine).await? {
        Some(row) => {
            let id = row.id.as_deref().unwrap_or("unknown");
            session.say(format!("{machine} is forgotten (id {id} at {})", row.specs.landlord));
            if session.json { output::json(&json!({ "forgotten": machine, "id": row.id })) } else { Ok(()) }
        }
        None => Err(Unsuccessful(format!("there is no machine `{machine}`")).into()),
    }
}
