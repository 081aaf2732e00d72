//! A Kafka broker on 127.0.0.1 in a folder of its own, which ends with the value.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, BaseRecord, Producer},
};
use tempfile::TempDir;

use super::ports::free_port;

/// How long the broker may take to answer for the first time.
const READY: Duration = Duration::from_secs(60);
const ANSWER: Duration = Duration::from_secs(20);
/// What the storage is formatted with: any identifier of 16 bytes in base64.
const CLUSTER: &str = "MkU3OEVBNTcwNTJENDM2Qg";

/// Who may read over the listener that asks for encryption and a password.
const USER: &str = "cdc";
const PASSWORD: &str = "geheim";

pub(crate) struct Broker {
    child: Child,
    folder: TempDir,
    pub(crate) address: String,
    /// The listener with encryption, for the user alone.
    secured: String,
}

/// The folder of the broker's jars.
fn jars() -> PathBuf {
    let home = concat!(env!("HOME"), "/.cache/medlake");
    let cache = PathBuf::from(option_env!("MEDLAKE_CACHE").unwrap_or(home));
    let jars = cache.join("kafka-3.9.1");
    assert!(jars.is_dir(), "no Kafka at {}: run `make parts`", jars.display());
    jars
}

/// A key and a certificate for 127.0.0.1 that vouches for itself: in one file for the broker, and the
/// certificate alone for who asks it.
fn certify(folder: &Path) {
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.args(["-keyout", "broker.key", "-out", "broker.crt"]).current_dir(folder);
    let made = openssl.stderr(Stdio::null()).status().expect("openssl is there: run `make parts`");
    assert!(made.success());
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let both = [read("broker.key"), read("broker.crt")].concat();
    std::fs::write(folder.join("broker.pem"), both).unwrap();
}

