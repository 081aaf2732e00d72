use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use medlake_contract::{ChangeSet, Position, Positions, SourceId, TableSchema};

use crate::{
    EmbeddedSource, IngestError, Wake,
    embedded::{Page, Trimmer},
};

/// Where a cut ends.
///
/// Both are reached before they are looked at: a transaction is never cut, so a cut may be larger
/// by its last transaction, and a transaction larger than the limits is a cut of its own. The copy
/// of existing rows at first contact is one cut too, however many they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutLimits {
    /// Row changes.
    pub max_rows: usize,
    /// Bytes of row images as the source stores them; columns in memory take about as much.
    pub max_bytes: usize,
}

impl Default for CutLimits {
    fn default() -> Self {
        Self { max_rows: 50_000, max_bytes: 32 << 20 }
    }
}

/// Reads several sources, each from its position on, into one sequence of cuts.
///
/// Per source, transactions come whole and in commit order, across its tables. Between sources
/// there is no order. Every source that moved has a share of each cut, so a source that is far
/// behind does not hold up the others.
#[derive(Debug)]
pub struct Ingest {
    sources: Vec<Reading>,
    wake: Wake,
    acknowledger: Acknowledger,
    /// Which source is asked first, so that a tight limit is not always the same one's.
    first: usize,
}

#[derive(Debug)]
struct Reading {
    source: EmbeddedSource,
    position: Option<u64>,
    delivered: Arc<AtomicU64>,
}

impl Ingest {
    /// Reads `sources` on from `resume_from`. A source that is not in it is met for the first
    /// time: its rows are copied as they are if their changes are no longer all there.
    ///
    /// # Errors
    /// When two sources have one name; when a position is older than what a source still has, or
    /// newer than what it ever had; when `resume_from` names a source that is not there.
    pub async fn open(
        sources: Vec<EmbeddedSource>,
        resume_from: &Positions,
        wake: Wake,
    ) -> Result<Self, IngestError> {
        let wrong = |at: &SourceId, problem| IngestError::Source { at: at.clone(), problem };
        if let Some(missing) = resume_from.keys().find(|k| sources.iter().all(|s| s.id() != *k)) {
            return Err(wrong(missing, "has a position to resume from but is not opened"));
        }
        let mut trimmers = BTreeMap::new();
        let mut readings = Vec::with_capacity(sources.len());
        for mut source in sources {
            let position = match resume_from.get(source.id()) {
                Some(position) => Some(source.check_resume(position).await?),
                None => None,
            };
            let delivered = Arc::new(AtomicU64::new(position.unwrap_or(0)));
            let target = (source.trimmer(), Arc::clone(&delivered));
            if trimmers.insert(source.id().clone(), target).is_some() {
                return Err(wrong(source.id(), "is opened twice"));
            }
            readings.push(Reading { source, position, delivered });
        }
        let acknowledger = Acknowledger { targets: Arc::new(trimmers) };
        Ok(Self { sources: readings, wake, acknowledger, first: 0 })
    }

    /// The tables of all sources, named `source.table`.
    #[must_use]
    pub fn tables(&self) -> Vec<Arc<TableSchema>> {
        self.sources.iter().flat_map(|s| s.source.tables()).collect()
    }

    /// The next cut; waits until there is one. It holds at least one transaction, or a copy of
    /// existing rows.
    ///
    /// Cancel-safe: what a cancelled call has read, the next one reads again.
    ///
    /// # Errors
    /// When a source cannot be read or a change cannot be decoded. The positions stay where they
    /// were: a call after a passing fault goes on without loss.
    pub async fn next(&mut self, limits: CutLimits) -> Result<ChangeSet, IngestError> {
        loop {
            if let Some(cut) = self.read(limits).await? {
                return Ok(cut);
            }
            self.wake.wait().await;
        }
    }

    /// The next cut if there is one already.
    ///
    /// # Errors
    /// As [`Ingest::next`].
    pub async fn try_next(&mut self, limits: CutLimits) -> Result<Option<ChangeSet>, IngestError> {
        self.read(limits).await
    }

