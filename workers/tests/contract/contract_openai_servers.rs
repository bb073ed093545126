//! Each server software, as its simulator speaks: its jobs, its errors, and what it says of its load and its models.

use std::{sync::Arc, time::Duration};

use schemas::failure::FailureClass as C;
use simulators::{
    Fault, FaultKind, Kind, MetricsPage, OpenAiSettings, Server, SimulatedModel, Simulator, SimulatorConfig,
};
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};
use workers::{
    adapters::{Dialect, OpenAi, OpenAiConfig, Secret, ServerLoad, openai::METRICS_OFF},
    provider::{Health, Missing, Provider as _},
};

use crate::{
    bed::{Recorder, call, eventually, failure, success},
    raw::{RawServer, Reply},
};

const ALL: [(Dialect, Server); 5] = [
    (Dialect::Vllm, Server::Vllm),
    (Dialect::LlamaCpp, Server::LlamaCpp),
    (Dialect::Ollama, Server::Ollama),
    (Dialect::Tgi, Server::Tgi),
    (Dialect::SgLang, Server::SgLang),
];

struct Bench {
    simulator: Simulator,
    provider: Arc<OpenAi>,
    /// Somebody else's.
    other: Arc<OpenAi>,
    _stop: DropGuard,
}

async fn bench(
    (dialect, server): (Dialect, Server),
    model: SimulatedModel,
    settings: OpenAiSettings,
    change: impl FnOnce(&mut OpenAiConfig),
) -> Bench {
    let stop = CancellationToken::new();
    let mut config = SimulatorConfig::new("servers", Kind::OpenAi, vec![model]);
    config.openai = OpenAiSettings { server, ..settings };
    config.api_key = Some("sk-1".to_owned());
    let simulator = simulators::start(config, stop.clone()).await.unwrap();
    let mut config = OpenAiConfig::new(simulator.url());
    (config.dialect, config.api_key) = (dialect, Some(Secret::new("sk-1")));
    let other = Arc::new(OpenAi::new(config.clone()).unwrap());
    change(&mut config);
    Bench { simulator, provider: Arc::new(OpenAi::new(config).unwrap()), other, _stop: stop.drop_guard() }
}

/// Two slots, and calls that last until they are dropped.
fn slow() -> SimulatedModel {
    SimulatedModel { slots: 2, service_ms_p50: 60_000, ..SimulatedModel::new("m") }
}

fn quick() -> SimulatedModel {
    SimulatedModel { service_ms_p50: 5, ..SimulatedModel::new("m") }
}

impl Bench {
    /// Begins so many calls, as somebody else would.
    async fn busy(&self, calls: u64) -> JoinSet<()> {
        let mut others = JoinSet::new();
        for number in 0..calls {
            let provider = Arc::clone(&self.other);
            let call = call(usize::try_from(number).unwrap());
            others.spawn(async move { drop(provider.run(&call, &Recorder::default()).await) });
        }
        eventually("all calls are there", || {
            let stats = self.simulator.stats();
            stats.running + stats.queued == calls
        })
        .await;
        others
    }
}

#[tokio::test]
async fn each_server_answers_jobs_and_says_it_is_well() {
    for kind in ALL {
        for stream in [true, false] {
            let bench =
                bench(kind, quick(), OpenAiSettings::default(), |config| config.stream = stream).await;
            assert_eq!(bench.provider.health().await, Health::Up, "{kind:?}");
            let recorder = Recorder::default();
            let ended = bench.provider.run(&call(0), &recorder).await;
            let success = success(&ended);
            assert_eq!(
                (recorder.text(), success.usage.estimated),
                (success.output.text.clone(), false),
                "{kind:?}"
            );
            assert_eq!(success.usage.completion_tokens, bench.simulator.stats().generated_tokens);
        }
    }
}

