//! A server that is played: what MySQL 8 sends and MariaDB does not, packet by packet, where no MySQL is
//! to be had. The bytes are those of the documented layouts (see [`samples`]).

use std::sync::Arc;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::*;
use crate::mysql::{
    event::kind,
    samples::{self, framed},
};

const UUID: &str = "3e3e3e3e-3e3e-3e3e-3e3e-3e3e3e3e3e3e";
const TAGGED: &str = "fefefefe-fefe-fefe-fefe-fefefefefefe";

/// What it has to say to somebody who asks for its binlog, after the head of its file.
type Events = Arc<Vec<Vec<u8>>>;

struct Played {
    port: u16,
    /// Ends with this.
    _task: JoinSet<()>,
}

impl Played {
    async fn start(events: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let events = Arc::new(events);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, Arc::clone(&events)));
            }
        });
        Self { port, _task: task }
    }

    fn config(&self) -> MysqlConfig {
        MysqlConfig::from_url(&format!("mysql://cdc:geheim@127.0.0.1:{}/shop", self.port)).unwrap()
    }
}

async fn send(stream: &mut TcpStream, number: &mut u8, packet: &[u8]) -> Option<()> {
    let mut bytes = u32::try_from(packet.len()).unwrap().to_le_bytes();
    bytes[3] = *number;
    *number = number.wrapping_add(1);
    stream.write_all(&[&bytes[..], packet].concat()).await.ok()
}

async fn receive(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await.ok()?;
    head[3] = 0;
    let mut packet = vec![0; u32::from_le_bytes(head) as usize];
    stream.read_exact(&mut packet).await.ok()?;
    Some(packet)
}

const OK: [u8; 7] = [0, 0, 0, 2, 0, 0, 0];
const END: [u8; 5] = [0xfe, 0, 0, 2, 0];

/// A connection until its client goes.
async fn serve(mut stream: TcpStream, events: Events) -> Option<()> {
    let mut greeting = vec![10];
    greeting.extend(b"8.4.6\0\x07\0\0\0abcdefgh\0");
    // Protocol 4.1, authentication by plugins, transactions.
    let abilities = 0x0008_a208_u32.to_le_bytes();
    greeting.extend(&abilities[..2]);
    greeting.extend([255, 2, 0]);
    greeting.extend(&abilities[2..]);
    greeting.extend([21]);
    greeting.extend([0; 10]);
    greeting.extend(b"ijklmnopqrst\0mysql_native_password\0");
    let mut number = 0;
    send(&mut stream, &mut number, &greeting).await?;
    receive(&mut stream).await?;
    number = 2;
    send(&mut stream, &mut number, &OK).await?;
    loop {
        let command = receive(&mut stream).await?;
        number = 1;
        match command.split_first()? {
            (3, sql) => match answer(&String::from_utf8_lossy(sql)) {
                None => send(&mut stream, &mut number, &OK).await?,
                Some(row) => {
                    send(&mut stream, &mut number, &[u8::try_from(row.len()).unwrap()]).await?;
                    for _ in &row {
                        let mut column =
                            b"\x03def\0\0\0\x01c\0\x0c\x21\0\0\x01\0\0\xfd\0\0\0".to_vec();
                        column.extend([0; 2]);
                        send(&mut stream, &mut number, &column).await?;
                    }
                    send(&mut stream, &mut number, &END).await?;
                    let mut values = Vec::new();
                    for value in &row {
                        values.push(u8::try_from(value.len()).unwrap());
                        values.extend(value.as_bytes());
                    }
                    send(&mut stream, &mut number, &values).await?;
                    send(&mut stream, &mut number, &END).await?;
                }
            },
            (0x12 | 0x1e, _) => {
                for event in head().iter().chain(events.iter()) {
                    send(&mut stream, &mut number, &[&[0][..], event].concat()).await?;
                }
            }
            (1, _) => return None,
            _ => send(&mut stream, &mut number, &OK).await?,
        }
    }
}

/// The row that answers a statement, if there is one.
fn answer(sql: &str) -> Option<Vec<String>> {
    let sql = sql.to_ascii_lowercase();
    let row = match sql.as_str() {
        "select version()" => vec!["8.4.6"],
        "select @@server_uuid" => vec![UUID],
        "select @@gtid_executed" => vec![UUID],
        "show binary log status" => vec!["binlog.000001", "4", "", "", ""],
        "show binary logs" => vec!["binlog.000001", "100000", "No"],
        _ if sql.contains("binlog_format") => vec!["ROW"],
        _ if sql.contains("binlog_row") => vec!["FULL"],
        _ if sql.contains("log_bin") => vec!["1"],
        _ if sql.starts_with("select") => vec!["67108864"; 1 + sql.matches(',').count()],
        _ => return None,
    };
    Some(row.into_iter().map(str::to_owned).collect())
}

/// With the checksum that this server has behind each event.
fn checked(kind: u8, end: u32, body: &[u8]) -> Vec<u8> {
    let mut event = framed(kind, end, &[body, &[0; 4]].concat());
    event.truncate(event.len() - 4);
    let mut sum = flate2::Crc::new();
    sum.update(&event);
    event.extend(sum.sum().to_le_bytes());
    event
}

/// What comes before the events that were asked for: where they are, and how they are written.
fn head() -> [Vec<u8>; 2] {
    let mut rotation = 4_u64.to_le_bytes().to_vec();
    rotation.extend(b"binlog.000001");
    let mut rotation = checked(kind::ROTATE, 0, &rotation);
    // It is made up: it was never written, at no time.
    rotation[..4].fill(0);
    let mut format = 4_u16.to_le_bytes().to_vec();
    let mut version = b"8.4.6".to_vec();
    version.resize(50, 0);
    format.extend(version);
    format.extend([0; 4]);
    format.push(19);
    format.extend([0; 42]);
    // Checksums are CRC-32.
    format.push(1);
    [rotation, checked(kind::FORMAT, 126, &format)]
}

