//! The order in which messages of several partitions are handed out.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    debezium::{Boundary, Decoder, Message},
    kafka::record::Record,
};

/// Messages that are handed out together.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    pub(crate) records: Vec<Record>,
    /// Whether it is a transaction, whole as far as that is known.
    pub(crate) is_transaction: bool,
}

/// Messages on their way: without a topic of transactions in the order they came, with one so that
/// the changes of a transaction follow one another, in their order in it, over all partitions.
///
/// Per partition the order never changes. A change waits for the end of its transaction, and for the
/// others of it, for at most [`Self::patience`]; after that, or when too much is waiting, what there is
/// of it is handed out, and the rest when it comes.
#[derive(Debug)]
pub(crate) struct Order {
    patience: Duration,
    /// Bytes that may wait.
    limit: usize,
    bytes: usize,
    ready: VecDeque<Record>,
    queues: BTreeMap<(Arc<str>, i32), VecDeque<Waiting>>,
    /// How many changes of a transaction wait.
    counts: HashMap<String, u64>,
    /// By prefix, the transactions whose beginnings were seen and not their ends.
    begun: HashMap<String, Vec<String>>,
    /// Transactions that ended, in order.
    ended: VecDeque<Ended>,
}

#[derive(Debug)]
struct Waiting {
    record: Record,
    transaction: Option<(String, u64)>,
    since: Instant,
}

#[derive(Debug)]
struct Ended {
    /// None where the message cannot be read, which keeps its place among the others all the same.
    id: Option<String>,
    changes: u64,
    /// The message that says so.
    record: Record,
    since: Instant,
}

/// The topic of the transactions of a connector is called like this after its prefix.
pub(crate) const TRANSACTION_TOPIC: &str = ".transaction";

/// How many transactions may be open at once in one topic of transactions.
const BEGUN: usize = 64;

impl Order {
    pub(crate) fn new(patience: Duration, limit: usize) -> Self {
        Self {
            patience,
            limit,
            bytes: 0,
            ready: VecDeque::new(),
            queues: BTreeMap::new(),
            counts: HashMap::new(),
            begun: HashMap::new(),
            ended: VecDeque::new(),
        }
    }

    /// Takes a message in. `is_read` answers whether a topic is one that is read.
    pub(crate) fn push(
        &mut self,
        record: Record,
        decoder: &Decoder,
        in_transactions: bool,
        is_read: impl Fn(&str) -> bool,
        now: Instant,
    ) {
        self.bytes += record.size();
        if !in_transactions {
            self.ready.push_back(record);
            return;
        }
        if let Some(prefix) = record.topic.strip_suffix(TRANSACTION_TOPIC) {
            let prefix = prefix.to_owned();
            return self.push_boundary(record, &prefix, is_read, now);
        }
        let message = decoder.read(&record.topic, record.value());
        let transaction = match message {
            Ok(Message::Change(change)) => change.transaction,
            _ => None,
        };
        let transaction = transaction.map(|(id, place)| (id.into_owned(), place));
        let queue = self.queues.entry((Arc::clone(&record.topic), record.partition)).or_default();
        if queue.is_empty() && transaction.is_none() {
            self.ready.push_back(record);
            return;
        }
        if let Some((id, _)) = &transaction {
            *self.counts.entry(id.clone()).or_default() += 1;
        }
        queue.push_back(Waiting { record, transaction, since: now });
    }

    fn push_boundary(
        &mut self,
        record: Record,
        prefix: &str,
        is_read: impl Fn(&str) -> bool,
        now: Instant,
    ) {
        let Ok(Message::Boundary(Boundary { id, counts })) = Message::read(record.value(), "")
        else {
            self.ended.push_back(Ended { id: None, changes: 0, record, since: now });
            return;
        };
        let Some(counts) = counts else {
            // Its own place is passed with the end.
            self.bytes -= record.size();
            let begun = self.begun.entry(prefix.to_owned()).or_default();
            // One whose end never comes is not waited for.
            if begun.len() == BEGUN {
                begun.remove(0);
            }
            begun.push(id.into_owned());
            return;
        };
        // Several connectors may write one topic. PostgreSQL's end has another id than its beginning:
        // the place in the log is in it; then it is the one that was begun last.
        let begun = self.begun.get_mut(prefix);
        let found = begun.and_then(|begun| match begun.iter().position(|of| *of == id) {
            Some(at) => Some(begun.remove(at)),
            None => begun.pop(),
        });
        let id = found.unwrap_or_else(|| id.into_owned());
        let read = counts.iter().filter(|(table, _)| is_read(&format!("{prefix}.{table}")));
        let changes = read.map(|(_, count)| count).sum();
        self.ended.push_back(Ended { id: Some(id), changes, record, since: now });
    }

