//! The task that reads ahead: events from the server, made into pages, as far as the budget lets it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures::{FutureExt as _, StreamExt as _};
use medlake_contract::{Kind, SourceId, TableName, TableSchema};
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, Sid, prelude::Queryable as _};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use super::{
    assemble::{Assembler, Holds, Ready},
    catalog,
    config::MysqlConfig,
    connect::{Asking, Flavour, broken, failed},
    error::MysqlError,
    event::{self, kind},
    place::{Gtids, Place, file_number},
};
use crate::{
    CutLimits, IngestError,
    budget::{Budget, Held},
    source::Gauges,
};

/// Pages read ahead; the budget may let there be fewer.
pub(crate) const AHEAD: usize = 4;
/// As much as is in a page at most, whatever the limits are: so much may be above the budget.
const PAGE: CutLimits = CutLimits { max_rows: 16_384, max_bytes: 4 << 20 };
/// How long a page that only says how far reading got, or what tables are from there on, waits for
/// something to say.
const LULL: Duration = Duration::from_millis(20);

/// How often the server is asked how far its log goes.
const MEASURE: Duration = Duration::from_secs(1);

/// A page that is read ahead.
pub(crate) struct Ahead {
    pub(crate) ready: Ready,
    pub(crate) held: Held,
}

/// What the reader is told while it reads.
#[derive(Debug, Default)]
pub(crate) struct Wishes {
    limits: CutLimits,
    left_out: BTreeSet<TableName>,
    /// Those the reader has not been told of.
    changed: Vec<TableName>,
    /// Tables that were left out and are taken in again: whatever they have become since.
    renewed: BTreeSet<TableName>,
    /// Whether all the server has is read.
    pub(crate) idle: bool,
}

impl Wishes {
    pub(crate) fn set_limits(&mut self, limits: CutLimits) {
        self.limits = limits;
    }

    pub(crate) fn leave_out(&mut self, table: &TableName) {
        if self.left_out.insert(table.clone()) {
            self.changed.push(table.clone());
        }
    }

    /// Answers whether it was left out: then what is read ahead lacks its changes.
    pub(crate) fn take_in(&mut self, table: &TableName) -> bool {
        let was_left_out = self.left_out.remove(table);
        if was_left_out {
            self.renewed.insert(table.clone());
        }
        was_left_out
    }

    /// For a reader that begins, which is told all by [`Self::left_out`].
    pub(crate) fn again(&self) -> Self {
        Self {
            limits: self.limits,
            left_out: self.left_out.clone(),
            renewed: self.renewed.clone(),
            ..Self::default()
        }
    }

    /// The table is as the log has announced it.
    pub(crate) fn announced(&mut self, table: &TableName) {
        self.renewed.remove(table);
    }

    pub(crate) fn stopped(&mut self, table: &TableName) {
        self.left_out.insert(table.clone());
    }

    pub(crate) fn leaves_out(&self, table: &TableName) -> bool {
        self.left_out.contains(table)
    }
}

/// Where and what to read.
pub(crate) struct Reader {
    pub(crate) at: SourceId,
    pub(crate) config: MysqlConfig,
    pub(crate) place: Place,
    pub(crate) skip: u64,
    pub(crate) tables: Vec<Arc<TableSchema>>,
    pub(crate) stop_at: Option<Place>,
    pub(crate) wishes: Arc<Mutex<Wishes>>,
    pub(crate) budget: Budget,
    pub(crate) gauges: Arc<Gauges>,
}

impl Reader {
    /// Reads until something fails, which it then says, or nobody takes pages any more.
    pub(crate) async fn run(
        self,
        opened: oneshot::Sender<()>,
        pages: mpsc::Sender<Result<Ahead, IngestError>>,
    ) {
        let mut opened = Some(opened);
        let since = self.place.since.as_deref();
        let mut done = self.read(&mut opened, &pages, since).await;
        let is_gone = |error: &IngestError| error.kind() == Kind::Conflict;
        if since.is_some() && opened.is_some() && done.as_ref().is_err_and(is_gone) {
            // What was prepared is gone, and what is after the place may not be.
            done = self.read(&mut opened, &pages, None).await;
        }
        if let Err(error) = done {
            // Nobody is there to be told when this fails.
            let _ = pages.send(Err(error)).await;
        }
    }

