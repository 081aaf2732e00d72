//! Learning what another program committed to our tables, so that our own change can be made on top.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use arrow::error::ArrowError;
use futures::TryStreamExt;
use medlake_contract::{Identity, TableName};
use roaring::RoaringBitmap;
use tokio::runtime::Handle;

use crate::{
    catalog::{CatalogKind, CatalogTable},
    commit::{flush::Committer, table::CommittedTable},
    error::LakeError,
    format::{data_file::LakeFile, schema::Shape},
    open::open_files,
    read::view::TableView,
    storage::blocking,
    table::{
        absorb::{Arrived, Foreign, KeysAt, Left},
        key::KeyCodec,
    },
};

/// A table as it is after another program's commit, and what that changed.
pub(crate) struct Rebased {
    pub(crate) committed: CommittedTable,
    pub(crate) foreign: Foreign,
}

impl Committer {
    /// Whether the catalog names other metadata of our tables than ours. A service is asked only after
    /// a commit that went wrong, as that is a request a table; else it is found when the table is
    /// committed next.
    pub(crate) async fn is_behind(&mut self) -> Result<bool, LakeError> {
        if self.catalog.kind() == CatalogKind::Service && !self.doubtful {
            return Ok(false);
        }
        let listed = self.catalog.tables().await?;
        let locations: HashMap<&TableName, &String> =
            listed.iter().map(|l| (&l.name, &l.location)).collect();
        let mut own = self.tables.iter();
        self.doubtful = own.any(|(name, own)| locations.get(name) != Some(&&own.location));
        Ok(self.doubtful)
    }

    /// Reads what other programs committed since our last commit. `tables` is what is staged, with the
    /// codecs of their keys. Changes nothing.
    ///
    /// # Errors
    /// [`LakeError::CommitConflict`] for what cannot be taken in: a table that was dropped or got
    /// another schema, deletes that were taken back, a table without a key whose rows were moved.
    pub(crate) async fn rebase(
        &self,
        tables: &BTreeMap<TableName, (Arc<TableView>, Arc<KeyCodec>)>,
    ) -> Result<Vec<Rebased>, LakeError> {
        let names: Vec<TableName> = self.tables.keys().cloned().collect();
        let listed = self.catalog.settled(self.epoch, &names).await?;
        let mut listed: HashMap<TableName, CatalogTable> =
            listed.into_iter().map(|l| (l.name.clone(), l)).collect();
        let mut rebased = Vec::new();
        for (name, own) in &self.tables {
            let conflict = || LakeError::CommitConflict { table: name.clone() };
            let now = listed.remove(name).ok_or_else(conflict)?;
            if now.location == own.location {
                continue;
            }
            let committed = CommittedTable::load(&self.storage, now).await?;
            committed.check_epoch(self.epoch)?;
            let (view, codec) = tables.get(name).ok_or_else(conflict)?;
            let (now, before) = (&committed.metadata, &own.metadata);
            let same = now.current_schema().as_struct() == before.current_schema().as_struct();
            if !same || now.uuid() != before.uuid() {
                return Err(conflict());
            }
            let files = open_files(&self.storage, &committed).await?;
            let (view, codec) = (Arc::clone(view), Arc::clone(codec));
            let runtime = Handle::current();
            // Key columns are decoded: that takes a core for a while.
            let foreign = blocking(move || runtime.block_on(compare(&view, &codec, files))).await?;
            rebased.push(Rebased { committed: committed.after(own), foreign });
        }
        Ok(rebased)
    }
}

/// What became of the files of `view`, when `now` are the table's files with their dead positions.
async fn compare(
    view: &TableView,
    codec: &KeyCodec,
    now: Vec<(Arc<LakeFile>, RoaringBitmap)>,
) -> Result<Foreign, LakeError> {
    let table = view.schema.name();
    let conflict = || LakeError::CommitConflict { table: table.clone() };
    let arrow = |source| LakeError::Arrow {
        doing: "read the keys of what another program committed",
        table: table.clone(),
        source,
    };

    let keyed = match view.schema.identity() {
        Identity::Key => true,
        Identity::Append => false,
        Identity::FullRow => return Err(conflict()),
    };

    let keys = async |file: &Arc<LakeFile>| match keyed {
        true => keys_of(file, codec, &view.shape, &arrow).await,
        false => Ok(KeysAt::new()),
    };
    let mut now: BTreeMap<String, (Arc<LakeFile>, RoaringBitmap)> =
        now.into_iter().map(|(file, dead)| (file.location.clone(), (file, dead))).collect();
    let (mut left, mut arrived) = (Vec::new(), Vec::new());
    for segment in &view.segments {
        let Some(rows) = segment.committed_file() else { continue };
        let known = &*rows.committed_dead;
        let (dead, lost) = match now.remove(&rows.file.location) {
            Some((_, dead)) if dead == *known => continue,
            Some((_, dead)) if known.is_subset(&dead) => {
                let lost = &dead - known;
                (Some(Arc::new(dead)), lost)
            }
            // Rows came back that we had deleted.
            Some(_) => return Err(conflict()),
            None => {
                let mut lost = RoaringBitmap::from_iter(0..rows.file.rows);
                lost -= known;
                (None, lost)
            }
        };
        // Without keys nobody knows which of the rows elsewhere is one that died here.
        if !keyed && segment.dead.len() > known.len() {
            return Err(conflict());
        }
        let keys = keys(&rows.file).await?;
        left.push(Left { segment: segment.id, dead, lost, keys });
    }
    for (file, dead) in now.into_values() {
        let keys = keys(&file).await?;
        arrived.push(Arrived { file, dead: Arc::new(dead), keys });
    }
    Ok(Foreign::new(view, codec, left, arrived))
}

async fn keys_of(
    file: &Arc<LakeFile>,
    codec: &KeyCodec,
    shape: &Shape,
    arrow: &impl Fn(ArrowError) -> LakeError,
) -> Result<KeysAt, LakeError> {
    let mut keys = KeysAt::new();
    let mut batches = file.read(shape, codec.columns()).await?;
    while let Some((first, batch)) = batches.try_next().await? {
        let count = u32::try_from(batch.num_rows()).unwrap_or(u32::MAX);
        keys.push((first, codec.keys_of_columns(batch.columns()).map_err(arrow)?, count));
    }
    Ok(keys)
}
