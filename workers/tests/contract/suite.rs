//! What every adapter promises. Each function is one test, run by the adapter's own file.

use std::{sync::Arc, time::Duration};

use schemas::{
    failure::FailureClass as C,
    job::{Input, Message},
};
use simulators::{Fault, FaultKind};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use workers::{
    adapters::Secret,
    provider::{Call, Health},
    webhooks::{SigningKey, Webhooks},
};

use crate::bed::{Adapter, Bed, Recorder, Wish, eventually, failure, success};

/// Makes a test of each named function of this file.
macro_rules! promises {
    ($adapter:expr; $($name:ident)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                if $adapter.is_there() {
                    crate::suite::$name($adapter).await;
                }
            }
        )*
    };
}
pub(crate) use promises;

/// Runs every promise that all adapters make.
macro_rules! all_promises {
    ($adapter:expr) => {
        crate::suite::promises! {
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
            a_refused_connection_is_told
            nothing_at_all_ends_by_the_time_limit
            health_follows_the_server
            what_was_used_is_what_the_simulator_charged
            a_run_goes_on_without_its_worker_where_it_says_so
        }
    };
}
pub(crate) use all_promises;

pub(crate) async fn success_gives_text_and_tokens(adapter: Adapter) {
    let (bed, recorder) = (adapter.bed().await, Recorder::default());
    let ended = bed.provider.run(&bed.call(), &recorder).await;
    let success = success(&ended);
    assert!(success.output.text.starts_with("[simulated]"), "{success:?}");
    assert!(["stop", "length"].contains(&success.output.finish_reason.as_str()), "{success:?}");
    assert_eq!(recorder.text(), success.output.text);
    assert_eq!(success.usage.completion_tokens, bed.simulator.stats().generated_tokens);
    assert_eq!(success.usage.prompt_tokens, bed.simulator.stats().prompt_tokens);
    assert!(!success.usage.estimated);
    assert_eq!(recorder.pieces() > 1, adapter.is_streamed());
    assert_eq!(!ended.first_token.is_zero(), adapter.times_the_first_token());
    assert_eq!(recorder.runs().len(), usize::from(adapter.names_its_runs()));
    assert_eq!(recorder.submissions(), usize::from(!adapter.is_streamed()));
}

/// A call whose worker is lost: what is detached runs to its end, anything else stops.
pub(crate) async fn a_run_goes_on_without_its_worker_where_it_says_so(adapter: Adapter) {
    let mut wish = Wish::default();
    // The app is asked over HTTP what it runs, which takes longer than asking a simulator.
    wish.model.service_ms_p50 = if matches!(adapter, Adapter::ModalApp(_)) { 2_000 } else { 300 };
    let bed = adapter.bed_with(wish).await;
    assert_eq!(bed.provider.detached(), !adapter.is_streamed());
    let call = bed.call();
    tokio::select! {
        ended = bed.run_call(&call) => panic!("it takes longer than that: {ended:?}"),
        () = bed.until("it runs", |stats| stats.running == 1) => {}
    }
    bed.until("it is over", |stats| stats.running == 0).await;
    let stats = bed.simulator.stats();
    assert_eq!((stats.finished, stats.aborted), if bed.provider.detached() { (1, 0) } else { (0, 1) });
}

