//! `beacon prices check`: compares the price book with what providers' APIs say now, and writes a dated change for a person to accept.
//!
//! Nothing changes by itself: without `--accept` only a new file is written, and what was booked stays as it was booked.

mod compare;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use chrono::{DateTime, SubsecRound as _, Utc};
use futures_util::future::join_all;
use schemas::{
    ProviderId,
    quoted::Quoted,
    repricing::{Edition, reprice},
    time::Clock as _,
};
use serde_json::json;
use transport::SystemClock;

use self::compare::{Row, Verdict, changes, rows};
use crate::{
    args::{Prices, PricesCheck},
    config::{Config, pools::Pool, process::Shared},
    confirm::confirm,
    exit::{Unsuccessful, Usage},
    output,
    session::Session,
    simulated::Simulated,
    table::{table, wrapped},
};

/// Letters of a note that a line of the table has room for.
const NOTE: usize = 60;

/// Compares.
pub(crate) async fn run(args: Prices, session: Session) -> anyhow::Result<()> {
    let Prices::Check(args) = args;
    session.unless_interrupted(check(&args, &session)).await
}

async fn check(args: &PricesCheck, session: &Session) -> anyhow::Result<()> {
    let config = &session.config;
    if args.accept && config.prices_file.is_none() {
        let todo = "name a file with beacon.prices, or leave --accept out";
        return Err(Usage(format!("--accept: the price book is the built-in one; {todo}")).into());
    }
    let now = SystemClock.now().to_datetime().trunc_subsecs(0);
    let quoted = quoted(config).await?;
    let rows = rows(&config.prices, &quoted, &skus(config), now.into());
    let changes = changes(&rows);
    let told: Vec<&ProviderId> =
        quoted.iter().filter(|(_, quoted)| matches!(quoted, Quoted::Told(_))).map(|(name, _)| name).collect();
    let written = if changes.is_empty() {
        None
    } else {
        let text = reprice(&config.prices_text, &changes, &edition(config, &told, now))?;
        Some(write(args, session, &text, now)?)
    };
    tell(session, &rows, written.as_deref())?;
    let failed: Vec<&str> = rows.iter().filter_map(|row| row.verdict.failed()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    Err(Unsuccessful(format!("{} prices could not be asked for: {}", failed.len(), failed[0])).into())
}

/// What each provider says that has a pool or an account here.
async fn quoted(config: &Config) -> anyhow::Result<BTreeMap<ProviderId, Quoted>> {
    let mut simulators = config.simulators.clone();
    simulators.retain(|one| config.pools.iter().any(|pool| pool.simulator() == Some(&one.name)));
    simulators.iter_mut().for_each(|one| one.listen.set_port(0));
    let (simulated, shared) =
        (Simulated::start_these(&simulators, &config.accounts).await?, Shared::default());
    let called = config.pools.iter().filter(|pool| pool.rent().is_none()).map(|pool| async {
        let provider = config.provider(pool, &|name| simulated.url(name), &shared);
        let quoted = match provider {
            Ok(provider) => provider.prices().await,
            Err(error) => Quoted::Failed(error.to_string()),
        };
        (pool.price_name().clone(), quoted)
    });
    let accounts = config.landlords.iter().map(|landlord| async {
        let quoted = match config.account(&landlord.name, &|name| simulated.account(name)) {
            Ok(account) => account.survey().await.prices,
            Err(error) => Quoted::Failed(error.to_string()),
        };
        let renting = |pool: &&Pool| pool.rent().is_some_and(|rent| rent.landlord() == landlord.name);
        let names: Vec<ProviderId> =
            config.pools.iter().filter(renting).map(|pool| pool.price_name().clone()).collect();
        let names = if names.is_empty() { landlord.name.parse().into_iter().collect() } else { names };
        names.into_iter().map(|name| (name, quoted.clone())).collect::<Vec<_>>()
    });
    let (called, accounts) = tokio::join!(join_all(called), join_all(accounts));
    simulated.stop().await;
    let mut all: BTreeMap<ProviderId, Quoted> = BTreeMap::new();
    for (name, quoted) in called.into_iter().chain(accounts.into_iter().flatten()) {
        // Of several pools of one provider the one that is answered counts.
        let better = |old: &Quoted| matches!(quoted, Quoted::Told(_)) && !matches!(old, Quoted::Told(_));
        if all.get(&name).is_none_or(better) {
            all.insert(name, quoted);
        }
    }
    Ok(all)
}

/// What pools use, by whose prices they are booked.
fn skus(config: &Config) -> Vec<(ProviderId, String)> {
    let of =
        |pool: &Pool| pool.skus().into_iter().map(|sku| (pool.price_name().clone(), sku)).collect::<Vec<_>>();
    config.pools.iter().flat_map(of).collect()
}

fn edition(config: &Config, told: &[&ProviderId], now: DateTime<Utc>) -> Edition {
    let names: Vec<&str> = told.iter().map(|name| name.as_str()).collect();
    let (day, book) = (now.date_naive(), &config.prices);
    // A source of a source of a source says no more.
    let before = book.source.split("; before that ").last().unwrap_or_default();
    let source =
        format!("the APIs of {} on {day}; before that {} ({})", names.join(", "), before, book.as_of);
    Edition { from: now, source }
}

/// Writes the changed book, or replaces the old one; says where.
fn write(args: &PricesCheck, session: &Session, text: &str, now: DateTime<Utc>) -> anyhow::Result<PathBuf> {
    let file = session.config.prices_file.as_deref();
    if let (true, Some(file)) = (args.accept, file) {
        confirm(&format!("replace {} by the changed price book", file.display()), args.yes)?;
        replace(file, text).with_context(|| format!("{} cannot be replaced", file.display()))?;
        return Ok(file.to_owned());
    }
    let beside = file.and_then(Path::parent).unwrap_or(Path::new(""));
    let path = args.write.clone().unwrap_or_else(|| beside.join(format!("prices.{}.toml", now.date_naive())));
    let written = fs::OpenOptions::new().write(true).create_new(true).open(&path);
    match written.and_then(|mut file| io::Write::write_all(&mut file, text.as_bytes())) {
        Ok(()) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let todo = "accept it or delete it, or name another file with --write";
            Err(Usage(format!("{} is there already; {todo}", path.display())).into())
        }
        Err(error) => Err(error).with_context(|| format!("{} cannot be written", path.display())),
    }
}

