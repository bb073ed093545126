//! Promise: a recurring job runs at each of its times, once, however many dispatchers there are; the next run comes even
//! while none is there, and missed ones are handled by the job's own rule.

use std::{collections::BTreeSet, time::Duration};

use producer::Producer;
use schemas::{
    JobId, Micros,
    job::JobBody,
    recurring::{LABEL, Missed, Recurring},
    subjects::JobSubject,
    time::Clock as _,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};
use transport::SystemClock;

const ACK_WAIT: Duration = Duration::from_secs(4);

fn job(name: &str, cron: &str, missed: Missed, since: Micros) -> Recurring {
    Recurring {
        name: name.parse().unwrap(),
        cron: cron.into(),
        zone: "UTC".into(),
        missed,
        start_within_us: None,
        subject: JobSubject {
            region: roles::REGION.parse().unwrap(),
            model: schemas::catalog::token_of(roles::MODEL).unwrap(),
            lane: schemas::Lane::Normal,
            tenant: "acme".parse().unwrap(),
        },
        body: JobBody { prompt: Some("again".into()), mailbox: Some("inbox".into()), ..JobBody::default() },
        since_us: since,
    }
}

async fn dispatcher(server: &NatsServer, id: &str) -> Role {
    Role::usual_dispatcher(&server.url(), id, ACK_WAIT).await
}

async fn worker(server: &NatsServer) -> Role {
    let provider = Scripted::new(Script::Succeed);
    Role::worker(roles::pool_config(&[server.url()], "golem@us-east", "w1", 8, ACK_WAIT, provider)).await
}

/// Waits until `count` runs have ended, and gives the ids of all that have.
async fn ended(producer: &mut Producer, count: usize) -> BTreeSet<JobId> {
    let end = tokio::time::Instant::now() + wait::DEADLINE;
    loop {
        let audit = Audit::read(producer).await;
        assert!(audit.results.values().all(|results| results.len() == 1), "a run has two results");
        if audit.results.len() >= count {
            assert!(audit.results.values().flatten().all(|r| r.labels.contains_key(LABEL)));
            return audit.results.into_keys().collect();
        }
        assert!(tokio::time::Instant::now() < end, "{} of {count} runs ended", audit.results.len());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_time_comes_once_with_two_dispatchers_and_goes_on_while_none_is_there() {
    let server = NatsServer::start().await;
    let (one, two) = (dispatcher(&server, "d1").await, dispatcher(&server, "d2").await);
    let worker = worker(&server).await;
    let mut producer = roles::producer(&[server.url()]).await;
    let job = job("tick", "* * * * * *", Missed::Skip, SystemClock.now());
    producer.add_recurring(&job).await.unwrap();
    let again = producer.add_recurring(&job).await.unwrap_err();
    assert!(again.to_string().contains("tick"), "{again}");
    let before = ended(&mut producer, 2).await;
    // Some runs are stored ahead: they lie due in the server when the next dispatcher comes.
    one.stop().await;
    two.stop().await;
    let three = dispatcher(&server, "d3").await;
    let ids = ended(&mut producer, before.len() + 3).await;
    assert!(producer.remove_recurring(&job.name).await.unwrap());
    assert!(!producer.remove_recurring(&job.name).await.unwrap());
    assert!(producer.delayed(&job.subject.region).await.unwrap().is_empty(), "what waited went with it");
    // Every id is that of one of its times: none was made up, none came twice.
    let times = job.timetable().unwrap();
    let possible: BTreeSet<JobId> = times.after(job.since_us).take(200).map(|at| job.run(at).0).collect();
    assert!(ids.is_subset(&possible));
    worker.stop().await;
    three.stop().await;
    producer.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_runs_are_handled_by_the_rule() {
    let server = NatsServer::start().await;
    // Made by a first dispatcher, then nobody is there for hours: the job says since when it counts.
    dispatcher(&server, "d1").await.stop().await;
    let mut producer = roles::producer(&[server.url()]).await;
    let now = SystemClock.now();
    let hours_ago = now - Duration::from_secs(4 * 3_600);
    // Half an hour from here, so that no run becomes due while we look.
    let minute = (now.get() / 60_000_000 + 30) % 60;
    let hourly = format!("{minute} * * * *");
    for (name, missed) in [("skip", Missed::Skip), ("last", Missed::Last), ("all", Missed::All)] {
        producer.add_recurring(&job(name, &hourly, missed, hours_ago)).await.unwrap();
    }
    let (dispatcher, worker) = (dispatcher(&server, "d2").await, worker(&server).await);
    let ids = ended(&mut producer, 5).await;
    let expected = |name: &str, missed, count: usize| -> Vec<JobId> {
        let job = job(name, &hourly, missed, hours_ago);
        let times: Vec<Micros> =
            job.timetable().unwrap().after(hours_ago).take_while(|at| *at <= now).collect();
        times.iter().rev().take(count).map(|at| job.run(*at).0).collect()
    };
    let mut all = expected("last", Missed::Last, 1);
    all.extend(expected("all", Missed::All, 4));
    assert_eq!(ids, all.into_iter().collect());
    // The next of each waits in the server.
    let waiting = producer.delayed(&roles::REGION.parse().unwrap()).await.unwrap();
    assert_eq!(waiting.len(), 3);
    assert!(waiting.iter().all(|delayed| delayed.at > now));
    worker.stop().await;
    dispatcher.stop().await;
    producer.close().await;
}
