//! The log of a Delta table: which files it names, and the next version of that.

use std::{collections::BTreeMap, sync::Arc};

use deltalake_core::{
    DeltaTable, DeltaTableError,
    kernel::{
        Action, Add, DeletionVectorDescriptor, MetadataExt, Protocol, Remove, StructType,
        Transaction, contains_timestampntz, new_metadata,
        transaction::{CommitBuilder, CommitProperties},
    },
    logstore::{StorageConfig, default_logstore},
    protocol::{DeltaOperation, SaveMode},
};
use futures::TryStreamExt;
use medlake_contract::TableName;
use object_store::prefix::PrefixStore;
use serde_json::{Value, json};

use crate::{delta::DeltaDeletes, error::LakeError, storage::Storage};

const CREATE: &str = "create the Delta log";
const FIND: &str = "find the Delta log";
const READ: &str = "read the Delta log";

/// Who wrote, in the log.
const APPLICATION: &str = "medlake";

/// A file to be named by the log.
pub(super) struct DeltaFile {
    /// Relative to the table's folder.
    pub(super) path: String,
    pub(super) bytes: u64,
    pub(super) stats: String,
    /// How many rows of it are dead.
    pub(super) dead: u64,
    /// Which ones, when that is not in the log yet.
    pub(super) vector: Option<DeletionVectorDescriptor>,
}

/// A file the log names.
#[derive(Debug, Clone)]
pub(super) struct Named {
    pub(super) bytes: u64,
    pub(super) dead: u64,
    /// Location of the file with its deletion vector.
    vector: Option<String>,
    remove: Remove,
}

/// A Delta table as of its newest version.
pub(super) struct DeltaLog {
    name: TableName,
    table: DeltaTable,
    /// By path.
    pub(super) files: BTreeMap<String, Named>,
    /// The Iceberg sequence number the newest version shows.
    pub(super) sequence: Option<i64>,
    schema: StructType,
}

fn failed<E: Into<DeltaTableError>>(
    name: &TableName,
    doing: &'static str,
) -> impl FnOnce(E) -> LakeError + use<E> {
    let table = name.clone();
    move |source| LakeError::Delta { doing, table, source: Box::new(source.into()) }
}

impl DeltaLog {
    /// The Delta table in a folder; made when there is none.
    pub(super) async fn open(
        name: &TableName,
        storage: &Storage,
        location: &str,
        schema: &StructType,
        deletes: DeltaDeletes,
    ) -> Result<Self, LakeError> {
        let log = match Self::find(name, storage, location).await? {
            Some(log) => log,
            None => {
                let mut table = built(name, storage, location)?;
                create(name, &mut table, schema, deletes).await?;
                Self::of(name, table).await?
            }
        };
        let snapshot = log.table.snapshot().map_err(failed(name, READ))?;
        let vectors = snapshot.metadata().configuration().get("delta.enableDeletionVectors");
        if deletes == DeltaDeletes::Vectors && vectors.is_none_or(|v| v != "true") {
            return Err(LakeError::Unsupported {
                table: name.clone(),
                feature: "deletion vectors in a Delta table begun without them; remove the folder \
                          \"_delta_log\" of the table to begin it anew"
                    .to_owned(),
            });
        }
        Ok(log)
    }

    /// The Delta table in a folder, if there is one.
    pub(super) async fn find(
        name: &TableName,
        storage: &Storage,
        location: &str,
    ) -> Result<Option<Self>, LakeError> {
        let mut table = built(name, storage, location)?;
        if !table.verify_deltatable_existence().await.map_err(failed(name, FIND))? {
            return Ok(None);
        }
        table.load().await.map_err(failed(name, READ))?;
        Self::of(name, table).await.map(Some)
    }

    async fn of(name: &TableName, table: DeltaTable) -> Result<Self, LakeError> {
        let snapshot = table.snapshot().map_err(failed(name, READ))?;
        let schema = snapshot.metadata().parse_schema().map_err(failed(name, READ))?;
        let sequence = snapshot
            .transaction_version(table.log_store().as_ref(), APPLICATION)
            .await
            .map_err(failed(name, READ))?;
        let files = files_named(name, &table).await?;
        Ok(Self { name: name.clone(), table, files, sequence, schema })
    }

    pub(super) fn version(&self) -> u64 {
        self.table.version().map_or(0, |v| v)
    }

    /// The paths or locations of all files it names: data files, and those of deletion vectors.
    pub(super) fn named(&self) -> impl Iterator<Item = &str> {
        let vectors = self.files.values().filter_map(|named| named.vector.as_deref());
        self.files.keys().map(String::as_str).chain(vectors)
    }

