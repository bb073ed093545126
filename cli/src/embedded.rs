//! Our own nats-server: found, checked, started on a free loopback port, waited for, and ended with us.
//!
//! ```text
//!  <data>/lock         held while the server runs: one `beacon` per folder
//!         nats.conf    written anew at each start
//!         nats.log     what the server says; nats.log.old what it said the time before
//!         nats.pid     to find a server that outlived a killed parent
//!         url          where it listens, for `beacon submit` and its like
//!         jetstream/   the streams
//! ```

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    process::Child,
    time::{Instant, sleep},
};
use tracing::{info, warn};
use transport::{Link, LinkConfig, api, link::new_enough};

use crate::{config::Embedded, environment, guard};

/// The data folder when none is named.
pub(crate) const DATA_DEFAULT: &str = ".beacon/data";
/// Where `make setup` puts the server, beneath the project's folder.
const SETUP_PUTS: &str = ".beacon/bin/nats-server";
/// A server with a full store reads it back before it is ready.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a server left behind by a killed parent may take to end.
const STALE_WITHIN: Duration = Duration::from_secs(10);
/// How often we look whether it is ready.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of its log that a message repeats.
const LOG_TAIL: usize = 5;

/// Why there is no embedded server.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EmbeddedError {
    #[error(
        "no nats-server found: not on PATH and not in .beacon/bin; run `make setup`, or set nats.server or nats.url"
    )]
    NotFound,
    #[error("nats.server {0} is not an executable file")]
    NotThere(PathBuf),
    #[error(
        "{program} is nats-server {version}, which is too old: Beacon needs 2.14 or newer; `make setup` installs one"
    )]
    TooOld { program: PathBuf, version: String },
    #[error("{0} does not tell its version; is it a nats-server?")]
    NoVersion(PathBuf),
    #[error("data folder {0} is in use by another beacon; stop it, or choose another with --data")]
    Locked(PathBuf),
    #[error("data folder {folder}: {what}")]
    Data {
        folder: PathBuf,
        what: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "a nats-server of an earlier run (process {0}) still uses the data folder and does not end; end it by hand"
    )]
    Stale(i32),
    #[error("cannot start {program}")]
    Start {
        program: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("nats-server ended ({status}); its log {log} ends with: {tail}")]
    Died { status: String, log: PathBuf, tail: String },
    #[error("nats-server was not ready within {READY_WITHIN:?} ({reason}); see {log}")]
    NotReady { reason: String, log: PathBuf },
}

/// Where the server's data lies.
#[derive(Debug)]
pub(crate) enum Data {
    /// A folder that stays.
    Kept(PathBuf),
    /// A folder that goes with us.
    Temporary(TempDir),
}

impl Data {
    /// A folder that is deleted at the end.
    pub(crate) fn temporary() -> io::Result<Self> {
        tempfile::Builder::new().prefix("beacon-").tempdir().map(Self::Temporary)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Kept(path) => path,
            Self::Temporary(folder) => folder.path(),
        }
    }
}

/// A nats-server of ours that is ready. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    url: String,
    version: String,
    folder: PathBuf,
    // In this order: the lock goes before the folder that holds it.
    _lock: File,
    _data: Data,
}

impl Server {
    /// Finds, starts and waits. Call it from the main thread: the server ends when the thread that started it does.
    pub(crate) async fn start(config: &Embedded, data: Data) -> Result<Self, EmbeddedError> {
        let (program, version) = find(config.server.as_deref()).await?;
        let trouble = |what| {
            let folder = data.path().to_owned();
            move |source| EmbeddedError::Data { folder, what, source }
        };
        let lock = lock(data.path())?;
        let folder = fs::canonicalize(data.path()).map_err(trouble("cannot be found"))?;
        end_stale(&folder).await?;
        tidy(&folder).map_err(trouble("cannot be tidied"))?;
        let conf = folder.join("nats.conf");
        fs::write(&conf, configuration(&folder, config.port)).map_err(trouble("cannot be written to"))?;
        let start = |source| EmbeddedError::Start { program: program.clone(), source };
        let mut child = guard::command(&program, &[OsStr::new("--config"), conf.as_os_str()])
            .map_err(start)?
            .stdout(std::process::Stdio::null())
            .stderr(File::create(folder.join("nats.err")).map_err(trouble("cannot be written to"))?)
            .spawn()
            .map_err(start)?;
        let url = wait_until_ready(&mut child, &folder).await?;
        fs::write(folder.join("url"), &url).map_err(trouble("cannot be written to"))?;
        info!(url, version, data = %folder.display(), "embedded nats-server is ready");
        Ok(Self { child, url, version, folder, _lock: lock, _data: data })
    }

