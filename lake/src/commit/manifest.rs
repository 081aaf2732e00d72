//! Manifests: lists of files with where each came from.

use std::sync::Arc;

use iceberg::{
    io::FileIO,
    spec::{
        DataFile, ManifestContentType, ManifestFile, ManifestList, ManifestWriter,
        ManifestWriterBuilder, TableMetadata,
    },
};
use medlake_contract::TableName;
use uuid::Uuid;

use crate::{
    commit::table::CommittedTable,
    error::LakeError,
    format::schema::metadata_error,
    storage::{Storage, WriteScope},
};

/// A file in a manifest, with where it came from.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) file: DataFile,
    pub(crate) snapshot_id: i64,
    pub(crate) sequence: i64,
    pub(crate) file_sequence: i64,
}

/// A manifest of the current snapshot with the entries that live.
#[derive(Debug, Clone)]
pub(crate) struct Manifest {
    pub(crate) file: ManifestFile,
    pub(crate) entries: Vec<Arc<Entry>>,
}

/// Writes the manifests of one snapshot.
pub(crate) struct ManifestMaker<'a> {
    pub(crate) table: &'a CommittedTable,
    pub(crate) scope: &'a WriteScope,
    pub(crate) snapshot_id: i64,
    pub(crate) sequence: i64,
}

impl ManifestMaker<'_> {
    /// The manifests of one kind: the old ones as they are and one more for what is added, or, with
    /// `rewrite`, one with everything.
    pub(crate) async fn arrange(
        &mut self,
        content: ManifestContentType,
        old: &[Manifest],
        added: &[DataFile],
        rewrite: bool,
        removed: &(dyn Fn(&Entry) -> bool + Sync),
    ) -> Result<Vec<Manifest>, LakeError> {
        if added.is_empty() && !rewrite {
            return Ok(old.to_vec());
        }
        let wrong = |e| metadata_error("write a manifest", &self.table.name)(e);
        let location =
            format!("{}/metadata/{}-m0.avro", self.table.metadata.location(), Uuid::new_v4());
        let memory = FileIO::new_with_memory();
        let mut writer = self.writer(&memory, &location, content)?;
        let mut entries = Vec::new();
        let mut gone = 0;
        let mut manifests = Vec::new();
        if rewrite {
            for entry in old.iter().flat_map(|m| &m.entries) {
                let file = entry.file.clone();
                if removed(entry) {
                    gone += 1;
                    writer
                        .add_delete_file(file, entry.sequence, Some(entry.file_sequence))
                        .map_err(wrong)?;
                } else {
                    writer
                        .add_existing_file(
                            file,
                            entry.snapshot_id,
                            entry.sequence,
                            Some(entry.file_sequence),
                        )
                        .map_err(wrong)?;
                    entries.push(Arc::clone(entry));
                }
            }
        } else {
            // A manifest whose files are all gone said so in its own snapshot; no need to carry it.
            manifests.extend(old.iter().filter(|m| !m.entries.is_empty()).cloned());
        }
        for file in added {
            // The sequence number is inherited from the manifest list.
            writer.add_file(file.clone(), -1).map_err(wrong)?;
            entries.push(Arc::new(Entry {
                file: file.clone(),
                snapshot_id: self.snapshot_id,
                sequence: self.sequence,
                file_sequence: self.sequence,
            }));
        }
        if entries.is_empty() && gone == 0 {
            return Ok(manifests);
        }
        let mut file = writer.write_manifest_file().await.map_err(wrong)?;
        copy_out(&memory, self.scope, &location, &self.table.name).await?;
        file.sequence_number = self.sequence;
        file.min_sequence_number =
            entries.iter().map(|e| e.sequence).min().unwrap_or(self.sequence);
        manifests.push(Manifest { file, entries });
        Ok(manifests)
    }

    fn writer(
        &self,
        memory: &FileIO,
        location: &str,
        content: ManifestContentType,
    ) -> Result<ManifestWriter, LakeError> {
        let metadata = &self.table.metadata;
        let output = memory
            .new_output(location)
            .map_err(metadata_error("write a manifest", &self.table.name))?;
        let builder = ManifestWriterBuilder::new(
            output,
            Some(self.snapshot_id),
            Arc::clone(metadata.current_schema()),
            metadata.default_partition_spec().as_ref().clone(),
        );
        Ok(match content {
            ManifestContentType::Data => builder.build_v2_data(),
            ManifestContentType::Deletes => builder.build_v2_deletes(),
        })
    }
}

/// Writes to files what the library wrote to memory: all bytes pass one place.
pub(crate) async fn copy_out(
    memory: &FileIO,
    scope: &WriteScope,
    location: &str,
    table: &TableName,
) -> Result<(), LakeError> {
    let input =
        memory.new_input(location).map_err(metadata_error("read back a manifest", table))?;
    let bytes = input.read().await.map_err(metadata_error("read back a manifest", table))?;
    scope.write(location, &bytes)
}

pub(crate) fn read_manifest_list(
    table: &TableName,
    metadata: &TableMetadata,
    location: &str,
) -> Result<Vec<ManifestFile>, LakeError> {
    let bytes = Storage::read(location)?;
    let list = ManifestList::parse_with_version(&bytes, metadata.format_version())
        .map_err(metadata_error("read the manifest list", table))?;
    Ok(list.consume_entries().into_iter().collect())
}

pub(crate) async fn read_manifest(
    table: &TableName,
    file: ManifestFile,
) -> Result<Manifest, LakeError> {
    let manifest = file
        .load_manifest(&FileIO::new_with_fs())
        .await
        .map_err(metadata_error("read a manifest", table))?;
    let (all, _) = manifest.into_parts();
    let mut entries = Vec::new();
    for entry in all.into_iter().filter(|e| e.is_alive()) {
        let (Some(snapshot_id), Some(sequence), Some(file_sequence)) =
            (entry.snapshot_id, entry.sequence_number, entry.file_sequence_number)
        else {
            return Err(LakeError::Corrupt {
                table: table.clone(),
                problem: format!("\"{}\" has no sequence number", entry.file_path()),
            });
        };
        let file = entry.data_file().clone();
        entries.push(Arc::new(Entry { file, snapshot_id, sequence, file_sequence }));
    }
    Ok(Manifest { file, entries })
}
