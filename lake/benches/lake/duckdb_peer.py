"""Answers queries over a lake with DuckDB, one JSON line each. The first line sets it up:
{"lake": folder, "threads": n, "parquet": {name: [files]}}; the others are {"sql": text} and are
answered with {"seconds": s, "rows": [[text]]}."""

import json
import sqlite3
import sys
import time

import duckdb
from read_lake import duckdb_with_iceberg


def main() -> None:
    setup = json.loads(sys.stdin.readline())
    duck = duckdb_with_iceberg()
    duck.execute(f"set threads = {setup['threads']}")
    duck.execute("create schema lake")
    catalog = sqlite3.connect(f"file:{setup['lake']}/catalog.db?mode=ro", uri=True)
    for table, location in catalog.execute("select table_name, metadata_location from iceberg_tables"):
        location = location.removeprefix("file://")
        duck.execute(f"create view lake.{table} as select * from iceberg_scan('{location}')")
    for name, files in setup["parquet"].items():
        duck.execute(f"create view {name} as select * from read_parquet({files!r})")
    print("{}", flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        try:
            rows = duck.execute(json.loads(line)["sql"]).fetchall()
            seconds = time.perf_counter() - start
            text = [["" if v is None else str(v) for v in row] for row in rows]
            answer = {"seconds": seconds, "rows": text}
        except duckdb.Error as error:
            answer = {"error": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