fn java(folder: &Path) -> Command {
    let log = std::fs::File::options().create(true).append(true).open(folder.join("kafka.log"));
    let log = log.unwrap();
    let mut command = Command::new("java");
    command
        .args(["-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
        .arg(jars().join("*"))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(log.try_clone().unwrap())
        .stderr(log);
    command
}

impl Broker {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (port, secured, controller) = (free_port(), free_port(), free_port());
        certify(folder.path());
        let data = folder.path().join("data");
        let properties = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secured},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SASL_SSL://127.0.0.1:{secured}\n\
             listener.security.protocol.map=PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,CONTROLLER:PLAINTEXT\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location={}\n\
             sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.sasl_ssl.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             controller.listener.names=CONTROLLER\n\
             inter.broker.listener.name=PLAINTEXT\n\
             log.dirs={}\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=1\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             transaction.state.log.num.partitions=1\n\
             group.initial.rebalance.delay.ms=0\n\
             broker.heartbeat.interval.ms=200\n\
             broker.session.timeout.ms=1000\n\
             auto.create.topics.enable=false\n",
            folder.path().join("broker.pem").display(),
            data.display()
        );
        std::fs::write(folder.path().join("server.properties"), properties).unwrap();
        let mut format = java(folder.path());
        format.args(["kafka.tools.StorageTool", "format", "-t", CLUSTER, "-c"]);
        format.args(["server.properties", "--add-scram"]);
        format.arg(format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]"));
        assert!(format.status().unwrap().success());
        let child = Self::spawn(folder.path());
        let (address, secured) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{secured}"));
        let mut broker = Self { child, folder, address, secured };
        broker.until_ready();
        broker
    }

    fn spawn(folder: &Path) -> Child {
        java(folder).args(["kafka.Kafka", "server.properties"]).spawn().unwrap()
    }

    fn until_ready(&mut self) {
        let end = Instant::now() + READY;
        let consumer: BaseConsumer = self.client().create().unwrap();
        while consumer.fetch_metadata(None, Duration::from_millis(500)).is_err() {
            let ended = self.child.try_wait().unwrap();
            if ended.is_some() || Instant::now() > end {
                let log = std::fs::read_to_string(self.folder.path().join("kafka.log"));
                panic!("the broker is not ready ({ended:?}):\n{}", log.unwrap_or_default());
            }
        }
    }

    /// Ends it as if the machine had lost its power, and starts it again.
    pub(crate) fn kill_and_restart(&mut self) {
        self.kill();
        self.restart();
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn restart(&mut self) {
        self.child = Self::spawn(self.folder.path());
        self.until_ready();
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.address);
        config
    }

    /// Where it asks for encryption and a password, and the client's settings that have them.
    pub(crate) fn secured(&self) -> (&str, [(&'static str, String); 5]) {
        let ca = self.folder.path().join("broker.crt").display().to_string();
        let settings = [
            ("security.protocol", "SASL_SSL".to_owned()),
            ("ssl.ca.location", ca),
            ("sasl.mechanism", "SCRAM-SHA-512".to_owned()),
            ("sasl.username", USER.to_owned()),
            ("sasl.password", PASSWORD.to_owned()),
        ];
        (&self.secured, settings)
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }

    pub(crate) async fn topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let made = self.admin().create_topics([&topic], &AdminOptions::new()).await.unwrap();
        made.into_iter().for_each(|topic| drop(topic.unwrap()));
    }

    pub(crate) async fn grow(&self, topic: &str, partitions: usize) {
        let more = NewPartitions::new(topic, partitions);
        let made = self.admin().create_partitions([&more], &AdminOptions::new()).await.unwrap();
        made.into_iter().for_each(|topic| drop(topic.unwrap()));
    }

    /// Deletes what is before an offset of partition 0.
    pub(crate) async fn delete_before(&self, topic: &str, offset: i64) {
        let mut offsets = rdkafka::TopicPartitionList::new();
        offsets.add_partition_offset(topic, 0, rdkafka::Offset::Offset(offset)).unwrap();
        self.admin().delete_records(&offsets, &AdminOptions::new()).await.unwrap();
    }

    /// The offset a group has committed of partition 0.
    pub(crate) fn committed(&self, group: &str, topic: &str) -> rdkafka::Offset {
        let consumer: BaseConsumer = self.client().set("group.id", group).create().unwrap();
        let mut offsets = rdkafka::TopicPartitionList::new();
        offsets.add_partition(topic, 0);
        let found = consumer.committed_offsets(offsets, ANSWER).unwrap();
        found.elements().first().unwrap().offset()
    }

    pub(crate) fn producer(&self) -> Writer {
        Writer(self.client().set("linger.ms", "1").create().unwrap())
    }

    /// A producer of transactions.
    pub(crate) fn transactional(&self, id: &str) -> Writer {
        let producer: BaseProducer = self.client().set("transactional.id", id).create().unwrap();
        producer.init_transactions(ANSWER).unwrap();
        Writer(producer)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) struct Writer(pub(crate) BaseProducer);

impl Writer {
    pub(crate) fn send(
        &self,
        topic: &str,
        partition: Option<i32>,
        key: Option<&str>,
        value: Option<&str>,
    ) {
        let mut record = BaseRecord::<str, str>::to(topic);
        record.partition = partition;
        record.key = key;
        record.payload = value;
        let mut record = Some(record);
        while let Some(next) = record.take() {
            if let Err((error, again)) = self.0.send(next) {
                assert_eq!(
                    error.rdkafka_error_code(),
                    Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                    "{error}"
                );
                self.0.poll(Duration::from_millis(10));
                record = Some(again);
            }
        }
    }

    pub(crate) fn flush(&self) {
        self.0.flush(ANSWER).unwrap();
    }

    pub(crate) fn transaction(&self, commit: bool, write: impl FnOnce(&Self)) {
        self.0.begin_transaction().unwrap();
        write(self);
        if commit {
            self.0.commit_transaction(ANSWER).unwrap();
        } else {
            self.flush();
            self.0.abort_transaction(ANSWER).unwrap();
        }
    }
}