    /// Commits a version that names exactly `files`, as of an Iceberg sequence number. Gives how many
    /// were added and removed; none of both when the log says it all already.
    pub(super) async fn publish(
        &mut self,
        schema: &StructType,
        files: Vec<DeltaFile>,
        sequence: i64,
        now_ms: i64,
    ) -> Result<(usize, usize), LakeError> {
        const DOING: &str = "write the Delta log";
        let mut gone = self.files.clone();
        let mut actions = Vec::new();
        for file in files {
            if gone.get(&file.path).is_some_and(|named| named.dead == file.dead) {
                gone.remove(&file.path);
            } else {
                actions.push(Action::Add(add(file, now_ms)));
            }
        }
        let added = actions.len();
        let removed = gone.len();
        for named in gone.into_values() {
            actions
                .push(Action::Remove(Remove { deletion_timestamp: Some(now_ms), ..named.remove }));
        }
        if *schema != self.schema {
            let snapshot = self.table.snapshot().map_err(failed(&self.name, DOING))?;
            let metadata = snapshot
                .metadata()
                .clone()
                .with_schema(schema)
                .map_err(failed(&self.name, DOING))?;
            actions.push(Action::Metadata(metadata));
        }
        if actions.is_empty() {
            return Ok((0, 0));
        }
        let properties = CommitProperties::default()
            .with_application_transaction(Transaction::new_with_last_update(
                APPLICATION,
                sequence,
                Some(now_ms),
            ))
            .with_metadata([("medlake.sequence-number".to_owned(), Value::from(sequence))]);
        let snapshot = self.table.snapshot().map_err(failed(&self.name, DOING))?;
        let operation = DeltaOperation::Write {
            mode: SaveMode::Overwrite,
            partition_by: None,
            predicate: None,
        };
        let done = CommitBuilder::from(properties)
            .with_actions(actions)
            .build(Some(snapshot), self.table.log_store(), operation)
            .await
            .map_err(failed(&self.name, DOING))?;
        let version = done.version();
        self.table.load_version(version).await.map_err(failed(&self.name, READ))?;
        self.files = files_named(&self.name, &self.table).await?;
        Ok((added, removed))
    }
}

/// The table of a folder, not looked at yet.
fn built(name: &TableName, storage: &Storage, location: &str) -> Result<DeltaTable, LakeError> {
    let (store, path) = storage.object_store(location)?;
    let scheme = if location.contains("://") { "" } else { "file://" };
    let address = format!("{scheme}{location}/");
    let url = address.parse().map_err(|_| DeltaTableError::InvalidTableLocation(address));
    let url = url.map_err(failed(name, FIND))?;
    // The library finds stores by the scheme of an address, and knows that of files alone.
    let of_table = Arc::new(PrefixStore::new(Arc::clone(&store), path));
    Ok(DeltaTable::new(default_logstore(of_table, store, &url, &StorageConfig::default())))
}

/// A new, empty Delta table. Its first commit is put together here, because the library would ask
/// readers and writers for column invariants too, which it then refuses to write without a query
/// engine of its own.
async fn create(
    name: &TableName,
    table: &mut DeltaTable,
    schema: &StructType,
    deletes: DeltaDeletes,
) -> Result<(), LakeError> {
    let mut features = Vec::new();
    let mut configuration = Vec::new();
    if deletes == DeltaDeletes::Vectors {
        features.push("deletionVectors");
        configuration.push(("delta.enableDeletionVectors", "true"));
    }
    if contains_timestampntz(schema.fields()) {
        features.push("timestampNtz");
    }
    let protocol = if features.is_empty() {
        json!({"minReaderVersion": 1, "minWriterVersion": 2})
    } else {
        json!({
            "minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": features, "writerFeatures": features,
        })
    };
    let protocol: Protocol = serde_json::from_value(protocol).map_err(failed(name, CREATE))?;
    let metadata = new_metadata(schema, Vec::<String>::new(), configuration)
        .map_err(failed(name, CREATE))?
        .with_name(name.to_string())
        .map_err(failed(name, CREATE))?;
    let operation = DeltaOperation::Create {
        mode: SaveMode::ErrorIfExists,
        location: table.table_url().clone(),
        protocol: protocol.clone(),
        metadata: metadata.clone(),
    };
    CommitBuilder::default()
        .with_actions(vec![Action::Protocol(protocol), Action::Metadata(metadata)])
        .build(None, table.log_store(), operation)
        .await
        .map_err(failed(name, CREATE))?;
    table.load().await.map_err(failed(name, READ))
}

/// The files the newest version names, by path.
async fn files_named(
    name: &TableName,
    table: &DeltaTable,
) -> Result<BTreeMap<String, Named>, LakeError> {
    let snapshot = table.snapshot().map_err(failed(name, READ))?.snapshot();
    let store = table.log_store();
    let views = snapshot.file_views(store.as_ref(), None);
    let named = views.map_ok(|view| {
        let vector = view.deletion_vector_descriptor();
        let named = Named {
            bytes: u64::try_from(view.size()).unwrap_or(0),
            dead: vector.as_ref().map_or(0, |v| u64::try_from(v.cardinality).unwrap_or(0)),
            vector: vector.map(|v| v.path_or_inline_dv),
            remove: view.remove_action(true),
        };
        (view.path().into_owned(), named)
    });
    named.try_collect().await.map_err(failed(name, READ))
}

fn add(file: DeltaFile, now_ms: i64) -> Add {
    Add {
        path: file.path,
        size: i64::try_from(file.bytes).unwrap_or(i64::MAX),
        modification_time: now_ms,
        data_change: true,
        stats: Some(file.stats),
        deletion_vector: file.vector,
        ..Add::default()
    }
}
