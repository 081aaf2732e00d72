//! Reading: views, and the tables of a view as DataFusion scans them.

pub(crate) mod as_of;
mod changes;
mod complete;
mod differences;
pub(crate) mod feed;
pub(crate) mod foreign;
pub(crate) mod holds;
pub(crate) mod inspect;
mod partition;
pub(crate) mod provider;
pub(crate) mod prune;
pub(crate) mod reader;
mod rows;
mod scan;
pub(crate) mod tally;
pub(crate) mod view;
