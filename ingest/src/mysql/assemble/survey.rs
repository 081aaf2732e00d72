//! What transactions larger than a page make of the tables.

use std::mem;

use super::Assembler;
use crate::IngestError;

/// Bytes of a transaction larger than a page that are held; of one with more, events are read twice.
pub(super) const HELD_BYTES: usize = 8 << 20;

/// Tables may have other columns than they are known to have, and only their next table map tells
/// which; but that must be said before the transaction. So one that is larger than a page is gone
/// through for its table maps before anything of it is handed out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Survey {
    /// Not needed yet.
    #[default]
    None,
    /// Under way, and the events are held.
    Short,
    /// Under way, and the events are too many to be held: they are read once more.
    Long,
    Done,
}

impl Survey {
    pub(super) fn is_on(self) -> bool {
        matches!(self, Self::Short | Self::Long)
    }
}

impl Assembler {
    pub(super) fn is_surveying(&self) -> bool {
        self.current.as_ref().is_some_and(|current| current.survey.is_on())
    }

    /// All tables of the transaction are known: takes its rows in, or has them read once more. Answers
    /// whether it is not to be committed now.
    pub(super) fn end_survey(&mut self) -> Result<bool, IngestError> {
        let Some(current) = &mut self.current else { return Ok(false) };
        match mem::replace(&mut current.survey, Survey::Done) {
            Survey::None | Survey::Done => Ok(false),
            Survey::Short => {
                let events = mem::take(&mut current.events);
                self.rewind();
                self.replay(events)?;
                Ok(false)
            }
            Survey::Long => {
                self.current = None;
                self.has_format = false;
                self.payload_end = 0;
                self.file.clone_from(&self.place.file);
                self.surveyed = true;
                self.again = true;
                Ok(true)
            }
        }
    }

    /// Takes away the rows of the transaction that goes on, none of which is handed out.
    pub(super) fn rewind_rows(&mut self) {
        if let Some(current) = &self.current {
            let mark = current.mark.clone();
            self.draft.rewind(&mark);
        }
    }

    /// Begins the transaction that goes on anew.
    pub(super) fn rewind(&mut self) {
        self.rewind_rows();
        if let Some(current) = &mut self.current {
            current.events = Vec::new();
            (current.rows_events, current.event_bytes) = (0, 0);
            current.savepoints.clear();
            if current.survey != Survey::Done {
                current.survey = Survey::None;
            }
        }
    }
}
