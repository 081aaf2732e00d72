//! What becomes of messages, without a broker: the task that reads is played by the test.

use medlake_contract::Op;
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode};

use super::*;
use crate::source::Phase;

/// A source whose task is the test.
struct Played {
    source: KafkaSource,
    news: mpsc::Sender<News>,
    topic: Arc<str>,
    offset: i64,
}

fn played(config: KafkaConfig, topics: &[&str]) -> Played {
    let mut source = KafkaSource::new("his", config, Budget::new(1 << 20), 3).unwrap();
    let (news, heard) = mpsc::channel(100);
    source.news = Some(heard);
    let topics = topics.iter().map(|t| Arc::from(*t)).collect();
    news.try_send(News::Topics(topics)).unwrap();
    Played { source, news, topic: Arc::from("p.db.t"), offset: 0 }
}

impl Played {
    fn send(&mut self, key: Option<&str>, value: Option<&str>) {
        let topic = Arc::clone(&self.topic);
        self.offset += 1;
        self.send_to(&topic, self.offset - 1, key, value);
    }

    fn send_to(&self, topic: &Arc<str>, offset: i64, key: Option<&str>, value: Option<&str>) {
        let [key, value] = [key, value].map(|t| t.map(str::as_bytes));
        let record = Record::new(Arc::clone(topic), (0, offset), 7_000_000, key, value);
        self.news.try_send(News::Records(vec![record], Held::default())).unwrap();
    }

