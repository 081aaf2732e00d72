//! Snapshots: the committed side of a table, and the next one.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    str::FromStr,
    sync::Arc,
};

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::{
    MetadataLocation, TableCreation, TableUpdate,
    io::FileIO,
    spec::{
        DataFile, FormatVersion, MAIN_BRANCH, ManifestContentType, ManifestListWriter, Operation,
        PartitionSpecRef, Snapshot, SnapshotRef, Summary, TableMetadata, TableMetadataBuildResult,
        TableMetadataBuilder, Transform,
    },
};
use medlake_contract::{TableName, TableSchema};
use uuid::Uuid;

use crate::{
    catalog::{CatalogKind, CatalogTable},
    commit::manifest::{
        DeleteKey, Entry, Manifest, ManifestMaker, NewEntry, assign_row_ids, copy_out, gathered,
        read_manifest, read_manifest_list,
    },
    error::LakeError,
    format::{
        adapt::Constants,
        data_file::LakeFile,
        deletion_vectors::is_vector,
        progress::Progress,
        refs::named_snapshots,
        schema::{
            IDENTITY_PROPERTY, KEY_PROPERTY, Shape, check_defaults, constant_of, iceberg_schema,
            identity_word, metadata_error, unknown_feature,
        },
    },
    options::TableOptions,
    read::holds::Holds,
    storage::{Listed, Storage, WriteScope},
    warehouse::without_scheme,
};

/// Manifests read at the same time.
const READERS: usize = 8;
/// Metadata files that are kept for readers that still hold an old pointer.
const METADATA_VERSIONS: &str = "20";

/// A Delta table's log and its own files, in the table's folder: not the table's.
const DELTA_LOG: &str = "/_delta_log/";
const DELTA_FILES: &str = "/delta/";

/// A file that the current snapshot no longer names.
#[derive(Debug, Clone)]
pub(crate) struct Retired {
    location: String,
    /// The first sequence number without it. It can go when no older snapshot is left.
    since: i64,
    /// For data files: who else holds it reads it.
    held: Option<Arc<LakeFile>>,
}

/// Files in a table's folder that are not needed any more, or not for long.
#[derive(Debug, Default)]
pub(crate) struct Leftovers {
    /// What nothing names.
    pub(crate) orphans: Vec<Listed>,
    /// What older snapshots name.
    older: Vec<Retired>,
    /// Whether there is a Delta log beside the table.
    pub(crate) has_delta_log: bool,
}

impl Leftovers {
    /// Leaves these files alone.
    pub(crate) fn spare(&mut self, locations: &HashSet<String>) {
        self.orphans.retain(|file| !locations.contains(&file.location));
        self.older.retain(|file| !locations.contains(&file.location));
    }
}

/// What one commit changes in a table's set of files.
#[derive(Debug, Default)]
pub(crate) struct TableChange {
    pub(crate) added: Vec<NewEntry>,
    /// Locations of data files that go.
    pub(crate) removed: BTreeSet<String>,
    /// A deletion vector among them takes the place of all earlier deletes of its data file alone.
    pub(crate) added_deletes: Vec<NewEntry>,
    /// Delete files that go, besides those that name nothing but a file in `removed`.
    pub(crate) removed_deletes: BTreeSet<DeleteKey>,
    /// Whether the same rows are in other files, and nothing else changes.
    pub(crate) rewrite: bool,
    /// Whether all manifests are written anew.
    pub(crate) gather: bool,
}

impl TableChange {
    /// Tells of a delete file that was there whether it goes.
    fn outdates(&self) -> impl Fn(&DataFile) -> bool + Sync {
        let vectors = self.added_deletes.iter().filter(|e| is_vector(&e.file));
        let replaced: BTreeSet<String> =
            vectors.filter_map(|e| e.file.referenced_data_file()).collect();
        let (removed, keys) = (&self.removed, &self.removed_deletes);
        move |file| {
            keys.contains(&DeleteKey::of(file))
                || file
                    .referenced_data_file()
                    .is_some_and(|of| removed.contains(&of) || replaced.contains(&of))
        }
    }
}

