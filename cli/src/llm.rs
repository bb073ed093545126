//! llama.cpp's server with a small model, where `make setup` installed it: processes that end with us.

use std::{
    ffi::{OsStr, OsString},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::Context as _;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Child,
    time::timeout,
};

use crate::{environment, guard};

/// Where `make setup` puts the interpreter, and where the program lies in the project.
const PYTHON: &str = ".beacon/llm/bin/python";
const SCRIPT: &str = "scripts/llm_server.py";
/// It takes half a second on an idle machine.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The installed program.
#[derive(Debug)]
pub(crate) struct Program {
    python: PathBuf,
    script: OsString,
}

/// A server that runs.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) child: Child,
    pub(crate) url: String,
}

impl Program {
    /// `None` where it is not installed.
    pub(crate) fn find() -> Option<Self> {
        let (python, script) = environment::find_up(PYTHON).zip(environment::find_up(SCRIPT))?;
        Some(Self { python, script: script.into_os_string() })
    }

    /// Starts a server on a free port and waits until it answers. Call it from the main thread.
    pub(crate) async fn start(&self, options: &[&str]) -> anyhow::Result<Server> {
        let port = ["--port", "0"].map(OsStr::new);
        let arguments: Vec<&OsStr> = std::iter::once(self.script.as_os_str())
            .chain(port)
            .chain(options.iter().map(OsStr::new))
            .collect();
        let mut child = guard::command(&self.python, &arguments)?
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("cannot start {}", self.python.display()))?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut lines = BufReader::new(stdout).lines();
        let line = timeout(READY_WITHIN, lines.next_line()).await.context("it is not ready in time")??;
        let url = line.as_deref().and_then(|line| line.strip_prefix("READY ")).map(str::to_owned);
        let url = url.with_context(|| match line {
            Some(line) => format!("it said `{line}` instead of READY"),
            None => "it ended at once".to_owned(),
        })?;
        Ok(Server { child, url })
    }
}

impl Server {
    /// Ends it.
    pub(crate) async fn stop(&mut self) {
        guard::end(&mut self.child).await;
    }
}
