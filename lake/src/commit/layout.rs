//! How the rows of one table are cut into data files: by partition, in the table's sort order, to
//! its target size.

use std::sync::Arc;

use arrow::{
    array::ArrayRef,
    compute::{SortOptions, concat, interleave_record_batch},
    error::ArrowError,
    record_batch::RecordBatch,
    row::{RowConverter, Rows, SortField},
};
use iceberg::spec::{
    NullOrder, PartitionSpecRef, PrimitiveType, SortDirection, Struct, TableMetadata, Transform,
};
use parquet::file::properties::WriterProperties;
use uuid::Uuid;

use crate::{
    commit::manifest::NewEntry,
    error::LakeError,
    format::{
        data_file::{DataFileWriter, FileKind, LakeFile, fitted, writer_properties},
        partition,
        schema::{Shape, metadata_error},
    },
    options::{FormatVersion, TableOptions},
    storage::WriteScope,
    table::forward::Order,
};

/// So many rows at most are sorted together: what bounds the memory a flush takes beside its rows.
const SORTED_ROWS: usize = 1 << 20;
/// Rows handed to a file at once.
const BATCH_ROWS: usize = 8_192;

/// A column by whose value, or a part of it, rows are told apart or ordered.
#[derive(Debug, Clone)]
struct Term {
    column: usize,
    transform: Transform,
    options: SortOptions,
}

/// How a table's new files are laid out.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    spec: PartitionSpecRef,
    partition: Vec<Term>,
    /// The types of the partition values.
    partition_types: Vec<PrimitiveType>,
    sort: Vec<Term>,
    /// None when the table has no sort order.
    sort_order_id: Option<i32>,
    target_file_bytes: u64,
    properties: WriterProperties,
    pub(crate) format_version: FormatVersion,
}

impl Layout {
    /// About how large a file becomes.
    pub(crate) fn target_file_bytes(&self) -> u64 {
        self.target_file_bytes
    }

    /// The layout a table's metadata asks for.
    pub(crate) fn of(shape: &Shape, metadata: &TableMetadata) -> Result<Self, LakeError> {
        let unsupported = |feature: String| LakeError::Unsupported {
            table: shape.schema().name().clone(),
            feature,
        };
        let term = |what: &str, source_id: i32, transform: Transform, options: SortOptions| {
            let column = shape.fields().iter().position(|field| field.id == source_id);
            match column {
                Some(column) if transform != Transform::Unknown => {
                    Ok(Term { column, transform, options })
                }
                Some(_) => Err(unsupported(format!("an unknown transform to {what} rows"))),
                None => Err(unsupported(format!(
                    "a field inside a column (id {source_id}) to {what} rows"
                ))),
            }
        };
        let spec = metadata.default_partition_spec();
        let partition = spec
            .fields()
            .iter()
            .map(|f| term("partition", f.source_id, f.transform, SortOptions::default()))
            .collect::<Result<_, _>>()?;
        let partition_types = spec
            .partition_type(metadata.current_schema())
            .map_err(metadata_error("read the partition specification", shape.schema().name()))?
            .fields()
            .iter()
            .filter_map(|field| field.field_type.as_primitive_type().cloned())
            .collect();
        let order = metadata.default_sort_order();
        let sort = order
            .fields
            .iter()
            .map(|field| {
                let options = SortOptions {
                    descending: field.direction == SortDirection::Descending,
                    nulls_first: field.null_order == NullOrder::First,
                };
                term("sort", field.source_id, field.transform, options)
            })
            .collect::<Result<Vec<_>, _>>()?;
        let options = TableOptions::of(metadata);
        Ok(Self {
            spec: Arc::clone(spec),
            partition,
            partition_types,
            sort_order_id: i32::try_from(order.order_id).ok().filter(|_| !sort.is_empty()),
            sort,
            target_file_bytes: options.target_file_bytes,
            properties: writer_properties(&options),
            format_version: options.format_version,
        })
    }

