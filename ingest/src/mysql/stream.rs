use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use futures::future::BoxFuture;
use medlake_contract::{Position, SourceId, TableName, TableSchema};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    config::MysqlConfig,
    connect::Asking,
    error::MysqlError,
    place::Place,
    reader::{AHEAD, Ahead, Reader, Wishes},
};
use crate::{
    CutLimits, IngestError,
    budget::Budget,
    log::Log,
    source::{Acknowledge, Gauges, Page, Phase},
};

/// The binlog of a server.
///
/// It is read by a task of its own, which starts with the first [`Log::read`] after
/// [`Log::start`] or a failure, and ends with this.
pub(crate) struct MysqlLog {
    id: SourceId,
    config: MysqlConfig,
    budget: Budget,
    gauges: Arc<Gauges>,
    at: Place,
    /// Events with rows of the transaction that goes on which are handed out.
    events: u64,
    tables: BTreeMap<TableName, Arc<TableSchema>>,
    wishes: Arc<Mutex<Wishes>>,
    reading: Option<Reading>,
    /// What came while somebody waited.
    next: Option<Result<Ahead, IngestError>>,
    /// A page is to end here.
    stop_at: Option<Place>,
}

struct Reading {
    /// The reader ends when this is dropped.
    _task: JoinSet<()>,
    pages: mpsc::Receiver<Result<Ahead, IngestError>>,
}

impl fmt::Debug for MysqlLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MysqlLog")
            .field("id", &self.id)
            .field("at", &self.at)
            .finish_non_exhaustive()
    }
}

impl MysqlLog {
    pub(crate) fn new(id: SourceId, config: MysqlConfig, budget: Budget) -> Self {
        Self {
            id,
            config,
            budget,
            gauges: Gauges::new("mysql"),
            at: Place::default(),
            events: 0,
            tables: BTreeMap::new(),
            wishes: Arc::default(),
            reading: None,
            next: None,
            stop_at: None,
        }
    }

    fn wishes(&self) -> std::sync::MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The reader, which is started where reading ended when there is none. It says when the server
    /// has agreed to that.
    fn begin(&mut self, opened: oneshot::Sender<()>) -> Reading {
        // The last one may go on for a moment.
        let wishes = self.wishes().again();
        self.wishes = Arc::new(Mutex::new(wishes));
        let reader = Reader {
            at: self.id.clone(),
            config: self.config.clone(),
            place: self.at.clone(),
            skip: self.events,
            tables: self.tables.values().cloned().collect(),
            stop_at: self.stop_at.clone(),
            wishes: Arc::clone(&self.wishes),
            budget: self.budget.clone(),
            gauges: Arc::clone(&self.gauges),
        };
        let (sender, pages) = mpsc::channel(AHEAD);
        let mut task = JoinSet::new();
        task.spawn(reader.run(opened, sender));
        Reading { _task: task, pages }
    }

    fn pages(&mut self) -> &mut mpsc::Receiver<Result<Ahead, IngestError>> {
        let reading = match self.reading.take() {
            Some(reading) => reading,
            None => self.begin(oneshot::channel().0),
        };
        &mut self.reading.insert(reading).pages
    }

    /// What the reader has ready.
    fn try_next(&mut self) -> Option<Result<Ahead, IngestError>> {
        if let Some(next) = self.next.take() {
            return Some(next);
        }
        match self.pages().try_recv() {
            Ok(next) => Some(next),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Err(self.ended())),
        }
    }

    /// The reader ended without a word: it cannot but by an event it could not even take apart.
    fn ended(&self) -> IngestError {
        let problem = "an event has another length than it says".to_owned();
        let source = MysqlError::Binlog { place: self.at.to_string(), problem };
        IngestError::Mysql { at: self.id.clone(), source }
    }

    /// Moves the cursor over a page, and leaves out what is to be left out.
    fn hand_out(&mut self, ahead: Ahead) -> Page {
        let mut page = ahead.ready.page;
        page.held = ahead.held;
        self.at = ahead.ready.place;
        self.events = ahead.ready.events;
        let mut wishes = self.wishes.lock().unwrap_or_else(PoisonError::into_inner);
        for change in &page.schemas {
            wishes.announced(change.table.name());
            self.tables.insert(change.table.name().clone(), Arc::clone(&change.table));
        }
        page.batches.iter().for_each(|batch| wishes.announced(batch.table().name()));
        page.batches.retain(|batch| !wishes.leaves_out(batch.table().name()));
        page.quarantined.retain(|change| !wishes.leaves_out(&change.table));
        // The reader leaves them out by itself; the next one, after a failure, is to do so too.
        for stop in page.states.iter().filter(|state| state.phase == Phase::Stopped) {
            wishes.stopped(&stop.table);
        }
        page
    }

    fn read_now(&mut self, limits: CutLimits) -> Result<Option<Page>, IngestError> {
        self.wishes().set_limits(limits);
        let mut whole: Option<Page> = None;
        while let Some(next) = self.try_next() {
            let ahead = match next {
                Ok(ahead) => ahead,
                Err(error) => {
                    if whole.is_some() {
                        self.next = Some(Err(error));
                        break;
                    }
                    self.reading = None;
                    return Err(error);
                }
            };
            match &mut whole {
                None => whole = Some(self.hand_out(ahead)),
                // One that ends where it is to end is handed out by itself.
                Some(_) if self.stop_at.as_ref().is_some_and(|place| self.at.reached(place)) => {
                    self.next = Some(Ok(ahead));
                    break;
                }
                // A page with schemas begins with them; one that is open ends with its transaction.
                Some(_) if !ahead.ready.page.schemas.is_empty() || ahead.ready.page.open => {
                    self.next = Some(Ok(ahead));
                    break;
                }
                Some(page) => {
                    let more = self.hand_out(ahead);
                    join(page, more);
                }
            }
            let Some(page) = &whole else { break };
            if page.open || page.row_count >= limits.max_rows || page.byte_count >= limits.max_bytes
            {
                break;
            }
        }
        let idle = self.wishes().idle && whole.is_none();
        self.gauges.update(|health| health.caught_up = idle);
        Ok(whole)
    }
}