/// A table as the catalog has it.
#[derive(Debug, Clone)]
pub(crate) struct CommittedTable {
    pub(crate) name: TableName,
    pub(crate) metadata: TableMetadata,
    pub(crate) location: String,
    manifests: Vec<Manifest>,
    retired: Vec<Retired>,
    /// The snapshots that other programs gave a name: they stay until the name goes.
    named: BTreeSet<i64>,
    /// Who writes its metadata files.
    kind: CatalogKind,
    /// How its metadata was made from the one before.
    pub(super) updates: Vec<TableUpdate>,
}

/// The limits of what is kept of the past.
pub(crate) struct Retention {
    pub(crate) snapshots: usize,
    pub(crate) micros: i64,
}

impl CommittedTable {
    /// A new, empty table; writes its first metadata file, if that is not the catalog's to write.
    pub(crate) fn create(
        storage: &Storage,
        scope: &WriteScope,
        schema: &TableSchema,
        options: &TableOptions,
        kind: CatalogKind,
    ) -> Result<Self, LakeError> {
        let name = schema.name();
        let columns = iceberg_schema(schema)?;
        options.check(name, &columns)?;
        let wrong = |e| metadata_error("create the metadata", name)(e);
        let key: Vec<&str> =
            schema.key_indices().iter().map(|&k| schema.columns()[k].name.as_str()).collect();
        let mut properties = options.properties();
        let fixed = [
            (KEY_PROPERTY, key.join(",")),
            (IDENTITY_PROPERTY, identity_word(schema.identity()).to_owned()),
            ("write.format.default", "parquet".to_owned()),
            ("write.delete.mode", "merge-on-read".to_owned()),
            ("write.update.mode", "merge-on-read".to_owned()),
            ("write.merge.mode", "merge-on-read".to_owned()),
            ("write.metadata.previous-versions-max", METADATA_VERSIONS.to_owned()),
            ("write.metadata.delete-after-commit.enabled", "true".to_owned()),
        ];
        properties.extend(fixed.map(|(k, v)| (k.to_owned(), v)));
        let table_location = storage.table_location(name);
        let creation = TableCreation::builder()
            .name(name.table().to_owned())
            .location(table_location.clone())
            .format_version(options.format_version.iceberg())
            .partition_spec(options.partition_spec(name, &columns)?)
            .sort_order(options.sort_order(name, &columns)?)
            .schema(columns)
            .properties(properties)
            .build();
        let metadata = TableMetadataBuilder::from_table_creation(creation)
            .and_then(TableMetadataBuilder::build)
            .map_err(wrong)?
            .metadata;
        let location = MetadataLocation::new_with_metadata(table_location, &metadata).to_string();
        if kind == CatalogKind::Pointers {
            write_metadata(scope, name, &metadata, &location)?;
        }
        Ok(Self {
            name: name.clone(),
            metadata,
            location,
            manifests: Vec::new(),
            retired: Vec::new(),
            named: BTreeSet::new(),
            kind,
            updates: Vec::new(),
        })
    }

    /// Reads a table the catalog names.
    pub(crate) async fn load(storage: &Storage, listed: CatalogTable) -> Result<Self, LakeError> {
        let CatalogTable { name, location, metadata } = listed;
        let (kind, metadata) = match metadata {
            Some(metadata) => (CatalogKind::Service, metadata),
            None => {
                let json = storage.read(&location).await?;
                (CatalogKind::Pointers, read_metadata(&name, &location, &json)?)
            }
        };
        let current = metadata.current_snapshot();
        let manifests = read_manifests(storage, &name, &metadata, current).await?;
        let (retired, updates) = (Vec::new(), Vec::new());
        let refs = named_snapshots(&name, &metadata)?;
        let others = refs.iter().filter(|(name, _)| *name != MAIN_BRANCH);
        let named = others.filter_map(|(_, told)| told.get("snapshot-id")?.as_i64()).collect();
        Ok(Self { name, metadata, location, manifests, retired, named, kind, updates })
    }

    /// How many manifests the table has, and how many hold the same when all are written anew.
    pub(crate) fn manifest_counts(&self) -> (usize, usize) {
        (self.manifests.len(), gathered(&self.manifests))
    }

    /// The columns.
    pub(crate) fn shape(&self) -> Result<Shape, LakeError> {
        Shape::of(&self.name, &self.metadata)
    }

