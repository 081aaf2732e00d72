//! Bytes that no server would send: whatever they are, they are read, put aside or refused.

use std::cell::Cell;

use medlake_contract::SourceId;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::{assemble::Assembler, connect::Flavour, filter::Filter, place::Place, samples::events};

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
