//! Topics of Kafka that connectors of Debezium write, as a source.
//!
//! What was handed out is in the position, the next offset of each partition, which is stored with
//! the rows: offsets committed in Kafka follow for others to watch and are never read.

mod again;
mod config;
mod error;
mod order;
mod place;
mod reader;
mod record;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod targets;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures::future::{BoxFuture, FutureExt};
use medlake_contract::{ChangeBatch, Position, SchemaChange, SourceId, TableName, TableSchema};
use rdkafka::{
    TopicPartitionList,
    consumer::{CommitMode, Consumer},
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};

use self::{
    again::Again,
    order::{Order, TRANSACTION_TOPIC, Unit},
    place::Place,
    reader::{Client, Down, News, Reader, Shared, lock},
    record::Record,
};
pub use self::{
    config::{ClientSettings, KafkaConfig, Topics, Transactions},
    error::KafkaSourceError,
};
use crate::{
    AnySource, Budget, CutLimits, IngestError,
    budget::Held,
    debezium::{Change, Decoder, Message, Problem, RowKeys, Taken},
    quarantine::Quarantine,
    source::{
        Acknowledge, Gauges, Page, Phase, Quarantined, QuarantinedRow, Resume, Source, TableState,
    },
};

/// The client that reads at present.
type Slot = Arc<Mutex<Option<Arc<Client>>>>;

/// Chunks of messages between the task that reads and the source.
const CHUNKS: usize = 4;
/// A place that moved without rows (heartbeats, tombstones) is handed out this often.
const IDLE_PLACES: Duration = Duration::from_secs(10);
/// How long a client may be without its brokers until it is replaced. One that meets a broker of KRaft
/// right at its start may be told of no broker at all, and then asks none again (librdkafka issue 5301).
const CLIENT_IS_LOST: Duration = Duration::from_secs(20);

/// A Kafka cluster with topics of Debezium connectors. `docs/sources.md` says what is read from them.
pub struct KafkaSource {
    id: SourceId,
    config: KafkaConfig,
    budget: Budget,
    decoder: Decoder,
    order: Order,
    shared: Arc<Shared>,
    client: Slot,
    tasks: JoinSet<()>,
    news: Option<mpsc::Receiver<News>>,
    /// What was heard while waiting.
    heard: VecDeque<News>,
    /// What of a unit is to be read again, after its page.
    left: VecDeque<Record>,
    left_ends_transaction: bool,
    topics: BTreeSet<Arc<str>>,
    in_transactions: bool,
    held: Held,
    held_bytes: usize,
    step: u64,
    /// Whether the place has moved since it was handed out last, and when that was.
    moved: bool,
    handed_out: Option<Instant>,
    states: Vec<TableState>,
    quarantine: Quarantine,
    /// What left the quarantine because its table is taken in anew.
    released: Vec<(TableName, String)>,
    /// What is read again, before anything else.
    again: VecDeque<Again>,
    /// Tables that were stopped before anything of them could be read.
    unread: BTreeMap<TableName, TableState>,
    newest_micros: i64,
    /// Rows that made no batch, which only a defect of ours brings about.
    defect: Option<KafkaSourceError>,
    gauges: Arc<Gauges>,
}

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource")
            .field("id", &self.id)
            .field("config", &self.config)
            .field("place", &self.shared.place)
            .finish_non_exhaustive()
    }
}

impl From<KafkaSource> for AnySource {
    fn from(source: KafkaSource) -> Self {
        Self(Box::new(source))
    }
}