/// Appends a page that has no schemas.
fn join(page: &mut Page, mut more: Page) {
    page.batches.append(&mut more.batches);
    page.states.append(&mut more.states);
    page.quarantined.append(&mut more.quarantined);
    page.has_new_tables |= more.has_new_tables;
    page.row_count += more.row_count;
    page.byte_count += more.byte_count;
    page.transaction_count += more.transaction_count;
    page.committed_at_micros = page.committed_at_micros.max(more.committed_at_micros);
    page.held.merge(more.held);
}

impl Log for MysqlLog {
    type Place = Place;

    fn id(&self) -> &SourceId {
        &self.id
    }

    fn place(&self, text: &str) -> Result<Place, IngestError> {
        text.parse().map_err(|()| IngestError::ForeignPosition {
            at: self.id.clone(),
            position: Position::Log { step: 0, at: text.to_owned() },
        })
    }

    fn end(&self) -> BoxFuture<'static, Result<Place, IngestError>> {
        let (id, config) = (self.id.clone(), self.config.clone());
        Box::pin(async move {
            let mut asking = Asking::connect(&id, &config).await?;
            asking.check().await?;
            asking.end().await
        })
    }

    fn start<'a>(
        &'a mut self,
        at: &'a Place,
        tables: &'a [Arc<TableSchema>],
    ) -> BoxFuture<'a, Result<(), IngestError>> {
        Box::pin(async move {
            self.reading = None;
            self.next = None;
            self.at = at.clone();
            self.events = 0;
            self.tables = tables.iter().map(|t| (t.name().clone(), Arc::clone(t))).collect();
            self.stop_at = None;
            let (opened, agreed) = oneshot::channel();
            let mut reading = self.begin(opened);
            // A reader that fails before says why on its other channel.
            if agreed.await.is_err() {
                return match reading.pages.recv().await {
                    Some(Err(error)) => Err(error),
                    _ => Err(self.ended()),
                };
            }
            self.reading = Some(reading);
            Ok(())
        })
    }

    fn at(&self) -> &Place {
        &self.at
    }

    fn reached(&self, place: &Place) -> bool {
        self.at.reached(place)
    }

    fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.tables.values().cloned().collect()
    }

    fn read(&mut self, limits: CutLimits) -> BoxFuture<'_, Result<Option<Page>, IngestError>> {
        Box::pin(async move { self.read_now(limits) })
    }

    fn stop_at(&mut self, place: Option<&Place>) -> bool {
        self.stop_at = place.cloned();
        let Some(place) = place else { return true };
        if self.at.reached(place) {
            return place.reached(&self.at);
        }
        // What is read ahead may be past it: it is read again.
        self.reading = None;
        self.next = None;
        true
    }

    fn wait(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if self.next.is_none() {
                // Both of an ended reader: what it said, then that it is gone.
                self.next = match self.pages().recv().await {
                    Some(next) => Some(next),
                    None => Some(Err(self.ended())),
                };
            }
        })
    }

    fn leave_out(&mut self, table: &TableName, leave_out: bool) {
        if leave_out {
            self.wishes().leave_out(table);
        } else if self.wishes().take_in(table) {
            // What is read ahead lacks its changes: it is read again.
            self.reading = None;
            self.next = None;
        }
    }

    fn acknowledge(&self) -> Arc<dyn Acknowledge> {
        Arc::new(Keeps)
    }

    fn gauges(&self) -> Arc<Gauges> {
        Arc::clone(&self.gauges)
    }
}

/// The server keeps its binlog as long as it is set to, whoever has read it.
#[derive(Debug)]
struct Keeps;

impl Acknowledge for Keeps {
    fn acknowledge<'a>(
        &'a self,
        _position: &'a Position,
    ) -> BoxFuture<'a, Result<u64, IngestError>> {
        Box::pin(std::future::ready(Ok(0)))
    }
}
