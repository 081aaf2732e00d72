//! Equality deletes: rows of other writers' tables that are dead because they have the values of a
//! delete file. Only ever read; they become dead positions when a table's files are opened.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    error::ArrowError,
    row::{RowConverter, SortField},
};
use futures::TryStreamExt;
use iceberg::spec::{DataContentType, DataFileFormat, Struct};
use medlake_contract::TableName;
use roaring::RoaringBitmap;
use tokio::runtime::Handle;

use crate::{
    commit::table::CommittedTable,
    error::LakeError,
    format::{data_file::LakeFile, schema::Shape},
    storage::{Storage, blocking},
};

/// The columns compared, by field id, and the partition it is about; none is the whole table.
type Scope = (Vec<i32>, Option<(i32, Struct)>);

/// Delete files that compare the same columns, and the data files they are about.
struct Group {
    shape: Shape,
    /// The columns, as places in the shape.
    columns: Vec<usize>,
    /// With their sequence numbers.
    deletes: Vec<(Arc<LakeFile>, i64)>,
    /// The place in the list of data files, the file, its sequence number.
    data: Vec<(usize, Arc<LakeFile>, i64)>,
}

/// Adds to the dead positions of each data file, in the order the table lists them, the rows that
/// later equality deletes name. A delete is about rows of earlier commits alone, and about its own
/// partition, or about all when it was written without one.
pub(crate) async fn resolve(
    storage: &Storage,
    committed: &CommittedTable,
    files: &mut [(Arc<LakeFile>, RoaringBitmap)],
) -> Result<(), LakeError> {
    let groups = groups(storage, committed, files)?;
    if groups.is_empty() {
        return Ok(());
    }
    let runtime = Handle::current();
    let table = committed.name.clone();
    let found = blocking(move || {
        let mut found = Vec::new();
        for group in &groups {
            found.extend(runtime.block_on(group.dead(&table))?);
        }
        Ok(found)
    })
    .await?;
    for (at, dead) in found {
        if let Some((_, known)) = files.get_mut(at) {
            *known |= dead;
        }
    }
    Ok(())
}

fn groups(
    storage: &Storage,
    committed: &CommittedTable,
    files: &[(Arc<LakeFile>, RoaringBitmap)],
) -> Result<Vec<Group>, LakeError> {
    let table = &committed.name;
    let unsupported = |feature: String| LakeError::Unsupported { table: table.clone(), feature };
    let mut groups: HashMap<Scope, Group> = HashMap::new();
    for entry in committed.delete_files() {
        if entry.file.content_type() != DataContentType::EqualityDeletes {
            continue;
        }
        if entry.file.file_format() != DataFileFormat::Parquet {
            let format = entry.file.file_format();
            return Err(unsupported(format!("equality deletes of format {format:?}")));
        }
        let mut ids = entry.file.equality_ids().unwrap_or_default();
        ids.sort_unstable();
        let spec = committed.spec(entry.spec_id)?;
        let scope: Scope = (ids, (!spec.is_unpartitioned()).then(|| entry.partition()));
        let file = Arc::new(LakeFile::open(storage, table, spec, &entry.file)?);
        if let Some(group) = groups.get_mut(&scope) {
            group.deletes.push((file, entry.sequence));
            continue;
        }
        let (shape, columns) = shape_with(committed, &scope.0)?;
        let deletes = vec![(file, entry.sequence)];
        groups.insert(scope, Group { shape, columns, deletes, data: Vec::new() });
    }
    for ((_, partition), group) in &mut groups {
        let last = group.deletes.iter().map(|(_, sequence)| *sequence).max();
        for (at, (entry, (file, _))) in committed.data_files().zip(files).enumerate() {
            let about = partition.as_ref().is_none_or(|p| *p == entry.partition());
            if about && Some(entry.sequence) < last {
                group.data.push((at, Arc::clone(file), entry.sequence));
            }
        }
    }
    Ok(groups.into_values().filter(|group| !group.data.is_empty()).collect())
}

/// The newest columns of the table that have all of these ids; they may have been dropped since.
fn shape_with(committed: &CommittedTable, ids: &[i32]) -> Result<(Shape, Vec<usize>), LakeError> {
    let mut schemas: Vec<_> = committed.metadata.schemas_iter().collect();
    schemas
        .sort_by_key(|s| (s.schema_id() == committed.metadata.current_schema_id(), s.schema_id()));
    for schema in schemas.into_iter().rev() {
        let places: Option<Vec<usize>> = ids
            .iter()
            .map(|id| schema.as_struct().fields().iter().position(|field| field.id == *id))
            .collect();
        if let Some(places) = places.filter(|places| !places.is_empty()) {
            let shape = Shape::at(&committed.name, &committed.metadata, schema)?;
            if places.iter().all(|&at| !shape.schema().columns()[at].ty.is_nested()) {
                return Ok((shape, places));
            }
        }
    }
    Err(LakeError::Unsupported {
        table: committed.name.clone(),
        feature: format!("equality deletes by fields inside columns (ids {ids:?})"),
    })
}

impl Group {
    async fn dead(&self, table: &TableName) -> Result<Vec<(usize, RoaringBitmap)>, LakeError> {
        let arrow = |source: ArrowError| LakeError::Arrow {
            doing: "resolve equality deletes",
            table: table.clone(),
            source,
        };
        let columns = self.shape.schema().columns();
        let fields = self.columns.iter().map(|&at| SortField::new(columns[at].ty.arrow()));
        let converter = RowConverter::new(fields.collect()).map_err(arrow)?;
        // Of each value the latest delete: earlier ones are about fewer rows.
        let mut deleted: HashMap<Box<[u8]>, i64> = HashMap::new();
        for (file, sequence) in &self.deletes {
            let mut batches = file.read(&self.shape, &self.columns).await?;
            while let Some((_, batch)) = batches.try_next().await? {
                let rows = converter.convert_columns(batch.columns()).map_err(arrow)?;
                for row in &rows {
                    let last = deleted.entry(row.as_ref().into()).or_insert(*sequence);
                    *last = (*last).max(*sequence);
                }
            }
        }
        let mut found = Vec::with_capacity(self.data.len());
        for (at, file, sequence) in &self.data {
            let mut dead = RoaringBitmap::new();
            let mut batches = file.read(&self.shape, &self.columns).await?;
            while let Some((first, batch)) = batches.try_next().await? {
                let rows = converter.convert_columns(batch.columns()).map_err(arrow)?;
                for (row, position) in rows.iter().zip(first..) {
                    let row: &[u8] = row.as_ref();
                    if deleted.get(row).is_some_and(|last| last > sequence) {
                        dead.insert(position);
                    }
                }
            }
            found.push((*at, dead));
        }
        Ok(found)
    }
}
