//! The task that talks to the brokers.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::FutureExt;
use rdkafka::{
    ClientContext, Message as _, Offset, Statistics, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, ConsumerContext, StreamConsumer},
    error::KafkaError,
    message::Headers,
    types::{RDKafkaErrorCode, RDKafkaRespErr},
};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::Instant,
};

use crate::{
    Budget,
    budget::Held,
    kafka::{
        config::{KafkaConfig, Transactions},
        error::KafkaSourceError,
        order::TRANSACTION_TOPIC,
        place::Place,
        record::Record,
    },
};

/// Messages that are passed on together, at most; and their bytes.
const CHUNK_ROWS: usize = 2048;
const CHUNK_BYTES: usize = 1 << 20;
/// How often the client's own events are looked at while no messages come.
const TICK: Duration = Duration::from_secs(1);
/// How long a question to the brokers may take.
const ANSWER: Duration = Duration::from_secs(5);

/// What the task has to say.
#[derive(Debug)]
pub(crate) enum News {
    Records(Vec<Record>, Held),
    /// Topics that are read from now on, of which these tell of transactions.
    Topics(BTreeSet<Arc<str>>),
    /// Partitions that somebody else of the group reads now.
    Revoked(Vec<(String, i32)>),
    /// What is to be read next is not there any more, or cannot be found.
    Gone(KafkaSourceError),
}

/// Why nothing comes.
#[derive(Debug, Clone)]
pub(crate) struct Down {
    pub(crate) error: KafkaSourceError,
    pub(crate) since: Instant,
}

/// What the task and the source both know.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// What was handed out.
    pub(crate) place: Mutex<Place>,
    /// Messages the brokers have and the client has not handed out.
    pub(crate) behind: Mutex<Option<u64>>,
    /// Why nothing comes, while that is known. No news: without its brokers the client says so many times
    /// a second, and a source that waits between its tries would be behind with hearing it for minutes.
    pub(crate) down: watch::Sender<Option<Down>>,
    revoked: Mutex<Vec<(String, i32)>>,
    /// Why the brokers do not let the client in, as it last said; until they do, as it says so once and
    /// then only that there are none.
    refused: Mutex<Option<String>>,
}

impl Shared {
    pub(crate) fn came_up(&self) {
        *lock(&self.refused) = None;
        self.down.send_if_modified(|down| down.take().is_some());
    }

    pub(crate) fn went_down(&self, error: KafkaSourceError) {
        self.down.send_modify(|down| {
            let since = down.take().map_or_else(Instant::now, |before| before.since);
            *down = Some(Down { error, since });
        });
    }

    /// What an error is that only says that there is no connection.
    fn unreachable(&self, source: KafkaError) -> KafkaSourceError {
        match lock(&self.refused).clone() {
            Some(reason) => KafkaSourceError::Refused { reason },
            None => KafkaSourceError::Client { doing: "reach the brokers", source },
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the client's questions.
#[derive(Debug)]
pub(crate) struct Context(Arc<Shared>);

impl ClientContext for Context {
    fn stats(&self, statistics: Statistics) {
        let mut behind = 0;
        for topic in statistics.topics.values() {
            for partition in topic.partitions.values() {
                if partition.partition >= 0 && partition.next_offset >= 0 {
                    let missing = partition.ls_offset.max(0) - partition.next_offset;
                    behind += u64::try_from(missing).unwrap_or(0);
                    behind += u64::try_from(partition.fetchq_cnt).unwrap_or(0);
                }
            }
        }
        *lock(&self.0.behind) = Some(behind);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        let code = error.rdkafka_error_code();
        if let Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SSL) = code {
            *lock(&self.0.refused) = Some(reason.to_owned());
        }
        tracing::debug!(%error, reason, "the client says");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let done = if event == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            let place = lock(&self.0.place);
            let mut from = TopicPartitionList::new();
            for partition in partitions.elements() {
                let next = place.next(partition.topic(), partition.partition());
                add(&mut from, partition.topic(), partition.partition(), next)
                    .unwrap_or_else(|error| tracing::error!(%error, "cannot go on where it ended"));
            }
            consumer.assign(&from)
        } else {
            let partitions = partitions.elements();
            let partitions = partitions.iter().map(|p| (p.topic().to_owned(), p.partition()));
            lock(&self.0.revoked).extend(partitions);
            consumer.unassign()
        };
        if let Err(error) = done {
            tracing::error!(%error, "could not take part in the group");
        }
    }
}

fn add(
    list: &mut TopicPartitionList,
    topic: &str,
    partition: i32,
    next: Option<i64>,
) -> Result<(), KafkaError> {
    let offset = next.map_or(Offset::Beginning, Offset::Offset);
    list.add_partition_offset(topic, partition, offset)
}

/// The client, which others use too.
///
/// Its end may take as long as a broker does not answer, and nobody needs to wait for it: it has a
/// thread of its own.
pub(crate) struct Client {
    consumer: Arc<StreamConsumer<Context>>,
    /// Dropped after the consumer.
    closing: Option<std::sync::mpsc::Sender<()>>,
}

impl std::ops::Deref for Client {
    type Target = StreamConsumer<Context>;