    /// The columns as they were when a snapshot was made.
    pub(crate) fn shape_at(&self, snapshot: &Snapshot) -> Result<Shape, LakeError> {
        // The first format did not say; what is there now reads all files.
        let schema = snapshot.schema_id().and_then(|id| self.metadata.schema_by_id(id));
        let schema = schema.unwrap_or_else(|| self.metadata.current_schema());
        Shape::at(&self.name, &self.metadata, schema)
    }

    /// The same table with the files of one of its snapshots; of none, without files.
    pub(crate) async fn at(
        &self,
        storage: &Storage,
        snapshot: Option<&SnapshotRef>,
    ) -> Result<Self, LakeError> {
        let manifests = read_manifests(storage, &self.name, &self.metadata, snapshot).await?;
        Ok(self.with_files(manifests))
    }

    /// What readers need of it: without the files that wait to be removed, which it would keep.
    pub(crate) fn for_readers(&self) -> Self {
        self.with_files(self.manifests.clone())
    }

    fn with_files(&self, manifests: Vec<Manifest>) -> Self {
        Self {
            name: self.name.clone(),
            metadata: self.metadata.clone(),
            location: self.location.clone(),
            manifests,
            retired: Vec::new(),
            named: self.named.clone(),
            kind: self.kind,
            updates: Vec::new(),
        }
    }

    /// The manifests of the current snapshot, or the one this was opened at.
    pub(crate) fn manifests(&self) -> &[Manifest] {
        &self.manifests
    }

    /// A specification that files of the table were written by.
    pub(crate) fn spec(&self, id: i32) -> Result<&PartitionSpecRef, LakeError> {
        self.metadata.partition_spec_by_id(id).ok_or_else(|| {
            let problem = format!("partition specification {id} is missing");
            LakeError::Corrupt { table: self.name.clone(), problem }
        })
    }

    /// The values of the columns a file is partitioned by as they are; it may leave them out.
    pub(crate) fn constants(&self, entry: &Entry) -> Result<Constants, LakeError> {
        let spec = self.spec(entry.spec_id)?;
        let mut constants = Constants::new();
        for (field, value) in spec.fields().iter().zip(entry.file.partition().iter()) {
            let source = self.metadata.current_schema().field_by_id(field.source_id);
            if let (Transform::Identity, Some(source)) = (field.transform, source)
                && let Some(value) = constant_of(source, value)
            {
                constants.insert(field.source_id, value);
            }
        }
        Ok(constants)
    }

    /// The living data files.
    pub(crate) fn data_files(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries(ManifestContentType::Data)
    }

    /// The living delete files.
    pub(crate) fn delete_files(&self) -> impl Iterator<Item = &Arc<Entry>> {
        self.entries(ManifestContentType::Deletes)
    }

    fn entries(&self, content: ManifestContentType) -> impl Iterator<Item = &Arc<Entry>> {
        self.manifests.iter().filter(move |m| m.file.content == content).flat_map(|m| &m.entries)
    }

    /// What the newest snapshot of ours says about the sources; another program's says nothing.
    pub(crate) fn progress(&self) -> Result<Option<Progress>, LakeError> {
        Progress::newest(&self.name, &self.metadata)
    }

    /// Fails when a later writer than `own` committed to the table.
    pub(crate) fn check_epoch(&self, own: i64) -> Result<(), LakeError> {
        Progress::check_epoch(&self.name, &self.metadata, own)
    }

    /// The table as another program left it, with what is still to be removed of `before`.
    pub(crate) fn after(mut self, before: &Self) -> Self {
        self.retired.clone_from(&before.retired);
        self
    }

