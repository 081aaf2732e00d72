//! Events of the binlog, by their numbers and bytes: MySQL's
//! (<https://dev.mysql.com/doc/dev/mysql-server/latest/page_protocol_replication_binlog_event.html>) and
//! MariaDB's own (<https://mariadb.com/kb/en/2-binlog-event-header/>).

use mysql_async::binlog::events::{Event as Raw, GtidEvent};
use uuid::Uuid;

use super::{
    bytes::{Bytes, Short},
    place::{Gtid, Gtids},
};
use crate::hex;

/// The numbers of events that matter.
pub(crate) mod kind {
    pub(crate) const QUERY: u8 = 2;
    pub(crate) const ROTATE: u8 = 4;
    pub(crate) const FORMAT: u8 = 15;
    pub(crate) const XID: u8 = 16;
    pub(crate) const TABLE_MAP: u8 = 19;
    pub(crate) const WRITE_V1: u8 = 23;
    pub(crate) const UPDATE_V1: u8 = 24;
    pub(crate) const DELETE_V1: u8 = 25;
    pub(crate) const INCIDENT: u8 = 26;
    pub(crate) const WRITE: u8 = 30;
    pub(crate) const UPDATE: u8 = 31;
    pub(crate) const DELETE: u8 = 32;
    pub(crate) const GTID: u8 = 33;
    pub(crate) const ANONYMOUS_GTID: u8 = 34;
    pub(crate) const XA_PREPARE: u8 = 38;
    pub(crate) const PARTIAL_UPDATE: u8 = 39;
    pub(crate) const TRANSACTION_PAYLOAD: u8 = 40;
    pub(crate) const GTID_TAGGED: u8 = 42;
    pub(crate) const MARIADB_GTID: u8 = 162;
    pub(crate) const MARIADB_GTID_LIST: u8 = 163;
    pub(crate) const QUERY_COMPRESSED: u8 = 165;
    pub(crate) const WRITE_COMPRESSED_V1: u8 = 166;
    pub(crate) const UPDATE_COMPRESSED_V1: u8 = 167;
    pub(crate) const DELETE_COMPRESSED_V1: u8 = 168;
    pub(crate) const WRITE_COMPRESSED: u8 = 169;
    pub(crate) const UPDATE_COMPRESSED: u8 = 170;
    pub(crate) const DELETE_COMPRESSED: u8 = 171;
}

/// One event without its checksum.
#[derive(Debug, Clone, Default)]
pub(crate) struct Event {
    pub(crate) kind: u8,
    /// Seconds since 1970.
    pub(crate) timestamp: u32,
    pub(crate) server: u32,
    /// Where the next event is in the file; 0 when it is in none.
    pub(crate) end: u32,
    pub(crate) body: Vec<u8>,
    /// Whether a checksum was behind it.
    pub(crate) checked: bool,
}

/// The event as we read it.
pub(crate) fn of(raw: &Raw) -> Result<Event, Short> {
    let header = raw.header();
    let kind = header.event_type_raw();
    let mut body = raw.data().to_vec();
    if kind == kind::GTID_TAGGED {
        // Its own format is read by the client; what follows has the form of the others.
        let gtid = raw.read_event::<GtidEvent>().map_err(|_| Short)?;
        let tag = gtid.tag().map(|tag| tag.as_str().to_owned()).unwrap_or_default();
        body = vec![0];
        body.extend(gtid.sid());
        body.extend(gtid.gno().to_le_bytes());
        body.push(u8::try_from(tag.len()).map_err(|_| Short)?);
        body.extend(tag.bytes());
        body.extend([0; CLOCK]);
        body.extend(gtid.immediate_commit_timestamp().to_le_bytes());
    }
    Ok(Event {
        kind,
        timestamp: header.timestamp(),
        server: header.server_id(),
        end: header.log_pos(),
        checked: raw.checksum().is_some(),
        body,
    })
}

/// What the body of a rows event says before its rows.
#[derive(Debug)]
pub(crate) struct RowsHead<'a> {
    pub(crate) table_id: u64,
    /// Whether all columns are in all images.
    pub(crate) whole: bool,
    pub(crate) columns: usize,
    pub(crate) rows: &'a [u8],
}

/// Reads the head of a rows event of `kind`.
pub(crate) fn rows(kind: u8, body: &[u8]) -> Result<RowsHead<'_>, Short> {
    let mut bytes = Bytes::new(body);
    let table_id = bytes.little(6)?;
    bytes.take(2)?;
    let second = matches!(
        kind,
        kind::WRITE..=kind::DELETE
            | kind::WRITE_COMPRESSED..=kind::DELETE_COMPRESSED
            | kind::PARTIAL_UPDATE
    );
    if second {
        let more = usize::from(bytes.u16()?);
        bytes.take(more.checked_sub(2).ok_or(Short)?)?;
    }
    let columns = usize::try_from(bytes.packed()?).map_err(|_| Short)?;
    let mut whole = true;
    let two = matches!(
        kind,
        kind::UPDATE
            | kind::UPDATE_V1
            | kind::UPDATE_COMPRESSED
            | kind::UPDATE_COMPRESSED_V1
            | kind::PARTIAL_UPDATE
    );
    for _ in 0..1 + usize::from(two) {
        let present = bytes.take(columns.div_ceil(8))?;
        whole &= (0..columns).all(|i| present[i / 8] >> (i % 8) & 1 == 1);
    }
    Ok(RowsHead { table_id, whole, columns, rows: bytes.rest() })
}