    fn is_plain(&self) -> bool {
        self.partition.is_empty() && self.sort.is_empty()
    }
}

/// Rows that were written to data files.
pub(crate) struct WrittenRows {
    pub(crate) files: Vec<Arc<LakeFile>>,
    pub(crate) entries: Vec<NewEntry>,
    /// The places of the rows, in the order they were given.
    pub(crate) order: Order,
}

/// Writes rows of one table into as many files as its layout asks for, one after the other.
pub(crate) struct RowWriter<'a> {
    layout: &'a Layout,
    scope: &'a WriteScope,
    shape: &'a Shape,
    /// The table's.
    location: &'a str,
    open: Option<DataFileWriter<'a>>,
    /// Rows that wait to be sorted.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    written: u32,
    /// None as long as all rows are at the place of their number.
    places: Option<Vec<u32>>,
    files: Vec<Arc<LakeFile>>,
    entries: Vec<NewEntry>,
}

impl<'a> RowWriter<'a> {
    pub(crate) fn new(
        layout: &'a Layout,
        scope: &'a WriteScope,
        shape: &'a Shape,
        location: &'a str,
    ) -> Self {
        Self {
            layout,
            scope,
            shape,
            location,
            open: None,
            waiting: Vec::new(),
            waiting_rows: 0,
            written: 0,
            places: None,
            files: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Takes rows with the table's columns, all of them living.
    pub(crate) fn write(&mut self, batch: RecordBatch) -> Result<(), LakeError> {
        if self.layout.is_plain() {
            return self.append(&batch, &Struct::empty());
        }
        self.waiting_rows += batch.num_rows();
        self.waiting.push(batch);
        if self.waiting_rows >= SORTED_ROWS { self.write_sorted() } else { Ok(()) }
    }

    /// Ends the last file.
    pub(crate) fn finish(mut self) -> Result<WrittenRows, LakeError> {
        self.write_sorted()?;
        self.end_file()?;
        let order = Order { first: 0, places: self.places.map(Arc::from) };
        Ok(WrittenRows { files: self.files, entries: self.entries, order })
    }

    /// Writes what waits: partition by partition, each in order.
    fn write_sorted(&mut self) -> Result<(), LakeError> {
        let batches = std::mem::take(&mut self.waiting);
        let count = std::mem::take(&mut self.waiting_rows);
        if count == 0 {
            return Ok(());
        }
        let arrow = |source| LakeError::Arrow {
            doing: "sort rows",
            table: self.shape.schema().name().clone(),
            source,
        };
        let (partitions, values) = encode(&self.layout.partition, &batches).map_err(arrow)?;
        let (sorted, _) = encode(&self.layout.sort, &batches).map_err(arrow)?;
        let rows = u32::try_from(count).unwrap_or(u32::MAX);
        let mut order: Vec<u32> = (0..rows).collect();
        let part = |row: u32| partitions.as_ref().map(|p| p.row(row as usize));
        let key = |row: u32| sorted.as_ref().map(|s| s.row(row as usize));
        // A stable order, so that rows that are in order already stay where they are.
        order.sort_by(|a, b| part(*a).cmp(&part(*b)).then_with(|| key(*a).cmp(&key(*b))));
        let in_order = order.iter().zip(0..).all(|(row, at)| *row == at);
        self.place(&order, in_order);

        let starts: Vec<usize> = batches
            .iter()
            .scan(0, |next, batch| {
                let start = *next;
                *next += batch.num_rows();
                Some(start)
            })
            .collect();
        let at = |row: u32| {
            let row = row as usize;
            let batch = starts.partition_point(|start| *start <= row) - 1;
            (batch, row - starts[batch])
        };
        let sources: Vec<&RecordBatch> = batches.iter().collect();
        for same in order.chunk_by(|a, b| part(*a) == part(*b)) {
            let first = same.first().map_or(0, |row| *row as usize);
            let partition = self.partition(&values, first).map_err(|source| LakeError::Arrow {
                doing: "partition rows",
                table: self.shape.schema().name().clone(),
                source,
            })?;
            for rows in same.chunks(BATCH_ROWS) {
                let indices: Vec<(usize, usize)> = rows.iter().map(|row| at(*row)).collect();
                let batch = interleave_record_batch(&sources, &indices).map_err(|source| {
                    let table = self.shape.schema().name().clone();
                    LakeError::Arrow { doing: "sort rows", table, source }
                })?;
                self.append(&batch, &partition)?;
            }
            self.end_file()?;
        }
        Ok(())
    }

    /// Notes where the rows of this order go, which are written next.
    fn place(&mut self, order: &[u32], in_order: bool) {
        let base = self.written;
        if self.places.is_none() && in_order {
            return;
        }
        let places = self.places.get_or_insert_with(|| (0..base).collect());
        let first = places.len();
        places.resize(first + order.len(), 0);
        for (row, place) in order.iter().zip(base..) {
            places[first + *row as usize] = place;
        }
    }

    fn partition(&self, values: &[ArrayRef], row: usize) -> Result<Struct, ArrowError> {
        values
            .iter()
            .zip(&self.layout.partition_types)
            .map(|(values, ty)| partition::literal(values, row, ty))
            .collect::<Result<Vec<_>, _>>()
            .map(Struct::from_iter)
    }

    /// Appends rows of one partition to the open file, or begins one.
    fn append(&mut self, batch: &RecordBatch, partition: &Struct) -> Result<(), LakeError> {
        // In parts, for after each the size of the file is looked at.
        for first in (0..batch.num_rows()).step_by(BATCH_ROWS) {
            let part = batch.slice(first, BATCH_ROWS.min(batch.num_rows() - first));
            self.append_part(&part, partition)?;
        }
        Ok(())
    }

    fn append_part(&mut self, batch: &RecordBatch, partition: &Struct) -> Result<(), LakeError> {
        let writer = match &mut self.open {
            Some(writer) => writer,
            None => {
                let location = format!("{}/data/{}.parquet", self.location, Uuid::new_v4());
                let kind = FileKind {
                    spec: Arc::clone(&self.layout.spec),
                    partition: partition.clone(),
                    sort_order_id: self.layout.sort_order_id,
                };
                let properties = fitted(&self.layout.properties, self.shape.file_arrow(), batch);
                self.open.insert(DataFileWriter::create(
                    self.scope, location, self.shape, kind, properties,
                )?)
            }
        };
        writer.write(batch)?;
        self.written =
            self.written.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
        if writer.bytes() >= self.layout.target_file_bytes { self.end_file() } else { Ok(()) }
    }

    fn end_file(&mut self) -> Result<(), LakeError> {
        if let Some(writer) = self.open.take() {
            let (file, entry) = writer.finish()?;
            self.files.push(file);
            self.entries.push(entry);
        }
        Ok(())
    }
}

/// The rows of all batches in a form that compares, by these terms, and the values of the terms; none
/// without terms.
fn encode(
    terms: &[Term],
    batches: &[RecordBatch],
) -> Result<(Option<Rows>, Vec<ArrayRef>), ArrowError> {
    if terms.is_empty() {
        return Ok((None, Vec::new()));
    }
    let mut values = Vec::with_capacity(terms.len());
    for term in terms {
        let parts: Vec<ArrayRef> = batches
            .iter()
            .map(|batch| partition::transform(batch.column(term.column), term.transform))
            .collect::<Result<_, _>>()?;
        let parts: Vec<&dyn arrow::array::Array> = parts.iter().map(AsRef::as_ref).collect();
        values.push(concat(&parts)?);
    }
    let fields = terms
        .iter()
        .zip(&values)
        .map(|(term, values)| SortField::new_with_options(values.data_type().clone(), term.options))
        .collect();
    let rows = RowConverter::new(fields)?.convert_columns(&values)?;
    Ok((Some(rows), values))
}