    /// The table after `change`, as a new snapshot; writes manifests, manifest list and metadata.
    /// Nothing of the present value changes.
    pub(crate) async fn next(
        &self,
        scope: &WriteScope,
        change: TableChange,
        progress: &Progress,
        now_micros: i64,
        retention: &Retention,
        held: &HashMap<String, Arc<LakeFile>>,
    ) -> Result<(Self, Cleanup), LakeError> {
        let snapshot_id = new_snapshot_id();
        let sequence = self.metadata.next_sequence_number();
        let summary = self.summary(&change, progress);
        let mut maker = ManifestMaker { table: self, scope, snapshot_id, sequence };
        let (data, deletes): (Vec<Manifest>, Vec<Manifest>) = self
            .manifests
            .iter()
            .cloned()
            .partition(|m| m.file.content == ManifestContentType::Data);
        let mut retired = self.retired.clone();
        let mut retire = |location: &str| {
            retired.push(Retired {
                location: location.to_owned(),
                since: sequence,
                held: held.get(location).cloned(),
            });
        };
        change.removed.iter().for_each(|location| retire(location));

        let removed = |e: &Entry| change.removed.contains(e.file.file_path());
        let gather = change.gather;
        let mut manifests = maker
            .arrange(ManifestContentType::Data, &data, &change.added, &removed, gather)
            .await?;
        let outdated = change.outdates();
        let removed = |e: &Entry| outdated(&e.file);
        let (kind, added) = (ManifestContentType::Deletes, &change.added_deletes);
        let deletes = maker.arrange(kind, &deletes, added, &removed, gather).await?;
        let named: BTreeSet<&str> =
            deletes.iter().flat_map(|m| &m.entries).map(|e| e.file.file_path()).collect();
        let gone: BTreeSet<&str> = self
            .delete_files()
            .map(|e| e.file.file_path())
            .filter(|location| !named.contains(location))
            .collect();
        gone.into_iter().for_each(&mut retire);
        manifests.extend(deletes);
        for old in &self.manifests {
            if !manifests.iter().any(|m| m.file.manifest_path == old.file.manifest_path) {
                retire(&old.file.manifest_path);
            }
        }

        let row_ids = (self.metadata.format_version() >= FormatVersion::V3).then(|| {
            let first = self.metadata.next_row_id();
            (first, assign_row_ids(&mut manifests, first))
        });
        let manifest_list = self
            .write_manifest_list(
                scope,
                snapshot_id,
                sequence,
                row_ids.map(|(first, _)| first),
                &manifests,
            )
            .await?;
        let timestamp_ms = (now_micros / 1_000).max(self.metadata.last_updated_ms());
        let snapshot = Snapshot::builder()
            .with_snapshot_id(snapshot_id)
            .with_parent_snapshot_id(self.metadata.current_snapshot_id())
            .with_sequence_number(sequence)
            .with_timestamp_ms(timestamp_ms)
            .with_manifest_list(manifest_list)
            .with_summary(summary)
            .with_schema_id(self.metadata.current_schema_id());
        let snapshot = match row_ids {
            Some((first, next)) => snapshot.with_row_range(first, next - first).build(),
            None => snapshot.build(),
        };
        let expired = self.expired(retention, 1, timestamp_ms);
        self.retire_lists(&expired, &mut retired);
        let builder = self
            .metadata
            .clone()
            .into_builder(Some(self.location.clone()))
            .set_branch_snapshot(snapshot, MAIN_BRANCH)
            .map_err(metadata_error("add a snapshot to the metadata", &self.name))?
            .remove_snapshots(&expired);
        let Built { metadata, location, updates, dropped } = self.write_next(scope, builder)?;
        let (name, kind) = (self.name.clone(), self.kind);
        let named = self.named.clone();
        let next = Self { name, metadata, location, manifests, retired, named, kind, updates };
        Ok((next, Cleanup { locations: dropped }))
    }

    pub(super) fn write_next(
        &self,
        scope: &WriteScope,
        builder: TableMetadataBuilder,
    ) -> Result<Built, LakeError> {
        let wrong = |e| metadata_error("build the metadata", &self.name)(e);
        let TableMetadataBuildResult { metadata, changes: updates, expired_metadata_logs } =
            builder.build().map_err(wrong)?;
        if self.kind == CatalogKind::Service {
            // The service says where it wrote it, and removes what it does not need any more.
            return Ok(Built { metadata, location: String::new(), updates, dropped: Vec::new() });
        }

        let location = MetadataLocation::from_str(&self.location)
            .map_err(wrong)?
            .with_next_version()
            .to_string();
        write_metadata(scope, &self.name, &metadata, &location)?;
        let dropped = expired_metadata_logs.into_iter().map(|l| l.metadata_file).collect();
        Ok(Built { metadata, location, updates, dropped })
    }

