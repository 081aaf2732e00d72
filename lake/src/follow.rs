//! Reading a lake that another process writes.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use medlake_contract::TableName;
use tokio::sync::watch;

use crate::{
    catalog::{self, Catalog, CatalogTable, database::Access},
    commit::table::CommittedTable,
    config::LakeConfig,
    error::LakeError,
    format::{progress::Progress, schema::is_ours},
    read::{
        as_of::Past,
        foreign::{ForeignTable, is_foreign, picture},
        view::{ReadView, TableView},
    },
    storage::Storage,
};

/// A lake followed from outside, commit by commit: what is in files, without what its writer still
/// has in memory. Takes no lock and writes nothing; any number may follow one lake.
pub struct Follower {
    catalog: Box<dyn Catalog>,
    storage: Storage,
    seen: Option<i64>,
    /// Whether the tables were read at least once.
    opened: bool,
    tables: BTreeMap<TableName, Followed>,
    published: watch::Sender<Arc<ReadView>>,
    root: PathBuf,
}

/// A table as of the metadata file its picture was made from.
struct Followed {
    location: String,
    /// None when other programs write it.
    committed: Option<Arc<CommittedTable>>,
    /// Or why it cannot be read.
    picture: Result<Arc<TableView>, Arc<LakeError>>,
    progress: Option<Progress>,
}

impl Follower {
    /// Opens the lake that `config` says as of its last commit. What the configuration says of
    /// writing is not looked at.
    ///
    /// # Errors
    /// [`LakeError::Catalog`] when there is no catalog yet; what is damaged or not understood.
    pub async fn open(config: &LakeConfig) -> Result<Self, LakeError> {
        let catalog = catalog::open(config, &config.root, Access::Read).await?;
        let storage = Storage::open(config).await?;
        let empty = ReadView {
            version: 0,
            positions: medlake_contract::Positions::new(),
            committed_at_micros: None,
            tables: BTreeMap::new(),
            left_out: BTreeMap::new(),
            past: Arc::new(Past::new(storage.clone())),
        };
        let mut follower = Self {
            catalog,
            storage,
            seen: None,
            opened: false,
            tables: BTreeMap::new(),
            published: watch::Sender::new(Arc::new(empty)),
            root: config.root.clone(),
        };
        follower.refresh().await?;
        Ok(follower)
    }

    /// The views as commits come.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Arc<ReadView>> {
        self.published.subscribe()
    }

    /// Takes in what was committed since; answers whether something was. Cheap when nothing was.
    ///
    /// # Errors
    /// As [`Self::open`]. The view stays as it was, and the next call tries again.
    pub async fn refresh(&mut self) -> Result<bool, LakeError> {
        // Asked before the tables: a commit in between is found again, never missed.
        let version = self.catalog.version().await?;
        if version.is_some() && self.seen == version {
            return Ok(false);
        }
        let listed = self.catalog.tables().await?;
        let known = |listed: &CatalogTable| {
            self.tables.get(&listed.name).is_some_and(|known| known.location == listed.location)
        };
        if self.opened && listed.len() == self.tables.len() && listed.iter().all(known) {
            self.seen = version;
            return Ok(false);
        }
        let mut tables = BTreeMap::new();
        for listed in listed {
            let name = listed.name.clone();
            let followed = match self.tables.get(&name) {
                Some(known) if known.location == listed.location => Followed {
                    location: listed.location,
                    committed: known.committed.clone(),
                    picture: known.picture.clone(),
                    progress: known.progress.clone(),
                },
                _ => load(&self.storage, listed).await?,
            };
            tables.insert(name, followed);
        }
        let newest = tables
            .values()
            .filter_map(|t| t.progress.as_ref())
            .max_by_key(|p| (p.epoch, p.view_version))
            .cloned();
        self.tables = tables;
        self.seen = version;
        self.opened = true;
        let ours = self.tables.values().filter_map(|t| t.committed.as_deref());
        let past = self.published.borrow().past.next(ours);
        let view = ReadView {
            version: newest.as_ref().map_or(0, |p| p.view_version),
            committed_at_micros: newest.as_ref().and_then(|p| p.committed_at_micros),
            positions: newest.map(|p| p.positions).unwrap_or_default(),
            tables: self
                .tables
                .iter()
                .filter_map(|(name, t)| Some((name.clone(), t.picture.clone().ok()?)))
                .collect(),
            left_out: self
                .tables
                .iter()
                .filter_map(|(name, t)| Some((name.clone(), t.picture.clone().err()?)))
                .collect(),
            past,
        };
        tracing::debug!(root = %self.root.display(), version = view.version, "followed a commit");
        self.published.send_replace(Arc::new(view));
        Ok(true)
    }
}

