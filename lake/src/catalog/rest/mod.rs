//! The catalog behind a server that speaks the Iceberg REST protocol: it writes the metadata files
//! itself, from the updates it is handed, and knows of no writer but by the snapshots they make.

mod apart;
mod client;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use iceberg::spec::{PartitionSpec, TableMetadata};
use medlake_contract::TableName;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    catalog::{
        Catalog, CatalogKind, CatalogTable, Cause, Change, CommitError, NewTable,
        database::Access,
        rest::client::{Client, RestError},
    },
    config::RestConfig,
    error::LakeError,
    format::{progress::Progress, schema::check_defaults},
};

/// Requests at the same time.
const REQUESTS: usize = 8;
/// The endpoint that commits several tables at once, as a server's list of endpoints has it.
const TRANSACTIONS: &str = "POST /v1/{prefix}/transactions/commit";

#[derive(Debug)]
pub(crate) struct RestCatalog {
    client: Client,
    /// `v1` and the server's prefix, if it has one.
    root: String,
    /// Whether the server changes several tables at once.
    transactions: bool,
}

/// As an error of a call that changes nothing, or is known to have changed nothing.
fn failed(doing: &'static str) -> impl Fn(RestError) -> LakeError {
    move |error| {
        let denied = error.is_final();
        let source = Cause::from(error);
        if denied {
            LakeError::CatalogDenied { doing, source }
        } else {
            LakeError::Catalog { doing, source }
        }
    }
}

impl RestCatalog {
    /// Asks the server how it wants to be spoken to.
    pub(crate) async fn open(config: &RestConfig, access: Access) -> Result<Self, LakeError> {
        let mut client = Client::new(config).map_err(failed("set up requests"))?;
        let path = "v1/config";
        let query: Vec<(&str, &str)> =
            config.warehouse.iter().map(|w| ("warehouse", w.as_str())).collect();
        let told = client.get(path, &query).await.map_err(failed("read the configuration"))?;
        let setting = |key: &str| {
            ["overrides", "defaults"]
                .iter()
                .find_map(|layer| told.get(layer)?.get(key)?.as_str())
                .map(str::to_owned)
        };
        if let Some(uri) = setting("uri") {
            client.move_to(&uri).map_err(failed("set up requests"))?;
        }
        let root = match config.prefix.clone().or_else(|| setting("prefix")) {
            Some(prefix) if !prefix.is_empty() => format!("v1/{prefix}"),
            _ => "v1".to_owned(),
        };
        let endpoints = told.get("endpoints").and_then(Value::as_array);
        let transactions = endpoints
            .is_some_and(|offered| offered.iter().any(|e| e.as_str() == Some(TRANSACTIONS)));
        if access == Access::Write && !transactions {
            tracing::warn!(
                "the catalog does not offer to commit several tables at once: other programs can see \
                 one table of a commit a moment before another"
            );
        }
        Ok(Self { client, root, transactions })
    }

    fn table_path(&self, table: &TableName) -> String {
        format!("{}/namespaces/{}/tables/{}", self.root, table.namespace(), table.table())
    }

    /// All pages of a list.
    async fn pages(&self, path: &str, field: &str) -> Result<Vec<Value>, RestError> {
        let mut found = Vec::new();
        let mut token = String::new();
        loop {
            let query: &[_] = if token.is_empty() { &[] } else { &[("pageToken", token.as_str())] };
            let mut page = self.client.get(path, query).await?;
            if let Some(Value::Array(items)) = page.get_mut(field).map(Value::take) {
                found.extend(items);
            }
            match page.get("next-page-token").and_then(Value::as_str) {
                Some(next) if !next.is_empty() => token = next.to_owned(),
                _ => return Ok(found),
            }
        }
    }