    /// Snapshots that need not be kept once there are `coming` more. Their age counts from when the next
    /// one took their place: until then readers in other processes still began with them.
    fn expired(&self, retention: &Retention, coming: usize, now_ms: i64) -> Vec<i64> {
        let mut snapshots: Vec<_> = self.metadata.snapshots().collect();
        snapshots.sort_by_key(|s| std::cmp::Reverse(s.sequence_number()));
        let current = self.metadata.current_snapshot_id();
        let replaced: Vec<i64> =
            std::iter::once(now_ms).chain(snapshots.iter().map(|s| s.timestamp_ms())).collect();
        snapshots
            .into_iter()
            .zip(replaced)
            .skip(retention.snapshots.saturating_sub(coming))
            .filter(|(_, replaced)| now_ms - replaced > retention.micros / 1_000)
            .map(|(s, _)| s.snapshot_id())
            .filter(|id| !self.named.contains(id))
            .filter(|id| Some(*id) != current || (coming > 0 && retention.snapshots <= coming))
            .collect()
    }

    fn summary(&self, change: &TableChange, progress: &Progress) -> Summary {
        let rows = |files: &[&DataFile]| files.iter().map(|f| f.record_count()).sum::<u64>();
        let all: Vec<&DataFile> = self.data_files().map(|e| &e.file).collect();
        let added: Vec<&DataFile> = change.added.iter().map(|e| &e.file).collect();
        let (removed, kept): (Vec<&DataFile>, Vec<&DataFile>) =
            all.into_iter().partition(|f| change.removed.contains(f.file_path()));
        let added_deletes: Vec<&DataFile> = change.added_deletes.iter().map(|e| &e.file).collect();
        let outdated = change.outdates();
        let (removed_deletes, kept_deletes): (Vec<&DataFile>, Vec<&DataFile>) =
            self.delete_files().map(|e| &e.file).partition(|f| outdated(f));
        let vectors = |files: &[&DataFile]| files.iter().filter(|f| is_vector(f)).count() as u64;
        let numbers = [
            ("added-data-files", added.len() as u64),
            ("deleted-data-files", removed.len() as u64),
            ("added-records", rows(&added)),
            ("deleted-records", rows(&removed)),
            ("added-delete-files", added_deletes.len() as u64),
            ("removed-delete-files", removed_deletes.len() as u64),
            ("added-dvs", vectors(&added_deletes)),
            ("removed-dvs", vectors(&removed_deletes)),
            ("added-position-deletes", rows(&added_deletes)),
            ("removed-position-deletes", rows(&removed_deletes)),
            ("total-records", rows(&kept) + rows(&added)),
            ("total-data-files", (kept.len() + added.len()) as u64),
            ("total-delete-files", (kept_deletes.len() + added_deletes.len()) as u64),
            ("total-position-deletes", rows(&kept_deletes) + rows(&added_deletes)),
            ("total-equality-deletes", 0),
        ];
        let mut additional_properties = progress.properties();
        additional_properties
            .extend(numbers.into_iter().map(|(k, v)| (k.to_owned(), v.to_string())));
        let operation = if change.rewrite {
            Operation::Replace
        } else if change.removed.is_empty()
            && change.added_deletes.is_empty()
            && change.removed_deletes.is_empty()
        {
            Operation::Append
        } else {
            Operation::Overwrite
        };
        Summary { operation, additional_properties }
    }

    async fn write_manifest_list(
        &self,
        scope: &WriteScope,
        snapshot_id: i64,
        sequence: i64,
        first_row_id: Option<u64>,
        manifests: &[Manifest],
    ) -> Result<String, LakeError> {
        let location = format!(
            "{}/metadata/snap-{snapshot_id}-{}.avro",
            self.metadata.location(),
            Uuid::new_v4()
        );
        let wrong = |e| metadata_error("write the manifest list", &self.name)(e);
        let memory = FileIO::new_with_memory();
        let output = memory.new_output(&location).map_err(wrong)?;
        let output = output.writer().await.map_err(wrong)?;
        let parent = self.metadata.current_snapshot_id();
        let mut writer = match first_row_id {
            None => ManifestListWriter::v2(output, snapshot_id, parent, sequence),
            Some(_) => ManifestListWriter::v3(output, snapshot_id, parent, sequence, first_row_id),
        };
        writer.add_manifests(manifests.iter().map(|m| m.file.clone())).map_err(wrong)?;
        writer.close().await.map_err(wrong)?;
        copy_out(&memory, scope, &location, &self.name).await?;
        Ok(location)
    }