async fn load(storage: &Storage, listed: CatalogTable) -> Result<Followed, LakeError> {
    let (name, location) = (listed.name.clone(), listed.location.clone());
    let committed = match CommittedTable::load(storage, listed).await {
        Ok(committed) if is_ours(&committed.metadata) => committed,
        Err(error) if !is_foreign(storage, &location).await? => return Err(error),
        loaded => {
            let table = ForeignTable::of(storage, &name, location.clone(), loaded).await;
            let picture = table.picture;
            return Ok(Followed { location, committed: None, picture, progress: None });
        }
    };
    let progress = committed.progress()?;
    let picture = Ok(picture(storage, &committed).await?);
    Ok(Followed { location, committed: Some(Arc::new(committed)), picture, progress })
}

#[cfg(test)]
mod tests {
    use arrow::{array::Int64Array, record_batch::RecordBatch};
    use medlake_contract::{
        ChangeBatch, ChangeSet, Column, ColumnType, Position, Positions, SourceId, TableSchema,
    };

    use super::*;
    use crate::Lake;

    fn inserts(table: &Arc<TableSchema>, keys: Vec<i64>, change_id: u64) -> ChangeSet {
        let rows = Arc::new(Int64Array::from(keys));
        let rows = RecordBatch::try_new(Arc::clone(table.arrow()), vec![rows]).unwrap();
        ChangeSet {
            batches: vec![ChangeBatch::inserts(Arc::clone(table), &rows).unwrap()],
            positions: Positions::from([(SourceId::new("mall"), Position::ChangeId(change_id))]),
            committed_at_micros: Some(7),
            transaction_count: 1,
            ..ChangeSet::default()
        }
    }

    #[tokio::test]
    async fn a_follower_sees_commits_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let config = LakeConfig::new(folder.path(), Arc::new(|| 0));
        let missing = Follower::open(&config).await.err().unwrap();
        assert!(matches!(missing, LakeError::Catalog { .. }), "{missing}");

        let lake = Lake::open(config.clone()).await.unwrap();
        let orders = TableSchema::new(
            "mall.orders".parse().unwrap(),
            vec![Column::required("order_id", ColumnType::Int64)],
            &["order_id"],
        );
        let orders = Arc::new(orders.unwrap());
        lake.create_tables(&[Arc::clone(&orders)]).await.unwrap();
        let mut follower = Follower::open(&config).await.unwrap();
        let views = follower.watch();
        let rows = || views.borrow().tables()[0].row_count;
        assert_eq!(rows(), 0);

        lake.stage(&inserts(&orders, vec![1, 2, 3], 3)).unwrap();
        lake.publish();
        assert!(!follower.refresh().await.unwrap(), "published is not committed");
        lake.flush().await.unwrap();
        assert!(follower.refresh().await.unwrap());
        assert_eq!(rows(), 3);
        assert_eq!(views.borrow().positions(), lake.read_view().positions());
        assert_eq!(views.borrow().committed_at_micros(), Some(7));

        // The same key again replaces the row: the old one is deleted by position.
        lake.stage(&inserts(&orders, vec![3, 4], 5)).unwrap();
        lake.publish();
        lake.flush().await.unwrap();
        assert!(follower.refresh().await.unwrap());
        assert_eq!(rows(), 4);
        assert!(!follower.refresh().await.unwrap(), "nothing was committed since");
    }

    #[tokio::test]
    async fn data_files_are_not_looked_at_before_they_are_scanned() {
        let folder = tempfile::tempdir().unwrap();
        let config = LakeConfig::new(folder.path(), Arc::new(|| 0));
        let lake = Lake::open(config.clone()).await.unwrap();
        let columns = vec![Column::required("order_id", ColumnType::Int64)];
        let orders = TableSchema::new("mall.orders".parse().unwrap(), columns, &["order_id"]);
        let orders = Arc::new(orders.unwrap());
        lake.create_tables(&[Arc::clone(&orders)]).await.unwrap();
        for file in 1..=3 {
            lake.stage(&inserts(&orders, vec![file, 10 * file], file.unsigned_abs())).unwrap();
            lake.publish();
            lake.flush().await.unwrap();
        }
        let data = folder.path().join("warehouse/mall/orders/data");
        let files: Vec<_> = std::fs::read_dir(&data).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(files.len(), 3);
        for file in &files {
            let bytes = std::fs::metadata(file).unwrap().len();
            std::fs::write(file, vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        }
        let follower = Follower::open(&config).await.unwrap();
        let view = Arc::clone(&follower.watch().borrow());
        assert_eq!(view.tables()[0].row_count, 6);
        let session = datafusion::prelude::SessionContext::new();
        session.register_catalog("lake", view.catalog());
        let scan = session.sql("select sum(order_id) from lake.mall.orders").await.unwrap();
        let error = scan.collect().await.unwrap_err().to_string();
        assert!(error.contains("read the footer of") && error.contains(".parquet"), "{error}");
    }
}
