"""Reads tables of lakes whole, with PyIceberg (through the catalog file) and DuckDB (through the
metadata file). Takes a request a line, {"lake": folder, "tables": {table: [column, ...]}}, and answers
each with a line: per table and reader the rows as lists of texts in the order of the columns asked for,
or {"error": ...}.
"""

import json
import os
import pathlib
import sys
import traceback

import pyarrow as pa
from pyiceberg.catalog.sql import SqlCatalog

from read_lake import duckdb_with_iceberg


def text(value):
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "1" if value else "0"
    if isinstance(value, bytes):
        return value.hex().upper()
    if isinstance(value, float):
        return repr(value)
    return f"{value:f}" if hasattr(value, "as_tuple") else str(value)


def plain(column: pa.ChunkedArray) -> list:
    """Python has no moment after the year 9999 in some zones: microseconds since 1970 instead."""
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz)).cast(pa.int64())
    return [text(value) for value in column.to_pylist()]


def rows(table: pa.Table, columns: list[str]) -> list:
    return list(zip(*(plain(table[name]) for name in columns)))


def read(duck, lake: pathlib.Path, wanted: dict[str, list[str]]) -> dict:
    catalog = SqlCatalog("medlake", uri=f"sqlite:///{lake / 'catalog.db'}", warehouse=f"file://{lake / 'warehouse'}")
    answer = {}
    for name, columns in wanted.items():
        table = catalog.load_table(name)
        location = table.metadata_location.removeprefix("file://")
        duckdb = duck.execute(f"select * from iceberg_scan('{location}')").to_arrow_table()
        answer[name] = {"pyiceberg": rows(table.scan().to_arrow(), columns), "duckdb": rows(duckdb, columns)}
    # What lies there may go from here on.
    catalog.engine.dispose()
    return answer


def main() -> None:
    # What libraries print does not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    duck = duckdb_with_iceberg()
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = read(duck, pathlib.Path(request["lake"]).resolve(), request["tables"])
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
