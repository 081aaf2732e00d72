//! Keeps dashboards current for those who watch them.
//!
//! **Invariant:** all tiles of a [`Snapshot`] are from one view. They are computed once a view, for
//! all who watch; who is slow gets the newest snapshot next and misses those between. Nothing is
//! computed while nobody watches.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use futures::{Stream, stream};
use medlake_lake::ReadView;
use medlake_semantic_layer::{MetricQuery, Model, Now, OutputColumn, compile};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::definition::{Dashboard, Tile};
use crate::{
    answer::{ViewInfo, columns, to_json, write_table},
    config::Clock,
    engine::Engine,
    error::QueryError,
    http::error::error_json,
    naming::column_names,
    statement::single_query,
    stream::Limits,
    telemetry::{Door, Telemetry},
};

const MINUTE_MICROS: i64 = 60_000_000;

/// What the tiles of a dashboard show at one view and one minute. The minute counts because a
/// query may say "until now".
#[derive(Debug)]
pub(crate) struct Snapshot {
    view: ViewInfo,
    minute: i64,
    /// Whether asking again for the same view would give the same.
    settled: bool,
    tiles: BTreeMap<String, Arc<str>>,
}

/// A dashboard and what is known of it now.
#[derive(Debug)]
struct Board {
    definition: Dashboard,
    /// Held while tiles are computed, so that who asks meanwhile waits instead of asking too.
    newest: tokio::sync::Mutex<Option<Arc<Snapshot>>>,
    watched: watch::Sender<Option<Arc<Snapshot>>>,
    /// Whether a task keeps `watched` current. Changed only under the lock, together with the
    /// count of watchers, so that a watcher never finds nobody at work.
    running: Mutex<bool>,
}

impl Board {
    fn running(&self) -> MutexGuard<'_, bool> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All dashboards.
pub(crate) struct Live {
    engine: Arc<Engine>,
    model: Arc<Model>,
    telemetry: Arc<Telemetry>,
    clock: Clock,
    views: watch::Receiver<Arc<ReadView>>,
    interval: Duration,
    boards: BTreeMap<String, Arc<Board>>,
    /// The tasks that keep dashboards current; each ends when its last watcher goes.
    tasks: Mutex<JoinSet<()>>,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Live").field("boards", &self.boards.keys()).finish_non_exhaustive()
    }
}

impl Live {
    pub(crate) fn new(
        engine: Arc<Engine>,
        model: Arc<Model>,
        telemetry: Arc<Telemetry>,
        clock: Clock,
        views: watch::Receiver<Arc<ReadView>>,
        interval: Duration,
        definitions: Vec<Dashboard>,
    ) -> Self {
        let boards = definitions.into_iter().map(|definition| {
            let board = Board {
                newest: tokio::sync::Mutex::new(None),
                watched: watch::Sender::new(None),
                running: Mutex::new(false),
                definition,
            };
            (board.definition.id.clone(), Arc::new(board))
        });
        let boards = boards.collect();
        let tasks = Mutex::default();
        Self { engine, model, telemetry, clock, views, interval, boards, tasks }
    }

    /// The definitions, by name.
    pub(crate) fn definitions(&self) -> impl Iterator<Item = &Dashboard> {
        self.boards.values().map(|board| &board.definition)
    }

    pub(crate) fn definition(&self, id: &str) -> Result<&Dashboard, QueryError> {
        self.board(id).map(|board| &board.definition)
    }

    fn board(&self, id: &str) -> Result<&Arc<Board>, QueryError> {
        self.boards
            .get(id)
            .ok_or_else(|| QueryError::NotFound { what: "dashboard", name: id.to_owned() })
    }

    /// All tiles as JSON, at the newest view.
    pub(crate) async fn data(self: &Arc<Self>, id: &str) -> Result<String, QueryError> {
        let board = Arc::clone(self.board(id)?);
        let snapshot = self.snapshot(&board).await?;
        to_event(id, &snapshot, snapshot.tiles.iter())
    }

    /// All tiles now, then with each view those that changed, each time as JSON. A view that changes
    /// no tile is told as well: it says how fresh the tiles are that stay as they were.
    pub(crate) fn watch(
        self: &Arc<Self>,
        id: &str,
    ) -> Result<impl Stream<Item = (u64, String)> + Send + use<>, QueryError> {
        let board = self.board(id)?;
        let receiver = {
            let mut running = board.running();
            let mut receiver = board.watched.subscribe();
            receiver.mark_changed();
            if !std::mem::replace(&mut *running, true) {
                let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
                while tasks.try_join_next().is_some() {}
                tasks.spawn(Arc::clone(self).keep_current(Arc::clone(board)));
            }
            receiver
        };
        let sent: (Option<u64>, BTreeMap<String, Arc<str>>) = (None, BTreeMap::new());
        let id = id.to_owned();
        Ok(stream::unfold((receiver, sent, id), |(mut receiver, mut sent, id)| async move {
            loop {
                receiver.changed().await.ok()?;
                let Some(snapshot) = receiver.borrow_and_update().clone() else { continue };
                let changed: Vec<_> = snapshot
                    .tiles
                    .iter()
                    .filter(|(tile, json)| sent.1.get(*tile) != Some(*json))
                    .collect();
                let version = snapshot.view.version;
                if changed.is_empty() && sent.0 == Some(version) {
                    continue;
                }
                let Ok(event) = to_event(&id, &snapshot, changed.into_iter()) else { continue };
                sent = (Some(version), snapshot.tiles.clone());
                return Some(((version, event), (receiver, sent, id)));
            }
        }))
    }

