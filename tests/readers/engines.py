"""PyIceberg, DuckDB, ClickHouse and Spark in one process, so that Spark starts once. Reads a request a
line and answers each with a line, both JSON: the answer, or {"error": ...}.

{"do": "read", "folder": ..., "tables": [{"name", "location", "columns", "filters", "engines"}]}
    What each engine sees of tables of the lake in the folder: {table: {engine: {"count": rows,
    "matching": rows under each filter, "columns": ..., "rows": ...}}}, the last two as in digest.py;
    a string instead where the engine refuses the table.
{"do": "spark", "folder": ..., "statements": [...]}
    SQL statements that Spark runs, one after the other, with the lake's catalog as `medlake`.
{"do": "duckdb", "endpoint": ..., "statements": [...]}
    SQL statements that DuckDB runs, with the REST catalog there as `rest`.
"""

import json
import os
import pathlib
import sys
import tempfile
import traceback

import chdb
from pyiceberg.catalog.sql import SqlCatalog

from digest import digest
from read_lake import duckdb_with_iceberg


class PyIceberg:
    def __init__(self, folder):
        uri, warehouse = f"sqlite:///{folder}/catalog.db", f"file://{folder}/warehouse"
        self.catalog = SqlCatalog("medlake", uri=uri, warehouse=warehouse)

    def count(self, table, condition):
        table = self.catalog.load_table(table["name"])
        scan = table.scan(row_filter=condition) if condition else table.scan()
        return scan.count() if condition else scan.to_arrow().num_rows

    def rows(self, table):
        rows = self.catalog.load_table(table["name"]).scan().to_arrow()
        return [rows[c["name"]].to_pylist() for c in table["columns"]]


class Duckdb:
    def __init__(self, _folder):
        self.duck = duckdb_with_iceberg()

    def query(self, table, what, condition):
        where = f"where {condition}" if condition else ""
        location = table["location"].removeprefix("file:").removeprefix("//")
        return self.duck.execute(f"select {what} from iceberg_scan('{location}') {where}").to_arrow_table()

    def count(self, table, condition):
        return self.query(table, "count(*)", condition).column(0)[0].as_py()

    def rows(self, table):
        rows = self.query(table, "*", None)
        return [rows[c["name"]].to_pylist() for c in table["columns"]]


class Clickhouse:
    def __init__(self, _folder):
        self.session = chdb.session.Session()

    def query(self, table, what, condition):
        folder = table["location"].removeprefix("file://").rsplit("/metadata/", 1)[0]
        where = f"where {condition}" if condition else ""
        sql = f"select {what} from icebergLocal('{folder}/') {where}"
        settings = "settings session_timezone = 'UTC', output_format_arrow_string_as_string = 0"
        return self.session.query(f"{sql} {settings}", "ArrowTable")

    def count(self, table, condition):
        return self.query(table, "count(*)", condition).column(0)[0].as_py()

    def rows(self, table):
        rows = self.query(table, "*", None)
        return [rows[c["name"]].to_pylist() for c in table["columns"]]


class Spark:
    root = None

    def __init__(self, folder):
        if Spark.root is None:
            Spark.root = start_spark()
        # A session has catalogs of its own.
        self.session = Spark.root.newSession()
        for key, value in {
            "": "org.apache.iceberg.spark.SparkCatalog",
            ".catalog-impl": "org.apache.iceberg.jdbc.JdbcCatalog",
            ".uri": f"jdbc:sqlite:{folder}/catalog.db",
            ".warehouse": f"file://{folder}/warehouse",
            ".jdbc.schema-version": "V1",
            ".cache-enabled": "false",
        }.items():
            self.session.conf.set(f"spark.sql.catalog.medlake{key}", value)

    def query(self, table, what, condition):
        where = f"where {condition}" if condition else ""
        return self.session.sql(f"select {what} from medlake.{table['name']} {where}").collect()

    def count(self, table, condition):
        return self.query(table, "count(*)", condition)[0][0]

    def rows(self, table):
        rows = self.query(table, "*", None)
        return [[row[c["name"]] for row in rows] for c in table["columns"]]


def start_spark():
    os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    from pyspark.sql import SparkSession

    java = pathlib.Path(sys.prefix).parent / "java"
    jars = sorted(str(jar) for jar in java.glob("*.jar") if jar.name.startswith(("iceberg-spark", "sqlite")))
    scratch = tempfile.mkdtemp()
    builder = SparkSession.builder.master("local[2]")
    for key, value in {
        "spark.jars": ",".join(jars),
        "spark.driver.memory": "1g",
        "spark.driver.bindAddress": "127.0.0.1",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.extraJavaOptions": "-Duser.timezone=UTC -XX:+UseSerialGC -XX:TieredStopAtLevel=1",
        "spark.local.dir": scratch,
        "spark.sql.warehouse.dir": f"{scratch}/warehouse",
        "spark.ui.enabled": "false",
        # Tables here are small: planned and run in the plainest way.
        "spark.sql.shuffle.partitions": "1",
        "spark.sql.adaptive.enabled": "false",
        "spark.sql.codegen.wholeStage": "false",
        "spark.sql.codegen.factoryMode": "NO_CODEGEN",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.extensions": "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions",
    }.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


ENGINES = {"pyiceberg": PyIceberg, "duckdb": Duckdb, "clickhouse": Clickhouse, "spark": Spark}


def read(folder, tables):
    open_engines = {}
    answer = {}
    for table in tables:
        answer[table["name"]] = seen = {}
        for name in table["engines"]:
            if name not in open_engines:
                open_engines[name] = ENGINES[name](folder)
            engine = open_engines[name]
            try:
                seen[name] = {
                    "count": engine.count(table, None),
                    "matching": [engine.count(table, condition) for condition in table["filters"]],
                    **digest(table["columns"], engine.rows(table)),
                }
            except Exception as error:
                seen[name] = f"{type(error).__name__}: {error}"[:2000]
    return answer


def serve(request):
    if request["do"] == "read":
        return read(request["folder"], request["tables"])
    if request["do"] == "spark":
        session = Spark(request["folder"]).session
        for statement in request["statements"]:
            session.sql(statement).collect()
        return {}
    if request["do"] == "duckdb":
        duck = duckdb_with_iceberg()
        options = f"type iceberg, endpoint '{request['endpoint']}', authorization_type 'none'"
        for statement in [f"attach 'medlake' as rest ({options})", *request["statements"]]:
            duck.execute(statement)
        return {}
    raise ValueError(f"unknown request {request['do']}")


def main() -> None:
    os.environ["TZ"] = "UTC"
    # ClickHouse reads files below the working folder only.
    os.chdir("/")
    # What libraries print does not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        tempfile.tempdir = scratch
        for line in sys.stdin:
            try:
                answer = serve(json.loads(line))
            except Exception:
                answer = {"error": traceback.format_exc()}
            print(json.dumps(answer), file=answers, flush=True)
        if Spark.root is not None:
            Spark.root.stop()


if __name__ == "__main__":
    main()