/// What a GTID event says.
#[derive(Debug)]
pub(crate) struct Begin {
    /// None with GTIDs off.
    pub(crate) gtid: Option<Gtid>,
    /// The one statement after it is all there is.
    pub(crate) alone: bool,
    /// When it was committed, where the server says so to the microsecond.
    pub(crate) committed_at_micros: Option<i64>,
}

/// Bytes of a GTID event that order transactions among themselves: a kind of clock, two of its times.
const CLOCK: usize = 17;

/// Reads a GTID event of `kind`.
pub(crate) fn begin(event: &Event) -> Result<Begin, Short> {
    let mut bytes = Bytes::new(&event.body);
    if event.kind == kind::MARIADB_GTID {
        let number = bytes.u64()?;
        let domain = bytes.u32()?;
        let alone = bytes.u8()? & 1 == 1;
        let gtid = Some(Gtid::MariaDb { domain, server: event.server, number });
        return Ok(Begin { gtid, alone, committed_at_micros: None });
    }
    bytes.take(1)?;
    let mut server = Uuid::from_slice(bytes.take(16)?).map_err(|_| Short)?.to_string();
    let number = bytes.u64()?;
    if number == 0 && event.kind != kind::ANONYMOUS_GTID {
        // They are counted from 1.
        return Err(Short);
    }
    if event.kind == kind::GTID_TAGGED {
        let tag = usize::from(bytes.u8()?);
        let tag = std::str::from_utf8(bytes.take(tag)?).map_err(|_| Short)?;
        if !tag.is_empty() {
            server = format!("{server}:{tag}");
        }
    }
    // Since 8.0.1 the time of the commit in 55 bits.
    let clock = bytes.take(CLOCK).is_ok();
    let committed = if clock { bytes.little(7).ok() } else { None };
    let committed_at_micros =
        committed.and_then(|micros| i64::try_from(micros & ((1 << 55) - 1)).ok());
    let gtid = (event.kind != kind::ANONYMOUS_GTID).then_some(Gtid::MySql { server, number });
    Ok(Begin { gtid, alone: false, committed_at_micros })
}

/// MariaDB's GTIDs of all before a file.
pub(crate) fn gtid_list(body: &[u8]) -> Result<Gtids, Short> {
    let mut bytes = Bytes::new(body);
    let mut gtids = Gtids::MariaDb(std::collections::BTreeMap::new());
    for _ in 0..bytes.u32()? & 0x0fff_ffff {
        let (domain, server) = (bytes.u32()?, bytes.u32()?);
        gtids.add(&Gtid::MariaDb { domain, server, number: bytes.u64()? });
    }
    Ok(gtids)
}

/// The database a statement ran in, and the statement.
pub(crate) fn query(kind: u8, body: &[u8]) -> Result<(String, String), Short> {
    let mut bytes = Bytes::new(body);
    bytes.take(8)?;
    let database = usize::from(bytes.u8()?);
    bytes.take(2)?;
    let variables = usize::from(bytes.u16()?);
    bytes.take(variables)?;
    let database = String::from_utf8_lossy(bytes.take(database)?).into_owned();
    bytes.take(1)?;
    let sql = if kind == kind::QUERY_COMPRESSED {
        String::from_utf8_lossy(&super::column::uncompressed(bytes.rest())?).into_owned()
    } else {
        String::from_utf8_lossy(bytes.rest()).into_owned()
    };
    Ok((database, sql))
}

/// The name of a prepared transaction as statements spell it; none when it is committed at once.
pub(crate) fn prepared(body: &[u8]) -> Result<Option<String>, Short> {
    let mut bytes = Bytes::new(body);
    let at_once = bytes.u8()? != 0;
    let format = bytes.u32()?.cast_signed();
    let mut length = || bytes.u32().and_then(|l| usize::try_from(l).map_err(|_| Short));
    let (global, branch) = (length()?, length()?);
    let mut hex = |length: usize| -> Result<String, Short> { Ok(hex::encode(bytes.take(length)?)) };
    let name = xa_name(&format!("X'{}',X'{}',{format}", hex(global)?, hex(branch)?));
    Ok((!at_once).then_some(name))
}

/// The name in `XA COMMIT name` and the like, so that two spellings are one.
pub(crate) fn xa_name(text: &str) -> String {
    let text = text.to_ascii_lowercase();
    let text = text.trim().trim_end_matches("one phase");
    text.chars().filter(|c| !c.is_whitespace()).collect()
}

impl Begin {
    /// MariaDB says in the event itself whether more than one statement follows.
    pub(crate) fn is_mariadb(&self) -> bool {
        matches!(self.gtid, Some(Gtid::MariaDb { .. }))
    }
}
