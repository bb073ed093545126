//! The task that runs a backfill: keeps jobs out, takes results in, writes down how far it is.
//!
//! Lines are read ahead into a window ([`order`]) and sent group by group. What was read and not sent counts as not submitted: the
//! checkpoint's `submitted` stays before the first such line, and all of them are within what is reserved. So after a crash, lines
//! behind it may have been sent, in whatever order, and are looked for like all that are uncertain.
//!
//! Files are written on the task's own thread: a checkpoint a second is some milliseconds, and nothing may pass it.

mod again;
mod doubts;
mod lost;
mod order;
mod reserved;
mod snapshot;
mod uncertain;
mod unread;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use schemas::{
    JobId, Micros, Tenant, UsdNanos,
    cancel::{Filter, Target},
    reply::JobResult,
    time::Clock as _,
};
use serde::Serialize;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep},
};
use tokio_util::sync::CancellationToken;
use transport::{PublishError, SystemClock};

use super::{
    BACKFILL, BackfillError, Control, Folder, LINE, Options, Quote, input::Input, mailbox_of, output, quote,
    survey::survey,
};
use crate::{
    JobRequest, Producer, SubmitError,
    lines::{Defaults, Line, parse_line},
    nats::{self, Arrived, Kind, Unread},
};

/// How often how far it is is written down, and told.
const KEEP_EVERY: Duration = Duration::from_secs(1);
/// Results taken in between two such times at most: what a crash makes us read again.
const KEEP_AFTER: u64 = 50_000;
/// Jobs out while nobody knows what one may cost, and there is a limit to keep.
const UNPRICED: u64 = 4;
/// Lines read before the next look at everything else.
const BURST: u32 = 1_024;
/// Results that may wait to be written; then the reading waits.
const RESULTS_AHEAD: usize = 4_096;
/// How often is looked whether `REPLIES` has dropped results that are not in the output, or holds some that do not read.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Every line is in the output.
    Finished,
    /// It was told to stop; running it again goes on.
    Stopped,
    /// The next job could have cost more than is left of the limit.
    CostLimit,
    /// It was taken back.
    Cancelled,
}

/// How far it is.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Snapshot {
    /// Lines that are jobs.
    pub jobs: u64,
    /// Of them, those that succeeded.
    pub succeeded: u64,
    /// Jobs that ended otherwise, and lines that are no jobs.
    pub failed: u64,
    /// Jobs that are out.
    pub running: u64,
    /// What those that ended cost.
    pub spent_usd: UsdNanos,
    /// What the others will, at what one cost so far.
    pub to_go_usd: Option<UsdNanos>,
    /// How long they will take, at the pace so far.
    pub to_go_s: Option<u64>,
    /// What was asked of it last.
    pub asked: Control,
}

/// A backfill, opened.
pub struct Backfill {
    options: Options,
    folder: Folder,
    input: Input,
    doubles: BTreeSet<u64>,
    /// Lines that were read and not sent: each waits for its turn.
    window: order::Window,
    /// Lines that were sent and not acknowledged.
    unacknowledged: BTreeSet<u64>,
    /// Text of lines that are out, and whether they ask for a chat; those of an earlier run are read again.
    texts: HashMap<u64, (String, bool)>,
    /// Jobs that are out.
    running: u64,
    /// Jobs an earlier run may have submitted: looked for before a line is sent.
    known: HashSet<JobId>,
    /// Reservations that are not all acknowledged.
    reservations: reserved::Reservations,
    quote: Quote,
    asked: Control,
    /// Up to which sequence of `REPLIES` results were taken in.
    taken: u64,
    since_kept: u64,
    began: Option<(Instant, u64)>,
    /// What `LEDGER` says that all attempts have cost, those of jobs that have not ended included; read while there is a limit.
    ledger_usd: UsdNanos,
    /// Lines that will never have a result.
    lost: Vec<u64>,
    /// When they are looked for.
    doubts: doubts::Doubts,
    /// Results that do not read.
    unreads: unread::Unreads,
}