    /// As [`Acknowledger::acknowledge`].
    ///
    /// # Errors
    /// As [`Acknowledger::acknowledge`].
    pub async fn acknowledge(&self, positions: &Positions) -> Result<u64, IngestError> {
        self.acknowledger.acknowledge(positions).await
    }

    /// A handle to acknowledge with while another task waits for the next cut.
    #[must_use]
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }

    async fn read(&mut self, limits: CutLimits) -> Result<Option<ChangeSet>, IngestError> {
        let count = self.sources.len();
        let order: Vec<usize> = (0..count).map(|i| (self.first + i) % count).collect();
        let mut moved = Vec::with_capacity(count);
        for index in order {
            if self.sources[index].source.moved().await? {
                moved.push(index);
            }
        }
        let mut pages: Vec<(usize, Page)> = Vec::new();
        let mut rows = limits.max_rows;
        let mut bytes = limits.max_bytes;
        for (asked, &index) in moved.iter().enumerate() {
            if !pages.is_empty() && (rows == 0 || bytes == 0) {
                break;
            }
            // What earlier sources left is shared by those that are still to be asked.
            let share = moved.len() - asked;
            let reading = &mut self.sources[index];
            let (max_rows, max_bytes) = (rows.div_ceil(share), bytes.div_ceil(share));
            if let Some(page) = reading.source.read(reading.position, max_rows, max_bytes).await? {
                rows = rows.saturating_sub(page.row_count);
                bytes = bytes.saturating_sub(page.byte_count);
                pages.push((index, page));
            }
        }
        // Nothing is awaited from here on: either all sources have moved on, or none has.
        self.first = (self.first + 1) % count.max(1);
        Ok((!pages.is_empty()).then(|| self.deliver(pages)))
    }

    fn deliver(&mut self, pages: Vec<(usize, Page)>) -> ChangeSet {
        let mut cut = ChangeSet::default();
        for (index, page) in pages {
            let reading = &mut self.sources[index];
            reading.source.delivered(&page);
            reading.position = Some(page.last_change_id);
            // Release: whoever reads this in `acknowledge` got the cut from here by some channel.
            reading.delivered.store(page.last_change_id, Ordering::Release);
            cut.positions
                .insert(reading.source.id().clone(), Position::ChangeId(page.last_change_id));
            cut.batches.extend(page.batches);
            cut.committed_at_micros = cut.committed_at_micros.max(page.committed_at_micros);
            cut.transaction_count += page.transaction_count;
        }
        cut
    }
}

/// Tells sources what they may forget. Clones are the same handle.
#[derive(Debug, Clone)]
pub struct Acknowledger {
    targets: Arc<BTreeMap<SourceId, (Trimmer, Arc<AtomicU64>)>>,
}

impl Acknowledger {
    /// Lets the sources forget what is at or before `positions`, which must be durable at the
    /// reader's, and answers how many changes they forgot. Goes in chunks, each a transaction of
    /// its own that a service waits for at most some milliseconds; stopping in between is fine.
    ///
    /// # Errors
    /// When a position was never handed out (nothing is deleted then), or a source cannot be
    /// written. Doing it again is always right.
    pub async fn acknowledge(&self, positions: &Positions) -> Result<u64, IngestError> {
        let mut accepted = Vec::with_capacity(positions.len());
        for (at, position) in positions {
            let (trimmer, delivered) = self.targets.get(at).ok_or_else(|| IngestError::Source {
                at: at.clone(),
                problem: "is acknowledged but is not opened",
            })?;
            let Position::ChangeId(change_id) = *position else {
                return Err(IngestError::ForeignPosition {
                    at: at.clone(),
                    position: position.clone(),
                });
            };
            let delivered = delivered.load(Ordering::Acquire);
            if change_id > delivered {
                return Err(IngestError::NotDelivered {
                    at: at.clone(),
                    position: position.clone(),
                    delivered: Position::ChangeId(delivered),
                });
            }
            accepted.push((trimmer, change_id));
        }
        let mut trimmed = 0;
        for (trimmer, change_id) in accepted {
            trimmed += trimmer.trim(change_id).await?;
        }
        Ok(trimmed)
    }
}
