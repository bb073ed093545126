//! Beacon's own app on Modal, run as a process: the real Python of `deploy/modal` under Modal's real package, with stand-ins for
//! Modal's side and for the GPU.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Stdio},
};

use serde_json::Value;
use simulators::{Bill, BillKind, BillLine, Fault, Stats};

use crate::bed::Wish;

/// Beacon's own folder.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A running app. Ended when dropped.
pub(crate) struct App {
    child: Child,
    /// Kept open: what the app has started writes to it, too.
    _stdout: BufReader<ChildStdout>,
    address: String,
}

/// The Python that has Modal's package. `None`, with a word why, where `make setup` could not install it.
pub(crate) fn python() -> Option<PathBuf> {
    let python = root().join(".beacon/modal/bin/python");
    if python.exists() {
        return Some(python);
    }
    let why = std::fs::read_to_string(root().join(".beacon/modal.missing"));
    let why = why.expect("Modal's package is not installed, and nothing says why: run `make setup`");
    eprintln!("skipped: Modal's package is not installed: {}", why.trim());
    None
}

impl App {
    /// Starts one that behaves as wished, with model `m` on a T4.
    pub(crate) fn start(wish: &Wish) -> Self {
        Self::start_with(wish, &[])
    }

    /// The same, with more words for the stand-in.
    pub(crate) fn start_with(wish: &Wish, more: &[&str]) -> Self {
        let mut child = Command::new(python().expect("asked for before"))
            .current_dir(root().join("deploy/modal"))
            .env("BEACON_MODELS", "m=acme/m:T4")
            .env("BEACON_MAX_INPUTS", "1")
            .env("BEACON_MAX_CONTAINERS", wish.model.slots.to_string())
            // Nothing is written beside the sources.
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .args(["-m", "tests.stand_in", "--key", "key-1:secret-1"])
            .args(["--service-ms", &wish.model.service_ms_p50.to_string()])
            .args(["--cold-start-ms", &wish.model.cold_start_ms.to_string()])
            .args(["--hold-ms", &wish.hold_limit_ms.to_string()])
            .args(["--lease-ms", &wish.warm_lease_ms.to_string()])
            .args(["--window-ms", "200"])
            .args(more)
            // It ends with this pipe, also when the test is killed.
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("READY http://").expect("the app did not start").to_owned();
        Self { child, _stdout: stdout, address }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The counts of the server behind it.
    pub(crate) fn stats(&self) -> Stats {
        serde_json::from_value(self.ask("stats", "")).unwrap()
    }

    /// A line for each part of each bill that it told, priced as the simulator's are.
    pub(crate) fn bill(&self, nanos_per_second: u64) -> Bill {
        let told: Vec<[u64; 2]> = serde_json::from_value(self.ask("bills_told", "")).unwrap();
        let kinds = [BillKind::Run, BillKind::Startup];
        let parts = told.into_iter().flat_map(|parts| kinds.into_iter().zip(parts));
        let lines: Vec<_> = parts.map(|(kind, micros)| line(kind, micros, nanos_per_second)).collect();
        Bill { total_nanos: lines.iter().map(|line| line.amount_nanos).sum(), lines }
    }

    /// What goes wrong from now on.
    pub(crate) fn set_fault(&self, fault: Option<&Fault>) {
        self.ask("fault", &serde_json::to_string(&fault).unwrap());
    }

    /// How many containers there are.
    pub(crate) fn containers(&self) -> u64 {
        self.ask("containers", "").as_u64().unwrap()
    }

    /// Asks the stand-in, by a connection of its own. It is another process, so blocking is harmless.
    pub(crate) fn ask(&self, what: &str, body: &str) -> Value {
        self.send("POST", &format!("/_test/{what}"), body).1
    }

    /// Sends a request as a caller with the right key would. Gives status and body. HTTP/1.0, so that the body comes in one piece.
    pub(crate) fn send(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.0\r\nhost: {}\r\nmodal-key: key-1\r\nmodal-secret: secret-1\r\n\
             content-length: {length}\r\n\r\n{body}",
            self.address
        )
        .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or(Value::Null))
    }
}

impl Drop for App {
    fn drop(&mut self) {
        // It ends what it has started, and then itself.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn line(kind: BillKind, micros: u64, nanos_per_second: u64) -> BillLine {
    let amount = nanos_per_second * micros;
    BillLine {
        run: None,
        sku: "T4".to_owned(),
        kind,
        billed_micros: micros,
        amount_nanos: amount.div_ceil(1_000_000),
        completed: true,
    }
}