/// A line, how often it was sent, and what came of the last time.
type Sent = (u64, Box<JobRequest>, u32, Result<(), SubmitError>);

/// The next thing to do with the file.
enum Next {
    /// This line is to be sent.
    Send(u64, Box<JobRequest>),
    /// Nothing is to be sent by this step.
    Settled,
    /// Lines wait for the first of their groups to end.
    Wait,
    /// There is none.
    End,
}

impl Backfill {
    /// Opens the state folder, and reads the file once when that was not done before.
    pub fn open(options: Options) -> Result<Self, BackfillError> {
        let folder = Folder::open(&options, SystemClock.now(), |file, index| {
            survey(file, index, &defaults(&options))
        })?;
        let checkpoint = &folder.checkpoint;
        let running = checkpoint.submitted - folder.done_up_to(checkpoint.submitted);
        let input = Input::open(options.file.clone(), folder.index(), checkpoint.submitted)?;
        let reservations = reserved::Reservations::of_run(checkpoint);
        Ok(Self {
            doubles: folder.manifest.survey.doubles.iter().copied().collect(),
            window: order::Window::default(),
            unacknowledged: BTreeSet::new(),
            texts: HashMap::new(),
            running,
            known: HashSet::new(),
            reservations,
            quote: Quote::default(),
            asked: Control::Run,
            taken: checkpoint.replies_seq,
            since_kept: 0,
            began: None,
            ledger_usd: UsdNanos::ZERO,
            lost: Vec::new(),
            doubts: doubts::Doubts::of_run(running > 0),
            unreads: unread::Unreads::default(),
            options,
            folder,
            input,
        })
    }

    /// What the file holds and how far it is.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// Lines whose jobs have ended and whose results are not kept any more, as far as this run found out.
    pub fn lost(&self) -> &[u64] {
        &self.lost
    }

    /// What was spent: on jobs that have ended by their results, on all by the ledger; one of the two may be behind.
    fn spent(&self) -> UsdNanos {
        self.folder.checkpoint.spent_usd.max(self.ledger_usd)
    }

    /// Runs until everything has ended, or until `shutdown`. The producer must be of the backfill's tenant. `tell` hears how
    /// far it is, each second.
    pub async fn run(
        &mut self,
        producer: &Producer,
        shutdown: &CancellationToken,
        tell: &mut (dyn FnMut(&Snapshot) + Send),
    ) -> Result<Ending, BackfillError> {
        let checkpoint = &self.folder.checkpoint;
        self.began = Some((Instant::now(), checkpoint.succeeded + checkpoint.failed));
        if checkpoint.finished {
            return Ok(if checkpoint.cancelled { Ending::Cancelled } else { Ending::Finished });
        }
        if self.options.max_cost.is_some() {
            self.quote = quote(producer, self.options.listen).await?;
        }
        self.begin_with(producer).await?;
        self.look_for_uncertain(producer).await?;
        let (out, arrived) = mpsc::channel(RESULTS_AHEAD);
        let mut reading = JoinSet::new();
        let (client, tenant) = (producer.client().clone(), self.options.tenant.clone());
        let (mailbox, after) = (self.options.mailbox(), self.folder.checkpoint.replies_seq);
        if self.options.max_cost.is_some() {
            let (client, tenant, mailbox, out) =
                (client.clone(), tenant.clone(), mailbox.clone(), out.clone());
            reading.spawn(async move {
                nats::stored_after(&client, (Kind::Costs, &tenant, &mailbox), 0, out).await
            });
        }
        reading.spawn(async move {
            nats::stored_after(&client, (Kind::Results, &tenant, &mailbox), after, out).await
        });
        let ending = self.work(producer, arrived, &mut reading, shutdown, tell).await?;
        self.folder.checkpoint.finished = matches!(ending, Ending::Finished | Ending::Cancelled);
        self.folder.checkpoint.cancelled = ending == Ending::Cancelled;
        self.keep()?;
        tell(&self.snapshot());
        Ok(ending)
    }

