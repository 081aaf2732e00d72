//! What fuzzing drives: any bytes through the decoders, with what must be true of all they make.

use medlake_contract::SourceId;

use super::{
    assemble::{Assembler, Ready},
    bytes::{Bytes, Short},
    connect::Flavour,
    ddl,
    event::{self, Event},
    filter::Filter,
    json,
    place::{Gtids, Place},
    samples,
    table_map::FixedBytes,
};
use crate::CutLimits;

/// Events of a binlog: a byte of settings, then events of a number, the length in two bytes, the body.
pub(crate) fn binlog(bytes: &[u8]) {
    let Some((&settings, rest)) = bytes.split_first() else { return };
    let is = |bit: u8| settings >> bit & 1 == 1;
    let flavour = if is(0) { Flavour::MariaDb } else { Flavour::MySql { new_names: true } };
    let mut place = Place { file: "binlog.000001".to_owned(), offset: 4, ..Place::default() };
    place.gtids = is(1).then(Gtids::default);
    let filter = Filter::new("shop", &["*".to_owned()]);
    let skip = u64::from(is(2));
    let mut assembler =
        Assembler::new(SourceId::new("erp"), filter, flavour, place.clone(), skip, &[]);
    if is(3) {
        assembler.set_limits(CutLimits { max_rows: 3, max_bytes: 1 << 20 });
    }
    let events = read(rest);
    // Where a server begins when events are asked for once more.
    let (mut next, mut from, mut rounds) = (0, 0, 0);
    while let Some(event) = events.get(next) {
        next += 1;
        if let Some(table) = assembler.asks_for(event) {
            let bytes = |i: usize| [FixedBytes::Uuid, FixedBytes::Address][i % 2];
            assembler.told(&table, (0..40).map(|i| (format!("c{i}"), bytes(i))).collect());
        }
        if assembler.take(event.clone()).is_err() {
            break;
        }
        if *assembler.place() != place {
            place.clone_from(assembler.place());
            from = next;
        }
        while let Some(ready) = assembler.pop() {
            check(&ready);
        }
        if assembler.begins_again() {
            next = from;
            rounds += 1;
            assert!(rounds <= events.len(), "events are read again and again");
        }
    }
    if assembler.flush().is_ok() {
        while let Some(ready) = assembler.pop() {
            check(&ready);
        }
    }
}

fn check(ready: &Ready) {
    let page = &ready.page;
    let rows: usize = page.batches.iter().map(|b| b.ops().len()).sum();
    assert_eq!(rows + page.quarantined.len(), page.row_count, "rows of a page");
    let text = ready.place.to_string();
    assert_eq!(text.parse().as_ref(), Ok(&ready.place), "{text}");
}

fn read(bytes: &[u8]) -> Vec<Event> {
    let mut bytes = Bytes::new(bytes);
    let mut events = Vec::new();
    let next = |bytes: &mut Bytes<'_>| -> Result<(u8, Vec<u8>), Short> {
        let (kind, length) = (bytes.u8()?, usize::from(bytes.u16()?));
        Ok((kind, bytes.take(length)?.to_vec()))
    };
    while let Ok((kind, body)) = next(&mut bytes) {
        let end = u32::try_from(events.len()).unwrap_or(0) * 100 + 200;
        // What the client library reads, it reads by itself first.
        if kind == event::kind::GTID_TAGGED
            && let Some(raw) = samples::raw(kind, end, &body)
        {
            events.extend(event::of(&raw).ok());
            continue;
        }
        events.push(Event { end, ..samples::event(kind, body) });
    }
    events
}

/// Inputs for [`binlog`].
pub(crate) fn binlog_seeds() -> Vec<Vec<u8>> {
    let of = |settings: u8, events: &[Event]| {
        let mut seed = vec![settings];
        for event in events {
            seed.push(event.kind);
            seed.extend(u16::try_from(event.body.len()).unwrap_or(0).to_le_bytes());
            seed.extend(&event.body);
        }
        seed
    };
    let tagged =
        Event { kind: event::kind::GTID_TAGGED, body: samples::tagged(10), ..Event::default() };
    let mut mysql = samples::events();
    mysql.push(tagged);
    mysql.extend(samples::events().split_off(1));
    let mariadb = samples::mariadb_events();
    (0..16_u8).map(|s| of(s, if s & 1 == 1 { &mariadb } else { &mysql })).collect()
}

/// A JSON document in MySQL's binary form.
pub(crate) fn json(bytes: &[u8]) {
    if let Ok(text) = json::text(bytes) {
        let read: Result<serde::de::IgnoredAny, _> = serde_json::from_str(&text);
        assert!(read.is_ok(), "{text}");
    }
}

/// Inputs for [`json`].
pub(crate) fn json_seeds() -> Vec<Vec<u8>> {
    [
        // {"a": [1, "x"], "bc": 1.5}
        &b"\0\x02\0\x2f\0\x12\0\x01\0\x13\0\x02\0\x02\x15\0\x0b\x27\0abc\x02\0\x0c\0\
           \x05\x01\0\x0c\x0a\0\x01x\0\0\0\0\0\0\0\0\0\0\0\xf8\x3f"[..],
        // A large array, and values of SQL's types.
        b"\x03\x01\0\0\0\x0d\0\0\0\x07\xfe\xff\xff\xff",
        b"\x0f\xf6\x05\x04\x02\x8c\x0c\x80",
        b"\x0f\x0c\x08\0\0\0\x5a\x3e\xb2\x9b\x19",
        b"\x0c\x03\xe6\xad\xbb",
        b"\x04\x01",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}

/// A statement.
pub(crate) fn sql(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    ddl::parse(&text);
    event::xa_name(&text);
}

/// Inputs for [`sql`].
pub(crate) fn sql_seeds() -> Vec<Vec<u8>> {
    [
        "alter table `a``b`.t rename column c1 to d1, change `x y` z decimal(1,2) comment 'it''s'",
        "/*!40000 create or replace table */ \"shop\".`u` (id int) -- end\n",
        "rename table if exists t wait 5 to u, shop.u nowait to t # end",
        "ALTER ONLINE IGNORE TABLE t DROP PARTITION p0, RENAME AS v",
        "drop /* all */ table if exists `u`, shop.v",
        "insert into t select \\' from u",
        "set statement a=1 for alter table t add (u uuid), modify x inet6, convert to charset binary",
    ]
    .map(|sql| sql.as_bytes().to_vec())
    .to_vec()
}

/// A place.
pub(crate) fn place(text: &str) {
    if let Ok(place) = text.parse::<Place>() {
        let written = place.to_string();
        assert_eq!(written.parse().as_ref(), Ok(&place), "{text:?} is {written:?}");
        assert!(place.reached(&place), "{written}");
    }
}