impl KafkaSource {
    /// A source of this name; it talks to nobody before it is read. Clones of `budget` share it. A
    /// table is stopped that has more messages in quarantine than `quarantine_limit`.
    ///
    /// # Errors
    /// When a setting is wrong.
    pub fn new(
        id: impl Into<String>,
        config: KafkaConfig,
        budget: Budget,
        quarantine_limit: u64,
    ) -> Result<Self, IngestError> {
        let id = SourceId::new(id);
        config
            .client(id.as_str())
            .map_err(|source| IngestError::Kafka { at: id.clone(), source })?;
        Ok(Self {
            decoder: Decoder::new(id.clone(), config.debezium.clone()),
            // What waits for its transaction must leave room for what it waits for.
            order: Order::new(config.patience(), budget.total_bytes() / 2),
            shared: Arc::default(),
            client: Slot::default(),
            tasks: JoinSet::new(),
            news: None,
            heard: VecDeque::new(),
            left: VecDeque::new(),
            left_ends_transaction: false,
            topics: BTreeSet::new(),
            in_transactions: false,
            held: Held::default(),
            held_bytes: 0,
            step: 0,
            moved: false,
            handed_out: None,
            states: Vec::new(),
            quarantine: Quarantine::new(quarantine_limit),
            released: Vec::new(),
            again: VecDeque::new(),
            unread: BTreeMap::new(),
            newest_micros: 0,
            defect: None,
            gauges: Gauges::new("kafka"),
            id,
            config,
            budget,
        })
    }

    fn wrong(&self, source: KafkaSourceError) -> IngestError {
        IngestError::Kafka { at: self.id.clone(), source }
    }

    /// Starts the task that reads, where reading ended, unless it is at work.
    fn start(&mut self) -> Result<(), IngestError> {
        if self.news.is_some() {
            return Ok(());
        }
        let client = reader::client(&self.config, self.id.as_str(), &self.shared)
            .map_err(|source| self.wrong(source))?;
        let (news, heard) = mpsc::channel(CHUNKS);
        let reader = Reader {
            client: Arc::clone(&client),
            config: self.config.clone(),
            shared: Arc::clone(&self.shared),
            budget: self.budget.clone(),
            news,
            topics: HashMap::new(),
            assigned: BTreeSet::new(),
        };
        self.tasks.spawn(reader.run());
        *lock(&self.client) = Some(client);
        self.news = Some(heard);
        Ok(())
    }

    /// Forgets what was read and not handed out; reading starts again where it ended.
    fn restart(&mut self) {
        self.news = None;
        *lock(&self.client) = None;
        self.tasks.abort_all();
        self.heard.clear();
        self.left.clear();
        self.order = Order::new(self.config.patience(), self.budget.total_bytes() / 2);
        self.held = Held::default();
        self.held_bytes = 0;
        *lock(&self.shared.behind) = None;
    }

    /// Takes in what the task has to say. Answers whether there was anything.
    fn hear(&mut self) -> Result<bool, IngestError> {
        let next = match self.heard.pop_front() {
            Some(news) => Some(news),
            None => match self.news.as_mut().map(mpsc::Receiver::try_recv) {
                Some(Ok(news)) => Some(news),
                Some(Err(mpsc::error::TryRecvError::Disconnected)) => {
                    self.restart();
                    return Err(self.wrong(KafkaSourceError::Ended));
                }
                _ => None,
            },
        };
        match next {
            None => return Ok(false),
            Some(News::Records(records, held)) => {
                self.held.merge(held);
                let now = Instant::now();
                for record in records {
                    self.held_bytes += record.size();
                    let topics = &self.topics;
                    let is_read = |topic: &str| topics.contains(topic);
                    self.order.push(record, &self.decoder, self.in_transactions, is_read, now);
                }
            }
            Some(News::Topics(topics)) => {
                self.in_transactions = self.config.transactions == Transactions::Auto
                    && topics.iter().any(|t| t.ends_with(TRANSACTION_TOPIC));
                self.topics = topics;
            }
            Some(News::Revoked(partitions)) => {
                for (topic, partition) in &partitions {
                    self.order.revoke(topic, *partition);
                    self.left.retain(|r| *r.topic != **topic || r.partition != *partition);
                }
            }
            Some(News::Gone(error)) => {
                self.restart();
                return Err(self.wrong(error));
            }
        }
        Ok(true)
    }

    /// Says why nothing comes, if anything is wrong. Another client may have better luck.
    fn nothing_comes(&mut self) -> Result<(), IngestError> {
        let Some(Down { error, since }) = self.shared.down.borrow().clone() else { return Ok(()) };
        if since.elapsed() >= CLIENT_IS_LOST {
            self.restart();
            // It is down until another client is up.
            self.shared
                .down
                .send_replace(Some(Down { error: error.clone(), since: Instant::now() }));
        }
        Err(self.wrong(error))
    }

