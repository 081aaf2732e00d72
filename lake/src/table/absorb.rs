//! Taking in what another program committed to a table of ours: rows it added, rows it moved to other
//! files, rows it took away.
//!
//! What was changed here and is in no file yet is newer than anything that was committed: it wins over
//! what the other program did to the same key. Between two committed rows of one key, the one that was
//! committed later wins.

use std::sync::Arc;

use roaring::RoaringBitmap;

use crate::{
    format::data_file::LakeFile,
    table::{
        TableState,
        key::{Keys, Location},
        segment::{Segment, SegmentData},
    },
};

/// Keys of rows of one file: the position of the first, the keys, how many.
pub(crate) type KeysAt = Vec<(u32, Keys, u32)>;

/// A data file that another program added.
pub(crate) struct Arrived {
    pub(crate) file: Arc<LakeFile>,
    /// Deleted by position already.
    pub(crate) dead: Arc<RoaringBitmap>,
    /// Of all its rows; empty for a table without a key.
    pub(crate) keys: KeysAt,
}

/// A data file of ours that another program took away, or deleted rows of.
pub(crate) struct Left {
    pub(crate) segment: u32,
    /// The dead positions that are committed now; none when the whole file went.
    pub(crate) dead: Option<Arc<RoaringBitmap>>,
    /// The positions that lived when we last committed, and do not any more.
    pub(crate) lost: RoaringBitmap,
    /// Of the lost rows, and maybe others; empty for a table without a key.
    pub(crate) keys: KeysAt,
}

/// What another program did to a table since our last commit.
#[derive(Default)]
pub(crate) struct Foreign {
    pub(crate) arrived: Vec<Arrived>,
    pub(crate) left: Vec<Left>,
}

impl TableState {
    /// Takes in what another program committed. Doing it again changes nothing.
    ///
    /// Everything staged must be published: afterwards the present state is the next view.
    pub(crate) fn absorb(&mut self, foreign: &Foreign) {
        self.view = None;
        let nowhere = Location { segment: 0, row: 0 };
        // Keys changed here whose old row the other program moved or deleted.
        let mut changed = self.codec.index(0);
        // Without an index there is nothing to keep right: one that is built later reads the files.
        let loaded = self.index.is_some();
        let mut index = self.index.take().unwrap_or_else(|| self.codec.index(0));
        for left in &foreign.left {
            let Some(segment) = self.segments.get_mut(&left.segment) else { continue };
            for (first, keys, count) in &left.keys {
                for (at, position) in (*first..first.saturating_add(*count)).enumerate() {
                    if !left.lost.contains(position) {
                        continue;
                    }
                    // A row that lives is the one its key leads to.
                    if segment.dead.contains(position) {
                        changed.put(keys, at, nowhere);
                    } else {
                        index.take(keys, at);
                    }
                }
            }
            match (&left.dead, &mut segment.data) {
                (Some(dead), SegmentData::File(file)) => {
                    *Arc::make_mut(&mut segment.dead) |= &**dead;
                    file.committed_dead = Arc::clone(dead);
                }
                _ => {
                    self.segments.remove(&left.segment);
                }
            }
        }
        for arrived in &foreign.arrived {
            let location = &arrived.file.location;
            let mut files = self.segments.values().filter_map(Segment::file);
            if files.any(|known| known.file.location == *location) {
                continue;
            }
            let id = self.next_segment;
            self.next_segment += 1;
            let segment =
                Segment::of_file(id, Arc::clone(&arrived.file), Arc::clone(&arrived.dead));
            self.segments.insert(id, segment);
            for (first, keys, count) in &arrived.keys {
                for (at, row) in (*first..first.saturating_add(*count)).enumerate() {
                    if arrived.dead.contains(row) {
                        continue;
                    }
                    if changed.take(keys, at).is_some() {
                        // There may be more rows of the key.
                        changed.put(keys, at, nowhere);
                        self.kill(Location { segment: id, row });
                        continue;
                    }
                    let Some(before) = index.put(keys, at, Location { segment: id, row }) else {
                        continue;
                    };
                    if self.is_hot(before) {
                        index.put(keys, at, before);
                        self.kill(Location { segment: id, row });
                    } else {
                        self.kill(before);
                    }
                }
            }
        }
        if loaded {
            self.index = Some(index);
        }
    }

    fn is_hot(&self, at: Location) -> bool {
        self.resolve(at)
            .and_then(|at| self.segments.get(&at.segment))
            .is_some_and(|segment| matches!(segment.data, SegmentData::Hot(_)))
    }
}