    /// Computes a snapshot for each view, as fast as it can and no faster than the interval, until
    /// the last watcher has gone. Views that come meanwhile are skipped but for the newest.
    async fn keep_current(self: Arc<Self>, board: Arc<Board>) {
        let mut views = self.views.clone();
        loop {
            views.mark_unchanged();
            let mut minute = (self.clock)().div_euclid(MINUTE_MICROS);
            match self.snapshot(&board).await {
                Ok(snapshot) => {
                    minute = snapshot.minute;
                    board.watched.send_replace(Some(snapshot));
                }
                Err(error) => {
                    let id = &board.definition.id;
                    tracing::error!(dashboard = %id, %error, "could not compute a dashboard");
                }
            }
            let resting = tokio::time::sleep(self.interval);
            tokio::select! {
                () = board.watched.closed() => {}
                () = resting => tokio::select! {
                    () = board.watched.closed() => {}
                    changed = views.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(self.until_the_minute_after(minute)) => {}
                },
            }
            let mut running = board.running();
            if board.watched.receiver_count() == 0 {
                *running = false;
                // The next watcher must not be shown what was true when the last one left.
                board.watched.send_replace(None);
                return;
            }
        }
    }

    fn until_the_minute_after(&self, minute: i64) -> Duration {
        let left = (minute + 1).saturating_mul(MINUTE_MICROS).saturating_sub((self.clock)());
        Duration::from_micros(u64::try_from(left).unwrap_or(0))
    }

    /// The tiles at the newest view: the known ones when they are from it, else computed now.
    async fn snapshot(self: &Arc<Self>, board: &Arc<Board>) -> Result<Arc<Snapshot>, QueryError> {
        let mut newest = board.newest.lock().await;
        let view = self.engine.view();
        let now = (self.clock)();
        let minute = now.div_euclid(MINUTE_MICROS);
        if let Some(known) = newest.as_ref()
            && known.settled
            && known.view.version == view.version()
            && known.minute == minute
        {
            return Ok(Arc::clone(known));
        }
        let mut running = JoinSet::new();
        for (i, tile) in board.definition.tiles.iter().enumerate() {
            let live = Arc::clone(self);
            let (view, tile) = (Arc::clone(&view), tile.clone());
            running.spawn(async move { (i, live.tile(&view, &tile, Now::at_micros(now)).await) });
        }
        let mut tiles = BTreeMap::new();
        let mut settled = true;
        while let Some(done) = running.join_next().await {
            let (i, result) = done.map_err(|error| QueryError::Engine {
                message: "a tile was not computed to its end".into(),
                kind: medlake_contract::Kind::Internal,
                source: datafusion::error::DataFusionError::External(Box::new(error)),
            })?;
            let json = match result {
                Ok(json) => json,
                Err(error) => {
                    settled &= !error.kind().retryable();
                    error_json(&error)
                }
            };
            tiles.insert(board.definition.tiles[i].id.clone(), Arc::from(json));
        }
        let view = ViewInfo::of(&view);
        let snapshot = Arc::new(Snapshot { view, minute, settled, tiles });
        *newest = Some(Arc::clone(&snapshot));
        Ok(snapshot)
    }

    async fn tile(
        &self,
        view: &Arc<ReadView>,
        tile: &Tile,
        now: Now,
    ) -> Result<String, QueryError> {
        let started = Instant::now();
        let run = async {
            let mut out = String::from("{");
            match (&tile.query, &tile.sql) {
                (Some(query), _) => self.write_metrics(view, query, now, &mut out).await?,
                (None, Some(sql)) => self.write_sql(view, sql, &[], &mut out).await?,
                (None, None) => {}
            }
            if let Some(compare) = &tile.compare {
                out.push_str(",\"compare\":{");
                self.write_metrics(view, compare, now, &mut out).await?;
                out.push('}');
            }
            out.push('}');
            Ok(out)
        };
        let result = Box::pin(run).await;
        self.telemetry.count(Door::Dashboard, result.as_ref().err(), started.elapsed());
        result
    }

    async fn write_metrics(
        &self,
        view: &Arc<ReadView>,
        query: &MetricQuery,
        now: Now,
        out: &mut String,
    ) -> Result<(), QueryError> {
        let compiled = compile(&self.model, query, &now).map_err(|all| QueryError::Metric {
            problems: all.iter().map(ToString::to_string).collect(),
        })?;
        self.write_sql(view, &compiled.sql, &compiled.columns, out).await
    }

    async fn write_sql(
        &self,
        view: &Arc<ReadView>,
        sql: &str,
        described: &[OutputColumn],
        out: &mut String,
    ) -> Result<(), QueryError> {
        let limits = Limits {
            timeout: Some(self.engine.statement_timeout()),
            rows: Some(10_000),
            cancel: CancellationToken::new(),
        };
        let query = single_query(self.engine.read(sql)?)?;
        let names = column_names(&query.statement);
        let session = self.engine.tile_session();
        let rows = self.engine.query(view, &session, query, &limits).await?;
        let columns = columns(rows.schema(), names, described);
        write_table(&columns, &rows.collect_rows().await?, out)
    }
}

fn to_event<'a>(
    id: &str,
    snapshot: &Snapshot,
    tiles: impl Iterator<Item = (&'a String, &'a Arc<str>)>,
) -> Result<String, QueryError> {
    let mut out = format!("{{\"dashboard\":\"{id}\",\"view\":{}", to_json(&snapshot.view)?);
    out.push_str(",\"tiles\":{");
    for (i, (tile, json)) in tiles.enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&format!("\"{tile}\":"));
        out.push_str(json);
    }
    out.push_str("}}");
    Ok(out)
}
