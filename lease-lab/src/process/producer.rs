//! A producer: publishes the jobs of the plan, again and again until each is acknowledged. What was acknowledged is on its disk; a
//! new process publishes the rest once more.

use std::{rc::Rc, time::Duration};

use async_nats::HeaderMap;
use bytes::Bytes;
use dispatcher::nats::Parcel;
use schemas::{JobId, Micros, headers, subjects::JobSubject};
use serde_json::json;

use super::Process;
use crate::{
    client::{Client, FIRST_FREE, Said},
    desk::Desk,
    net::Line,
    plan::{Plan, PlannedJob, Special},
    setup,
    wire::{Body, MAX_PAYLOAD, Message},
    world::CallNews,
};

/// The mailbox of every job.
pub(crate) const MAILBOX: &str = "box";

/// A producer.
pub(super) struct Producer {
    client: Client<usize>,
    plan: Rc<Plan>,
    /// The next job that this process publishes.
    next: usize,
    /// Jobs that are on their way.
    sent: usize,
    ended: bool,
}

impl Producer {
    pub(super) fn start(desk: &mut Desk<'_>) -> Self {
        let client = Client::start(&desk.life_name(), desk);
        Self { client, plan: desk.plan(), next: 0, sent: 0, ended: false }
    }

    fn publish(&mut self, desk: &mut Desk<'_>) {
        while let Some(job) = self.plan.jobs.get(self.next).filter(|job| job.at <= desk.now()) {
            let index = self.next;
            self.next += 1;
            if !desk.is_published(index) {
                let message = message(job);
                self.sent += 1;
                self.client.publish(index, Line::Bulk, message, desk);
            }
        }
    }

    fn said(&mut self, said: &Said<usize>, desk: &mut Desk<'_>) {
        if let Said::Stored(index, seq, duplicate) = said {
            self.sent -= 1;
            let what =
                if *duplicate { "hears that it was accepted before" } else { "hears that it is accepted" };
            desk.note(Some(*seq), || format!("{what}: job {index}"));
            desk.published(*index);
        }
    }
}

impl Process for Producer {
    fn heard(&mut self, _line: Line, number: u32, message: &Message, desk: &mut Desk<'_>) {
        if number < FIRST_FREE
            && let Some(said) = self.client.heard(message, desk)
        {
            self.said(&said, desk);
        }
    }

    fn connected(&mut self, line: Line, desk: &mut Desk<'_>) {
        self.client.connected(line, desk);
    }

    fn answered(&mut self, _news: &CallNews, _desk: &mut Desk<'_>) {}

    fn woken(&mut self, desk: &mut Desk<'_>) {
        for said in self.client.woken(desk) {
            self.said(&said, desk);
        }
        self.publish(desk);
    }

    fn end(&mut self, _desk: &mut Desk<'_>) {
        self.ended = true;
    }

    fn has_ended(&self) -> bool {
        self.ended
    }

    fn wake_at(&self) -> Option<Micros> {
        let next = self.plan.jobs.get(self.next).map(|job| job.at);
        self.client.wake_at().into_iter().chain(next).min()
    }

    fn busy(&self) -> Option<String> {
        let left = self.plan.jobs.len() - self.next + self.sent;
        (left > 0).then(|| format!("{left} jobs are not published"))
    }
}

/// The id that a number in the plan stands for.
pub(crate) fn job_id(number: u64) -> JobId {
    format!("0198c0de-0000-7000-8000-{number:012x}").parse().expect("a UUID")
}

/// A job as it is published.
fn message(job: &PlannedJob) -> Message {
    let id = job_id(job.id);
    let mut body = json!({ "id": id.to_string(), "mailbox": MAILBOX, "prompt": "x" });
    match job.special {
        Special::Plain | Special::Large => {}
        Special::Deadline(seconds) => {
            body["deadline"] = json!((job.at + Duration::from_secs(seconds)).to_datetime().to_rfc3339());
        }
        Special::NoPool => body["routing"] = json!({ "allow_providers": ["nobody"] }),
        Special::Broken => body["prompt"] = json!(5),
        Special::Once => body["max_attempts"] = json!(1),
    }
    let subject = JobSubject {
        region: setup::region(),
        model: setup::model(),
        lane: job.lane,
        tenant: job.tenant.parse().expect("a tenant"),
    };
    let message_id = id.job_message(&subject.tenant);
    let mut map = HeaderMap::new();
    map.insert(headers::MESSAGE_ID, message_id.as_str());
    map.insert(headers::CONTENT_TYPE, "application/json");
    let mut text = body.to_string();
    if job.special == Special::Large {
        // What stands behind the last brace is read as nothing, and is carried all the same.
        text.extend(std::iter::repeat_n(' ', MAX_PAYLOAD - 700 - text.len()));
    }
    let parcel = Parcel { headers: map, body: Bytes::from(text) };
    let bytes = parcel.bytes();
    Message { bytes, ..Message::new(subject.to_string(), Body::Job(parcel.into())) }.with_id(message_id)
}