    fn deref(&self) -> &Self::Target {
        &self.consumer
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        let (closing, closed) = std::sync::mpsc::channel();
        let consumer = Arc::clone(&self.consumer);
        let close = move || {
            // Until this is the last one that has it.
            let _ = closed.recv();
            drop(consumer);
        };
        let thread = std::thread::Builder::new().name("kafka-close".to_owned());
        if thread.spawn(close).is_ok() {
            self.closing = Some(closing);
        }
    }
}

/// Makes a client; it talks to nobody yet.
pub(crate) fn client(
    config: &KafkaConfig,
    source: &str,
    shared: &Arc<Shared>,
) -> Result<Arc<Client>, KafkaSourceError> {
    let settings = config.client(source)?;
    let consumer = settings
        .create_with_context(Context(Arc::clone(shared)))
        .map_err(|source| KafkaSourceError::Client { doing: "set up the client", source })?;
    Ok(Arc::new(Client { consumer: Arc::new(consumer), closing: None }))
}

/// Reads until nobody listens any more, or until what is to be read is gone.
pub(crate) struct Reader {
    pub(crate) client: Arc<Client>,
    pub(crate) config: KafkaConfig,
    pub(crate) shared: Arc<Shared>,
    pub(crate) budget: Budget,
    pub(crate) news: mpsc::Sender<News>,
    pub(crate) topics: HashMap<String, Arc<str>>,
    pub(crate) assigned: BTreeSet<(String, i32)>,
}

impl Reader {
    pub(crate) async fn run(mut self) {
        let mut questions = JoinSet::new();
        let mut look_at = Instant::now();
        loop {
            if questions.is_empty() && Instant::now() >= look_at {
                let (client, shared) = (Arc::clone(&self.client), Arc::clone(&self.shared));
                questions.spawn_blocking(move || {
                    partitions(&client).map_err(|error| shared.unreachable(error))
                });
                look_at = Instant::now() + Duration::from_secs(self.config.discovery_s.max(1));
            }
            let client = Arc::clone(&self.client);
            let done = tokio::select! {
                biased;
                () = self.news.closed() => return,
                Some(found) = questions.join_next() => match found {
                    Ok(Ok(found)) => {
                        self.shared.came_up();
                        self.assign(&found).await
                    }
                    Ok(Err(error)) => {
                        look_at = Instant::now() + TICK;
                        self.shared.went_down(error);
                        Ok(())
                    }
                    Err(_) => Err(()),
                },
                message = client.recv() => match message {
                    Ok(message) => {
                        let mut records = vec![self.record(&message)];
                        let mut bytes = records[0].size();
                        let mut failed = None;
                        while records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
                            match client.recv().now_or_never() {
                                Some(Ok(message)) => {
                                    let record = self.record(&message);
                                    bytes += record.size();
                                    records.push(record);
                                }
                                Some(Err(error)) => {
                                    failed = Some(error);
                                    break;
                                }
                                None => break,
                            }
                        }
                        let told = self.pass_on(records, bytes).await;
                        match failed {
                            Some(error) if told.is_ok() => self.failed(error, &mut look_at).await,
                            _ => told,
                        }
                    }
                    Err(error) => self.failed(error, &mut look_at).await,
                },
                () = tokio::time::sleep(TICK) => Ok(()),
            };
            let revoked = std::mem::take(&mut *lock(&self.shared.revoked));
            let revoked = match revoked.is_empty() {
                true => Ok(()),
                false => self.tell(News::Revoked(revoked)).await,
            };
            if done.is_err() || revoked.is_err() {
                return;
            }
        }
    }

    async fn tell(&self, news: News) -> Result<(), ()> {
        self.news.send(news).await.map_err(drop)
    }

    async fn pass_on(&mut self, records: Vec<Record>, bytes: usize) -> Result<(), ()> {
        let held = tokio::select! {
            () = self.news.closed() => return Err(()),
            held = self.budget.hold(bytes) => held,
        };
        self.shared.came_up();
        self.tell(News::Records(records, held)).await
    }