    /// How to connect to it.
    pub(crate) fn link(&self) -> LinkConfig {
        LinkConfig::to(&self.url)
    }

    /// Its version.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }

    /// Waits until it ends by itself, which it should not.
    pub(crate) async fn died(&mut self) -> EmbeddedError {
        let status = match self.child.wait().await {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        death(status, &self.folder)
    }

    /// Ends it in order.
    pub(crate) async fn stop(mut self) {
        guard::end(&mut self.child).await;
        if let Err(error) = fs::remove_file(self.folder.join("url")) {
            warn!(%error, "cannot remove the server's address");
        }
    }
}

/// The address of a server that another `beacon` runs on this data folder.
pub(crate) fn address_in(data: &Path) -> Option<String> {
    // The lock is free, so the address belongs to a process that was killed.
    let lock = File::open(data.join("lock")).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => fs::read_to_string(data.join("url")).ok(),
        Ok(()) | Err(TryLockError::Error(_)) => None,
    }
}

/// The program and its version: the setting, or the first that is new enough of `PATH` and what setup installed.
async fn find(setting: Option<&Path>) -> Result<(PathBuf, String), EmbeddedError> {
    let candidates = match setting {
        Some(path) if is_program(path) => vec![path.to_owned()],
        Some(path) => return Err(EmbeddedError::NotThere(path.to_owned())),
        None => environment::on_path("nats-server")
            .into_iter()
            .chain(environment::find_up(SETUP_PUTS))
            .filter(|path| is_program(path))
            .collect(),
    };
    let mut refusal = EmbeddedError::NotFound;
    for program in candidates {
        match version_of(&program).await {
            Some(version) if new_enough(&version) => return Ok((program, version)),
            Some(version) => refusal = EmbeddedError::TooOld { program, version },
            None => refusal = EmbeddedError::NoVersion(program),
        }
    }
    Err(refusal)
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.is_file() && meta.permissions().mode() & 0o111 != 0)
}

/// `nats-server: v2.15.1` → `2.15.1`.
async fn version_of(program: &Path) -> Option<String> {
    let output = tokio::process::Command::new(program).arg("--version").kill_on_drop(true).output();
    let output = tokio::time::timeout(Duration::from_secs(10), output).await.ok()?.ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.split_whitespace()
        .map(|word| word.trim_start_matches('v'))
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))
        .map(str::to_owned)
}

fn lock(folder: &Path) -> Result<File, EmbeddedError> {
    let trouble = |source| EmbeddedError::Data { folder: folder.to_owned(), what: "cannot be made", source };
    fs::create_dir_all(folder).map_err(trouble)?;
    let lock = File::create(folder.join("lock")).map_err(trouble)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => Err(EmbeddedError::Locked(folder.to_owned())),
        Err(TryLockError::Error(source)) => {
            Err(EmbeddedError::Data { folder: folder.to_owned(), what: "cannot be locked", source })
        }
    }
}

