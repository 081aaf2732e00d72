//! What is staged, the views made of it, and how the published view follows what is committed.
//!
//! A published view keeps its rows: when they move from memory into files, or from files into merged
//! ones, a view of the same rows in their new places takes its place, and nobody is woken.

use std::{collections::BTreeMap, sync::Arc};

use medlake_contract::{Positions, TableName};
use tokio::sync::oneshot;

use crate::{
    commit::{
        flush::{Committer, FlushReport, Settled},
        write::WrittenTable,
    },
    error::LakeError,
    lake::Lake,
    read::{
        as_of::Past,
        foreign::ForeignTable,
        view::{ReadView, TableView},
    },
    table::{TableState, absorb::Foreign, forward::Carried, relocate, segment::Segment},
};

/// Everything that changes with staging, behind one lock that is never held across an await.
pub(crate) struct State {
    pub(crate) tables: BTreeMap<TableName, TableState>,
    /// Written by others.
    pub(crate) foreign: BTreeMap<TableName, ForeignTable>,
    pub(crate) positions: Positions,
    pub(crate) committed_at_micros: Option<i64>,
    pub(crate) version: u64,
    /// Whether something was staged since the last publication.
    pub(crate) ahead: bool,
    /// What is committed.
    pub(crate) past: Arc<Past>,
    /// What other programs committed, to be taken in once nothing is staged beyond what is published.
    pub(crate) absorbing: Option<Absorbing>,
}

pub(crate) struct Absorbing {
    pub(crate) tables: Arc<BTreeMap<TableName, Foreign>>,
    pub(crate) done: oneshot::Sender<()>,
}

impl State {
    /// Takes in what other programs committed, if somebody waits for it. Nothing may be staged beyond
    /// what is published or about to be.
    pub(crate) fn absorb(&mut self) {
        let Some(Absorbing { tables, done }) = self.absorbing.take() else { return };
        if done.is_closed() {
            return;
        }
        for (name, foreign) in &*tables {
            if let Some(table) = self.tables.get_mut(name) {
                table.absorb(foreign);
            }
        }
        // Whoever goes away just now finds it done when it is tried again.
        let _ = done.send(());
    }

    pub(crate) fn view(&mut self, version: u64) -> ReadView {
        ReadView {
            version,
            positions: self.positions.clone(),
            committed_at_micros: self.committed_at_micros,
            tables: readable(&self.foreign)
                .chain(self.tables.iter_mut().map(|(n, t)| (n.clone(), t.view())))
                .collect(),
            left_out: unreadable(&self.foreign),
            past: Arc::clone(&self.past),
        }
    }
}

impl Lake {
    pub(crate) fn foreign(&self) -> BTreeMap<TableName, ForeignTable> {
        self.state().foreign.clone()
    }

    /// Puts these tables of others in the place of those in the published view.
    pub(crate) fn replace_foreign(&self, foreign: BTreeMap<TableName, ForeignTable>) {
        let mut state = self.state();
        let mut view = self.published();
        view.tables.retain(|name, _| !state.foreign.contains_key(name));
        view.tables.extend(readable(&foreign));
        view.left_out = unreadable(&foreign);
        state.foreign = foreign;
        self.replace(view);
    }

    /// Brings the published view up to what is there, when nothing is staged beyond it.
    pub(crate) fn refresh(&self, state: &mut State) {
        if !state.ahead {
            let version = state.version;
            self.replace(state.view(version));
        }
    }

    /// Puts the files of a committed flush in the place of the rows they were written from: in what
    /// is staged, and in the published view, which may be older. The next flush must not find rows in
    /// memory that are in files already.
    pub(crate) async fn install(&self, committer: &mut Committer, settled: Settled) -> FlushReport {
        let past = self.past(committer);
        let carried = self.carried(&settled);
        {
            let mut state = self.state();
            state.past = Arc::clone(&past);
            let mut view = ReadView { past, ..self.published() };
            for (written, carried) in settled.written.iter().zip(&carried) {
                let Some(table) = state.tables.get_mut(&written.name) else { continue };
                let bases = table.install(written, carried);
                if let Some(table) = view.tables.get_mut(&written.name) {
                    let mut segments: BTreeMap<u32, Segment> =
                        table.segments.iter().map(|s| (s.id, s.clone())).collect();
                    relocate(&mut segments, written, &bases, carried);
                    let segments = segments.into_values().collect();
                    *table = Arc::new(TableView::new(Arc::clone(&table.shape), segments));
                }
            }
            self.replace(view);
        }
        let Settled { report, written, cleanups } = settled;
        drop(written);
        self.set_committed_positions(&report.positions);
        for cleanup in cleanups {
            cleanup.run(&committer.storage).await;
        }
        committer.clean().await;
        report
    }

    /// Lets views know what is committed, after a commit that changed no row of theirs.
    pub(crate) fn show_committed(&self, committer: &Committer) {
        let past = self.past(committer);
        let mut state = self.state();
        state.past = Arc::clone(&past);
        self.replace(ReadView { past, ..self.published() });
    }

    /// What is committed now. Worked out while nobody has to wait for the state: it changes only where
    /// the committer is held.
    fn past(&self, committer: &Committer) -> Arc<Past> {
        let before = Arc::clone(&self.state().past);
        before.next(committer.tables.values())
    }

    /// What died in replaced files up to the published view, worked out before anybody has to wait.
    fn carried(&self, settled: &Settled) -> Vec<Vec<Carried>> {
        let published = self.read_view();
        let of_table = |written: &WrittenTable| {
            let segments = published.tables.get(&written.name).map_or(&[][..], |t| &t.segments[..]);
            written.replacements.iter().map(|r| Carried::up_to(r, segments)).collect()
        };
        settled.written.iter().map(of_table).collect()
    }

    /// The published view, to be changed into another form of it.
    fn published(&self) -> ReadView {
        ReadView::clone(&self.read_view())
    }
}

/// The tables of others that can be read.
fn readable(
    foreign: &BTreeMap<TableName, ForeignTable>,
) -> impl Iterator<Item = (TableName, Arc<TableView>)> {
    foreign
        .iter()
        .filter_map(|(name, t)| Some((name.clone(), Arc::clone(t.picture.as_ref().ok()?))))
}

fn unreadable(foreign: &BTreeMap<TableName, ForeignTable>) -> BTreeMap<TableName, Arc<LakeError>> {
    let why = foreign.iter().filter_map(|(name, t)| Some((name, t.picture.as_ref().err()?)));
    why.map(|(name, error)| (name.clone(), Arc::clone(error))).collect()
}
