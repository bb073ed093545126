//! Connections between hosts and the server: what is on its way, for how long, and what is lost.
//!
//! Within one connection messages arrive in the order in which they were sent; between connections there is no order. A message
//! is lost only with its connection: what was on its way when the connection broke may arrive or not, from one moment on. What a
//! client sends while it has no connection waits, and is sent once there is one, however stale it is by then.
//!
//! A host can be cut off without anybody noticing. The server goes on sending to the old connection until it notices; the client
//! notices by itself, and waits for the cut to heal before it connects again.

use std::{collections::VecDeque, rc::Rc, time::Duration};

use schemas::Micros;

use crate::{chance::Chance, server::Session, wire::Message};

/// A host's number.
pub(crate) type Host = usize;

/// Which of a host's two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// Carries jobs.
    Bulk = 0,
    /// Carries acks, lease extensions and orders.
    Control = 1,
}

/// Both.
pub(crate) const LINES: [Line; 2] = [Line::Bulk, Line::Control];

/// How long a client waits before it connects again, at most.
const RECONNECT_MAX: Duration = Duration::from_millis(800);

/// All connections.
#[derive(Debug)]
pub(crate) struct Net {
    lines: Vec<[Connection; 2]>,
    /// By number; a session that is over stays, so that what was on its way for it is known to be lost.
    sessions: Vec<Past>,
    chance: Chance,
}

/// A connection as its client sees it.
#[derive(Debug, Default)]
struct Connection {
    session: Option<Session>,
    subscriptions: Vec<Subscription>,
    /// What is to be sent once there is a session.
    waiting: VecDeque<Message>,
    /// Nothing passes before this.
    held_until: Micros,
    /// No session is possible before this.
    cut_until: Micros,
}

/// A subscription of a client; a new session subscribes again.
#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    /// Its number, which the client chose.
    pub(crate) number: u32,
    /// What it hears.
    pub(crate) filter: Rc<str>,
    /// With whom it shares that.
    pub(crate) group: Option<Rc<str>>,
}

/// One session, with when its last message of each direction arrives and when it broke.
#[derive(Debug)]
struct Past {
    host: Host,
    line: Line,
    last_in: Micros,
    last_out: Micros,
    /// What arrives until then was flushed: the death of its sender does not take it back.
    flushed_in: Option<Micros>,
    broke_in: Option<Micros>,
    broke_out: Option<Micros>,
}

impl Net {
    /// Hosts without connections.
    pub(crate) fn new(hosts: usize, chance: Chance) -> Self {
        let lines = (0..hosts).map(|_| Default::default()).collect();
        Self { lines, sessions: Vec::new(), chance }
    }

    fn connection(&mut self, host: Host, line: Line) -> &mut Connection {
        &mut self.lines[host][line as usize]
    }

    /// Notes a subscription for this session and those that follow. The caller tells the server, if there is a session.
    pub(crate) fn subscribe(
        &mut self,
        host: Host,
        line: Line,
        subscription: Subscription,
    ) -> Option<Session> {
        let connection = self.connection(host, line);
        connection.subscriptions.push(subscription);
        connection.session
    }

    /// Forgets a subscription for this session and those that follow. The caller tells the server, if there is a session.
    pub(crate) fn unsubscribe(&mut self, host: Host, line: Line, number: u32) -> Option<Session> {
        let connection = self.connection(host, line);
        connection.subscriptions.retain(|subscription| subscription.number != number);
        connection.session
    }

    /// Sends a message to the server. Gives when it arrives; nothing while there is no session, when it waits.
    pub(crate) fn send(
        &mut self,
        host: Host,
        line: Line,
        message: Message,
        now: Micros,
    ) -> Option<(Micros, Session, Message)> {
        let connection = self.connection(host, line);
        let Some(session) = connection.session else {
            connection.waiting.push_back(message);
            return None;
        };
        let held = connection.held_until;
        let at = now + self.delay();
        let past = &mut self.sessions[session as usize];
        past.last_in = at.max(held).max(past.last_in);
        Some((past.last_in, session, message))
    }

    /// Everything a client sent is written to its connection. False while there is none.
    pub(crate) fn flush(&mut self, host: Host, line: Line) -> bool {
        let Some(session) = self.connection(host, line).session else { return false };
        let past = &mut self.sessions[session as usize];
        past.flushed_in = Some(past.last_in);
        true
    }

    /// Sends a message to the client of a session. Gives when it arrives, and where.
    pub(crate) fn deliver(&mut self, session: Session, now: Micros) -> (Micros, Host) {
        let at = now + self.delay();
        let past = &mut self.sessions[session as usize];
        let held = self.lines[past.host][past.line as usize].held_until;
        past.last_out = at.max(held).max(past.last_out);
        (past.last_out, past.host)
    }

