//! The `beacon` binary as a process of its own: started, watched, ended by its id.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::roles;

/// The binary that `make build` makes, beside this test's own; `BEACON_BIN` names another.
#[expect(clippy::disallowed_methods, reason = "tests have no command line of their own to be told by")]
pub fn beacon() -> PathBuf {
    if let Ok(path) = std::env::var("BEACON_BIN") {
        return path.into();
    }
    let test = std::env::current_exe().unwrap();
    let found = test.ancestors().skip(1).map(|dir| dir.join("beacon")).find(|path| path.is_file());
    found.expect(
        "no beacon binary beside the tests; `make test` builds it, or: cargo build -p cli --bin beacon",
    )
}

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Runs the binary to its end.
pub fn run(args: &[&str]) -> Output {
    Command::new(beacon()).args(args).current_dir(root()).stdin(Stdio::null()).output().unwrap()
}

/// Writes what a command of a person needs to work beside the roles of [`crate::roles`], and gives the file's path.
pub fn config(folder: &Path, nats_url: &str) -> String {
    let path = folder.join("beacon.toml");
    let (region, model) = (roles::REGION, roles::MODEL);
    let text =
        format!("[nats]\nurl = \"{nats_url}\"\n[beacon]\nregions = [\"{region}\"]\nmodels = [\"{model}\"]\n");
    std::fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// A running role. Killed when dropped.
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts the binary with its logs going to `log`.
    pub fn start(args: &[&str], log: &Path) -> Self {
        let log = std::fs::File::create(log).unwrap();
        let child = Command::new(beacon())
            .args(args)
            .current_dir(root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        Self { child }
    }

    /// Its id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for an end that was asked for, or panics.
    pub fn wait_within(mut self, limit: std::time::Duration) -> std::process::ExitStatus {
        let end = std::time::Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(std::time::Instant::now() < end, "the process does not end");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }

    /// SIGKILL, and waits for the end.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM, and the exit code of the two-stage end.
    pub fn terminate(mut self) -> Option<i32> {
        self.signal(Signal::SIGTERM);
        self.child.wait().unwrap().code()
    }

    /// SIGSTOP: it does nothing until it is thawed, and does not know that time passes.
    pub fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// SIGCONT.
    pub fn thaw(&self) {
        self.signal(Signal::SIGCONT);
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
