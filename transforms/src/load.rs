//! From files to models: everything is read, and everything wrong is said at once.

mod mart;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::SchemaRef,
    catalog::{
        CatalogProvider, MemoryCatalogProvider, MemorySchemaProvider, SchemaProvider, TableProvider,
    },
    datasource::empty::EmptyTable,
    sql::sqlparser::ast::Query,
};
use futures::FutureExt;
use medlake_contract::{TableName, TableSchema};

use crate::{
    definition::{Files, ModelDefinition, SourceDefinition, line_of, parse_yaml},
    engine::{Engine, Session},
    error::{Problem, TransformError},
    graph::{Reference, expand, order, parse, references},
    model::{Mart, ModelInfo},
};

const SOURCES: &str = "sources.yaml";

/// What the files say.
pub(crate) struct Loaded {
    pub(crate) marts: Vec<Arc<Mart>>,
    pub(crate) sources: Vec<Arc<TableSchema>>,
    pub(crate) models: Vec<ModelInfo>,
}

/// One model as it stands in its files.
struct Model {
    name: String,
    sql_file: String,
    sql: Option<String>,
    yaml_file: String,
    yaml: String,
    definition: Option<ModelDefinition>,
    query: Option<Box<Query>>,
    reads: BTreeSet<Reference>,
}

/// Where every check leaves what it finds.
struct Loader<'a> {
    engine: &'a Engine,
    problems: Vec<Problem>,
    sources: BTreeMap<TableName, Arc<TableSchema>>,
    /// Queries of views with the views they read put in place; views in a circle are left out.
    views: BTreeMap<String, Query>,
    /// Views that cannot be put in place, for they would hold themselves.
    circular: BTreeSet<String>,
    /// Raw tables below each view.
    view_tables: BTreeMap<String, BTreeSet<TableName>>,
    /// The text that defines each view, those of the views below included.
    view_texts: BTreeMap<String, String>,
}

/// Loads all models.
///
/// # Errors
/// [`TransformError::Models`] with every problem there is.
pub(crate) fn load(files: &Files, engine: &Engine) -> Result<Loaded, TransformError> {
    let mut loader = Loader {
        engine,
        problems: Vec::new(),
        sources: BTreeMap::new(),
        views: BTreeMap::new(),
        circular: BTreeSet::new(),
        view_tables: BTreeMap::new(),
        view_texts: BTreeMap::new(),
    };
    loader.read_sources(files);
    let (marts, models): (BTreeMap<_, _>, BTreeMap<_, _>) =
        loader.read_models(files).into_iter().partition(|(name, _)| name.starts_with("marts."));
    loader.check_references(&models, &marts);
    loader.build_views(&models);
    let built: Vec<Arc<Mart>> =
        marts.values().filter_map(|model| loader.build_mart(model)).map(Arc::new).collect();
    if !loader.problems.is_empty() {
        loader.problems.sort();
        loader.problems.dedup();
        return Err(TransformError::Models { problems: loader.problems });
    }
    Ok(Loaded {
        marts: built,
        sources: loader.sources.into_values().collect(),
        models: models.into_values().chain(marts.into_values()).filter_map(info).collect(),
    })
}

fn info(model: Model) -> Option<ModelInfo> {
    let definition = model.definition?;
    let mut reads: BTreeSet<String> = model.reads.into_iter().map(|r| r.name).collect();
    reads.extend(definition.frame.into_iter().flat_map(|frame| frame.inputs));
    Some(ModelInfo {
        name: model.name,
        description: definition.description,
        grain: definition.grain,
        owner: definition.owner,
        tags: definition.tags,
        reads: reads.into_iter().collect(),
        columns: definition.columns.into_iter().map(|c| (c.name, c.description)).collect(),
    })
}