    /// Whether what arrives at the server now was sent before its session broke.
    pub(crate) fn reaches_server(&self, session: Session, now: Micros) -> bool {
        self.sessions[session as usize].broke_in.is_none_or(|at| now < at)
    }

    /// Whether what arrives at the client now was sent before its session broke, and on which connection it arrives.
    pub(crate) fn reaches_host(&self, session: Session, now: Micros) -> Option<Line> {
        let past = &self.sessions[session as usize];
        past.broke_out.is_none_or(|at| now < at).then_some(past.line)
    }

    /// Whose session it is.
    pub(crate) fn host_of(&self, session: Session) -> Host {
        self.sessions[session as usize].host
    }

    /// How long a message takes: mostly a millisecond, now and then much longer.
    fn delay(&mut self) -> Duration {
        let (from, to) = match self.chance.below(1_000) {
            0..2 => (50_000, 400_000),
            2..40 => (2_000, 30_000),
            _ => (100, 1_500),
        };
        Duration::from_micros(self.chance.between(from, to))
    }

    /// Holds up everything that a host sends or is sent, until `until`; nothing is lost.
    pub(crate) fn hold(&mut self, host: Host, until: Micros) {
        for connection in &mut self.lines[host] {
            connection.held_until = connection.held_until.max(until);
        }
    }

    /// Nothing passes between a host and the server until `until`, and neither notices by itself: what is sent is lost.
    pub(crate) fn cut_off(&mut self, host: Host, until: Micros, now: Micros) -> Vec<Session> {
        let mut cut = Vec::new();
        for line in LINES {
            let connection = self.connection(host, line);
            connection.cut_until = connection.cut_until.max(until);
            cut.extend(connection.session);
        }
        for session in &cut {
            let past = &mut self.sessions[*session as usize];
            past.broke_in.get_or_insert(now);
            past.broke_out.get_or_insert(now);
        }
        cut
    }

    /// The client of a session notices that it is over. False if it noticed before.
    pub(crate) fn notice(&mut self, session: Session) -> bool {
        let past = &self.sessions[session as usize];
        let connection = &mut self.lines[past.host][past.line as usize];
        let noticed = connection.session == Some(session);
        if noticed {
            connection.session = None;
        }
        noticed
    }

    /// A connection breaks: what is on its way arrives up to some moment from now on, and the rest is lost. The client notices at
    /// once; gives the session and when the server notices.
    pub(crate) fn break_line(&mut self, host: Host, line: Line, now: Micros) -> Option<(Session, Micros)> {
        let session = self.connection(host, line).session.take()?;
        let ends = [self.chance.between(0, 2_000), self.chance.between(0, 2_000)];
        let [broke_in, broke_out] = ends.map(|after| now + Duration::from_micros(after));
        let past = &mut self.sessions[session as usize];
        past.broke_in.get_or_insert(broke_in);
        // The client does not read from a connection that it knows to be broken.
        past.broke_out.get_or_insert(now.min(broke_out));
        Some((session, broke_in))
    }

    /// The process of a host has ended: its sockets close. What a process that died had flushed arrives, and what it had only sent may;
    /// one that `flushed` has waited for all of it.
    pub(crate) fn forget(&mut self, host: Host, flushed: bool, now: Micros) -> Vec<(Session, Micros)> {
        let ended = LINES.map(|line| {
            let (session, noticed) = self.break_line(host, line, now)?;
            let past = &mut self.sessions[session as usize];
            let written = if flushed { Some(past.last_in) } else { past.flushed_in };
            // Where it was cut off before, nothing arrives.
            if let Some(written) = written.filter(|_| past.broke_in == Some(noticed)) {
                past.broke_in = Some(noticed.max(written + Duration::from_micros(1)));
            }
            Some((session, noticed.max(past.last_in)))
        });
        for connection in &mut self.lines[host] {
            connection.subscriptions.clear();
            connection.waiting.clear();
        }
        ended.into_iter().flatten().collect()
    }

    /// When a client tries to connect next.
    pub(crate) fn retry_at(&mut self, host: Host, line: Line, now: Micros) -> Micros {
        let pause = self.chance.span(Duration::from_millis(1), RECONNECT_MAX);
        (now + pause).max(self.connection(host, line).cut_until)
    }

    /// Whether a client has no session.
    pub(crate) fn is_open(&self, host: Host, line: Line) -> bool {
        self.lines[host][line as usize].session.is_none()
    }

