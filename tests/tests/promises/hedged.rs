//! Promise: an urgent job that is stuck gets a second attempt elsewhere; whoever is first gives the one result, the other is
//! stopped and its cost booked as a lost race, and no failure of either gives the job away while the other runs.

use std::{sync::Arc, time::Duration};

use producer::{JobRequest, Producer};
use schemas::{
    JobId, Lane,
    cost::Purpose,
    decision::Reason,
    failure::{Failure, FailureClass},
    reply::Status,
};
use tests::{
    audit::Audit,
    nats_server::NatsServer,
    roles::{self, Role},
    scripted::{Script, Scripted},
    wait,
};

const ACK_WAIT: Duration = Duration::from_secs(6);

/// Golem, which gets every job while it can, and Modal, both known to be fast.
struct Scene {
    _server: NatsServer,
    golem: Arc<Scripted>,
    modal: Arc<Scripted>,
    roles: Vec<Role>,
    producer: Producer,
    jobs: Vec<JobId>,
}

impl Scene {
    async fn set() -> Self {
        let server = NatsServer::start().await;
        let urls = [server.url()];
        let mut config = roles::dispatcher_config(&urls, "d1", roles::settings(ACK_WAIT));
        config.policy.baseline_share = 1.0;
        // On a busy machine a job of the warm-up may be hedged, too; it must not use up what the stuck job needs.
        config.policy.hedge.share = 1.0;
        let mut scene = Self {
            golem: Scripted::new(Script::Succeed),
            modal: Scripted::new(Script::Succeed),
            roles: vec![Role::dispatcher(config).await],
            producer: roles::producer(&urls).await,
            _server: server,
            jobs: Vec::new(),
        };
        for (pool, worker, provider) in
            [("golem@us-east", "w1", &scene.golem), ("modal@us-east", "w2", &scene.modal)]
        {
            let config = roles::pool_config(&urls, pool, worker, 16, ACK_WAIT, provider.clone());
            scene.roles.push(Role::worker(config).await);
        }
        // Enough jobs for golem's usual time to be known.
        for _ in 0..40 {
            scene.submit().await;
        }
        Audit::all_ended(&mut scene.producer, &scene.jobs).await;
        scene
    }

    async fn submit(&mut self) -> JobId {
        let request = JobRequest { lane: Lane::High, ..roles::job("urgent") };
        let job = self.producer.submit(&request).await.unwrap().job;
        self.jobs.push(job);
        job
    }

    async fn called(&self, provider: &Scripted, times: u64) {
        wait::until("a call to the provider", || async { (provider.begun() >= times).then_some(()) }).await;
    }

    /// What was booked for a job, in order of amount, once `count` attempts are.
    async fn booked(&mut self, job: JobId, count: usize) -> Vec<(String, Purpose)> {
        let end = tokio::time::Instant::now() + wait::DEADLINE;
        loop {
            let audit = Audit::all_ended(&mut self.producer, &self.jobs).await;
            let of_job = audit.costs.iter().filter(|cost| cost.job == Some(job));
            let booked: Vec<_> = of_job.map(|cost| (cost.provider.to_string(), cost.purpose)).collect();
            if booked.len() >= count {
                return booked;
            }
            assert!(tokio::time::Instant::now() < end, "only {booked:?} was booked");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn end(self) {
        for role in self.roles {
            role.stop().await;
        }
        self.producer.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_job_ends_elsewhere_and_the_loser_is_stopped_and_booked() {
    let mut scene = Scene::set().await;
    scene.golem.set(Script::Hold);
    let job = scene.submit().await;
    let booked = scene.booked(job, 2).await;
    assert_eq!(booked.len(), 2);
    assert!(booked.contains(&("modal".into(), Purpose::Useful)), "{booked:?}");
    assert!(booked.contains(&("golem".into(), Purpose::WastedRace)), "{booked:?}");
    let audit = Audit::all_ended(&mut scene.producer, &scene.jobs).await;
    let result = &audit.results[&job][0];
    assert_eq!((result.status, result.attempts), (Status::Succeeded, 2));
    assert_eq!(result.decision.as_ref().unwrap().reason, Reason::Hedge);
    // It never answered, so the call was dropped.
    assert_eq!(scene.golem.runs().get(&job), None);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_attempt_that_fails_leaves_the_first_alone() {
    let mut scene = Scene::set().await;
    scene.golem.set(Script::Hold);
    scene.modal.set(Script::Fail(Failure::new(FailureClass::ProviderDown, "503")));
    let before = scene.modal.begun();
    let job = scene.submit().await;
    let modal = scene.modal.clone();
    scene.called(&modal, before + 1).await;
    scene.golem.release();
    let booked = scene.booked(job, 1).await;
    assert_eq!(booked, [("golem".to_owned(), Purpose::Useful)]);
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_both_fail_one_after_the_other_the_job_is_given_back_and_goes_on() {
    let mut scene = Scene::set().await;
    let down = Failure::new(FailureClass::ProviderDown, "503");
    scene.golem.set(Script::HoldThenFail(down.clone()));
    scene.modal.set(Script::HoldThenFail(down));
    let (first, second) = (scene.golem.begun(), scene.modal.begun());
    let job = scene.submit().await;
    let (golem, modal) = (scene.golem.clone(), scene.modal.clone());
    scene.called(&golem, first + 1).await;
    scene.called(&modal, second + 1).await;
    golem.set(Script::Succeed);
    modal.set(Script::Succeed);
    golem.release();
    // The first has failed while the second runs, and must not have given the job back.
    assert_eq!((golem.begun(), modal.begun()), (first + 1, second + 1));
    modal.release();
    let audit = Audit::all_ended(&mut scene.producer, &scene.jobs).await;
    let result = &audit.results[&job][0];
    assert_eq!((result.status, result.attempts), (Status::Succeeded, 3), "{result:?}");
    scene.end().await;
}
