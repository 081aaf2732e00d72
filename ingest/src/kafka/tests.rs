//! What becomes of messages, without a broker: the task that reads is played by the test.

use medlake_contract::Op;

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
    let mut source = KafkaSource::new("his", config, Budget::new(1 << 20)).unwrap();
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
    let page = played.read().unwrap();
    assert_eq!((page.row_count, page.batches[0].ops().len()), (2, 2));
    assert_eq!(place(&page), "log:1:p.db.t/0=5");
    let [value, broken] = page.quarantined.as_slice() else { panic!("{:?}", page.quarantined) };
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