    async fn work(
        &mut self,
        producer: &Producer,
        mut arrived: mpsc::Receiver<Arrived>,
        reading: &mut JoinSet<Result<(), nats::MailboxError>>,
        shutdown: &CancellationToken,
        tell: &mut (dyn FnMut(&Snapshot) + Send),
    ) -> Result<Ending, BackfillError> {
        let mut sending: FuturesUnordered<BoxFuture<'_, Sent>> = FuturesUnordered::new();
        let mut tick = interval(KEEP_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // What has ended already must be known before anything is sent.
        let mut to_catch_up = 1 + u32::from(self.options.max_cost.is_some());
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let caught_up = to_catch_up == 0;
            let (mut limited, mut end, mut waits, mut read) = (false, false, false, 0);
            let most = self.options.outstanding as u64;
            while caught_up
                && !end
                && !waits
                && self.asked == Control::Run
                && self.running < most
                && read < BURST
            {
                read += 1;
                if !self.may_spend() {
                    limited = true;
                    break;
                }
                match self.next(SystemClock.now())? {
                    Next::Send(line, request) => {
                        sending.push(send(producer, (line, request, 0), Duration::ZERO));
                    }
                    Next::Settled => {}
                    Next::Wait => waits = true,
                    Next::End => end = true,
                }
            }
            if sending.is_empty() && self.running == 0 && caught_up {
                match self.asked {
                    Control::Run if limited => return Ok(Ending::CostLimit),
                    Control::Run if end => return Ok(Ending::Finished),
                    Control::Cancel => return Ok(Ending::Cancelled),
                    Control::Run | Control::Pause => {}
                }
            }
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(Ending::Stopped),
                _ = tick.tick() => {
                    self.obey(producer).await?;
                    self.keep()?;
                    tell(&self.snapshot());
                }
                // Not before all lines are read that may be out: an earlier run's are found by reading them.
                _ = look.tick(), if caught_up && arrived.is_empty() && read < BURST => {
                    self.end_unread(producer).await?;
                    self.look_for_lost(producer).await?;
                }
                Some(news) = arrived.recv() => {
                    let mut next = Some(news);
                    while let Some(news) = next {
                        match news {
                            Arrived::Result { seq, result } => self.take(seq, &result)?,
                            Arrived::Unread(unread) => self.take_unread(unread),
                            Arrived::Cost(cost) => {
                                let sum = self.ledger_usd.checked_add(cost.amount_usd);
                                self.ledger_usd = sum.unwrap_or(UsdNanos::new(u64::MAX));
                            }
                            Arrived::CaughtUp => to_catch_up -= 1,
                        }
                        next = arrived.try_recv().ok();
                    }
                }
                Some((line, request, tries, outcome)) = sending.next() => match outcome {
                    Ok(()) => drop(self.unacknowledged.remove(&line)),
                    // No line of the file can change that.
                    Err(SubmitError::Publish(error @ PublishError::NotPermitted(_))) => return Err(error.into()),
                    Err(error) => match again::again(&error, tries) {
                        Some(pause) => sending.push(send(producer, (line, request, tries), pause)),
                        None => self.refused(line, &error.to_string())?,
                    },
                },
                Some(ended) = reading.join_next() => {
                    // It goes on until the run ends, so without it the run would wait for ever.
                    ended.map_err(BackfillError::Reading)??;
                    return Err(BackfillError::ReadingEnded);
                }
                // Lines that needed nothing to be sent: go on reading.
                () = tokio::task::yield_now(), if read == BURST => {}
            }
            if self.since_kept >= KEEP_AFTER {
                self.keep()?;
            }
        }
    }

    /// Whether one more job may go out under the limit.
    fn may_spend(&self) -> bool {
        let Some(max) = self.options.max_cost else { return true };
        let checkpoint = &self.folder.checkpoint;
        let dearest = self.quote.dearest().unwrap_or_default().max(checkpoint.dearest_usd);
        if dearest == UsdNanos::ZERO {
            return self.running < UNPRICED && self.spent() < max;
        }
        let at_stake = u128::from(dearest.get()) * u128::from(self.running + 1);
        u128::from(self.spent().get()) + at_stake <= u128::from(max.get())
    }

    /// Goes one step on: reads a line of the file while the window has room, else sends one that it holds.
    fn next(&mut self, now: Micros) -> Result<Next, BackfillError> {
        if !self.window.is_full() && self.read(now)? {
            return Ok(Next::Settled);
        }
        match self.window.next(Instant::now()) {
            Some((number, place)) => self.ready(number, place),
            None if self.window.is_empty() => Ok(Next::End),
            None => Ok(Next::Wait),
        }
    }

    /// Reads a line into the window, or settles it where it needs nothing to be sent; false at the end of the file.
    fn read(&mut self, now: Micros) -> Result<bool, BackfillError> {
        if self.input.number + 1 > self.folder.checkpoint.reserved {
            self.reserve(now)?;
        }
        let Some((number, place, text)) = self.input.next()? else { return Ok(false) };
        match self.look_at(number, &text)? {
            Some(line) => self.window.hold(number, place, order::beginning(&line)),
            None => self.window.skip(number),
        }
        Ok(true)
    }

    /// A line that was read: what is to be sent of it, if anything.
    fn look_at(&mut self, number: u64, text: &str) -> Result<Option<Line>, BackfillError> {
        if text.is_empty() {
            self.folder.blank(number)?;
        }
        if self.folder.is_done(number) {
            return Ok(None);
        }
        let line = if self.doubles.contains(&number) {
            Err("custom_id: stands in an earlier line, too".to_owned())
        } else {
            // What breaks a rule of every job is found when it is submitted.
            parse_line(text, number, &defaults(&self.options))
        };
        match line {
            Ok(line) if self.known.contains(&self.options.job(&line.custom_id)) => {
                self.running += 1;
                self.doubts.add(number);
                Ok(None)
            }
            Ok(line) => Ok(Some(line)),
            Err(rule) => {
                let why = output::bad_line(&self.options.file.display().to_string(), number, &rule);
                self.folder.failed(number, &output::error(text, number, &why))?;
                Ok(None)
            }
        }
    }

    /// The turn of a line that was held has come: it is read again, since only its place was kept.
    fn ready(&mut self, number: u64, place: u64) -> Result<Next, BackfillError> {
        if self.folder.is_done(number) {
            self.window.ended(number);
            return Ok(Next::Settled);
        }
        let text = self.input.line_at(place)?;
        let Ok(line) = parse_line(&text, number, &defaults(&self.options)) else {
            // It was a job when it was read into the window.
            return Err(BackfillError::Changed(self.options.file.clone()));
        };
        self.running += 1;
        let (chat, job) = (line.chat, self.options.job(&line.custom_id));
        self.texts.insert(number, (text, chat));
        self.unacknowledged.insert(number);
        Ok(Next::Send(number, Box::new(self.request(number, line, job))))
    }

    fn request(&self, number: u64, line: Line, job: JobId) -> JobRequest {
        let mut request = line.request(job, self.options.region.clone(), self.options.lane);
        request.body.mailbox = Some(self.options.mailbox().to_string());
        request.body.labels.insert(BACKFILL.to_owned(), self.options.name.clone());
        request.body.labels.insert(LINE.to_owned(), number.to_string());
        request
    }

    fn keep(&mut self) -> Result<(), BackfillError> {
        let open = self.unacknowledged.first().copied().into_iter().chain(self.window.first()).min();
        let submitted = open.map_or(self.input.number, |first| first - 1);
        let checkpoint = &mut self.folder.checkpoint;
        checkpoint.submitted = submitted;
        if let Some(at) = self.reservations.acknowledged(submitted) {
            checkpoint.reserved_at_us = at;
        }
        checkpoint.replies_seq = self.unreads.first_seq().map_or(self.taken, |seq| self.taken.min(seq - 1));
        self.since_kept = 0;
        self.folder.keep()
    }

    /// Takes note of a stored result that does not read.
    fn take_unread(&mut self, unread: Unread) {
        self.taken = unread.seq;
        if let Some(job) = unread.job {
            self.unreads.add(job, unread, Instant::now());
        }
    }

    /// Takes a stored result in.
    fn take(&mut self, seq: u64, result: &JobResult) -> Result<(), BackfillError> {
        self.since_kept += 1;
        self.taken = seq;
        let line = result.labels.get(LINE).and_then(|text| text.parse::<u64>().ok());
        let Some(line) = line.filter(|line| (1..=self.folder.manifest.survey.lines).contains(line)) else {
            return Ok(());
        };
        if self.folder.is_done(line) {
            return Ok(());
        }
        self.write(line, result)?;
        self.window.ended(line);
        // One that is held was not sent by this run, and never will be.
        if line <= self.input.number && !self.window.holds(line) {
            self.running = self.running.saturating_sub(1);
        }
        let checkpoint = &mut self.folder.checkpoint;
        let cost = result.cost_usd;
        checkpoint.spent_usd = checkpoint.spent_usd.checked_add(cost).unwrap_or(UsdNanos::new(u64::MAX));
        checkpoint.dearest_usd = checkpoint.dearest_usd.max(cost);
        Ok(())
    }

    fn write(&mut self, line: u64, result: &JobResult) -> Result<(), BackfillError> {
        let (text, chat) = if let Some(found) = self.texts.remove(&line) {
            found
        } else {
            let text = self.input.line(line)?;
            let chat = parse_line(&text, line, &defaults(&self.options)).is_ok_and(|line| line.chat);
            (text, chat)
        };
        if let (true, None, Some(gone)) = (output::is_good(result), &result.output, &result.output_ref) {
            let why = output::lost_output(result, gone);
            self.folder.failed(line, &output::error(&text, line, &why))
        } else if output::is_good(result) {
            self.folder.succeeded(line, &output::result(result, chat))
        } else {
            self.folder.failed(line, &output::error(&text, line, &output::bad_job(result)))
        }
    }

    /// A line that no stream takes: it is told like one that failed.
    fn refused(&mut self, line: u64, why: &str) -> Result<(), BackfillError> {
        self.unacknowledged.remove(&line);
        self.window.ended(line);
        self.running = self.running.saturating_sub(1);
        let text = self.texts.remove(&line).map(|(text, _)| text).unwrap_or_default();
        let why = output::bad_line(&self.options.file.display().to_string(), line, why);
        self.folder.failed(line, &output::error(&text, line, &why))
    }

    /// Does what another terminal asks for.
    async fn obey(&mut self, producer: &Producer) -> Result<(), BackfillError> {
        let asked = self.folder.asked();
        if asked == Control::Cancel && self.asked != Control::Cancel {
            cancel(producer, &self.options.tenant, &self.options.name).await?;
        }
        self.asked = asked;
        Ok(())
    }
}

/// Takes back every job of a backfill that is out.
pub async fn cancel(producer: &Producer, tenant: &Tenant, name: &str) -> Result<(), BackfillError> {
    let filter = Filter {
        tenant: Some(tenant.clone()),
        mailbox: Some(mailbox_of(tenant, name)),
        labels: [(BACKFILL.to_owned(), name.to_owned())].into(),
        ..Filter::default()
    };
    producer.cancel(Target::Matching(filter), "its backfill was cancelled").await?;
    Ok(())
}

fn defaults(options: &Options) -> Defaults<'_> {
    Defaults { catalog: &options.catalog, regions: &options.regions, model: options.model.clone() }
}

/// Sends a line, that was sent so many times before, after a while.
fn send(
    producer: &Producer,
    (line, request, tries): (u64, Box<JobRequest>, u32),
    after: Duration,
) -> BoxFuture<'_, Sent> {
    Box::pin(async move {
        if !after.is_zero() {
            sleep(after).await;
        }
        let outcome = producer.submit(&request).await.map(drop);
        (line, request, tries.saturating_add(1), outcome)
    })
}