/// Ends a server that an earlier process started on this folder and could not end. Two on one store would ruin it.
async fn end_stale(folder: &Path) -> Result<(), EmbeddedError> {
    let Some(pid) =
        fs::read_to_string(folder.join("nats.pid")).ok().and_then(|text| text.trim().parse().ok())
    else {
        return Ok(());
    };
    let started = Instant::now();
    while is_ours(pid, folder).await {
        if started.elapsed() > STALE_WITHIN {
            return Err(EmbeddedError::Stale(pid));
        }
        warn!(pid, "ending a nats-server that an earlier run left behind");
        if kill(Pid::from_raw(pid), Signal::SIGTERM).is_err() {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Whether a process is a server on this folder: process ids are used again.
async fn is_ours(pid: i32, folder: &Path) -> bool {
    let command = match fs::read(format!("/proc/{pid}/cmdline")) {
        Ok(command) => command,
        Err(_) if cfg!(target_os = "linux") => return false,
        Err(_) => {
            let pid = pid.to_string();
            let listing =
                tokio::process::Command::new("ps").args(["-o", "command=", "-p", &pid]).output().await;
            listing.map(|output| output.stdout).unwrap_or_default()
        }
    };
    String::from_utf8_lossy(&command).contains(&*folder.join("nats.conf").to_string_lossy())
}

/// Removes what the last run left to be read by others, and keeps its log for those who ask why it ended.
fn tidy(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.file_name() == Some(OsStr::new("nats.log")) {
            fs::rename(&path, folder.join("nats.log.old"))?;
        } else if path.file_name() == Some(OsStr::new("url")) || path.extension() == Some(OsStr::new("ports"))
        {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// The server's own configuration; its format takes JSON.
fn configuration(folder: &Path, port: Option<u16>) -> String {
    let port = port.map_or(-1, i32::from);
    json!({
        "server_name": "beacon",
        "listen": format!("127.0.0.1:{port}"),
        "pid_file": folder.join("nats.pid"),
        "ports_file_dir": folder,
        "log_file": folder.join("nats.log"),
        "jetstream": {
            "store_dir": folder,
            // One server has no group commit: every publish would wait for the disk. A second may be lost when the
            // machine loses power; a killed process loses nothing.
            "sync_interval": "1s",
        }
    })
    .to_string()
}

async fn wait_until_ready(child: &mut Child, folder: &Path) -> Result<String, EmbeddedError> {
    let log = folder.join("nats.log");
    let deadline = Instant::now() + READY_WITHIN;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Err(death(status.to_string(), folder));
        }
        let reason = match (child.id(), address(child.id(), folder)) {
            (Some(_), Some(url)) => match probe(&url).await {
                Ok(()) => return Ok(url),
                Err(reason) => reason,
            },
            (Some(_), None) | (None, _) => "it does not listen yet".to_owned(),
        };
        if Instant::now() > deadline {
            return Err(EmbeddedError::NotReady { reason, log });
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Where the server says it listens.
fn address(pid: Option<u32>, folder: &Path) -> Option<String> {
    let text = fs::read_to_string(folder.join(format!("nats-server_{}.ports", pid?))).ok()?;
    let ports: Value = serde_json::from_str(&text).ok()?;
    ports.pointer("/nats/0")?.as_str().map(str::to_owned)
}

/// Whether JetStream answers.
async fn probe(url: &str) -> Result<(), String> {
    let link = Link::connect(&LinkConfig::to(url), "beacon-start").await.map_err(|e| e.to_string())?;
    api::ask(&link.client, "INFO", &Value::Null).await.map(drop).map_err(|e| e.to_string())
}

fn death(status: String, folder: &Path) -> EmbeddedError {
    let log = folder.join("nats.log");
    // What it says before its log is open goes to standard error.
    let said = [folder.join("nats.err"), log.clone()]
        .map(|path| fs::read_to_string(path).unwrap_or_default())
        .concat();
    let lines: Vec<&str> = said.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(LOG_TAIL)..].join(" | ");
    EmbeddedError::Died { status, log, tail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_a_free_port_and_syncs_each_second() {
        let conf: Value = serde_json::from_str(&configuration(Path::new("/d"), None)).unwrap();
        assert_eq!(conf["listen"], "127.0.0.1:-1");
        assert_eq!(conf["jetstream"]["sync_interval"], "1s");
        let conf: Value = serde_json::from_str(&configuration(Path::new("/d"), Some(4222))).unwrap();
        assert_eq!(conf["listen"], "127.0.0.1:4222");
    }

    #[test]
    fn a_data_folder_serves_one_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(matches!(lock(folder.path()), Err(EmbeddedError::Locked(_))));
        drop(held);
        assert!(lock(folder.path()).is_ok());
    }

    #[test]
    fn an_address_counts_only_while_its_server_runs() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("url"), "nats://127.0.0.1:1").unwrap();
        assert_eq!(address_in(folder.path()), None);
        let held = lock(folder.path()).unwrap();
        assert_eq!(address_in(folder.path()).as_deref(), Some("nats://127.0.0.1:1"));
        drop(held);
        assert_eq!(address_in(folder.path()), None);
    }

    #[tokio::test]
    async fn a_server_that_is_too_old_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("nats-server");
        fs::write(&program, "#!/bin/sh\necho nats-server: v2.9.10\n").unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let error = find(Some(&program)).await.unwrap_err().to_string();
        assert!(error.contains("2.9.10") && error.contains("make setup"), "{error}");
        let missing = find(Some(&folder.path().join("none"))).await.unwrap_err();
        assert!(matches!(missing, EmbeddedError::NotThere(_)));
    }
}