    fn row(&mut self, row: &str) {
        let value = format!(
            r#"{{"op":"c","after":{row},"source":{{"connector":"mysql","db":"db","table":"t","ts_ms":5}}}}"#
        );
        self.send(Some(r#"{"id":1}"#), Some(&value));
    }

    fn read(&mut self) -> Option<Page> {
        self.source.read_page(CutLimits::default()).unwrap()
    }

    fn read_all(&mut self) -> Vec<Page> {
        std::iter::from_fn(|| self.read()).collect()
    }
}

fn place(page: &Page) -> String {
    page.position.as_ref().unwrap().to_string()
}

fn config() -> KafkaConfig {
    KafkaConfig { transaction_patience_s: 600, ..KafkaConfig::new("127.0.0.1:1", "p.*") }
}

#[test]
fn a_page_ends_where_a_table_changes() {
    let mut played = played(config(), &["p.db.t"]);
    played.row(r#"{"id":1}"#);
    played.row(r#"{"id":2}"#);
    played.row(r#"{"id":3,"n":1}"#);
    played.row(r#"{"id":4,"n":2}"#);
    let page = played.read().unwrap();
    assert_eq!(
        (page.schemas.len(), page.row_count, place(&page)),
        (1, 2, "log:1:p.db.t/0=2".into())
    );
    assert_eq!(page.states[0].phase, Phase::Streaming);
    let page = played.read().unwrap();
    assert_eq!(
        (page.schemas.len(), page.row_count, place(&page)),
        (1, 2, "log:2:p.db.t/0=4".into())
    );
    assert_eq!(page.schemas[0].table.columns().len(), 2);
    assert_eq!(page.batches[0].table(), &page.schemas[0].table);
    assert!(played.read().is_none());
    // Whoever goes on there knows the columns and what feeds the table.
    let resume = Resume {
        positions: [(SourceId::new("his"), page.position.clone().unwrap())].into(),
        tables: vec![Arc::clone(&page.schemas[0].table)],
        states: page.states,
        ..Resume::default()
    };
    let mut again = self::played(config(), &["p.db.t"]);
    futures::executor::block_on(again.source.resume(&resume)).unwrap();
    again.row(r#"{"id":1,"n":5}"#);
    assert!(again.read().is_none(), "it was read before");
    again.offset = 4;
    again.row(r#"{"id":5,"n":5}"#);
    let page = again.read().unwrap();
    assert_eq!(
        (page.schemas.len(), page.row_count, place(&page)),
        (0, 1, "log:3:p.db.t/0=5".into())
    );
}

#[test]
fn what_cannot_be_read_is_kept_and_the_rest_goes_on() {
    let mut played = played(config(), &["p.db.t"]);
    played.row(r#"{"id":1,"n":1}"#);
    played.row(r#"{"id":2,"n":"x"}"#);
    played.send(Some("k"), Some("{broken"));
    played.send(Some("k"), None);
    played.row(r#"{"id":3,"n":3}"#);
    let pages = played.read_all();
    assert_eq!(pages.iter().map(|p| p.row_count).collect::<Vec<_>>(), [1, 0, 1]);
    assert_eq!(place(&pages[2]), "log:3:p.db.t/0=5");
    let bad: Vec<_> = pages.iter().flat_map(|p| &p.quarantined).collect();
    let [value, broken] = bad.as_slice() else { panic!("{bad:?}") };
    assert_eq!((value.id.as_str(), value.op.as_str()), ("p.db.t/0/1", "c"));
    assert_eq!(value.key.as_deref(), Some(r#"["1"]"#));
    assert_eq!(value.reason, "column \"n\" has a value that is not an integer");
    assert_eq!(broken.table.to_string(), "his.t");
    assert_eq!(broken.raw, b"\0\0\0\x01k{broken");
}

#[test]
fn a_table_that_is_stopped_is_left_out_until_it_is_taken_in_again() {
    let mut played = played(config(), &["p.db.t"]);
    played.row(r#"{"id":1}"#);
    let name = played.read().unwrap().schemas[0].table.name().clone();
    assert!(played.source.resync(&name).is_err(), "Kafka has no rows");
    played.source.stop(&name, "why".to_owned(), "what to do".to_owned());
    played.row(r#"{"id":2}"#);
    let page = played.read().unwrap();
    assert_eq!((page.row_count, place(&page)), (0, "log:2:p.db.t/0=2".into()));
    assert_eq!(page.states[0].phase, Phase::Stopped);
    assert!(page.states[0].remedy.as_ref().unwrap().contains("incremental snapshot"));
    played.source.resync(&name).unwrap();
    played.row(r#"{"id":3}"#);
    let page = played.read().unwrap();
    assert_eq!((page.schemas.len(), page.row_count), (1, 1));
    assert_eq!(page.states[0].phase, Phase::Streaming);
    assert_eq!(page.batches[0].ops(), [Op::Insert]);
}

#[test]
fn what_is_left_out_holds_no_memory() {
    let mut played = played(config(), &["p.db.t"]);
    played.row(r#"{"id":1}"#);
    let name = played.read().unwrap().schemas[0].table.name().clone();
    played.source.stop(&name, "why".to_owned(), "what to do".to_owned());
    assert!(played.read().is_some());
    let held = futures::executor::block_on(played.source.budget.hold(100_000));
    let value = format!(r#"{{"op":"c","after":{{"id":1}},"x":"{}"}}"#, "x".repeat(90_000));
    let record = Record::new(
        Arc::clone(&played.topic),
        (0, 1),
        7,
        Some(b"{\"id\":1}"),
        Some(value.as_bytes()),
    );
    played.news.try_send(News::Records(vec![record], held)).unwrap();
    assert!(played.read().is_none(), "there is nothing to say yet");
    // A unit for what is rounded.
    assert!(played.source.budget.held_bytes() <= 100_000 - 90_000);
}

fn ids(page: &Page) -> Vec<&str> {
    page.released.iter().map(|(_, id)| id.as_str()).collect()
}

#[test]
fn a_later_change_of_its_row_releases_a_message_from_quarantine() {
    let mut played = played(config(), &["p.db.t"]);
    let row = |id: i64, n: &str| {
        format!(
            r#"{{"op":"u","after":{{"id":{id},"n":{n}}},"source":{{"connector":"mysql","db":"db","table":"t","ts_ms":5}}}}"#
        )
    };
    let send = |played: &mut Played, id: i64, n: &str| {
        played.send(Some(&format!(r#"{{"id":{id}}}"#)), Some(&row(id, n)));
    };
    send(&mut played, 1, "1");
    send(&mut played, 2, r#""x""#);
    send(&mut played, 3, r#""x""#);
    send(&mut played, 2, "2");
    send(&mut played, 2, "3");
    send(&mut played, 3, r#""y""#);
    let pages = played.read_all();
    let now = |page: &Page| (page.quarantined.len(), page.states[0].quarantined);
    assert_eq!(pages.iter().map(now).collect::<Vec<_>>(), [(1, 1), (1, 2), (1, 2)]);
    let page = &pages[2];
    assert_eq!((page.row_count, ids(page)), (2, vec!["p.db.t/0/1"]));
    assert_eq!(page.quarantined[0].key.as_deref(), Some(r#"["3"]"#));
    // Whoever goes on after a restart knows the other.
    let resume = Resume {
        positions: [(SourceId::new("his"), page.position.clone().unwrap())].into(),
        tables: played.source.tables(),
        states: page.states.clone(),
        quarantined: ["p.db.t/0/2", "p.db.t/0/5"].map(held).to_vec(),
    };
    let mut again = self::played(config(), &["p.db.t"]);
    futures::executor::block_on(again.source.resume(&resume)).unwrap();
    again.offset = played.offset;
    let delete = row(3, "1").replace(r#""op":"u","after""#, r#""op":"d","before""#);
    again.send(Some(r#"{"id":3}"#), Some(&delete));
    let page = again.read().unwrap();
    assert_eq!((ids(&page), page.states[0].quarantined), (vec!["p.db.t/0/2", "p.db.t/0/5"], 0));
}

fn held(id: &str) -> crate::QuarantinedRow {
    crate::QuarantinedRow {
        table: "his.t".parse().unwrap(),
        id: id.to_owned(),
        op: "u".to_owned(),
        key: Some(r#"["3"]"#.to_owned()),
        raw: Vec::new(),
    }
}

#[test]
fn keys_in_quarantine_are_of_the_columns_type() {
    let table = crate::DeclaredTable {
        key: vec!["id".to_owned()],
        columns: [("id".to_owned(), "decimal(10,2)".to_owned())].into(),
    };
    let mut config = config();
    config.debezium.tables.insert("t".to_owned(), table);
    let mut played = played(config, &["p.db.t"]);
    // 1.00 and 256.00, unscaled.
    let row = |id: &str, n: &str| format!(r#"{{"id":"{id}","n":{n}}}"#);
    played.row(&row("ZA==", "1"));
    let value = format!(r#"{{"op":"c","after":{}}}"#, row("ZAA=", "{}"));
    played.send(Some(r#"{"id":"ZAA="}"#), Some(&value));
    let page = played.read().unwrap();
    assert_eq!(page.quarantined[0].key.as_deref(), Some(r#"["256.00"]"#));
    played.row(&row("ZAA=", "1"));
    assert_eq!(ids(&played.read().unwrap()), ["p.db.t/0/1"]);
}

#[test]
fn a_table_with_too_many_in_quarantine_is_stopped() {
    let mut played = played(config(), &["p.db.t"]);
    played.row(r#"{"id":1,"n":1}"#);
    for _ in 0..4 {
        played.row(r#"{"id":2,"n":"x"}"#);
    }
    played.row(r#"{"id":3,"n":1}"#);
    let pages = played.read_all();
    assert_eq!((pages.len(), pages[0].row_count), (4, 1), "what comes after is left out");
    let [state] = pages[3].states.as_slice() else { panic!("{:?}", pages[3].states) };
    assert_eq!((state.phase, state.quarantined), (Phase::Stopped, 4));
    assert!(state.reason.as_ref().unwrap().starts_with("4 of its changes"), "{state:?}");
    assert!(state.remedy.as_ref().unwrap().contains("medlake ingest resync his.t"), "{state:?}");
    played.row(r#"{"id":4,"n":1}"#);
    played.row(r#"{"id":5,"n":"x"}"#);
    played.send(None, Some("{broken"));
    assert!(played.read().is_none(), "all of it is left out");
    played.source.resync(&"his.t".parse().unwrap()).unwrap();
    let page = played.read().unwrap();
    assert_eq!((page.states[0].phase, page.states[0].quarantined), (Phase::Streaming, 0));
    assert_eq!(ids(&page).len(), 4, "they count no more");
    played.row(r#"{"id":6,"n":1}"#);
    assert_eq!(played.read().unwrap().row_count, 1);
}

#[test]
fn a_topic_of_which_nothing_can_be_read_is_stopped_too() {
    let mut played = played(config(), &["p.db.t"]);
    for _ in 0..4 {
        played.send(None, Some("{broken"));
    }
    let mut pages = played.read_all();
    assert!(pages[..3].iter().all(|page| page.states.is_empty() && page.quarantined.len() == 1));
    let page = pages.remove(3);
    assert_eq!((page.quarantined.len(), page.states[0].phase), (1, Phase::Stopped));
    let resume = Resume {
        positions: [(SourceId::new("his"), page.position.clone().unwrap())].into(),
        states: page.states,
        ..Resume::default()
    };
    let mut again = self::played(config(), &["p.db.t"]);
    futures::executor::block_on(again.source.resume(&resume)).unwrap();
    again.offset = played.offset;
    again.row(r#"{"id":1}"#);
    let page = again.read().unwrap();
    assert_eq!((page.row_count, page.schemas.len(), page.states.len()), (0, 0, 0));
    again.source.resync(&"his.t".parse().unwrap()).unwrap();
    again.row(r#"{"id":1}"#);
    let page = again.read().unwrap();
    assert_eq!((page.row_count, page.states[0].phase), (1, Phase::Streaming));
}

/// The rows of the quarantine as the lake has them.
fn kept(pages: &[Page]) -> Vec<QuarantinedRow> {
    let all = pages.iter().flat_map(|page| &page.quarantined);
    all.map(|q| QuarantinedRow {
        table: q.table.clone(),
        id: q.id.clone(),
        op: q.op.clone(),
        key: q.key.clone(),
        raw: q.raw.clone(),
    })
    .collect()
}

#[test]
fn messages_are_read_again_row_by_row() {
    let mut played = played(config(), &["p.db.t"]);
    let row = |id: i64, n: &str| {
        let value = format!(
            r#"{{"op":"c","after":{{"id":{id},"n":{n}}},"source":{{"connector":"mysql","db":"db","table":"t","ts_ms":5}}}}"#
        );
        (format!(r#"{{"id":{id}}}"#), value)
    };
    let rows = [(1, "1"), (2, "1.5"), (3, "2.5"), (3, "\"x\""), (4, "3.5"), (4, "4.5")];
    for (id, n) in rows {
        let (key, value) = row(id, n);
        played.send(Some(&key), Some(&value));
    }
    played.send(Some("k"), Some("{broken"));
    // More than the source may have of one table would stop it.
    played.source.quarantine = Quarantine::new(100);
    let pages = played.read_all();
    let quarantined = kept(&pages);
    assert_eq!(quarantined.len(), 6);
    let name: TableName = "his.t".parse().unwrap();
    assert_eq!(played.source.retry(&name, &quarantined).unwrap(), 5);
    assert!(played.read().is_none(), "nothing has changed");

    // Whoever starts again says what the column is.
    let table = crate::DeclaredTable {
        key: Vec::new(),
        columns: [("n".to_owned(), "double".to_owned())].into(),
    };
    let mut better = config();
    better.debezium.tables = [("t".to_owned(), table)].into();
    let resume = Resume {
        positions: [(SourceId::new("his"), pages.last().unwrap().position.clone().unwrap())].into(),
        tables: pages[0].schemas.iter().map(|s| Arc::clone(&s.table)).collect(),
        states: pages[0].states.clone(),
        quarantined,
    };
    let mut again = self::played(better, &["p.db.t"]);
    again.source.quarantine = Quarantine::new(100);
    futures::executor::block_on(again.source.resume(&resume)).unwrap();
    assert_eq!(again.source.retry(&name, &resume.quarantined).unwrap(), 5);
    let all: Vec<Page> = again.read_all();
    let released: Vec<Vec<&str>> = all.iter().map(ids).collect();
    assert_eq!(released, [vec!["p.db.t/0/1"], vec!["p.db.t/0/4", "p.db.t/0/5"]]);
    assert_eq!(all[0].schemas.len(), 1, "the column is a number with a fraction now");
    assert_eq!(all.iter().map(|p| p.row_count).collect::<Vec<_>>(), [1, 2]);
    assert!(all.iter().all(|p| p.position.is_none()), "reading got no further");
    // What could not be read is there still, and a later message of its row overtakes it.
    assert_eq!(again.source.quarantine.len(&name), 3);
    assert_eq!(again.source.retry(&name, &resume.quarantined).unwrap(), 5);
    again.offset = 7;
    let (key, value) = row(3, "7.5");
    again.send(Some(&key), Some(&value));
    let page = again.read().unwrap();
    assert_eq!((page.row_count, ids(&page)), (1, vec!["p.db.t/0/2", "p.db.t/0/3"]));
}

/// A change of a transaction.
fn of(transaction: &str, place: u64, id: i64) -> String {
    format!(
        r#"{{"op":"c","after":{{"id":{id}}},"transaction":{{"id":"{transaction}","total_order":{place}}},"source":{{"connector":"postgresql","schema":"db","table":"t"}}}}"#
    )
}

fn boundary(status: &str, id: &str, count: u64) -> String {
    format!(
        r#"{{"status":"{status}","id":"{id}","data_collections":[{{"data_collection":"db.t","event_count":{count}}}]}}"#
    )
}

#[test]
fn a_transaction_waits_for_its_end_and_its_place_with_it() {
    let mut played = played(config(), &["p.db.t", "p.transaction"]);
    let ends: Arc<str> = Arc::from("p.transaction");
    let key = Some(r#"{"id":1}"#);
    played.send_to(&ends, 0, None, Some(&boundary("BEGIN", "1:10", 0)));
    played.send(key, Some(&of("1:10", 1, 1)));
    played.send(key, None);
    assert!(played.read().is_none(), "half a transaction");
    // Its end has come before the last of it.
    played.send_to(&ends, 1, None, Some(&boundary("END", "1:20", 2)));
    assert!(played.read().is_none(), "half a transaction");
    played.send(key, Some(&of("1:10", 2, 2)));
    played.send(key, Some(&of("2:30", 1, 3)));
    let page = played.read().unwrap();
    assert_eq!((page.row_count, page.transaction_count), (2, 1));
    assert_eq!(place(&page), "log:1:p.db.t/0=3;p.transaction/0=2");
    assert!(played.source.order.deadline().is_some(), "the next one waits");
}

#[test]
fn a_transaction_whose_table_changes_is_not_cut() {
    let mut played = played(config(), &["p.db.t", "p.db.u", "p.transaction"]);
    let ends: Arc<str> = Arc::from("p.transaction");
    let other: Arc<str> = Arc::from("p.db.u");
    let key = Some(r#"{"id":1}"#);
    let fields = |more: &str| {
        let row = format!(
            r#"{{"type":"struct","field":"after","fields":[{{"type":"int32","field":"id"}}{more}]}}"#
        );
        format!(r#"{{"type":"struct","fields":[{row}]}}"#)
    };
    let (before, after) = (fields(""), fields(r#",{"type":"int32","optional":true,"field":"n"}"#));
    let typed =
        |schema: &str, payload: String| format!(r#"{{"schema":{schema},"payload":{payload}}}"#);
    let of_other = |id: &str, place| of(id, place, 1).replace(r#""table":"t""#, r#""table":"u""#);
    let both =
        boundary("END", "1", 1).replace("}]", r#"},{"data_collection":"db.u","event_count":1}]"#);
    played.send_to(&other, 0, key, Some(&typed(&before, of_other("1", 1))));
    played.send(key, Some(&typed(&before, of("1", 2, 1))));
    played.send_to(&ends, 0, None, Some(&both));
    played.send_to(&other, 1, key, Some(&typed(&before, of_other("2", 1))));
    played.send(key, Some(&typed(&after, of("2", 2, 1))));
    played.send_to(&ends, 1, None, Some(&both.replace(r#""id":"1""#, r#""id":"2""#)));
    let pages = played.read_all();
    let found: Vec<_> = pages.iter().map(|p| (p.row_count, p.schemas.len())).collect();
    assert_eq!(found, [(2, 2), (2, 1)]);
}

#[test]
fn a_transaction_that_never_ends_is_handed_out_in_the_end() {
    let without_patience = KafkaConfig { transaction_patience_s: 0, ..config() };
    let mut played = played(without_patience, &["p.db.t", "p.transaction"]);
    played.send(Some(r#"{"id":1}"#), Some(&of("1", 1, 1)));
    assert_eq!(played.read().unwrap().row_count, 1);
    // More than there is memory for does not wait either.
    let mut played = self::played(config(), &["p.db.t", "p.transaction"]);
    let big =
        of("1", 1, 1).replace(r#""op":"c""#, &format!(r#""op":"c","x":"{}""#, "x".repeat(600_000)));
    played.send(Some(r#"{"id":1}"#), Some(&big));
    assert_eq!(played.read().unwrap().row_count, 1);
}

#[test]
fn what_waits_of_a_partition_that_went_is_forgotten() {
    let mut played = played(config(), &["p.db.t", "p.transaction"]);
    played.send(Some(r#"{"id":1}"#), Some(&of("1", 1, 1)));
    assert!(played.read().is_none());
    played.news.try_send(News::Revoked(vec![("p.db.t".to_owned(), 0)])).unwrap();
    assert!(played.read().is_none());
    assert_eq!((played.source.order.len(), played.source.order.bytes()), (0, 0));
}

#[test]
fn transactions_of_two_connectors_in_one_topic_are_told_apart() {
    let mut played = played(config(), &["p.db.t", "p.transaction"]);
    let ends: Arc<str> = Arc::from("p.transaction");
    let key = Some(r#"{"id":1}"#);
    played.send_to(&ends, 0, None, Some(&boundary("BEGIN", "a:1", 0)));
    played.send_to(&ends, 1, None, Some(&boundary("BEGIN", "b:1", 0)));
    played.send(key, Some(&of("a:1", 1, 1)));
    played.send_to(&ends, 2, None, Some(&boundary("END", "a:1", 1)));
    let page = played.read().unwrap();
    assert_eq!((page.row_count, page.transaction_count), (1, 1));
    played.send(key, Some(&of("b:1", 1, 2)));
    assert!(played.read().is_none(), "half a transaction");
    played.send_to(&ends, 3, None, Some(&boundary("END", "b:1", 1)));
    let page = played.read().unwrap();
    assert_eq!((page.row_count, page.transaction_count), (1, 1));
}

/// A change of transaction `id` whose row has these fields, all of them integers.
fn with_schema(transaction: &str, place: u64, table: &str, fields: &[&str]) -> String {
    let schemas: Vec<String> = fields
        .iter()
        .map(|f| format!(r#"{{"type":"int64","optional":{},"field":"{f}"}}"#, *f != "id"))
        .collect();
    let values: Vec<String> = fields.iter().map(|f| format!(r#""{f}":1"#)).collect();
    let transaction = match place {
        0 => "null".to_owned(),
        _ => format!(r#"{{"id":"{transaction}","total_order":{place}}}"#),
    };
    format!(
        r#"{{"schema":{{"type":"struct","fields":[{{"type":"struct","fields":[{}],"optional":true,"field":"after"}}]}},"payload":{{"op":"c","after":{{{}}},"transaction":{transaction},"source":{{"connector":"postgresql","schema":"db","table":"{table}"}}}}}}"#,
        schemas.join(","),
        values.join(","),
    )
}

#[test]
fn a_transaction_is_not_cut_where_a_table_changes_in_its_middle() {
    let key = Some(r#"{"id":1}"#);
    let topics = ["p.db.t", "p.db.u", "p.transaction"];
    let [t, u, ends] = topics.map(|topic| -> Arc<str> { Arc::from(topic) });
    let mut played = played(config(), &topics);
    let end = |id: &str| {
        format!(
            r#"{{"status":"END","id":"{id}","data_collections":[{{"data_collection":"db.t","event_count":1}},{{"data_collection":"db.u","event_count":1}}]}}"#
        )
    };
    played.send_to(&t, 0, key, Some(&with_schema("1", 1, "t", &["id"])));
    played.send_to(&u, 0, key, Some(&with_schema("1", 2, "u", &["id"])));
    // A row of no transaction that has other columns comes after the change it stands behind.
    played.send_to(&t, 1, key, Some(&with_schema("", 0, "t", &["id", "n"])));
    played.send_to(&ends, 0, None, Some(&end("1")));
    // A table changes with the second change of a transaction.
    played.send_to(&t, 2, key, Some(&with_schema("2", 1, "t", &["id", "n"])));
    played.send_to(&u, 1, key, Some(&with_schema("2", 2, "u", &["id", "m"])));
    played.send_to(&ends, 1, None, Some(&end("2")));
    let pages = played.read_all();
    let said = pages.iter().map(|p| (p.schemas.len(), p.row_count, p.transaction_count));
    assert_eq!(said.collect::<Vec<_>>(), [(2, 2, 1), (1, 1, 0), (1, 2, 1)]);
    assert_eq!(place(&pages[0]), "log:1:p.db.t/0=1;p.db.u/0=1;p.transaction/0=1");
}

fn unreachable() -> KafkaSourceError {
    let source = KafkaError::MessageConsumption(RDKafkaErrorCode::AllBrokersDown);
    KafkaSourceError::Client { doing: "reach the brokers", source }
}

#[test]
fn a_client_that_is_long_without_its_brokers_is_replaced() {
    let mut played = played(config(), &["p.db.t"]);
    let fail = |played: &mut Played| {
        played.source.shared.went_down(unreachable());
        played.source.read_page(CutLimits::default()).unwrap_err();
    };
    let later = |played: &mut Played, time| {
        played.source.shared.down.send_modify(|down| down.as_mut().unwrap().since -= time);
    };
    let moment = Duration::from_secs(1);
    fail(&mut played);
    later(&mut played, CLIENT_IS_LOST - moment);
    fail(&mut played);
    assert!(!played.news.is_closed());
    // They were there in between.
    played.source.shared.came_up();
    assert!(played.read().is_none());
    fail(&mut played);
    later(&mut played, moment);
    fail(&mut played);
    assert!(!played.news.is_closed());
    later(&mut played, CLIENT_IS_LOST);
    played.source.read_page(CutLimits::default()).unwrap_err();
    assert!(played.news.is_closed());
}

#[tokio::test]
async fn reading_does_not_wait_until_failures_are_heard() {
    // Nobody listens there.
    let budget = Budget::new(1 << 20);
    let mut source = KafkaSource::new("p", config(), budget, 1_000).unwrap();
    source.start().unwrap();
    let mut down = source.shared.down.subscribe();
    for _ in 0..2 * CHUNKS {
        let failed = tokio::time::timeout(Duration::from_secs(60), down.changed());
        failed.await.expect("it tries again").unwrap();
    }
    assert!(source.news.as_ref().unwrap().is_empty());
}

#[test]
fn however_often_a_client_fails_it_is_heard_that_it_is_up() {
    let mut played = played(config(), &["p.db.t"]);
    for _ in 0..10_000 {
        played.source.shared.went_down(unreachable());
    }
    // What came before is handed out.
    played.row(r#"{"id":1}"#);
    assert_eq!(played.read().unwrap().row_count, 1);
    played.source.read_page(CutLimits::default()).unwrap_err();
    played.source.wait().now_or_never().expect("there is something to say");
    played.source.shared.came_up();
    played.row(r#"{"id":2}"#);
    assert_eq!(played.read().unwrap().row_count, 1);
    assert!(played.read().is_none());
    assert!(played.source.wait().now_or_never().is_none());
}
