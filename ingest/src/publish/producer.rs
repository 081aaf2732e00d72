//! The Kafka side: what is sent between [`Producer::begin`] and [`Producer::commit`] is there together,
//! and with it how far the change table is published.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use rdkafka::{
    Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer as _, ThreadedProducer},
    types::RDKafkaErrorCode,
};
use tokio::{task::JoinSet, time::Instant};

use crate::{PublishConfig, PublishError, debezium::Outgoing};

/// How long a question to the brokers may take before it is asked again; stopping waits for it.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait when the library's queue is full.
const FULL: Duration = Duration::from_millis(5);
/// How often to look whether all messages are sent, and how long none may be before that is an error.
const DRAINING: Duration = Duration::from_millis(1);
const STUCK: Duration = Duration::from_secs(20);

/// A connection that writes transactions.
pub(super) struct Producer {
    writer: Arc<ThreadedProducer<DefaultProducerContext>>,
    /// Only for how far it is published: the offset of a group that nobody is a member of, which is
    /// stored in the transaction of the messages.
    group: Arc<BaseConsumer>,
    config: PublishConfig,
    topics: BTreeSet<String>,
}

/// How far the change table is published, as Kafka knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) change_id: i64,
    /// Of which database and beginning.
    pub(super) of: String,
}

impl Producer {
    /// Connects, and ends whatever transaction an earlier one left open.
    pub(super) async fn connect(
        config: &PublishConfig,
        service: &str,
    ) -> Result<(Self, Option<Stored>), PublishError> {
        let failed = |source| PublishError::Kafka { doing: "connect to the brokers", source };
        let writer: ThreadedProducer<_> = config.producer(service)?.create().map_err(failed)?;
        let group: BaseConsumer = config.consumer(service)?.create().map_err(failed)?;
        let (writer, group) = (Arc::new(writer), Arc::new(group));
        let producer = Self { writer, group, config: config.clone(), topics: BTreeSet::new() };
        let writer = Arc::clone(&producer.writer);
        blocking("begin to write transactions", move || writer.init_transactions(ANSWER)).await?;
        let (group, topic) = (Arc::clone(&producer.group), config.transaction_topic());
        let stored =
            blocking("read how far it is published", move || stored(&group, &topic)).await?;
        Ok((producer, stored))
    }

    /// Makes the topics that are not there yet.
    pub(super) async fn make(&mut self, topics: BTreeSet<String>) -> Result<(), PublishError> {
        let doing = "create the topics";
        let failed = |source| PublishError::Kafka { doing, source };
        let missing: BTreeSet<String> = topics.difference(&self.topics).cloned().collect();
        if missing.is_empty() {
            return Ok(());
        }
        let group = Arc::clone(&self.group);
        let there: BTreeSet<String> = blocking("list the topics", move || {
            let found = group.fetch_metadata(None, ANSWER)?;
            Ok(found.topics().iter().map(|t| t.name().to_owned()).collect())
        })
        .await?;
        let transactions = self.config.transaction_topic();
        let partitions =
            |topic: &str| if topic == transactions { 1 } else { self.config.partitions };
        // As many copies as the brokers make by themselves.
        let new: Vec<NewTopic<'_>> = missing
            .difference(&there)
            .map(|t| NewTopic::new(t, partitions(t), TopicReplication::Fixed(-1)))
            .collect();
        if !new.is_empty() {
            let admin: AdminClient<DefaultClientContext> =
                self.config.client(&[])?.create().map_err(failed)?;
            let options = AdminOptions::new().operation_timeout(Some(ANSWER));
            for made in admin.create_topics(&new, &options).await.map_err(failed)? {
                match made {
                    Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
                    Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
                }
            }
        }
        self.topics.extend(topics);
        Ok(())
    }

    pub(super) fn begin(&self) -> Result<(), PublishError> {
        let failed = |source| PublishError::Kafka { doing: "begin a transaction", source };
        self.writer.begin_transaction().map_err(failed)
    }