/// In one step, so that nobody reads half a book.
fn replace(file: &Path, text: &str) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = tempfile::NamedTempFile::new_in(folder)?;
    io::Write::write_all(&mut new, text.as_bytes())?;
    new.as_file().set_permissions(fs::metadata(file)?.permissions())?;
    new.persist(file).map(drop).map_err(|error| error.error)
}

fn tell(session: &Session, rows: &[Row], written: Option<&Path>) -> anyhow::Result<()> {
    if session.json {
        for row in rows {
            output::json(&row.json())?;
        }
        let differ = rows.iter().filter(|row| row.verdict.changes()).count();
        return output::json(&json!({ "differ": differ, "written": written }));
    }
    let lines: Vec<[String; 7]> = rows.iter().map(line).collect();
    let header = ["provider", "sku", "per", "book $", "now $", "share", "note"];
    output::line(table(header, &[3, 4, 5], &lines).to_string())?;
    match written {
        None => output::line("No price that an API tells differs from the book; nothing is written."),
        Some(path) if session.config.prices_file.as_deref() == Some(path) => output::line(format!(
            "{} has the new prices; what was booked stays as it was booked.",
            path.display()
        )),
        Some(path) => output::line(format!(
            "{} is the book with the new prices from now on. Nothing is changed until you put it in the place of the book, or name it \
             with beacon.prices.",
            path.display()
        )),
    }
}

fn line(row: &Row) -> [String; 7] {
    let money = |usd: Option<schemas::UsdNanos>| usd.map_or_else(|| "-".to_owned(), |usd| usd.to_string());
    let (now, share, note) = match &row.verdict {
        Verdict::Same(now) => (Some(*now), String::new(), "as in the book".to_owned()),
        Verdict::Differs { now, share } => {
            let share = share.map_or_else(String::new, |share| share.to_string());
            (Some(*now), share, "differs".to_owned())
        }
        Verdict::New(now) => {
            (Some(*now), String::new(), "a pool uses it, and the book has no price".to_owned())
        }
        Verdict::Untold(note) | Verdict::Failed(note) => (None, String::new(), note.clone()),
    };
    [
        row.provider.to_string(),
        row.sku.clone(),
        row.unit.to_string(),
        money(row.booked),
        money(now),
        share,
        wrapped(&note, NOTE),
    ]
}