    async fn failed(&mut self, error: KafkaError, look_at: &mut Instant) -> Result<(), ()> {
        // Asked at once, and again until they answer.
        *look_at = Instant::now();
        let error = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange) => {
                let error = self.gone().await;
                return self.tell(News::Gone(error)).await;
            }
            // The client tries again by itself, for as long as it takes.
            Some(
                RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::Resolve,
            ) => self.shared.unreachable(error),
            _ => KafkaSourceError::Client { doing: "read the next messages", source: error },
        };
        self.shared.went_down(error);
        Ok(())
    }

    /// Which message is gone: the client does not say.
    async fn gone(&self) -> KafkaSourceError {
        let client = Arc::clone(&self.client);
        let place = lock(&self.shared.place).clone();
        let mut asked = JoinSet::new();
        asked.spawn_blocking(move || {
            place.iter().find_map(|(topic, partition, offset)| {
                let (low, high) = client.fetch_watermarks(topic, partition, ANSWER).ok()?;
                (offset < low || offset > high).then(|| KafkaSourceError::OffsetGone {
                    topic: topic.to_string(),
                    partition,
                    offset,
                })
            })
        });
        let found = asked.join_next().await.and_then(Result::ok).flatten();
        found.unwrap_or(KafkaSourceError::Client {
            doing: "go on where reading ended",
            source: KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset),
        })
    }

    /// Reads partitions that were not there before: from their beginning, unless they were read in an
    /// earlier run.
    async fn assign(&mut self, found: &BTreeMap<String, i32>) -> Result<(), ()> {
        let mut topics: BTreeSet<&str> =
            found.keys().map(String::as_str).filter(|t| self.is_wanted(t)).collect();
        if self.config.transactions == Transactions::Auto {
            let of_a_prefix = |topic: &&str| {
                let prefix = topic.strip_suffix(TRANSACTION_TOPIC);
                prefix.is_some_and(|prefix| {
                    let is_of =
                        |t: &&str| t.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'));
                    topics.iter().any(is_of)
                })
            };
            let more: Vec<&str> = found.keys().map(String::as_str).filter(of_a_prefix).collect();
            topics.extend(more);
        }
        let known = self.topics.len();
        for topic in &topics {
            self.topics.entry((*topic).to_owned()).or_insert_with(|| Arc::from(*topic));
        }
        let mut new = TopicPartitionList::new();
        let mut added = Ok(());
        for topic in &topics {
            for partition in 0..found.get(*topic).copied().unwrap_or(0) {
                if !self.assigned.insert(((*topic).to_owned(), partition)) {
                    continue;
                }
                let next = lock(&self.shared.place).next(topic, partition);
                added = added.and_then(|()| add(&mut new, topic, partition, next));
            }
        }
        let is_new = known < self.topics.len();
        if is_new {
            self.tell(News::Topics(self.topics.values().cloned().collect())).await?;
        }
        let done = if self.config.subscribe {
            let names: Vec<&str> = topics.iter().copied().collect();
            if is_new { self.client.subscribe(&names) } else { Ok(()) }
        } else if new.count() > 0 {
            self.client.incremental_assign(&new)
        } else {
            Ok(())
        };
        if let Err(source) = added.and(done) {
            let doing = "read the partitions";
            self.shared.went_down(KafkaSourceError::Client { doing, source });
        }
        Ok(())
    }

    /// Topics that begin with two underscores are Kafka's and the connectors' own.
    fn is_wanted(&self, topic: &str) -> bool {
        !topic.starts_with("__") && self.config.topics.contains(topic)
    }

    fn record(&mut self, message: &rdkafka::message::BorrowedMessage<'_>) -> Record {
        let name = message.topic();
        let topic = match self.topics.get(name) {
            Some(topic) => Arc::clone(topic),
            None => {
                let topic: Arc<str> = Arc::from(name);
                self.topics.insert(name.to_owned(), Arc::clone(&topic));
                topic
            }
        };
        let mut record = Record::new(
            topic,
            (message.partition(), message.offset()),
            message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000),
            message.key(),
            message.payload(),
        );
        let mut headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let old_key = headers.find(|header| header.key == "__debezium.oldkey");
        record.old_key = old_key.and_then(|header| header.value).map(Into::into);
        record
    }
}

/// All topics, with how many partitions they have.
fn partitions(client: &Client) -> Result<BTreeMap<String, i32>, KafkaError> {
    let found = client.fetch_metadata(None, ANSWER)?;
    let topics = found.topics().iter().map(|topic| {
        (topic.name().to_owned(), i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
    });
    Ok(topics.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_let_in_is_told_so_until_that_is_over() {
        let shared = Arc::<Shared>::default();
        let none = || KafkaError::Global(RDKafkaErrorCode::AllBrokersDown);
        let said = || shared.unreachable(none()).to_string();
        assert!(said().contains("could not reach the brokers"));
        let refused = KafkaError::Global(RDKafkaErrorCode::Authentication);
        Context(Arc::clone(&shared)).error(refused, "wrong password");
        assert!(said().contains("wrong password"));
        assert!(said().contains("wrong password"));
        shared.came_up();
        assert!(said().contains("could not reach the brokers"));
    }
}
