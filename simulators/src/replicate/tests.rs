//! Predictions from their creation to their end, on a paused clock.

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tokio::time::{self, Instant};
use tokio_util::sync::CancellationToken;

use super::{
    archive::{Cursor, id},
    platform::Platform,
    prediction::{Draft, Origin, Prediction},
    run,
    wire::Wire,
};
use crate::{
    bill::BillKind,
    board::Stats,
    config::{Kind, ReplicateBilling, ReplicateSettings, SimulatedModel, SimulatorConfig},
    fault::{Breakdown, Course},
    frames,
    service::Service,
    text::{Answer, Finish},
};

const FINE: Course = Course { slowdown: 1.0, breakdown: None };

fn model() -> SimulatedModel {
    SimulatedModel {
        slots: 1,
        service_ms_p50: 1_200,
        cold_start_ms: 3_000,
        sku: "gpu-t4".to_owned(),
        price_per_second_nanos: 225_001,
        price_per_million_input_tokens_nanos: 100_000_001,
        price_per_million_output_tokens_nanos: 300_000_001,
        ..SimulatedModel::new("meta/llama")
    }
}

fn serve(replicate: ReplicateSettings) -> Platform {
    let config = SimulatorConfig { replicate, ..SimulatorConfig::new("s", Kind::Replicate, vec![model()]) };
    Platform::new(&Service::new(config, 1_795_420_800_000_000, CancellationToken::new()))
}

fn billed(billing: ReplicateBilling) -> Platform {
    serve(ReplicateSettings { billing, ..ReplicateSettings::default() })
}

/// A prediction of four tokens that does not run.
fn enter(platform: &Platform, cancel_after: Option<Duration>) -> Arc<Prediction> {
    let tokens = ["[simulated]", " a", " b", " c"].map(str::to_owned).to_vec();
    let draft = Draft {
        model: Arc::clone(&platform.service.models[0]),
        origin: Origin::Official,
        base: "http://h".to_owned(),
        input: Map::from_iter([("prompt".to_owned(), json!("why?"))]),
        hook: None,
        answer: Answer { tokens, finish: Finish::Stop, prompt_tokens: 5, cached_tokens: None },
        cancel_after,
    };
    platform.archive.enter(draft).unwrap()
}

fn begin(platform: &Platform, cancel_after: Option<u64>, course: Course) -> Arc<Prediction> {
    let prediction = enter(platform, cancel_after.map(Duration::from_millis));
    let service = &platform.service;
    service.tasks.spawn(run::carry(Arc::clone(service), Arc::clone(&prediction), course));
    prediction
}

fn text(platform: &Platform, prediction: &Prediction) -> String {
    String::from_utf8(frames::json(&Wire::now(&platform.service, prediction)).to_vec()).unwrap()
}

fn wire(platform: &Platform, prediction: &Prediction) -> Value {
    serde_json::from_str(&text(platform, prediction)).unwrap()
}

/// Run, amount and whether it ended well, of each line.
fn lines(platform: &Platform) -> Vec<(BillKind, u64, u64, bool)> {
    let lines = platform.service.bill().lines.into_iter();
    lines.map(|line| (line.kind, line.billed_micros, line.amount_nanos, line.completed)).collect()
}