#[tokio::test]
async fn each_servers_errors_are_understood() {
    for kind in ALL {
        let bench = bench(kind, quick(), OpenAiSettings::default(), |config| config.api_key = None).await;
        let ended = bench.provider.run(&call(0), &Recorder::default()).await;
        // Ollama has no keys.
        assert_eq!(ended.outcome.is_ok(), kind.0 == Dialect::Ollama, "{kind:?}");
        if let Err(failure) = &ended.outcome {
            assert_eq!(failure.class, C::Authentication, "{kind:?}");
        }
        let bench = self::bench(kind, quick(), OpenAiSettings::default(), |_| ()).await;
        let ask = async |fault, change: &dyn Fn(&mut workers::provider::Call)| {
            bench.simulator.set_fault(fault);
            let mut call = call(1);
            change(&mut call);
            bench.provider.run(&call, &Recorder::default()).await
        };
        let ended = ask(Some(Fault::always(FaultKind::ErrorFrame { after_tokens: 2 })), &|_| ()).await;
        // Ollama only stops.
        let class = if kind.0 == Dialect::Ollama { C::Connection } else { C::ProviderDown };
        assert_eq!(failure(&ended).class, class, "{kind:?}");
        let ended = ask(Some(Fault::always(FaultKind::Oom)), &|_| ()).await;
        assert_eq!(failure(&ended).class, C::OutOfMemory, "{kind:?}");
        let ended = ask(None, &|call| call.params.max_tokens = Some(100_000)).await;
        assert_eq!(failure(&ended).class, C::InvalidRequest, "{kind:?}");
        let ended = ask(None, &|call| call.model = "nobody".to_owned()).await;
        match kind.0 {
            Dialect::Tgi | Dialect::LlamaCpp => drop(success(&ended)),
            _ => assert_eq!(failure(&ended).class, C::Misconfigured, "{kind:?}"),
        }
    }
}

#[tokio::test]
async fn what_runs_and_waits_at_a_server_is_read_from_its_own_metrics() {
    for kind in ALL {
        let bench = bench(kind, slow(), OpenAiSettings::default(), |_| ()).await;
        let others = bench.busy(5).await;
        assert_eq!(bench.provider.health().await, Health::Up, "{kind:?}");
        let load = bench.provider.load();
        if kind.0 == Dialect::Ollama {
            assert_eq!(load, None, "it tells no queue");
            continue;
        }
        let load = load.unwrap_or_else(|| panic!("{kind:?}"));
        assert_eq!((load.running, load.waiting), (Some(2), Some(3)), "{kind:?}");
        assert_eq!((load.others_waiting(0), load.others_waiting(4), load.others_waiting(5)), (3, 1, 0));
        drop(others);
        eventually("the callers have left", || bench.simulator.stats().running == 0).await;
        let load = bench.provider.read_load().await.unwrap();
        assert_eq!((load.running, load.waiting), (Some(0), Some(0)), "{kind:?}");
    }
}

#[tokio::test]
async fn a_page_that_is_wrong_or_does_not_come_is_unknown_and_the_server_is_well() {
    for kind in [ALL[0], ALL[3], ALL[4]] {
        for metrics in [MetricsPage::Off, MetricsPage::Nan, MetricsPage::Missing, MetricsPage::Huge] {
            let bench =
                bench(kind, quick(), OpenAiSettings { metrics, ..OpenAiSettings::default() }, |_| ()).await;
            assert_eq!(
                (bench.provider.health().await, bench.provider.load()),
                (Health::Up, None),
                "{kind:?} {metrics:?}"
            );
        }
    }
    let hang = OpenAiSettings { metrics: MetricsPage::Hang, ..OpenAiSettings::default() };
    let bench = bench(ALL[0], quick(), hang, |_| ()).await;
    assert_eq!((bench.provider.health().await, bench.provider.load()), (Health::Up, None));
    // Once known, it is forgotten with the next look that brings nothing.
    bench.simulator.set_metrics(MetricsPage::Usual);
    bench.provider.health().await;
    assert!(bench.provider.load().is_some());
    bench.simulator.set_metrics(MetricsPage::Missing);
    bench.provider.health().await;
    assert_eq!(bench.provider.load(), None);
}

#[tokio::test]
async fn llama_cpp_without_metrics_tells_its_slots_and_without_both_nothing() {
    let off = OpenAiSettings { metrics: MetricsPage::Off, ..OpenAiSettings::default() };
    let bench = bench(ALL[1], slow(), off, |_| ()).await;
    let _others = bench.busy(3).await;
    let known = ServerLoad { running: Some(2), ..ServerLoad::default() };
    assert_eq!(bench.provider.read_load().await, Some(known));
    bench.simulator.set_metrics(MetricsPage::Silent);
    assert_eq!(bench.provider.read_load().await, None);
}

#[tokio::test]
async fn a_pool_may_name_another_path_for_metrics_or_none() {
    let page = "vllm:num_requests_running 3\nvllm:num_requests_waiting 2\n";
    for (path, lines) in [(Some("/other"), "GET /other HTTP/1.1"), (None, "GET /metrics HTTP/1.1")] {
        let server = RawServer::start(vec![Reply::body(Some("text/plain"), page.as_bytes(), 5)]).await;
        let mut config = OpenAiConfig::new(server.url());
        config.metrics_path = path.map(str::to_owned);
        let load = OpenAi::new(config).unwrap().read_load().await.unwrap();
        assert_eq!((load.running, load.waiting), (Some(3), Some(2)));
        assert!(server.requests()[0].head.starts_with(lines));
    }
    let server = RawServer::start(vec![]).await;
    let mut config = OpenAiConfig::new(server.url());
    config.metrics_path = Some(METRICS_OFF.to_owned());
    assert_eq!(OpenAi::new(config).unwrap().read_load().await, None);
    assert!(server.requests().is_empty());
}

