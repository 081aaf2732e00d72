//! Makes pages of whole transactions out of events.

mod define;
mod prepared;
mod survey;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    mem,
    sync::Arc,
};

use medlake_contract::{Op, SchemaChange, SourceId, TableName, TableSchema};

use super::{
    config::Datetimes,
    connect::Flavour,
    ddl,
    error::MysqlError,
    event::{self, Event, kind},
    filter::Filter,
    layout::{self, Layout, Refused, column_named},
    page::{Draft, Mark, Origin},
    place::Place,
    table_map::{self, FixedBytes, TableMap, WireColumn},
};
use crate::{CutLimits, IngestError, source::Page};
use prepared::Prepared;
use survey::{HELD_BYTES, Survey};

/// Table maps that are remembered; a server numbers them anew when it starts.
const MAPS: usize = 4096;

/// A page, and where reading it ends.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) page: Page,
    pub(crate) place: Place,
    /// Events with rows of the transaction that goes on, in this page and those before it.
    pub(crate) events: u64,
}

/// Makes pages of events.
#[derive(Debug)]
pub(crate) struct Assembler {
    source: SourceId,
    filter: Filter,
    flavour: Flavour,
    datetimes: Datetimes,
    limits: CutLimits,
    /// The end of the last whole transaction.
    place: Place,
    /// The file the next events are in.
    file: String,
    /// Whether the server has said yet if checksums follow its events.
    has_format: bool,
    first_file: Vec<u8>,
    /// By name in the source, in lower case.
    tables: HashMap<String, Table>,
    maps: HashMap<u64, Map>,
    draft: Draft,
    current: Option<Current>,
    /// Events with rows that were handed out before reading began again.
    skip: u64,
    /// The tables of the next transaction are known already.
    surveyed: bool,
    /// Events are to be read once more.
    again: bool,
    prepared: Prepared,
    /// Where reading goes on; what is before is read again for what it prepares.
    recalls: Option<Place>,
    /// Where the transaction ends whose events came in one, compressed.
    payload_end: u32,
    /// A page is to end here.
    stop_at: Option<Place>,
    ready: VecDeque<Ready>,
}

/// What is known of a table.
#[derive(Debug, Default)]
struct Table {
    /// As the last page handed it out.
    schema: Option<Arc<TableSchema>>,
    left_out: bool,
    /// It was left out, and may have another key since.
    renewed: bool,
    /// What the catalog says of columns of fixed bytes that nothing is known of.
    fixed: Option<BTreeMap<String, FixedBytes>>,
}

impl Table {
    /// Whether a column may have fixed bytes of which it is not known what they are.
    fn is_unsure_of(&self, column: &WireColumn) -> bool {
        let known = self.schema.as_ref().and_then(|known| column_named(known, &column.name));
        column.may_be_more_than_bytes() && (self.renewed || known.is_none())
    }

    /// Says of fixed bytes what the map does not: what they were known to be, which only statements make
    /// anything else, and these are followed; or what the catalog says.
    fn recognise(&self, map: &mut TableMap) {
        for column in map.columns.iter_mut().filter(|column| column.may_be_more_than_bytes()) {
            let known = self.schema.as_ref().and_then(|known| column_named(known, &column.name));
            column.bytes = match (known, &self.fixed) {
                (_, Some(fixed)) if self.is_unsure_of(column) => {
                    fixed.get(&column.name.to_ascii_lowercase()).copied().unwrap_or_default()
                }
                (Some(known), _) => FixedBytes::of(&known.ty),
                _ => FixedBytes::Plain,
            };
        }
    }
}

/// A table map as it last came.
#[derive(Debug)]
struct Map {
    body: Vec<u8>,
    /// None when its rows are left out.
    layout: Option<Arc<Layout>>,
    key: String,
}

/// The transaction that goes on.
#[derive(Debug, Default)]
struct Current {
    begin: Option<event::Begin>,
    /// It ends with a commit; else its one statement ends it.
    explicit: bool,
    /// How full the draft was before it.
    mark: Mark,
    /// Names of savepoints, and how full the draft was.
    savepoints: Vec<(String, Mark)>,
    /// Its events from the beginning, until some are handed out.
    events: Vec<Event>,
    event_bytes: usize,
    /// Events with rows so far.
    rows_events: u64,
    handed_out: bool,
    survey: Survey,
    committed_at_micros: Option<i64>,
}

