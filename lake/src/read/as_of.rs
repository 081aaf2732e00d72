//! Reading the past: views and tables as of a snapshot or a time.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    io::ErrorKind,
    str::FromStr,
    sync::Arc,
};

use arrow::{
    array::TimestampMicrosecondArray, compute::kernels::cast_utils::string_to_timestamp_nanos,
    util::display::array_value_to_string,
};
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{SnapshotRef, TableMetadata};
use medlake_contract::{Positions, TableName};

use crate::{
    commit::table::CommittedTable,
    error::LakeError,
    format::{progress::Progress, schema::Shape},
    open::open_files,
    read::{
        holds::Holds,
        view::{ReadView, TableView},
    },
    storage::Storage,
    table::segment::Segment,
};

/// Tables whose manifests are read at the same time.
const LOADERS: usize = 4;

/// A point of the past.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AsOf {
    /// The commit that made this snapshot of one of the tables.
    Snapshot(i64),
    /// The newest commit at or before this time, in microseconds since 1970 (UTC).
    Time(i64),
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(id) => write!(f, "snapshot {id}"),
            Self::Time(micros) => f.write_str(&time_text(*micros)),
        }
    }
}

impl FromStr for AsOf {
    type Err = LakeError;

    /// A snapshot id, or a time such as `2026-11-20`, `2026-11-20 10:00:00` or
    /// `2026-11-20T18:00:00+08:00`; UTC where it does not say its offset.
    fn from_str(text: &str) -> Result<Self, LakeError> {
        let text = text.trim();
        if let Ok(id) = text.parse() {
            return Ok(Self::Snapshot(id));
        }
        string_to_timestamp_nanos(text)
            .map(|nanos| Self::Time(nanos.div_euclid(1_000)))
            .map_err(|_| LakeError::AsOfText { text: text.to_owned() })
    }
}

/// A time as ISO 8601, UTC.
pub(crate) fn time_text(micros: i64) -> String {
    let time = TimestampMicrosecondArray::from(vec![micros]).with_timezone("UTC");
    array_value_to_string(&time, 0).unwrap_or_else(|_| format!("{micros} microseconds"))
}

/// What a view knows of the tables' past: their metadata as it was committed last.
#[derive(Debug)]
pub(crate) struct Past {
    pub(crate) tables: BTreeMap<TableName, Arc<CommittedTable>>,
    pub(crate) holds: Arc<Holds>,
    storage: Storage,
}

impl Past {
    /// Of a lake without tables, whose files are in `storage`.
    pub(crate) fn new(storage: Storage) -> Self {
        Self { tables: BTreeMap::new(), holds: Arc::default(), storage }
    }

    fn with(&self, tables: BTreeMap<TableName, Arc<CommittedTable>>) -> Arc<Self> {
        let (holds, storage) = (Arc::clone(&self.holds), self.storage.clone());
        Arc::new(Self { tables, holds, storage })
    }

