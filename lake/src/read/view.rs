//! Immutable pictures of the lake, for readers.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, SchemaProvider, TableProvider},
    error::{DataFusionError, Result as DataFusionResult},
};
use medlake_contract::{Positions, TableName, TableSchema};

use crate::{
    error::LakeError,
    format::schema::Shape,
    read::{
        as_of::Past,
        holds::Hold,
        inspect::{Inspection, inspect},
        provider::LakeTable,
    },
    table::segment::Segment,
};

/// One table in a view.
#[derive(Debug)]
pub(crate) struct TableView {
    pub(crate) shape: Arc<Shape>,
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) row_count: u64,
    /// Keeps the files of an old snapshot.
    hold: Option<Hold>,
}

impl TableView {
    pub(crate) fn new(shape: Arc<Shape>, segments: Vec<Segment>) -> Self {
        let row_count = segments.iter().map(Segment::live_rows).sum();
        let schema = Arc::clone(shape.schema());
        Self { schema, shape, segments, row_count, hold: None }
    }

    /// The same, keeping the files of an old snapshot.
    pub(crate) fn held_by(self, hold: Option<Hold>) -> Self {
        Self { hold, ..self }
    }

    /// Whether it was opened at an old snapshot: then the ids of its segments are its own.
    pub(crate) fn is_past(&self) -> bool {
        self.hold.is_some()
    }
}

/// What a view says about a table.
#[derive(Debug, Clone)]
pub struct TableInfo {
    /// Name, columns and key.
    pub schema: Arc<TableSchema>,
    /// How many rows it has.
    pub row_count: u64,
}

/// An immutable picture of all tables at one cut.
///
/// A query takes one view and keeps it to its end: whatever is staged, published, flushed or merged
/// meanwhile, the view's rows stay as they are, and the files it reads stay on disk until the last
/// holder drops it. Cheap to clone (behind an `Arc`) and to hold, but a view held for long holds
/// back the removal of files.
#[derive(Clone)]
pub struct ReadView {
    pub(crate) version: u64,
    pub(crate) positions: Positions,
    pub(crate) committed_at_micros: Option<i64>,
    pub(crate) tables: BTreeMap<TableName, Arc<TableView>>,
    /// Tables that cannot be read, each with the reason.
    pub(crate) left_out: BTreeMap<TableName, Arc<LakeError>>,
    pub(crate) past: Arc<Past>,
}

impl ReadView {
    /// Counts up with each publication; two views of one version, in one process, hold the same rows.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How far each source is contained.
    #[must_use]
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// When the newest source transaction contained was committed, in microseconds since 1970.
    #[must_use]
    pub fn committed_at_micros(&self) -> Option<i64> {
        self.committed_at_micros
    }

    /// The tables, by name.
    #[must_use]
    pub fn tables(&self) -> Vec<TableInfo> {
        self.tables
            .values()
            .map(|t| TableInfo { schema: Arc::clone(&t.schema), row_count: t.row_count })
            .collect()
    }

    /// Tables that are there but cannot be read, each with the reason.
    #[must_use]
    pub fn left_out(&self) -> Vec<(TableName, Arc<LakeError>)> {
        self.left_out.iter().map(|(name, why)| (name.clone(), Arc::clone(why))).collect()
    }