    /// The files that no kept snapshot names and nobody reads any more: they are to be removed, and
    /// are not known here any longer.
    pub(crate) fn release(&mut self, holds: &Holds) -> Vec<String> {
        let oldest = self
            .metadata
            .snapshots()
            .map(|s| s.sequence_number())
            .min()
            .unwrap_or_else(|| self.metadata.next_sequence_number());
        let oldest = holds.floor(&self.name, oldest);
        let mut released = Vec::new();
        self.retired.retain(|file| {
            // Held here alone: no view has it, and none can get it, for the table let go of it.
            let read = file.held.as_ref().is_some_and(|f| Arc::strong_count(f) > 1);
            if file.since > oldest || read {
                return true;
            }
            released.push(file.location.clone());
            false
        });
        released
    }

    /// Files in the table's folder that are not needed any more, or not for long: those only older
    /// snapshots name, and those nothing names and that are older than `before_micros`.
    pub(crate) async fn leftovers(
        &self,
        storage: &Storage,
        before_micros: i64,
    ) -> Result<Leftovers, LakeError> {
        let mut last: HashMap<String, i64> = HashMap::new();
        let mut see = |location: &str, sequence: i64| {
            let at = last.entry(without_scheme(location).to_owned()).or_insert(sequence);
            *at = sequence.max(*at);
        };
        let mut manifests: HashMap<String, Vec<String>> = HashMap::new();
        let current = self.metadata.current_snapshot().map(|s| s.sequence_number());
        for snapshot in self.metadata.snapshots() {
            let sequence = snapshot.sequence_number();
            // Goes when its snapshot does, not when a later one is there.
            see(snapshot.manifest_list(), i64::MAX - 1);
            let list = snapshot.manifest_list();
            for file in read_manifest_list(storage, &self.name, &self.metadata, list).await? {
                let path = file.manifest_path.clone();
                see(&path, sequence);
                if !manifests.contains_key(&path) {
                    let manifest = read_manifest(storage, &self.name, file).await?;
                    let files =
                        manifest.entries.iter().map(|e| e.file.file_path().to_owned()).collect();
                    manifests.insert(path.clone(), files);
                }
                manifests[&path].iter().for_each(|f| see(f, sequence));
            }
        }
        see(&self.location, i64::MAX - 1);
        self.metadata.metadata_log().iter().for_each(|l| see(&l.metadata_file, i64::MAX - 1));
        self.metadata.statistics_iter().for_each(|s| see(&s.statistics_path, i64::MAX - 1));
        let mut leftovers = Leftovers::default();
        let mut listed = storage.list(self.metadata.location());
        while let Some(file) = listed.try_next().await? {
            let path = file.location.strip_prefix(self.metadata.location()).unwrap_or_default();
            if path.starts_with(DELTA_LOG) || path.starts_with(DELTA_FILES) {
                leftovers.has_delta_log |= path.starts_with(DELTA_LOG);
                continue;
            }
            if self.is_retired(&file.location) {
                // Waits for its reader or its snapshots.
                continue;
            }
            match last.get(without_scheme(&file.location)) {
                None if file.modified_micros < before_micros => leftovers.orphans.push(file),
                Some(sequence) if Some(*sequence) < current => {
                    let (location, since) = (file.location, sequence + 1);
                    leftovers.older.push(Retired { location, since, held: None });
                }
                _ => {}
            }
        }
        Ok(leftovers)
    }

    fn is_retired(&self, location: &str) -> bool {
        let location = without_scheme(location);
        self.retired.iter().any(|r| without_scheme(&r.location) == location)
    }

    /// Takes note of files that go with the snapshots that name them. Gives the orphans that are
    /// orphans still; none while somebody reads a snapshot that is not kept any more, for nothing but
    /// that snapshot names its files.
    pub(crate) fn retire(&mut self, leftovers: Leftovers, holds: &Holds) -> Vec<String> {
        for file in leftovers.older {
            if !self.is_retired(&file.location) {
                self.retired.push(file);
            }
        }
        let kept = self.metadata.snapshots().map(|s| s.sequence_number()).collect();
        if !holds.let_go(&self.name, kept) {
            return Vec::new();
        }
        let orphans = leftovers.orphans.into_iter().map(|file| file.location);
        orphans.filter(|location| !self.is_retired(location)).collect()
    }