    /// The past with `tables` as they are now; what did not change is shared.
    pub(crate) fn next<'a>(&self, tables: impl Iterator<Item = &'a CommittedTable>) -> Arc<Self> {
        let tables = tables.map(|table| {
            let known = self.tables.get(&table.name).filter(|k| k.is_same(table));
            (table.name.clone(), known.map_or_else(|| Arc::new(table.for_readers()), Arc::clone))
        });
        self.with(tables.collect())
    }

    /// One table as of a snapshot of it, a branch or tag of it, or a time.
    pub(crate) async fn table_as_of(
        &self,
        name: &TableName,
        text: &str,
    ) -> Result<(Arc<CommittedTable>, Arc<TableView>), LakeError> {
        self.open(&self.point(name, text)?).await
    }

    /// The point of a table's past that a text stands for: a snapshot of it, a branch or tag of it, or
    /// a time.
    pub(crate) fn point(&self, name: &TableName, text: &str) -> Result<Point, LakeError> {
        let Some(table) = self.tables.get(name) else {
            let problem = "another program writes it, and it can only be read as it is now";
            return Err(cannot(name, &text, problem));
        };
        let table = Arc::clone(table);
        if let Some(snapshot) = table.metadata.snapshot_for_ref(text) {
            let snapshot = Some(Arc::clone(snapshot));
            return Ok(Point { table, snapshot, as_of: text.to_owned() });
        }
        let as_of: AsOf = text.parse()?;
        let snapshot = match as_of {
            AsOf::Snapshot(id) => {
                let found = table.metadata.snapshot_by_id(id);
                let problem = "it is not a snapshot of this table, or no longer";
                Some(Arc::clone(found.ok_or_else(|| cannot(name, &as_of, problem))?))
            }
            AsOf::Time(_) => snapshot_at(&table, &self.cut(as_of)?)?,
        };
        Ok(Point { table, snapshot, as_of: as_of.to_string() })
    }

    /// Opens a table at a point of its past.
    pub(crate) async fn open(
        &self,
        point: &Point,
    ) -> Result<(Arc<CommittedTable>, Arc<TableView>), LakeError> {
        let (name, snapshot) = (&point.table.name, point.snapshot.as_ref());
        let gone = || cannot(name, &point.as_of, "the snapshot has expired");
        let hold = match snapshot {
            None => None,
            Some(s) => Some(self.holds.hold(name, s.sequence_number()).ok_or_else(gone)?),
        };
        let table = point.table.at(&self.storage, snapshot).await.map_err(|error| match error {
            // A process that only reads cannot hold what the writer removes.
            LakeError::File { source, .. } if source.kind() == ErrorKind::NotFound => gone(),
            error => error,
        })?;
        let segments = (0..)
            .zip(open_files(&self.storage, &table).await?)
            .map(|(id, (file, dead))| Segment::of_file(id, file, Arc::new(dead)))
            .collect();
        let picture = TableView::new(Arc::new(point.shape()?), segments).held_by(hold);
        Ok((Arc::new(table), Arc::new(picture)))
    }

    /// The commit a point of the past stands for.
    fn cut(&self, as_of: AsOf) -> Result<Cut, LakeError> {
        let time_ms = match as_of {
            AsOf::Time(micros) => micros.div_euclid(1_000),
            AsOf::Snapshot(id) => {
                let found = self
                    .tables
                    .values()
                    .find_map(|t| Some((&t.name, Arc::clone(t.metadata.snapshot_by_id(id)?))));
                let (name, snapshot) = found.ok_or(LakeError::UnknownSnapshot { id })?;
                let time_ms = snapshot.timestamp_ms();
                if let Some(progress) = progress_of(name, &snapshot)? {
                    return Ok(Cut { progress: Some(progress), time_ms });
                }
                time_ms
            }
        };
        // A commit is as late as the latest of its snapshots: a clock that went back may have moved
        // single ones on.
        let mut commits: HashMap<String, (i64, Progress)> = HashMap::new();
        for table in self.tables.values() {
            for snapshot in ancestors(&table.metadata) {
                let Some(progress) = progress_of(&table.name, snapshot)? else { continue };
                let commit = commits
                    .entry(progress.commit_id.clone())
                    .or_insert_with(|| (snapshot.timestamp_ms(), progress));
                commit.0 = commit.0.max(snapshot.timestamp_ms());
            }
        }
        let progress = commits
            .into_values()
            .filter(|(at, _)| *at <= time_ms)
            .map(|(_, progress)| progress)
            .max_by_key(order);
        Ok(Cut { progress, time_ms })
    }
}

/// A point of one table's past.
#[derive(Debug, Clone)]
pub(crate) struct Point {
    table: Arc<CommittedTable>,
    /// None when the table was empty.
    snapshot: Option<SnapshotRef>,
    /// How it was asked for.
    as_of: String,
}

impl Point {
    /// The columns of then.
    pub(crate) fn shape(&self) -> Result<Shape, LakeError> {
        match &self.snapshot {
            None => self.table.shape(),
            Some(snapshot) => self.table.shape_at(snapshot),
        }
    }
}

/// One commit of the whole lake.
struct Cut {
    /// What its snapshots say; none when there was no commit yet.
    progress: Option<Progress>,
    /// For snapshots that other programs made.
    time_ms: i64,
}

/// Commits are in this order, whatever the clock said.
pub(crate) fn order(progress: &Progress) -> (i64, u64) {
    (progress.epoch, progress.view_version)
}

pub(crate) fn progress_of(
    table: &TableName,
    snapshot: &SnapshotRef,
) -> Result<Option<Progress>, LakeError> {
    Progress::read(table, &snapshot.summary().additional_properties)
}

/// The snapshots of the main branch that are still there, newest first.
pub(crate) fn ancestors(metadata: &TableMetadata) -> impl Iterator<Item = &SnapshotRef> {
    std::iter::successors(metadata.current_snapshot(), |snapshot| {
        let parent = metadata.snapshot_by_id(snapshot.parent_snapshot_id()?)?;
        // Damaged metadata could lead in a circle.
        (parent.sequence_number() < snapshot.sequence_number()
            || parent.timestamp_ms() < snapshot.timestamp_ms())
        .then_some(parent)
    })
}

