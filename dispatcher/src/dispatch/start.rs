//! How a dispatcher starts: connections, the map of streams, subscriptions, the tasks beside the loop.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use futures_util::stream::SelectAll;
use rand::{SeedableRng, rngs::StdRng};
use schemas::{Lane, subjects, time::Clock as _, topology::JOURNAL_BUCKET};
use tokio::{task::JoinSet, time::Instant};
use transport::{
    LinkError, PublishError, SystemClock,
    api::ApiError,
    bucket::Bucket,
    role::{Links, Publishes, RoleError},
    topology::TopologyError,
};

use super::Dispatcher;
use crate::{
    banker::Banker, config::DispatcherConfig, demand::Teller, feed::Feed, jobs::Jobs, look_up::LookUp, nats,
    recurring::Recurrer, trim::Trimmer,
};

/// Why a dispatcher could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No connection.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// Publisher, acks or cancellations did not start.
    #[error(transparent)]
    Role(#[from] RoleError),
    /// The server does not agree with the map.
    #[error(transparent)]
    Topology(#[from] TopologyError),
    /// The server did not answer.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// No subscription.
    #[error("cannot subscribe")]
    Subscribe(#[from] async_nats::SubscribeError),
    /// No publisher.
    #[error(transparent)]
    Publish(#[from] PublishError),
}

impl Dispatcher {
    /// Connects, makes the server agree with the map, and subscribes.
    pub async fn connect(config: DispatcherConfig) -> Result<Self, StartError> {
        let config = Arc::new(config);
        let links = Links::connect(&config.link, &format!("dispatcher-{}", config.id)).await?;
        let born = nats::repaired(&links.bulk.client, &config).await?;
        let mut role = links.start(Publishes::OnControl).await?;
        let (client, control) = (role.bulk.client.clone(), role.control.client.clone());
        let (inbox, accept) = (client.new_inbox(), client.new_inbox());
        let deliveries = client.subscribe(format!("{inbox}.*.*")).await?;
        let answers = client.subscribe(accept.clone()).await?;
        let beats = client.subscribe(subjects::HEARTBEATS).await?;
        let deletions = control.subscribe(subjects::STREAM_DELETED).await?;
        let (mut returns, mut questions) = (SelectAll::new(), SelectAll::new());
        for region in &config.regions {
            questions.push(control.subscribe(subjects::why(region)).await?);
            let (subject, group) = (subjects::returns(region), subjects::dispatch_group(region));
            returns.push(client.queue_subscribe(subject, group).await?);
        }
        let feeds = feeds(&config, &client).await?;
        let trimmer = Trimmer::new(config.clone(), control.clone(), role.publisher.clone());
        role.spawn(|stop| trimmer.run(stop));
        let recurrer = Recurrer::new(config.clone(), control.clone(), role.publisher.clone());
        role.spawn(|stop| recurrer.run(stop));
        let journals = Bucket::new(control.clone(), role.publisher.clone(), JOURNAL_BUCKET);
        let cancels = role.cancels.clone();
        let taken_back =
            Box::new(move |head: &_, stored_at| cancels.of(head, stored_at).map(|order| order.failure()));
        let rng = StdRng::seed_from_u64(SystemClock.now().get());
        Ok(Self {
            jobs: Jobs::new(config.clone(), accept.clone(), feeds, taken_back, rng),
            look_up: LookUp { client: control.clone(), publisher: role.publisher.clone(), journals },
            banker: Banker::new(control),
            effects: Vec::new(),
            tasks: JoinSet::new(),
            endings: VecDeque::new(),
            ending: 0,
            broken: HashSet::new(),
            look_ups: VecDeque::new(),
            lost: VecDeque::new(),
            booking: 0,
            looking_up: 0,
            born,
            repair_at: None,
            repairing: false,
            checked_at: Instant::now(),
            asked_at: Instant::now(),
            teller: Teller::new(SystemClock.now()),
            asking: false,
            demands: Vec::new(),
            config,
            role,
            inbox,
            accept,
            deliveries,
            drained: false,
            answers,
            beats,
            returns,
            questions,
            deletions,
        })
    }
}

/// The consumers to read, those of one (region, model) together.
async fn feeds(config: &DispatcherConfig, client: &async_nats::Client) -> Result<Vec<Feed>, ApiError> {
    let mut feeds = Vec::new();
    for region in &config.regions {
        for model in config.topology.catalog.tokens() {
            feeds.extend(Lane::ALL.map(|lane| Feed::new(region.clone(), model.clone(), lane)));
        }
    }
    for feed in &mut feeds {
        nats::read_recreated(client, feed).await?;
    }
    Ok(feeds)
}