#[tokio::test]
async fn an_engine_that_hangs_is_down_though_it_says_it_is_well() {
    let still = OpenAiSettings { metrics: MetricsPage::Still, ..OpenAiSettings::default() };
    for kind in [ALL[0], ALL[1]] {
        let bench =
            bench(kind, slow(), still.clone(), |config| config.idle_timeout = Duration::from_millis(20))
                .await;
        assert_eq!(bench.provider.health().await, Health::Up, "nothing runs");
        let others = bench.busy(1).await;
        assert_eq!(bench.provider.health().await, Health::Up, "it may have begun just now");
        let down = async {
            loop {
                if let Health::Down(failure) = bench.provider.health().await {
                    return failure;
                }
            }
        };
        let failure = tokio::time::timeout(Duration::from_secs(20), down).await.expect("it stands still");
        assert_eq!(failure.class, C::Timeout, "{kind:?}");
        bench.simulator.set_metrics(MetricsPage::Usual);
        bench.provider.health().await;
        assert_eq!(bench.provider.health().await, Health::Up, "it moves");
        drop(others);
    }
}

#[tokio::test]
async fn a_model_that_is_not_loaded_makes_a_call_a_cold_start() {
    for kind in [ALL[1], ALL[2]] {
        let model = SimulatedModel { cold_start_ms: 60, ..quick() };
        let bench = bench(kind, model, OpenAiSettings::default(), |_| ()).await;
        assert_eq!(bench.provider.health().await, Health::Up);
        let first = bench.provider.run(&call(0), &Recorder::default()).await;
        success(&first);
        assert!(
            first.cold_start >= Duration::from_millis(60) && first.cold_start == first.first_token,
            "{kind:?}"
        );
        let second = bench.provider.run(&call(1), &Recorder::default()).await;
        assert_eq!(second.cold_start, Duration::ZERO, "{kind:?}: the first one loaded it");
        bench.provider.health().await;
        let third = bench.provider.run(&call(2), &Recorder::default()).await;
        assert_eq!(third.cold_start, Duration::ZERO, "{kind:?}: it says so itself");
    }
}

#[tokio::test]
async fn a_model_that_a_server_does_not_list_is_named() {
    let names = ["m".to_owned(), "other".to_owned()];
    for kind in ALL {
        let bench = bench(kind, quick(), OpenAiSettings::default(), |_| ()).await;
        let missing = bench.provider.missing(&names).await;
        let expected = Missing { models: vec!["other".to_owned()], listed: vec!["m".to_owned()] };
        match kind.0 {
            // They answer to every name.
            Dialect::LlamaCpp | Dialect::Tgi => assert_eq!(missing, None, "{kind:?}"),
            _ => assert_eq!(missing, Some(expected), "{kind:?}"),
        }
        assert_eq!(bench.provider.missing(&names[..1]).await, None, "{kind:?}");
    }
    for reply in [
        Reply::json("404 Not Found", "{}"),
        Reply::json("200 OK", "<html>"),
        Reply::json("200 OK", "{\"data\":[]}"),
    ] {
        let server = RawServer::start(vec![reply]).await;
        assert_eq!(OpenAi::new(OpenAiConfig::new(server.url())).unwrap().missing(&names).await, None);
    }
    let listed = r#"{"object":"list","data":[{"id":"llama3.2:latest","owned_by":"library"}]}"#;
    let server = RawServer::start(vec![Reply::json("200 OK", listed)]).await;
    let mut config = OpenAiConfig::new(server.url());
    config.dialect = Dialect::Ollama;
    assert_eq!(OpenAi::new(config).unwrap().missing(&["llama3.2".to_owned()]).await, None);
}

#[tokio::test]
async fn a_server_that_holds_back_no_more_says_it_lacks_capacity() {
    let full = OpenAiSettings { most_requests: 2, ..OpenAiSettings::default() };
    let cold = SimulatedModel { cold_start_ms: 60_000, slots: 1, ..slow() };
    for (kind, model, calls) in [(ALL[3], slow(), 2), (ALL[2], cold, 2)] {
        let bench = bench(kind, model, full.clone(), |_| ()).await;
        let _others = bench.busy(calls).await;
        let ended = bench.provider.run(&call(9), &Recorder::default()).await;
        assert_eq!(failure(&ended).class, C::Capacity, "{kind:?}");
    }
}