/// The newest snapshot of a table that is not after the cut; none when the table was empty.
fn snapshot_at(table: &CommittedTable, cut: &Cut) -> Result<Option<SnapshotRef>, LakeError> {
    let mut oldest = None;
    for snapshot in ancestors(&table.metadata) {
        let contained = match progress_of(&table.name, snapshot)? {
            Some(progress) => {
                cut.progress.as_ref().is_some_and(|cut| order(&progress) <= order(cut))
            }
            None => snapshot.timestamp_ms() <= cut.time_ms,
        };
        if contained {
            return Ok(Some(Arc::clone(snapshot)));
        }
        oldest = Some(snapshot);
    }
    match oldest {
        Some(oldest) if oldest.parent_snapshot_id().is_some() => {
            let at = time_text(oldest.timestamp_ms().saturating_mul(1_000));
            let problem = format!("its oldest snapshot kept is of {at}");
            Err(cannot(&table.name, &AsOf::Time(cut.time_ms.saturating_mul(1_000)), &problem))
        }
        _ => Ok(None),
    }
}

fn cannot(table: &TableName, as_of: &dyn fmt::Display, problem: &str) -> LakeError {
    LakeError::AsOf { table: table.clone(), as_of: as_of.to_string(), problem: problem.to_owned() }
}

impl ReadView {
    /// All tables as they were at one commit of the past, with the columns they had then: no commit
    /// is contained in part. Rows that were only in memory then are not in it, nor are tables that
    /// other programs write. A table whose snapshots reach less far back is left out, and says so to
    /// whom asks for it. While the view (or a query on it) is held, its files stay.
    ///
    /// # Errors
    /// [`LakeError::UnknownSnapshot`]; what could not be read.
    pub async fn as_of(&self, as_of: AsOf) -> Result<Arc<Self>, LakeError> {
        let cut = self.past.cut(as_of)?;
        let points = self.past.tables.values().map(|table| {
            let snapshot = snapshot_at(table, &cut);
            let (name, table, as_of) = (table.name.clone(), Arc::clone(table), as_of.to_string());
            (name, snapshot.map(|snapshot| Point { table, snapshot, as_of }))
        });
        let points: Vec<_> = points.collect();
        let opened: Vec<_> = futures::stream::iter(points)
            .map(|(name, point)| async move {
                let opened = match point {
                    Ok(point) => self.past.open(&point).await,
                    Err(error) => Err(error),
                };
                match opened {
                    Ok(opened) => Ok((name, Ok(opened))),
                    Err(error @ (LakeError::AsOf { .. } | LakeError::Unsupported { .. })) => {
                        Ok((name, Err(error)))
                    }
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(LOADERS)
            .try_collect()
            .await?;
        let (mut past, mut tables) = (BTreeMap::new(), BTreeMap::new());
        let mut left_out = BTreeMap::new();
        for (name, opened) in opened {
            match opened {
                Ok((committed, table)) => {
                    past.insert(name.clone(), committed);
                    tables.insert(name, table);
                }
                Err(error) => {
                    left_out.insert(name, Arc::new(error));
                }
            }
        }
        Ok(Arc::new(Self {
            version: cut.progress.as_ref().map_or(0, |p| p.view_version),
            committed_at_micros: cut.progress.as_ref().and_then(|p| p.committed_at_micros),
            positions: cut.progress.map_or_else(Positions::new, |p| p.positions),
            tables,
            left_out,
            past: self.past.with(past),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_of_the_past_in_text() {
        let of = |text: &str| text.parse::<AsOf>();
        assert_eq!(of("8811").unwrap(), AsOf::Snapshot(8811));
        let day = 1_795_132_800_000_000;
        assert_eq!(of("2026-11-20").unwrap(), AsOf::Time(day));
        assert_eq!(of("2026-11-20T00:00:00Z").unwrap(), AsOf::Time(day));
        assert_eq!(of("2026-11-20 08:00:00.000001+08:00").unwrap(), AsOf::Time(day + 1));
        assert_eq!(AsOf::Time(day).to_string(), "2026-11-20T00:00:00Z");
        for wrong in ["", "yesterday", "2026-13-01", "12x"] {
            let error = of(wrong).unwrap_err();
            assert!(matches!(error, LakeError::AsOfText { .. }), "{wrong}: {error}");
        }
    }
}
