//! Bytes that no server would send: whatever they are, they are read, put aside or refused.

use std::{cell::Cell, fmt::Write as _};

use medlake_contract::SourceId;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{
    assemble::Assembler,
    connect::Flavour,
    event::{Event, kind},
    filter::Filter,
    place::Place,
    table_map::wire,
};

fn packed_text(out: &mut Vec<u8>, text: &str) {
    out.push(u8::try_from(text.len()).unwrap());
    out.extend(text.as_bytes());
}

/// A table map with a column of each type, as MySQL 8 writes it with full metadata.
fn table_map() -> Vec<u8> {
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
    body.push(u8::try_from(columns.len()).unwrap());
    body.extend(columns.iter().map(|(ty, _)| ty));
    let meta: Vec<u8> = columns.iter().flat_map(|(_, meta)| meta.iter().copied()).collect();
    body.push(u8::try_from(meta.len()).unwrap());
    body.extend(meta);
    body.extend(vec![0xff; columns.len().div_ceil(8)]);
    let mut tell = |field: u8, value: &[u8]| {
        body.extend([field, u8::try_from(value.len()).unwrap()]);
        body.extend(value);
    };
    tell(1, &[0]);
    tell(2, &[45]);
    let mut names = Vec::new();
    for i in 0..columns.len() {
        let mut name = String::new();
        write!(name, "c{i}").unwrap();
        packed_text(&mut names, &name);
    }
    tell(4, &names);
    tell(5, &[2, 1, b'x', 1, b'y']);
    tell(6, &[2, 1, b'x', 1, b'y']);
    tell(8, &[0]);
    tell(10, &[45]);
    body
}

/// Rows of that table, in a second version event as MySQL 8 has them.
fn rows(update: bool) -> Vec<u8> {
    let mut body = vec![7, 0, 0, 0, 0, 0, 1, 0, 2, 0, 17];
    let images = 1 + usize::from(update);
    body.extend([0xff; 3].repeat(images));
    for _ in 0..2 * images {
        body.extend([0, 0, 0]);
        body.extend(42_u32.to_le_bytes());
        body.extend((-7_i64).to_le_bytes());
        body.extend([0x81, 0x0d, 0xfb, 0x38, 0xd2, 0x04, 0xd2]);
        body.push(0x80);
        body.extend([0; 29]);
        body.extend([2, b'h', b'i']);
        body.extend([3, 0, b'a', b'b', b'c']);
        body.extend([4, 0, 0, 0, 5, 0xfe, 0xff, 0]);
        body.extend([0x99, 0x67, 0xc6, 0x41, 0x46, 0, 0, 1]);
        body.extend([0x3a, 0x7b, 0x83, 0x72, 0x1e, 0xd2]);
        body.extend([0x7f, 0xff, 0xfe, 0xf6]);
        body.extend([0x21, 0xd0, 0x07]);
        body.extend([0, 1]);
        body.extend([2, 3]);
        body.extend([2, b'o', b'k']);
        body.extend([4, 0, 0, 0, 1, 0, 0, 0]);
        body.extend([2, 0, 0, b'z']);
    }
    body
}

fn events() -> Vec<Event> {
    let event = |kind, body: Vec<u8>| Event {
        kind,
        timestamp: 1_700_000_000,
        server: 1,
        end: 4711,
        body,
        checked: true,
    };
    let mut gtid = vec![1];
    gtid.extend([0x3e; 16]);
    gtid.extend(9_u64.to_le_bytes());
    gtid.push(2);
    gtid.extend([0; 16]);
    gtid.extend((1_700_000_000_000_000_u64).to_le_bytes());
    let mut begin = vec![0; 13];
    begin[8] = 4;
    begin.extend(b"shop\0BEGIN");
    vec![
        event(kind::GTID, gtid),
        event(kind::QUERY, begin),
        event(kind::TABLE_MAP, table_map()),
        event(kind::WRITE, rows(false)),
        event(kind::UPDATE, rows(true)),
        event(kind::DELETE, rows(false)),
        event(kind::XID, vec![0; 8]),
    ]
}

fn assembler() -> Assembler {
    let filter = Filter::new("shop", &["*".to_owned()]);
    let place: Place = "binlog.000001:4 -".parse().unwrap();
    Assembler::new(SourceId::new("erp"), filter, Flavour::MySql { new_names: true }, place, 0, &[])
}

#[test]
fn events_of_mysql_8_are_read() {
    let mut assembler = assembler();
    for event in events() {
        assembler.take(event).unwrap();
    }
    assembler.flush().unwrap();
    let ready = assembler.pop().unwrap();
    assert_eq!(ready.page.quarantined, []);
    assert_eq!(ready.page.states, []);
    assert_eq!((ready.page.row_count, ready.page.transaction_count), (6, 1));
    assert_eq!(ready.page.committed_at_micros, Some(1_700_000_000_000_000));
    let uuid = "3e3e3e3e-3e3e-3e3e-3e3e-3e3e3e3e3e3e";
    assert_eq!(ready.place.to_string(), format!("binlog.000001:4711 {uuid}:9"));
    let batch = &ready.page.batches[0];
    let options = arrow::util::display::FormatOptions::default();
    let row: Vec<String> = batch
        .after()
        .columns()
        .iter()
        .map(|c| {
            let text = arrow::util::display::ArrayFormatter::try_new(c.as_ref(), &options).unwrap();
            text.value(0).to_string()
        })
        .collect();
    assert_eq!(
        row.join("|"),
        "42|-7|1234567890.1234|0.000000000000000000000000000000|hi|abc|-2|\
         2001-02-03T04:05:06.000001|2001-02-03T04:05:06.789Z|-1100000|1000-01-01|1|y|x,y|ok||z"
    );
}

#[test]
fn no_bytes_make_it_panic() {
    let seed = 20_261_122;
    let mut random = StdRng::seed_from_u64(seed);
    let aside = Cell::new(0_usize);
    for _ in 0..4000 {
        let mut assembler = assembler();
        let mut events = events();
        for _ in 0..random.random_range(1..4) {
            let at = random.random_range(0..events.len());
            let body = &mut events[at].body;
            match random.random_range(0..4) {
                0 => body.truncate(random.random_range(0..=body.len())),
                1 => body.push(random.random()),
                _ if body.is_empty() => {}
                2 => {
                    let at = random.random_range(0..body.len());
                    body[at] = random.random();
                }
                _ => {
                    let at = random.random_range(0..body.len());
                    body[at] ^= 1 << random.random_range(0..8);
                }
            }
        }
        for event in events {
            if assembler.take(event).is_err() {
                break;
            }
        }
        let _ = assembler.flush();
        while let Some(ready) = assembler.pop() {
            aside.set(aside.get() + ready.page.quarantined.len());
        }
    }
    assert!(aside.get() > 100, "seed {seed}: {} rows were put aside", aside.get());
}