impl Loader<'_> {
    fn problem(&mut self, file: &str, line: u64, message: impl Into<String>) {
        self.problems.push(Problem { file: file.to_owned(), line, message: message.into() });
    }

    fn read_sources(&mut self, files: &Files) {
        let Some(text) = files.get(SOURCES) else {
            self.problem(
                SOURCES,
                1,
                "the file is missing; it lists the raw tables models may read",
            );
            return;
        };
        let definitions: Vec<SourceDefinition> = match parse_yaml(SOURCES, text) {
            Ok(definitions) => definitions,
            Err(problem) => return self.problems.push(problem),
        };
        for definition in definitions {
            let line = line_of(text, &definition.table.to_string());
            match definition.schema() {
                Ok(schema) => {
                    if self.sources.insert(definition.table.clone(), Arc::new(schema)).is_some() {
                        let message = format!("table \"{}\" is listed twice", definition.table);
                        self.problem(SOURCES, line, message);
                    }
                }
                Err(message) => self.problem(SOURCES, line, message),
            }
        }
    }

    /// Models by name: `stg_order`, `marts.gmv_daily`.
    fn read_models(&mut self, files: &Files) -> BTreeMap<String, Model> {
        let mut models: BTreeMap<String, Model> = BTreeMap::new();
        for path in files.keys().filter(|path| *path != SOURCES) {
            let (stem, extension) = path.rsplit_once('.').unwrap_or((path, ""));
            let (folder, base) = stem.split_once('/').unwrap_or(("", stem));
            if !matches!(extension, "sql" | "yaml") || base.contains('/') {
                self.problem(path, 1, "not a model: a .sql or .yaml file in a folder of models");
                continue;
            }
            let (name, prefix) = match folder {
                "staging" => (base.to_owned(), "stg_"),
                "intermediate" => (base.to_owned(), "int_"),
                "marts" => (format!("marts.{base}"), ""),
                _ => {
                    self.problem(path, 1, "models are in staging, intermediate or marts");
                    continue;
                }
            };
            if !base.starts_with(prefix) {
                self.problem(path, 1, format!("a model in {folder} has a name with \"{prefix}\""));
            }
            models.entry(name.clone()).or_insert_with(|| Model {
                name,
                sql_file: format!("{stem}.sql"),
                sql: files.get(&format!("{stem}.sql")).cloned(),
                yaml_file: format!("{stem}.yaml"),
                yaml: files.get(&format!("{stem}.yaml")).cloned().unwrap_or_default(),
                definition: None,
                query: None,
                reads: BTreeSet::new(),
            });
        }
        for model in models.values_mut() {
            self.read_model(model, files);
        }
        models
    }

    fn read_model(&mut self, model: &mut Model, files: &Files) {
        if files.contains_key(&model.yaml_file) {
            match parse_yaml(&model.yaml_file, &model.yaml) {
                Ok(definition) => model.definition = Some(definition),
                Err(problem) => self.problems.push(problem),
            }
        } else {
            let message =
                format!("\"{}\" with its description and grain is missing", model.yaml_file);
            self.problem(&model.sql_file, 1, message);
        }
        let framed = model.definition.as_ref().is_some_and(|d| d.frame.is_some());
        match (&model.sql, framed) {
            (Some(sql), false) => match parse(sql) {
                Ok(query) => {
                    model.reads = references(&query);
                    model.query = Some(query);
                }
                Err((line, message)) => self.problem(&model.sql_file, line, message),
            },
            (Some(_), true) => {
                self.problem(&model.yaml_file, 1, "a model is either a query or a frame function");
            }
            (None, true) => {}
            (None, false) if model.definition.is_none() => {}
            (None, false) => {
                let message = format!("\"{}\" with the query is missing", model.sql_file);
                self.problem(&model.yaml_file, 1, message);
            }
        }
    }

    fn check_references(
        &mut self,
        views: &BTreeMap<String, Model>,
        marts: &BTreeMap<String, Model>,
    ) {
        for model in views.values().chain(marts.values()) {
            for read in &model.reads {
                self.check_reference(&model.sql_file, read, views, marts);
            }
        }
        let edges = views
            .iter()
            .map(|(name, model)| {
                let below = model.reads.iter().map(|r| r.name.clone());
                (name.clone(), below.filter(|name| views.contains_key(name)).collect())
            })
            .collect();
        for circle in order(&edges).1 {
            let at = &views[&circle[0]];
            self.circular.extend(circle.iter().cloned());
            let line =
                at.reads.iter().find(|r| Some(&r.name) == circle.get(1)).map_or(1, |r| r.line);
            let message =
                format!("models refer to each other in a circle: {}", circle.join(" -> "));
            self.problem(&at.sql_file, line, message);
        }
    }

    fn check_reference(
        &mut self,
        file: &str,
        read: &Reference,
        views: &BTreeMap<String, Model>,
        marts: &BTreeMap<String, Model>,
    ) {
        let known = views.contains_key(&read.name)
            || read.name.parse().is_ok_and(|name: TableName| self.sources.contains_key(&name));
        if marts.contains_key(&read.name) {
            let message = format!(
                "\"{}\" is a mart: models read views and raw tables, for marts are built side by side",
                read.name
            );
            self.problem(file, read.line, message);
        } else if !known {
            let message = format!("\"{}\" is neither a model nor a table of {SOURCES}", read.name);
            self.problem(file, read.line, message);
        }
    }

    fn build_views(&mut self, models: &BTreeMap<String, Model>) {
        let edges = models
            .iter()
            .map(|(name, model)| {
                let below = model.reads.iter().map(|r| r.name.clone());
                (name.clone(), below.filter(|name| models.contains_key(name)).collect())
            })
            .collect();
        for name in order(&edges).0 {
            let Some(model) = models.get(&name) else { continue };
            if let Some(definition) = &model.definition {
                let mart_words = !definition.key.is_empty()
                    || !definition.tests.is_empty()
                    || definition.incremental.is_some()
                    || definition.frame.is_some();
                if mart_words {
                    let message = "key, tests, incremental and frame are for marts; this is a view";
                    self.problem(&model.yaml_file, 1, message);
                }
            }
            let Some(query) = model.query.as_ref().filter(|_| !self.circular.contains(&name))
            else {
                continue;
            };
            let mut expanded = query.as_ref().clone();
            expand(&mut expanded, &self.views);
            let tables = self.tables_below(&model.reads);
            let text = self.text_of(model.sql.as_deref().unwrap_or_default(), &model.reads);
            if self.readable(&expanded) {
                self.schema_of(&model.sql_file, &expanded, &[]);
            }
            self.view_tables.insert(name.clone(), tables);
            self.view_texts.insert(name.clone(), text);
            self.views.insert(name, expanded);
        }
    }

    /// Raw tables behind references, through views.
    fn tables_below(&self, reads: &BTreeSet<Reference>) -> BTreeSet<TableName> {
        let mut tables = BTreeSet::new();
        for read in reads {
            match self.view_tables.get(&read.name) {
                Some(below) => tables.extend(below.iter().cloned()),
                None => tables.extend(
                    read.name.parse::<TableName>().ok().filter(|t| self.sources.contains_key(t)),
                ),
            }
        }
        tables
    }

    /// A text and those of the views it reads.
    fn text_of(&self, text: &str, reads: &BTreeSet<Reference>) -> String {
        let mut whole = text.to_owned();
        for below in reads.iter().filter_map(|read| self.view_texts.get(&read.name)) {
            whole.push('\n');
            whole.push_str(below);
        }
        whole
    }

    /// Whether everything the expanded query reads exists: what does not is reported already.
    fn readable(&self, query: &Query) -> bool {
        references(query).iter().all(|read| {
            read.name.parse::<TableName>().is_ok_and(|name| self.sources.contains_key(&name))
        })
    }

    /// A session over empty tables: the sources, and `extra` of them by name.
    fn session(&self, extra: &[(&str, SchemaRef)]) -> Option<Session> {
        let catalog = MemoryCatalogProvider::new();
        let mut schemas: BTreeMap<String, Arc<MemorySchemaProvider>> = BTreeMap::new();
        let mut scratch: Vec<(&str, Arc<dyn TableProvider>)> = Vec::new();
        let mut tables: Vec<(TableName, SchemaRef)> = self
            .sources
            .iter()
            .map(|(name, schema)| (name.clone(), Arc::clone(schema.arrow())))
            .collect();
        for (name, schema) in extra {
            match name.parse::<TableName>() {
                Ok(name) => tables.push((name, Arc::clone(schema))),
                Err(_) => scratch.push((*name, Arc::new(EmptyTable::new(Arc::clone(schema))))),
            }
        }
        for (name, schema) in tables {
            let namespace = schemas.entry(name.namespace().to_owned()).or_default();
            namespace
                .register_table(name.table().to_owned(), Arc::new(EmptyTable::new(schema)))
                .ok()?;
        }
        for (name, schema) in schemas {
            catalog.register_schema(&name, schema).ok()?;
        }
        self.engine.session(Arc::new(catalog), scratch).ok()
    }

    /// The columns a query gives, or a problem. `extra` are tables besides the sources.
    fn schema_of(
        &mut self,
        file: &str,
        query: &Query,
        extra: &[(&str, SchemaRef)],
    ) -> Option<SchemaRef> {
        let session = self.session(extra)?;
        // Nothing here waits: the tables are empty and in memory.
        match session.plan(query).now_or_never()? {
            Ok(plan) => Some(Arc::new(plan.schema().as_arrow().clone())),
            Err(error) => {
                let text = error.strip_backtrace();
                let first = text.lines().next().unwrap_or_default().to_owned();
                self.problem(file, 1, first);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests;
