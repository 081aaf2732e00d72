//! What stands in files: schemas, data files, delete files, snapshot summaries.

pub(crate) mod data_file;
pub(crate) mod partition;
pub(crate) mod position_deletes;
pub(crate) mod progress;
pub(crate) mod schema;