impl Current {
    /// Remembers an event, until some are handed out.
    fn keep(&mut self, event: Event) {
        if self.handed_out || self.survey == Survey::Long {
            return;
        }
        self.event_bytes += event.body.len();
        if self.survey == Survey::Short && self.event_bytes > HELD_BYTES {
            self.survey = Survey::Long;
            self.events = Vec::new();
        } else {
            self.events.push(event);
        }
    }
}

impl Assembler {
    /// From `place` on, of whose next transaction `skip` events with rows were handed out.
    pub(crate) fn new(
        source: SourceId,
        filter: Filter,
        flavour: Flavour,
        place: Place,
        skip: u64,
        tables: &[Arc<TableSchema>],
    ) -> Self {
        let known = tables.iter().map(|schema| {
            let table = Table { schema: Some(Arc::clone(schema)), ..Table::default() };
            (schema.name().table().to_owned(), table)
        });
        Self {
            source,
            filter,
            flavour,
            datetimes: Datetimes::default(),
            limits: CutLimits::default(),
            file: place.file.clone(),
            has_format: false,
            first_file: Vec::new(),
            place,
            tables: known.collect(),
            maps: HashMap::new(),
            draft: Draft::default(),
            current: None,
            skip,
            surveyed: skip > 0,
            again: false,
            prepared: Prepared::default(),
            recalls: None,
            payload_end: 0,
            stop_at: None,
            ready: VecDeque::new(),
        }
    }

    /// What `datetime` columns mean.
    pub(crate) fn datetimes(&mut self, datetimes: Datetimes) {
        self.datetimes = datetimes;
    }

    /// Ends a page right at this place, should reading come there.
    pub(crate) fn stop_at(&mut self, place: Option<Place>) {
        self.stop_at = place.filter(|place| !self.place.reached(place));
    }

    pub(crate) fn set_limits(&mut self, limits: CutLimits) {
        self.limits = limits;
    }

    /// Leaves out the changes of a table from here on.
    pub(crate) fn leave_out(&mut self, table: &TableName) {
        self.tables.entry(table.table().to_owned()).or_default().left_out = true;
        self.maps.retain(|_, map| map.key != table.table());
    }

    /// Lets a table have another key than it is known to have.
    pub(crate) fn renew(&mut self, table: &TableName) {
        self.tables.entry(table.table().to_owned()).or_default().renewed = true;
    }

    /// The table whose fixed bytes the catalog is to tell of, to read on with this event: its map does not
    /// tell, and nothing is known of a column, or of what it became while it was left out.
    pub(crate) fn asks_for(&self, event: &Event) -> Option<String> {
        if event.kind != kind::TABLE_MAP || self.flavour != Flavour::MariaDb {
            return None;
        }
        let id = table_map::table_id(&event.body).ok()?;
        if self.maps.get(&id).is_some_and(|map| map.body == event.body) {
            return None;
        }
        let map = table_map::read(&event.body, self.flavour).ok()?;
        let table = self.tables.get(&map.table.to_ascii_lowercase());
        let asks = table.is_none_or(|table| !table.left_out && table.fixed.is_none())
            && self.filter.takes(&map.database, &map.table)
            && map.columns.iter().any(|c| table.is_none_or(|table| table.is_unsure_of(c)));
        asks.then_some(map.table)
    }

    /// Answers [`Self::asks_for`].
    pub(crate) fn told(&mut self, table: &str, fixed: BTreeMap<String, FixedBytes>) {
        self.tables.entry(table.to_ascii_lowercase()).or_default().fixed = Some(fixed);
    }

    /// Whether events are to be read from [`Self::place`] on once more: the columns of the tables
    /// that a large transaction changes are known now.
    pub(crate) fn begins_again(&mut self) -> bool {
        mem::take(&mut self.again)
    }

    /// The end of the last whole transaction.
    pub(crate) fn place(&self) -> &Place {
        &self.place
    }

    pub(crate) fn pop(&mut self) -> Option<Ready> {
        self.ready.pop_front()
    }

    /// Whether there are whole transactions that could be handed out: with something in them, or
    /// only further on.
    pub(crate) fn holds(&self) -> Holds {
        match self.current {
            _ if self.recalls.is_some() => Holds::Nothing,
            Some(_) => Holds::Nothing,
            None if self.draft.is_due() => Holds::News,
            None if self.draft.moved || self.draft.has_news() => Holds::Place,
            None => Holds::Nothing,
        }
    }

    /// Ends the page; only between transactions.
    pub(crate) fn flush(&mut self) -> Result<(), IngestError> {
        if self.current.is_none() && (self.draft.moved || self.draft.has_news()) {
            self.end_page(false)?;
        }
        Ok(())
    }

