//! Tables of the catalog that other programs write: in the views, to be read and nothing else.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::TryStreamExt;
use medlake_contract::{Kind, TableName, with_causes};

use crate::{
    catalog::CatalogTable,
    commit::table::CommittedTable,
    error::LakeError,
    format::schema::{KEY_PROPERTY, is_ours},
    lake::Lake,
    open::open_files,
    read::view::TableView,
    storage::Storage,
    table::segment::Segment,
};

/// How the names of metadata files end.
const METADATA_ENDING: &str = ".metadata.json";

/// A table as of the metadata file its picture was made from.
#[derive(Debug, Clone)]
pub(crate) struct ForeignTable {
    location: String,
    /// Or why it cannot be read.
    pub(crate) picture: Result<Arc<TableView>, Arc<LakeError>>,
}

impl ForeignTable {
    /// A table that was loaded, or that could not be.
    pub(crate) async fn of(
        storage: &Storage,
        name: &TableName,
        location: String,
        loaded: Result<CommittedTable, LakeError>,
    ) -> Self {
        let picture = match loaded {
            Ok(committed) => picture(storage, &committed).await,
            Err(error) => Err(error),
        };
        let picture = picture.map_err(|error| {
            let reason = with_causes(&error);
            tracing::warn!(table = %name, reason, "a table of another program is left out");
            Arc::new(error)
        });
        Self { location, picture }
    }
}

/// The rows of a committed table.
pub(crate) async fn picture(
    storage: &Storage,
    committed: &CommittedTable,
) -> Result<Arc<TableView>, LakeError> {
    let shape = Arc::new(committed.shape()?);
    let segments = (0..)
        .zip(open_files(storage, committed).await?)
        .map(|(id, (file, dead))| Segment::of_file(id, file, Arc::new(dead)))
        .collect();
    Ok(Arc::new(TableView::new(shape, segments)))
}

/// Whether a table whose metadata cannot be understood is another program's: its metadata says so, or,
/// where that is lost, no other metadata file beside it says that the table was ours.
pub(crate) async fn is_foreign(storage: &Storage, location: &str) -> Result<bool, LakeError> {
    if let Some(ours) = says_ours(storage, location).await? {
        return Ok(!ours);
    }
    let Some((folder, _)) = location.rsplit_once('/') else { return Ok(true) };
    let mut listed = storage.list(folder);
    loop {
        match listed.try_next().await {
            Ok(None) => return Ok(true),
            Ok(Some(file)) if !file.location.ends_with(METADATA_ENDING) => {}
            Ok(Some(file)) => {
                if says_ours(storage, &file.location).await? == Some(true) {
                    return Ok(false);
                }
            }
            // Not where this program writes.
            Err(error) if error.kind() == Kind::Unsupported => return Ok(true),
            Err(error) => return Err(error),
        }
    }
}

/// Whether a metadata file is of a table of this program; none when it is not there, or is none.
async fn says_ours(storage: &Storage, location: &str) -> Result<Option<bool>, LakeError> {
    let json = match storage.read(location).await {
        Ok(json) => json,
        Err(error) if error.is_missing() || error.kind() == Kind::Unsupported => return Ok(None),
        // It may be there the next time.
        Err(error) => return Err(error),
    };
    let json: Option<serde_json::Value> = serde_json::from_slice(&json).ok();
    Ok(json.map(|json| json.get("properties").is_some_and(|p| p.get(KEY_PROPERTY).is_some())))
}

impl Lake {
    /// Takes in what other programs committed to their tables of the catalog since; answers how many
    /// changed. Their new rows are in the published view at once. Cheap when nothing changed: one
    /// question to the catalog. Called by [`Self::maintain`].
    ///
    /// # Errors
    /// When the catalog cannot be asked. A table that cannot be read is left out instead, and named
    /// by [`ReadView::left_out`](crate::ReadView::left_out).
    pub async fn refresh_foreign(&self) -> Result<usize, LakeError> {
        let (listed, own): (Vec<CatalogTable>, Vec<TableName>) = {
            let committer = self.committer.lock().await;
            (committer.catalog.tables().await?, committer.tables.keys().cloned().collect())
        };
        let known = self.foreign();
        let mut foreign = BTreeMap::new();
        let mut changed = 0;
        for listed in listed {
            let (name, location) = (listed.name.clone(), listed.location.clone());
            if own.contains(&name) {
                continue;
            }
            let table = match known.get(&name) {
                Some(table) if table.location == location => table.clone(),
                _ => {
                    changed += 1;
                    let loaded = CommittedTable::load(&self.storage, listed).await;
                    if loaded.as_ref().is_ok_and(|table| is_ours(&table.metadata)) {
                        // Made by this program since the tables were asked for.
                        continue;
                    }
                    ForeignTable::of(&self.storage, &name, location, loaded).await
                }
            };
            foreign.insert(name, table);
        }
        changed += known.keys().filter(|name| !foreign.contains_key(*name)).count();
        if changed > 0 {
            self.replace_foreign(foreign);
        }
        Ok(changed)
    }
}