    /// The next messages to hand out, if their time has come. `must` is whether nothing else can come
    /// before something was handed out.
    pub(crate) fn pop(&mut self, must: bool, now: Instant) -> Option<Unit> {
        if let Some(record) = self.ready.pop_front() {
            self.bytes -= record.size();
            return Some(Unit { records: vec![record], is_transaction: false });
        }
        let must = must || self.bytes > self.limit;
        if let Some(ended) = self.ended.front() {
            let there = ended.id.as_ref().and_then(|id| self.counts.get(id)).copied().unwrap_or(0);
            let whole = there >= ended.changes;
            if !whole && !must && now < ended.since + self.patience {
                return None;
            }
            let ended = self.ended.pop_front()?;
            if !whole {
                tracing::warn!(
                    transaction = ended.id,
                    there,
                    expected = ended.changes,
                    "a transaction is handed out before all of it has come"
                );
            }
            let mut unit = ended.id.map_or_else(Unit::default, |id| self.unit(&id));
            self.bytes -= ended.record.size();
            unit.records.push(ended.record);
            return Some(unit);
        }
        let first = |queue: &VecDeque<Waiting>| {
            let head = queue.front()?;
            let (id, _) = head.transaction.as_ref()?;
            Some((head.since, id.clone()))
        };
        let (since, id) = self.queues.values().filter_map(first).min()?;
        if !must && now < since + self.patience {
            return None;
        }
        tracing::warn!(transaction = id, "a transaction is handed out before its end has come");
        Some(self.unit(&id))
    }

    /// Takes all that there is of a transaction at the beginnings of the queues.
    fn unit(&mut self, id: &str) -> Unit {
        let mut found = Vec::new();
        for queue in self.queues.values_mut() {
            // What belongs to none stays between the changes it came between, and what says it is before
            // the one it came after, behind that. What comes after them all is after the transaction.
            let mut between: Vec<Record> = Vec::new();
            let mut place = 0;
            while let Some(head) = queue.front() {
                let at = match &head.transaction {
                    Some((of, at)) if of == id => Some(*at),
                    None if place > 0 => None,
                    _ => break,
                };
                let Some(Waiting { record, .. }) = queue.pop_front() else { break };
                let Some(at) = at else {
                    between.push(record);
                    continue;
                };
                found.extend(between.drain(..).map(|record| (place, record)));
                place = place.max(at);
                found.push((place, record));
            }
            self.ready.extend(between);
            // Nothing holds these back any more.
            while queue.front().is_some_and(|head| head.transaction.is_none()) {
                self.ready.extend(queue.pop_front().map(|waiting| waiting.record));
            }
        }
        self.counts.remove(id);
        found.sort_by_key(|(place, _)| *place);
        let records: Vec<Record> = found.into_iter().map(|(_, record)| record).collect();
        self.bytes -= records.iter().map(Record::size).sum::<usize>();
        Unit { records, is_transaction: true }
    }

    /// When something that waits has waited long enough.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let heads = self.queues.values().filter_map(|q| q.front()).map(|w| w.since);
        let since = heads.chain(self.ended.front().map(|e| e.since)).min()?;
        Some(since + self.patience)
    }

    pub(crate) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// Bytes of the messages that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages wait.
    pub(crate) fn len(&self) -> usize {
        self.ready.len() + self.queues.values().map(VecDeque::len).sum::<usize>()
    }

    /// Forgets what waits of a partition: somebody else reads it now.
    pub(crate) fn revoke(&mut self, topic: &str, partition: i32) {
        let mut kept = VecDeque::new();
        for record in self.ready.drain(..) {
            if &*record.topic == topic && record.partition == partition {
                self.bytes -= record.size();
            } else {
                kept.push_back(record);
            }
        }
        self.ready = kept;
        for waiting in self.queues.remove(&(Arc::from(topic), partition)).unwrap_or_default() {
            self.bytes -= waiting.record.size();
            if let Some((id, _)) = &waiting.transaction
                && let Some(count) = self.counts.get_mut(id)
            {
                *count -= 1;
            }
        }
    }
}
