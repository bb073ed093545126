//! The app that a person deploys on Modal (`deploy/modal`), called by the adapter: what the simulator promises in its place, the
//! app keeps. Both are held to one suite, so that neither drifts from the adapter.

use std::time::Duration;

use schemas::failure::FailureClass as C;
use serde_json::{Value, json};
use simulators::FaultKind;
use workers::{adapters::ModalMode, provider::Call};

use crate::{
    bed::{Adapter, Bed, Recorder, Wish, eventually, failure, success},
    suite::{goes_on_elsewhere, promises},
};

/// The promises of [`crate::suite::all_promises`], without those that need a connection refused by order.
macro_rules! app_promises {
    ($adapter:expr; $($more:ident)*) => {
        promises! {
            $adapter;
            success_gives_text_and_tokens
            a_raw_prompt_is_answered
            a_slow_answer_is_waited_for
            a_cold_start_is_waited_for
            a_full_queue_is_waited_for
            a_rate_limit_keeps_its_wait
            a_wrong_key_is_told_and_costs_nothing
            errors_of_the_server_pass
            a_request_that_cannot_be_answered_is_refused
            an_unknown_model_is_misconfigured
            a_full_accelerator_is_out_of_memory
            an_engine_error_is_the_providers
            nothing_at_all_ends_by_the_time_limit
            what_was_used_is_what_the_simulator_charged
            a_run_goes_on_without_its_worker_where_it_says_so
            $($more)*
        }
    };
}

mod openai {
    use super::*;

    const ADAPTER: Adapter = Adapter::ModalApp(ModalMode::OpenAi);

    app_promises! {
        ADAPTER;
        garbage_in_a_stream_is_the_providers_fault
        a_stream_that_stops_ends_by_the_idle_limit
        dropping_the_call_stops_the_run
    }

    #[tokio::test]
    async fn a_stream_of_vllm_that_breaks_is_a_connection_lost_with_its_bill() {
        if !ADAPTER.is_there() {
            return;
        }
        let bed = ADAPTER.bed().await;
        bed.fault(FaultKind::SilentEnd { after_tokens: 3 });
        let ended = bed.fails(C::Connection).await;
        assert!(!ended.used.is_empty(), "{ended:?}");
    }
}

mod wait {
    use super::*;

    const ADAPTER: Adapter = Adapter::ModalApp(ModalMode::Wait);

    app_promises! { ADAPTER; }

    #[tokio::test]
    async fn a_redirect_tells_the_run_and_leads_to_its_result() {
        if !ADAPTER.is_there() {
            return;
        }
        let mut wish = Wish { hold_limit_ms: 30, ..Wish::default() };
        wish.model.service_ms_p50 = 500;
        let (bed, recorder) = (ADAPTER.bed_with(wish).await, Recorder::default());
        let call = bed.call();
        let ended = bed.provider.run(&call, &recorder).await;
        success(&ended);
        assert_eq!((recorder.runs().len(), bed.simulator.stats().started), (1, 1));
        assert_eq!(bed.cost(&ended.used), bed.charged());
        // The result stays, for another worker.
        let run = recorder.runs().remove(0);
        let again = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
        assert_eq!(success(&again), success(&ended));
        assert_eq!(bed.provider.reattach(&call, "fc-unknown", Duration::ZERO, &recorder).await, None);
    }
}

mod spawn {
    use super::*;

    const ADAPTER: Adapter = Adapter::ModalApp(ModalMode::Spawn);

    app_promises! { ADAPTER; }

    #[tokio::test]
    async fn another_worker_goes_on_with_a_run_whose_first_one_is_gone() {
        if !ADAPTER.is_there() {
            return;
        }
        let mut wish = Wish::default();
        wish.model.service_ms_p50 = 2_000;
        goes_on_elsewhere(&ADAPTER.bed_with(wish).await).await;
    }

    /// What was asked for twice, by whomever, runs once.
    #[tokio::test]
    async fn a_job_that_is_submitted_twice_is_one_run() {
        if !ADAPTER.is_there() {
            return;
        }
        let bed = ADAPTER.bed().await;
        let call = bed.call();
        let (first, second) = tokio::join!(bed.run_call(&call), bed.run_call(&call));
        // One of two submissions at the very same moment may be told that the other is under way.
        let ended = [&first, &second].into_iter().find(|ended| ended.outcome.is_ok()).unwrap();
        let third = bed.run_call(&call).await;
        assert_eq!((success(&third), &third.used), (success(ended), &ended.used));
        assert_eq!(bed.simulator.stats().started, 1);
    }

    #[tokio::test]
    async fn a_container_that_dies_leaves_an_estimate() {
        if !ADAPTER.is_there() {
            return;
        }
        let bed = endless(ADAPTER).await;
        let call = bed.call();
        let (ended, ()) = tokio::join!(bed.run_call(&call), async {
            bed.until("it runs", |stats| stats.running == 1).await;
            bed.fault(FaultKind::ContainerDies);
        });
        assert_eq!(failure(&ended).class, C::ProviderDown);
        assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
    }