    async fn names(&self) -> Result<Vec<TableName>, RestError> {
        let namespaces = self.pages(&format!("{}/namespaces", self.root), "namespaces").await?;
        // Ours have one level; what is deeper is not ours.
        let namespaces: Vec<String> = namespaces.iter().filter_map(one_level).collect();
        let named: Vec<Vec<TableName>> = futures::stream::iter(namespaces)
            .map(|namespace| async move {
                if format!("{namespace}.t").parse::<TableName>().is_err() {
                    return Ok(Vec::new());
                }
                let path = format!("{}/namespaces/{namespace}/tables", self.root);
                let tables = self.pages(&path, "identifiers").await?;
                let name =
                    |t: &Value| format!("{namespace}.{}", t.get("name")?.as_str()?).parse().ok();
                Ok::<_, RestError>(tables.iter().filter_map(name).collect())
            })
            .buffer_unordered(REQUESTS)
            .try_collect()
            .await?;
        let mut names = named.concat();
        names.sort();
        Ok(names)
    }

    /// A table as the server has it; none when it has none of this name.
    async fn load(&self, name: &TableName) -> Result<Option<CatalogTable>, LakeError> {
        match self.client.get(&self.table_path(name), &[]).await {
            // What is not understood here is left to who reads the file, and says why.
            Ok(told) => Ok(Some(listed(name.clone(), told.clone()).unwrap_or_else(|_| {
                CatalogTable { name: name.clone(), location: location(&told), metadata: None }
            }))),
            Err(error) if error.status() == Some(404) => Ok(None),
            Err(error) => Err(failed("load a table")(error)),
        }
    }

    async fn load_all(&self, names: Vec<TableName>) -> Result<Vec<CatalogTable>, LakeError> {
        let mut tables: Vec<CatalogTable> = futures::stream::iter(names)
            .map(|name| async move { self.load(&name).await })
            .buffer_unordered(REQUESTS)
            .try_filter_map(|table| async { Ok(table) })
            .try_collect()
            .await?;
        tables.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(tables)
    }

    async fn create_one(&self, table: &NewTable<'_>) -> Result<CatalogTable, CommitError> {
        let name = table.name;
        let namespace = json!({"namespace": [name.namespace()], "properties": {}});
        let path = format!("{}/namespaces", self.root);
        match self.client.send(Method::POST, &path, &namespace).await {
            Ok(_) => {}
            Err(error) if error.status() == Some(409) => {}
            Err(error) => return Err(CommitError::Refused(failed("create a namespace")(error))),
        }
        let metadata = table.metadata;
        let mut properties = metadata.properties().clone();
        let version = metadata.format_version() as u8;
        properties.insert("format-version".to_owned(), version.to_string());
        let spec: &PartitionSpec = metadata.default_partition_spec();
        let request = json!({
            "name": name.table(),
            "location": metadata.location(),
            "schema": metadata.current_schema().as_ref(),
            "partition-spec": spec,
            "write-order": metadata.default_sort_order().as_ref(),
            "stage-create": false,
            "properties": properties,
        });
        let path = format!("{}/namespaces/{}/tables", self.root, name.namespace());
        match self.client.send(Method::POST, &path, &request).await {
            Ok(told) => listed(name.clone(), told).map_err(CommitError::Refused),
            // Somebody made it, or an earlier try of ours did, whose answer was lost.
            Err(error) if error.status() == Some(409) => {
                match self.load(name).await.map_err(CommitError::Refused)? {
                    Some(there) if is_fresh(&there, metadata) => Ok(there),
                    _ => {
                        let table = name.clone();
                        Err(CommitError::Refused(LakeError::CommitConflict { table }))
                    }
                }
            }
            Err(error) if error.may_have_happened() => Err(CommitError::Unknown(error.into())),
            Err(error) => Err(CommitError::Refused(failed("create a table")(error))),
        }
    }

    async fn commit_one(&self, change: &Change) -> Result<CatalogTable, CommitError> {
        let told = self.post(&self.table_path(&change.table), &body(change), &change.table).await?;
        listed(change.table.clone(), told).map_err(|e| CommitError::Unknown(Cause::from(e)))
    }

