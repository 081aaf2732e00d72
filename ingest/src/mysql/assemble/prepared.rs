//! Transactions that are prepared (XA) count when they are committed, however much later that is. Until
//! then they are held, and a place says where reading has to begin to have them again.

use std::mem;

use super::{Assembler, Current, Survey, after_words};
use crate::{
    IngestError, Phase,
    mysql::{
        event::{self, Event, kind},
        layout,
        place::Place,
    },
    source::TableState,
};

/// Bytes of such transactions that are held.
const HELD_BYTES: usize = 64 << 20;

/// Those that are neither committed nor taken back, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Prepared(Vec<One>);

#[derive(Debug)]
struct One {
    name: String,
    /// Where reading begins to come to it next.
    before: Place,
    /// None when they are too many.
    events: Option<Vec<Event>>,
}

impl Prepared {
    fn remove(&mut self, name: &str) -> Option<One> {
        let at = self.0.iter().position(|one| one.name == name)?;
        Some(self.0.remove(at))
    }

    fn add(&mut self, name: String, before: &Place, events: Option<Vec<Event>>) {
        self.remove(&name);
        let bytes = |events: &Option<Vec<Event>>| -> usize {
            events.iter().flatten().map(|event| event.body.len()).sum()
        };
        let held: usize = self.0.iter().map(|one| bytes(&one.events)).sum();
        let fits = held + bytes(&events) <= HELD_BYTES;
        let events = events.filter(|_| fits);
        let before = Place { since: None, ..before.clone() };
        self.0.push(One { name, before, events });
    }

    /// Where reading has to begin to have all of them.
    pub(super) fn since(&self) -> Option<Box<Place>> {
        self.0.first().map(|one| Box::new(one.before.clone()))
    }
}

impl Assembler {
    /// Reads what is before `place` from `since` on for nothing but what it prepares.
    pub(crate) fn recall(&mut self, since: &Place, place: Place) {
        self.file.clone_from(&since.file);
        self.place = Place { server: place.server.clone(), ..since.clone() };
        self.recalls = Some(place);
    }

    /// Takes the next event from before where reading goes on.
    pub(super) fn recalled(&mut self, event: &Event) -> Result<(), IngestError> {
        let short = |what: &str| self.wrong(format!("{what} is cut short"));
        let mut ended = false;
        match event.kind {
            kind::MARIADB_GTID | kind::GTID | kind::ANONYMOUS_GTID | kind::GTID_TAGGED => {
                let begin = event::begin(event).map_err(|_| short("a GTID"))?;
                let explicit = begin.is_mariadb() && !begin.alone;
                self.current = Some(Current { explicit, begin: Some(begin), ..Current::default() });
            }
            kind::QUERY | kind::QUERY_COMPRESSED => {
                let (_, sql) =
                    event::query(event.kind, &event.body).map_err(|_| short("a statement"))?;
                let current = self.current.get_or_insert_default();
                let upper = sql.trim_start().to_ascii_uppercase();
                let is = |start: &str| upper.starts_with(start);
                if is("XA COMMIT") || is("XA ROLLBACK") {
                    self.prepared.remove(&event::xa_name(after_words(&sql, 2)));
                    ended = true;
                } else if is("BEGIN") || is("XA START") {
                    current.explicit = true;
                } else if is("SAVEPOINT") || is("ROLLBACK TO") {
                    current.keep(event.clone());
                } else if is("COMMIT") || is("ROLLBACK") {
                    ended = true;
                } else {
                    ended = !current.explicit && !is("XA");
                }
            }
            kind::XID => ended = true,
            kind::XA_PREPARE => {
                let name =
                    event::prepared(&event.body).map_err(|_| short("a prepared transaction"))?;
                if let (Some(name), Some(current)) = (name, self.current.as_mut()) {
                    let events = mem::take(&mut current.events);
                    let events = (current.survey != Survey::Long).then_some(events);
                    self.prepared.add(name, &self.place, events);
                }
                ended = true;
            }
            kind::TRANSACTION_PAYLOAD => self.payload_end = event.end,
            kind::TABLE_MAP
            | kind::WRITE_V1..=kind::DELETE_V1
            | kind::WRITE..=kind::DELETE
            | kind::PARTIAL_UPDATE
            | kind::WRITE_COMPRESSED_V1..=kind::DELETE_COMPRESSED => {
                let current = self.current.get_or_insert_default();
                current.explicit = true;
                // No more of it are held than of one that is read for the first time.
                current.survey =
                    if current.survey == Survey::None { Survey::Short } else { current.survey };
                current.keep(event.clone());
            }
            _ => {}
        }
        if ended {
            self.ends(event.end);
            if let Some(place) = self.recalls.take_if(|place| self.place.reached(place)) {
                self.place = Place { since: self.prepared.since(), ..place };
                self.maps.clear();
            }
        }
        Ok(())
    }

    /// Holds a prepared transaction back until it is committed.
    pub(super) fn prepare(&mut self, name: String, end: u32) -> Result<(), IngestError> {
        if let Some(current) = &mut self.current {
            let is_held = !current.handed_out && current.survey != Survey::Long;
            let events = is_held.then(|| mem::take(&mut current.events));
            let handed_out = current.handed_out;
            self.prepared.add(name, &self.place, events);
            if handed_out {
                self.copy_all("part of a transaction counts that was only prepared (XA)");
            } else {
                self.rewind();
            }
        }
        self.commit(end)
    }

    pub(super) fn commit_prepared(&mut self, name: &str) -> Result<(), IngestError> {
        let Some(events) = self.prepared.remove(name).and_then(|one| one.events) else {
            self.copy_all(
                "a transaction was committed (XA) whose changes are not known: it is too large, or \
                 was prepared before reading began",
            );
            return Ok(());
        };
        // All of it is here: no survey is needed.
        for map in events.iter().filter(|event| event.kind == kind::TABLE_MAP) {
            if let Some(change) = self.map(&map.body)? {
                self.change(change)?;
            }
        }
        if let Some(current) = &mut self.current {
            current.survey = Survey::Done;
        }
        self.replay(events)
    }

    pub(super) fn roll_back_prepared(&mut self, name: &str) {
        self.prepared.remove(name);
    }

    /// Which rows of which tables are others than thought is not known: asks for all of them.
    fn copy_all(&mut self, reason: &str) {
        let taken = self.tables.iter().filter(|(_, t)| t.schema.is_some() && !t.left_out);
        let names = taken.filter_map(|(name, _)| layout::table_name(&self.source, name).ok());
        let states = names.map(|name| TableState {
            reason: Some(reason.to_owned()),
            ..TableState::new(name, Phase::Snapshotting, 0)
        });
        self.draft.states.extend(states);
    }
}