    /// Gives a message to the library, which waits while it has too many.
    pub(super) async fn send(&self, topic: &str, message: &Outgoing) -> Result<(), PublishError> {
        loop {
            let mut record = BaseRecord::to(topic).key(message.key.as_bytes());
            if let Some(value) = &message.value {
                record = record.payload(value.as_bytes());
            }
            if let Some((name, value)) = &message.header {
                let header = Header { key: name, value: Some(value.as_bytes()) };
                record = record.headers(OwnedHeaders::new().insert(header));
            }
            match self.writer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, _)) if is_full(&error) => tokio::time::sleep(FULL).await,
                Err((source, _)) => {
                    return Err(PublishError::Kafka { doing: "send a message", source });
                }
            }
        }
    }

    /// Ends the transaction: its messages are there, and everything up to `change_id` is published.
    pub(super) async fn commit(&self, change_id: i64, of: &str) -> Result<(), PublishError> {
        let doing = "store how far it is published";
        let failed = |source| PublishError::Kafka { doing, source };
        let mut place = TopicPartitionList::new();
        let topic = self.config.transaction_topic();
        place.add_partition_offset(&topic, 0, Offset::Offset(change_id)).map_err(failed)?;
        if let Some(mut place) = place.find_partition(&topic, 0) {
            place.set_metadata(of);
        }
        let group = Arc::clone(&self.group);
        self.patiently(doing, move |writer| {
            let group = group.group_metadata().ok_or(KafkaError::Canceled)?;
            writer.send_offsets_to_transaction(&place, &group, ANSWER)
        })
        .await?;
        self.commit_part().await
    }

    /// Ends the transaction and says nothing of how far it is.
    pub(super) async fn commit_part(&self) -> Result<(), PublishError> {
        self.drained().await?;
        self.patiently("commit a transaction", |writer| writer.commit_transaction(ANSWER)).await
    }

    /// Waits until the brokers have all messages, as long as there come to be fewer that they lack.
    async fn drained(&self) -> Result<(), PublishError> {
        let mut last = (self.writer.in_flight_count(), Instant::now());
        while last.0 > 0 {
            tokio::time::sleep(DRAINING).await;
            let left = self.writer.in_flight_count();
            if left != last.0 {
                last = (left, Instant::now());
            } else if last.1.elapsed() > STUCK {
                let source = KafkaError::Flush(RDKafkaErrorCode::MessageTimedOut);
                return Err(PublishError::Kafka { doing: "send the messages", source });
            }
        }
        Ok(())
    }

    /// Undoes the transaction.
    pub(super) async fn abort(&self) -> Result<(), PublishError> {
        self.patiently("undo a transaction", |writer| writer.abort_transaction(ANSWER)).await
    }

    /// Asks once more while all that is wrong is that no answer has come: what was asked goes on.
    async fn patiently(
        &self,
        doing: &'static str,
        call: impl Fn(&ThreadedProducer<DefaultProducerContext>) -> KafkaResult<()>
        + Send
        + Sync
        + 'static,
    ) -> Result<(), PublishError> {
        let writer = Arc::clone(&self.writer);
        blocking(doing, move || match call(&writer) {
            Err(KafkaError::Transaction(error)) if error.is_retriable() => call(&writer),
            done => done,
        })
        .await
    }
}

/// What is stored of how far it is published.
fn stored(group: &BaseConsumer, topic: &str) -> KafkaResult<Option<Stored>> {
    let mut place = TopicPartitionList::new();
    place.add_partition(topic, 0);
    let found = group.committed_offsets(place, ANSWER)?;
    Ok(found.find_partition(topic, 0).and_then(|place| match place.offset() {
        Offset::Offset(change_id) => Some(Stored { change_id, of: place.metadata().to_owned() }),
        _ => None,
    }))
}

fn is_full(error: &KafkaError) -> bool {
    error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

/// Calls that wait have a thread of their own meanwhile.
async fn blocking<T: Send + 'static>(
    doing: &'static str,
    call: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> Result<T, PublishError> {
    let mut tasks = JoinSet::new();
    tasks.spawn_blocking(call);
    match tasks.join_next().await {
        Some(Ok(done)) => done.map_err(|source| PublishError::Kafka { doing, source }),
        _ => Err(PublishError::Ended),
    }
}
