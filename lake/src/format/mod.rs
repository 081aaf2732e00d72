//! What stands in files: schemas, data files, delete files, snapshot summaries.

pub(crate) mod adapt;
pub(crate) mod bounds;
pub(crate) mod data_file;
pub(crate) mod deletion_vectors;
pub(crate) mod equality_deletes;
pub(crate) mod evolve;
pub(crate) mod manifest_names;
pub(crate) mod parquet_schema;
pub(crate) mod partition;
pub(crate) mod position_deletes;
pub(crate) mod progress;
pub(crate) mod refs;
pub(crate) mod schema;
