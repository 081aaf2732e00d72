//! What a statement can name: the schemas of one view, `pg_catalog` beside them, and the functions
//! PostgreSQL clients call.

use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::DataType,
    catalog::{CatalogProvider, CatalogProviderList, SchemaProvider, TableProvider},
    common::ScalarValue,
    datasource::{ViewTable, provider_as_source},
    error::Result,
    logical_expr::{LogicalPlanBuilder, col, lit},
};
use medlake_lake::ReadView;
use tokio::sync::watch;

const PG_CATALOG: &str = "pg_catalog";

/// The catalog of one statement: one view, and `pg_catalog`.
#[derive(Debug)]
pub(crate) struct StatementCatalog {
    view: Arc<dyn CatalogProvider>,
    pg_catalog: Arc<dyn SchemaProvider>,
}

impl StatementCatalog {
    pub(crate) fn list(
        name: &str,
        view: &ReadView,
        pg_catalog: Arc<dyn SchemaProvider>,
    ) -> Arc<dyn CatalogProviderList> {
        Arc::new(OneCatalog {
            name: name.to_owned(),
            catalog: Arc::new(Self { view: view.catalog(), pg_catalog }),
        })
    }
}

impl CatalogProvider for StatementCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.view.schema_names();
        names.push(PG_CATALOG.into());
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == PG_CATALOG {
            return Some(Arc::clone(&self.pg_catalog));
        }
        self.view.schema(name)
    }
}

/// The catalog `pg_catalog` itself describes: that of the newest view. Object ids are handed out
/// once for the life of the server, because clients keep them between statements.
#[derive(Debug)]
pub(crate) struct NewestCatalog {
    views: watch::Receiver<Arc<ReadView>>,
    pg_catalog: OnceLock<Arc<dyn SchemaProvider>>,
}

impl NewestCatalog {
    pub(crate) fn new(views: watch::Receiver<Arc<ReadView>>) -> Arc<Self> {
        Arc::new(Self { views, pg_catalog: OnceLock::new() })
    }

    pub(crate) fn list(self: &Arc<Self>, name: &str) -> Arc<dyn CatalogProviderList> {
        let catalog = Arc::clone(self);
        Arc::new(OneCatalog { name: name.to_owned(), catalog })
    }

    /// The schema that was registered, once it was.
    pub(crate) fn pg_catalog(&self) -> Option<Arc<dyn SchemaProvider>> {
        self.pg_catalog.get().cloned()
    }

    fn view(&self) -> Arc<dyn CatalogProvider> {
        self.views.borrow().catalog()
    }
}

impl CatalogProvider for NewestCatalog {
    fn schema_names(&self) -> Vec<String> {
        let mut names = self.view().schema_names();
        names.extend([PG_CATALOG.into(), "information_schema".into()]);
        names
    }

    fn schema(&self, name: &str) -> Option<Arc<dyn SchemaProvider>> {
        if name == PG_CATALOG { self.pg_catalog() } else { self.view().schema(name) }
    }

    fn register_schema(
        &self,
        name: &str,
        schema: Arc<dyn SchemaProvider>,
    ) -> Result<Option<Arc<dyn SchemaProvider>>> {
        if name == PG_CATALOG {
            let _ = self.pg_catalog.set(Arc::new(Mended { pg_catalog: schema }));
        }
        Ok(None)
    }
}

/// `pg_catalog` without the database "postgres", which it lists although there is none, and with
/// the column `reloptions`, which psql asks for.
#[derive(Debug)]
struct Mended {
    pg_catalog: Arc<dyn SchemaProvider>,
}

#[async_trait]
impl SchemaProvider for Mended {
    fn table_names(&self) -> Vec<String> {
        self.pg_catalog.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
        let Some(table) = self.pg_catalog.table(name).await? else { return Ok(None) };
        let scan = |table| LogicalPlanBuilder::scan(name, provider_as_source(table), None);
        let plan = match name {
            "pg_database" => {
                scan(table)?.filter(col("datname").not_eq(lit("postgres")))?.build()?
            }
            "pg_class" => {
                let columns = table.schema();
                let no_options = ScalarValue::new_null_list(DataType::Utf8, true, 1);
                let no_options = lit(no_options).alias("reloptions");
                let all = columns.fields().iter().map(|field| col(field.name()));
                scan(table)?.project(all.chain([no_options]).collect::<Vec<_>>())?.build()?
            }
            _ => return Ok(Some(table)),
        };
        Ok(Some(Arc::new(ViewTable::new(plan, None))))
    }

    fn table_exist(&self, name: &str) -> bool {
        self.pg_catalog.table_exist(name)
    }
}

#[derive(Debug)]
struct OneCatalog {
    name: String,
    catalog: Arc<dyn CatalogProvider>,
}

impl CatalogProviderList for OneCatalog {
    fn register_catalog(
        &self,
        _name: String,
        _catalog: Arc<dyn CatalogProvider>,
    ) -> Option<Arc<dyn CatalogProvider>> {
        None
    }

    fn catalog_names(&self) -> Vec<String> {
        vec![self.name.clone()]
    }

    fn catalog(&self, name: &str) -> Option<Arc<dyn CatalogProvider>> {
        (name == self.name).then(|| Arc::clone(&self.catalog))
    }
}
