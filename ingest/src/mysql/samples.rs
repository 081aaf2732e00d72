//! Events as servers write them, built by their documented layouts.

use std::fmt::Write as _;

use mysql_async::binlog::{
    BinlogVersion,
    events::{Event as Raw, FormatDescriptionEvent},
};

use super::{
    event::{Event, kind},
    table_map::wire,
};

fn small(length: usize) -> u8 {
    u8::try_from(length).unwrap_or(u8::MAX)
}

fn packed_text(out: &mut Vec<u8>, text: &str) {
    out.push(small(text.len()));
    out.extend(text.as_bytes());
}

/// A table map with a column of each type, as MySQL 8 writes it with full metadata.
pub(crate) fn table_map() -> Vec<u8> {
    let columns: &[(u8, &[u8])] = &[
        (wire::LONG, &[]),
        (wire::LONGLONG, &[]),
        (wire::NEWDECIMAL, &[14, 4]),
        (wire::NEWDECIMAL, &[65, 30]),
        (wire::VARCHAR, &[40, 0]),
        (wire::BLOB, &[2]),
        (wire::JSON, &[4]),
        (wire::DATETIME2, &[6]),
        (wire::TIMESTAMP2, &[3]),
        (wire::TIME2, &[2]),
        (wire::DATE, &[]),
        (wire::BIT, &[3, 1]),
        (wire::STRING, &[247, 1]),
        (wire::STRING, &[248, 1]),
        (wire::STRING, &[254, 20]),
        (wire::GEOMETRY, &[4]),
        (wire::BLOB_COMPRESSED, &[2]),
    ];
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0];
    for name in ["shop", "t"] {
        packed_text(&mut body, name);
        body.push(0);
    }
    body.push(small(columns.len()));
    body.extend(columns.iter().map(|(ty, _)| ty));
    let meta: Vec<u8> = columns.iter().flat_map(|(_, meta)| meta.iter().copied()).collect();
    body.push(small(meta.len()));
    body.extend(meta);
    body.extend(vec![0xff; columns.len().div_ceil(8)]);
    let mut tell = |field: u8, value: &[u8]| {
        body.extend([field, small(value.len())]);
        body.extend(value);
    };
    tell(1, &[0]);
    tell(2, &[45]);
    let mut names = Vec::new();
    for i in 0..columns.len() {
        let mut name = String::new();
        let _ = write!(name, "c{i}");
        packed_text(&mut names, &name);
    }
    tell(4, &names);
    tell(5, &[2, 1, b'x', 1, b'y']);
    tell(6, &[2, 1, b'x', 1, b'y']);
    tell(8, &[0]);
    tell(10, &[45]);
    body
}

/// One row of that table.
const ROW: &[u8] = &[
    0, 0, 0, // no nulls
    42, 0, 0, 0, //
    0xf9, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, //
    0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2, //
    0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    0, //
    2, b'h', b'i', //
    3, 0, b'a', b'b', b'c', //
    4, 0, 0, 0, 5, 0xfe, 0xff, 0, //
    0x99, 0x67, 0xc6, 0x41, 0x46, 0, 0, 1, //
    0x3a, 0x7b, 0x83, 0x72, 0x1e, 0xd2, //
    0x7f, 0xff, 0xfe, 0xf6, //
    0x21, 0xd0, 0x07, //
    0, 1, //
    2, 3, //
    2, b'o', b'k', //
    4, 0, 0, 0, 1, 0, 0, 0, //
    2, 0, 0, b'z',
];

/// Two rows of that table, in a second version event as MySQL 8 has them.
pub(crate) fn rows(update: bool) -> Vec<u8> {
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 17];
    let images = 1 + usize::from(update);
    body.extend([0xff; 3].repeat(images));
    body.extend(ROW.repeat(2 * images));
    body
}

pub(crate) fn event(kind: u8, body: Vec<u8>) -> Event {
    Event { kind, timestamp: 1_700_000_000, server: 1, end: 4711, body, checked: true }
}

/// A statement that ran in the database.
pub(crate) fn query(sql: &str) -> Event {
    let mut body = vec![0; 13];
    body[8] = 4;
    body.extend(b"shop\0");
    body.extend(sql.as_bytes());
    event(kind::QUERY, body)
}

/// The body of a GTID of MySQL 8, with the time of its commit.
pub(crate) fn gtid(number: u64) -> Vec<u8> {
    let mut body = vec![1];
    body.extend([0x3e; 16]);
    body.extend(number.to_le_bytes());
    body.push(2);
    body.extend([0; 16]);
    body.extend(1_700_000_000_000_000_u64.to_le_bytes());
    body
}

