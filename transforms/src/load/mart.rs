//! Checks of one mart, and what is made of it when they hold.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use datafusion::{
    arrow::datatypes::{DataType, SchemaRef},
    sql::sqlparser::ast::Query,
};
use medlake_contract::{Column, TableName, TableSchema};

use super::{Loader, Model};
use crate::{
    definition::{
        AcceptedValue, FrameDefinition, IncrementalDefinition, ModelDefinition, Reconciliation,
        Relationship, Test, TestDefinition, line_of,
    },
    frame,
    graph::{Reference, expand, parse, references},
    model::{Body, DataTest, Mart},
};

/// Tables a query in a YAML file may name besides models and sources.
type Extra<'a> = [(&'a str, SchemaRef)];

impl Loader<'_> {
    pub(super) fn build_mart(&mut self, model: &Model) -> Option<Mart> {
        let definition = model.definition.as_ref()?;
        let schema = Arc::new(self.mart_schema(model, definition)?);
        let mut texts = vec![model.sql.clone().unwrap_or_default(), model.yaml.clone()];
        let (body, tables) = match &definition.frame {
            Some(frame) => self.frame_body(model, frame, &schema, &mut texts),
            None => {
                texts.push(self.text_of("", &model.reads));
                (self.query_body(model, &schema), self.tables_below(&model.reads))
            }
        };
        let Some(incremental) = &definition.incremental else {
            self.problem(&model.yaml_file, 1, "incremental is missing: how changes reach the mart");
            return None;
        };
        let touched = self.touched(model, incremental, &schema, &tables);
        let as_of = incremental.as_of.as_ref().and_then(|sql| {
            let (query, reads) = self.query_in_yaml(model, sql, &[])?;
            texts.push(self.text_of(sql, &reads));
            Some(query)
        });
        let mut tested_against = BTreeSet::new();
        let tests = definition
            .tests
            .iter()
            .filter_map(|test| {
                self.data_test(model, test, &schema, incremental, &mut tested_against)
            })
            .collect();
        let present = parse(&format!("select * from {}", schema.name())).ok()?;
        Some(Mart {
            schema,
            body: body?,
            definition_hash: hash(&texts),
            partition: incremental.partition.clone(),
            as_of,
            touched,
            tested_against,
            present,
            tests,
        })
    }

    fn mart_schema(&mut self, model: &Model, definition: &ModelDefinition) -> Option<TableSchema> {
        let name: TableName = match model.name.parse() {
            Ok(name) => name,
            Err(error) => {
                self.problem(&model.yaml_file, 1, error.to_string());
                return None;
            }
        };
        if let Some(bare) = definition.columns.iter().find(|c| c.description.trim().is_empty()) {
            let line = line_of(&model.yaml, &bare.name);
            self.problem(
                &model.yaml_file,
                line,
                format!("column \"{}\" has no description", bare.name),
            );
        }
        let columns = definition
            .columns
            .iter()
            .map(|c| Column { name: c.name.clone(), ty: c.ty.clone(), nullable: c.nullable })
            .collect();
        let key: Vec<&str> = definition.key.iter().map(String::as_str).collect();
        TableSchema::new(name, columns, &key)
            .inspect_err(|error| {
                self.problem(&model.yaml_file, line_of(&model.yaml, "key:"), error.to_string());
            })
            .ok()
    }

    fn query_body(&mut self, model: &Model, schema: &TableSchema) -> Option<Body> {
        let mut query = model.query.clone()?;
        expand(&mut query, &self.views);
        if !self.readable(&query) {
            return None;
        }
        let given = self.schema_of(&model.sql_file, &query, &[])?;
        self.check_columns(model, schema, &given);
        Some(Body::Query(query))
    }

    /// The frame function with its inputs, and the raw tables below them.
    fn frame_body(
        &mut self,
        model: &Model,
        frame: &FrameDefinition,
        schema: &TableSchema,
        texts: &mut Vec<String>,
    ) -> (Option<Body>, BTreeSet<TableName>) {
        let found = frame::function(&frame.function);
        if found.is_none() {
            let line = line_of(&model.yaml, &frame.function);
            let message = format!("there is no frame function \"{}\"", frame.function);
            self.problem(&model.yaml_file, line, message);
        }
        let mut inputs = Vec::new();
        let mut reads = BTreeSet::new();
        for input in &frame.inputs {
            let line = line_of(&model.yaml, input);
            let Some(query) = self.views.get(input).cloned() else {
                self.problem(&model.yaml_file, line, format!("input \"{input}\" is not a view"));
                continue;
            };
            reads.insert(Reference { name: input.clone(), line });
            if self.readable(&query)
                && let Some(given) = self.schema_of(&model.yaml_file, &query, &[])
            {
                inputs.push((given, query));
            }
        }
        texts.push(self.text_of("", &reads));
        let tables = self.tables_below(&reads);
        let Some((function, version)) = found.filter(|_| inputs.len() == frame.inputs.len()) else {
            return (None, tables);
        };
        texts.push(format!("{} {version}", frame.function));
        // The function is tried on no rows: what it gives must have the declared columns.
        let empty = inputs
            .iter()
            .map(|(schema, _)| frame::to_frame(schema, &[]))
            .collect::<Result<Vec<_>, _>>();
        let context = frame::FrameContext { as_of_day: Some(0) };
        let tried = empty
            .and_then(|frames| Ok(function(&frames, context)?))
            .and_then(|rows| frame::from_frame(&rows, schema));
        if let Err(error) = tried {
            self.problem(&model.yaml_file, line_of(&model.yaml, "frame:"), error.reason());
        }
        (Some(Body::Frame { function, inputs }), tables)
    }

    /// The declared columns must be those the query gives, in order.
    fn check_columns(&mut self, model: &Model, schema: &TableSchema, given: &SchemaRef) {
        let declared: Vec<&str> = schema.columns().iter().map(|c| c.name.as_str()).collect();
        let names: Vec<&str> = given.fields().iter().map(|f| f.name().as_str()).collect();
        if declared != names {
            let message = format!(
                "the query gives ({}) where the columns declared are ({})",
                names.join(", "),
                declared.join(", ")
            );
            self.problem(&model.yaml_file, line_of(&model.yaml, "columns:"), message);
            return;
        }
        for (column, field) in schema.columns().iter().zip(given.fields()) {
            if !same_type(&column.ty.arrow(), field.data_type()) {
                let message = format!(
                    "column \"{}\" is declared as {:?}, but the query gives {}",
                    column.name,
                    column.ty,
                    field.data_type()
                );
                self.problem(&model.yaml_file, line_of(&model.yaml, &column.name), message);
            }
        }
    }

    fn touched(
        &mut self,
        model: &Model,
        incremental: &IncrementalDefinition,
        schema: &TableSchema,
        tables: &BTreeSet<TableName>,
    ) -> BTreeMap<TableName, Box<Query>> {
        for name in &incremental.partition {
            if !schema.columns().iter().any(|c| c.name == *name) {
                let line = line_of(&model.yaml, "partition:");
                self.problem(
                    &model.yaml_file,
                    line,
                    format!("partition column \"{name}\" is missing"),
                );
            }
        }
        for table in tables.iter().filter(|t| !incremental.touched.contains_key(*t)) {
            let line = line_of(&model.yaml, "touched:");
            let message = format!("changes of \"{table}\", which the mart reads, touch nothing");
            self.problem(&model.yaml_file, line, message);
        }
        let mut queries = BTreeMap::new();
        for (table, sql) in &incremental.touched {
            let line = line_of(&model.yaml, &format!("{table}:"));
            let Some(source) = self.sources.get(table).filter(|_| tables.contains(table)) else {
                let message = format!("\"{table}\" is not a raw table that the mart reads");
                self.problem(&model.yaml_file, line, message);
                continue;
            };
            let extra = [
                ("changed", Arc::clone(source.arrow_nullable())),
                (model.name.as_str(), Arc::clone(schema.arrow())),
            ];
            let Some((query, _)) = self.query_in_yaml(model, sql, &extra) else { continue };
            let Some(given) = self.schema_of(&model.yaml_file, &query, &extra) else { continue };
            let fits = given.fields().len() == incremental.partition.len()
                && given.fields().iter().zip(&incremental.partition).all(|(field, name)| {
                    field.name() == name
                        && schema
                            .columns()
                            .iter()
                            .any(|c| c.name == *name && same_type(&c.ty.arrow(), field.data_type()))
                });
            if !fits {
                let names = incremental.partition.join(", ");
                let message =
                    format!("the query for \"{table}\" must give ({names}) as the mart has them");
                self.problem(&model.yaml_file, line, message);
            }
            queries.insert(table.clone(), query);
        }
        queries
    }

    /// A query written in the YAML of a mart: parsed, its references checked, views put in place.
    fn query_in_yaml(
        &mut self,
        model: &Model,
        sql: &str,
        extra: &Extra<'_>,
    ) -> Option<(Box<Query>, BTreeSet<Reference>)> {
        let first = sql.lines().next().unwrap_or_default().trim();
        let line = line_of(&model.yaml, first);
        let mut query = match parse(sql) {
            Ok(query) => query,
            Err((within, message)) => {
                self.problem(&model.yaml_file, line + within - 1, message);
                return None;
            }
        };
        let reads = references(&query);
        let mut whole = true;
        for read in &reads {
            let known = extra.iter().any(|(name, _)| *name == read.name)
                || self.views.contains_key(&read.name)
                || read.name.parse().is_ok_and(|t: TableName| self.sources.contains_key(&t));
            if !known {
                whole = false;
                let message = format!("\"{}\" is not known here", read.name);
                self.problem(&model.yaml_file, line + read.line - 1, message);
            }
        }
        expand(&mut query, &self.views);
        whole.then_some((query, reads))
    }

    fn data_test(
        &mut self,
        model: &Model,
        test: &TestDefinition,
        schema: &Arc<TableSchema>,
        incremental: &IncrementalDefinition,
        tested_against: &mut BTreeSet<TableName>,
    ) -> Option<DataTest> {
        match test.only() {
            Some(Test::NotNull(columns)) => {
                Some(DataTest::NotNull { columns: self.places(model, schema, columns)? })
            }
            Some(Test::Unique(columns)) => {
                Some(DataTest::Unique { columns: self.places(model, schema, columns)? })
            }
            Some(Test::AcceptedValues(accepted)) => {
                self.places(model, schema, std::slice::from_ref(&accepted.column))?;
                let values: Vec<String> = accepted
                    .values
                    .iter()
                    .map(|value| match value {
                        AcceptedValue::Whole(number) => number.to_string(),
                        AcceptedValue::Text(text) => format!("'{}'", text.replace('\'', "''")),
                    })
                    .collect();
                let text = format!("{} in ({})", accepted.column, values.join(", "));
                self.expression(model, schema, text, &accepted.column)
            }
            Some(Test::Expression(text)) => self.expression(model, schema, text.to_owned(), text),
            Some(Test::Relationship(relationship)) => {
                self.relationship(model, relationship, schema, tested_against)
            }
            Some(Test::Reconciliation(reconciliation)) => {
                self.reconciliation(model, reconciliation, schema, incremental, tested_against)
            }
            None => {
                let line = line_of(&model.yaml, "tests:");
                let message = "a test is exactly one of not_null, unique, accepted_values, \
                               relationships, expression, reconciliation";
                self.problem(&model.yaml_file, line, message);
                None
            }
        }
    }

    fn relationship(
        &mut self,
        model: &Model,
        relationship: &Relationship,
        schema: &TableSchema,
        tested_against: &mut BTreeSet<TableName>,
    ) -> Option<DataTest> {
        let Relationship { column, to, field } = relationship;
        self.places(model, schema, std::slice::from_ref(column))?;
        if self.sources.get(to).is_none_or(|t| t.arrow().index_of(field).is_err()) {
            let line = line_of(&model.yaml, &format!("to: {to}"));
            let message = format!("there is no table \"{to}\" with a column \"{field}\"");
            self.problem(&model.yaml_file, line, message);
            return None;
        }
        let sql = format!(
            "select count(*) from new_rows n left anti join {to} t on t.{field} = n.{column} \
             where n.{column} is not null"
        );
        let extra = [("new_rows", Arc::clone(schema.arrow_nullable()))];
        let (orphans, _) = self.query_in_yaml(model, &sql, &extra)?;
        self.schema_of(&model.yaml_file, &orphans, &extra)?;
        tested_against.insert(to.clone());
        Some(DataTest::Relationship { text: format!("\"{column}\" refers to \"{to}\""), orphans })
    }

    fn reconciliation(
        &mut self,
        model: &Model,
        reconciliation: &Reconciliation,
        schema: &TableSchema,
        incremental: &IncrementalDefinition,
        tested_against: &mut BTreeSet<TableName>,
    ) -> Option<DataTest> {
        let extra = [("new_rows", Arc::clone(schema.arrow_nullable()))];
        let (left, _) = self.query_in_yaml(model, &reconciliation.left, &extra)?;
        let (right, reads) = self.query_in_yaml(model, &reconciliation.right, &[])?;
        tested_against.extend(self.tables_below(&reads));
        let line = line_of(&model.yaml, &reconciliation.name);
        let left_schema = self.schema_of(&model.yaml_file, &left, &extra)?;
        let right_schema = self.schema_of(&model.yaml_file, &right, &[])?;
        let names = |schema: &SchemaRef| -> Vec<String> {
            schema.fields().iter().map(|f| f.name().clone()).collect()
        };
        if names(&left_schema) != names(&right_schema) {
            let message = "the two sides of the reconciliation have other columns";
            self.problem(&model.yaml_file, line, message);
        }
        if incremental.partition.iter().any(|name| right_schema.index_of(name).is_err()) {
            let message = "a reconciliation gives the partition columns, so that it can be cut";
            self.problem(&model.yaml_file, line, message);
        }
        Some(DataTest::Reconciliation { name: reconciliation.name.clone(), left, right })
    }

    fn places(
        &mut self,
        model: &Model,
        schema: &TableSchema,
        columns: &[String],
    ) -> Option<Vec<usize>> {
        let mut places = Vec::new();
        for name in columns {
            match schema.columns().iter().position(|c| c.name == *name) {
                Some(at) => places.push(at),
                None => {
                    let line = line_of(&model.yaml, name);
                    let message = format!("a test names column \"{name}\", which is missing");
                    self.problem(&model.yaml_file, line, message);
                    return None;
                }
            }
        }
        Some(places)
    }

    fn expression(
        &mut self,
        model: &Model,
        schema: &TableSchema,
        text: String,
        at: &str,
    ) -> Option<DataTest> {
        let checked = self.engine.expression(&text, schema).and_then(|check| {
            match check.data_type(schema.arrow_nullable())? {
                DataType::Boolean => Ok(check),
                other => {
                    datafusion::common::plan_err!("expression \"{text}\" is {other}, not boolean")
                }
            }
        });
        match checked {
            Ok(check) => Some(DataTest::Expression { text, check }),
            Err(error) => {
                let line = line_of(&model.yaml, at);
                let text = error.strip_backtrace();
                self.problem(&model.yaml_file, line, text.lines().next().unwrap_or_default());
                None
            }
        }
    }
}

/// Text is text, however wide its offsets.
fn same_type(declared: &DataType, given: &DataType) -> bool {
    let text =
        |ty: &DataType| matches!(ty, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View);
    declared == given || (text(declared) && text(given))
}

/// FNV-1a: the same on every machine and in every version.
fn hash(texts: &[String]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in texts.iter().flat_map(|text| text.bytes().chain([0])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_hash_is_pinned() {
        assert_eq!(hash(&["a".to_owned()]), "089be207b544f1e4");
    }
}
