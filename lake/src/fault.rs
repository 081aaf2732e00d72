//! Places where a test can make a commit, or reading and writing files, go wrong. Nothing outside tests arms them.

use std::{
    io,
    sync::{Mutex, PoisonError},
};

/// What goes wrong, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The catalog cannot be reached; nothing was committed.
    BeforeSwap,
    /// The catalog committed, but its answer does not arrive.
    AnswerLost,
    /// After a lost answer the catalog cannot be asked either.
    RereadFails,
    /// A file, or a part of it, cannot be read.
    ReadFails,
    /// Files that are written together cannot all be brought to their place.
    WriteFails,
}

/// The faults that wait to happen.
#[derive(Debug, Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    #[cfg(test)]
    pub(crate) fn arm(&self, fault: Fault) {
        self.0.lock().unwrap().push(fault);
    }

    /// Takes back what did not happen; answers whether there was anything.
    #[cfg(test)]
    pub(crate) fn disarm(&self) -> bool {
        !std::mem::take(&mut *self.0.lock().unwrap()).is_empty()
    }

    /// Fails where a test wants reading or writing files to fail.
    pub(crate) fn io(&self, fault: Fault) -> io::Result<()> {
        if self.hits(fault) { Err(io::Error::other("a test made it fail")) } else { Ok(()) }
    }

    /// Whether `fault` happens now; it is used up by that.
    pub(crate) fn hits(&self, fault: Fault) -> bool {
        let mut armed = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = armed.iter().position(|f| *f == fault);
        at.map(|at| armed.remove(at)).is_some()
    }
}
