//! A real nats-server, or three, on free loopback ports, in a temporary folder, ended by its process id.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use transport::address::{Address, Login};

use crate::wait;

/// The nats-server binary: on `PATH`, or where `make setup` put it.
pub fn binary() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let here = root.join(".beacon/bin/nats-server");
    if here.exists() { here } else { PathBuf::from("nats-server") }
}

/// A port that was free a moment ago. Two tests may still draw the same one; the server then says so and ends, and
/// [`NatsServer::start`] draws again.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Shows what the roles log, where a failing test is read; `RUST_LOG` says how much, warnings otherwise.
fn logs() {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn,async_nats=error"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
}

/// One server. Ended and removed when dropped.
pub struct NatsServer {
    child: Child,
    port: u16,
    folder: TempDir,
    /// `user:password@` of whom it asks for one.
    login: &'static str,
}

impl NatsServer {
    /// Starts a server with JetStream and waits until it answers.
    pub async fn start() -> Self {
        Self::configured("", "").await
    }

    /// The same with more of a configuration, by which `login`, a `user:password`, may do everything.
    pub async fn configured(more: &str, login: &'static str) -> Self {
        logs();
        for _ in 0..10 {
            let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
            std::fs::write(folder.path().join("nats.conf"), more).unwrap();
            let child = spawn(folder.path(), port);
            let mut server = Self { child, port, folder, login };
            if server.ready().await {
                return server;
            }
        }
        panic!("no nats-server came up; is {} there? `make setup` installs one", binary().display());
    }

    /// Where it listens, with the login of whom may do everything.
    pub fn url(&self) -> String {
        self.url_as(self.login)
    }

    /// Where it listens, with another login, none if empty.
    pub fn url_as(&self, login: &str) -> String {
        let at = if login.is_empty() { "" } else { "@" };
        format!("nats://{login}{at}127.0.0.1:{}", self.port)
    }

    /// Where it listens, without any login.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// SIGKILL, then the same server on the same port and data.
    pub async fn kill_and_restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = spawn(self.folder.path(), self.port);
        assert!(self.ready().await, "nats-server does not come back");
    }

    /// Stops it, and starts it again after `span`: an outage whose length is the point.
    pub async fn away_for(&mut self, span: Duration) {
        end(&mut self.child);
        tokio::time::sleep(span).await;
        self.child = spawn(self.folder.path(), self.port);
        assert!(self.ready().await, "nats-server does not come back");
    }

    /// Stops it politely, then starts it again on the same port and data.
    pub async fn restart(&mut self) {
        end(&mut self.child);
        self.child = spawn(self.folder.path(), self.port);
        assert!(self.ready().await, "nats-server does not come back");
    }

    async fn ready(&mut self) -> bool {
        let url = self.url();
        for _ in 0..500 {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if jetstream_answers(&url).await {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        false
    }
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

async fn jetstream_answers(url: &str) -> bool {
    let options = async_nats::ConnectOptions::new().connection_timeout(Duration::from_millis(500));
    let address = Address::from(url);
    let options = match address.login() {
        Some(Login::User { name, password }) => options.user_and_password(name.clone(), password.clone()),
        Some(Login::Token(token)) => options.token(token.clone()),
        None => options,
    };
    let Ok(client) = options.connect(address.url()).await else {
        return false;
    };
    let request = async_nats::Request::new().timeout(Some(Duration::from_secs(1)));
    client.send_request("$JS.API.INFO", request).await.is_ok_and(|m| m.status.is_none())
}

fn spawn(folder: &Path, port: u16) -> Child {
    Command::new(binary())
        .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "-sd"])
        .arg(folder.join("data"))
        .arg("-l")
        .arg(folder.join("nats.log"))
        .arg("-c")
        .arg(folder.join("nats.conf"))
        .stdin(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot start {}: {e}; `make setup` installs it", binary().display()))
}

fn end(child: &mut Child) {
    let id = Pid::from_raw(i32::try_from(child.id()).unwrap());
    let _ = kill(id, Signal::SIGTERM);
    for _ in 0..250 {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Three servers that form a cluster.
pub struct NatsCluster {
    servers: Vec<(Child, u16)>,
    _folder: TempDir,
}

impl NatsCluster {
    /// Starts three servers and waits until JetStream has a leader and three peers.
    pub async fn start() -> Self {
        logs();
        let folder = tempfile::tempdir().unwrap();
        let ports: Vec<(u16, u16)> = (0..3).map(|_| (free_port(), free_port())).collect();
        let routes: Vec<String> = ports.iter().map(|(_, c)| format!("nats://127.0.0.1:{c}")).collect();
        let servers = ports
            .iter()
            .enumerate()
            .map(|(i, (port, cluster))| {
                let child = Command::new(binary())
                    .args(["-a", "127.0.0.1", "-p", &port.to_string(), "-js", "--name", &format!("n{i}")])
                    .args(["--cluster_name", "test", "--cluster", &format!("nats://127.0.0.1:{cluster}")])
                    .args(["--routes", &routes.join(",")])
                    .arg("-sd")
                    .arg(folder.path().join(format!("n{i}")))
                    .arg("-l")
                    .arg(folder.path().join(format!("n{i}.log")))
                    .stdin(Stdio::null())
                    .spawn()
                    .unwrap();
                (child, *port)
            })
            .collect();
        let cluster = Self { servers, _folder: folder };
        for url in cluster.urls() {
            wait::until("a cluster with a leader", || async { jetstream_answers(&url).await.then_some(()) })
                .await;
        }
        cluster
    }

    /// Where they listen.
    pub fn urls(&self) -> Vec<String> {
        self.servers.iter().map(|(_, port)| format!("nats://127.0.0.1:{port}")).collect()
    }
}

impl Drop for NatsCluster {
    fn drop(&mut self) {
        for (child, _) in &mut self.servers {
            end(child);
        }
    }
}
