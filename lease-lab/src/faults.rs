//! Faults: what each breaks, and what mends it.

use std::time::Duration;

use crate::{
    net::LINES,
    plan::Fault,
    server::Leader,
    world::{Next, World},
};

/// A client that is cut off notices by its own pings within this time.
const CLIENT_NOTICES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(25));
/// A server notices later than that at worst.
const SERVER_NOTICES: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

impl World {
    /// A fault of the plan begins.
    pub(crate) fn fault(&mut self, index: usize) {
        let now = self.core.agenda.now();
        let fault = self.core.plan.faults[index].1.clone();
        let name = |world: &Self, host: usize| world.core.hosts[host].name.clone();
        self.core.note("fault", None, || format!("{fault:?}"));
        match fault {
            Fault::Crash { host, steps, away } => self.crash_after(host, steps, away),
            Fault::Restart { host } => {
                let name = name(self, host);
                self.core.note(&name, None, || "is asked to end".to_owned());
                self.end(host);
            }
            Fault::Stop { host, span } => self.stop(host, now + span),
            Fault::Hold { host, span } => self.core.net.hold(host, now + span),
            Fault::CutOff { host, span } => {
                for session in self.core.net.cut_off(host, now + span, now) {
                    let client = now + self.chance.span(CLIENT_NOTICES.0, CLIENT_NOTICES.1);
                    let server = now + self.chance.span(SERVER_NOTICES.0, SERVER_NOTICES.1);
                    self.core.agenda.push(client, Next::ClientNotices(session));
                    self.core.agenda.push(server, Next::ServerNotices(session));
                }
            }
            Fault::Break { host, line } => {
                if let Some((session, at)) = self.core.net.break_line(host, line, now) {
                    self.core.agenda.push(at, Next::ServerNotices(session));
                    self.core.connect_soon(host);
                }
            }
            Fault::Jump { host, by, back } => {
                self.core.hosts[host].clock.jump(by, back);
                self.core.audit.jumped(host);
                // What the jump set wrong is put right by then, as by a time server: hosts whose clocks differ for good by more than
                // the second within which an offer must be accepted do not work together.
                let calm_at = self.core.plan.calm_at;
                self.core.agenda.push(calm_at, Next::RightClock(host, by, !back));
            }
            Fault::KillServer { away } => {
                if !self.core.server.is_up() {
                    return;
                }
                self.core.server.stop(None, now);
                self.core.audit.server_killed();
                for host in 0..self.core.hosts.len() {
                    for line in LINES {
                        self.core.net.break_line(host, line, now);
                    }
                    self.core.connect_soon(host);
                }
                self.core.agenda.push(now + away, Next::StartServer);
            }
            Fault::Elect { which, span } => {
                let (streams, consumers) = self.core.server.sizes();
                let which = which % (streams + consumers);
                let leader = if which < streams {
                    Leader::OfStream(which)
                } else {
                    Leader::OfConsumer(which - streams)
                };
                self.core.server.elect(leader, now + span, now);
                self.core.pump();
            }
            Fault::Full { stream, span } => {
                self.core.server.limit(stream, None);
                self.core.agenda.push(now + span, Next::Drained(stream));
            }
            Fault::Mood { pool, mood, span } => {
                self.core.providers[pool].set(mood);
                self.core.agenda.push(now + span, Next::GoodMood(pool));
            }
        }
    }
}
