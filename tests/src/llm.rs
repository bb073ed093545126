//! A real model: llama.cpp's own server on a small set of weights, as `make setup` installs them.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::process::root;

/// A running model server. Ended when dropped, also when it was stopped.
pub struct Llm {
    child: Child,
    url: String,
}

impl Llm {
    /// Starts one and waits until it answers; `None` where it is not installed.
    pub fn start() -> Option<Self> {
        let python = root().join(".beacon/llm/bin/python");
        if !python.exists() {
            return None;
        }
        let mut child = Command::new(python)
            .arg(root().join("scripts/llm_server.py"))
            .args(["--port", "0", "--threads", "1", "--slots", "2"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let url = line.trim().strip_prefix("READY ").expect("the model server did not start").to_owned();
        Some(Self { child, url })
    }

    /// Where it listens.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Sends it a signal: SIGSTOP makes a provider that hangs, SIGKILL one that is gone.
    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(i32::try_from(self.child.id()).unwrap()), signal).unwrap();
    }
}

impl Drop for Llm {
    fn drop(&mut self) {
        // A stopped process takes SIGKILL all the same.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