    /// Does not wait for anything, so nothing can end it halfway.
    fn read_page(&mut self, limits: CutLimits) -> Result<Option<Page>, IngestError> {
        if let Some(defect) = self.defect.clone() {
            return Err(self.wrong(defect));
        }
        self.start()?;
        let mut page = Page { states: std::mem::take(&mut self.states), ..Page::default() };
        let is_again = self.read_again(&mut page)?;
        let done = if is_again { Ok(()) } else { self.fill(&mut page, limits) };
        if let Err(error) = done {
            // What is in the page is good: it goes out first, and the error comes again.
            if page.row_count == 0 && page.quarantined.is_empty() && page.schemas.is_empty() {
                self.states = page.states;
                return Err(error);
            }
            tracing::debug!(%error, "after a page");
        }
        self.measure();
        page.batches.extend(self.finish_batches()?);
        page.released = std::mem::take(&mut self.released);
        self.quarantine.overtake(&mut page);
        self.count_quarantine(&mut page);
        let waiting = self.order.bytes() + self.left.iter().map(Record::size).sum::<usize>();
        page.held = self.held.split(self.held_bytes.saturating_sub(waiting));
        self.held_bytes = self.held_bytes.min(waiting);
        let now = Instant::now();
        let idle = self.handed_out.is_none_or(|at| now >= at + IDLE_PLACES);
        if page.is_empty() && !(self.moved && idle) {
            return Ok(None);
        }
        if self.moved {
            self.step += 1;
            let at = lock(&self.shared.place).to_string();
            page.position = Some(Position::Log { step: self.step, at });
            self.moved = false;
        }
        self.handed_out = Some(now);
        Ok(Some(page))
    }

    fn finish_batches(&mut self) -> Result<Vec<ChangeBatch>, IngestError> {
        self.decoder.finish().map_err(|error| {
            // The place has passed what is lost with this: nothing may be handed out after it.
            let defect = KafkaSourceError::Batch { problem: error.to_string() };
            self.defect = Some(defect.clone());
            self.wrong(defect)
        })
    }

    /// Fills a page until a limit is reached, until nothing more is there, or until a table changes.
    /// What cannot be read ends it too: what comes after may overtake it, which goes by pages.
    fn fill(&mut self, page: &mut Page, limits: CutLimits) -> Result<(), IngestError> {
        let has_room = |page: &Page| {
            page.row_count < limits.max_rows
                && page.byte_count < limits.max_bytes
                && page.quarantined.is_empty()
        };
        while has_room(page) {
            let unit = if self.left.is_empty() {
                let must = self.held_bytes > self.budget.total_bytes() / 2;
                match self.order.pop(must, Instant::now()) {
                    Some(unit) => unit,
                    None if self.hear()? => continue,
                    None => return self.nothing_comes(),
                }
            } else {
                let records = std::mem::take(&mut self.left).into();
                Unit { records, is_transaction: self.left_ends_transaction }
            };
            // A table has other columns from a page on, and a transaction is never handed out in part.
            if unit.is_transaction && page.row_count > 0 && self.changes_a_table(&unit.records) {
                self.left = unit.records.into();
                self.left_ends_transaction = true;
                return Ok(());
            }
            let mut records = VecDeque::from(unit.records);
            if unit.is_transaction && !self.settle(&records, page) {
                self.left = records;
                self.left_ends_transaction = true;
                return Ok(());
            }
            while let Some(record) = records.pop_front() {
                // Read again after its partition went to another member and came back.
                let next = lock(&self.shared.place).next(&record.topic, record.partition);
                if next.is_some_and(|next| record.offset < next) {
                    continue;
                }
                if !self.take(&record, page) {
                    records.push_front(record);
                    self.left = records;
                    self.left_ends_transaction = unit.is_transaction;
                    return Ok(());
                }
                self.moved = true;
                page.byte_count += record.size();
                lock(&self.shared.place).pass(&record.topic, record.partition, record.offset + 1);
            }
            page.transaction_count += u64::from(unit.is_transaction);
        }
        Ok(())
    }

