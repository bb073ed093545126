//! The simulated server behaves as the real one was seen to.

use super::*;
use crate::{chance::Purpose, consumer::ConsumerConfig, stream::StreamConfig, wire::Refusal};

const WAIT: Duration = Duration::from_secs(10);

/// A server, and what it has sent to each session's subscription.
struct Bed {
    server: Server,
    now: Micros,
    tasks: Vec<(Micros, Task)>,
    got: Vec<(Session, u32, Message)>,
}

impl Bed {
    fn new(cluster: bool) -> Self {
        let stream = |name: &str, subject: &str| {
            let subjects = vec![subject.into()];
            let window = Duration::from_secs(120);
            Stream::new(StreamConfig { name: name.into(), subjects, window, max_bytes: 1 << 20 })
        };
        let consumer = Consumer::new(ConsumerConfig {
            stream: "JOBS".into(),
            name: "c".into(),
            filter: "jobs.*".into(),
            ack_wait: WAIT,
            max_ack_pending: 100,
        });
        let streams = vec![stream("JOBS", "jobs.*"), stream("REPLIES", "reply.>")];
        let server = Server::new(cluster, streams, vec![consumer], Chance::of(1, Purpose::Server));
        let mut bed = Self { server, now: Micros::new(1_000_000), tasks: Vec::new(), got: Vec::new() };
        bed.server.subscribe(1, 1, "in.1.*".into(), None);
        bed.server.subscribe(2, 1, "in.2.*".into(), None);
        bed
    }

    /// Carries out what the server wants done within `span`.
    fn run(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            for out in self.server.take_out() {
                match out {
                    Out::Send(session, sub, message) => self.got.push((session, sub, message)),
                    Out::Later(at, task) => self.tasks.push((at, task)),
                }
            }
            self.tasks.sort_by_key(|(at, _)| *at);
            let due = self.tasks.first().is_some_and(|(at, _)| *at <= end);
            if !due {
                break;
            }
            let (at, task) = self.tasks.remove(0);
            self.now = self.now.max(at);
            self.server.run(task, self.now);
        }
        self.now = end;
    }

    fn publish(&mut self, message: Message) {
        self.server.publish(message, self.now);
        self.run(Duration::from_millis(100));
    }

    fn pull(&mut self, session: Session, batch: u32) {
        let ask =
            Ask::Pull { stream: "JOBS".into(), consumer: "c".into(), batch, expires: Duration::from_secs(5) };
        self.publish(Message::new(API, Body::Ask(ask)).with_reply(format!("in.{session}.pull")));
    }

    /// Takes what a session has got: answers as they are, deliveries by their lease.
    fn told(&mut self, of: Session) -> Vec<Told> {
        self.take(of)
            .into_iter()
            .filter_map(|m| if let Body::Told(told) = m.body { Some(told) } else { None })
            .collect()
    }

    fn leases(&mut self, of: Session) -> Vec<Lease> {
        let reply = |m: Message| m.reply.and_then(|reply| reply.parse().ok());
        self.take(of).into_iter().filter_map(reply).collect()
    }

    fn take(&mut self, of: Session) -> Vec<Message> {
        let (own, rest) = std::mem::take(&mut self.got).into_iter().partition(|(session, ..)| *session == of);
        self.got = rest;
        own.into_iter().map(|(_, _, message)| message).collect()
    }
}

fn job(n: u64) -> Message {
    Message::new("jobs.a", Body::Plain).with_id(n.to_string()).with_reply("in.1.stored")
}

fn ack(lease: &Lease, ack: Ack) -> Message {
    Message::new(lease.subject(), Body::Ack(ack))
}

#[test]
fn a_publish_is_answered_with_its_place_and_a_repeat_with_the_first() {
    let mut bed = Bed::new(false);
    bed.publish(job(7));
    bed.publish(job(7));
    let told = bed.told(1);
    let first = matches!(told[0], Told::Stored { seq: 1, duplicate: false });
    assert!(first && matches!(told[1], Told::Stored { seq: 1, duplicate: true }), "{told:?}");
}

#[test]
fn a_publish_that_nobody_takes_hears_so_and_a_core_message_to_nobody_is_lost() {
    let mut bed = Bed::new(false);
    bed.publish(Message::new("nobody.here", Body::Plain).with_reply("in.1.x"));
    assert!(matches!(bed.told(1)[..], [Told::NoResponders]));
    bed.publish(Message::new("nobody.here", Body::Plain));
    assert!(bed.got.is_empty());
}

#[test]
fn one_of_a_queue_group_gets_a_message_and_every_plain_subscriber() {
    let mut bed = Bed::new(false);
    for session in [1, 2] {
        bed.server.subscribe(session, 2, "work.a".into(), Some("w".into()));
        bed.server.subscribe(session, 3, "beat.>".into(), None);
    }
    let mut first = 0;
    for _ in 0..200 {
        bed.publish(Message::new("work.a", Body::Plain));
        assert_eq!(bed.got.len(), 1);
        first += usize::from(bed.got.pop().is_some_and(|(session, ..)| session == 1));
    }
    assert!((60..140).contains(&first), "{first}");
    bed.publish(Message::new("beat.x.y", Body::Plain));
    assert_eq!(bed.got.len(), 2);
}

