//! Promise: a backfill sends lines that begin alike one after the other, one of them ahead, and is as safe to kill as ever.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use producer::{Producer, backfill::Ending};
use serde_json::{Value, json};
use tests::{
    process::{self, Process},
    roles,
    scripted::Script,
    wait,
};

use crate::backfill::{Scene, check_once};

/// A file whose lines take turns among so many system messages; each `alone`th line has none.
fn file(scene: &Scene, lines: usize, heads: usize, alone: usize) -> PathBuf {
    let mut text = String::new();
    for n in 1..=lines {
        let model = roles::MODEL;
        let line = if n % alone == 0 {
            json!({ "custom_id": format!("c{n}"), "model": model, "prompt": format!("prompt {n}") })
        } else {
            let system = format!("You answer for desk {}. ", n % heads).repeat(20);
            let messages = [
                json!({ "role": "system", "content": system }),
                json!({ "role": "user", "content": format!("{n}") }),
            ];
            json!({ "custom_id": format!("c{n}"), "model": model, "messages": messages })
        };
        writeln!(text, "{line}").unwrap();
    }
    let path = scene.path("prompts.jsonl");
    std::fs::write(&path, text).unwrap();
    path
}

/// The lines of the jobs, in the order in which they were stored.
async fn stored(producer: &Producer) -> Vec<usize> {
    let stream =
        async_nats::jetstream::new(producer.client().clone()).get_stream("JOBS_us-east").await.unwrap();
    let mut lines = Vec::new();
    for seq in 1..=stream.cached_info().state.last_sequence {
        let message = stream.get_raw_message(seq).await.unwrap();
        let body: Value = serde_json::from_slice(&message.payload).unwrap();
        lines.push(body["labels"]["line"].as_str().unwrap().parse().unwrap());
    }
    lines
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_of_each_group_goes_ahead_and_the_others_follow_group_by_group() {
    let scene = Scene::new(Script::Hold, 50).await;
    let file = file(&scene, 40, 4, 10);
    let options = scene.options(&file);
    let (ran, ()) = tokio::join!(scene.run(options), async {
        // The first of each group, and those that begin like no other: until one has ended no more.
        wait::until("the first lines to run", || async { (scene.provider.begun() >= 8).then_some(()) }).await;
        let jobs = scene.producer().await;
        let mut first = stored(&jobs).await;
        first.sort_unstable();
        assert_eq!(first, [1, 2, 3, 4, 10, 20, 30, 40]);
        jobs.close().await;
        scene.provider.release();
    });
    assert_eq!((ran.0, ran.1.succeeded, ran.1.failed), (Ending::Finished, 40, 0));
    let jobs = scene.producer().await;
    let rest: Vec<usize> = stored(&jobs).await.split_off(8).iter().map(|line| line % 4).collect();
    let runs = rest.chunk_by(|one, two| one == two).count();
    assert_eq!((rest.len(), runs), (32, 4), "each group at once: {rest:?}");
    check_once(&scene, &scene.path("state"), 40);
    jobs.close().await;
    scene.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_window_it_runs_each_line_once() {
    let scene = Scene::new(Script::After(Duration::from_millis(5)), 8).await;
    let (file, config) = (file(&scene, 1_500, 7, 11), scene.config());
    let folder = PathBuf::from(format!("{}.beacon", file.display()));
    let args = ["backfill", "run", file.to_str().unwrap(), "--config", &config, "--outstanding", "60"];
    for round in 1..=4 {
        let running = Process::start(&args, &scene.path(&format!("run{round}.log")));
        wait::until("some more jobs to run", || async {
            (scene.provider.begun() > round * 250).then_some(())
        })
        .await;
        running.kill();
    }
    let output = tokio::task::block_in_place(|| process::run(&args));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    check_once(&scene, &folder, 1_500);
    scene.stop().await;
}
