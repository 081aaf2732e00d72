use std::sync::Arc;

use arrow::{
    array::{Array, AsArray, RecordBatch},
    compute::cast,
    datatypes::{DataType, Float64Type, Int64Type},
};
use futures::{
    TryStreamExt,
    future::{BoxFuture, FutureExt},
};
use medlake_contract::{SourceId, TableSchema};
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, Row, Sqlite, SqliteConnection,
    query::Query,
    sqlite::{SqliteArguments, SqliteConnectOptions},
};

use super::{
    bounds,
    columns::Columns,
    decode, fail,
    log::ChangePlace,
    schema::{self, CapturedTable},
    stored,
};
use crate::{
    IngestError,
    log::{Chunk, FoundTables, Order, Rows},
    source::Quarantined,
};

/// A connection that is asked for rows.
#[derive(Debug)]
pub(super) struct EmbeddedRows {
    id: SourceId,
    connection: SqliteConnection,
}

impl EmbeddedRows {
    pub(super) async fn open(
        id: SourceId,
        options: &SqliteConnectOptions,
    ) -> Result<Self, IngestError> {
        let connection = options.connect().await.map_err(fail(&id, "open the database"))?;
        Ok(Self { id, connection })
    }

    /// The rows some statements find, all as of one moment.
    async fn select(
        &mut self,
        table: &TableSchema,
        statements: Vec<(String, Vec<&RecordBatch>, usize)>,
    ) -> Result<Chunk<ChangePlace>, IngestError> {
        let fail = fail(&self.id, "copy the rows");
        // What the transaction has seen by its first statement is what all of them see.
        let mut read = self.connection.begin().await.map_err(&fail)?;
        let at = bounds(&mut read).await.map_err(&fail)?.newest;
        let mut images: Vec<Vec<u8>> = Vec::new();
        for (sql, keys, row) in statements {
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for key in keys {
                query = bind(query, key, row);
            }
            let mut rows = query.fetch(&mut *read);
            while let Some(row) = rows.try_next().await.map_err(&fail)? {
                images.push(row.try_get_unchecked::<Vec<u8>, _>(0).map_err(&fail)?);
            }
        }
        read.commit().await.map_err(&fail)?;
        let mut bad = Vec::new();
        // One that cannot be decoded spoils the columns: then each is tried by itself first.
        let rows = match decoded(table, &images, None) {
            Some(rows) => rows,
            None => decoded(table, &images, Some(&mut bad)).unwrap_or_else(|| Columns::new(table)),
        };
        let rows = rows
            .finish(table)
            .map_err(|source| IngestError::Arrow { at: self.id.clone(), source })?;
        Ok(Chunk { rows, at: Some(ChangePlace(at)), bad, goes_on: false })
    }
}

/// The rows in these images; none when one of them cannot be decoded and there is nowhere to put it.
fn decoded(
    table: &TableSchema,
    images: &[Vec<u8>],
    mut bad: Option<&mut Vec<Quarantined>>,
) -> Option<Columns> {
    let mut columns = Columns::new(table);
    for image in images {
        if let Some(bad) = &mut bad
            && let Err(error) = Columns::new(table).push_row(image)
        {
            bad.push(decode::bad_row(table, image, &error));
            continue;
        }
        columns.push_row(image).ok()?;
    }
    Some(columns)
}

/// Adds the values of a key as a service stores them.
fn bind<'q>(
    query: Query<'q, Sqlite, SqliteArguments>,
    key: &RecordBatch,
    row: usize,
) -> Query<'q, Sqlite, SqliteArguments> {
    key.columns().iter().fold(query, |query, column| match column.data_type() {
        DataType::Utf8 => query.bind(column.as_string::<i32>().value(row).to_owned()),
        DataType::Binary => query.bind(column.as_binary::<i32>().value(row).to_vec()),
        DataType::Float64 => query.bind(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => query.bind(column.as_boolean().value(row)),
        // Days are text of the form that sorts.
        DataType::Date32 => {
            let text = cast(column, &DataType::Utf8).ok();
            query.bind(text.map(|text| text.as_string::<i32>().value(row).to_owned()))
        }
        _ => {
            let number = cast(column, &DataType::Int64).ok();
            query.bind(number.map(|number| number.as_primitive::<Int64Type>().value(row)))
        }
    })
}

fn captured(table: &TableSchema) -> CapturedTable {
    CapturedTable { name: table.name().table().to_owned(), schema: Arc::new(table.clone()) }
}

/// The key columns, and as many places for values.
fn key_sql(table: &TableSchema) -> (String, String) {
    let names = table.key_indices().iter().map(|&c| schema::quoted(&table.columns()[c].name));
    let names: Vec<String> = names.collect();
    let places = vec!["?"; names.len()].join(", ");
    (names.join(", "), places)
}

impl Rows for EmbeddedRows {
    type Place = ChangePlace;

    fn tables<'a>(
        &'a mut self,
        at: &'a ChangePlace,
    ) -> BoxFuture<'a, Result<FoundTables, IngestError>> {
        async move {
            let fail = fail(&self.id, "read the schema");
            let mut read = self.connection.begin().await.map_err(&fail)?;
            let tables = schema::tables_at(&self.id, &mut read, stored(at.0)).await?;
            read.commit().await.map_err(&fail)?;
            let tables = tables.into_iter().map(|t| t.schema).collect();
            Ok(FoundTables { tables, refused: Vec::new() })
        }
        .boxed()
    }

    fn chunk<'a>(
        &'a mut self,
        table: &'a TableSchema,
        after: Option<&'a RecordBatch>,
        to: Option<&'a RecordBatch>,
        limit: usize,
        _order: Order,
    ) -> BoxFuture<'a, Result<Chunk<ChangePlace>, IngestError>> {
        async move {
            let (key, places) = key_sql(table);
            let captured = captured(table);
            let (image, name) = (captured.image_sql(), schema::quoted(&captured.name));
            let bounds = [after.map(|_| ">"), to.map(|_| "<=")];
            let bounds = bounds.iter().flatten().map(|sign| format!("({key}) {sign} ({places})"));
            let bounds = bounds.collect::<Vec<_>>().join(" and ");
            let filter = if bounds.is_empty() { bounds } else { format!("where {bounds}") };
            let sql = format!("select {image} from {name} {filter} order by {key} limit {limit}");
            let keys = after.into_iter().chain(to).collect();
            self.select(table, vec![(sql, keys, 0)]).await
        }
        .boxed()
    }

    fn with_keys<'a>(
        &'a mut self,
        table: &'a TableSchema,
        keys: &'a RecordBatch,
    ) -> BoxFuture<'a, Result<Chunk<ChangePlace>, IngestError>> {
        async move {
            let (key, places) = key_sql(table);
            let captured = captured(table);
            let (image, name) = (captured.image_sql(), schema::quoted(&captured.name));
            let sql = format!("select {image} from {name} where ({key}) = ({places})");
            let each = (0..keys.num_rows()).map(|row| (sql.clone(), vec![keys], row));
            self.select(table, each.collect()).await
        }
        .boxed()
    }
}