    fn end_page(&mut self, open: bool) -> Result<(), IngestError> {
        let page = self.draft.finish(&self.source, open)?;
        let events = match &mut self.current {
            Some(current) => {
                current.mark = Mark::default();
                if open { current.rows_events } else { 0 }
            }
            None => 0,
        };
        self.ready.push_back(Ready { page, place: self.place.clone(), events });
        Ok(())
    }

    fn wrong(&self, problem: impl Into<String>) -> IngestError {
        let source = MysqlError::Binlog { place: self.place.to_string(), problem: problem.into() };
        IngestError::Mysql { at: self.source.clone(), source }
    }

    /// Takes the next event.
    pub(crate) fn take(&mut self, event: Event) -> Result<(), IngestError> {
        let short = |what: &str| format!("{what} is cut short");
        match event.kind {
            kind::ROTATE => {
                let mut bytes = super::bytes::Bytes::new(&event.body);
                let offset = bytes.u64().map_err(|_| self.wrong(short("a rotation")))?;
                if bytes.is_empty() {
                    return Err(self.wrong(short("a rotation")));
                }
                // One that is in no file only says where reading begins.
                let made_up = event.timestamp == 0;
                self.file = bytes.rest().escape_ascii().to_string();
                if !self.has_format {
                    // Whether the name has a checksum behind it, the next event tells.
                    self.first_file = bytes.rest().to_vec();
                }
                if !made_up && self.current.is_none() {
                    self.place.file.clone_from(&self.file);
                    self.place.offset = offset;
                    self.draft.moved = true;
                }
            }
            kind::FORMAT => {
                self.maps.clear();
                let name = mem::take(&mut self.first_file);
                if !mem::replace(&mut self.has_format, true) && !name.is_empty() {
                    let checksum = if event.checked { 4 } else { 0 };
                    let name = name.get(..name.len().saturating_sub(checksum)).unwrap_or_default();
                    if name.is_empty() {
                        return Err(self.wrong(short("a rotation")));
                    }
                    self.file = name.escape_ascii().to_string();
                }
            }
            // At the head of a file it says all there was before; where reading begins by GTID, it is
            // made up.
            kind::MARIADB_GTID_LIST
                if self.place.gtids.is_none() && self.current.is_none() && event.end != 0 =>
            {
                self.place.gtids = event::gtid_list(&event.body).ok();
            }
            _ if self.recalls.is_some() => self.recalled(&event)?,
            kind::MARIADB_GTID | kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED => {
                if self.current.as_ref().is_some_and(|c| !c.events.is_empty() || c.handed_out) {
                    return Err(self.wrong("a transaction begins before the last one ended"));
                }
                // The client unpacks it, or hands out nothing of it.
                if self.payload_end > 0 {
                    return Err(self.wrong("a compressed transaction could not be unpacked"));
                }
                let begin = event::begin(&event).map_err(|_| self.wrong(short("a GTID")))?;
                self.begin(Some(begin), event.timestamp);
            }
            kind::QUERY | kind::QUERY_COMPRESSED => {
                let (database, sql) = event::query(event.kind, &event.body)
                    .map_err(|_| self.wrong(short("a statement")))?;
                self.query(&event, &database, &sql)?;
            }
            kind::XID => self.commit(event.end)?,
            kind::XA_PREPARE => {
                let name = event::prepared(&event.body)
                    .map_err(|_| self.wrong(short("a prepared transaction")))?;
                match name {
                    Some(name) => self.prepare(name, event.end)?,
                    None => self.commit(event.end)?,
                }
            }
            kind::TRANSACTION_PAYLOAD => self.payload_end = event.end,
            kind::INCIDENT => {
                self.stop_all("the server says that its binlog lacks changes (an incident event)");
            }
            kind::TABLE_MAP
            | kind::WRITE_V1..=kind::DELETE_V1
            | kind::WRITE..=kind::DELETE
            | kind::PARTIAL_UPDATE
            | kind::WRITE_COMPRESSED_V1..=kind::DELETE_COMPRESSED => self.of_rows(event)?,
            _ => {}
        }
        Ok(())
    }

    fn begin(&mut self, begin: Option<event::Begin>, timestamp: u32) {
        let precise = begin.as_ref().and_then(|b| b.committed_at_micros);
        self.current = Some(Current {
            explicit: begin.as_ref().is_some_and(|b| b.is_mariadb() && !b.alone),
            committed_at_micros: precise.or(Some(i64::from(timestamp) * 1_000_000)),
            begin,
            mark: self.draft.mark(),
            handed_out: self.skip > 0,
            survey: if mem::take(&mut self.surveyed) { Survey::Done } else { Survey::None },
            ..Current::default()
        });
    }