    /// Whether the network lets a client connect now.
    pub(crate) fn may_connect(&self, host: Host, line: Line, now: Micros) -> bool {
        self.lines[host][line as usize].cut_until <= now
    }

    /// A new session. Gives it, what it subscribes to, and what had to wait for it.
    pub(crate) fn connect(
        &mut self,
        host: Host,
        line: Line,
        now: Micros,
    ) -> (Session, Vec<Subscription>, VecDeque<Message>) {
        let session = Session::try_from(self.sessions.len()).expect("fewer sessions than 2^32");
        self.sessions.push(Past {
            host,
            line,
            last_in: now,
            last_out: now,
            flushed_in: None,
            broke_in: None,
            broke_out: None,
        });
        let connection = self.connection(host, line);
        connection.session = Some(session);
        (session, connection.subscriptions.clone(), std::mem::take(&mut connection.waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{chance::Purpose, wire::Body};

    fn net() -> Net {
        let mut net = Net::new(2, Chance::of(3, Purpose::Net));
        net.connect(0, Line::Bulk, Micros::new(0));
        net.connect(0, Line::Control, Micros::new(0));
        net
    }

    fn message() -> Message {
        Message::new("a", Body::Plain)
    }

    #[test]
    fn messages_of_one_connection_never_overtake_each_other_and_those_of_two_do() {
        let mut net = net();
        let (mut last, mut overtaken) = ([Micros::new(0); 2], 0);
        for n in 0..2_000u64 {
            let line = LINES[usize::from(n % 2 == 1)];
            let (at, ..) = net.send(0, line, message(), Micros::new(n * 500)).expect("connected");
            assert!(at >= last[line as usize]);
            overtaken += u64::from(at < last[1 - line as usize]);
            last[line as usize] = at;
        }
        assert!(overtaken > 100, "{overtaken}");
    }

    #[test]
    fn a_broken_connection_loses_what_comes_after_some_moment_and_keeps_what_is_sent_later() {
        let mut net = net();
        let now = Micros::new(1_000);
        let (_, session, _) = net.send(0, Line::Bulk, message(), now).expect("connected");
        let (broken, noticed) = net.break_line(0, Line::Bulk, now).expect("it was connected");
        assert_eq!(broken, session);
        assert!(!net.reaches_server(session, noticed) && net.reaches_host(session, noticed).is_none());
        assert!(net.send(0, Line::Bulk, message(), now).is_none());
        let (next, _, waiting) = net.connect(0, Line::Bulk, now + Duration::from_secs(1));
        assert!(next != session && waiting.len() == 1);
    }

    #[test]
    fn a_host_that_is_cut_off_notices_late_and_connects_only_after_the_cut() {
        let mut net = net();
        let (now, heal) = (Micros::new(1_000), Micros::new(9_000_000));
        let cut = net.cut_off(0, heal, now);
        assert_eq!(cut.len(), 2);
        let sent = net.send(0, Line::Bulk, message(), now);
        let (at, session, _) = sent.expect("the client believes that it is connected");
        assert!(!net.reaches_server(session, at));
        assert!(net.notice(session) && !net.notice(session));
        assert!(!net.may_connect(0, Line::Bulk, now) && net.may_connect(0, Line::Bulk, heal));
        assert!(net.retry_at(0, Line::Bulk, now) >= heal);
    }

    #[test]
    fn what_was_flushed_arrives_though_its_sender_dies_and_what_was_only_sent_may_not() {
        let mut net = net();
        let mut lost = [0, 0];
        for n in 1..=200u64 {
            let (now, flushes) = (Micros::new(n * 1_000_000), n.is_multiple_of(2));
            net.connect(0, Line::Bulk, now);
            let (at, session, _) = net.send(0, Line::Bulk, message(), now).expect("connected");
            assert!(!flushes || net.flush(0, Line::Bulk));
            net.forget(0, false, now);
            lost[usize::from(flushes)] += u32::from(!net.reaches_server(session, at));
        }
        assert!(lost[0] > 10 && lost[1] == 0, "{lost:?}");
        assert!(!net.flush(0, Line::Bulk), "there is no connection");
    }

    #[test]
    fn what_is_held_up_arrives_later_and_is_not_lost() {
        let mut net = net();
        let until = Micros::new(5_000_000);
        net.hold(0, until);
        let (at, session, _) = net.send(0, Line::Bulk, message(), Micros::new(10)).expect("connected");
        assert!(at >= until && net.reaches_server(session, at));
        assert!(net.deliver(session, Micros::new(10)).0 >= until);
    }
}