#[test]
fn a_lease_lasts_while_it_is_extended_and_then_the_job_comes_again() {
    let mut bed = Bed::new(false);
    bed.publish(job(1));
    bed.pull(1, 1);
    let lease = bed.leases(1).remove(0);
    assert_eq!((lease.delivered, lease.stream_seq, lease.consumer_seq), (1, 1, 1));
    bed.run(Duration::from_secs(6));
    bed.publish(ack(&lease, Ack::Progress).with_reply("in.1.x"));
    assert!(matches!(bed.told(1)[..], [Told::Heard]));
    bed.run(Duration::from_secs(7));
    bed.pull(2, 1);
    assert!(bed.leases(2).is_empty());
    bed.run(Duration::from_secs(4));
    let again = bed.leases(2).remove(0);
    assert_eq!((again.delivered, again.stream_seq, again.consumer_seq), (2, 1, 2));
}

#[test]
fn an_ack_of_what_is_done_is_heard_all_the_same() {
    let mut bed = Bed::new(false);
    bed.publish(job(1));
    bed.pull(2, 1);
    let lease = bed.leases(2).remove(0);
    for _ in 0..2 {
        bed.publish(ack(&lease, Ack::Done).with_reply("in.1.x"));
    }
    assert_eq!(bed.told(1).len(), 3, "the PubAck and two answers");
}

#[test]
fn acks_vanish_while_a_consumer_has_no_leader() {
    let mut bed = Bed::new(true);
    bed.server.subscribe(2, 9, format!("{ELECTED}.>").into(), None);
    bed.publish(job(1));
    bed.pull(2, 1);
    let lease = bed.leases(2).remove(0);
    bed.server.elect(Leader::OfConsumer(0), bed.now + Duration::from_secs(1), bed.now);
    bed.publish(ack(&lease, Ack::Done));
    bed.publish(ack(&lease, Ack::Done).with_reply("in.2.x"));
    assert!(matches!(bed.told(2)[..], [Told::NoResponders]));
    bed.run(Duration::from_secs(2));
    assert_eq!(bed.take(2).len(), 1, "the advisory");
    assert!(!bed.server.consumers[0].it.is_done(1));
    // The delivery is not forgotten: it comes again after its time, as the second.
    bed.run(Duration::from_secs(8));
    bed.pull(2, 1);
    assert_eq!(bed.leases(2).first().map(|lease| lease.delivered), Some(2));
}

#[test]
fn a_publish_without_a_leader_is_not_answered_though_it_may_be_stored() {
    let mut stored = 0;
    for n in 0..40 {
        let mut bed = Bed::new(true);
        bed.server.chance = Chance::of(n, Purpose::Server);
        bed.server.elect(Leader::OfStream(0), bed.now + Duration::from_secs(1), bed.now);
        bed.publish(job(1));
        assert!(bed.told(1).is_empty());
        bed.run(Duration::from_secs(2));
        bed.publish(job(1));
        stored += usize::from(matches!(bed.told(1)[..], [Told::Stored { duplicate: true, .. }]));
    }
    assert!((8..32).contains(&stored), "{stored}");
}

#[test]
fn a_killed_server_drops_connections_and_what_was_on_its_way_and_keeps_what_is_stored() {
    let mut bed = Bed::new(false);
    bed.publish(job(1));
    bed.server.publish(job(2), bed.now);
    bed.server.stop(None, bed.now);
    bed.server.start();
    bed.run(Duration::from_secs(1));
    assert_eq!(bed.server.stream("JOBS").map(Stream::last), Some(1));
    bed.told(1);
    bed.publish(job(1));
    assert!(bed.got.is_empty(), "nobody is connected");
    bed.server.subscribe(1, 1, "in.1.*".into(), None);
    bed.publish(job(1));
    assert!(matches!(bed.told(1)[..], [Told::Stored { seq: 1, duplicate: true }]), "ids are read again");
}

#[test]
fn a_full_stream_refuses_and_takes_the_same_id_later() {
    let mut bed = Bed::new(false);
    bed.server.limit("JOBS", None);
    bed.publish(job(1));
    assert!(matches!(bed.told(1)[..], [Told::Refused(Refusal::Full)]));
    bed.server.limit("JOBS", Some(1 << 20));
    bed.publish(job(1));
    assert!(matches!(bed.told(1)[..], [Told::Stored { seq: 1, duplicate: false }]));
}

#[test]
fn stored_messages_are_read_by_place_by_subject_and_since_a_time() {
    let mut bed = Bed::new(false);
    bed.publish(job(1));
    let since = bed.now;
    bed.publish(Message { subject: "jobs.b".into(), ..job(2) });
    bed.told(1);
    let stream: Rc<str> = "JOBS".into();
    let asks = [
        Ask::At { stream: stream.clone(), seq: 1 },
        Ask::At { stream: stream.clone(), seq: 9 },
        Ask::Last { stream: stream.clone(), subject: "jobs.b".into() },
        Ask::Since { stream, subject: "jobs.*".into(), since },
    ];
    for ask in asks {
        bed.publish(Message::new(API, Body::Ask(ask)).with_reply("in.1.x"));
    }
    let seqs: Vec<Vec<u64>> = bed
        .told(1)
        .into_iter()
        .map(|told| match told {
            Told::Got(found) => found.into_iter().map(|stored| stored.seq).collect(),
            Told::Found(found) => found.into_iter().map(|stored| stored.seq).collect(),
            told => panic!("{told:?}"),
        })
        .collect();
    assert_eq!(seqs, [vec![1], vec![], vec![2], vec![2]]);
}