    /// Lets tables become what the changes of a transaction say by their schemas, before any of these
    /// is taken: none of it is to be seen without the rest. Answers false when the page has to end
    /// before it.
    fn settle(&mut self, records: &VecDeque<Record>, page: &mut Page) -> bool {
        for record in records {
            if self.decoder.has_usual_schema(&record.topic, record.value()) {
                continue;
            }
            let message = self.decoder.read(&record.topic, record.value());
            // What is wrong with a change is said when it is taken.
            let Ok(Message::Change(change)) = message else { continue };
            let keys = RowKeys { key: record.key(), old: record.old_key.as_deref() };
            let probed = self.decoder.probe(&record.topic, keys, &change);
            let Ok(Some((schema, is_new))) = probed else { continue };
            if !is_new && page.row_count > 0 {
                return false;
            }
            self.adopt(schema, &change, record, page);
        }
        true
    }

    /// Goes on with a table as it is from a change on.
    fn adopt(
        &mut self,
        schema: SchemaChange,
        change: &Change<'_>,
        record: &Record,
        page: &mut Page,
    ) {
        let micros = change.micros.unwrap_or(record.micros);
        let state = self.decoder.adopt(&schema, &change.origin, change.micros, micros);
        page.states.retain(|s| s.table != state.table);
        page.schemas.retain(|s| s.table.name() != schema.table.name());
        page.states.push(state);
        page.schemas.push(schema);
    }

    /// Whether one of the messages is of a table, and not as the others of it were.
    fn changes_a_table(&mut self, records: &[Record]) -> bool {
        records.iter().any(|record| match self.decoder.read(&record.topic, record.value()) {
            Ok(Message::Change(change)) => self.decoder.is_new_shape(&record.topic, &change),
            _ => false,
        })
    }

    /// Takes a message into the page. Answers false when the page has to end before it.
    fn take(&mut self, record: &Record, page: &mut Page) -> bool {
        let taken = match self.decoder.read(&record.topic, record.value()) {
            Ok(Message::Change(change)) => {
                let micros = change.micros.unwrap_or(record.micros);
                self.newest_micros = self.newest_micros.max(micros);
                let keys = RowKeys { key: record.key(), old: record.old_key.as_deref() };
                let mut changed = false;
                loop {
                    if self.is_unread(&record.topic, &change) {
                        break Ok(());
                    }
                    match self.decoder.take(&record.topic, keys, &change) {
                        Ok(Taken::Row) => {
                            page.row_count += 1;
                            page.committed_at_micros = page.committed_at_micros.max(change.micros);
                            if !self.in_transactions {
                                page.transaction_count += 1;
                            }
                            break Ok(());
                        }
                        Ok(Taken::LeftOut) => break Ok(()),
                        Ok(Taken::Schema { .. }) if changed => {
                            let problem = Problem::Envelope("its columns cannot be settled");
                            break Err((Some((&change.origin, change.op)), problem));
                        }
                        Ok(Taken::Schema { change: schema, is_new }) => {
                            // No page has rows of two shapes of one table.
                            if !is_new && self.decoder.has_rows(schema.table.name()) {
                                return false;
                            }
                            self.adopt(schema, &change, record, page);
                            changed = true;
                        }
                        Err(problem) => break Err((Some((&change.origin, change.op)), problem)),
                    }
                }
                .map_err(|(at, problem)| {
                    let table = at
                        .and_then(|(origin, _)| self.decoder.table_of(&record.topic, origin).ok());
                    let op = at.map_or("", |(_, op)| op.as_str());
                    (table, op, problem)
                })
            }
            Ok(Message::Tables(tables)) => {
                self.decoder.learn(&record.topic, tables).map_err(|p| (None, "", p))
            }
            Ok(Message::Nothing | Message::Boundary(_)) => Ok(()),
            Err(problem) => Err((None, "", problem)),
        };
        if let Err((table, op, problem)) = taken {
            let table = table.unwrap_or_else(|| self.table_of_topic(&record.topic));
            if !self.is_stopped(&table) {
                page.quarantined.push(self.quarantined(record, table, op, &problem));
            }
        }
        true
    }