/// A transaction, each event of it by itself.
fn plain(gtid: (u8, Vec<u8>), rows: (u8, Vec<u8>), at: u32) -> Vec<Vec<u8>> {
    let mut events = vec![checked(gtid.0, at + 10, &gtid.1)];
    events.extend(inner(rows, at).iter().map(|(kind, end, body)| checked(*kind, *end, body)));
    events
}

fn inner(rows: (u8, Vec<u8>), at: u32) -> Vec<(u8, u32, Vec<u8>)> {
    vec![
        (kind::QUERY, at + 20, samples::query("BEGIN").body),
        (kind::TABLE_MAP, at + 30, samples::table_map()),
        (rows.0, at + 40, rows.1),
        (kind::XID, at + 50, vec![0; 8]),
    ]
}

/// The same as one event: its head as fields of type, length and value, and the events without
/// checksums in a frame of zstd (RFC 8878) whose one block is stored as it is.
fn payload(rows: (u8, Vec<u8>), end: u32) -> Vec<u8> {
    let packed = |number: usize| {
        let [low, high, ..] = number.to_le_bytes();
        [0xfc, low, high]
    };
    let events = inner(rows, 0);
    let events = events.iter().flat_map(|(kind, end, body)| framed(*kind, *end, body));
    let events: Vec<u8> = events.collect();
    let size = events.len();
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x60];
    frame.extend(u16::try_from(size - 256).unwrap().to_le_bytes());
    frame.extend(&u32::try_from(size << 3 | 1).unwrap().to_le_bytes()[..3]);
    frame.extend(events);
    let mut body = vec![2, 1, 0];
    body.extend([3, 3]);
    body.extend(packed(size));
    body.extend([1, 3]);
    body.extend(packed(frame.len()));
    body.push(0);
    body.extend(frame);
    checked(kind::TRANSACTION_PAYLOAD, end, &body)
}

async fn opened(server: &Played) -> MysqlLog {
    let config = server.config();
    let mut log = log_of(&config);
    let end = log.end().await.unwrap();
    // GTIDs are on, and nothing was written yet.
    let begin = Place { gtids: Some("".parse().unwrap()), ..end };
    log.start(&begin, &[]).await.unwrap();
    log
}

/// All pages up to an offset.
async fn until_offset(log: &mut MysqlLog, offset: u64) -> Vec<Page> {
    let mut pages = Vec::new();
    while log.at().offset < offset {
        pages.push(next(log, CutLimits::default()).await.unwrap());
    }
    pages
}

#[tokio::test]
async fn transactions_of_mysql_8_in_all_their_forms() {
    let mut events = vec![checked(kind::GTID, 200, &samples::gtid(9))];
    events.push(payload((kind::WRITE, samples::rows(false)), 900));
    // Where it ends is where its one event ends, whatever those in it say.
    let server = Played::start(events.clone()).await;
    let mut log = opened(&server).await;
    until_offset(&mut log, 900).await;
    assert_eq!(log.at().to_string(), format!("binlog.000001:900 {UUID}:9 @{UUID}"));

    let tagged = (kind::GTID_TAGGED, samples::tagged(10));
    events.extend(plain(tagged, (kind::UPDATE, samples::rows(true)), 1000));
    // With GTIDs off there is none of it but the time.
    let mut anonymous = samples::gtid(0);
    anonymous[1..17].fill(0);
    let anonymous = (kind::ANONYMOUS_GTID, anonymous);
    events.extend(plain(anonymous, (kind::DELETE, samples::rows(false)), 2000));
    let server = Played::start(events).await;
    let mut log = opened(&server).await;
    let pages = until_offset(&mut log, 2050).await;
    let found = changes(&pages, "t");
    let kinds: String = found.iter().map(|c| c.chars().next().unwrap()).collect();
    assert_eq!(kinds, "++44--", "{found:?}");
    assert!(found[0].starts_with("+42|-7|1234567890.1234|"), "{found:?}");
    assert_eq!(pages.iter().map(|p| p.transaction_count).sum::<u64>(), 3);
    let committed: Vec<_> = pages.iter().filter_map(|p| p.committed_at_micros).collect();
    assert!(committed.iter().all(|at| *at == 1_700_000_000_000_000), "{committed:?}");
    let last = format!("binlog.000001:2050 {UUID}:9,{TAGGED}:batch:10 @{UUID}");
    assert_eq!(log.at().to_string(), last);
}

#[tokio::test]
async fn a_compressed_transaction_that_cannot_be_unpacked_is_never_passed_over() {
    let mut broken = payload((kind::WRITE, samples::rows(false)), 900);
    // No frame of zstd.
    let at = broken.windows(4).position(|bytes| bytes == [0x28, 0xb5, 0x2f, 0xfd]).unwrap();
    broken[at] = 0;
    let mut events = vec![checked(kind::GTID, 200, &samples::gtid(9)), broken];
    let gtid = (kind::GTID, samples::gtid(10));
    events.extend(plain(gtid, (kind::WRITE, samples::rows(false)), 1000));
    let server = Played::start(events).await;
    let mut log = opened(&server).await;
    let error = next(&mut log, CutLimits::default()).await.unwrap_err();
    assert!(format!("{error:?}").contains("compressed transaction"), "{error:?}");
    assert_eq!(log.at().offset, 4, "it is not left behind");
}