/// One worker begins a run and is gone; another goes on with it, at one start and one price. Gives the call.
pub(crate) async fn goes_on_elsewhere(bed: &Bed) -> Call {
    let (call, recorder) = (bed.call(), Recorder::default());
    tokio::select! {
        ended = bed.provider.run(&call, &recorder) => panic!("it takes longer than that: {ended:?}"),
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    let run = recorder.runs().remove(0);
    let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
    success(&ended);
    assert_eq!(bed.simulator.stats().started, 1, "it was not started again");
    assert_eq!(bed.cost(&ended.used), bed.charged());
    call
}

pub(crate) async fn a_raw_prompt_is_answered(adapter: Adapter) {
    let bed = adapter.bed().await;
    let mut call = bed.call();
    call.input = Input::Prompt("Once upon a time".to_owned());
    let ended = bed.run_call(&call).await;
    assert!(success(&ended).usage.completion_tokens > 0);
}

pub(crate) async fn a_slow_answer_is_waited_for(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault(FaultKind::Slow { factor: 10.0 });
    success(&bed.run().await);
}

pub(crate) async fn a_cold_start_is_waited_for(adapter: Adapter) {
    let mut wish = Wish::default();
    wish.model.cold_start_ms = 150;
    let bed = adapter.bed_with(wish).await;
    let ended = bed.run().await;
    success(&ended);
    let told = ended.used.iter().any(|u| u.item == "cold_start");
    match adapter {
        Adapter::Modal(_) | Adapter::ModalApp(_) => {
            assert!(told && ended.cold_start >= Duration::from_millis(150), "{ended:?}");
        }
        // On no job's bill, but told.
        Adapter::RunPod(_) | Adapter::Replicate => {
            assert!(!told && ended.cold_start >= Duration::from_millis(150), "{ended:?}");
        }
        Adapter::OpenAi | Adapter::Golem => assert!(!told && ended.cold_start.is_zero(), "{ended:?}"),
    }
}

pub(crate) async fn a_full_queue_is_waited_for(adapter: Adapter) {
    let mut wish = Wish::default();
    wish.model.slots = 1;
    let bed = Arc::new(adapter.bed_with(wish).await);
    let mut running = JoinSet::new();
    for _ in 0..3 {
        let bed = Arc::clone(&bed);
        running.spawn(async move { success(&bed.run().await).output.text.clone() });
    }
    assert_eq!(running.join_all().await.len(), 3);
    assert_eq!(bed.simulator.stats().peak_running, 1);
}

pub(crate) async fn a_rate_limit_keeps_its_wait(adapter: Adapter) {
    for (retry_after_s, us) in [(Some(2), Some(2_000_000)), (None, None)] {
        let bed = adapter.bed().await;
        bed.fault(FaultKind::Status { code: 429, body: None, retry_after_s });
        let ended = bed.fails(C::RateLimited).await;
        assert_eq!(failure(&ended).retry_after_us, us);
        assert!(ended.used.is_empty());
    }
}

pub(crate) async fn a_wrong_key_is_told_and_costs_nothing(adapter: Adapter) {
    let bed = adapter.bed_with(Wish { right_key: false, ..Wish::default() }).await;
    let ended = bed.fails(C::Authentication).await;
    assert!(ended.used.is_empty() && !ended.estimated);
    assert!(!failure(&ended).message.contains("wrong"), "{ended:?}");
}

pub(crate) async fn errors_of_the_server_pass(adapter: Adapter) {
    let bed = adapter.bed().await;
    for code in [500, 502, 503, 504] {
        bed.fault_once(FaultKind::Status { code, body: None, retry_after_s: None });
        let ended = bed.fails(C::ProviderDown).await;
        // Nobody knows what a gateway's error has cost, so it may only be an estimate.
        assert!(ended.used.is_empty() || ended.estimated, "{ended:?}");
    }
    success(&bed.run().await);
}

pub(crate) async fn a_request_that_cannot_be_answered_is_refused(adapter: Adapter) {
    let bed = adapter.bed().await;
    let mut call = bed.call();
    call.params.max_tokens = Some(100_000);
    let secret = "a text that nobody else should read".to_owned();
    call.input = Input::Messages(vec![Message { role: "user".to_owned(), content: secret.clone() }]);
    let ended = bed.run_call(&call).await;
    assert_eq!(failure(&ended).class, C::InvalidRequest, "{ended:?}");
    match adapter {
        // Only the server in the container can say so, and a job's bill is exact all the same.
        Adapter::ModalApp(_) => assert_eq!(bed.cost(&ended.used), bed.charged()),
        Adapter::OpenAi | Adapter::Golem | Adapter::Modal(_) | Adapter::RunPod(_) | Adapter::Replicate => {
            assert!(ended.used.is_empty());
        }
    }
    assert!(!failure(&ended).message.contains(&secret));
}

pub(crate) async fn an_unknown_model_is_misconfigured(adapter: Adapter) {
    let bed = adapter.bed().await;
    let mut call = bed.call();
    "nobody".clone_into(&mut call.model);
    assert_eq!(failure(&bed.run_call(&call).await).class, C::Misconfigured);
}

pub(crate) async fn a_full_accelerator_is_out_of_memory(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault(FaultKind::Oom);
    bed.fails(C::OutOfMemory).await;
}

pub(crate) async fn an_engine_error_is_the_providers(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault(FaultKind::ErrorFrame { after_tokens: 3 });
    let ended = bed.fails(C::ProviderDown).await;
    assert!(!ended.used.is_empty(), "it ran, so it is billed: {ended:?}");
}

pub(crate) async fn a_refused_connection_is_told(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault(FaultKind::Refuse);
    bed.fails(C::Connection).await;
    assert_eq!(bed.charged().get(), 0);
    bed.simulator.set_fault(None);
    success(&bed.run().await);
}

pub(crate) async fn nothing_at_all_ends_by_the_time_limit(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault(FaultKind::Hang);
    let mut call = bed.call();
    call.timeout = Duration::from_millis(200);
    assert_eq!(failure(&bed.run_call(&call).await).class, C::Timeout);
}

pub(crate) async fn health_follows_the_server(adapter: Adapter) {
    let bed = adapter.bed().await;
    assert_eq!(bed.provider.health().await, Health::Up);
    assert_eq!(bed.simulator.stats().started, 0, "a health check starts nothing");
    bed.fault(FaultKind::Refuse);
    let Health::Down(failure) = bed.provider.health().await else { panic!("nobody is there") };
    assert_eq!(failure.class, C::Connection);
}

/// To the nano-dollar where the provider says what was used; a rented machine's time is our own measurement.
pub(crate) async fn what_was_used_is_what_the_simulator_charged(adapter: Adapter) {
    let mut wish = Wish::default();
    wish.model.cold_start_ms = 20;
    wish.model.service_sigma = 0.5;
    let bed = adapter.bed_with(wish).await;
    let mut used = Vec::new();
    let mut estimated = false;
    for round in 0..12 {
        match round {
            3 => bed.fault_once(FaultKind::ErrorFrame { after_tokens: 2 }),
            5 => bed.fault_once(FaultKind::Status { code: 429, body: None, retry_after_s: Some(1) }),
            7 => bed.fault_once(FaultKind::Slow { factor: 3.0 }),
            _ => {}
        }
        let ended = bed.run().await;
        estimated |= ended.estimated;
        used.extend(ended.used);
    }
    let (booked, charged) = (bed.cost(&used), bed.charged());
    assert!(charged.get() > 0);
    match adapter {
        Adapter::Golem
        | Adapter::Modal(_)
        | Adapter::ModalApp(_)
        | Adapter::RunPod(_)
        | Adapter::Replicate => {
            assert_eq!(booked, charged);
            assert!(!estimated);
        }
        Adapter::OpenAi => {
            assert!(booked >= charged, "our clock runs from sending to the last byte: {booked} {charged}");
            assert!(estimated);
        }
    }
}

/// A stream that breaks, in each way it can.
pub(crate) async fn a_stream_that_breaks_is_a_connection_lost(adapter: Adapter) {
    let bed = adapter.bed().await;
    for kind in [
        FaultKind::ResetMidStream { after_tokens: 3 },
        FaultKind::SilentEnd { after_tokens: 3 },
        FaultKind::TruncatedBody,
    ] {
        bed.fault(kind);
        let ended = bed.fails(C::Connection).await;
        assert!(!ended.used.is_empty(), "it was admitted, so it is billed: {ended:?}");
    }
    assert_eq!(bed.simulator.stats().aborted, 3);
}

/// A frame that is no JSON.
pub(crate) async fn garbage_in_a_stream_is_the_providers_fault(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault(FaultKind::GarbageJson);
    let ended = bed.fails(C::ProviderDown).await;
    assert!(!ended.used.is_empty(), "it was admitted, so it is billed: {ended:?}");
}

/// A stream that falls silent.
pub(crate) async fn a_stream_that_stops_ends_by_the_idle_limit(adapter: Adapter) {
    let wish = Wish { idle_timeout: Duration::from_millis(200), ..Wish::default() };
    let bed = adapter.bed_with(wish).await;
    bed.fault(FaultKind::StallMidStream { after_tokens: 3 });
    let mut call = bed.call();
    // No other limit may end it.
    call.timeout = Duration::from_secs(3600);
    let ended = bed.run_call(&call).await;
    assert_eq!(failure(&ended).class, C::Timeout, "{ended:?}");
    assert!(!ended.used.is_empty(), "it was admitted, so it is billed: {ended:?}");
    bed.until("the server noticed", |stats| stats.running == 0 && stats.aborted == 1).await;
}

/// No head in time: nothing was admitted, so somewhere else is better.
pub(crate) async fn no_answer_in_time_is_a_matter_of_capacity(adapter: Adapter) {
    let mut wish = Wish { first_byte_timeout: Duration::from_millis(150), ..Wish::default() };
    wish.model.cold_start_ms = 60_000;
    let bed = adapter.bed_with(wish).await;
    bed.fails(C::Capacity).await;
    bed.until("the server noticed", |stats| stats.queued == 0 && stats.left_queue == 1).await;
    assert_eq!(bed.simulator.stats().started, 0);
}

/// A run that has an id is stopped by it, and says what it used, whatever it was doing.
pub(crate) async fn a_run_that_takes_too_long_is_stopped_and_its_bill_is_exact(adapter: Adapter) {
    let mut executing = Wish { hold_limit_ms: 20, ..Wish::default() };
    executing.model.service_ms_p50 = 60_000;
    // The app's own limit counts execution only, so nothing but our word stops a container that is starting.
    let mut starting = Wish { hold_limit_ms: 20, ..Wish::default() };
    starting.model.cold_start_ms = 60_000;
    for (wish, item) in [(executing, "execution"), (starting, "cold_start")] {
        let bed = adapter.bed_with(wish).await;
        let mut call = bed.call();
        call.timeout = Duration::from_secs(1);
        let ended = bed.run_call(&call).await;
        assert_eq!(failure(&ended).class, C::Timeout);
        bed.until("the run is stopped", |stats| stats.running + stats.queued == 0).await;
        assert!(!ended.estimated && ended.used.iter().any(|u| u.item == item), "{ended:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged());
    }
}

/// Closing the connection is how these are cancelled.
pub(crate) async fn dropping_the_call_stops_the_run(adapter: Adapter) {
    let mut wish = Wish::default();
    wish.model.service_ms_p50 = 60_000;
    let bed = adapter.bed_with(wish).await;
    let (call, recorder) = (bed.call(), Recorder::default());
    tokio::select! {
        ended = bed.provider.run(&call, &recorder) => panic!("it takes a minute: {ended:?}"),
        () = bed.until("it runs", |stats| stats.running == 1) => {}
    }
    bed.until("the server noticed", |stats| stats.running == 0 && stats.aborted == 1).await;
    assert_eq!(bed.provider.cancel("any").await, Ok(()));
    assert_eq!(bed.provider.reattach(&call, "any", Duration::ZERO, &recorder).await, None);
}

/// A call whose run has an id, dropped when the provider runs it. Gives the id.
async fn left_running(bed: &Bed, call: &Call, recorder: &Recorder) -> String {
    tokio::select! {
        ended = bed.provider.run(call, recorder) => panic!("it takes longer than that: {ended:?}"),
        () = eventually("the run is known", || !recorder.runs().is_empty()) => {}
    }
    recorder.runs().remove(0)
}

/// A run that nobody holds a connection for, and that takes so long.
async fn polled(adapter: Adapter, service_ms: u64, cold_start_ms: u64) -> Bed {
    let mut wish = Wish { wait: Duration::ZERO, ..Wish::default() };
    wish.model.service_ms_p50 = service_ms;
    wish.model.cold_start_ms = cold_start_ms;
    adapter.bed_with(wish).await
}

/// A run that has an id is stopped by it, and costs what it used until then.
pub(crate) async fn a_run_is_stopped_when_it_takes_too_long(adapter: Adapter) {
    for (service_ms, cold_start_ms) in [(60_000, 0), (20, 60_000)] {
        let bed = polled(adapter, service_ms, cold_start_ms).await;
        let mut call = bed.call();
        call.timeout = Duration::from_secs(1);
        let ended = bed.run_call(&call).await;
        assert_eq!(failure(&ended).class, C::Timeout);
        bed.until("the run is stopped", |stats| stats.running + stats.queued == 0).await;
        assert!(!ended.estimated, "{ended:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged());
        assert_eq!(ended.used.is_empty(), cold_start_ms > 0);
    }
}

/// A run goes on when its worker is gone, and the next one takes its result: one run, one bill.
pub(crate) async fn another_worker_goes_on_with_a_run(adapter: Adapter) {
    let (bed, recorder) = (polled(adapter, 300, 0).await, Recorder::default());
    let call = bed.call();
    let run = left_running(&bed, &call, &recorder).await;
    assert_eq!(recorder.submissions(), 1, "the journal knows of it before the provider does");
    let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
    success(&ended);
    assert_eq!(bed.simulator.stats().started, 1, "it was not started again");
    assert_eq!(bed.cost(&ended.used), bed.charged());
    let unknown = bed.provider.reattach(&call, "unknown", Duration::from_secs(60), &recorder).await;
    assert_eq!(unknown, None);
}

/// A cancel reaches a run wherever it is, may be repeated, and leaves a bill that can be read.
pub(crate) async fn a_run_is_cancelled_before_and_after_its_start(adapter: Adapter) {
    for (service_ms, cold_start_ms) in [(60_000, 0), (20, 60_000)] {
        let (bed, recorder) = (polled(adapter, service_ms, cold_start_ms).await, Recorder::default());
        let call = bed.call();
        let run = left_running(&bed, &call, &recorder).await;
        bed.until("it is where it should be", |stats| {
            if cold_start_ms > 0 { stats.queued == 1 } else { stats.running == 1 }
        })
        .await;
        assert_eq!(bed.provider.cancel(&run).await, Ok(()));
        bed.until("it is stopped", |stats| stats.running + stats.queued == 0).await;
        assert_eq!(bed.provider.cancel(&run).await, Ok(()), "once more changes nothing");
        assert_eq!(bed.provider.cancel("unknown").await, Ok(()), "what is unknown does not run");
        let ended = bed.provider.reattach(&call, &run, Duration::ZERO, &recorder).await.unwrap();
        assert!(ended.outcome.is_err() && !ended.estimated, "{ended:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged());
    }
}

/// The run goes on while its front door has trouble.
pub(crate) async fn questions_that_fail_now_and_then_lose_nothing(adapter: Adapter) {
    let bad_gateway = FaultKind::Status { code: 502, body: None, retry_after_s: None };
    for kind in [bad_gateway, FaultKind::Refuse] {
        let (bed, recorder) = (polled(adapter, 200, 0).await, Recorder::default());
        let call = bed.call();
        let (ended, ()) = tokio::join!(bed.provider.run(&call, &recorder), async {
            eventually("the run is known", || !recorder.runs().is_empty()).await;
            bed.simulator.set_fault(Some(Fault::times(kind.clone(), 3)));
        });
        success(&ended);
        assert_eq!(bed.simulator.stats().started, 1, "{kind:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged(), "{kind:?}");
    }
}

/// Nobody can be asked any more: somewhere else is better, and what it cost is a guess that says so.
pub(crate) async fn questions_that_only_fail_end_with_an_estimate(adapter: Adapter) {
    let (bed, recorder) = (polled(adapter, 60_000, 0).await, Recorder::default());
    let call = bed.call();
    let (ended, ()) = tokio::join!(bed.provider.run(&call, &recorder), async {
        bed.until("it runs", |stats| stats.running == 1).await;
        bed.fault(FaultKind::Status { code: 500, body: None, retry_after_s: None });
    });
    assert_eq!(failure(&ended).class, C::ProviderDown);
    assert!(ended.estimated && !ended.used.is_empty(), "{ended:?}");
}

/// After "leave me alone for two seconds" the next call does not even ask.
pub(crate) async fn a_key_that_is_closed_is_left_alone(adapter: Adapter) {
    let bed = adapter.bed().await;
    bed.fault_once(FaultKind::Status { code: 429, body: None, retry_after_s: Some(3_000) });
    bed.fails(C::RateLimited).await;
    let ended = bed.fails(C::RateLimited).await;
    assert!(failure(&ended).retry_after_us.is_some_and(|us| us > 2_000_000_000), "{ended:?}");
    assert_eq!(bed.simulator.stats().refused, 1, "the second was never sent");
}

/// What was asked for is found, not asked for again.
pub(crate) async fn a_submission_whose_answer_was_lost_is_found_in_the_list(adapter: Adapter) {
    for kind in [
        FaultKind::ResetMidStream { after_tokens: 0 },
        FaultKind::TruncatedBody,
        FaultKind::GarbageJson,
        FaultKind::SilentEnd { after_tokens: 0 },
    ] {
        let bed = adapter.bed().await;
        bed.fault_once(kind.clone());
        let ended = bed.run().await;
        success(&ended);
        assert_eq!(bed.simulator.stats().started, 1, "{kind:?}");
        assert_eq!(bed.cost(&ended.used), bed.charged(), "{kind:?}");
    }
}

/// With polls an hour apart, only the provider's own word can end the wait.
pub(crate) async fn a_webhook_wakes_whoever_waits(adapter: Adapter) {
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let webhooks = Arc::new(Webhooks::new(&format!("http://{listen}")));
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    let (_, serving) = Arc::clone(&webhooks).serve(listen, stop).await.unwrap();
    let secret = simulators::ReplicateSettings::default().webhook_secret;
    let callback = match adapter {
        Adapter::RunPod(_) => webhooks.runpod(),
        _ => webhooks.replicate(SigningKey::new(&Secret::new(secret)).unwrap()),
    };
    let hour = Duration::from_secs(3_600);
    let mut wish =
        Wish { wait: Duration::ZERO, polls: (hour, hour), callback: Some(callback), ..Wish::default() };
    wish.model.service_ms_p50 = 300;
    let bed = adapter.bed_with(wish).await;
    let call = Call { timeout: hour * 2, ..bed.call() };
    tokio::select! {
        ended = bed.run_call(&call) => drop(success(&ended)),
        _ = serving => panic!("the receiver ended"),
    }
    assert_eq!(bed.simulator.stats().finished, 1);
}
