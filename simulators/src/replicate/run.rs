//! Carries a prediction from its creation to its end. The bill is written before the end can be seen.

use std::{sync::Arc, time::Duration};

use tokio::time::{self, Instant};

use super::prediction::{End, Failure, Outcome, Prediction, Stage, Work};
use crate::{
    bill::{BillKind, BillLine, amount_for},
    clock::sleep_until,
    config::ReplicateBilling,
    fault::{Breakdown, Course},
    script,
    service::Service,
};

/// Replicate lets a prediction run for half an hour; the limit is scaled with the other times.
const RUN_MAX: Duration = Duration::from_secs(1_800);

/// Runs until the prediction is over or the simulator stops.
pub(crate) async fn carry(service: Arc<Service>, prediction: Arc<Prediction>, course: Course) {
    let shutdown = service.shutdown.clone();
    tokio::select! {
        biased;
        () = shutdown.cancelled() => {}
        () = live(&service, &prediction, course) => {}
    }
}

async fn live(service: &Arc<Service>, prediction: &Arc<Prediction>, course: Course) {
    let queued = service.board.queue(prediction.model.index());
    let fleet = &service.fleets[prediction.model.index()];
    let instance = tokio::select! {
        biased;
        stop = stopped(prediction, prediction.deadline) => {
            let outcome = match stop {
                Stop::Canceled => Outcome::Canceled,
                Stop::DeadlinePassed => Outcome::Aborted,
            };
            drop(queued);
            prediction.move_to(Stage::Over(End { at: Instant::now(), work: None, outcome }));
            return;
        }
        instance = fleet.take(&prediction.id) => instance,
    };
    let running = queued.admit(prediction.answer.prompt_tokens);
    let since = Instant::now();
    prediction.move_to(Stage::Processing(Work { since, first: None, pieces: 0 }));

    let limit = since + service.config.replicate.scaled(RUN_MAX);
    let until = prediction.deadline.map_or(limit, |deadline| deadline.min(limit));
    let outcome = tokio::select! {
        biased;
        Stop::Canceled | Stop::DeadlinePassed = stopped(prediction, Some(until)) => Outcome::Canceled,
        outcome = predict(service, prediction, since, course) => outcome,
    };
    let end = End { at: Instant::now(), work: prediction.stage().work(), outcome };
    charge(service, prediction, &end);
    match outcome {
        Outcome::Succeeded => running.finish(prediction.answer.token_count()),
        Outcome::Failed(_) | Outcome::Canceled | Outcome::Aborted => drop(running),
    }
    match outcome {
        Outcome::Failed(Failure::Interrupted) => instance.die(&prediction.id),
        Outcome::Failed(Failure::Engine | Failure::Memory)
        | Outcome::Succeeded
        | Outcome::Canceled
        | Outcome::Aborted => drop(instance),
    }
    prediction.move_to(Stage::Over(end));
}

/// Why a prediction is stopped.
enum Stop {
    Canceled,
    DeadlinePassed,
}

async fn stopped(prediction: &Prediction, until: Option<Instant>) -> Stop {
    let deadline = async {
        match until {
            Some(at) => time::sleep_until(at).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = prediction.canceled() => Stop::Canceled,
        () = deadline => Stop::DeadlinePassed,
    }
}

/// The model's `predict()`: puts out piece after piece, spread evenly over the service time.
async fn predict(service: &Service, prediction: &Prediction, since: Instant, course: Course) -> Outcome {
    let whole = service.service_time(&prediction.model.settings, course.slowdown);
    let count = prediction.answer.token_count();
    let due = |tokens| since + script::share(whole, tokens, count);
    let (tokens, end, outcome) = match course.breakdown {
        None => (count, since + whole, Outcome::Succeeded),
        Some(Breakdown::Engine { after_tokens }) => {
            let tokens = after_tokens.min(count);
            (tokens, due(tokens), Outcome::Failed(Failure::Engine))
        }
        Some(Breakdown::Memory) => (0, since + whole, Outcome::Failed(Failure::Memory)),
        Some(Breakdown::Death) => (count / 2, since + whole / 2, Outcome::Failed(Failure::Interrupted)),
        Some(Breakdown::Stall) => std::future::pending().await,
    };
    let mut work = Work { since, first: None, pieces: 0 };
    while work.pieces < prediction.pieces.len() && prediction.tokens_in(work.pieces + 1) <= tokens {
        sleep_until(due(prediction.tokens_in(work.pieces + 1))).await;
        work.pieces += 1;
        work.first.get_or_insert_with(Instant::now);
        prediction.move_to(Stage::Processing(work));
    }
    sleep_until(end).await;
    outcome
}

/// Writes the line of a run that has ended, if it is charged.
fn charge(service: &Service, prediction: &Prediction, end: &End) {
    let completed = match end.outcome {
        Outcome::Failed(failure) if failure.is_the_platforms() => return,
        Outcome::Aborted => return,
        Outcome::Succeeded => true,
        Outcome::Failed(_) | Outcome::Canceled => false,
    };
    let (run, model) = (Some(prediction.id.clone()), &prediction.model.settings);
    match service.config.replicate.billing {
        ReplicateBilling::PredictTime | ReplicateBilling::Standing => {
            let price = model.price_per_second_nanos;
            service.book.charge(run, &model.sku, BillKind::Run, price, end.predict_micros(), completed);
        }
        ReplicateBilling::Tokens => {
            let written = end.work.map_or(0, |work| prediction.tokens_in(work.pieces));
            if !completed && (written == 0 || end.outcome != Outcome::Canceled) {
                return;
            }
            let read = prediction.answer.prompt_tokens;
            // A price for a million tokens is reckoned as one for a million microseconds: rounded up, each for itself.
            let amount = amount_for(model.price_per_million_input_tokens_nanos, u64::from(read))
                + amount_for(model.price_per_million_output_tokens_nanos, u64::from(written));
            service.book.charge_amount(BillLine {
                run,
                sku: model.sku.clone(),
                kind: BillKind::Run,
                billed_micros: end.predict_micros(),
                amount_nanos: amount,
                completed,
            });
        }
    }
}
