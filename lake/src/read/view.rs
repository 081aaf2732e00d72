//! Immutable pictures of the lake, for readers.

use std::{collections::BTreeMap, fmt, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    catalog::{CatalogProvider, SchemaProvider, TableProvider},
    error::Result as DataFusionResult,
};
use medlake_contract::{Positions, TableName, TableSchema};

use crate::{format::schema::Shape, read::provider::LakeTable, table::segment::Segment};

/// One table in a view.
#[derive(Debug)]
pub(crate) struct TableView {
    pub(crate) shape: Arc<Shape>,
    pub(crate) schema: Arc<TableSchema>,
    pub(crate) segments: Vec<Segment>,
    pub(crate) row_count: u64,
}

impl TableView {
    pub(crate) fn new(shape: Arc<Shape>, segments: Vec<Segment>) -> Self {
        let row_count = segments.iter().map(Segment::live_rows).sum();
        Self { schema: Arc::clone(shape.schema()), shape, segments, row_count }
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
pub struct ReadView {
    pub(crate) version: u64,
    pub(crate) positions: Positions,
    pub(crate) committed_at_micros: Option<i64>,
    pub(crate) tables: BTreeMap<TableName, Arc<TableView>>,
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

    /// A catalog for DataFusion: a schema for each namespace, read-only.
    #[must_use]
    pub fn catalog(&self) -> Arc<dyn CatalogProvider> {
        let mut schemas: BTreeMap<String, LakeSchema> = BTreeMap::new();
        for (name, table) in &self.tables {
            let schema = schemas.entry(name.namespace().to_owned()).or_default();
            schema.tables.insert(name.table().to_owned(), Arc::clone(table));
        }
        Arc::new(LakeCatalog {
            schemas: schemas.into_iter().map(|(name, schema)| (name, Arc::new(schema))).collect(),
        })
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

#[derive(Debug, Default)]
struct LakeSchema {
    tables: BTreeMap<String, Arc<TableView>>,
}

#[async_trait]
impl SchemaProvider for LakeSchema {
    fn table_names(&self) -> Vec<String> {
        self.tables.keys().cloned().collect()
    }

    async fn table(&self, name: &str) -> DataFusionResult<Option<Arc<dyn TableProvider>>> {
        Ok(self
            .tables
            .get(name)
            .map(|t| Arc::new(LakeTable::new(Arc::clone(t))) as Arc<dyn TableProvider>))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }
}
