use std::{fmt, path::PathBuf, sync::Arc};

/// The time now, in microseconds since 1970 (UTC). Passed in, so that a test or a replay chooses it.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// How safe a committed file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Survives the end of the process, not a loss of power.
    Process,
    /// Flushed to the disk before the catalog names it.
    Disk,
}

/// Where a lake is and how it behaves. Every field is valid with any value; zero for a limit means
/// "at every flush".
#[derive(Clone)]
pub struct LakeConfig {
    /// Folder of the catalog database (`catalog.db`) and the tables (`warehouse/`). Created when
    /// missing.
    pub root: PathBuf,
    /// The catalog's name, as other engines give it.
    pub catalog_name: String,
    /// The clock. Not behind the machine's own by more than a minute: snapshots are dated with it.
    pub clock: Clock,
    /// Whether files are flushed to the disk before they are committed.
    pub durability: Durability,
    /// [`Lake::flush_due`](crate::Lake::flush_due) answers yes from this many rows not in files.
    pub flush_rows: u64,
    /// ... or from this many bytes of memory they take.
    pub flush_bytes: u64,
    /// A data file below this size is small.
    pub small_file_bytes: u64,
    /// More small files than this in one table are merged by the next flush.
    pub small_file_count: usize,
    /// Files with more than this share of dead rows are rewritten with the next merge, in percent.
    pub dead_percent: u64,
    /// More delete files than this in one table are merged by the next flush.
    pub delete_file_count: usize,
    /// Snapshots of a table that are always kept.
    pub keep_snapshots: usize,
    /// Snapshots that were replaced by the next one less than this ago are kept as well, in
    /// microseconds: a process that follows the lake has this long to read one.
    pub keep_snapshots_micros: i64,
    /// A file in the warehouse that nothing names is removed when it is older than this, in
    /// microseconds.
    pub orphan_micros: i64,
}

impl LakeConfig {
    /// A lake in folder `root` with the defaults.
    pub fn new(root: impl Into<PathBuf>, clock: Clock) -> Self {
        Self {
            root: root.into(),
            catalog_name: "medlake".to_owned(),
            clock,
            durability: Durability::Disk,
            flush_rows: 200_000,
            flush_bytes: 128 << 20,
            small_file_bytes: 16 << 20,
            small_file_count: 24,
            dead_percent: 30,
            delete_file_count: 12,
            keep_snapshots: 20,
            keep_snapshots_micros: 2 * 60 * 1_000_000,
            orphan_micros: 60 * 60 * 1_000_000,
        }
    }
}

impl fmt::Debug for LakeConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LakeConfig")
            .field("root", &self.root)
            .field("catalog_name", &self.catalog_name)
            .field("durability", &self.durability)
            .finish_non_exhaustive()
    }
}