    /// What the adapter sees of all of this is in the suite; here are the statuses.
    #[tokio::test]
    async fn each_question_about_a_call_has_its_status() {
        if !ADAPTER.is_there() {
            return;
        }
        let bed = ADAPTER.bed().await;
        let app = bed.simulator.app();
        let body = json!({
            "id": "j:1", "model": "m", "messages": [{ "role": "user", "content": "Why?" }],
            "params": { "max_tokens": 4 }, "timeout_s": 60,
        });
        let submit = |body: &Value| app.send("POST", "/v1/jobs", &body.to_string());
        let (status, created) = submit(&body);
        assert_eq!((status, &created["created"]), (202, &json!(true)));
        let (status, known) = submit(&body);
        assert_eq!((status, &known["created"], &known["call_id"]), (200, &json!(false), &created["call_id"]));

        let path = format!("/v1/jobs/{}", created["call_id"].as_str().unwrap());
        eventually("it is over", || app.send("GET", &path, "").0 == 200).await;
        let (_, report) = app.send("GET", &path, "");
        assert_eq!((&report["status"], &report["billing"]["gpu"]), (&json!("succeeded"), &json!("T4")));
        assert_eq!(report["usage"]["prompt_tokens_details"]["cached_tokens"], json!(0), "told, not unknown");

        for (method, path) in [("GET", "/v1/jobs/fc-other"), ("DELETE", "/v1/jobs/fc-other"), ("GET", "/v2")]
        {
            assert_eq!(app.send(method, path, "").0, 404, "{method} {path}");
        }
        assert_eq!(app.send("PATCH", "/v1/jobs", "").0, 405);

        let mut other = body.clone();
        other["id"] = json!("j:2");
        other["tools"] = json!([]);
        let (status, refusal) = submit(&other);
        assert_eq!((status, &refusal["detail"][0]["loc"]), (422, &json!(["body", "tools"])));

        app.ask("unclaimed", "\"j:3\"");
        other = body.clone();
        other["id"] = json!("j:3");
        assert_eq!(submit(&other).0, 503, "whoever took the id may have started it: never twice");

        app.ask("forget", "");
        assert_eq!(app.send("GET", &path, "").0, 410);
    }
}

/// A job that takes as long as nobody waits.
async fn endless(adapter: Adapter) -> Bed {
    let mut wish = Wish { hold_limit_ms: 20, ..Wish::default() };
    wish.model.service_ms_p50 = 60_000;
    adapter.bed_with(wish).await
}

const RUNS: [Adapter; 2] = [Adapter::ModalApp(ModalMode::Wait), Adapter::ModalApp(ModalMode::Spawn)];

/// How much of its time a call keeps for reading the bill is the adapter's matter; here the bill is there.
#[tokio::test]
async fn a_run_that_takes_too_long_is_stopped_and_its_bill_can_be_read() {
    for adapter in RUNS.into_iter().filter(|adapter| adapter.is_there()) {
        let (bed, recorder) = (endless(adapter).await, Recorder::default());
        let call = bed.call();
        let hasty = Call { timeout: Duration::from_secs(1), ..call.clone() };
        let ended = bed.provider.run(&hasty, &recorder).await;
        assert_eq!(failure(&ended).class, C::Timeout);
        bed.until("the run is stopped", |stats| stats.running + stats.queued == 0).await;
        let run = recorder.runs().remove(0);
        let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
        assert!(!ended.estimated && ended.used.iter().any(|used| used.item == "execution"), "{ended:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged());
    }
}

#[tokio::test]
async fn a_run_is_stopped_by_its_id_and_says_what_it_used() {
    for adapter in RUNS.into_iter().filter(|adapter| adapter.is_there()) {
        let (bed, recorder) = (endless(adapter).await, Recorder::default());
        let call = bed.call();
        tokio::select! {
            ended = bed.provider.run(&call, &recorder) => panic!("it takes a minute: {ended:?}"),
            () = async {
                bed.until("it runs", |stats| stats.running == 1).await;
                eventually("the run is known", || !recorder.runs().is_empty()).await;
            } => {}
        }
        let run = recorder.runs().remove(0);
        for _ in 0..2 {
            assert_eq!(bed.provider.cancel(&run).await, Ok(()));
        }
        assert_eq!(bed.provider.cancel("fc-unknown").await, Ok(()));
        bed.until("it is stopped", |stats| stats.running == 0 && stats.aborted == 1).await;
        let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
        assert_eq!(failure(&ended).class, C::ProviderDown);
        assert!(!ended.estimated && !ended.used.is_empty(), "{ended:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged());
    }
}
