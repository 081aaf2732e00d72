//! Committing: what was written becomes the next snapshot of every table it touches.

mod change;
mod columns;
pub(crate) mod flush;
pub(crate) mod layout;
pub(crate) mod manifest;
pub(crate) mod partial;
pub(crate) mod rebase;
pub(crate) mod table;
pub(crate) mod vectors;
pub(crate) mod write;