    fn is_stopped(&self, table: &TableName) -> bool {
        self.unread.contains_key(table) || self.decoder.is_stopped(table)
    }

    /// Whether a change is of a table that was stopped before anything of it could be read.
    fn is_unread(&mut self, topic: &str, change: &Change<'_>) -> bool {
        !self.unread.is_empty()
            && self
                .decoder
                .table_of(topic, &change.origin)
                .is_ok_and(|table| self.unread.contains_key(&table))
    }

    fn quarantined(
        &self,
        record: &Record,
        table: TableName,
        op: &str,
        problem: &Problem,
    ) -> Quarantined {
        let place = record.place();
        tracing::warn!(source = %self.id, at = place, %problem, "a message is put into quarantine");
        Quarantined {
            id: place.clone(),
            at: place,
            op: op.to_owned(),
            key: self.decoder.key_text(Some(&table), record.key()),
            reason: problem.to_string(),
            raw: record.framed(),
            committed_at_micros: (record.micros > 0).then_some(record.micros),
            table,
        }
    }

    /// States have the numbers, and a table with too many is stopped.
    fn count_quarantine(&mut self, page: &mut Page) {
        for name in self.quarantine.count(page) {
            let state = if self.quarantine.is_over(&name) && !self.is_stopped(&name) {
                let remedy = format!(
                    "see system.quarantine for the reasons, mend what writes these messages, then \
                     `medlake ingest resync {name}`, and trigger an incremental snapshot of it in \
                     Debezium"
                );
                Some(self.stop_table(&name, self.quarantine.too_many(&name), remedy))
            } else {
                self.decoder.state(&name).or_else(|| self.unread.get(&name).cloned())
            };
            if let Some(state) = state {
                page.states.retain(|s| s.table != name);
                page.states.push(state);
            }
        }
        for state in &mut page.states {
            state.quarantined = self.quarantine.len(&state.table);
        }
    }

    fn stop_table(&mut self, table: &TableName, reason: String, remedy: String) -> TableState {
        let now = self.newest_micros;
        self.decoder.stop(table, reason.clone(), remedy.clone(), now).unwrap_or_else(|| {
            let mut state = TableState::stopped(table.clone(), reason, remedy);
            state.since_micros = now;
            self.unread.insert(table.clone(), state.clone());
            state
        })
    }

    /// A table for messages that do not say theirs: called like the end of the topic.
    fn table_of_topic(&self, topic: &str) -> TableName {
        if let Some(name) = self.decoder.table_of_topic(topic) {
            return name;
        }
        let last = topic.rsplit('.').next().unwrap_or(topic).to_ascii_lowercase();
        let word = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
        let mut word: String = last.chars().map(word).collect();
        if !word.starts_with(|c: char| c.is_ascii_lowercase()) {
            word.insert(0, '_');
        }
        let fallback = || TableName::try_from("unknown.messages".to_owned());
        let name = format!("{}.{word}", self.id).parse().or_else(|_| fallback());
        // Both are of the form of a name; a source's name is checked where it is configured.
        name.unwrap_or_else(|_| crate::states_table().name().clone())
    }

    fn measure(&self) {
        let known = *lock(&self.shared.behind);
        let here = self.order.len() + self.left.len();
        let heard = self.news.as_ref().map_or(0, mpsc::Receiver::len) + self.heard.len();
        self.gauges.update(|health| {
            health.lag_rows = known.map(|behind| behind + here as u64);
            health.caught_up = known == Some(0) && here == 0 && heard == 0;
        });
    }
}

impl Source for KafkaSource {
    fn id(&self) -> &SourceId {
        &self.id
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.decoder.tables()
    }