    async fn read(
        &self,
        opened: &mut Option<oneshot::Sender<()>>,
        pages: &mpsc::Sender<Result<Ahead, IngestError>>,
        since: Option<&Place>,
    ) -> Result<(), IngestError> {
        let mut asking = Asking::connect(&self.at, &self.config).await?;
        asking.check().await?;
        asking.recognise(&self.place).await?;
        let server = asking.identity().await?;
        let flavour = asking.flavour;
        let mut stream = self.open(flavour, since.unwrap_or(&self.place)).await?;
        let place = Place { server: Some(server), since: None, ..self.place.clone() };
        let mut assembler = Assembler::new(
            self.at.clone(),
            self.config.filter(),
            flavour,
            place.clone(),
            self.skip,
            &self.tables,
        );
        assembler.datetimes(self.config.datetimes);
        {
            let wishes = self.wishes();
            wishes.left_out.iter().for_each(|table| assembler.leave_out(table));
            wishes.renewed.iter().for_each(|table| assembler.renew(table));
        }
        assembler.stop_at(self.stop_at.clone());
        if let Some(since) = since {
            assembler.recall(since, place);
        }
        let mut since_yield = 0_u32;
        let mut measure_at = Instant::now();
        loop {
            self.heed(&mut assembler);
            if Instant::now() >= measure_at {
                self.measure(&mut asking, &assembler).await;
                measure_at = Instant::now() + MEASURE;
            }
            // What has arrived is read before anything is handed out.
            let at_hand = tokio::task::unconstrained(stream.next()).now_or_never();
            let event = match at_hand {
                Some(event) => event,
                None => {
                    if assembler.holds() == Holds::News {
                        assembler.flush()?;
                        if !self.hand_out(&mut assembler, pages).await {
                            return Ok(());
                        }
                    }
                    let waiting = assembler.holds() == Holds::Place;
                    self.wishes().idle = assembler.holds() == Holds::Nothing;
                    let wait = if waiting { LULL } else { self.config.silence };
                    match timeout(wait, stream.next()).await {
                        Ok(event) => event,
                        Err(_) if waiting => {
                            assembler.flush()?;
                            if !self.hand_out(&mut assembler, pages).await {
                                return Ok(());
                            }
                            continue;
                        }
                        Err(_) => {
                            return Err(self.wrong(MysqlError::Silent {
                                server: self.config.server(),
                                seconds: self.config.silence.as_secs(),
                            }));
                        }
                    }
                }
            };
            match event {
                Some(Ok(raw)) => {
                    let event = event::of(&raw).map_err(|_| {
                        let problem = "an event is cut short".to_owned();
                        let place = assembler.place().to_string();
                        self.wrong(MysqlError::Binlog { place, problem })
                    })?;
                    // A made up rotation comes before the server looks for the place; what follows it
                    // is from there.
                    if event.kind != kind::ROTATE
                        && let Some(opened) = opened.take()
                    {
                        let _ = opened.send(());
                    }
                    if !matches!(event.kind, 27 | 41) {
                        self.wishes().idle = false;
                    }
                    if let Some(table) = assembler.asks_for(&event) {
                        let database = &self.config.database;
                        let fixed = catalog::fixed_bytes(&mut asking, database, &table).await?;
                        assembler.told(&table, fixed);
                    }
                    assembler.take(event)?;
                }
                Some(Err(error)) => {
                    return Err(broken(&self.at, &self.config.server(), &self.place, error));
                }
                None => {
                    let problem = "the server ended it".to_owned();
                    let place = self.place.to_string();
                    return Err(self.wrong(MysqlError::Binlog { place, problem }));
                }
            }
            if !self.hand_out(&mut assembler, pages).await {
                return Ok(());
            }
            if assembler.begins_again() {
                drop(stream);
                stream = self.open(flavour, assembler.place()).await?;
            }
            since_yield += 1;
            if since_yield.is_multiple_of(64) {
                tokio::task::yield_now().await;
            }
        }
    }

    fn wrong(&self, source: MysqlError) -> IngestError {
        IngestError::Mysql { at: self.at.clone(), source }
    }

