//! What a commit says of dead rows in a table of format v3: one deletion vector a data file, all
//! that are new in one Puffin file.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use medlake_contract::TableName;
use roaring::RoaringBitmap;
use uuid::Uuid;

use crate::{
    commit::{
        manifest::{DeleteKey, Entry, NewEntry},
        write::{FileSegment, Partition, WrittenTable, partition_of},
    },
    error::LakeError,
    format::{
        data_file::LakeFile,
        deletion_vectors::{Vector, is_vector, write_vectors},
    },
    storage::WriteScope,
};

/// Where vectors are written.
pub(crate) struct VectorWriter<'a> {
    pub(crate) scope: &'a WriteScope,
    pub(crate) table: &'a TableName,
    /// The table's.
    pub(crate) location: &'a str,
}

impl VectorWriter<'_> {
    /// Writes all that is dead of these files; gives an entry for each.
    pub(crate) async fn write(
        &self,
        dead: Vec<(&LakeFile, &RoaringBitmap)>,
    ) -> Result<Vec<NewEntry>, LakeError> {
        let vectors: BTreeMap<String, Vector> = dead
            .into_iter()
            .filter(|(_, dead)| !dead.is_empty())
            .map(|(file, dead)| {
                let (spec_id, partition) = partition_of(file);
                (file.location.clone(), Vector { spec_id, partition, dead: dead.clone() })
            })
            .collect();
        if vectors.is_empty() {
            return Ok(Vec::new());
        }
        let location = format!("{}/data/{}-deletes.puffin", self.location, Uuid::new_v4());
        write_vectors(self.scope, location, self.table, vectors).await
    }

    /// Writes the vectors of the files of `kept` in which rows died. A vector says all of its file,
    /// so it replaces the one before. Position delete files from before the table was of this format
    /// hold good until a row of their partition dies; then vectors take the place of all of them.
    pub(crate) async fn write_fresh(
        &self,
        kept: &[FileSegment<'_>],
        delete_files: &[Arc<Entry>],
        written: &mut WrittenTable,
    ) -> Result<(), LakeError> {
        let (vectors, positions): (Vec<&Arc<Entry>>, Vec<&Arc<Entry>>) =
            delete_files.iter().partition(|entry| is_vector(&entry.file));
        let with_vector: HashSet<String> =
            vectors.iter().filter_map(|e| e.file.referenced_data_file()).collect();
        let mut outdated: HashSet<Partition> = HashSet::new();
        if !positions.is_empty() {
            let died = kept.iter().filter(|(s, f)| s.dead.len() > f.committed_dead.len());
            outdated.extend(died.map(|(_, file)| partition_of(&file.file)));
        }
        let mut dead: Vec<(&LakeFile, &RoaringBitmap)> = Vec::new();
        for (segment, file) in kept {
            let fresh = segment.dead.len() - file.committed_dead.len();
            if fresh > 0 {
                written.deletes += fresh;
                written.committed_dead.push((segment.id, Arc::clone(&segment.dead)));
            } else if !outdated.contains(&partition_of(&file.file))
                || with_vector.contains(&file.file.location)
            {
                continue;
            }
            dead.push((&file.file, &segment.dead));
        }
        written.change.added_deletes.extend(self.write(dead).await?);
        let gone = positions.into_iter().filter(|entry| outdated.contains(&entry.partition()));
        written.change.removed_deletes.extend(gone.map(|entry| DeleteKey::of(&entry.file)));
        Ok(())
    }
}