    fn query(&mut self, event: &Event, database: &str, sql: &str) -> Result<(), IngestError> {
        let words: Vec<String> =
            sql.split_whitespace().take(3).map(str::to_ascii_uppercase).collect();
        let first = words.first().map_or("", String::as_str);
        let second = words.get(1).map_or("", String::as_str);
        if self.current.is_none() {
            self.begin(None, event.timestamp);
        }
        let Some(current) = &mut self.current else { return Ok(()) };
        if first == "BEGIN" || (first, second) == ("XA", "START") {
            current.explicit = true;
            return Ok(());
        }
        match (first, second) {
            ("COMMIT", _) => return self.commit(event.end),
            ("ROLLBACK", "TO") => {
                let name = sql.rsplit(char::is_whitespace).next().unwrap_or_default();
                current.keep(event.clone());
                self.roll_back_to(&savepoint(name));
                return Ok(());
            }
            ("ROLLBACK", _) => {
                self.roll_back();
                return self.commit(event.end);
            }
            ("SAVEPOINT", _) => {
                current.savepoints.push((savepoint(second), self.draft.mark()));
                current.keep(event.clone());
                return Ok(());
            }
            ("XA", "COMMIT") => {
                let name = event::xa_name(after_words(sql, 2));
                self.commit_prepared(&name)?;
                return self.commit(event.end);
            }
            ("XA", "ROLLBACK") => {
                self.roll_back_prepared(&event::xa_name(after_words(sql, 2)));
                return self.commit(event.end);
            }
            ("XA", _) => return Ok(()),
            _ => {}
        }
        for ddl in ddl::parse(sql) {
            self.define(database, ddl)?;
        }
        match &self.current {
            Some(current) if current.explicit => Ok(()),
            _ => self.commit(event.end),
        }
    }

    /// Ends the transaction: from here on it counts.
    fn commit(&mut self, end: u32) -> Result<(), IngestError> {
        if self.skip > 0 {
            return Err(self.wrong("the transaction that goes on is shorter than it was"));
        }
        if self.end_survey()? {
            return Ok(());
        }
        let Some(current) = self.ends(end) else { return Ok(()) };
        self.draft.moved = true;
        self.draft.transactions += 1;
        self.draft.committed_at_micros =
            self.draft.committed_at_micros.max(current.committed_at_micros);
        let stops = self.stop_at.take_if(|place| self.place.reached(place)).is_some();
        if current.handed_out || stops || self.is_full() {
            self.end_page(false)?;
        }
        Ok(())
    }

    /// Goes to the end of the transaction that goes on.
    fn ends(&mut self, end: u32) -> Option<Current> {
        let current = self.current.take()?;
        if let Some(gtids) = &mut self.place.gtids
            && let Some(gtid) = current.begin.as_ref().and_then(|b| b.gtid.as_ref())
        {
            gtids.add(gtid);
        }
        self.place.file.clone_from(&self.file);
        let end = if self.payload_end > 0 { mem::take(&mut self.payload_end) } else { end };
        if end > 0 {
            self.place.offset = u64::from(end);
        }
        self.place.since = self.prepared.since();
        Some(current)
    }

    fn is_full(&self) -> bool {
        self.draft.rows() >= self.limits.max_rows || self.draft.bytes >= self.limits.max_bytes
    }

    fn roll_back(&mut self) {
        let Some(current) = &self.current else { return };
        if current.handed_out {
            self.stop_all("a transaction too large to be held back was rolled back");
        } else {
            self.rewind();
        }
    }

    fn roll_back_to(&mut self, name: &str) {
        let Some(current) = &mut self.current else { return };
        if current.survey.is_on() {
            return;
        }
        let found = current.savepoints.iter().rposition(|(n, _)| n == name);
        match found {
            Some(at) if !current.handed_out => {
                current.savepoints.truncate(at + 1);
                let mark = current.savepoints[at].1.clone();
                self.draft.rewind(&mark);
            }
            _ => self.stop_all("a transaction too large to be held back was rolled back in part"),
        }
    }