/// A transaction of MySQL 8 with an insert, an update and a delete.
pub(crate) fn events() -> Vec<Event> {
    vec![
        event(kind::GTID, gtid(9)),
        query("BEGIN"),
        event(kind::TABLE_MAP, table_map()),
        event(kind::WRITE, rows(false)),
        event(kind::UPDATE, rows(true)),
        event(kind::DELETE, rows(false)),
        event(kind::XID, vec![0; 8]),
    ]
}

/// Transactions of MariaDB: rows, compressed rows and statements, a savepoint, one that is prepared.
pub(crate) fn mariadb_events() -> Vec<Event> {
    let gtid = |number: u64, alone: u8| {
        let mut body = number.to_le_bytes().to_vec();
        body.extend([0; 4]);
        body.push(alone);
        body.extend([0; 6]);
        event(kind::MARIADB_GTID, body)
    };
    let head = rows(false).len() - 2 * ROW.len();
    let packed = |body: Vec<u8>| {
        let (head, rows) = body.split_at(head);
        let mut packed = head.to_vec();
        packed.extend([0x82]);
        packed.extend(u16::try_from(rows.len()).unwrap_or(0).to_be_bytes());
        packed.extend(deflated(rows));
        packed
    };
    let sql = [
        "alter table t rename column c1 to d1, change c2 `d``2` decimal(14,4)",
        "/*!40000 create or replace table */ `shop`.`u` (id int)",
        "truncate t",
        "rename table t to u, u to t",
        "drop table if exists `u`, shop.v /* generated by server */",
    ];
    let mut events = vec![gtid(1, 0), query("BEGIN"), event(kind::TABLE_MAP, table_map())];
    events.push(event(kind::WRITE_COMPRESSED, packed(rows(false))));
    events.extend([query("SAVEPOINT `a`"), event(kind::DELETE, rows(false))]);
    events.extend([query("ROLLBACK TO `a`"), event(kind::XID, vec![0; 8])]);
    for (number, sql) in (2..).zip(sql) {
        events.extend([gtid(number, 1), query(sql)]);
    }
    events.extend([gtid(8, 0), query("XA START X'61',X'',1"), event(kind::TABLE_MAP, table_map())]);
    let prepared = [0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, b'a'];
    events.extend([event(kind::WRITE, rows(false)), event(kind::XA_PREPARE, prepared.to_vec())]);
    events.extend([gtid(9, 1), query("XA COMMIT X'61',X'',1")]);
    events
}

fn deflated(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write as _;
    let mut packed = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
    // Into memory, which takes everything.
    let _ = packed.write_all(bytes);
    packed.finish().unwrap_or_default()
}

/// An event with its header before it, as it is in the file.
pub(crate) fn framed(kind: u8, end: u32, body: &[u8]) -> Vec<u8> {
    let mut bytes = 1_700_000_000_u32.to_le_bytes().to_vec();
    bytes.push(kind);
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(u32::try_from(19 + body.len()).unwrap_or(0).to_le_bytes());
    bytes.extend(end.to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(body);
    bytes
}

/// The same, as the client library hands it out.
pub(crate) fn raw(kind: u8, end: u32, body: &[u8]) -> Option<Raw> {
    let format = FormatDescriptionEvent::new(BinlogVersion::Version4);
    Raw::read(&format, framed(kind, end, body).as_slice()).ok()
}

/// A number in as few bytes as it needs: as many ones at the end of the first byte as bytes follow.
/// (<https://dev.mysql.com/doc/dev/mysql-server/latest/PageLibsMysqlSerialization.html>)
fn serialized(number: u64) -> Vec<u8> {
    match (1..=8).find(|length| number < 1 << (7 * length)) {
        Some(length) => {
            let bytes = (number << length | ((1 << (length - 1)) - 1)).to_le_bytes();
            bytes.into_iter().take(length).collect()
        }
        None => [&[0xff][..], &number.to_le_bytes()].concat(),
    }
}

/// The body of a GTID with a tag, as MySQL 8.4 has them: fields by their numbers.
pub(crate) fn tagged(number: u64) -> Vec<u8> {
    let mut fields = [serialized(0), serialized(1), serialized(1)].concat();
    fields.extend(serialized(0xfe).repeat(16));
    // Signed numbers have their sign in the lowest bit.
    fields.extend([serialized(2), serialized(number << 1), serialized(3)].concat());
    fields.extend([serialized(5), b"batch".to_vec()].concat());
    for (field, value) in [(4, 0), (5, 2), (6, 1_700_000_000_000_000), (8, 300), (9, 80_400)] {
        fields.extend([serialized(field), serialized(value)].concat());
    }
    // What comes first counts itself; it stays in one byte or two.
    let rest = |length: u64| [serialized(length), serialized(6)].concat();
    let mut length = fields.len() as u64 + 1;
    while rest(length).len() + fields.len() + 1 > usize::try_from(length).unwrap_or(0) {
        length += 1;
    }
    [vec![2], rest(length), fields].concat()
}
