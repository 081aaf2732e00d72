use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use medlake_contract::{SourceId, TableName};

use crate::source::{Gauges, SourceHealth, TableState};

/// How sources and tables are doing, to be looked at at any time. Clones are the same handle.
#[derive(Debug, Clone)]
pub struct Monitor {
    sources: Arc<BTreeMap<SourceId, Arc<Gauges>>>,
    tables: Arc<Mutex<BTreeMap<TableName, TableState>>>,
}

impl Monitor {
    pub(crate) fn new(sources: BTreeMap<SourceId, Arc<Gauges>>, states: &[TableState]) -> Self {
        let monitor = Self { sources: Arc::new(sources), tables: Arc::default() };
        monitor.note(states);
        monitor
    }

    pub(crate) fn note(&self, states: &[TableState]) {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.extend(states.iter().map(|state| (state.table.clone(), state.clone())));
    }

    /// The sources.
    #[must_use]
    pub fn sources(&self) -> BTreeMap<SourceId, SourceHealth> {
        self.sources.iter().map(|(id, gauges)| (id.clone(), gauges.read())).collect()
    }

    /// The tables that have a state, as last handed out.
    #[must_use]
    pub fn tables(&self) -> Vec<TableState> {
        let tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        tables.values().cloned().collect()
    }
}