    fn replay(&mut self, events: Vec<Event>) -> Result<(), IngestError> {
        for event in events {
            if matches!(event.kind, kind::QUERY | kind::QUERY_COMPRESSED) {
                let (database, sql) = event::query(event.kind, &event.body)
                    .map_err(|_| self.wrong("a statement is cut short"))?;
                self.query(&event, &database, &sql)?;
            } else {
                self.of_rows(event)?;
            }
        }
        Ok(())
    }

    /// A table map or rows. What is new in a map takes effect before the transaction.
    fn of_rows(&mut self, event: Event) -> Result<(), IngestError> {
        if self.current.is_none() {
            self.begin(None, event.timestamp);
        }
        if event.kind == kind::TABLE_MAP {
            if let Some(change) = self.map(&event.body)? {
                self.change(change)?;
            }
        } else if !self.is_surveying() {
            self.rows(&event)?;
        }
        let is_full = self.is_full() && self.skip == 0;
        let Some(current) = &mut self.current else { return Ok(()) };
        current.explicit = true;
        current.keep(event);
        match current.survey {
            // What is full has nothing of it so far.
            Survey::None | Survey::Done if is_full && current.rows_events == 0 => {
                self.end_page_before()?;
            }
            Survey::Done if is_full => self.end_page_within()?,
            Survey::None if is_full => {
                current.survey = Survey::Short;
                self.rewind_rows();
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends the page right before the transaction that goes on, of which it has nothing. It must not be
    /// open then: whoever reads on from its place has the transaction from its beginning, as a new one.
    fn end_page_before(&mut self) -> Result<(), IngestError> {
        let current = self.current.take();
        self.end_page(false)?;
        self.current = current;
        if let Some(current) = &mut self.current {
            current.mark = self.draft.mark();
            for (_, mark) in &mut current.savepoints {
                mark.clone_from(&current.mark);
            }
        }
        Ok(())
    }

    /// A transaction that is larger than a page: its rows so far are handed out, and can no longer
    /// be taken back.
    fn end_page_within(&mut self) -> Result<(), IngestError> {
        if let Some(current) = &mut self.current {
            current.handed_out = true;
            current.events = Vec::new();
            current.savepoints.clear();
        }
        self.end_page(true)
    }

    /// Notes a table map; answers what changes by it.
    fn map(&mut self, body: &[u8]) -> Result<Option<SchemaChange>, IngestError> {
        let short = |_| self.wrong("a table map is cut short");
        let id = table_map::table_id(body).map_err(short)?;
        if self.maps.get(&id).is_some_and(|map| map.body == body) {
            return Ok(None);
        }
        let mut map = table_map::read(body, self.flavour).map_err(short)?;
        let key = map.table.to_ascii_lowercase();
        if self.maps.len() >= MAPS {
            self.maps.clear();
        }
        let note = |this: &mut Self, layout| {
            this.maps.insert(id, Map { body: body.to_vec(), layout, key: key.clone() });
        };
        if !self.filter.takes(&map.database, &map.table) {
            note(self, None);
            return Ok(None);
        }
        let table = self.tables.entry(key.clone()).or_default();
        if table.left_out {
            note(self, None);
            return Ok(None);
        }
        let (known, renewed) = (table.schema.clone(), table.renewed);
        if self.flavour == Flavour::MariaDb {
            table.recognise(&mut map);
        }
        let mut layout = match Layout::of(&self.source, &map, known.as_ref(), self.datetimes) {
            Ok(layout) => layout,
            Err(refused) => {
                note(self, None);
                self.refuse(&map.table, refused);
                return Ok(None);
            }
        };
        let change = match known {
            Some(known) if *known == *layout.schema => {
                // One schema for all layouts, so that their rows make one batch.
                layout.schema = known;
                (table.renewed, table.fixed) = (false, None);
                None
            }
            Some(known) if !renewed && !layout::same_identity(&known, &layout.schema) => {
                let name = known.name();
                let refused = Refused {
                    reason: "its key is another than before".to_owned(),
                    remedy: format!("`medlake ingest resync {name}`"),
                };
                note(self, None);
                self.refuse(&map.table, refused);
                return Ok(None);
            }
            _ => Some(SchemaChange { table: Arc::clone(&layout.schema), renamed: Vec::new() }),
        };
        note(self, Some(Arc::new(layout)));
        Ok(change)
    }

    /// Says what changes before the transaction that goes on. What that did until here is done again
    /// after it.
    fn change(&mut self, change: SchemaChange) -> Result<(), IngestError> {
        let name = change.table.name().table().to_owned();
        let Some(current) = &mut self.current else { return Ok(()) };
        if current.handed_out {
            for map in self.maps.values_mut().filter(|map| map.key == name) {
                map.layout = None;
            }
            self.refuse(
                &name,
                Refused {
                    reason: "its columns changed inside a transaction too large to be held back"
                        .to_owned(),
                    remedy: format!("`medlake ingest resync {}`", change.table.name()),
                },
            );
            return Ok(());
        }
        if current.survey.is_on() {
            return self.announce(change);
        }
        let events = mem::take(&mut current.events);
        self.rewind();
        self.announce(change)?;
        self.replay(events)
    }

    /// This page begins with `change`, or the next one does.
    fn announce(&mut self, change: SchemaChange) -> Result<(), IngestError> {
        if !self.draft.announce(&change) {
            self.end_page_before()?;
            self.draft.announce(&change);
        }
        let table = self.tables.entry(change.table.name().table().to_owned()).or_default();
        table.schema = Some(Arc::clone(&change.table));
        (table.renewed, table.fixed) = (false, None);
        if let Some(current) = &mut self.current {
            current.mark = self.draft.mark();
        }
        Ok(())
    }

    fn rows(&mut self, event: &Event) -> Result<(), IngestError> {
        let Some(current) = &mut self.current else { return Ok(()) };
        current.rows_events += 1;
        if self.skip > 0 {
            self.skip -= 1;
            return Ok(());
        }
        let head = event::rows(event.kind, &event.body);
        let head = head.map_err(|_| self.wrong("the head of an event with rows is cut short"))?;
        let Some(map) = self.maps.get(&head.table_id) else {
            // A number without a table map only ends a statement.
            return Ok(());
        };
        let Some(layout) = map.layout.clone() else { return Ok(()) };
        let key = map.key.clone();
        let problem = if event.kind == kind::PARTIAL_UPDATE {
            Some((
                "an update has parts of JSON documents only",
                "SET GLOBAL binlog_row_value_options=''",
            ))
        } else if !head.whole || head.columns != layout.decoders.len() {
            Some(("a change has some of its columns only", "SET GLOBAL binlog_row_image=FULL"))
        } else {
            None
        };
        if let Some((reason, remedy)) = problem {
            let name = layout.schema.name();
            let remedy = format!(
                "`{remedy}`, reconnect all its writers, then `medlake ingest resync {name}`"
            );
            if let Some(map) = self.maps.get_mut(&head.table_id) {
                map.layout = None;
            }
            self.refuse(&key, Refused { reason: reason.to_owned(), remedy });
            return Ok(());
        }
        let op = match event.kind {
            kind::WRITE | kind::WRITE_V1 | kind::WRITE_COMPRESSED | kind::WRITE_COMPRESSED_V1 => {
                Op::Insert
            }
            kind::DELETE
            | kind::DELETE_V1
            | kind::DELETE_COMPRESSED
            | kind::DELETE_COMPRESSED_V1 => Op::Delete,
            _ => Op::Update,
        };
        let packed = event.kind >= kind::WRITE_COMPRESSED_V1;
        let unpacked = if packed { super::column::uncompressed(head.rows) } else { Ok(Vec::new()) };
        let unpacked =
            unpacked.map_err(|_| self.wrong("compressed rows of an event cannot be read"))?;
        let rows = if packed { unpacked.as_slice() } else { head.rows };
        let Some(current) = &self.current else { return Ok(()) };
        let at = self.place_of(current);
        let id = format!("{at}/{}", current.rows_events);
        let committed_at_micros = current.committed_at_micros;
        self.draft.read(&layout, rows, &Origin { op, id: &id, at: &at, committed_at_micros });
        self.draft.bytes += rows.len();
        Ok(())
    }

    /// Names a transaction: by its GTID, or by where the one before it ends.
    fn place_of(&self, current: &Current) -> String {
        match current.begin.as_ref().and_then(|b| b.gtid.as_ref()) {
            Some(gtid) => gtid.to_string(),
            None => format!("{}:{}", self.place.file, self.place.offset),
        }
    }
}

/// What could be handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Nothing,
    /// Nothing but that reading got further, or what tables are from there on.
    Place,
    News,
}

/// What follows so many words.
fn after_words(sql: &str, count: usize) -> &str {
    (0..count).fold(sql.trim(), |rest, _| {
        rest.split_once(char::is_whitespace).map_or("", |(_, rest)| rest.trim_start())
    })
}

/// A savepoint's name without quotes.
fn savepoint(name: &str) -> String {
    name.trim_end_matches(';').trim_matches('`').to_ascii_lowercase()
}