    fn resume<'a>(&'a mut self, resume: &'a Resume) -> BoxFuture<'a, Result<(), IngestError>> {
        async move {
            match resume.positions.get(&self.id) {
                None => {}
                Some(Position::Log { step, at }) => {
                    self.step = *step;
                    let place: Place = at.parse().map_err(|source| self.wrong(source))?;
                    *lock(&self.shared.place) = place;
                }
                Some(other) => {
                    let (at, position) = (self.id.clone(), other.clone());
                    return Err(IngestError::ForeignPosition { at, position });
                }
            }
            self.decoder.resume(&resume.tables, &resume.states);
            self.quarantine.resume(&self.id, &resume.quarantined);
            for state in &resume.states {
                let name = &state.table;
                let own = name.namespace() == self.id.as_str() && state.phase == Phase::Stopped;
                if own && !self.decoder.is_stopped(name) {
                    self.unread.insert(name.clone(), state.clone());
                }
            }
            Ok(())
        }
        .boxed()
    }

    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>> {
        async move { self.read_page(limits) }.boxed()
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        async move {
            let is_left = !self.left.is_empty() || !self.again.is_empty();
            if !self.heard.is_empty() || is_left || self.order.has_ready() {
                return;
            }
            let mut down = self.shared.down.subscribe();
            let Some(news) = self.news.as_mut().filter(|_| down.borrow().is_none()) else { return };
            let deadline = self.order.deadline();
            let idle = self.handed_out.filter(|_| self.moved).map(|at| at + IDLE_PLACES);
            let until = [deadline, idle].into_iter().flatten().min();
            let wake = async {
                match until {
                    Some(until) => tokio::time::sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                heard = news.recv() => match heard {
                    Some(heard) => self.heard.push_back(heard),
                    None => self.restart(),
                },
                _ = down.changed() => {}
                () = wake => {}
            }
        }
        .boxed()
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        Arc::new(Commit { id: self.id.clone(), client: Arc::clone(&self.client) })
    }

    fn stop(&mut self, table: &TableName, reason: String, _remedy: String) {
        let remedy = format!(
            "make the change compatible, or drop the table from the lake, then `medlake ingest resync \
             {table}`, and trigger an incremental snapshot of it in Debezium for the changes that were \
             left out"
        );
        let state = self.stop_table(table, reason, remedy);
        self.states.push(state);
    }

    fn resync(&mut self, table: &TableName) -> Result<(), IngestError> {
        if self.decoder.start(table) || self.unread.remove(table).is_some() {
            // The rows come anew, as far as a person sees to it: what could not be read counts no more.
            let ids = self.quarantine.ids(table);
            self.released.extend(ids.into_iter().map(|id| (table.clone(), id)));
            let now = self.newest_micros;
            self.states.push(TableState::new(table.clone(), Phase::Streaming, now));
            return Ok(());
        }
        Err(self.wrong(KafkaSourceError::NoRows { table: table.to_string() }))
    }

    fn retry(
        &mut self,
        table: &TableName,
        changes: &[QuarantinedRow],
    ) -> Result<usize, IngestError> {
        Ok(self.read_later(table, changes))
    }

    fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }
}

/// Commits the group's offsets, for others to watch.
struct Commit {
    id: SourceId,
    client: Slot,
}

impl fmt::Debug for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Commit").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Commit {
    fn commit(&self, place: &Place) -> Result<(), KafkaSourceError> {
        let Some(client) = lock(&self.client).clone() else { return Ok(()) };
        let wrong = |source| KafkaSourceError::Client { doing: "commit the offsets", source };
        let mut offsets = TopicPartitionList::new();
        for (topic, partition, next) in place.iter() {
            let next = rdkafka::Offset::Offset(next);
            offsets.add_partition_offset(topic, partition, next).map_err(wrong)?;
        }
        client.commit(&offsets, CommitMode::Async).map_err(wrong)
    }
}

impl Acknowledge for Commit {
    fn acknowledge<'a>(
        &'a self,
        position: &'a Position,
    ) -> BoxFuture<'a, Result<u64, IngestError>> {
        async move {
            let Position::Log { at, .. } = position else {
                let (at, position) = (self.id.clone(), position.clone());
                return Err(IngestError::ForeignPosition { at, position });
            };
            let done = at.parse().and_then(|place| self.commit(&place));
            if let Err(error) = done {
                // Nothing depends on them: the offsets that count are in the lake.
                tracing::debug!(source = %self.id, %error, "the group's offsets were not committed");
            }
            // Kafka forgets by its own rules.
            Ok(0)
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests;