    /// Hands a change in; the tables are named for the error.
    async fn post(
        &self,
        path: &str,
        body: &Value,
        table: &TableName,
    ) -> Result<Value, CommitError> {
        let sent = self.client.send(Method::POST, path, body).await;
        sent.map_err(|error| match error.status() {
            Some(404 | 409) => {
                CommitError::Refused(LakeError::CommitConflict { table: table.clone() })
            }
            _ if error.may_have_happened() => CommitError::Unknown(error.into()),
            _ => CommitError::Refused(failed("commit")(error)),
        })
    }
}

fn one_level(namespace: &Value) -> Option<String> {
    match namespace.as_array()?.as_slice() {
        [Value::String(name)] => Some(name.clone()),
        _ => None,
    }
}

/// Whether a table nobody has written to is the one that was to be made.
fn is_fresh(there: &CatalogTable, wanted: &TableMetadata) -> bool {
    there.metadata.as_ref().is_some_and(|metadata| {
        metadata.current_snapshot().is_none()
            && metadata.location() == wanted.location()
            && metadata.current_schema().as_struct() == wanted.current_schema().as_struct()
    })
}

fn location(told: &Value) -> String {
    told.get("metadata-location").and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn listed(name: TableName, mut told: Value) -> Result<CatalogTable, LakeError> {
    let location = location(&told);
    let json = told.get_mut("metadata").map(Value::take).unwrap_or_default();
    let metadata =
        serde_json::from_value::<TableMetadata>(json.clone()).map_err(|e| LakeError::Corrupt {
            table: name.clone(),
            problem: format!("the metadata the catalog gave cannot be read: {e}"),
        })?;
    check_defaults(&name, &metadata, &json)?;
    Ok(CatalogTable { name, location, metadata: Some(metadata) })
}

fn body(change: &Change) -> Value {
    json!({
        "identifier": {"namespace": [change.table.namespace()], "name": change.table.table()},
        "requirements": change.requirements,
        "updates": change.updates,
    })
}

#[async_trait]
impl Catalog for RestCatalog {
    fn kind(&self) -> CatalogKind {
        CatalogKind::Service
    }

    async fn tables(&self) -> Result<Vec<CatalogTable>, LakeError> {
        let names = self.names().await.map_err(failed("list tables"))?;
        self.load_all(names).await
    }

    fn commits_together(&self) -> bool {
        self.transactions
    }

    async fn version(&self) -> Result<Option<i64>, LakeError> {
        Ok(None)
    }

    async fn settled(&self, _: i64, names: &[TableName]) -> Result<Vec<CatalogTable>, LakeError> {
        self.load_all(names.to_vec()).await
    }

    async fn take_over(&self, above: i64) -> Result<i64, LakeError> {
        Ok(above.saturating_add(1))
    }

    async fn check_epoch(&self, own: i64, table: &TableName) -> Result<(), LakeError> {
        let Some(there) = self.load(table).await? else {
            return Err(LakeError::CommitConflict { table: table.clone() });
        };
        match &there.metadata {
            Some(metadata) => Progress::check_epoch(table, metadata, own),
            None => Ok(()),
        }
    }

    async fn create(
        &self,
        _: i64,
        tables: &[NewTable<'_>],
    ) -> Result<Vec<CatalogTable>, CommitError> {
        let mut made = Vec::with_capacity(tables.len());
        for table in tables {
            made.push(self.create_one(table).await?);
        }
        Ok(made)
    }

    async fn commit(&self, _: i64, changes: &[Change]) -> Result<Vec<CatalogTable>, CommitError> {
        if let [change] = changes {
            return Ok(vec![self.commit_one(change).await?]);
        }
        if !self.transactions {
            return self.commit_apart(changes).await;
        }
        let Some(first) = changes.first() else { return Ok(Vec::new()) };
        let all: Vec<Value> = changes.iter().map(body).collect();
        let path = format!("{}/transactions/commit", self.root);
        self.post(&path, &json!({"table-changes": all}), &first.table).await?;
        // The answer is empty; what the server wrote is asked for. Should it not say, the commit is
        // one whose answer was lost.
        let names = changes.iter().map(|c| c.table.clone()).collect();
        self.load_all(names).await.map_err(|e| CommitError::Unknown(Cause::from(e)))
    }
}