#[tokio::test(start_paused = true)]
async fn a_prediction_boots_grows_and_ends_with_the_time_it_is_billed_for() {
    let platform = billed(ReplicateBilling::PredictTime);
    let prediction = begin(&platform, None, FINE);
    let before = wire(&platform, &prediction);
    assert_eq!(
        (&before["status"], &before["output"], &before["error"]),
        (&json!("starting"), &json!(null), &json!(null))
    );
    assert_eq!(before["created_at"], "2026-11-23T08:00:00.000000Z");
    assert!(before.get("started_at").is_none() && before.get("metrics").is_none());

    time::sleep(Duration::from_millis(3_700)).await;
    let during = wire(&platform, &prediction);
    assert_eq!((&during["status"], &during["output"]), (&json!("processing"), &json!(["[simulated]", " a"])));
    assert_eq!(during["started_at"], "2026-11-23T08:00:03.000000Z");

    prediction.ended().await;
    let after = text(&platform, &prediction);
    for part in [
        r#""predict_time":1.200000,"total_time":4.200000"#,
        r#""input_token_count":5,"output_token_count":4,"time_to_first_token":0.300000"#,
        r#""output":["[simulated]"," a"," b"," c"]"#,
        r#""completed_at":"2026-11-23T08:00:04.200000Z""#,
    ] {
        assert!(after.contains(part), "{part} in {after}");
    }
    assert_eq!(lines(&platform), [(BillKind::Run, 1_200_000, 270_002, true)]); // 270,001.2
    assert_eq!(platform.service.bill().lines[0].run.as_ref(), Some(&prediction.id));
    let expected = Stats {
        peak_running: 1,
        started: 1,
        finished: 1,
        prompt_tokens: 5,
        generated_tokens: 4,
        ..Stats::default()
    };
    assert_eq!(platform.service.board.total(), expected);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_aborts_before_the_start_and_cancels_after_it() {
    let platform = billed(ReplicateBilling::PredictTime);
    let waiting = begin(&platform, Some(2_000), FINE);
    waiting.ended().await;
    let aborted = wire(&platform, &waiting);
    assert_eq!(
        (&aborted["status"], &aborted["deadline"]),
        (&json!("aborted"), &json!("2026-11-23T08:00:02.000000Z"))
    );
    assert!(aborted.get("started_at").is_none());
    assert_eq!((lines(&platform).len(), platform.service.board.total().left_queue), (0, 1));

    time::sleep(Duration::from_secs(1)).await; // Its instance is up by now.
    let running = begin(&platform, Some(700), FINE);
    running.ended().await;
    let canceled = wire(&platform, &running);
    assert_eq!(
        (&canceled["status"], &canceled["output"]),
        (&json!("canceled"), &json!(["[simulated]", " a"]))
    );
    assert_eq!(canceled["metrics"]["predict_time"], json!(0.7));
    assert_eq!(lines(&platform), [(BillKind::Run, 700_000, 157_501, false)]); // 157,500.7
}

#[tokio::test(start_paused = true)]
async fn a_cancel_takes_a_while_and_may_come_too_late() {
    let platform = serve(ReplicateSettings { cancel_delay_ms: 100, ..ReplicateSettings::default() });
    let first = begin(&platform, None, FINE);
    let queued = begin(&platform, None, FINE);
    time::sleep(Duration::from_millis(3_500)).await;
    queued.cancel(&platform.service);
    assert_eq!(queued.stage().status(), "starting");
    queued.ended().await;
    assert_eq!(queued.stage().status(), "canceled");
    assert_eq!(first.stage().status(), "processing");
    time::sleep(Duration::from_millis(550)).await;
    first.cancel(&platform.service);
    first.ended().await;
    time::sleep(Duration::from_secs(1)).await;
    assert_eq!(first.stage().status(), "succeeded");

    let third = begin(&platform, None, FINE);
    time::sleep(Duration::from_millis(400)).await;
    third.cancel(&platform.service);
    third.ended().await;
    assert_eq!(third.stage().status(), "canceled");
    let expected = [(BillKind::Run, 1_200_000, 270_002, true), (BillKind::Run, 500_000, 112_501, false)];
    assert_eq!(lines(&platform), expected);
}

#[tokio::test(start_paused = true)]
async fn data_is_removed_an_hour_after_the_end_and_the_object_stays() {
    let platform = billed(ReplicateBilling::PredictTime);
    let prediction = begin(&platform, None, FINE);
    prediction.ended().await;
    time::advance(Duration::from_millis(3_599_999)).await;
    assert_eq!(wire(&platform, &prediction)["data_removed"], false);
    time::advance(Duration::from_millis(1)).await;
    let removed = wire(&platform, &prediction);
    assert_eq!((&removed["data_removed"], &removed["status"]), (&json!(true), &json!("succeeded")));
    assert_eq!((&removed["output"], &removed["input"]), (&json!(null), &json!({})));
    assert!(removed.get("logs").is_none());
    assert_eq!(platform.archive.page(None, |_| true).rows.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn official_models_charge_the_tokens_that_were_made() {
    let platform = billed(ReplicateBilling::Tokens);
    begin(&platform, None, FINE).ended().await;
    begin(&platform, Some(700), FINE).ended().await;
    begin(&platform, Some(100), FINE).ended().await; // Nothing was put out.
    let engine = Some(Breakdown::Engine { after_tokens: 2 });
    begin(&platform, None, Course { breakdown: engine, ..FINE }).ended().await;
    // Five tokens read are 500.000005, rounded up; four written are 1200.000004, and two are 600.000002.
    let expected =
        [(BillKind::Run, 1_200_000, 501 + 1_201, true), (BillKind::Run, 700_000, 501 + 601, false)];
    assert_eq!(lines(&platform), expected);
}

#[tokio::test(start_paused = true)]
async fn standing_instances_charge_boots_and_idle_time_as_well() {
    let platform = billed(ReplicateBilling::Standing);
    begin(&platform, None, FINE).ended().await;
    time::sleep(Duration::from_secs(600)).await;
    let expected = [
        (BillKind::Startup, 3_000_000, 675_003, true),
        (BillKind::Run, 1_200_000, 270_002, true),
        (BillKind::Idle, 60_000_000, 13_500_060, true),
    ];
    assert_eq!(lines(&platform), expected);
    assert_eq!(platform.service.bill().total_nanos, 14_445_065);
}

#[tokio::test(start_paused = true)]
async fn each_breakdown_fails_in_its_own_way_and_the_platforms_own_are_free() {
    let platform = billed(ReplicateBilling::PredictTime);
    for (breakdown, error) in [
        (Breakdown::Engine { after_tokens: 1 }, "Prediction failed: EngineCore encountered an issue."),
        (Breakdown::Memory, "CUDA out of memory. Tried to allocate"),
        (Breakdown::Death, "Prediction interrupted; please retry (code: PA)"),
    ] {
        let prediction = begin(&platform, None, Course { breakdown: Some(breakdown), ..FINE });
        prediction.ended().await;
        let failed = wire(&platform, &prediction);
        assert_eq!(failed["status"], "failed");
        assert!(failed["error"].as_str().unwrap().starts_with(error), "{failed}");
    }
    assert_eq!(lines(&platform).iter().map(|line| line.1).collect::<Vec<_>>(), [300_000, 1_200_000]);
    let began = Instant::now();
    begin(&platform, None, Course { breakdown: Some(Breakdown::Stall), ..FINE }).ended().await;
    // The death took the instance along, so that there is a boot before the half hour.
    assert_eq!(began.elapsed(), Duration::from_secs(1_803));
    assert_eq!(platform.service.board.total().aborted, 4);
}

#[tokio::test(start_paused = true)]
async fn the_list_has_pages_in_both_directions() {
    let platform = billed(ReplicateBilling::PredictTime);
    for _ in 0..250 {
        enter(&platform, None);
    }
    let archive = &platform.archive;
    let numbers = |cursor| {
        let page = archive.page(cursor, |_| true);
        let ends = (page.rows.first().unwrap().number, page.rows.last().unwrap().number);
        (ends, page.next, page.previous)
    };
    let (ends, next, previous) = numbers(None);
    assert_eq!((ends, previous), ((249, 150), None));
    let (ends, next, previous) = numbers(next);
    assert_eq!((ends, previous), ((149, 50), Some(Cursor::Newer(149))));
    let (ends, next, _) = numbers(next);
    assert_eq!((ends, next), ((49, 0), None));
    assert_eq!(numbers(previous).0, (249, 150));

    let page = archive.page(None, |prediction| prediction.number < 30);
    assert_eq!((page.rows.len(), page.next, page.previous), (30, None, None));
}

#[test]
fn a_cursor_survives_its_url_and_ids_look_like_replicates() {
    for cursor in [Cursor::Older(7), Cursor::Newer(123_456)] {
        assert_eq!(Cursor::decode(&cursor.encode()), Some(cursor));
    }
    assert_eq!(Cursor::decode("cD1vbmU"), None);
    let id = id(1, 0);
    assert_eq!(id.len(), 26);
    assert!(id.bytes().all(|byte| byte.is_ascii_lowercase() || (b'2'..=b'7').contains(&byte)));
}