    /// The table without old snapshots, and how many these are; none when there are none. Writes its
    /// metadata file.
    pub(crate) fn without_old_snapshots(
        &self,
        scope: &WriteScope,
        retention: &Retention,
        now_micros: i64,
    ) -> Result<Option<(Self, Cleanup, usize)>, LakeError> {
        let expired = self.expired(retention, 0, now_micros / 1_000);
        if expired.is_empty() {
            return Ok(None);
        }
        let mut next = self.clone();
        self.retire_lists(&expired, &mut next.retired);
        let builder = self.metadata.clone().into_builder(Some(self.location.clone()));
        let builder = builder.remove_snapshots(&expired);
        let Built { metadata, location, updates, dropped } = self.write_next(scope, builder)?;
        (next.metadata, next.location, next.updates) = (metadata, location, updates);
        Ok(Some((next, Cleanup { locations: dropped }, expired.len())))
    }

    /// How many snapshots are older than need be.
    pub(crate) fn old_snapshots(&self, retention: &Retention, now_micros: i64) -> usize {
        self.expired(retention, 0, now_micros / 1_000).len()
    }

    fn retire_lists(&self, snapshots: &[i64], retired: &mut Vec<Retired>) {
        for old in snapshots.iter().filter_map(|id| self.metadata.snapshot_by_id(*id)) {
            // Whoever reads the snapshot may not have come to its manifests yet.
            let (location, since) = (old.manifest_list().to_owned(), old.sequence_number() + 1);
            retired.push(Retired { location, since, held: None });
        }
    }
}

/// Metadata that was built, and written if that is not the catalog's to do.
pub(super) struct Built {
    pub(super) metadata: TableMetadata,
    pub(super) location: String,
    pub(super) updates: Vec<TableUpdate>,
    /// Metadata files it does not name any more.
    pub(super) dropped: Vec<String>,
}

/// Metadata files to remove after the commit.
#[derive(Debug, Default)]
pub(crate) struct Cleanup {
    pub(super) locations: Vec<String>,
}

impl Cleanup {
    pub(crate) async fn run(self, storage: &Storage) {
        storage.remove(self.locations).await;
    }
}

/// What a metadata file says.
fn read_metadata(
    table: &TableName,
    location: &str,
    bytes: &[u8],
) -> Result<TableMetadata, LakeError> {
    let damaged = |e: serde_json::Error| LakeError::Corrupt {
        table: table.clone(),
        problem: format!("metadata file \"{location}\": {e}"),
    };
    let json: serde_json::Value = serde_json::from_slice(bytes).map_err(damaged)?;
    let metadata = serde_json::from_slice(bytes).map_err(|e| match unknown_feature(&json) {
        Some(feature) => LakeError::Unsupported { table: table.clone(), feature },
        None => damaged(e),
    })?;
    check_defaults(table, &metadata, &json)?;
    Ok(metadata)
}

async fn read_manifests(
    storage: &Storage,
    table: &TableName,
    metadata: &TableMetadata,
    snapshot: Option<&SnapshotRef>,
) -> Result<Vec<Manifest>, LakeError> {
    let Some(snapshot) = snapshot else { return Ok(Vec::new()) };
    let files = read_manifest_list(storage, table, metadata, snapshot.manifest_list()).await?;
    let reading: Vec<_> =
        files.into_iter().map(|file| read_manifest(storage, table, file)).collect();
    // In their order, some at a time.
    stream::iter(reading).buffered(READERS).try_collect().await
}

fn write_metadata(
    scope: &WriteScope,
    table: &TableName,
    metadata: &TableMetadata,
    location: &str,
) -> Result<(), LakeError> {
    let json = serde_json::to_vec(metadata).map_err(|e| LakeError::Corrupt {
        table: table.clone(),
        problem: format!("metadata cannot be written: {e}"),
    })?;
    scope.write(location, json);
    Ok(())
}

fn new_snapshot_id() -> i64 {
    let (high, low) = Uuid::new_v4().as_u64_pair();
    // Positive, as other engines expect.
    i64::try_from((high ^ low) >> 1).unwrap_or(1).max(1)
}