    /// A catalog for DataFusion: a schema for each namespace, read-only. Columns have the Arrow types
    /// of their tables' schemas, but text is `Utf8View` and bytes are `BinaryView`, as DataFusion's
    /// own Parquet tables have them; inside lists, structs and maps they are `Utf8` and `Binary`.
    ///
    /// A schema answers to more names than it lists. `orders@<snapshot id>`, `orders@<time>` and
    /// `orders@<branch or tag>` are a table of the past (a time as in [`AsOf`]; all tables named with
    /// one time are of one commit). `orders$snapshots`, `$history`, `$files`, `$manifests`,
    /// `$partitions`, `$refs` and `$positions` describe what is committed; `orders@<...>$files` and
    /// the like describe the past.
    ///
    /// [`AsOf`]: crate::AsOf
    #[must_use]
    pub fn catalog(&self) -> Arc<dyn CatalogProvider> {
        let mut schemas: BTreeMap<String, LakeSchema> = BTreeMap::new();
        let new = |namespace: &str| LakeSchema {
            namespace: namespace.to_owned(),
            tables: BTreeMap::new(),
            left_out: BTreeMap::new(),
            past: Arc::clone(&self.past),
        };
        for (name, table) in &self.tables {
            let namespace = name.namespace();
            let schema = schemas.entry(namespace.to_owned()).or_insert_with(|| new(namespace));
            schema.tables.insert(name.table().to_owned(), Arc::clone(table));
        }
        for (name, why) in &self.left_out {
            let namespace = name.namespace();
            let schema = schemas.entry(namespace.to_owned()).or_insert_with(|| new(namespace));
            schema.left_out.insert(name.table().to_owned(), Arc::clone(why));
        }
        Arc::new(LakeCatalog {
            schemas: schemas.into_iter().map(|(name, schema)| (name, Arc::new(schema))).collect(),
        })
    }

    /// A table that can be read.
    pub(crate) fn picture(&self, table: &TableName) -> Result<&Arc<TableView>, LakeError> {
        if let Some(why) = self.left_out.get(table) {
            return Err(LakeError::LeftOut { table: table.clone(), source: Arc::clone(why) });
        }
        let unknown = || LakeError::UnknownTable { table: table.clone() };
        self.tables.get(table).ok_or_else(unknown)
    }

    /// A table for DataFusion.
    #[must_use]
    pub fn table(&self, name: &TableName) -> Option<Arc<dyn TableProvider>> {
        let table = self.tables.get(name)?;
        Some(Arc::new(LakeTable::new(Arc::clone(table))))
    }
}

impl fmt::Debug for ReadView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadView")
            .field("version", &self.version)
            .field("positions", &self.positions)
            .field("tables", &self.tables.len())
            .finish_non_exhaustive()
    }
}

#[derive(Debug)]
struct LakeCatalog {
    schemas: BTreeMap<String, Arc<LakeSchema>>,
}

impl CatalogProvider for LakeCatalog {
    fn schema_names(&self) -> Vec<String> {
        self.schemas.keys().cloned().collect()
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        let schema = self.schemas.get(name)?;
        Some(Arc::<LakeSchema>::clone(schema))
    }
}

#[derive(Debug)]
struct LakeSchema {
    namespace: String,
    tables: BTreeMap<String, Arc<TableView>>,
    left_out: BTreeMap<String, Arc<LakeError>>,
    past: Arc<Past>,
}

impl LakeSchema {
    /// A name that is not listed.
    async fn special(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, LakeError> {
        let (name, inspection) = match name.rsplit_once('$') {
            None => (name, None),
            Some((name, what)) => match Inspection::named(what) {
                None => return Ok(None),
                inspection => (name, inspection),
            },
        };
        let (name, as_of) = match name.split_once('@') {
            None => (name, None),
            Some((name, as_of)) => (name, Some(as_of)),
        };
        let Ok(table) = format!("{}.{name}", self.namespace).parse::<TableName>() else {
            return Ok(None);
        };
        let Some(committed) = self.past.tables.get(&table) else { return Ok(None) };
        Ok(match (as_of, inspection) {
            (None, None) => None,
            (None, Some(what)) => Some(inspect(committed, what)?),
            (Some(as_of), None) => {
                let (_, view) = self.past.table_as_of(&table, as_of).await?;
                Some(Arc::new(LakeTable::new(view)))
            }
            (Some(as_of), Some(what)) => {
                let (committed, _) = self.past.table_as_of(&table, as_of).await?;
                Some(inspect(&committed, what)?)
            }
        })
    }
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        if let Some(table) = self.tables.get(name) {
            return Ok(Some(Arc::new(LakeTable::new(Arc::clone(table)))));
        }
        if let Some(why) = self.left_out.get(name) {
            return Err(DataFusionError::External(Box::new(Arc::clone(why))));
        }
        self.special(name).await.map_err(|error| DataFusionError::External(Box::new(error)))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }
}