    fn wishes(&self) -> std::sync::MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heed(&self, assembler: &mut Assembler) {
        let mut wishes = self.wishes();
        assembler.set_limits(CutLimits {
            max_rows: wishes.limits.max_rows.min(PAGE.max_rows),
            max_bytes: wishes.limits.max_bytes.min(PAGE.max_bytes),
        });
        for table in std::mem::take(&mut wishes.changed) {
            assembler.leave_out(&table);
        }
    }

    /// How much of the log is not read yet.
    async fn measure(&self, asking: &mut Asking, assembler: &Assembler) {
        let lag = async {
            let newest = asking.newest().await?;
            let at = assembler.place();
            if newest.file == at.file {
                return Ok(newest.offset.saturating_sub(at.offset));
            }
            let number = file_number(&at.file);
            let files = asking.files().await?;
            let later = files.iter().filter(|(file, _)| file_number(file) >= number);
            let all: u64 = later.map(|(_, size)| *size).sum();
            Ok::<_, IngestError>(all.saturating_sub(at.offset))
        };
        // A server that does not say is asked again later; that it cannot be read shows elsewhere.
        let lag = timeout(MEASURE, lag).await.ok().and_then(Result::ok);
        self.gauges.update(|health| health.lag_bytes = lag);
    }

    /// Answers whether anybody still takes pages.
    async fn hand_out(
        &self,
        assembler: &mut Assembler,
        pages: &mpsc::Sender<Result<Ahead, IngestError>>,
    ) -> bool {
        while let Some(ready) = assembler.pop() {
            let bytes = ready.page.batches.iter().map(|b| b.memory_bytes()).sum();
            let held = self.budget.hold(bytes).await;
            if pages.send(Ok(Ahead { ready, held })).await.is_err() {
                return false;
            }
        }
        true
    }

    /// Asks the server for its binlog from `place` on, as a replica.
    async fn open(&self, flavour: Flavour, place: &Place) -> Result<BinlogStream, IngestError> {
        let server = self.config.server();
        let doing = "ask for the binlog";
        let mut conn = Conn::new(self.config.opts())
            .await
            .map_err(|error| failed(&self.at, &server, "connect", error))?;
        let beat = (self.config.silence / 4).as_nanos();
        let mut settings =
            format!("set @master_heartbeat_period={beat}, @source_heartbeat_period={beat}");
        let gtids = place.gtids.as_ref().filter(|gtids| !gtids.is_empty());
        if flavour == Flavour::MariaDb {
            settings.push_str(", @mariadb_slave_capability=4");
            if let Some(gtids) = gtids {
                settings.push_str(&format!(
                    ", @slave_connect_state='{gtids}', @slave_gtid_strict_mode=1, \
                     @slave_gtid_ignore_duplicates=0"
                ));
            }
        }
        conn.query_drop(settings).await.map_err(|error| failed(&self.at, &server, doing, error))?;
        let id = self.config.server_id.unwrap_or_else(|| number_of(&self.at));
        let mut request = BinlogStreamRequest::new(id);
        match gtids {
            Some(Gtids::MySql(servers)) => {
                request = request.with_gtid().with_gtid_set(sids(servers));
            }
            Some(Gtids::MariaDb(_)) => {}
            None => {
                request = request.with_filename(place.file.as_bytes()).with_pos(place.offset);
            }
        }
        conn.get_binlog_stream(request)
            .await
            .map_err(|error| broken(&self.at, &server, place, error))
    }
}

/// GTIDs as MySQL wants to be told of them.
fn sids(servers: &BTreeMap<String, Vec<(u64, u64)>>) -> Vec<Sid<'static>> {
    // The client reads the same text as the server, tags included.
    let sid = |(server, ranges): (&String, &Vec<(u64, u64)>)| {
        Gtids::MySql([(server.clone(), ranges.clone())].into()).to_string().parse().ok()
    };
    servers.iter().filter_map(sid).collect()
}

/// A number for a replica, made of the source's name (FNV-1a), far from those people give.
fn number_of(at: &SourceId) -> u32 {
    let hash = at
        .as_str()
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash | 0x8000_0000
}
