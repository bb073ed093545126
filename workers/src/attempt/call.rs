//! The call to the provider: made, gone on with where an earlier worker was lost, dropped, and priced.

use std::time::Duration;

use schemas::{
    Micros, UsdNanos,
    cost::Bill,
    failure::{Failure, FailureClass},
    job::{Input, JobInput},
    journal::{Entry, Trace},
};
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::{
    Attempt,
    course::{Answer, Effect, Event, News},
};
use crate::{
    booking, metrics,
    notebook::Notebook,
    provider::{Call, Ended, Progress as _, Trail, UsedItem},
};

/// How long looking for a run of an earlier worker may take.
const FIND_MAX: Duration = Duration::from_secs(30);

/// The moment a call began, by both clocks.
#[derive(Clone, Copy)]
struct Began {
    at: Micros,
    instant: Instant,
}

impl Attempt {
    /// Calls the provider until it answers, or until the course has the call dropped.
    pub(super) async fn call(&self, left: Option<Box<Entry>>) -> Event {
        let began = Began { at: self.kit.clock.now().wall, instant: Instant::now() };
        let (call, notebook) = (Box::new(self.request()), Notebook::new(self, self.job()));
        let mut running = Box::pin(self.provider(&call, left, &notebook));
        let (job, stored_at) = (self.job(), self.keeper.lease().stored_at);
        // What stays true is told once: a run that is being stopped goes on for a while.
        let (mut lost, mut stops, mut told) = (false, false, false);
        loop {
            let news = tokio::select! {
                biased;
                ended = &mut running => {
                    notebook.close();
                    return Event::Ended(Box::new(self.answer(ended, began)));
                }
                () = self.keeper.lost(), if !lost => {
                    lost = true;
                    vec![News::LeaseLost]
                }
                () = self.kit.stop.cancelled(), if !stops => {
                    stops = true;
                    vec![News::WorkerStops]
                }
                () = self.ears.told() => self.ears.take(),
                order = self.kit.cancels.taken_back(job, stored_at), if !told => {
                    told = true;
                    vec![News::TakenBack(order.failure())]
                }
            };
            let heard = news.into_iter().flat_map(|news| self.apply(Event::News(news)));
            for effect in heard.collect::<Vec<_>>() {
                match effect {
                    Effect::DropCall => {
                        drop(running);
                        return self.reckoned(notebook.slots(), began);
                    }
                    Effect::StopRun(failure) => notebook.stop_run(failure),
                    other => debug!(?other, "not about the call"),
                }
            }
        }
    }

    fn request(&self) -> Call {
        let job = self.job();
        let input = match (&job.input, self.input.get()) {
            (_, Some(fetched)) => fetched.clone(),
            (JobInput::Here(input), None) => input.clone(),
            // The course calls only after the input was fetched.
            (JobInput::Stored(_), None) => Input::Prompt(String::new()),
        };
        Call {
            job: job.id,
            attempt: self.number(),
            key: self.course().key(),
            model: self.model.served_as.clone(),
            sku: self.model.sku.clone(),
            tenant: job.subject.tenant.clone(),
            input,
            params: job.params.clone(),
            timeout: self.kit.config.call_timeout,
            traceparent: job.traceparent.clone(),
            live: job.live,
        }
    }

    async fn provider(&self, call: &Call, left: Option<Box<Entry>>, notebook: &Notebook<'_>) -> Ended {
        match left {
            Some(entry) => Box::pin(self.go_on(call, &entry, notebook)).await,
            None => self.kit.config.provider.run(call, notebook).await,
        }
    }

    /// Goes on where an earlier worker was lost.
    async fn go_on(&self, call: &Call, entry: &Entry, notebook: &Notebook<'_>) -> Ended {
        let provider = &self.kit.config.provider;
        let age = self.kit.clock.now().wall.since(entry.started_us);
        let run = match &entry.trace {
            Trace::Running { run, .. } => run.clone(),
            Trace::Started { .. } | Trace::Failed { .. } => {
                match timeout(FIND_MAX, provider.find(call, age)).await.unwrap_or(Trail::Lost) {
                    Trail::Run(run) => {
                        info!(job = %call.job, run, "found the run that an earlier worker had started");
                        notebook.started(&run).await;
                        run
                    }
                    Trail::Clean => return provider.run(call, notebook).await,
                    Trail::Lost => {
                        return self.possibly_wasted(call, "nobody can tell what became of the call");
                    }
                }
            }
        };
        debug!(job = %call.job, run, ?age, "going on with a run of an earlier attempt");
        match provider.reattach(call, &run, age, notebook).await {
            Some(ended) => ended,
            None => self.possibly_wasted(call, "its run is unknown to the provider by now"),
        }
    }

    /// The worker was lost, and so is what its call gave; that may have been billed.
    fn possibly_wasted(&self, call: &Call, why: &str) -> Ended {
        warn!(job = %call.job, attempt = call.attempt, why, "a call of a lost worker is booked as possibly wasted");
        metrics::possibly_wasted();
        let failure = Failure::new(FailureClass::WorkerLost, format!("the worker was lost: {why}"));
        let used = self.kit.config.expect(&self.model, self.kit.clock.now().wall);
        Ended { used, estimated: true, ..Ended::unbilled(failure) }
    }

    /// What a call came to, with its bill.
    fn answer(&self, ended: Ended, began: Began) -> Answer {
        let took = began.instant.elapsed();
        self.count(ended.outcome.as_ref().err().map(|failure| failure.class), took);
        let bill = self.bill(&ended.used, ended.estimated, began.at);
        let Ended { outcome, cold_start, first_token, .. } = ended;
        Answer { outcome, bill, took, cold_start, first_token }
    }

    /// A call that was dropped; what it used is our own reckoning, unless it was the slots of rented machines.
    fn reckoned(&self, slots: Vec<UsedItem>, began: Began) -> Event {
        let (config, took) = (&self.kit.config, began.instant.elapsed());
        let (used, estimated) = if config.machines.is_some() {
            (slots, false)
        } else {
            let sku = &self.model.sku;
            (booking::reckon(&config.prices, &config.price_name, sku, took, began.at), true)
        };
        Event::Dropped { bill: self.bill(&used, estimated, began.at), took }
    }

    /// By the prices in force when the call began: those it was chosen by.
    fn bill(&self, used: &[UsedItem], estimated: bool, began: Micros) -> Bill {
        let config = &self.kit.config;
        let priced = booking::bill(&config.prices, &config.price_name, used, began);
        let (lines, amount_usd) = priced.unwrap_or_else(|error| {
            // The SKUs of the configuration were checked at start; a provider reported another one.
            error!(pool = %config.pool, %error, "usage without a price; booked as nothing, correct the price book");
            (Vec::new(), UsdNanos::ZERO)
        });
        Bill { lines, amount_usd, estimated, price_book: config.prices.version.clone() }
    }
}
